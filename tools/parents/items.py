"""Write the shipped item files: python items.py OUT_FOLDER (byte for byte repeatable).

Beside the items of the five splits it writes `held-out.json`: how many items of which family a split has, what of an
item is held out from training, and which countries the mother computed with (no item of `x-derived` is about them).
"""
import gzip
import json
import os
import sys
from collections import Counter

import data

SIZES = {"calibration": 300, "proxy": 400, "search": 500, "selection": 600, "test": 2000}
PROTECTED = ("knowledge", "language", "tools")      # a floor is measured more finely than a gain: four times the proxy items
HELD_OUT = {
    "knowledge": "the wording; the fact is in training",
    "language": "the wording; the fact is in training",
    "composed": "the pair of countries, for all relations and operations at once",
    "x-derived": "relation, country, operation and operands together; all of it for the mother, but the countries in "
                 "`countries_of_the_mother`. Relation and country alone are facts of `knowledge`",
}
QUESTION = "the question"


def sizes(domain):
    """Items of a domain by split."""
    if domain == "x-derived":
        return {s: data.DERIVED_MOST[s] for s in SIZES}
    return SIZES | ({"proxy": 4 * SIZES["proxy"]} if domain in PROTECTED else {})


def held_out(splits):
    """What the items' keys are, and how many there are."""
    of = {d: {"held_out": HELD_OUT.get(d, QUESTION), "items": {}, "families": {}} for d in data.DOMAINS}
    for split, items in splits.items():
        for d in of:
            families = Counter(i[1] for i in items if i[0] == d)
            of[d]["items"][split] = sum(families.values())
            for f in sorted(families):
                of[d]["families"].setdefault(f, {})[split] = families[f]
    countries = sorted({c for t in data._numbers().values() for c in t if data.is_hers(c)})
    return {"domains": of, "countries_of_the_mother": countries}


def main(out):
    os.makedirs(out, exist_ok=True)
    splits = {s: [] for s in SIZES}
    for domain in data.DOMAINS:
        for split, items in data.heldout(sizes(domain), domains=[domain]).items():
            splits[split] += items
    seen, total = {}, 0
    for split, items in splits.items():
        recs = sorted((data.record(i) for i in items), key=lambda r: r["id"])
        for r in recs:
            if seen.setdefault((r["domain"], r["question"]), split) != split:
                raise SystemExit(f"{r['question']!r} is in {split} and {seen[r['domain'], r['question']]}")
        text = "".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in recs)
        path = os.path.join(out, split + ".jsonl.gz")
        with open(path + ".tmp", "wb") as f:
            with gzip.GzipFile("", "wb", 9, f, mtime=0) as z:
                z.write(text.encode())
        os.replace(path + ".tmp", path)
        total += os.path.getsize(path)
        print(split, len(recs), os.path.getsize(path), dict(Counter(r["domain"] for r in recs)))
    assert len({r for r in seen}) == sum(map(len, splits.values()))
    with open(os.path.join(out, "held-out.json"), "w", encoding="utf-8") as f:
        json.dump(held_out(splits), f, indent=1, ensure_ascii=False)
        f.write("\n")
    print("bytes", total)


if __name__ == "__main__":
    main(sys.argv[1])
