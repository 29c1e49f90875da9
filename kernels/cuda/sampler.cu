// Sampling of the next token on the device, and the bookkeeping that lets the next step start without the host.
//
// What is drawn is defined in whole numbers, so that no order of sums shows in it. With top the largest logit of the row, a token has
//
//     distance  a = top - x, f32 (as the host's sampler subtracts); its bits are its rank, the smallest first; ties have the same
//     weight    w = floor(2^43 e^(-a / temperature) + 1/2); NaN and -inf have none
//
// top-k keeps the k smallest distances, top-p of those the smallest set whose weights reach p of theirs, both with all ties of the
// last one; min-p of those keeps e^(-a / temperature) >= p. Then the inverse of the cumulative distribution in token order: the first token
// whose running sum of weights passes u * total, u having 53 bits of Philox4x32-10 (Salmon et al. 2011) at (key, stream, index).
// Temperature 0: the largest logit, of equals the first. A row without a finite largest logit: none.
//
// The host's sampler does the same with f64 weights that are never 0: it differs where u falls within about 1e-13 of the border of
// two tokens, and for tokens that are less than 2^-44 as likely as the best, which are never drawn here.
//

#include "rows.cuh"

constexpr uint32_t CHUNK_LOGITS = 4096; // of a block in the first two kernels
constexpr uint32_t BINS = 2048;
constexpr uint32_t LAST_RANK = 0x7f7fffffu; // of the largest finite distance

struct SamplerRow {
    uint64_t key, stream, index;        // of Philox; index is that of the next draw
    double temperature, top_p, min_p;   // top_p from 1 on and min_p up to 0 keep everything
    uint32_t top_k;                     // 0 keeps everything
    uint32_t left;                      // how many tokens the row may still draw
    uint32_t active;                    // 0: nothing is drawn nor written
    uint32_t finish;                    // why it is no longer active: 1 a stop token, 2 none left, 3 nothing could be drawn
};

struct SamplerParameters {
    const float* logits;           // [rows][logits_stride]
    const uint32_t* slots;         // [rows]: which slot a row of logits is for; none: r
    SamplerRow* states;            // [slots]
    float* best;                   // [rows][chunks]
    uint32_t* best_id;             // [rows][chunks]
    uint64_t* mass;                // [rows][chunks]
    uint32_t* bin_count;           // [rows][BINS]
    uint64_t* bin_mass;            // [rows][BINS]
    const uint32_t* stops;         // [stops_count]
    uint32_t* sampled;             // [slots]: the token drawn, ABSENT for none
    uint32_t* finished;            // [slots]: SamplerRow.finish
    uint32_t* ids;                 // [slots]: the next step's input; none: not kept
    uint32_t* positions;           // [slots]: one further; none: not kept
    uint32_t* tokens;              // [slots]: 0 when the row ends; none: not kept
    uint32_t* sequences;           // [slots]: ABSENT when the row ends; none: not kept
    uint32_t rows, vocab, logits_stride, chunks, stops_count, unused;
};

DEVICE bool filtered(const SamplerRow& row) { return row.top_k > 0 || row.top_p < 1.0; }
DEVICE uint32_t slot_of(const SamplerParameters& p, uint32_t r) { return p.slots ? p.slots[r] : r; }

// Smaller is better; beyond LAST_RANK: not a candidate.
DEVICE uint32_t rank_of(float x, float top) {
    const float distance = top - x;
    return distance >= 0.0f ? float_bits(distance) & 0x7fffffffu : 0xffffffffu; // NaN is not >= 0; -0 is 0
}

