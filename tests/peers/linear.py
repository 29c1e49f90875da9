"""The linear layer alone with cold weights: `tests/benches/linear.rs` (ours and candle's) and torch_linear.py in turns, and their
ratios in one table.

    ./linear.sh                          # three rounds, some two minutes
    ./linear.sh --rounds 5 --seconds 0.3 --isa default

A round is the whole of our bench, then the whole of torch's with --seconds for each row count, so that a machine that slows down slows
both. GFLOP/s are the best of all rounds, in brackets the median of the rounds' medians; ratios are those of the best, then of the
medians.
"""

import argparse
import json
import statistics
import subprocess
import sys

from bench_common import DEFAULT_ISA, HERE, ROOT, Others, machine, names, numbers, table


def built():
    """Builds our bench; returns the path of its program."""
    command = ["cargo", "bench", "--bench", "linear", "--no-run", "--message-format=json", "--quiet"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    messages = [message for message in map(json.loads, lines) if message.get("executable")]
    return next(message["executable"] for message in messages if message["target"]["name"] == "linear")


def ours(program, arguments):
    """(name, rows of activations) to GFLOP/s (best, median); and what the machine can do at best."""
    command = [program, str(arguments.threads), "--seconds", str(arguments.seconds), "--json"]
    said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    found = {(row["name"], row["m"]): (row["best_flops"] / 1e9, row["median_flops"] / 1e9) for row in said["rows"]}
    return found, said["read_bytes_per_s"] / 1e9, said["peak_flops"] / 1e9


def torch(arguments):
    command = [sys.executable, str(HERE / "torch_linear.py"), "--seconds", str(arguments.seconds), "--threads", str(arguments.threads), "--json"]
    command += ["--isa", ",".join(arguments.isa), "--rows", ",".join(map(str, arguments.rows))]
    said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    name = {"any": ""} | {isa: "" if isa == DEFAULT_ISA else f" {isa}" for isa in arguments.isa}
    return {(f"torch {r['weights']}{name[r['isa']]}", r["m"]): (r["gflops"], r["gflops_median"]) for r in said["rows"]}, said


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="of torch's rows, each")
    parser.add_argument("--rows", type=numbers, default="1,2,4,8,16,48,512")
    parser.add_argument("--isa", type=names, default=f"{DEFAULT_ISA},avx512_core_bf16", help="oneDNN's; several, with commas between")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bench", default=None, help="our bench's program [default: built]")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    program = arguments.bench or built()
    about, others, rounds, read, peak, said = machine(), Others(), [], 0, 0, {}
    for _ in range(arguments.rounds):
        mine, *best = ours(program, arguments)
        read, peak = max(read, best[0]), max(peak, best[1])
        theirs, said = torch(arguments)
        rounds.append(mine | theirs)
    figures = {}
    for key in rounds[0]:
        measured = [found[key] for found in rounds if key in found]
        figures[key] = (max(best for best, _ in measured), statistics.median(median for _, median in measured))
    known = list(dict.fromkeys(name for name, _ in figures))
    beside = [name for name in known if name.startswith("torch") or "candle" in name]
    heading = f"[2048 -> 8192], {arguments.threads} threads; the machine reads {read:.1f} GB/s, {peak:.0f} GFLOP/s at best without tiles"
    if arguments.json:
        rows = [{"name": name, "m": m, "gflops": best, "gflops_median": median} for (name, m), (best, median) in figures.items()]
        print(json.dumps({"ours": heading, "torch": said["torch"], "machine": said["machine"], "others_cores": others.cores(), "rounds": arguments.rounds, "rows": rows}))
        return

    def speed(name, m):
        return f"{figures[name, m][0]:.0f} ({figures[name, m][1]:.0f})" if (name, m) in figures else ""

    def ratio(name, other, m):
        if (name, m) not in figures or (other, m) not in figures:
            return ""
        return " / ".join(f"{a / b:.2f}" for a, b in zip(figures[name, m], figures[other, m]) if b)

    def share(name, m):
        """Of the read bandwidth at one row, of the peak from sixteen on."""
        gflops = figures[name, m][0]
        return f"{100 * gflops / m * (1 if name.startswith('bf16') else 2) / read:.0f} % of read" if m == 1 else f"{100 * gflops / peak:.0f} % of peak"

    print(f"{heading}\ntorch {said['torch']}; {arguments.rounds} rounds\n{about}\n{others}\n")
    header = ["m", "ours", "GFLOP/s", "of the machine"] + [cell for name in beside for cell in (name, "ours beside it")]
    rows = []
    for m in arguments.rows:
        for name in known:
            if name not in beside and (name, m) in figures:
                rows.append([m, name, speed(name, m), share(name, m)] + [cell for other in beside for cell in (speed(other, m), ratio(name, other, m))])
    print(table(header, rows))


if __name__ == "__main__":
    main()
