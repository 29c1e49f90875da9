#!/usr/bin/env python3
"""Speed of torch's linear layer at [2048 -> 8192] with weights that come from memory: what `tests/benches/linear.rs` is set beside.

    python torch_linear.py                                    # f32; bf16 with what oneDNN chooses and without AMX; 2 threads
    python torch_linear.py --isa avx512_core_bf16 --rows 1,16 --seconds 0.5 --json

Calls go round several copies of the weights, together --bytes, so that none is in a cache when its turn comes. `F.linear` as a
model calls it: weights [out, in] as a checkpoint has them, activations of the weights' dtype, no bias, inference mode; nothing
is packed beforehand or compiled.

--isa sets ONEDNN_MAX_CPU_ISA, which oneDNN reads once, so every setting has a process of its own; `default` leaves the choice to
oneDNN (AMX where the CPU has it). f32 goes to MKL, which the setting does not concern, and is measured in the first one only.

Column `kernel` is what really ran, from oneDNN's and MKL's own logs of one call at that row count, taken before timing. `aten`:
neither was called.
"""

import argparse
import json
import platform
import time

from bench_common import DEFAULT_ISA, Others, best_isa, kernel_of, log_of, machine, names, numbers, table, under_isa

N_OUT, K_IN = 8192, 2048


def measure(arguments):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(arguments.threads)
    dtypes = {"f32": torch.float32, "bf16": torch.bfloat16}
    rows, says = [], None
    with torch.inference_mode():
        for name in arguments.dtype:
            first = torch.randn(N_OUT, K_IN, generator=torch.Generator().manual_seed(0)).to(dtypes[name])
            size = first.numel() * first.element_size()
            copies = [first] + [first.clone() for _ in range(-(-arguments.bytes * 2**20 // size) - 1)]
            for m in arguments.rows:
                x = torch.randn(m, K_IN, generator=torch.Generator().manual_seed(m)).to(dtypes[name])
                lines = log_of(lambda: F.linear(x, first))
                says = says or best_isa(lines)
                times, began, at = [], time.perf_counter(), 0
                while time.perf_counter() - began < arguments.seconds or len(times) < 6:
                    at = (at + 1) % len(copies)
                    before = time.perf_counter()
                    F.linear(x, copies[at])
                    times.append(time.perf_counter() - before)
                times.sort()
                gflop = 2e-9 * m * N_OUT * K_IN
                rows.append({
                    "weights": name, "m": m, "gflops": gflop / times[0], "gflops_median": gflop / times[len(times) // 2],
                    "weights_gb_per_s": 1e-9 * size / times[0], "calls": len(times), "kernel": kernel_of(lines),
                })  # fmt: skip
    return {
        "torch": torch.__version__, "onednn_says": says, "aten": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(), "rows": rows
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", type=names, default=f"{DEFAULT_ISA},avx512_core_bf16", help="ONEDNN_MAX_CPU_ISA; several, with commas between")
    parser.add_argument("--dtype", type=names, default="f32,bf16")
    parser.add_argument("--rows", type=numbers, default="1,2,4,8,16,48,512", help="rows of activations")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each row count")
    parser.add_argument("--bytes", type=int, default=1024, help="MiB of weights in all copies together, at least")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments)))
        return

    about, others, rows, said = machine(), Others(), [], {}
    for index, isa in enumerate(arguments.isa):
        dtypes = arguments.dtype if index == 0 else [dtype for dtype in arguments.dtype if dtype != "f32"]
        if not dtypes:
            continue
        fixed = ["--here", "--dtype", ",".join(dtypes), "--rows", ",".join(map(str, arguments.rows)), "--seconds", str(arguments.seconds)]
        said = under_isa(isa, arguments.threads, [*fixed, "--bytes", str(arguments.bytes), "--threads", str(arguments.threads)])
        rows += [{"isa": "any" if row["weights"] == "f32" else isa} | row for row in said["rows"]]
        if said["onednn_says"]:
            about += f"\n`{isa}`: oneDNN says {said['onednn_says']}"
    if arguments.json:
        result = {"peer": "torch", "torch": said["torch"], "python": platform.python_version(), "threads": said["threads"], "machine": about}
        result["others_cores"] = others.cores()
        print(json.dumps(result | {"k": K_IN, "n": N_OUT, "copies_mib": arguments.bytes, "rows": rows}))
        return
    print(f"torch {said['torch']}, [{K_IN} -> {N_OUT}], {said['threads']} threads; best and median of many calls\n{about}\n{others}\n")
    print(table(
        ["weights", "isa", "m", "GFLOP/s", "median", "weights GB/s", "kernel"],
        [[r["weights"], r["isa"], r["m"], f"{r['gflops']:.0f}", f"{r['gflops_median']:.0f}", f"{r['weights_gb_per_s']:.1f}", r["kernel"]] for r in rows],
    ))  # fmt: skip


if __name__ == "__main__":
    main()
