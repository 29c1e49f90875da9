// The numeric recipe of attention over paged keys and values, shared by decode and prefill: 16 query rows a warp, tiles of 64
// keys, chunks of 256 keys, both at absolute positions.
//
//     s   = q . k                 one chain of mma.m16n8k16 over the head's elements in steps of 16, from 0; q is operand A
//     tile (64 keys), in the order of the keys:
//         M' = max(M, max s * scale)      scale holds log2(e); a row that sees no key of the tile is left as it is
//         c  = 2^(M - M')                 p = 2^(s * scale - M'), one fma; 0 for keys that the row does not see
//         l  = l c + p                    in the lane that has the key: four lanes a row, each in the order of its keys
//         o  = o c + p v                  p rounded to T; one chain of mma over the keys in steps of 16
//     chunk (256 keys): starts with M = -inf, l = 0, o = 0; ends with l = (l0 + l1) + (l2 + l3) of its four lanes
//     row, in the order of the chunks that it sees, from (-inf, 0, 0):
//         M' = max(M, Mc)   a = 2^(M - M')   b = 2^(Mc - M')   L = Lc b + (L a), O = Oc b + (O a), one fma each
//     out = O / L + 0, rounded to T
//
// (Milakov and Gimelshein 2018; Dao et al. 2022; chunks and their combination: Flash-Decoding, Dao et al. 2023.) A key that a row
// does not see gives p = 0 and leaves M, c = 1, l and o as they were; so do a whole tile and a whole chunk of them. So a row has the
// same bits whether it is decoded alone, among others, or prefilled in a chunk, provided that mma adds a product of 0 without a
// trace and treats every row of A alike. Keys that no row of the block sees are zeros in shared memory, whatever their pages hold.
//
// Rows: a sequence's query tokens times the query heads that share a key head; row r is token r / group, head r % group. Pages hold
// [kv_heads][32][dim] of K and, elsewhere, of V; a query at position p sees the keys at (p - window, p].
//
#pragma once

#include "common.cuh"
#include "order.cuh"

constexpr uint32_t PAGE = 32;   // keys of a page
constexpr uint32_t TILE = 64;   // keys of a softmax step
constexpr uint32_t CHUNK = 256; // keys of a partial result

struct AttentionParameters {
    const char* q; // T [rows][heads][dim]
    const char* k; // T [page][kv_heads][32][dim], pages page_stride elements apart
    const char* v;
    char* out;                 // T [rows][heads][dim]
    float* partials;           // f32 [rows][heads][slots][dim]; decoding only, as the next
    float* states;             // f32 [rows][heads][slots][2]: M and l of a chunk
    const uint32_t* first_row; // [sequences]: first row of the sequence in q, counted in tokens
    const uint32_t* tokens;    // [sequences]: query tokens; 0: nothing is read or written
    const uint32_t* start;     // [sequences]: absolute position of the first one
    const uint32_t* table;     // [sequences][table_stride]: page of 32 positions
    uint32_t table_stride, page_stride, heads, kv_heads;
    uint32_t window; // keys that a query sees; 0xffffffff: all
    uint32_t slots;  // chunks that a sequence's rows can see together
    float scale;     // on q . k, times log2(e)
    uint32_t unused;
};

constexpr float NONE = -INFINITY;