// e^x for x in [-31, 0]: 2^n e^r with |r| <= ln 2 / 2, e^r by its series to r^13 (the next term is under 1e-17).
DEVICE double exp_double(double x) {
    const double n = rint(x * 1.4426950408889634);
    double r = fma(-n, 6.93147180369123816490e-01, x); // ln 2 in two parts, the first with zeros at its end (Cody and Waite 1980)
    r = fma(-n, 1.90821492927058770002e-10, r);
    double sum = 1.6059043836821613e-10; // 1 / 13!
    sum = fma(sum, r, 2.08767569878681e-09);
    sum = fma(sum, r, 2.505210838544172e-08);
    sum = fma(sum, r, 2.755731922398589e-07);
    sum = fma(sum, r, 2.7557319223985893e-06);
    sum = fma(sum, r, 2.48015873015873e-05);
    sum = fma(sum, r, 0.0001984126984126984);
    sum = fma(sum, r, 0.001388888888888889);
    sum = fma(sum, r, 0.008333333333333333);
    sum = fma(sum, r, 0.041666666666666664);
    sum = fma(sum, r, 0.16666666666666666);
    sum = fma(sum, r, 0.5);
    sum = fma(sum, r, 1.0);
    sum = fma(sum, r, 1.0);
    return sum * bits_double(uint64_t(int64_t(n) + 1023) << 52);
}

// Under `limit` or not a candidate: 0.
DEVICE uint64_t weight_of(uint32_t rank, uint32_t limit, double temperature, double min_p) {
    if (rank > limit) return 0;
    const double x = -double(bits_float(rank)) / temperature;
    if (x < -31.0) return 0; // 2^43 e^-31 is 0.3
    const double e = exp_double(x);
    if (e < min_p) return 0;
    return uint64_t(fma(e, 8796093022208.0, 0.5));
}

// A better one, or an equal one that comes first.
DEVICE bool beats(float x, uint32_t id, float best, uint32_t best_id) {
    return id != ABSENT && (best_id == ABSENT || x > best || (x == best && id < best_id));
}

// The largest of each chunk, NaN left aside. Grid (chunks, rows), 256 threads.
DEVICE void scan(const SamplerParameters& p) {
    let_next_start();
    wait_for_previous();
    SHARED(float, best_room, 32);
    SHARED(uint32_t, id_room, 32);
    const uint32_t r = blockIdx.y, chunk = blockIdx.x;
    const SamplerRow& row = p.states[slot_of(p, r)];
    if (row.active == 0) return;
    if (filtered(row)) {
        for (uint32_t bin = chunk * blockDim.x + threadIdx.x; bin < BINS; bin += gridDim.x * blockDim.x) {
            p.bin_count[size_t(r) * BINS + bin] = 0;
            p.bin_mass[size_t(r) * BINS + bin] = 0;
        }
    }
    const float* logits = p.logits + size_t(r) * p.logits_stride;
    const uint32_t end = p.vocab < (chunk + 1) * CHUNK_LOGITS ? p.vocab : (chunk + 1) * CHUNK_LOGITS;
    float best = 0;
    uint32_t best_id = ABSENT;
#pragma unroll 4
    for (uint32_t i = chunk * CHUNK_LOGITS + threadIdx.x; i < end; i += blockDim.x) {
        const float x = logits[i];
        if (x == x && beats(x, i, best, best_id)) best = x, best_id = i;
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        const float x = shuffle_xor(best, mask);
        const uint32_t id = shuffle_xor(best_id, mask);
        if (beats(x, id, best, best_id)) best = x, best_id = id;
    }
    if (lane() == 0) best_room[warp()] = best, id_room[warp()] = best_id;
    barrier();
    if (threadIdx.x == 0) {
        for (uint32_t w = 1; w < blockDim.x / 32; w++) {
            if (beats(best_room[w], id_room[w], best, best_id)) best = best_room[w], best_id = id_room[w];
        }
        p.best[size_t(r) * p.chunks + chunk] = best;
        p.best_id[size_t(r) * p.chunks + chunk] = best_id;
    }
}

// The largest of the row; every thread of a warp gets it.
DEVICE void best_of_row(const SamplerParameters& p, uint32_t r, float& best, uint32_t& best_id) {
    best = 0, best_id = ABSENT;
    for (uint32_t c = lane(); c < p.chunks; c += 32) {
        const float x = p.best[size_t(r) * p.chunks + c];
        const uint32_t id = p.best_id[size_t(r) * p.chunks + c];
        if (beats(x, id, best, best_id)) best = x, best_id = id;
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        const float x = shuffle_xor(best, mask);
        const uint32_t id = shuffle_xor(best_id, mask);
        if (beats(x, id, best, best_id)) best = x, best_id = id;
    }
}

