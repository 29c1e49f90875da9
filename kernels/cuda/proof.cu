// Test kernels that check the primitives of common.cuh against their definition on every device: fragments, matrices from shared
// memory, asynchronous copies, shuffles and rounding. Both machines must give what the plain product gives.
//

#include "common.cuh"
#include "order.cuh"

struct ProofParameters {
    const void* a;      // T [16][16]
    const void* b;      // T [8][16]
    const void* b_turned; // T [16][8]: b with rows and columns exchanged
    float* product;     // [16][8]: a b^T + 1
    float* turned;      // [16][8]: the same through b_turned
    uint32_t* lanes;    // [5][32]: what shuffles and a ballot bring
    void* rounded;      // T [256]: product and turned, rounded one by one; then again in pairs
};

// One warp. Rows of 16 numbers are two pieces of 16 bytes.
template <typename T> DEVICE void proof(const ProofParameters& p) {
    SHARED(uint4, a, 32);
    SHARED(uint4, b, 16);
    SHARED(uint4, b_turned, 16);
    wait_for_previous();
    const uint32_t l = lane();
    copy16_async(&a[l], static_cast<const uint4*>(p.a) + l);
    copy_commit();
    if (l < 16) {
        copy16_async(&b[l], static_cast<const uint4*>(p.b) + l);
        copy16_async(&b_turned[l], static_cast<const uint4*>(p.b_turned) + l);
    }
    copy_commit();
    copy_wait<0>();
    barrier();

    uint32_t fa[4], fb[2], fc[2];
    // Matrices of a: rows 0-7 and 8-15 of columns 0-7, then of columns 8-15.
    ldmatrix_x4(fa, &a[(l % 16) * 2 + l / 16]);
    // Of b: columns 0-7, then 8-15, of its 8 rows.
    ldmatrix_x2(fb, &b[l % 8 * 2 + l / 8 % 2]);
    // Of b_turned: rows 0-7, then 8-15, each turned.
    ldmatrix_x2_trans(fc, &b_turned[l % 16]);
    float d[4] = {1, 1, 1, 1}, e[4] = {1, 1, 1, 1};
    mma_16x8x16<T>(d, fa, fb);
    mma_16x8x16<T>(e, fa, fc);
    T* rounded = static_cast<T*>(p.rounded);
    for (uint32_t j = 0; j < 4; j++) {
        const uint32_t at = (l / 4 + j / 2 * 8) * 8 + l % 4 * 2 + j % 2;
        p.product[at] = d[j];
        p.turned[at] = e[j];
        rounded[at] = from_float<T>(d[j]);
    }
    for (uint32_t j = 0; j < 2; j++) {
        const uint32_t at = (l / 4 + j * 8) * 8 + l % 4 * 2;
        store4(rounded + 128 + at, pack2<T>(d[j * 2], d[j * 2 + 1]));
    }

    p.lanes[l] = shuffle(l * 3, int(l / 2));
    p.lanes[32 + l] = shuffle_xor(l, 5);
    p.lanes[64 + l] = shuffle_up(l, 3);
    p.lanes[96 + l] = shuffle_down(l, 2);
    p.lanes[128 + l] = warp_ballot(l % 3 == 0) + warp_sum(l);
}

KERNEL(proof_bf16, 32, ProofParameters) { proof<bf16>(p); }
KERNEL(proof_f16, 32, ProofParameters) { proof<f16>(p); }
