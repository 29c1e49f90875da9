"""The linear layer alone with cold weights: `kernels/benches/linear.rs` and torch_linear.py in turns, and their ratios in one table.

    ./linear.sh                          # three rounds, some two minutes
    ./linear.sh --rounds 5 --seconds 0.3 --isa default

A round is the whole of our bench, then the whole of torch's with --seconds for each row count, so that a machine that slows down slows
both. GFLOP/s are the best of all rounds, in brackets the median of the rounds' medians; ratios are those of the best, then of the
medians. A column that nothing was measured for stays empty: the candle one until our bench prints a row whose name has `candle` in it.
"""

import argparse
import json
import statistics
import subprocess
import sys

from bench_common import DEFAULT_ISA, HERE, ROOT, Others, machine, names, numbers, table


def built():
    """Builds our bench; returns the path of its program."""
    command = ["cargo", "bench", "-p", "tiltmeter-kernels", "--bench", "linear", "--no-run", "--message-format=json", "--quiet"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    messages = [message for message in map(json.loads, lines) if message.get("executable")]
    return next(message["executable"] for message in messages if message["target"]["name"] == "linear")


def ours(program, threads):
    """(name, rows of activations) to (best, median), as the bench's table has them; and its heading."""
    text = subprocess.run([program, "--bench", str(threads)], check=True, stdout=subprocess.PIPE, text=True).stdout
    found, header = {}, None
    for line in text.splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if header is None:
            header = cells
        elif not cells[0].startswith("-"):
            at = header.index("m")
            name = " ".join(cell for cell in cells[:at] if cell)
            best, median = (float(cells[header.index(column)]) for column in ("GFLOP/s", "median"))
            found[name, int(cells[at])] = (best, median)
    return found, text.splitlines()[0]


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
    about, others, rounds, heading, said = machine(), Others(), [], "", {}
    for _ in range(arguments.rounds):
        mine, heading = ours(program, arguments.threads)
        theirs, said = torch(arguments)
        rounds.append(mine | theirs)
    figures = {}
    for key in rounds[0]:
        measured = [found[key] for found in rounds if key in found]
        figures[key] = (max(best for best, _ in measured), statistics.median(median for _, median in measured))
    known = list(dict.fromkeys(name for name, _ in figures))
    beside = [name for name in known if name.startswith("torch") or "candle" in name]
    if not any("candle" in name for name in beside):
        beside.insert(0, "candle f32")
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

    print(f"ours: {heading}\ntorch {said['torch']}; {arguments.rounds} rounds\n{about}\n{others}\n")
    header = ["m", "ours", "GFLOP/s"] + [cell for name in beside for cell in (name, "ours beside it")]
    rows = []
    for m in arguments.rows:
        for name in known:
            if name not in beside and (name, m) in figures:
                rows.append([m, name, speed(name, m)] + [cell for other in beside for cell in (speed(other, m), ratio(name, other, m))])
    print(table(header, rows))


if __name__ == "__main__":
    main()