// Whether a token can be drawn by chance at all: it is not greedy, and the largest logit is finite.
DEVICE bool drawable(const SamplerRow& row, float best, uint32_t best_id) {
    return row.temperature > 0.0 && best_id != ABSENT && best - best == 0.0f;
}

// The weights of each chunk together and, for rows with top-k or top-p, of each bin of ranks. Grid (chunks, rows), 256 threads.
DEVICE void weigh(const SamplerParameters& p) {
    let_next_start();
    wait_for_previous();
    SHARED(uint64_t, room, 32);
    SHARED(uint32_t, counts, BINS);
    SHARED(uint64_t, masses, BINS);
    const uint32_t r = blockIdx.y, chunk = blockIdx.x;
    const SamplerRow& row = p.states[slot_of(p, r)];
    if (row.active == 0) return;
    float best;
    uint32_t best_id;
    best_of_row(p, r, best, best_id);
    if (!drawable(row, best, best_id)) return;
    const bool binned = filtered(row);
    if (binned) {
        for (uint32_t bin = threadIdx.x; bin < BINS; bin += blockDim.x) counts[bin] = 0, masses[bin] = 0;
        barrier();
    }
    const float* logits = p.logits + size_t(r) * p.logits_stride;
    const uint32_t end = p.vocab < (chunk + 1) * CHUNK_LOGITS ? p.vocab : (chunk + 1) * CHUNK_LOGITS;
    const double temperature = row.temperature, min_p = binned ? 0.0 : row.min_p; // min-p comes after the others
    uint64_t sum = 0;
#pragma unroll 4
    for (uint32_t i = chunk * CHUNK_LOGITS + threadIdx.x; i < end; i += blockDim.x) {
        const uint32_t rank = rank_of(logits[i], best);
        if (rank > LAST_RANK) continue;
        const uint64_t weight = weight_of(rank, LAST_RANK, temperature, min_p);
        sum += weight;
        if (binned) {
            atomic_add(&counts[rank >> 20], 1u);
            if (weight > 0) atomic_add(&masses[rank >> 20], weight);
        }
    }
    sum = warp_sum(sum);
    if (lane() == 0) room[warp()] = sum;
    barrier();
    if (threadIdx.x == 0) {
        for (uint32_t w = 1; w < blockDim.x / 32; w++) sum += room[w];
        p.mass[size_t(r) * p.chunks + chunk] = sum;
    }
    if (binned) {
        for (uint32_t bin = threadIdx.x; bin < BINS; bin += blockDim.x) {
            if (counts[bin] > 0) atomic_add(&p.bin_count[size_t(r) * BINS + bin], counts[bin]);
            if (masses[bin] > 0) atomic_add(&p.bin_mass[size_t(r) * BINS + bin], masses[bin]);
        }
    }
}

// Ten rounds; the 53 uppermost bits of the first two words.
DEVICE uint64_t philox53(uint64_t key, uint64_t stream, uint64_t index) {
    uint32_t c[4] = {uint32_t(index), uint32_t(index >> 32), uint32_t(stream), uint32_t(stream >> 32)};
    uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t a = uint64_t(0xD2511F53u) * c[0], b = uint64_t(0xCD9E8D57u) * c[2];
        const uint32_t next[4] = {uint32_t(b >> 32) ^ c[1] ^ k0, uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ k1, uint32_t(a)};
        c[0] = next[0], c[1] = next[1], c[2] = next[2], c[3] = next[3];
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return (uint64_t(c[0]) << 32 | c[1]) >> 11;
}

// The sum of x over all threads before this one, of which there are 1024, and of all in `total`. `room` has 33 numbers.
DEVICE uint64_t sum_before(uint64_t x, uint64_t* room, uint64_t& total) {
    uint64_t sum = x;
#pragma unroll
    for (int by = 1; by < 32; by *= 2) {
        const uint64_t other = shuffle_up(sum, by);
        if (int(lane()) >= by) sum += other;
    }
    barrier();
    if (lane() == 31) room[warp()] = sum;
    barrier();
    uint64_t before = 0, all = 0;
    for (uint32_t w = 0; w < 32; w++) {
        if (w < warp()) before += room[w];
        all += room[w];
    }
    total = all;
    return before + sum - x;
}

