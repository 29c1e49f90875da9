// Decode attention: one warp a block, for one chunk of 256 keys of one key head of one sequence and 16 rows; then the
// combination of a row's chunks in their order. The recipe is attention.cuh's.
//
// Keys and values go by once: a ring of four pages (8 KiB each with 128 elements a head) in the order K K V V of each tile of 64
// keys, three of them on the way while one is worked on; six such blocks are on a multiprocessor at a time with 128 elements a head.
// The grid is for the longest sequences of a bucket (chunks at a time, key heads times blocks of 16 rows, sequences); lengths are read
// here, and blocks whose chunk no row sees end at once. As even those cost a start, a block does every gridDim.x-th chunk where there
// are very many. A chunk's slot is its number less that of the first chunk that the sequence's first row sees.
//

#include "attention.cuh"

template <typename T, int DIM> DEVICE void decode(const AttentionParameters& p) {
    using A = Attention<T, DIM>;
    constexpr int RING = 4;
    char* memory = shared_memory();

    let_next_start();
    wait_for_previous();
    // Blocks of the same keys run at about the same time, so that all but one of them find these in L2.
    const uint32_t row_blocks = gridDim.y / p.kv_heads;
    const uint32_t sequence = blockIdx.z, kv_head = blockIdx.y / row_blocks, block = blockIdx.y % row_blocks;
    const uint32_t group = p.heads / p.kv_heads;
    const uint32_t all = p.tokens[sequence] * group, first_token = p.first_row[sequence], start = p.start[sequence];
    if (block * 16 >= all) return;
    const typename A::Rows rows = A::rows_of(p, block * 16, all - block * 16, group, start);
    const uint32_t first_chunk = A::first_seen(start, p.window) / CHUNK;
    uint32_t slot = blockIdx.x;
    while ((first_chunk + slot) * CHUNK + CHUNK <= rows.low) slot += gridDim.x;
    if ((first_chunk + slot) * CHUNK > rows.high) return;

    const uint32_t* table = p.table + size_t(sequence) * p.table_stride;
    uint32_t q[A::STEPS][4];
    A::load_q(q, p, first_token, kv_head, rows);
    for (; (first_chunk + slot) * CHUNK <= rows.high; slot += gridDim.x) {
        const uint32_t chunk = first_chunk + slot;
        const uint32_t begin = (rows.low > chunk * CHUNK ? rows.low : chunk * CHUNK) / TILE;
        const uint32_t end = (rows.high < chunk * CHUNK + CHUNK - 1 ? rows.high : chunk * CHUNK + CHUNK - 1) / TILE + 1;
        // The chunk's eight pages: one per lane, loaded once.
        const uint32_t number = chunk * (CHUNK / PAGE) + lane() % 8;
        const uint32_t pages = number >= rows.low / PAGE && number <= rows.high / PAGE ? table[number] : 0;
        auto ask = [&](uint32_t tile, int phase) {
            const uint32_t at = tile * 2 + phase % 2; // page of the sequence
            A::template copy_page<32, true>(p, phase < 2 ? p.k : p.v, shuffle(pages, int(at % 8)), kv_head, at * PAGE, rows.low,
                rows.high, memory + phase * A::PAGE_BYTES, lane());
        };
#pragma unroll
        for (int phase = 0; phase < RING - 1; phase++) {
            ask(begin, phase);
            copy_commit();
        }
        float max[2] = {NONE, NONE}, sum[2] = {0.0f, 0.0f}, o[A::COLUMNS][4];
#pragma unroll
        for (int column = 0; column < A::COLUMNS; column++)
#pragma unroll
            for (int c = 0; c < 4; c++) o[column][c] = 0.0f;

        for (uint32_t tile = begin; tile < end; tile++) {
            float s[8][4];
#pragma unroll
            for (int phase = 0; phase < RING; phase++) {
                copy_wait<RING - 2>();
                warp_barrier(); // the page is there for all lanes, and all are through with the one before, whose place is filled next
                const uint32_t ahead = phase == 0 ? tile : tile + 1;
                if (ahead < end) ask(ahead, (phase + RING - 1) % RING);
                copy_commit();
                const char* page = memory + phase * A::PAGE_BYTES;
                if (phase < 2) A::score_page(s + phase * 4, q, page);
                if (phase == 1) A::soften(s, max, sum, o, rows, tile * TILE, p);
                if (phase >= 2) A::add_values(o, s + (phase - 2) * 4, page);
            }
        }
        copy_wait<0>();
        warp_barrier(); // the next chunk's pages come into the same places

        const uint32_t g = lane() / 4, t = lane() % 4;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float total = A::whole_sum(sum[i]);
            if (!rows.real[i]) continue;
            const size_t row = A::offset(p, first_token, kv_head, group, rows.first + g + i * 8) / DIM * p.slots + slot;
            if (t == 0) store8(p.states + row * 2, make_uint2(float_bits(max[i]), float_bits(total)));
#pragma unroll
            for (int column = 0; column < A::COLUMNS; column++)
                store8(p.partials + row * DIM + column * 8 + t * 2,
                    make_uint2(float_bits(o[column][2 * i]), float_bits(o[column][2 * i + 1])));
        }
    }
}

// A warp for a row and head: grid (heads / 4 rounded up, tokens of a sequence, sequences), 4 warps a block.
template <typename T, int DIM> DEVICE void combine_chunks(const AttentionParameters& p) {
    using A = Attention<T, DIM>;
    let_next_start();
    wait_for_previous();
    const uint32_t sequence = blockIdx.z, token = blockIdx.y, head = blockIdx.x * 4 + warp();
    if (token >= p.tokens[sequence] || head >= p.heads) return;
    const uint32_t start = p.start[sequence], position = start + token;
    const uint32_t base = A::first_seen(start, p.window) / CHUNK;
    const uint32_t first = A::first_seen(position, p.window) / CHUNK - base, last = position / CHUNK - base;
    const size_t row = size_t(p.first_row[sequence] + token) * p.heads + head;

    constexpr int EACH = (DIM + 31) / 32;
    float o[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) o[i] = 0.0f;
    Combination all = no_chunk();
#pragma unroll 4
    for (uint32_t slot = first; slot <= last; slot++) {
        const uint2 state = load8_fresh(p.states + (row * p.slots + slot) * 2);
        const float* part = p.partials + (row * p.slots + slot) * DIM;
        float a = 1.0f, b = 0.0f, parts[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) parts[i] = i * 32 + lane() < DIM ? part[i * 32 + lane()] : 0.0f;
        if (!combine(all, bits_float(state.x), bits_float(state.y), a, b)) continue;
#pragma unroll
        for (int i = 0; i < EACH; i++) o[i] = fmaf(parts[i], b, o[i] * a);
    }
    T* out = reinterpret_cast<T*>(p.out) + row * DIM;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (i * 32 + lane() < DIM) out[i * 32 + lane()] = from_float<T>(o[i] / all.sum + 0.0f);
}

#define ATTENTION(T, DIM)                                                                                                          \
    KERNEL_RESIDENT(attention_##T##_decode##DIM, 32, 6, AttentionParameters) { decode<T, DIM>(p); }                                \
    KERNEL(attention_##T##_combine##DIM, 128, AttentionParameters) { combine_chunks<T, DIM>(p); }

ATTENTION(bf16, 16)
ATTENTION(bf16, 32)
ATTENTION(bf16, 64)
ATTENTION(bf16, 96)
ATTENTION(bf16, 128)
ATTENTION(f16, 16)
ATTENTION(f16, 32)
ATTENTION(f16, 64)
ATTENTION(f16, 96)
ATTENTION(f16, 128)
