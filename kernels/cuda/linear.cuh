// The linear layer y = x W^T on tensor cores: bf16 or f16 in, sums in f32.
//
// The one order of sums. W is operand A of mma.m16n8k16 (16 of its rows), x operand B (8 of its rows), so an element of y is
//
//     part(s) = one chain of mma over the inputs of split s, in steps of 16, from 0          (inside a step: the tensor core's order)
//     y       = ((part(0) + part(1)) + part(2)) + ...                                        in f32
//
// Where the splits of the inputs lie is a function of the weight's shape alone (kernels/src/gpu/linear.rs), so the bits of a row of
// y depend on that row of x and on W: not on how many rows there are, on a row's place, or on which of the kernels here computed it.
//
// Packed weights: blocks of 128 rows, in them stages of 64 inputs of 16 KiB each, in them [8 tiles of 16 rows][4 steps][32 lanes][8]:
// a lane's 16 bytes are its fragment of A. With g = lane / 4, t = lane % 4, the lane of a step has, of the tile's rows 2 g (low) and
// 2 g + 1 (high; the fragment's rows g and g + 8) and of the stage's inputs from k = 32 (step / 2) + 8 t + 4 (step % 2) on,
//
//     low[k], low[k+1], high[k], high[k+1], low[k+2], low[k+3], high[k+2], high[k+3]
//
// so that the inputs of two steps that a lane needs of x are 8 neighbours: one read of 16 bytes, no ldmatrix. Rows and inputs past
// the weight's end are zeros in the packed weights, and inputs past the end of x are never read.
//
#pragma once

#include "common.cuh"
#include "order.cuh"

enum LinearOutput : uint32_t {
    PARTIALS = 0, // f32 [split][m][n]: the parts, for a kernel that sums them in order
    ROUNDED = 1,  // T [m][n]
    WIDE = 2,     // f32 [m][n]
    SWIGLU = 3,   // T [m][n / 2]: row 2 j of W is a gate, row 2 j + 1 its up; T(T(silu(T(gate))) * T(up))
};

struct LinearParameters {
    const char* x; // T [m][x_stride]
    const char* w; // packed
    char* y;
    float* partials;    // [split][m][n]; not used with one split and an output other than PARTIALS
    uint32_t* arrivals; // [m block][row block], 0 between launches
    uint32_t m, n, k, x_stride;
    uint32_t splits, output;
};

constexpr int LINEAR_ROWS = 128;           // rows of W of a block
constexpr int LINEAR_STAGE = 64;           // inputs of a stage
constexpr int LINEAR_STAGE_BYTES = 16384;  // of packed weights: 128 x 64 x 2
constexpr int LINEAR_ROW_BYTES = 128;      // of x: 64 x 2