// What the search for a rank carries: the smallest rank such that as many tokens, or as much weight, have it or a smaller one.
struct Search {
    uint32_t prefix;       // the rank's upper bits so far
    uint64_t below, mass;  // wanted quantity, and weight, of the ranks with smaller upper bits
};

// One of the bins of `counts` and `masses` is the one in which the wanted quantity is reached: the first with before + its own
// >= target. All threads call; every thread gets the bin. Without one, the last bin that holds anything.
DEVICE uint32_t find_bin(const uint32_t* counts, const uint64_t* masses, bool by_mass, uint64_t target, Search& search, uint64_t* room,
    uint64_t* found) {
    const uint32_t first = threadIdx.x * 2;
    uint64_t own[2], own_mass[2];
    for (uint32_t j = 0; j < 2; j++) own_mass[j] = masses[first + j], own[j] = by_mass ? own_mass[j] : counts[first + j];
    uint64_t total, total_mass;
    const uint64_t before = sum_before(own[0] + own[1], room, total) + search.below;
    const uint64_t before_mass = sum_before(own_mass[0] + own_mass[1], room, total_mass) + search.mass;
    const uint64_t wanted = target < search.below + total ? target : search.below + total;
    if (threadIdx.x == 0) found[0] = 0, found[1] = search.below, found[2] = search.mass; // nothing is wanted: the first bin
    barrier();
    for (uint32_t j = 0; j < 2; j++) {
        const uint64_t begin = before + (j ? own[0] : 0);
        if (begin < wanted && begin + own[j] >= wanted) {
            found[0] = first + j, found[1] = begin, found[2] = before_mass + (j ? own_mass[0] : 0);
        }
    }
    barrier();
    search.below = found[1], search.mass = found[2];
    const auto bin = uint32_t(found[0]);
    barrier();
    return bin;
}

// The rank searched for, and in `mass` the weight of all up to it. `counts` and `masses` are room for BINS each.
DEVICE uint32_t find_rank(const SamplerParameters& p, uint32_t r, float top, double temperature, bool by_mass, uint64_t target,
    uint32_t* counts, uint64_t* masses, uint64_t* room, uint64_t* found, uint64_t& mass) {
    const float* logits = p.logits + size_t(r) * p.logits_stride;
    Search search{0, 0, 0};
    for (int level = 0; level < 3; level++) {
        const int shift = level == 0 ? 20 : level == 1 ? 9 : 0, width = level == 2 ? 9 : 11;
        for (uint32_t bin = threadIdx.x; bin < BINS; bin += blockDim.x) {
            counts[bin] = level == 0 ? p.bin_count[size_t(r) * BINS + bin] : 0;
            masses[bin] = level == 0 ? p.bin_mass[size_t(r) * BINS + bin] : 0;
        }
        barrier();
        if (level > 0) {
#pragma unroll 4
            for (uint32_t i = threadIdx.x; i < p.vocab; i += blockDim.x) {
                const uint32_t rank = rank_of(logits[i], top);
                if (rank > LAST_RANK || rank >> (shift + width) != search.prefix) continue;
                const uint32_t bin = rank >> shift & ((1u << width) - 1);
                atomic_add(&counts[bin], 1u);
                const uint64_t weight = weight_of(rank, LAST_RANK, temperature, 0.0);
                if (weight > 0) atomic_add(&masses[bin], weight);
            }
            barrier();
        }
        const uint32_t bin = find_bin(counts, masses, by_mass, target, search, room, found);
        if (level == 2) mass = search.mass + masses[bin];
        search.prefix = search.prefix << width | bin;
        barrier();
    }
    return search.prefix;
}

