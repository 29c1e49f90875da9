// A question that only a GPU of compute capability 9.0 can answer: does a chain of wgmma.m64n8k16 have the bits of the same chain of
// mma.sync.m16n8k16? If so, prefill may take wgmma (kernels/cuda/linear.cu says why it does not now) and keep the bits of decoding.
//
// Both get the same fragments: A in registers, whose layout is the same for a warp of a warpgroup, and B from shared memory (no
// swizzle, core matrices of 8 rows x 16 bytes). Numbers are normal, then spread over 2^-12 .. 2^12, then such that most of a sum
// cancels, which shows how many bits a step keeps. A plain f64 sum says whether the values are right at all.
//
//     nvcc -std=c++17 -gencode=arch=compute_90a,code=sm_90a -o /tmp/wgmma tests/gpu/wgmma.cu && /tmp/wgmma
//
// Must not know: models, engine.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include <cuda_bf16.h>

constexpr int ROWS = 64, COLUMNS = 8;

#define CHECK(call)                                                                                                                \
    do {                                                                                                                           \
        const cudaError_t error = (call);                                                                                          \
        if (error != cudaSuccess) {                                                                                                \
            std::printf("%s: %s\n", #call, cudaGetErrorString(error));                                                            \
            return 2;                                                                                                              \
        }                                                                                                                          \
    } while (0)

// One warpgroup. a [64][k], b [8][k] row-major; both results [64][8].
__global__ void __launch_bounds__(128) chains(const uint16_t* a, const uint16_t* b, int k, float* by_mma, float* by_wgmma) {
    __shared__ __align__(128) uint16_t tile[2][COLUMNS][8]; // core matrices beside each other in the direction of k
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, row = threadIdx.x / 32 * 16 + g;
    float m[4] = {0, 0, 0, 0}, w[4] = {0, 0, 0, 0};
    const uint64_t address = uint64_t(__cvta_generic_to_shared(tile));
    // Start, offset between core matrices along k (128 bytes) and along the columns (there is one), each in units of 16 bytes.
    const uint64_t descriptor = (address >> 4 & 0x3fff) | uint64_t(128 >> 4) << 16 | uint64_t(256 >> 4) << 32;
    for (int first = 0; first < k; first += 16) {
        __syncthreads();
        const int column = threadIdx.x / 16, i = threadIdx.x % 16;
        tile[i / 8][column][i % 8] = b[column * k + first + i];
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        uint32_t fragment[4], inputs[2];
        for (int part = 0; part < 4; part++) std::memcpy(&fragment[part], &a[(row + part % 2 * 8) * k + first + t * 2 + part / 2 * 8], 4);
        for (int part = 0; part < 2; part++) std::memcpy(&inputs[part], &b[g * k + first + t * 2 + part * 8], 4);
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(m[0]), "+f"(m[1]), "+f"(m[2]), "+f"(m[3])
                     : "r"(fragment[0]), "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3]), "r"(inputs[0]), "r"(inputs[1]));
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, 1, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, add, 1, 1, 0;\n}"
                     : "+f"(w[0]), "+f"(w[1]), "+f"(w[2]), "+f"(w[3])
                     : "r"(fragment[0]), "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3]), "l"(descriptor)
                     : "memory");
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    for (int c = 0; c < 4; c++) {
        by_mma[(row + c / 2 * 8) * COLUMNS + t * 2 + c % 2] = m[c];
        by_wgmma[(row + c / 2 * 8) * COLUMNS + t * 2 + c % 2] = w[c];
    }
}

static uint16_t narrow(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static double wide(uint16_t bits) {
    const uint32_t word = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &word, 4);
    return x;
}

int main() {
    std::mt19937 source(7);
    std::normal_distribution<float> normal;
    std::uniform_int_distribution<int> exponent(-12, 12);
    const char* kinds[] = {"normal", "spread", "cancelling"};
    bool same = true;
    for (int kind = 0; kind < 3; kind++) {
        for (int k : {16, 64, 1024, 11008}) {
            std::vector<uint16_t> a(ROWS * k), b(COLUMNS * k);
            for (auto* all : {&a, &b})
                for (size_t i = 0; i < all->size(); i++) {
                    const float x = kind == 1 ? std::ldexp(normal(source), exponent(source)) : normal(source);
                    (*all)[i] = narrow(x);
                }
            // Each odd input all but undoes the even one before it.
            for (int i = 0; kind == 2 && i < COLUMNS * k; i += 2) b[i + 1] = b[i];
            for (int i = 0; kind == 2 && i < ROWS * k; i += 2) a[i + 1] = (a[i] ^ 0x8000) + (source() % 2);
            uint16_t *on_a, *on_b;
            float* out;
            CHECK(cudaMalloc(&on_a, a.size() * 2));
            CHECK(cudaMalloc(&on_b, b.size() * 2));
            CHECK(cudaMalloc(&out, 2 * ROWS * COLUMNS * 4));
            CHECK(cudaMemcpy(on_a, a.data(), a.size() * 2, cudaMemcpyHostToDevice));
            CHECK(cudaMemcpy(on_b, b.data(), b.size() * 2, cudaMemcpyHostToDevice));
            chains<<<1, 128>>>(on_a, on_b, k, out, out + ROWS * COLUMNS);
            CHECK(cudaGetLastError());
            std::vector<float> got(2 * ROWS * COLUMNS);
            CHECK(cudaMemcpy(got.data(), out, got.size() * 4, cudaMemcpyDeviceToHost));
            cudaFree(on_a), cudaFree(on_b), cudaFree(out);
            int differ = 0;
            double worst_mma = 0, worst_wgmma = 0;
            for (int i = 0; i < ROWS * COLUMNS; i++) {
                double exact = 0, size = 0;
                for (int j = 0; j < k; j++) {
                    const double product = wide(a[i / COLUMNS * k + j]) * wide(b[i % COLUMNS * k + j]);
                    exact += product, size += std::fabs(product);
                }
                differ += std::memcmp(&got[i], &got[ROWS * COLUMNS + i], 4) != 0;
                worst_mma = std::fmax(worst_mma, std::fabs(got[i] - exact) / size);
                worst_wgmma = std::fmax(worst_wgmma, std::fabs(got[ROWS * COLUMNS + i] - exact) / size);
            }
            std::printf("%-10s k=%-6d %3d of %d elements differ; off by %.1e (mma) and %.1e (wgmma) of the sum of sizes\n", kinds[kind], k,
                differ, ROWS * COLUMNS, worst_mma, worst_wgmma);
            if (!(worst_mma < 1e-4 && worst_wgmma < 1e-4)) {
                std::printf("wrong values: the question was not asked rightly\n");
                return 2;
            }
            same = same && differ == 0;
        }
    }
    std::printf(same ? "wgmma has the bits of mma.sync\n" : "wgmma has other bits than mma.sync\n");
    return same ? 0 : 1;
}
