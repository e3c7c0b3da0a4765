"""Markdown table with Wilson 95 % intervals: python table.py SCORES.json, as score.py writes it"""
import json
import sys


def wilson(k, n, z=1.959964):
    p, d = k / n, 1 + z * z / n
    c, h = (p + z * z / (2 * n)) / d, z * (p * (1 - p) / n + z * z / (4 * n * n)) ** .5 / d
    return c - h, c + h


def main(path):
    scores = json.load(open(path))
    parents = list(scores)
    print("| domain | format | n |" + "".join(f" {p} |" for p in parents))
    print("|---|---|---|" + "---|" * len(parents))
    for dom in scores[parents[0]]:
        for fmt in sorted(scores[parents[0]][dom], reverse=True):
            cells = [scores[p][dom][fmt] for p in parents]
            row = f"| {dom} | {fmt} | {cells[0]['n']} |"
            for c in cells:
                lo, hi = wilson(c["correct"], c["n"])
                row += f" {100 * c['correct'] / c['n']:.1f} ({100 * lo:.1f}-{100 * hi:.1f}) |"
            print(row)


if __name__ == "__main__":
    main(sys.argv[1])
