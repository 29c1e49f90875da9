// Prefill attention, many rows of each sequence: eight warps a block with 16 rows each, which share every tile of keys and values. The
// recipe is attention.cuh's, so a row gets the bits that it would get decoded alone.
//
// Grid (blocks of 128 rows, key heads, sequences). Two tiles of 64 keys are in shared memory, the next on its way; a warp passes over
// tiles that none of its rows sees. A chunk's state is combined into the row's when its last tile is done.
//

#include "attention.cuh"

constexpr uint32_t PREFILL_WARPS = 8;

template <typename T, int DIM> DEVICE void prefill(const AttentionParameters& p) {
    using A = Attention<T, DIM>;
    constexpr int THREADS = PREFILL_WARPS * 32, TILE_BYTES = 2 * A::PAGE_BYTES;
    char* memory = shared_memory(); // K, K, V, V of even and odd tiles; then every lane's fragments of q

    let_next_start();
    wait_for_previous();
    const uint32_t sequence = blockIdx.z, kv_head = blockIdx.y, group = p.heads / p.kv_heads;
    const uint32_t all = p.tokens[sequence] * group, first_token = p.first_row[sequence], start = p.start[sequence];
    const uint32_t first = blockIdx.x * PREFILL_WARPS * 16, mine = first + warp() * 16;
    if (first >= all) return;
    const bool idle = mine >= all;
    const typename A::Rows rows = A::rows_of(p, idle ? first : mine, idle ? all - first : all - mine, group, start);
    const uint32_t last = (all - first < PREFILL_WARPS * 16 ? all : first + PREFILL_WARPS * 16) - 1;
    const uint32_t low = A::first_seen(start + first / group, p.window), high = start + last / group;
    const uint32_t begin = low / TILE, end = high / TILE + 1;

    const uint32_t* table = p.table + size_t(sequence) * p.table_stride;
    auto ask = [&](uint32_t tile, bool values) {
        if (tile < end) {
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                const uint32_t page = tile * 2 + half;
                const bool held = page >= low / PAGE && page <= high / PAGE;
                A::template copy_page<THREADS, false>(p, values ? p.v : p.k, held ? table[page] : 0, kv_head, page * PAGE, low, high,
                    memory + (values * 2 + tile % 2) * TILE_BYTES + half * A::PAGE_BYTES, threadIdx.x);
            }
        }
        copy_commit();
    };
    ask(begin, false);
    ask(begin, true);

    uint32_t q[A::STEPS][4];
    A::load_q(q, p, first_token, kv_head, rows);
    char* fragments = memory + 4 * TILE_BYTES + (warp() * A::STEPS * 32 + lane()) * 16;
#pragma unroll
    for (int step = 0; step < A::STEPS; step++)
        *reinterpret_cast<uint4*>(fragments + step * 512) = make_uint4(q[step][0], q[step][1], q[step][2], q[step][3]);

    float max[2] = {NONE, NONE}, sum[2] = {0.0f, 0.0f}, o[A::COLUMNS][4], out[A::COLUMNS][4];
    Combination whole[2] = {no_chunk(), no_chunk()};
#pragma unroll
    for (int column = 0; column < A::COLUMNS; column++)
#pragma unroll
        for (int c = 0; c < 4; c++) o[column][c] = out[column][c] = 0.0f;

    for (uint32_t tile = begin; tile < end; tile++) {
        const bool seen = !idle && tile * TILE <= rows.high && tile * TILE + TILE > rows.low;
        float s[8][4];
        ask(tile + 1, false);
        copy_wait<2>();
        barrier(); // this tile's keys are there, and all are through with the values of the one before, whose place is filled next
        if (seen) {
#pragma unroll
            for (int step = 0; step < A::STEPS; step++) {
                const uint4 word = *reinterpret_cast<const uint4*>(fragments + step * 512);
                q[step][0] = word.x, q[step][1] = word.y, q[step][2] = word.z, q[step][3] = word.w;
            }
            const char* keys = memory + tile % 2 * TILE_BYTES;
            A::score_page(s, q, keys);
            A::score_page(s + 4, q, keys + A::PAGE_BYTES);
            A::soften(s, max, sum, o, rows, tile * TILE, p);
        }
        ask(tile + 1, true);
        copy_wait<2>();
        barrier(); // this tile's values are there, and all are through with its keys
        if (seen) {
            const char* values = memory + (2 + tile % 2) * TILE_BYTES;
            A::add_values(o, s, values);
            A::add_values(o, s + 4, values + A::PAGE_BYTES);
        }
        if (tile % (CHUNK / TILE) != CHUNK / TILE - 1 && tile + 1 < end) continue;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float a = 1.0f, b = 0.0f;
            const bool any = combine(whole[i], max[i], A::whole_sum(sum[i]), a, b);
#pragma unroll
            for (int column = 0; column < A::COLUMNS; column++) {
#pragma unroll
                for (int c = 2 * i; c < 2 * i + 2; c++) {
                    if (any) out[column][c] = fmaf(o[column][c], b, out[column][c] * a);
                    o[column][c] = 0.0f;
                }
            }
            max[i] = NONE, sum[i] = 0.0f;
        }
    }
    copy_wait<0>();
    if (idle) return;

    const uint32_t g = lane() / 4, t = lane() % 4;
    T* to = reinterpret_cast<T*>(p.out);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (!rows.real[i]) continue;
        T* row = to + A::offset(p, first_token, kv_head, group, rows.first + g + i * 8) + t * 2;
#pragma unroll
        for (int column = 0; column < A::COLUMNS; column++)
            store4(row + column * 8, pack2<T>(out[column][2 * i] / whole[i].sum + 0.0f, out[column][2 * i + 1] / whole[i].sum + 0.0f));
    }
}

#define PREFILL(T, DIM)                                                                                                            \
    KERNEL_RESIDENT(attention_##T##_prefill##DIM, 256, 1, AttentionParameters) { prefill<T, DIM>(p); }

PREFILL(bf16, 16)
PREFILL(bf16, 32)
PREFILL(bf16, 64)
PREFILL(bf16, 96)
PREFILL(bf16, 128)
PREFILL(f16, 16)
PREFILL(f16, 32)
PREFILL(f16, 64)
PREFILL(f16, 96)
PREFILL(f16, 128)
