// The primitives of common.cuh on a GPU of compute capability 9.0: one instruction or intrinsic each, as the PTX ISA describes them.
//
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define DEVICE static __device__ __forceinline__
#define KERNEL(name, threads, Parameters)                                                                                          \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Parameters p)
#define KERNEL_RESIDENT(name, threads, blocks, Parameters)                                                                         \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Parameters p)
#define SHARED(type, name, count) __shared__ type name[count]

extern __shared__ __align__(128) char dynamic_shared_memory[];
DEVICE char* shared_memory() { return dynamic_shared_memory; }

// Not .nc: that promises that the memory is not written during this kernel, and a kernel that started early runs while the one before it
// still writes.
DEVICE uint4 load16(const void* p) { return *static_cast<const uint4*>(p); }
DEVICE uint2 load8(const void* p) { return *static_cast<const uint2*>(p); }
DEVICE uint32_t load4(const void* p) { return *static_cast<const uint32_t*>(p); }
DEVICE uint4 load16_once(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}
DEVICE void store16(void* p, uint4 v) { *static_cast<uint4*>(p) = v; }
DEVICE void store8(void* p, uint2 v) { *static_cast<uint2*>(p) = v; }
DEVICE void store4(void* p, uint32_t v) { *static_cast<uint32_t*>(p) = v; }

DEVICE uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

DEVICE void copy16_async(void* shared, const void* global, bool full = true) {
    const int bytes = full ? 16 : 0; // fewer source bytes than 16 are filled up with zeros
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

DEVICE void barrier() { __syncthreads(); }
DEVICE void barrier_of(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEVICE void warp_barrier() { __syncwarp(); }

template <typename T> DEVICE T shuffle(T x, int from) { return __shfl_sync(0xffffffffu, x, from); }
template <typename T> DEVICE T shuffle_xor(T x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
template <typename T> DEVICE T shuffle_up(T x, int by) { return __shfl_up_sync(0xffffffffu, x, by); }
template <typename T> DEVICE T shuffle_down(T x, int by) { return __shfl_down_sync(0xffffffffu, x, by); }
DEVICE uint32_t warp_ballot(bool set) { return __ballot_sync(0xffffffffu, set); }

DEVICE void ldmatrix_x4(uint32_t r[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x4_trans(uint32_t r[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x2(uint32_t r[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x2_trans(uint32_t r[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

template <typename T> DEVICE void mma_16x8x16(float d[4], const uint32_t a[4], const uint32_t b[2]);
template <> __device__ __forceinline__ void mma_16x8x16<bf16>(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> __device__ __forceinline__ void mma_16x8x16<f16>(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE float bits_float(uint32_t bits) { return __uint_as_float(bits); }
DEVICE uint32_t float_bits(float x) { return __float_as_uint(x); }
DEVICE double bits_double(uint64_t bits) { return __longlong_as_double(static_cast<long long>(bits)); }
DEVICE float to_float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
DEVICE float to_float(f16 x) { return __half2float(__ushort_as_half(x.bits)); }
template <typename T> DEVICE T from_float(float x);
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(x))}; }
template <> __device__ __forceinline__ f16 from_float<f16>(float x) { return f16{__half_as_ushort(__float2half_rn(x))}; }

template <typename T> DEVICE uint32_t pack2(float low, float high);
template <> __device__ __forceinline__ uint32_t pack2<bf16>(float low, float high) {
    uint32_t word; // the first source goes into the upper half
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}
template <> __device__ __forceinline__ uint32_t pack2<f16>(float low, float high) {
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE uint64_t multiply_high(uint64_t a, uint64_t b) { return __umul64hi(a, b); }

DEVICE uint32_t atomic_add(uint32_t* p, uint32_t x) { return atomicAdd(p, x); }
DEVICE uint64_t atomic_add(uint64_t* p, uint64_t x) {
    return atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(x));
}
DEVICE uint32_t atomic_max(uint32_t* p, uint32_t x) { return atomicMax(p, x); }
