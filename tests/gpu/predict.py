#!/usr/bin/env python3
"""Predicts how long the tensor-core kernels of a decode step of Olmo-3-7B take, to be printed beside what a GPU says.

For each kernel: the bytes it must move, how many of its blocks are on a multiprocessor at a time (shared memory, registers), how many
bytes they have on their way (Little: that over the latency is the most bandwidth they can draw), and the time

    fixed + max(memory bytes / memory rate, L2 bytes / L2 rate, tensor work / tensor rate)

where `fixed` is what a launch costs inside a graph: its start, the first bytes' latency, the end of the last block. Nothing here was
measured; the rates below are assumptions, and a measured memory rate can be given instead.

What was measured is a file of lines `name <tab> microseconds`, which the test gpu::tests::speed of the kernels' crate writes where
TILTMETER_KERNEL_TIMES says.

usage: predict.py [--memory TB/s] [--fixed us] [--gpu h200|h100] [--measured FILE]
"""

import argparse

SMS = 132
CLOCK = 1.755e9
SHARED = 227 * 1024  # bytes a multiprocessor can give to blocks; each takes 1 KiB more
REGISTERS = 65536
LATENCY = 0.9e-6  # of memory under load
L2_RATE = 5.5e12
STREAM = 0.93  # of the measured read bandwidth that a copy pipeline with enough bytes on their way is taken to reach
MMA_CYCLES = 6.5  # of m16n8k16 on one of a multiprocessor's four tensor cores, by mma.sync
FEW = {1: (4, 56), 2: (4, 66), 3: (3, 96), 4: (3, 106), 6: (3, 124), 8: (3, 152), 16: (3, 218)}  # tiles of x: stages, registers
MANY = {4: 256, 8: 416}  # tiles of x a warp: cycles of shared memory or tensor cores for 16 inputs of a block of 128 x 32 MT
MANY_SHARE = 0.7  # of those cycles that are taken to be used
LAYERS, WIDTH, HEADS, DIM, WINDOW, WINDOWED = 32, 4096, 32, 128, 4096, 24
LINEAR = [("qkv", 12288, 4096), ("o", 4096, 4096), ("gate+up", 22016, 4096), ("down", 4096, 11008), ("head", 100278, 4096)]