template <typename T, int DIM> struct Attention {
    static constexpr int STEPS = DIM / 16;           // of q . k
    static constexpr int COLUMNS = DIM / 8;          // of o, 8 elements each
    static constexpr int STRIDE = DIM * 2 + 16;      // bytes of a key in shared memory: an odd number of 16s meets all banks
    static constexpr int PAGE_BYTES = PAGE * STRIDE; // of a page of one head there

    // What one warp knows of its 16 rows: lane g * 4 + t has rows g and g + 8, and of them every 8th pair of columns.
    struct Rows {
        uint32_t first, count;  // among the sequence's rows; rows past count are padding
        uint32_t group, start;  // query heads a key head, position of token 0
        uint32_t low, high;     // first and last position that any of the rows sees
        uint32_t seen_by_all;   // first position that none of the rows has left behind
        uint32_t position[2];   // of rows g and g + 8
        bool real[2];
    };

    DEVICE uint32_t first_seen(uint32_t position, uint32_t window) { return position < window ? 0 : position - window + 1; }

    DEVICE Rows rows_of(const AttentionParameters& p, uint32_t first, uint32_t count, uint32_t group, uint32_t start) {
        Rows rows;
        rows.first = first, rows.count = count, rows.group = group, rows.start = start;
        const uint32_t last = first + (count < 16 ? count : 16) - 1;
        rows.low = first_seen(start + first / group, p.window);
        rows.high = start + last / group;
        rows.seen_by_all = first_seen(rows.high, p.window);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t row = lane() / 4 + i * 8;
            rows.real[i] = row < count;
            rows.position[i] = start + (first + row) / group;
        }
        return rows;
    }

    // Element offset of a row's head in q and out.
    DEVICE size_t offset(const AttentionParameters& p, uint32_t first_token, uint32_t kv_head, uint32_t group, uint32_t row) {
        return (size_t(first_token + row / group) * p.heads + kv_head * group + row % group) * DIM;
    }

    // q of the warp's rows as fragments of A; padding is zeros.
    DEVICE void load_q(uint32_t (&q)[STEPS][4], const AttentionParameters& p, uint32_t first_token, uint32_t kv_head, const Rows& rows) {
        const uint32_t g = lane() / 4, t = lane() % 4;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const char* from = p.q;
            if (rows.real[i]) from += (offset(p, first_token, kv_head, rows.group, rows.first + g + i * 8) + t * 2) * 2;
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                q[step][i] = rows.real[i] ? load4_fresh(from + step * 32) : 0;
                q[step][i + 2] = rows.real[i] ? load4_fresh(from + step * 32 + 16) : 0;
            }
        }
    }

    // Asks for one page of one head; keys outside [low, high] become zeros. THREADS share the work, this is number `thread`; ONCE: no other block
    // wants the page.
    template <int THREADS, bool ONCE>
    DEVICE void copy_page(const AttentionParameters& p, const char* pool, uint32_t page, uint32_t kv_head, uint32_t begin, uint32_t low,
        uint32_t high, char* into, uint32_t thread) {
        constexpr uint32_t PIECES = DIM / 8, KEYS = THREADS / PIECES < PAGE ? THREADS / PIECES : PAGE; // of a key; of a step
        const uint32_t key = thread / PIECES, at = thread % PIECES;
        if (THREADS != KEYS * PIECES && key >= KEYS) return;
        const char* from = pool + (size_t(page) * p.page_stride + (size_t(kv_head) * PAGE + key) * DIM + at * 8) * 2;
        into += key * STRIDE + at * 16;
        auto copy = [&](uint32_t first, const char* source, bool seen) {
            if (ONCE) {
                copy16_async_once(into + first * STRIDE, source, seen);
            } else {
                copy16_async(into + first * STRIDE, source, seen);
            }
        };
        if (begin >= low && begin + PAGE - 1 <= high) { // as nearly all: nothing to decide, addresses that are known
#pragma unroll
            for (uint32_t first = 0; first < PAGE; first += KEYS)
                if (PAGE % KEYS == 0 || first + key < PAGE) copy(first, from + first * DIM * 2, true);
        } else {
#pragma unroll 1
            for (uint32_t first = 0; first + key < PAGE; first += KEYS) {
                const bool seen = begin + first + key >= low && begin + first + key <= high;
                copy(first, seen ? from + first * DIM * 2 : p.q, seen);
            }
        }
    }

    // s of 32 keys: columns of 8 keys each.
    DEVICE void score_page(float (*s)[4], const uint32_t (&q)[STEPS][4], const char* keys) {
        const uint32_t l = lane();
        const char* row = keys + (l / 16 * 8 + l % 8) * STRIDE + l / 8 % 2 * 16;
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
#pragma unroll
            for (int c = 0; c < 4; c++) s[pair * 2][c] = s[pair * 2 + 1][c] = 0.0f;
        }
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
#pragma unroll
            for (int pair = 0; pair < 2; pair++) {
                uint32_t b[4];
                ldmatrix_x4(b, row + pair * 16 * STRIDE + step * 32);
                mma_16x8x16<T>(s[pair * 2], q[step], b);
                mma_16x8x16<T>(s[pair * 2 + 1], q[step], b + 2);
            }
        }
    }

    // Softmax of a tile that begins at position `begin`; s becomes p, o is scaled.
    DEVICE void soften(float (&s)[8][4], float (&max)[2], float (&sum)[2], float (&o)[COLUMNS][4], const Rows& rows, uint32_t begin,
        const AttentionParameters& p) {
        // Whether every row sees every key of the tile; padding rows are never read.
        const bool whole = begin >= rows.seen_by_all && begin + TILE - 1 <= rows.start + rows.first / rows.group;
        if (!whole) {
#pragma unroll
            for (int column = 0; column < 8; column++) {
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const uint32_t key = begin + column * 8 + lane() % 4 * 2 + c % 2, position = rows.position[c / 2];
                    if (!(key <= position && position - key < p.window && rows.real[c / 2])) s[column][c] = NONE;
                }
            }
        }
        float factor[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float most = NONE;
#pragma unroll
            for (int column = 0; column < 8; column++) most = fmaxf(most, fmaxf(s[column][2 * i], s[column][2 * i + 1]));
            most = fmaxf(most, shuffle_xor(most, 1));
            most = fmaxf(most, shuffle_xor(most, 2));
            const float now = fmaxf(max[i], most * p.scale);
            const float base = now == NONE ? 0.0f : now;
            factor[i] = exp2_approx(max[i] - base);
            max[i] = now;
            float all = sum[i] * factor[i];
#pragma unroll
            for (int column = 0; column < 8; column++) {
#pragma unroll
                for (int c = 2 * i; c < 2 * i + 2; c++) {
                    s[column][c] = exp2_approx(fmaf(s[column][c], p.scale, -base));
                    all += s[column][c];
                }
            }
            sum[i] = all;
        }
