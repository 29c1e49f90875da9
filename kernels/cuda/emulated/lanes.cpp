// Warp-level operations of the emulated device, and 16-bit floats: shuffles, votes, matrices from shared
// memory, the product of matrix fragments, and rounding to nearest even.
//
// Fragments of m16n8k16 (PTX ISA), lane = 4 g + t: A holds rows g and g + 8 at columns 2t, 2t + 1 and 2t + 8, 2t + 9; B holds column g at
// rows 2t, 2t + 1 and 2t + 8, 2t + 9; D holds rows g and g + 8 at columns 2t and 2t + 1.
//

#include "../common.cuh"

namespace emulated {

uint64_t exchange(uint64_t given, int from) {
    Shuffle mine{given, 0, from};
    collective("shuffle", &mine, [](void* const* lanes) {
        for (int i = 0; i < 32; i++) {
            Shuffle& lane = *static_cast<Shuffle*>(lanes[i]);
            const int other = lane.from >= 0 && lane.from < 32 ? lane.from : i;
            lane.taken = static_cast<Shuffle*>(lanes[other])->given;
        }
    });
    return mine.taken;
}

namespace {

struct Vote {
    bool set;
    uint32_t all;
};

struct Rows {
    const void* row;
    uint32_t* r;
    int count;
    bool transposed;
};

struct Fragments {
    float* d;
    const uint32_t *a, *b;
    float (*value)(uint16_t);
};

uint16_t half_of(uint32_t word, int half) { return uint16_t(word >> 16 * half); }

void load(void* const* lanes) {
    for (int i = 0; i < 32; i++) {
        const Rows& lane = *static_cast<Rows*>(lanes[i]);
        for (int matrix = 0; matrix < lane.count; matrix++) {
            uint32_t word = 0;
            for (int half = 0; half < 2; half++) {
                const int column = lane.transposed ? i / 4 : i % 4 * 2 + half;
                const int row = lane.transposed ? i % 4 * 2 + half : i / 4;
                const auto* from = static_cast<const uint16_t*>(static_cast<Rows*>(lanes[matrix * 8 + row])->row);
                word |= uint32_t(from[column]) << 16 * half;
            }
            lane.r[matrix] = word;
        }
    }
}

void multiply(void* const* lanes) {
    float a[16][16], b[8][16];
    for (int i = 0; i < 32; i++) {
        const Fragments& lane = *static_cast<Fragments*>(lanes[i]);
        const int g = i / 4, t = i % 4 * 2;
        for (int half = 0; half < 2; half++) {
            for (int part = 0; part < 4; part++) {
                a[g + part % 2 * 8][t + part / 2 * 8 + half] = lane.value(half_of(lane.a[part], half));
            }
            for (int part = 0; part < 2; part++) b[g][t + part * 8 + half] = lane.value(half_of(lane.b[part], half));
        }
    }
    for (int i = 0; i < 32; i++) {
        const Fragments& lane = *static_cast<Fragments*>(lanes[i]);
        const int g = i / 4, t = i % 4 * 2;
        for (int j = 0; j < 4; j++) {
            const float* x = a[g + j / 2 * 8];
            const float* y = b[t + j % 2];
            double sum = 0;
            for (int k = 0; k < 16; k++) sum += double(x[k]) * double(y[k]);
            lane.d[j] = float(double(lane.d[j]) + sum);
        }
    }
}

} // namespace

uint32_t vote(bool set) {
    Vote mine{set, 0};
    collective("warp_ballot or warp_barrier", &mine, [](void* const* lanes) {
        uint32_t all = 0;
        for (int i = 0; i < 32; i++) all |= uint32_t(static_cast<Vote*>(lanes[i])->set) << i;
        for (int i = 0; i < 32; i++) static_cast<Vote*>(lanes[i])->all = all;
    });
    return mine.all;
}

void load_matrices(const char* what, uint32_t* r, const void* row, int count, bool transposed) {
    // Of two matrices only the first sixteen lanes name rows; what the others name is not looked at.
    if (int(threadIdx.x % 32) < count * 8) check_shared(row, 16, what);
    Rows mine{row, r, count, transposed};
    collective(what, &mine, load);
}

void multiply_accumulate(float d[4], const uint32_t a[4], const uint32_t b[2], float (*value)(uint16_t)) {
    Fragments mine{d, a, b, value};
    collective("mma_16x8x16", &mine, multiply);
}

float from_bf16(uint16_t bits) { return bits_float(uint32_t(bits) << 16); }

uint16_t into_bf16(float x) {
    const uint32_t bits = float_bits(x);
    if (std::isnan(x)) return 0x7fff;
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float from_f16(uint16_t bits) {
    const uint32_t exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float x = exponent == 31  ? (mantissa ? NAN : INFINITY)
              : exponent == 0 ? std::ldexp(float(mantissa), -24)
                              : std::ldexp(float(mantissa + 1024), int(exponent) - 25);
    return bits >> 15 ? -x : x;
}

uint16_t into_f16(float x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const float size = std::fabs(x);
    if (std::isnan(x)) return 0x7fff;
    if (size >= 65520.0f) return sign | 0x7c00;
    if (size < 6.103515625e-05f) return sign | uint16_t(std::nearbyint(std::ldexp(size, 24)));
    int exponent;
    std::frexp(size, &exponent); // size in [2^(exponent - 1), 2^exponent)
    const auto mantissa = uint32_t(std::nearbyint(std::ldexp(size, 11 - exponent))); // 1024..2048
    return sign | uint16_t((uint32_t(exponent + 13) << 10) + mantissa);
}

} // namespace emulated
