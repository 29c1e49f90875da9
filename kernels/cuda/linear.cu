// Owns the linear kernels: linear.cuh for few rows of x (a decode step: weights stream by once, splits in blocks of their own) and
// for many (prefill: 128 x 128 of y a block, splits one after the other). Which one runs is a matter of speed and never of bits.
//
// Few rows, grid (row blocks, splits, blocks of 8 MT rows of x): a stage is 16 KiB of weights and MT KiB of x. Many rows, grid (blocks
// of 128 rows of x, row blocks): neighbours share the weights, x stays in L2.
//
// Must not know: models, engine.

#include "linear.cuh"

#define FEW(T, MT, DEPTH, RESIDENT)                                                                                                \
    KERNEL_RESIDENT(linear_##T##_few##MT, 128, RESIDENT, LinearParameters) { Linear<T, 2, 4, MT, 1, DEPTH, false>::run(p); }
#define MANY(T)                                                                                                                    \
    KERNEL_RESIDENT(linear_##T##_many, 256, 1, LinearParameters) { Linear<T, 4, 2, 4, 4, 4, true>::run(p); }

FEW(bf16, 1, 4, 3)
FEW(bf16, 2, 4, 3)
FEW(bf16, 3, 4, 2)
FEW(bf16, 4, 4, 2)
FEW(bf16, 6, 3, 3)
FEW(bf16, 8, 3, 3)
MANY(bf16)

FEW(f16, 1, 4, 3)
FEW(f16, 2, 4, 3)
FEW(f16, 3, 4, 2)
FEW(f16, 4, 4, 2)
FEW(f16, 6, 3, 3)
FEW(f16, 8, 3, 3)
MANY(f16)
