// Kernels that work along a row of the residual stream or of q, k and v; a row a block, so a row's bits do not depend on the
// others.
//
// - embed: token embeddings into the residual stream, which is f32.
// - finish: what ends a sublayer. The ordered sum of a product's parts, its norm where the family norms what comes out (OLMo 2 and
//   3), the addition to the residual stream, steering, dot products with axes, and what the next product takes in: the residual
//   stream, or its norm where the family norms what goes in (Llama), rounded once. With no parts it only reads the stream.
// - place: q and k through their norm over the whole width (OLMo 2 and 3) or none, rotary positions (Su et al. 2021, halves), and k
//   and v into their pages.
//
// RMS norm (Zhang and Sennrich 2019): x / sqrt(mean(x^2) + eps) * weight; ROUND_FIRST: rounded before the weight and after it, as
// Llama does, otherwise only after.
//

#include "rows.cuh"

struct EmbedParameters {
    const void* table;   // T [vocab][width]
    const uint32_t* ids; // [rows]
    float* residual;     // [rows][width]
    uint32_t width, vocab;
};

// An id outside the vocabulary gives zeros: a row that is never read.
template <typename T> DEVICE void embed(const EmbedParameters& p) {
    let_next_start();
    wait_for_previous();
    const uint32_t id = p.ids[blockIdx.x];
    const bool known = id < p.vocab;
    const T* from = static_cast<const T*>(p.table) + size_t(known ? id : 0) * p.width;
    float* out = p.residual + size_t(blockIdx.x) * p.width;
    for (uint32_t i = threadIdx.x * 4; i < p.width; i += blockDim.x * 4) {
        store_floats(out + i, known ? load_narrow(from + i) : make_float4(0, 0, 0, 0));
    }
}

enum FinishFlags : uint32_t {
    ROUND_FIRST = 1,  // the norm of the next product's input, as in Llama
    DOTS_OF_NEXT = 2, // dot products use the next product's input before rounding
};

struct FinishParameters {
    const float* partials;         // [splits][rows][width]; none with 0 splits
    float* residual;               // [.][width]
    const uint32_t* sources;       // [rows]: row r is row sources[r] of the residual stream; none: r
    const void* post_weight;       // T [width]: the norm of what comes out; none: none
    const void* next_weight;       // T [width]: norm of the next product's input; none: none
    void* next;                    // T [rows][width]; none: no next product
    const float* axes;             // [axes][width]
    float* dots;                   // [rows][dots_stride], the first `axes_count` of each
    const float* steering;         // [vectors][width]; none: no steering
    const uint32_t* steering_of;   // [rows]: which vector, ABSENT: none
    const float* steering_scale;   // [rows]
    uint32_t rows, width, splits, axes_count, dots_stride, flags;
    float post_eps, next_eps;
};

