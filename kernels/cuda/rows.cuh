// Shared by the kernels that give each block one row: four numbers at a time, sums over the block in one fixed order.
//
// A block's size follows from the width of its rows alone (kernels/src/gpu/rows.rs, `threads_for`), so the order of a row's sums does too:
// each thread adds its elements (four neighbours, then those one block's width of fours further), 32 lanes meet in a butterfly, and
// the warps' sums are added in their order.
//
#pragma once

#include "common.cuh"
#include "order.cuh"

constexpr uint32_t ABSENT = 0xffffffffu; // marks a missing row, page or token

DEVICE float4 load_floats(const float* p) {
    const uint4 w = load16(p);
    return make_float4(bits_float(w.x), bits_float(w.y), bits_float(w.z), bits_float(w.w));
}
DEVICE void store_floats(float* p, float4 v) {
    store16(p, make_uint4(float_bits(v.x), float_bits(v.y), float_bits(v.z), float_bits(v.w)));
}
template <typename T> DEVICE float4 widened(uint2 w) {
    const float2 a = unpack2<T>(w.x), b = unpack2<T>(w.y);
    return make_float4(a.x, a.y, b.x, b.y);
}
template <typename T> DEVICE float4 load_narrow(const T* p) { return widened<T>(load8(p)); }
template <typename T> DEVICE void store_narrow(T* p, float4 v) { store8(p, make_uint2(pack2<T>(v.x, v.y), pack2<T>(v.z, v.w))); }

DEVICE float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
DEVICE float4 times(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }
DEVICE float4 times(float4 a, float b) { return make_float4(a.x * b, a.y * b, a.z * b, a.w * b); }
// a b + c, rounded once.
DEVICE float4 fused(float4 a, float4 b, float4 c) {
    return make_float4(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y), fmaf(a.z, b.z, c.z), fmaf(a.w, b.w, c.w));
}
// sum + a . b, in the order of the elements.
DEVICE float dot4(float sum, float4 a, float4 b) { return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum)))); }
template <typename T> DEVICE float4 rounded(float4 v) {
    return make_float4(to_float(from_float<T>(v.x)), to_float(from_float<T>(v.y)), to_float(from_float<T>(v.z)),
        to_float(from_float<T>(v.w)));
}

// N sums over the block at once; every thread gets them. `room` has 32 N floats and is free again at the next barrier.
template <int N> DEVICE void block_sums(float (&sums)[N], float* room) {
#pragma unroll
    for (int i = 0; i < N; i++) sums[i] = warp_sum(sums[i]);
    const uint32_t warps = blockDim.x / 32;
    if (warps == 1) return;
    if (lane() == 0) {
#pragma unroll
        for (int i = 0; i < N; i++) room[i * 32 + warp()] = sums[i];
    }
    barrier();
#pragma unroll
    for (int i = 0; i < N; i++) {
        float sum = room[i * 32];
        for (uint32_t w = 1; w < warps; w++) sum += room[i * 32 + w];
        sums[i] = sum;
    }
}

// 1 / sqrt(mean of squares + eps), from a block's sum of squares.
DEVICE float inverse_root(float squares, uint32_t width, float eps) { return 1.0f / sqrtf(squares / float(width) + eps); }

// The ordered sum of one place in all splits: ((p0 + p1) + p2) + ...; `split_stride` elements lie between them.
DEVICE float4 sum_splits(const float* p, uint32_t splits, size_t split_stride) {
    float4 sum = load_floats(p);
    for (uint32_t s = 1; s < splits; s += 4) {
        float4 x[4]; // all on their way before the first is added
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            if (s + j < splits) x[j] = load_floats(p + (s + j) * split_stride);
        }
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            if (s + j < splits) sum = plus(sum, x[j]);
        }
    }
    return sum;
}
