//! What the machine can do at best, measured: how fast its threads read memory, and how many multiply-adds they do. A kernel's speed
//! means something beside these.

use std::time::{Duration, Instant};

use crate::isa::Isa;
use crate::lanes::{FAR_BYTES, Kernel, LANES, Lanes, NEAR_BYTES};
use crate::memory::Block;
use crate::pool::Pool;

/// Far more than the caches hold, a server's shared ones too.
const READ_BYTES: usize = 1 << 30;
/// Accumulators: enough to hide the latency of the multiply-add on two ports, and they fit the registers of every tier.
const CHAINS: usize = 12;
const ROUNDS: usize = 1 << 16;

/// Bytes a second that the pool's threads read from memory together, in order, the best of several passes within `time`.
pub fn read_bandwidth(pool: &Pool, time: Duration) -> f64 {
    let mut block = Block::<f32>::zeroed(READ_BYTES / size_of::<f32>());
    // A page that was never written may be one page of zeros many times over.
    block.iter_mut().step_by(64).for_each(|x| *x = 1.0);
    let tasks = 8 * pool.threads();
    let part = block.len() / tasks / LANES / 8 * LANES * 8;
    best(time, (part * tasks * size_of::<f32>()) as f64, || {
        pool.run(tasks, |task| {
            let from = &block[task * part..(task + 1) * part];
            // SAFETY: the kernel holds a slice of whole vectors.
            std::hint::black_box(unsafe { Isa::active().run(Read { from }) });
        });
    })
}

/// Floating-point operations a second of the pool's threads together: multiply-adds count twice.
pub fn fma_peak(pool: &Pool, time: Duration) -> f64 {
    let threads = pool.threads();
    let operations = (threads * ROUNDS * CHAINS * LANES * 2) as f64;
    best(time, operations, || {
        pool.run(threads, |task| {
            // SAFETY: the kernel holds no pointers.
            std::hint::black_box(unsafe { Isa::active().run(MultiplyAdd { seed: task as f32 }) });
        });
    })
}

/// The best rate, in `amount` a second, of passes repeated for `time`.
fn best(time: Duration, amount: f64, pass: impl Fn()) -> f64 {
    let until = Instant::now() + time;
    let mut best = 0.0_f64;
    loop {
        let began = Instant::now();
        pass();
        best = best.max(amount / began.elapsed().as_secs_f64().max(1e-9));
        if Instant::now() >= until {
            return best;
        }
    }
}

struct Read<'a> {
    from: &'a [f32],
}

impl Kernel for Read<'_> {
    type Out = f32;

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) -> f32 {
        // SAFETY: the slice is a whole number of eight vectors.
        unsafe {
            let mut sums = [V::splat(0.0); 8];
            for eight in self.from.chunks_exact(8 * LANES) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    let at = eight.as_ptr().add(i * LANES);
                    V::prefetch_far(at.cast::<u8>().wrapping_add(FAR_BYTES));
                    V::prefetch(at.cast::<u8>().wrapping_add(NEAR_BYTES));
                    *sum = sum.add(V::load(at));
                }
            }
            sums.into_iter().map(|sum| sum.sum()).sum()
        }
    }
}

struct MultiplyAdd {
    seed: f32,
}

impl Kernel for MultiplyAdd {
    type Out = f32;

    #[inline(always)]
    unsafe fn run<V: Lanes>(self) -> f32 {
        // SAFETY: registers alone.
        unsafe {
            let (factor, addend) = (V::splat(0.999_99), V::splat(self.seed * 1e-6));
            let mut chains = [V::splat(1.0); CHAINS];
            for _ in 0..ROUNDS {
                for chain in &mut chains {
                    *chain = chain.fma(factor, addend);
                }
            }
            chains.into_iter().map(|chain| chain.sum()).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_reads_and_adds() {
        let pool = Pool::new(1);
        // Even a busy machine does a hundredth of what this project was built on.
        assert!(read_bandwidth(&pool, Duration::ZERO) > 1e8);
        assert!(fma_peak(&pool, Duration::ZERO) > 1e8);
    }
}
