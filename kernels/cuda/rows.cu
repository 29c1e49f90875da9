// Owns the kernels that bring rows from one place to another: token embeddings into the residual stream.
//
// Must not know: models, engine.

#include "common.cuh"

struct EmbedParameters {
    const void* table;     // [vocab, width]
    const uint32_t* ids;   // [rows]
    float* residual;       // [rows, width]
    uint32_t width, vocab; // width a multiple of 8
};

// One row a block.
template <typename T> DEVICE void embed(const EmbedParameters& p) {
    const uint32_t id = p.ids[blockIdx.x];
    const bool known = id < p.vocab;
    const T* from = static_cast<const T*>(p.table) + size_t(known ? id : 0) * p.width;
    float* out = p.residual + size_t(blockIdx.x) * p.width;
    for (uint32_t i = threadIdx.x * 8; i < p.width; i += blockDim.x * 8) {
        const uint4 word = known ? load16(from + i) : make_uint4(0, 0, 0, 0);
        const float2 a = unpack2<T>(word.x), b = unpack2<T>(word.y), c = unpack2<T>(word.z), d = unpack2<T>(word.w);
        store16(out + i, make_uint4(float_bits(a.x), float_bits(a.y), float_bits(b.x), float_bits(b.y)));
        store16(out + i + 4, make_uint4(float_bits(c.x), float_bits(c.y), float_bits(d.x), float_bits(d.y)));
    }
}

KERNEL(embed_bf16, 256, EmbedParameters) { embed<bf16>(p); }
KERNEL(embed_f16, 256, EmbedParameters) { embed<f16>(p); }
