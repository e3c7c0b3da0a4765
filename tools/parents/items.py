"""Write the shipped item files: python items.py OUT_FOLDER (byte for byte repeatable)."""
import gzip
import json
import os
import sys
from collections import Counter

import data

SIZES = {"calibration": 300, "proxy": 400, "search": 500, "selection": 600, "test": 2000}


def main(out):
    os.makedirs(out, exist_ok=True)
    splits = data.heldout(SIZES)
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
    print("bytes", total)


if __name__ == "__main__":
    main(sys.argv[1])
