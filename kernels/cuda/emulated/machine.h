// The primitives of common.cuh on the emulated device: lane-exact matrix fragments as the PTX ISA documents them (section "Matrix
// fragments for mma.m16n8k16"), asynchronous copies that arrive when they are waited for and not before, shared memory that holds
// NaN until it is written, addresses and alignments that are checked.
//
#pragma once

#include <cmath>
#include <cstring>

#define DEVICE static inline
#define KERNEL(name, threads, Parameters)                                                                                          \
    static void name##_body(const Parameters& p);                                                                                  \
    static void name##_call(const void* block) { name##_body(*static_cast<const Parameters*>(block)); }                           \
    static const emulated::Registered name##_registered(#name, threads, sizeof(Parameters), name##_call);                          \
    static void name##_body(const Parameters& p)
#define KERNEL_RESIDENT(name, threads, blocks, Parameters) KERNEL(name, threads, Parameters)
#define SHARED(type, name, count)                                                                                                  \
    static const size_t name##_slot = emulated::shared_slot(sizeof(type) * (count));                                               \
    type* const name = reinterpret_cast<type*>(emulated::shared_array(name##_slot))

struct uint2 {
    alignas(8) uint32_t x;
    uint32_t y;
};
struct uint4 {
    alignas(16) uint32_t x;
    uint32_t y, z, w;
};
struct float2 {
    alignas(8) float x;
    float y;
};
struct float4 {
    alignas(16) float x;
    float y, z, w;
};
static inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulated {

struct Index {
    uint32_t x, y, z;
};

// What a running thread sees of its place; set before each of its turns.
struct Place {
    Index thread, block, block_size, grid;
};
extern __attribute__((tls_model("initial-exec"))) thread_local Place* place;

struct Registered {
    Registered(const char* name, uint32_t threads, size_t parameter_bytes, void (*call)(const void*));
};

size_t shared_slot(size_t bytes);
char* shared_array(size_t slot);
char* dynamic_shared();

// Ends the launch with this text.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));
// `p` must be aligned to `bytes`, which shared memory must hold from there on.
void check_shared(const void* p, size_t bytes, const char* what);
static inline void check_aligned(const void* p, size_t bytes, const char* what) {
    if (reinterpret_cast<uintptr_t>(p) % bytes != 0) fault("%s at %p, which is not a multiple of %zu", what, p, bytes);
}

// The calling thread waits until `threads` of its block have come to barrier `id`.
void wait_barrier(int id, uint32_t threads);
// All 32 lanes of the warp bring their data; the last to come calls `combine` on the data of all.
void collective(const char* what, void* data, void (*combine)(void* const* lanes));

void copy_async(void* shared, const void* global, bool full);
void commit_copies();
void wait_copies(int but_latest);

float from_bf16(uint16_t bits);
uint16_t into_bf16(float x);
float from_f16(uint16_t bits);
uint16_t into_f16(float x);

struct Shuffle {
    uint64_t given, taken;
    int from; // out of 0..31: one's own
};
uint64_t exchange(uint64_t given, int from);
uint32_t vote(bool set);
void load_matrices(const char* what, uint32_t* r, const void* row, int count, bool transposed);
void multiply_accumulate(float d[4], const uint32_t a[4], const uint32_t b[2], float (*value)(uint16_t));

template <typename T> T exchanged(T x, int from) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle takes 4 or 8 bytes");
    uint64_t word = 0;
    std::memcpy(&word, &x, sizeof x);
    word = exchange(word, from);
    std::memcpy(&x, &word, sizeof x);
    return x;
}

} // namespace emulated

#define threadIdx (emulated::place->thread)
#define blockIdx (emulated::place->block)
#define blockDim (emulated::place->block_size)
#define gridDim (emulated::place->grid)

DEVICE char* shared_memory() { return emulated::dynamic_shared(); }

DEVICE uint4 load16(const void* p) {
    emulated::check_aligned(p, 16, "16 bytes are read");
    return *static_cast<const uint4*>(p);
}
DEVICE uint2 load8(const void* p) {
    emulated::check_aligned(p, 8, "8 bytes are read");
    return *static_cast<const uint2*>(p);
}
DEVICE uint32_t load4(const void* p) {
    emulated::check_aligned(p, 4, "4 bytes are read");
    return *static_cast<const uint32_t*>(p);
}
DEVICE uint4 load16_once(const void* p) { return load16(p); }
DEVICE void store16(void* p, uint4 v) {
    emulated::check_aligned(p, 16, "16 bytes are written");
    *static_cast<uint4*>(p) = v;
}
DEVICE void store8(void* p, uint2 v) {
    emulated::check_aligned(p, 8, "8 bytes are written");
    *static_cast<uint2*>(p) = v;
}
DEVICE void store4(void* p, uint32_t v) {
    emulated::check_aligned(p, 4, "4 bytes are written");
    *static_cast<uint32_t*>(p) = v;
}

DEVICE void copy16_async(void* shared, const void* global, bool full = true) { emulated::copy_async(shared, global, full); }
DEVICE void copy_commit() { emulated::commit_copies(); }
template <int N> DEVICE void copy_wait() { emulated::wait_copies(N); }

DEVICE void barrier() { emulated::wait_barrier(0, blockDim.x); }
DEVICE void barrier_of(int id, int threads) { emulated::wait_barrier(id, uint32_t(threads)); }
DEVICE void warp_barrier() { emulated::vote(true); }

template <typename T> DEVICE T shuffle(T x, int from) { return emulated::exchanged(x, from & 31); }
template <typename T> DEVICE T shuffle_xor(T x, int mask) { return emulated::exchanged(x, int(threadIdx.x & 31u) ^ mask); }
template <typename T> DEVICE T shuffle_up(T x, int by) { return emulated::exchanged(x, int(threadIdx.x & 31u) - by); }
template <typename T> DEVICE T shuffle_down(T x, int by) { return emulated::exchanged(x, int(threadIdx.x & 31u) + by); }
DEVICE uint32_t warp_ballot(bool set) { return emulated::vote(set); }

DEVICE void ldmatrix_x4(uint32_t r[4], const void* row) { emulated::load_matrices("ldmatrix_x4", r, row, 4, false); }
DEVICE void ldmatrix_x4_trans(uint32_t r[4], const void* row) { emulated::load_matrices("ldmatrix_x4_trans", r, row, 4, true); }
DEVICE void ldmatrix_x2(uint32_t r[2], const void* row) { emulated::load_matrices("ldmatrix_x2", r, row, 2, false); }
DEVICE void ldmatrix_x2_trans(uint32_t r[2], const void* row) { emulated::load_matrices("ldmatrix_x2_trans", r, row, 2, true); }

template <typename T> void mma_16x8x16(float d[4], const uint32_t a[4], const uint32_t b[2]);
template <> inline void mma_16x8x16<bf16>(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    emulated::multiply_accumulate(d, a, b, emulated::from_bf16);
}
template <> inline void mma_16x8x16<f16>(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    emulated::multiply_accumulate(d, a, b, emulated::from_f16);
}

DEVICE float bits_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
DEVICE uint32_t float_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof x);
    return bits;
}
DEVICE double bits_double(uint64_t bits) {
    double x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
DEVICE float to_float(bf16 x) { return bits_float(uint32_t(x.bits) << 16); }
DEVICE float to_float(f16 x) { return emulated::from_f16(x.bits); }
template <typename T> T from_float(float x);
template <> inline bf16 from_float<bf16>(float x) { return bf16{emulated::into_bf16(x)}; }
template <> inline f16 from_float<f16>(float x) { return f16{emulated::into_f16(x)}; }
template <typename T> DEVICE uint32_t pack2(float low, float high) {
    return uint32_t(from_float<T>(low).bits) | uint32_t(from_float<T>(high).bits) << 16;
}

DEVICE float exp2_approx(float x) { return std::exp2(x); }
DEVICE uint64_t multiply_high(uint64_t a, uint64_t b) { return uint64_t(static_cast<unsigned __int128>(a) * b >> 64); }

template <typename T> DEVICE T atomic_add(T* p, T x) {
    const T before = *p;
    *p = before + x;
    return before;
}
DEVICE uint32_t atomic_max(uint32_t* p, uint32_t x) {
    const uint32_t before = *p;
    *p = before > x ? before : x;
    return before;
}
