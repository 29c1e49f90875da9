//! The instruction-set tiers, and which of them this process uses.
//!
//! The tier is a speed switch alone: every kernel gives the same bits on all of them, but for one. `amx`, the matrix tiles
//! of recent Xeons, adds in an order that no other instruction set follows at a bearable price, so linear layers with
//! bf16 weights have bits of their own there. It is never chosen unasked. `TILTMETER_ISA` (`portable`, `avx2`, `avx512`,
//! `neon`, `amx`) overrides the choice; it is read once.

use std::sync::OnceLock;

/// An instruction-set tier the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust with `f32::mul_add`: any CPU, slow where the fused multiply-add is a library call.
    Portable,
    /// 256-bit registers with AVX2 and FMA.
    Avx2,
    /// 512-bit registers with AVX-512F.
    Avx512,
    /// 128-bit registers of 64-bit Arm.
    Neon,
    /// Matrix tiles with AMX-BF16 for bf16 weights, [`Isa::Avx512`] for everything else: bits of its own.
    Amx,
}

impl Isa {
    /// Every tier, slowest first.
    pub const ALL: [Isa; 5] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The name `TILTMETER_ISA` knows the tier by.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
            Isa::Amx => "amx",
        }
    }

    /// The tiers this CPU can run, slowest first; never empty.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_here()).collect()
    }

    /// The tiers of this CPU that give the same bits as each other and as those of every other CPU.
    pub fn alike() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| *isa != Isa::Amx && isa.is_here()).collect()
    }

    /// Whether sixteen lanes are one register, with 32 of them.
    pub(crate) fn is_wide(self) -> bool {
        matches!(self, Isa::Avx512 | Isa::Amx)
    }

    pub(crate) fn is_here(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512f") && Isa::Avx2.is_here(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Isa::Amx => Isa::Avx512.is_here() && tiles_permitted(),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The requested tier; without a request the fastest one here that shares its bits with the other tiers.
    ///
    /// # Errors
    /// A sentence for the user when the name is unknown or this CPU lacks the tier.
    pub fn choose(wish: Option<&str>) -> Result<Isa, String> {
        let available = Isa::available();
        let names = || {
            let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
            names.join(", ")
        };
        let Some(wish) = wish.filter(|wish| !wish.is_empty()) else {
            return Ok(*Isa::alike().last().expect("the portable tier is always here"));
        };
        match Isa::ALL.into_iter().find(|isa| isa.name() == wish) {
            Some(isa) if isa.is_here() => Ok(isa),
            Some(_) => Err(format!("TILTMETER_ISA={wish}: this CPU lacks it; here are {}", names())),
            None => Err(format!("TILTMETER_ISA={wish}: no such tier; here are {}", names())),
        }
    }

    /// The tier of this process: `TILTMETER_ISA` if set, else the choice of [`Isa::choose`].
    ///
    /// # Errors
    /// A sentence for the user when `TILTMETER_ISA` names a tier that is unknown or that this CPU lacks.
    pub fn wished() -> Result<Isa, String> {
        static WISHED: OnceLock<Result<Isa, String>> = OnceLock::new();
        WISHED.get_or_init(|| Isa::choose(std::env::var("TILTMETER_ISA").ok().as_deref())).clone()
    }

    /// [`Isa::wished`], for kernels.
    ///
    /// # Panics
    /// Where that is an error.
    pub fn active() -> Isa {
        static ACTIVE: OnceLock<Isa> = OnceLock::new();
        *ACTIVE.get_or_init(|| Isa::wished().unwrap_or_else(|problem| panic!("{problem}")))
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
/// Whether this CPU has the tiles and the system lets this process use them; asks the system once.
fn tiles_permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        const ARCH_PRCTL: i64 = 158;
        const REQUEST_PERMISSION: i64 = 0x1023;
        const TILE_DATA: i64 = 18;
        const AMX_BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
        unsafe extern "C" {
            fn syscall(number: i64, ...) -> i64;
        }
        // The lint: on older toolchains the query is an unsafe function.
        #[allow(unused_unsafe)]
        // SAFETY: every x86-64 CPU answers the query; leaf 0 tells whether there is a leaf 7.
        let features = unsafe {
            if std::arch::x86_64::__cpuid_count(0, 0).eax < 7 { 0 } else { std::arch::x86_64::__cpuid_count(7, 0).edx }
        };
        // SAFETY: the call touches no memory of ours; without the permission a tile instruction would end the process.
        features & AMX_BF16_AND_TILE == AMX_BF16_AND_TILE
            && unsafe { syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) } == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_granted_or_refused_with_the_way_out() {
        assert_eq!(Isa::choose(Some("portable")), Ok(Isa::Portable));
        assert_eq!(Isa::choose(None), Isa::choose(Some("")));
        assert_ne!(Isa::choose(None), Ok(Isa::Amx));
        let problem = Isa::choose(Some("mmx")).unwrap_err();
        assert!(problem.contains("mmx") && problem.contains("portable"));
    }
}