// A block of NW x MW warps: NW along the rows of W, NT tiles of 16 each; MW along the rows of x, MT tiles of 8 each. DEPTH stages
// are in shared memory. WHOLE: the block does all splits, one after the other; else the split blockIdx.y.
template <typename T, int NT, int NW, int MT, int MW, int DEPTH, bool WHOLE> struct Linear {
    static constexpr int THREADS = 32 * NW * MW;
    static constexpr int X_ROWS = 8 * MT * MW;
    static constexpr uint32_t PAIRS = LINEAR_ROWS / 2;
    static constexpr int STAGED = LINEAR_ROWS + 4; // floats of a row of sums in shared memory; four more meet other banks
    static constexpr int SLOT = LINEAR_STAGE_BYTES + X_ROWS * LINEAR_ROW_BYTES;
    static_assert(NT * NW * 16 == LINEAR_ROWS, "a block has 128 rows of W");
    static constexpr int TOTALS = WHOLE ? X_ROWS * LINEAR_ROWS * 4 : 0; // bytes behind the stages: the sum of the splits that are done
    static_assert(X_ROWS * STAGED * 4 <= DEPTH * SLOT + TOTALS, "the sums take the place of the stages");

    // The neighbour's half of a 128-byte row for odd rows, so that 8 lanes reading 2 rows meet every bank once.
    DEVICE uint32_t x_place(uint32_t row, uint32_t piece) { return row * LINEAR_ROW_BYTES + ((piece ^ (row & 1) << 2) << 4); }

    DEVICE void copy_weights(const LinearParameters& p, uint32_t stage, char* slot) {
        const uint32_t stages = (p.k + LINEAR_STAGE - 1) / LINEAR_STAGE;
        const uint32_t block = WHOLE ? blockIdx.y : blockIdx.x;
        const char* from = p.w + (size_t(block) * stages + stage) * LINEAR_STAGE_BYTES + threadIdx.x % 32 * 16;
        // Each warp copies runs of 512 bytes; with MW = 1 just those fragments that it reads itself.
        constexpr int RUNS = LINEAR_STAGE_BYTES / 512 / (NW * MW);
#pragma unroll
        for (int i = 0; i < RUNS; i++) {
            const uint32_t at = (warp() * RUNS + i) * 512;
            if (WHOLE) {
                copy16_async(slot + at + lane() * 16, from + at); // other blocks want it too
            } else {
                copy16_async_once(slot + at + lane() * 16, from + at);
            }
        }
    }

    DEVICE void copy_x(const LinearParameters& p, uint32_t first, uint32_t stage, char* slot) {
        constexpr int PIECES = X_ROWS * 8;
#pragma unroll
        for (int i = 0; i < (PIECES + THREADS - 1) / THREADS; i++) {
            const uint32_t piece = i * THREADS + threadIdx.x;
            if (PIECES % THREADS == 0 || piece < PIECES) {
                const uint32_t row = piece / 8, k = stage * LINEAR_STAGE + piece % 8 * 8;
                const bool is = first + row < p.m && k < p.k;
                const char* from = is ? p.x + (size_t(first + row) * p.x_stride + k) * 2 : p.x;
                copy16_async(slot + LINEAR_STAGE_BYTES + x_place(row, piece % 8), from, is);
            }
        }
    }

    // The four steps of a stage.
    DEVICE void multiply(float (&sum)[NT][MT][4], const char* slot, uint32_t row_warp, uint32_t x_warp) {
        const uint32_t g = lane() / 4, t = lane() % 4;
        const char* weights = slot + row_warp * NT * 2048 + lane() * 16;
        const char* x = slot + LINEAR_STAGE_BYTES + x_warp * MT * 8 * LINEAR_ROW_BYTES;
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
            uint4 b[MT];
#pragma unroll
            for (int j = 0; j < MT; j++) b[j] = *reinterpret_cast<const uint4*>(x + x_place(j * 8 + g, pair * 4 + t));
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int i = 0; i < NT; i++) {
                    const uint4 word = *reinterpret_cast<const uint4*>(weights + i * 2048 + (pair * 2 + half) * 512);
                    const uint32_t a[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
                    for (int j = 0; j < MT; j++) {
                        const uint32_t inputs[2] = {half ? b[j].z : b[j].x, half ? b[j].w : b[j].y};
                        mma_16x8x16<T>(sum[i][j], a, inputs);
                    }
                }
            }
        }
    }

    // The end of a split in a block that does all of them: each thread keeps its totals in a place of its own in shared memory, where
    // they do not take registers from the fragments. After the last one `sum` is the whole sum.
    DEVICE void add_part(float (&sum)[NT][MT][4], char* totals, bool first, bool last) {
#pragma unroll
        for (int i = 0; i < NT; i++)
#pragma unroll
            for (int j = 0; j < MT; j++) {
                uint4* place = reinterpret_cast<uint4*>(totals) + (i * MT + j) * THREADS + threadIdx.x;
                if (!first) {
                    const uint4 t = *place;
                    const float before[4] = {bits_float(t.x), bits_float(t.y), bits_float(t.z), bits_float(t.w)};
#pragma unroll
                    for (int c = 0; c < 4; c++) sum[i][j][c] = before[c] + sum[i][j][c];
                }
                if (last) continue;
                *place = make_uint4(float_bits(sum[i][j][0]), float_bits(sum[i][j][1]), float_bits(sum[i][j][2]), float_bits(sum[i][j][3]));
#pragma unroll
                for (int c = 0; c < 4; c++) sum[i][j][c] = 0.0f;
            }
    }

    // Two neighbours of a row of an f32 matrix with rows of n.
    DEVICE void store_wide(float* y, uint32_t m, uint32_t row, uint32_t n, float low, float high) {
        float* at = y + size_t(m) * n + row;
        if (n % 2 == 0) {
            store8(at, make_uint2(float_bits(low), float_bits(high)));
        } else {
            at[0] = low;
            if (row + 1 < n) at[1] = high;
        }
    }

    DEVICE void store(const LinearParameters& p, uint32_t m, uint32_t row, float low, float high) {
        T* y = reinterpret_cast<T*>(p.y);
        if (p.output == SWIGLU) {
            const float gate = to_float(from_float<T>(low)), up = to_float(from_float<T>(high));
            const float silu = to_float(from_float<T>(gate / (1.0f + expf(-gate))));
            y[size_t(m) * (p.n / 2) + row / 2] = from_float<T>(silu * up);
        } else if (p.output == WIDE) {
            store_wide(reinterpret_cast<float*>(p.y), m, row, p.n, low, high);
        } else if (p.n % 2 == 0) {
            store4(y + size_t(m) * p.n + row, pack2<T>(low, high));
        } else {
            y[size_t(m) * p.n + row] = from_float<T>(low);
            if (row + 1 < p.n) y[size_t(m) * p.n + row + 1] = from_float<T>(high);
        }
    }

    // `count` (0 to 2) neighbouring rows of W of one split, zeros for the others.
    DEVICE float2 part(const float* at, uint32_t count, uint32_t n) {
        if (count == 0) return make_float2(0.0f, 0.0f);
        if (n % 2 == 0) {
            const uint2 words = load8_fresh(at);
            return make_float2(bits_float(words.x), bits_float(words.y));
        }
        return make_float2(bits_float(load4_fresh(at)), count == 2 ? bits_float(load4_fresh(at + 1)) : 0.0f);
    }

    DEVICE void run(const LinearParameters& p) {
        char* memory = shared_memory();
        const uint32_t row_warp = warp() / MW, x_warp = warp() % MW;
        const uint32_t row_block = WHOLE ? blockIdx.y : blockIdx.x;
        const uint32_t x_block = WHOLE ? blockIdx.x : blockIdx.z;
        const uint32_t first = x_block * X_ROWS;
        const uint32_t first_row = row_block * LINEAR_ROWS + row_warp * NT * 16;
        const uint32_t stages = (p.k + LINEAR_STAGE - 1) / LINEAR_STAGE;
        const uint32_t split = WHOLE ? 0 : blockIdx.y;
        const uint32_t begin = WHOLE ? 0 : split * stages / p.splits;
        const uint32_t end = WHOLE ? stages : (split + 1) * stages / p.splits;

        float sum[NT][MT][4];
#pragma unroll
        for (int i = 0; i < NT; i++)
#pragma unroll
            for (int j = 0; j < MT; j++)
#pragma unroll
                for (int c = 0; c < 4; c++) sum[i][j][c] = 0.0f;

        // The weights do not depend on what ran before, so they are loaded first.
#pragma unroll
        for (int s = 0; s < DEPTH - 1; s++)
            if (begin + s < end) copy_weights(p, begin + s, memory + s * SLOT);
        wait_for_previous();
#pragma unroll
        for (int s = 0; s < DEPTH - 1; s++) {
            if (begin + s < end) copy_x(p, first, begin + s, memory + s * SLOT);
            copy_commit();
        }
        let_next_start();

        uint32_t slot = 0, next_split = 1;
        for (uint32_t stage = begin; stage < end; stage++) {
            copy_wait<DEPTH - 2>();
            barrier(); // the stage is there for all, and all are through with the one before, whose slot is filled next
            const uint32_t ahead = stage + DEPTH - 1;
            char* free = memory + (slot == 0 ? DEPTH - 1 : slot - 1) * SLOT;
            if (ahead < end) {
                copy_weights(p, ahead, free);
                copy_x(p, first, ahead, free);
            }
            copy_commit();
            if (first_row < p.n) multiply(sum, memory + slot * SLOT, row_warp, x_warp);
            slot = slot + 1 == DEPTH ? 0 : slot + 1;
            if (WHOLE && p.splits > 1 && stage + 1 == next_split * stages / p.splits) {
                add_part(sum, memory + DEPTH * SLOT, next_split == 1, next_split == p.splits);
                next_split += 1;
            }
        }
        copy_wait<0>();

        // By way of shared memory, so that neighbouring lanes have neighbouring rows of W.
        float* staged = reinterpret_cast<float*>(memory);
        const uint32_t g = lane() / 4, t = lane() % 4;
        barrier();
#pragma unroll
        for (int i = 0; i < NT; i++)
#pragma unroll
            for (int j = 0; j < MT; j++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    float* at = staged + ((x_warp * MT + j) * 8 + t * 2 + c) * STAGED + (row_warp * NT + i) * 16 + g * 2;
                    store8(at, make_uint2(float_bits(sum[i][j][c]), float_bits(sum[i][j][c + 2])));
                }
        barrier();
        const bool parts = p.output == PARTIALS || (!WHOLE && p.splits > 1);
        for (uint32_t i = threadIdx.x; i < X_ROWS * PAIRS; i += THREADS) {
            const uint32_t m = first + i / PAIRS, row = row_block * LINEAR_ROWS + i % PAIRS * 2;
            if (m >= p.m || row >= p.n) continue;
            const float* at = staged + i / PAIRS * STAGED + i % PAIRS * 2;
            if (parts) {
                store_wide(p.partials + size_t(split) * p.m * p.n, m, row, p.n, at[0], at[1]);
            } else {
                store(p, m, row, at[0], at[1]);
            }
        }
        if (WHOLE || p.output == PARTIALS || p.splits == 1) return;

        // The last block to come has everybody's parts and sums them, in the order of the splits and not of the coming.
        SHARED(uint32_t, last, 1);
        device_fence();
        barrier();
        if (threadIdx.x == 0) {
            uint32_t* arrivals = p.arrivals + size_t(x_block) * gridDim.x + row_block;
            last[0] = atomic_add(arrivals, 1u) + 1 == p.splits;
            if (last[0]) *arrivals = 0;
        }
        barrier();
        if (!last[0]) return;
        device_fence();
        constexpr uint32_t EACH = 4; // pairs of a thread at a time, so that it waits less often
        for (uint32_t begin_at = threadIdx.x; begin_at < X_ROWS * PAIRS; begin_at += THREADS * EACH) {
            float2 all[EACH];
            const float* from[EACH];
            uint32_t count[EACH];
#pragma unroll
            for (uint32_t e = 0; e < EACH; e++) {
                const uint32_t i = begin_at + e * THREADS, m = first + i / PAIRS, row = row_block * LINEAR_ROWS + i % PAIRS * 2;
                const bool is = i < X_ROWS * PAIRS && m < p.m && row < p.n;
                count[e] = is ? (row + 1 < p.n ? 2 : 1) : 0;
                from[e] = p.partials + (is ? size_t(m) * p.n + row : 0);
                all[e] = part(from[e], count[e], p.n);
            }
#pragma unroll 4
            for (uint32_t s = 1; s < p.splits; s++)
#pragma unroll
                for (uint32_t e = 0; e < EACH; e++) {
                    from[e] += size_t(p.m) * p.n;
                    const float2 more = part(from[e], count[e], p.n);
                    all[e].x += more.x, all[e].y += more.y;
                }
#pragma unroll
            for (uint32_t e = 0; e < EACH; e++) {
                const uint32_t i = begin_at + e * THREADS;
                if (count[e] > 0) store(p, first + i / PAIRS, row_block * LINEAR_ROWS + i % PAIRS * 2, all[e].x, all[e].y);
            }
        }
    }
};