// A thread has up to G fours of the row, one block's width of fours apart, and keeps them. What does not depend on earlier launches is
// read before the wait for them.
template <typename T, int G> DEVICE void finish(const FinishParameters& p) {
    SHARED(float, room, 4 * 32);
    const uint32_t r = blockIdx.x, first = threadIdx.x * 4, step = blockDim.x * 4;
    const T* post_weight = static_cast<const T*>(p.post_weight);
    const T* next_weight = static_cast<const T*>(p.next_weight);
    uint2 post[G], after[G];
#pragma unroll
    for (int g = 0; g < G; g++) {
        const uint32_t i = first + g * step;
        if (post_weight && i < p.width) post[g] = load8(post_weight + i);
        if (next_weight && i < p.width) after[g] = load8(next_weight + i);
    }
    let_next_start();
    wait_for_previous();

    float* residual = p.residual + size_t(p.sources ? p.sources[r] : r) * p.width;
    const float* parts = p.partials + size_t(r) * p.width;
    float4 h[G], x[G];
    float sums[1] = {0};
#pragma unroll
    for (int g = 0; g < G; g++) {
        const uint32_t i = first + g * step;
        if (i >= p.width) continue;
        h[g] = *reinterpret_cast<const float4*>(residual + i);
        if (p.splits == 0) continue;
        x[g] = sum_splits(parts + i, p.splits, size_t(p.rows) * p.width);
        sums[0] = dot4(sums[0], x[g], x[g]);
    }
    float scale = 1;
    if (post_weight) {
        block_sums(sums, room);
        scale = inverse_root(sums[0], p.width, p.post_eps);
        barrier();
    }

    const uint32_t vector = p.steering ? p.steering_of[r] : ABSENT;
    const float* steering = vector == ABSENT ? nullptr : p.steering + size_t(vector) * p.width;
    const float strength = vector == ABSENT ? 0 : p.steering_scale[r];
    sums[0] = 0;
#pragma unroll
    for (int g = 0; g < G; g++) {
        const uint32_t i = first + g * step;
        if (i >= p.width) continue;
        if (p.splits > 0) {
            if (post_weight) x[g] = times(times(x[g], scale), widened<T>(post[g]));
            h[g] = plus(h[g], x[g]);
        }
        if (steering) h[g] = fused(make_float4(strength, strength, strength, strength), load_floats(steering + i), h[g]);
        if (p.splits > 0 || steering) store_floats(residual + i, h[g]);
        sums[0] = dot4(sums[0], h[g], h[g]);
    }

    float next_scale = 1;
    if (next_weight) {
        block_sums(sums, room);
        next_scale = inverse_root(sums[0], p.width, p.next_eps);
        barrier();
    }
    T* next = p.next ? static_cast<T*>(p.next) + size_t(r) * p.width : nullptr;
#pragma unroll
    for (int g = 0; g < G; g++) {
        const uint32_t i = first + g * step;
        if (i >= p.width) continue;
        x[g] = h[g];
        if (next_weight) {
            x[g] = times(x[g], next_scale);
            if (p.flags & ROUND_FIRST) x[g] = rounded<T>(x[g]);
            x[g] = times(x[g], widened<T>(after[g]));
        }
        if (next) store_narrow(next + i, x[g]);
        if (p.flags & DOTS_OF_NEXT) h[g] = x[g];
    }

    // Four axes at a time; the order of an axis' sum is the same in any company.
    for (uint32_t a = 0; a < p.axes_count; a += 4) {
        float dots[4] = {0, 0, 0, 0};
#pragma unroll
        for (int g = 0; g < G; g++) {
            const uint32_t i = first + g * step;
            if (i >= p.width) continue;
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                if (a + j < p.axes_count) dots[j] = dot4(dots[j], h[g], load_floats(p.axes + size_t(a + j) * p.width + i));
            }
        }
        block_sums(dots, room);
        const uint32_t j = threadIdx.x;
        if (j < 4 && a + j < p.axes_count) {
            p.dots[size_t(r) * p.dots_stride + a + j] = j == 0 ? dots[0] : j == 1 ? dots[1] : j == 2 ? dots[2] : dots[3];
        }
        barrier();
    }
}

struct PlaceParameters {
    const float* partials;     // [splits][rows][(heads + 2 kv_heads) * head_dim]: q, k, v
    const void* q_weight;      // T [heads * head_dim]; none: no norm
    const void* k_weight;      // T [kv_heads * head_dim]
    const float* cos;          // [positions_end][head_dim / 2]
    const float* sin;
    const uint32_t* positions; // [rows]
    const uint32_t* sequences; // [rows]: row of `pages`, ABSENT: nothing is written to pages
    const uint32_t* pages;     // [.][pages_stride]: page of 32 positions
    void* q;                   // T [rows][heads * head_dim]
    void* keys;                // T [page][kv_heads][32][head_dim], pages page_stride elements apart
    void* values;
    uint64_t page_stride;
    uint32_t rows, splits, heads, kv_heads, head_dim, pages_stride, positions_end;
    float eps;
};

constexpr uint32_t PAGE_POSITIONS = 32;

