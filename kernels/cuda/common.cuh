// The primitives that every kernel uses. The same .cu files are compiled by nvcc for a GPU and, with -DEMULATED, by an
// ordinary C++ compiler for the emulated device of emulated/, on which `cargo test` runs them: a block's threads are fibers of one
// OS thread, barriers and warp collectives are scheduling points that check the participating lanes. So a kernel uses nothing of CUDA that does
// not stand here.
//
// A kernel takes one block of parameters, a plain struct whose fields leave no gaps (pointers first, then 4-byte numbers, an even
// number of them); kernels/src/gpu declares the same struct with `parameters!`. Pointers are device addresses (u64 in Rust).
//
//     struct AddParameters { const float* x; float* out; uint32_t count; uint32_t unused; };
//     template <typename T> DEVICE void add(const AddParameters& p) { ... threadIdx.x, blockIdx.x/y/z, blockDim.x, gridDim.x ... }
//     KERNEL(add_bf16, 256, AddParameters) { add<bf16>(p); }      // 256: the most threads a block has; the block is p
//     KERNEL_RESIDENT(add_f16, 256, 2, AddParameters) { ... }     // the same, and 2 blocks must fit a multiprocessor
//
// Blocks have one dimension and whole warps. Warp collectives take all 32 lanes. No block may wait for another one. Every kernel says
// wait_for_previous() (order.cuh) before it touches what an earlier launch may have written or read.
//
// memory     SHARED(type, name, count)        a static shared array
//            shared_memory()                  the dynamic one, a char* aligned to 128
//            load16 / load8 / load4 (p)       const global -> uint4 / uint2 / uint32_t; aligned
//            load16_once(p)                   the same, not kept in L1 (.nc): of what no launch writes, as weights
//            store16 / store8 / store4 (p, v)
//            copy16_async(shared, global)     cp.async of 16 bytes; with a third argument false: 16 zero bytes, nothing is read
//            copy_commit(), copy_wait<N>()    all but the latest N groups of this thread have arrived; then barrier()
// order      barrier(), barrier_of(id, threads) (id 1..15), warp_barrier()
// warps      lane(), warp(); shuffle(x, lane), shuffle_xor(x, mask), shuffle_up(x, n), shuffle_down(x, n); warp_ballot(bool)
//            warp_sum(x), warp_max(x): butterflies over 16, 8, 4, 2, 1; each lane gets the result
// matrices   ldmatrix_x4(r, row), ldmatrix_x4_trans(r, row), ldmatrix_x2(r, row), ldmatrix_x2_trans(r, row): uint32_t r[4] or [2];
//            `row` is this lane's 16-byte row in shared memory
//            mma_16x8x16<bf16 or f16>(float d[4], const uint32_t a[4], const uint32_t b[2]): d += a b; fragments as PTX has them
// numbers    bf16, f16: 2-byte storage; to_float(x), from_float<T>(x) rounds to nearest even
//            pack2<T>(low, high) -> uint32_t, unpack2<T>(word) -> float2
//            exp2_approx(x): ex2.approx, 2 ulp; float_bits, bits_float; multiply_high(u64, u64)
// atomics    atomic_add(uint32_t* or uint64_t*, x), atomic_max(uint32_t*, x): whole numbers only, their order does not show
//
// Products and sums are not contracted (-fmad=false, -ffp-contract=off): write fmaf where one is meant. So both machines give the
// same bits, but for exp2_approx and for the inside of mma (a tensor core's own rounding).
//
#pragma once

#include <cstddef>
#include <cstdint>

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

#ifdef EMULATED
#include "emulated/machine.h"
#else
#include "device.cuh"
#endif

DEVICE uint32_t lane() { return threadIdx.x & 31u; }
DEVICE uint32_t warp() { return threadIdx.x >> 5; }

// Both halves of a word; the low half is the element with the lower address.
template <typename T> DEVICE float2 unpack2(uint32_t word) {
    T low, high;
    low.bits = uint16_t(word);
    high.bits = uint16_t(word >> 16);
    return make_float2(to_float(low), to_float(high));
}

template <typename T> DEVICE T warp_sum(T x) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}

DEVICE float warp_max(float x) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
    return x;
}
