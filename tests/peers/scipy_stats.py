"""Prints the numbers that src/report/tests/it/stats.rs holds as literals, from scipy: `python tests/peers/scipy_stats.py`.

Needs scipy >= 1.11 (Holm is written out: scipy has no function for it).
"""

import math

import numpy as np
from scipy import optimize, stats

A = [2.31, 1.94, 2.75, 2.02, 2.48, 1.67, 2.20]
B = [1.81, 1.12, 1.40, 1.95, 1.26]
P = [0.012, 0.2, 0.003, 0.04, 0.9, 0.011]


def hedges_g(a, b):
    m = len(a) + len(b) - 2
    pooled = math.sqrt(((len(a) - 1) * np.var(a, ddof=1) + (len(b) - 1) * np.var(b, ddof=1)) / m)
    correction = math.exp(math.lgamma(m / 2) - math.lgamma((m - 1) / 2)) / math.sqrt(m / 2)
    return correction * (np.mean(a) - np.mean(b)) / pooled


def holm(p):
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, floor = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        floor = max(floor, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = floor
    return adjusted


def power(effect, sd, n, alpha=0.05):
    df, shift = 2 * n - 2, effect / (sd * math.sqrt(2 / n))
    critical = stats.t.ppf(1 - alpha / 2, df)
    return stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift)


def exact_permutation(a, b):
    from itertools import combinations

    joint = np.array(a + b)
    observed = abs(stats.ttest_ind(a, b, equal_var=False).statistic)
    extreme = total = 0
    for group in combinations(range(len(joint)), len(a)):
        rest = [i for i in range(len(joint)) if i not in group]
        t = abs(stats.ttest_ind(joint[list(group)], joint[rest], equal_var=False).statistic)
        extreme += t >= observed * (1 - 1e-9)
        total += 1
    return extreme, total


welch = stats.ttest_ind(A, B, equal_var=False)
interval = welch.confidence_interval(0.95)
print("welch t, df, p", repr(welch.statistic), repr(welch.df), repr(welch.pvalue))
print("welch ci95", repr(interval.low), repr(interval.high))
print("hedges g", repr(hedges_g(A, B)))
print("t interval of A", stats.t.interval(0.95, len(A) - 1, np.mean(A), stats.sem(A)))
print("two-sided p", [(t, df, 2 * stats.t.sf(t, df)) for t, df in [(0.5, 1), (2.1, 7.3), (22.4, 28.8), (40, 5), (1e-3, 200)]])
print("quantiles", [(q, df, stats.t.ppf(q, df)) for q, df in [(0.975, 1), (0.975, 9.7), (0.975, 1e4), (0.05, 3), (0.9999, 2)]])
print("holm", holm(P))
print("power", [(d, sd, n, power(d, sd, n)) for d, sd, n in [(0.3, 1, 10), (1.2, 1, 5), (0.5, 2, 64), (2.0, 1, 2)]])
print("mde", [(sd, n, optimize.brentq(lambda d: power(d, sd, n) - 0.8, 0, 6 * sd * math.sqrt(2 / n))) for sd, n in [(1, 16), (0.2, 6)]])
print("exact permutation", exact_permutation(A, B))
