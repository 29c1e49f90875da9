"""Writes what src/report/tests/it/distribution.rs compares with: `python make_categorical_fixtures.py --out ../fixtures/categorical.json`.

Chi-square, Cramér's V, Wilson's interval and Fisher's test of 2 x 2 tables are scipy's (>= 1.11). scipy has no exact test of larger
tables: there p is counted here in whole numbers, so that no rounding decides what is a tie.
"""

import argparse
import json
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import scipy
from scipy import stats

# Agresti (2002), p. 57; the example of R's fisher.test, which says 0.7827.
JOB_SATISFACTION = [[1, 2, 1, 0], [3, 3, 6, 1], [10, 10, 14, 9], [6, 7, 12, 11]]

# With more tables of the same margins than tiltmeter counts.
LARGE = [
    [[12, 13, 5, 7, 8, 5, 0, 3], [4, 8, 16, 12, 1, 4, 3, 5]],
    [[10, 14, 6, 7, 9, 4, 1, 2], [5, 7, 15, 11, 3, 5, 4, 4]],
]

SHAPES = [(2, 2), (2, 3), (3, 2), (2, 5), (2, 8), (3, 3), (3, 4), (4, 3), (3, 5), (4, 4), (6, 2), (5, 3)]


def used(table):
    table = np.array(table)
    return table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]


def ways(total, caps):
    """Every way to split total over places with caps."""
    if len(caps) == 1:
        if total <= caps[0]:
            yield (total,)
        return
    for first in range(max(0, total - sum(caps[1:])), min(total, caps[0]) + 1):
        for rest in ways(total - first, caps[1:]):
            yield (first, *rest)


def exact_fisher(table):
    """Row by row: what is left of the columns -> number of arrangements of each weight, weights as whole numbers."""
    table = table if table.shape[0] >= table.shape[1] else table.T
    rows, columns = table.sum(axis=1).tolist(), table.sum(axis=0).tolist()
    factorial = math.factorial
    scale = math.prod(factorial(c) for c in columns)

    def weight(cells):
        return math.prod(factorial(x) for x in cells)

    states = {tuple(columns): Counter({1: 1})}
    for row in rows:
        following = {}
        for left, found in states.items():
            for cells in ways(row, left):
                rest = tuple(l - x for l, x in zip(left, cells))
                into = following.setdefault(rest, Counter())
                by = weight(cells)
                for product, count in found.items():
                    into[product * by] += count
        states = following
    (products,) = states.values()
    observed = weight(table.flatten().tolist())
    everything = sum(Fraction(count, product) for product, count in products.items())
    assert everything == Fraction(factorial(sum(rows)), scale * math.prod(factorial(r) for r in rows))
    extreme = sum(Fraction(count, product) for product, count in products.items() if product >= observed)
    return float(extreme / everything), sum(products.values())


def entry(table):
    kept = used(table)
    chi = stats.chi2_contingency(kept, correction=False)
    if kept.shape == (2, 2):
        fisher, tables = stats.fisher_exact(kept).pvalue, None
        counted, _ = exact_fisher(kept)
        assert abs(counted - fisher) <= 1e-9 * fisher, (table, counted, fisher)
    else:
        fisher, tables = exact_fisher(kept)
    return {
        "table": np.array(table).tolist(),
        "statistic": chi.statistic,
        "df": int(chi.dof),
        "p": chi.pvalue,
        "cramers_v": stats.contingency.association(kept, method="cramer"),
        "smallest_expected": float(chi.expected_freq.min()),
        "fisher_p": float(fisher),
        "tables": tables,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    out = parser.parse_args().out
    random = np.random.default_rng(20260215)
    tables = [
        JOB_SATISFACTION,
        [[3, 1], [1, 3]],
        [[10, 0], [0, 10]],
        [[10, 0, 0], [0, 10, 0], [0, 0, 10]],
        [[5, 0, 5], [0, 0, 0], [2, 0, 9], [4, 0, 1]],
        [[4, 4], [4, 4]],
        [[1, 0], [0, 1]],
        [[200, 180], [150, 230]],
        [[9, 9, 8, 7, 8, 6, 5, 4], [8, 8, 9, 8, 6, 7, 6, 3]],
    ]
    for rows, columns in SHAPES:
        for spread in (0.3, 1.0, 4.0):
            per_row = int(random.integers(4, 15 if rows * columns < 12 else 9))
            if rows == 2:
                per_row = int(random.integers(5, 25))
            # Small spreads make categories that hardly occur.
            shares = random.dirichlet([spread] * columns, size=rows)
            table = [random.multinomial(per_row + int(random.integers(0, 4)), share).tolist() for share in shares]
            if min(used(table).shape) > 1:
                tables.append(table)
    wilson = []
    for successes, n in [(0, 1), (1, 1), (0, 20), (20, 20), (3, 10), (7, 13), (1, 1000), (499, 1000), (54321, 100000)]:
        for confidence in (0.8, 0.95, 0.99):
            low, high = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
            wilson.append({"successes": successes, "n": n, "confidence": confidence, "low": low, "high": high})
    made = {
        "scipy": scipy.__version__,
        "tables": [entry(table) for table in tables],
        "large": [entry(table) for table in LARGE],
        "wilson": wilson,
    }
    with open(out, "w") as file:
        lines = ["{", f' "scipy": {json.dumps(made["scipy"])},']
        for key in ("tables", "large", "wilson"):
            rows = ",\n".join("  " + json.dumps(row) for row in made[key])
            lines.append(f' "{key}": [\n{rows}\n ]' + ("" if key == "wilson" else ","))
        file.write("\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
