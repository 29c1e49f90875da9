#!/usr/bin/env python3
"""The table at the end of check.sh: what each part found, beside the goals. Writes check.json; exits 1 when a part failed.

    python3 table.py FOLDER
"""

import json
import re
import sys
from pathlib import Path

# Share of the floor that a decoding step shall reach: (batch, context) -> share.
GOALS = {(1, 2048): 0.70, (16, 2048): 0.75, (16, 4096): 0.75, (48, 4096): 0.80}
CAPTURE_GOALS = {4: 0.02, 32: 0.05}
ROLLOUTS_GOAL = 18.0


def read_json(path, last_line=False):
    try:
        text = path.read_text()
        return json.loads(text.strip().splitlines()[-1] if last_line else text)
    except (OSError, ValueError, IndexError):
        return None


def verdict(good):
    return "ok" if good else "MISSED"


def main():
    folder = Path(sys.argv[1])
    parts = read_json(folder / "parts.json")
    bench = read_json(folder / "bench.log")
    peer = read_json(folder / "peer.log", last_line=True)
    tiny = read_json(folder / "transformers.log", last_line=True)
    rows = []
    for name in ("kernels", "engine"):
        log = (folder / f"{name}.log").read_text() if (folder / f"{name}.log").exists() else ""
        counts = re.findall(r"test result: \S+ (\d+) passed; (\d+) failed", log)
        passed, failed = (sum(int(pair[i]) for pair in counts) for i in (0, 1))
        good = parts["parts"][name]["status"] == 0 and passed > 0 and failed == 0
        rows.append((name, f"{passed} passed, {failed} failed", "all", "ok" if good else "FAILED"))
    for row in (tiny or {}).get("checkpoints", []):
        rows.append((f"transformers {tiny['transformers']}", row["checkpoint"], f"{row['worst']:.1e}", "agrees" if row["agrees"] else "differs"))
    if bench:
        rows.append(("device", bench["device"], f"copies {bench['read_bytes_per_s'] / 1e12:.2f} TB/s", ""))
        if bench["prefill"]:
            flops = bench["prefill"]["flops"] / 1e12
            rows.append(("prefill", f"{bench['prefill']['tokens_per_s']:.0f} tokens/s, {flops:.0f} TFLOP/s", "395 TFLOP/s", verdict(flops >= 395)))
        for row in bench["decode"]:
            goal = GOALS.get((row["batch"], row["context"]))
            what = f"{row['step_ms']:.3f} ms, floor {row['floor_ms']:.3f}, {100 * row['share_of_floor']:.1f} %"
            rows.append((f"decode x{row['batch']} at {row['context']}", what, f"{100 * goal:.0f} %" if goal else "", verdict(row["share_of_floor"] >= goal) if goal else ""))
        for row in bench["capture"]:
            goal = CAPTURE_GOALS.get(row["sites"])
            rows.append((f"capture {row['axes']} x {row['sites']}", f"{100 * row['overhead']:+.2f} %", f"{100 * goal:.0f} %" if goal else "", verdict(row["overhead"] <= goal) if goal else ""))
        if bench["independence"]:
            row = bench["independence"]
            what = f"{row['differing_tokens']} of {row['tokens']} tokens, {row['differing_projections']} of {row['projections']} projections differ"
            rows.append((f"{row['together']} together, alone", what, "0", verdict(row["differing_tokens"] + row["differing_projections"] == 0)))
        if bench["rollouts"]:
            row = bench["rollouts"]
            rows.append(("rollouts", f"{row['generated_tokens']} tokens in {row['seconds']:.1f} s, {row['repeated']} fed twice", "", ""))
            if peer:
                times = peer["extrapolated_s"] / row["seconds"]
                rows.append(("beside transformers", f"{peer['extrapolated_s']:.0f} s (extrapolated): {times:.1f} times", f"{ROLLOUTS_GOAL:.0f} times", verdict(times >= ROLLOUTS_GOAL)))
        for what in bench.get("left_out", []):
            rows.append(("left out", what, "", ""))
    for name, part in parts["parts"].items():
        if part["status"] != 0:
            rows.append((f"part {name}", f"ended with {part['status']} after {part['seconds']} s", "", "FAILED"))
    rows.append(("time", f"{parts['seconds']} s", "", ""))
    (folder / "check.json").write_text(json.dumps({**parts, "bench": bench, "peer": peer, "transformers": tiny, "table": rows}, indent=1))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    sys.exit(any(row[3] == "FAILED" for row in rows))


if __name__ == "__main__":
    main()