def up(a, b):
    return -(-a // b)


def splits(n, k):
    """As LinearShape::splits in kernels/src/gpu/linear.rs."""
    return max(1, min(396 // up(n, 128), 8, up(k, 64) // 8))


def resident(threads, shared, registers):
    by_registers = REGISTERS // (threads * up(registers, 8) * 8)
    return min(SHARED // (shared + 1024), by_registers, 2048 // threads, 32)


def linear(name, n, k, m, rate, fixed):
    tiles = next(t for t in FEW if 8 * t >= m)
    depth, registers = FEW[tiles]
    rows, parts = up(n, 128), splits(n, k)
    blocks = rows * parts
    shared = depth * (16384 + tiles * 1024)
    here = min(resident(128, shared, registers), up(blocks, SMS))
    flying = here * min(depth - 1, up(k, 64) // parts) * 16384
    weights = rows * 128 * up(k, 64) * 64 * 2
    combined = name == "gate+up" and parts > 1  # the others leave their parts to the next kernel
    sums = m * n * 4 * (parts * (2 if combined else 1) if parts > 1 else 1)
    l2 = weights + rows * m * k * 2 + sums
    drawn = min(rate * STREAM, flying * SMS / LATENCY)
    mma = rows * 8 * up(k, 16) * tiles * MMA_CYCLES / 4 / SMS / CLOCK
    seconds = fixed + max((weights + m * k * 2) / drawn, l2 / L2_RATE, mma)
    return dict(bytes=weights, blocks=blocks, here=here, flying=flying, l2=l2, us=seconds * 1e6, floor=weights / rate * 1e6, parts=parts)


def prefill_linear(name, n, k, m, rate, fixed):
    rows = up(n, 128)
    cycles = min(up(rows * up(m, 32 * tiles), SMS) * MANY[tiles] for tiles in MANY) * up(k, 16) / MANY_SHARE
    seconds = fixed + cycles / CLOCK
    return dict(flops=2 * m * n * k, us=seconds * 1e6)


def prefill_attention(length, rate, fixed):
    # A warp reads each tile of keys and values whole: 64 KiB for 16 rows, 128 bytes a cycle, half of the tiles under the diagonal.
    tiles = sum(up((first + 128), 64) for first in range(0, length, 128)) * HEADS
    seconds = fixed + up(tiles, SMS) * 8 * 32768 / 128 / MANY_SHARE / CLOCK
    return dict(flops=2 * 2 * HEADS * DIM * length * (length + 1) / 2, us=seconds * 1e6)


def attention(batch, length, window, rate, fixed):
    seen = min(length, window or length)
    chunks = up(length, 256) - (length - seen) // 256
    stored = batch * seen * HEADS * DIM * 2 * 2
    blocks = batch * HEADS * chunks
    shared = 4 * 32 * (DIM * 2 + 16)
    here = min(resident(32, shared, 208), up(blocks, SMS))
    flying = here * 3 * 32 * DIM * 2
    partials = blocks * DIM * 4 * 2
    drawn = min(rate * STREAM, flying * SMS / LATENCY)
    # Two launches; the second reads partial results out of L2.
    seconds = 2 * fixed + max(stored / drawn, (stored + partials) / L2_RATE) + partials / 2 / L2_RATE
    return dict(bytes=stored, blocks=blocks, here=here, flying=flying, l2=stored + partials, us=seconds * 1e6, floor=stored / rate * 1e6, parts=chunks)


def row(name, r, measured):
    share = 100 * r["floor"] / r["us"]
    there = measured.get(name)
    seen = f"{there:>11.1f}{100 * r['floor'] / there:>7.0f} %" if there else ""
    print(f"{name:<26}{r['bytes'] / 1e6:>9.1f}{r['parts']:>7}{r['blocks']:>8}{r['here']:>6}{r['flying'] / 1024:>9.0f}"
          f"{r['l2'] / 1e6:>9.1f}{r['floor']:>9.1f}{r['us']:>9.1f}{share:>7.0f} %{seen}")


def prefill_row(name, r, measured):
    there = measured.get(name)
    seen = f"   measured {there:9.1f} us, {r['flops'] / there / 1e6:5.0f} TFLOP/s" if there else ""
    print(f"{name:<32}{r['us']:9.1f} us, {r['flops'] / r['us'] / 1e6:5.0f} TFLOP/s{seen}")


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--gpu", choices=["h200", "h100"], default="h200")
    args.add_argument("--memory", type=float, help="read bandwidth in TB/s (default: 4.3, or 3.0 for h100)")
    args.add_argument("--fixed", type=float, default=2.5, help="microseconds of a launch in a graph")
    args.add_argument("--measured", help="file of lines: name, tab, microseconds")
    args = args.parse_args()
    measured = {}
    if args.measured:
        with open(args.measured, encoding="utf-8") as lines:
            measured = {name: float(us) for name, us in (line.rstrip("\n").split("\t") for line in lines if "\t" in line)}
    rate = (args.memory or {"h200": 4.3, "h100": 3.0}[args.gpu]) * 1e12
    fixed = args.fixed * 1e-6
    print(f"{args.gpu}: memory {rate / 1e12:.2f} TB/s of which a stream reaches {STREAM:.0%}, L2 {L2_RATE / 1e12} TB/s, latency "
          f"{LATENCY * 1e6:.1f} us, {args.fixed} us a launch; all assumed unless given")
    print(f"{'kernel':<26}{'MB':>9}{'splits':>7}{'blocks':>8}{'on SM':>6}{'KiB fly':>9}{'L2 MB':>9}{'floor':>9}{'us':>9}{'of floor':>9}"
          f"{'   measured of floor' if measured else ''}")
    for m in (1, 16, 48, 128):
        for name, n, k in LINEAR:
            row(f"{name} {n}x{k} m={m}", linear(name, n, k, m, rate, fixed), measured)
    for batch in (1, 16, 48):
        for length in (2048, 4096):
            row(f"attention B={batch} L={length}", attention(batch, length, None, rate, fixed), measured)
    print("\nPrefill:")
    for name, n, k in LINEAR[:4]:
        prefill_row(f"{name} {n}x{k} m=4096", prefill_linear(name, n, k, 4096, rate, fixed), measured)
    prefill_row("prefill attention L=4096", prefill_attention(4096, rate, fixed), measured)
    print("\nThe kernels above in a whole step (norms, sampling and projections come on top), ms:")
    for batch in (1, 16, 48):
        for length in (2048, 4096, 8192):
            full, windowed = (attention(batch, length, w, rate, fixed) for w in (None, WINDOW))
            parts = [linear(name, n, k, batch, rate, fixed) for name, n, k in LINEAR]
            us, floor = (
                sum(p[what] for p in parts[:4]) * LAYERS + parts[4][what] + full[what] * (LAYERS - WINDOWED) + windowed[what] * WINDOWED
                for what in ("us", "floor")
            )
            print(f"  B={batch:<3} L={length:<5} {us / 1000:8.2f}  floor {floor / 1000:6.2f}  {100 * floor / us:4.0f} %")


if __name__ == "__main__":
    main()
