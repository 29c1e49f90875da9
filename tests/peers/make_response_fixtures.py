"""Writes what src/report/tests/it/response.rs compares with: `python make_response_fixtures.py --out ../fixtures/response.json`.

Means, standard errors and 95 % intervals of the runs at each level, of each label, and of each cell of the table are numpy's and
scipy's (>= 1.11), over a made-up sweep with holes: cells of one run, cells of none, a run without the number.
"""

import argparse
import json

import numpy as np
import scipy
from scipy import stats

WEAK = ["w0", "w1", "w2"]
STRONG = ["s0", "s1", "s2", "s3"]
LEVELS = [0.0, 0.1, 0.5, 1.0]


def summary(values):
    n = len(values)
    if n == 0:
        return {"n": 0, "mean": None, "sem": None, "ci95": None}
    mean = float(np.mean(values))
    if n == 1:
        return {"n": 1, "mean": mean, "sem": None, "ci95": None}
    sem = float(stats.sem(values))
    low, high = stats.t.interval(0.95, n - 1, loc=mean, scale=sem)
    return {"n": n, "mean": mean, "sem": sem, "ci95": [float(low), float(high)]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    out = parser.parse_args().out
    random = np.random.default_rng(20260311)
    runs = []
    for weak in WEAK:
        for strong in STRONG:
            for level in LEVELS:
                repetitions = int(random.integers(0, 4))
                if (weak, strong) == ("w1", "s2"):
                    repetitions = 0
                if (weak, strong) == ("w2", "s3"):
                    repetitions = 1 if level == 0.5 else 0
                for _ in range(repetitions):
                    value = float(random.normal(30 * level + 5 * STRONG.index(strong), 10 + 5 * WEAK.index(weak)))
                    runs.append({"weak": weak, "strong": strong, "level": level, "value": value})
    runs[3]["value"] = None

    def of(**wanted):
        kept = [run for run in runs if all(run[key] == value for key, value in wanted.items())]
        return summary([run["value"] for run in kept if run["value"] is not None])

    made = {
        "scipy": scipy.__version__,
        "weak": WEAK,
        "strong": STRONG,
        "levels": LEVELS,
        "runs": runs,
        "overall": of(),
        "lines": [[of(level=level) for level in LEVELS]]
        + [[of(weak=weak, level=level) for level in LEVELS] for weak in WEAK],
        "cells": [[of(weak=weak, strong=strong) for strong in STRONG] for weak in WEAK],
    }
    lists = ("runs", "lines", "cells")
    with open(out, "w") as file:
        heads = [f" {json.dumps(key)}: {json.dumps(made[key])}" for key in made if key not in lists]
        rows = [f' "{key}": [\n' + ",\n".join("  " + json.dumps(row) for row in made[key]) + "\n ]" for key in lists]
        file.write("{\n" + ",\n".join(heads + rows) + "\n}\n")


if __name__ == "__main__":
    main()
