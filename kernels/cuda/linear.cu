// The linear kernels: linear.cuh for few rows of x (a decode step: weights stream by once, splits in blocks of their own) and
// for many (prefill: 128 x 128 or 256 of y a block, splits one after the other). Which one runs is a matter of speed and never of bits.
//
// Few rows, grid (row blocks, splits, blocks of 8 MT rows of x): a stage is 16 KiB of weights and MT KiB of x. Many rows, grid (blocks
// of 32 MT rows of x, row blocks): neighbours share the weights, x stays in L2. Per 16 inputs such a block reads 8 (2 + MT / 4) KiB of
// fragments from shared memory and is written 4 + MT KiB, at 128 bytes a cycle, for 32 MT mma, at four in some 6.5 cycles: with 128
// rows of x shared memory is what limits it (256 to 208 cycles), with 256 the tensor cores are (352 to 416).
//
// Why not wgmma for many rows, which has half as much again to give: whether it sums the 16 products of a step as mma.sync does is not
// documented, and a prompt must get the bits that decoding gives. A GPU can tell (both on the same fragments, bits compared).
//

#include "linear.cuh"

#define FEW(T, MT, DEPTH, RESIDENT)                                                                                                \
    KERNEL_RESIDENT(linear_##T##_few##MT, 128, RESIDENT, LinearParameters) { Linear<T, 2, 4, MT, 1, DEPTH, false>::run(p); }
#define FEW_WIDE(T)                                                                                                                \
    KERNEL_RESIDENT(linear_##T##_few16, 128, 2, LinearParameters) { Linear<T, 4, 2, 8, 2, 3, false>::run(p); }
#define MANY(T, MT, DEPTH)                                                                                                         \
    KERNEL_RESIDENT(linear_##T##_many##MT, 256, 1, LinearParameters) { Linear<T, 4, 2, MT, 4, DEPTH, true>::run(p); }

FEW(bf16, 1, 4, 3)
FEW(bf16, 2, 4, 3)
FEW(bf16, 3, 3, 3)
FEW(bf16, 4, 3, 3)
FEW(bf16, 6, 3, 3)
FEW(bf16, 8, 3, 3)
FEW_WIDE(bf16)
MANY(bf16, 4, 4)
MANY(bf16, 8, 2)

FEW(f16, 1, 4, 3)
FEW(f16, 2, 4, 3)
FEW(f16, 3, 3, 3)
FEW(f16, 4, 3, 3)
FEW(f16, 6, 3, 3)
FEW(f16, 8, 3, 3)
FEW_WIDE(f16)
MANY(f16, 4, 4)
MANY(f16, 8, 2)