// The token of a row, and what follows from it. Grid (rows), 1024 threads.
DEVICE void pick(const SamplerParameters& p) {
    let_next_start();
    wait_for_previous();
    SHARED(uint32_t, counts, BINS);
    SHARED(uint64_t, masses, BINS);
    SHARED(uint64_t, room, 33);
    SHARED(uint64_t, found, 4);
    const uint32_t r = blockIdx.x, slot = slot_of(p, r);
    SamplerRow& row = p.states[slot];
    if (row.active == 0) {
        if (threadIdx.x == 0) p.sampled[slot] = ABSENT;
        return;
    }
    float best;
    uint32_t token;
    best_of_row(p, r, best, token);
    const bool finite = token != ABSENT && best - best == 0.0f;
    if (!finite) token = ABSENT;

    if (drawable(row, best, token)) {
        const float* logits = p.logits + size_t(r) * p.logits_stride;
        const double temperature = row.temperature;
        uint32_t limit = LAST_RANK;
        uint64_t* mass = p.mass + size_t(r) * p.chunks;
        if (filtered(row)) {
            uint64_t kept;
            if (row.top_k > 0) {
                limit = find_rank(p, r, best, temperature, false, row.top_k, counts, masses, room, found, kept);
            } else {
                uint64_t own = 0;
                for (uint32_t c = threadIdx.x; c < p.chunks; c += blockDim.x) own += mass[c];
                sum_before(own, room, kept);
            }
            if (row.top_p < 1.0) {
                const double wanted = ceil(row.top_p * double(kept));
                const uint64_t target = wanted < 1.0 ? 1 : uint64_t(wanted);
                uint64_t reached;
                const uint32_t by_mass = find_rank(p, r, best, temperature, true, target, counts, masses, room, found, reached);
                limit = by_mass < limit ? by_mass : limit;
            }
            // The chunks' weights again, of what is kept: a warp a chunk.
            for (uint32_t c = warp(); c < p.chunks; c += blockDim.x / 32) {
                uint64_t sum = 0;
                for (uint32_t i = c * CHUNK_LOGITS + lane(); i < (c + 1) * CHUNK_LOGITS && i < p.vocab; i += 32) {
                    sum += weight_of(rank_of(logits[i], best), limit, temperature, row.min_p);
                }
                sum = warp_sum(sum);
                if (lane() == 0) mass[c] = sum;
            }
            barrier();
        }
        uint64_t total = 0;
        for (uint32_t c = 0; c < p.chunks; c++) total += mass[c];
        // floor(u total), u = bits / 2^53
        const uint64_t bits = philox53(row.key, row.stream, row.index);
        const uint64_t threshold = multiply_high(bits << 11, total);
        uint64_t before = 0;
        uint32_t chunk = 0;
        while (chunk + 1 < p.chunks && before + mass[chunk] <= threshold) before += mass[chunk++];

        uint64_t weights[4], own = 0, all;
        const uint32_t first = chunk * CHUNK_LOGITS + threadIdx.x * 4;
        for (uint32_t j = 0; j < 4; j++) {
            weights[j] = first + j < p.vocab ? weight_of(rank_of(logits[first + j], best), limit, temperature, row.min_p) : 0;
            own += weights[j];
        }
        before += sum_before(own, room, all);
        if (threadIdx.x == 0) found[3] = token;
        barrier();
        for (uint32_t j = 0; j < 4; j++) {
            if (before <= threshold && before + weights[j] > threshold) found[3] = first + j;
            before += weights[j];
        }
        barrier();
        token = uint32_t(found[3]);
    }

    barrier(); // everybody has read the row
    if (threadIdx.x != 0) return;
    bool stop = false;
    for (uint32_t i = 0; i < p.stops_count; i++) stop |= p.stops[i] == token;
    const uint32_t finish = token == ABSENT ? 3 : stop ? 1 : row.left <= 1 ? 2 : 0;
    p.sampled[slot] = token;
    p.finished[slot] = finish;
    row.index += 1;
    if (row.left > 0) row.left -= 1;
    row.finish = finish;
    if (finish != 0) {
        row.active = 0;
        if (p.tokens) p.tokens[slot] = 0;
        if (p.sequences) p.sequences[slot] = ABSENT;
    }
    if (p.ids) p.ids[slot] = token;
    if (p.positions && finish != 3) p.positions[slot] += 1;
}

KERNEL(sampler_scan, 256, SamplerParameters) { scan(p); }
KERNEL(sampler_weigh, 256, SamplerParameters) { weigh(p); }
KERNEL(sampler_pick, 1024, SamplerParameters) { pick(p); }