// Grid (rows, 3): q, k and v of a row are blocks of their own. A thread has up to G fours of the heads' lower halves and the fours of
// the upper halves that turn with them.
template <typename T, int G> DEVICE void place(const PlaceParameters& p) {
    SHARED(float, room, 32);
    const uint32_t r = blockIdx.x, part = blockIdx.y, step = blockDim.x * 4, half = p.head_dim / 2;
    const uint32_t q_width = p.heads * p.head_dim, kv_width = p.kv_heads * p.head_dim;
    const uint32_t width = part == 0 ? q_width : kv_width, all = q_width + 2 * kv_width;
    const T* weight = static_cast<const T*>(part == 0 ? p.q_weight : part == 1 ? p.k_weight : nullptr);
    // Of the thread's g-th four: where it lies in the row. Past the width: nowhere.
    const auto head_of = [&](int g) { return (threadIdx.x * 4 + g * step) / half; };
    const auto place_of = [&](int g) { return (threadIdx.x * 4 + g * step) % half; };
    const auto is = [&](int g) { return threadIdx.x * 4 + g * step < width / 2; };
    uint2 weights[G][2];
#pragma unroll
    for (int g = 0; g < G; g++) {
        if (weight == nullptr || !is(g)) continue;
        const T* from = weight + head_of(g) * p.head_dim + place_of(g);
        weights[g][0] = load8(from);
        weights[g][1] = load8(from + half);
    }
    let_next_start();
    wait_for_previous();

    const uint32_t begin = part == 0 ? 0 : part == 1 ? q_width : q_width + kv_width;
    const float* parts = p.partials + size_t(r) * all + begin;
    const uint32_t position = p.positions[r], sequence = p.sequences[r];
    float4 low[G], high[G];
    float sums[1] = {0};
#pragma unroll
    for (int g = 0; g < G; g++) {
        if (!is(g)) continue;
        const float* from = parts + head_of(g) * p.head_dim + place_of(g);
        low[g] = sum_splits(from, p.splits, size_t(p.rows) * all);
        high[g] = sum_splits(from + half, p.splits, size_t(p.rows) * all);
        sums[0] = dot4(dot4(sums[0], low[g], low[g]), high[g], high[g]);
    }
    float scale = 1;
    if (weight) {
        block_sums(sums, room);
        scale = inverse_root(sums[0], width, p.eps);
    }

    const bool possible = position < p.positions_end;
    T* out = static_cast<T*>(p.q) + size_t(r) * q_width;
    if (part > 0) {
        if (sequence == ABSENT || !possible) return;
        const uint32_t page = p.pages[size_t(sequence) * p.pages_stride + position / PAGE_POSITIONS];
        if (page == ABSENT) return;
        out = static_cast<T*>(part == 1 ? p.keys : p.values) + page * p.page_stride + position % PAGE_POSITIONS * p.head_dim;
    }
    // Heads of q lie beside each other, those of a page 32 positions apart.
    const uint32_t head_stride = part == 0 ? p.head_dim : PAGE_POSITIONS * p.head_dim;
#pragma unroll
    for (int g = 0; g < G; g++) {
        if (!is(g)) continue;
        float4 a = low[g], b = high[g];
        if (weight) {
            a = times(times(a, scale), widened<T>(weights[g][0]));
            b = times(times(b, scale), widened<T>(weights[g][1]));
        }
        if (part < 2) {
            // A position without a rotary angle has no honest result.
            const float none = bits_float(0x7fc00000u);
            float4 c = make_float4(none, none, none, none), s = c;
            if (possible) {
                c = load_floats(p.cos + size_t(position) * half + place_of(g));
                s = load_floats(p.sin + size_t(position) * half + place_of(g));
            }
            // a c - b s and b c + a s, each a product and a fused one.
            const float4 turned = fused(times(b, -1.0f), s, times(a, c));
            b = fused(a, s, times(b, c));
            a = turned;
        }
        T* to = out + head_of(g) * head_stride + place_of(g);
        store_narrow(to, a);
        store_narrow(to + half, b);
    }
}

KERNEL(embed_bf16, 1024, EmbedParameters) { embed<bf16>(p); }
KERNEL(embed_f16, 1024, EmbedParameters) { embed<f16>(p); }

#define FOR_WIDTHS(T, G)                                                                                                           \
    KERNEL(finish_##T##_##G, 1024, FinishParameters) { finish<T, G>(p); }                                                          \
    KERNEL(place_##T##_##G, 1024, PlaceParameters) { place<T, G>(p); }

FOR_WIDTHS(bf16, 1)
FOR_WIDTHS(bf16, 2)
FOR_WIDTHS(f16, 1)
FOR_WIDTHS(f16, 2)