#pragma unroll
        for (int column = 0; column < COLUMNS; column++) {
#pragma unroll
            for (int c = 0; c < 4; c++) o[column][c] *= factor[c / 2];
        }
    }

    // o += p v over 32 keys; `s` are the 4 columns of p that belong to them.
    DEVICE void add_values(float (&o)[COLUMNS][4], float (*s)[4], const char* values) {
        const uint32_t l = lane();
        const char* row = values + (l / 8 % 2 * 8 + l % 8) * STRIDE + l / 16 * 16;
#pragma unroll
        for (int step = 0; step < 2; step++) {
            const uint32_t a[4] = {pack2<T>(s[step * 2][0], s[step * 2][1]), pack2<T>(s[step * 2][2], s[step * 2][3]),
                pack2<T>(s[step * 2 + 1][0], s[step * 2 + 1][1]), pack2<T>(s[step * 2 + 1][2], s[step * 2 + 1][3])};
#pragma unroll
            for (int pair = 0; pair < COLUMNS / 2; pair++) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, row + step * 16 * STRIDE + pair * 32);
                mma_16x8x16<T>(o[pair * 2], a, b);
                mma_16x8x16<T>(o[pair * 2 + 1], a, b + 2);
            }
        }
    }

    // l of a chunk from its four lanes.
    DEVICE float whole_sum(float sum) {
        sum += shuffle_xor(sum, 1);
        return sum + shuffle_xor(sum, 2);
    }
};

// What is known of a row's chunks so far.
struct Combination {
    float max, sum;
};
DEVICE Combination no_chunk() { return {NONE, 0.0f}; }

// Takes in one chunk: the factors `a` on what is there and `b` on what comes. False: no key of the chunk is seen, nothing changes.
DEVICE bool combine(Combination& all, float max, float sum, float& a, float& b) {
    if (max == NONE) return false;
    const float now = fmaxf(all.max, max);
    a = exp2_approx(all.max - now);
    b = exp2_approx(max - now);
    all.max = now;
    all.sum = fmaf(sum, b, all.sum * a);
    return true;
}
