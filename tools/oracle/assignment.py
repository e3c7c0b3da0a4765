"""Golden assignments for `darwin_core::stats::assignment`, by scipy.

    python tools/oracle/assignment.py

Costs of two decimals whose best assignment is unique: every other assignment that differs in one row's column is
dearer by more than 1e-6.
"""

import json
from pathlib import Path

import numpy as np
import scipy
from scipy.optimize import linear_sum_assignment

OUT = Path(__file__).resolve().parents[2] / "crates/darwin-core/src/stats/assignment.json"


def best(cost):
    rows, columns = linear_sum_assignment(cost)
    return columns, cost[rows, columns].sum()


def is_unique(cost, columns, total):
    for i, j in enumerate(columns):
        without = cost.copy()
        without[i, j] = 1e6
        if best(without)[1] < total + 1e-6:
            return False
    return True


def main():
    rng = np.random.default_rng(5)
    cases = []
    for n in (3, 8, 24, 48):
        while True:
            cost = rng.normal(size=(n, n)).round(2)
            columns, total = best(cost)
            if is_unique(cost, columns, total):
                break
        cases.append([cost.tolist(), columns.tolist()])
    OUT.write_text(json.dumps(cases, separators=(",", ":")) + "\n")
    print(f"scipy {scipy.__version__}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
