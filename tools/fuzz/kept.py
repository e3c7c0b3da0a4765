"""Cuts the files of a run down to seeds of the fuzz targets `kept` and `journal`.

    python tools/fuzz/kept.py runs/first-light

Run it when a kept file changes its form: a seed of an older schema is turned away at the door.
"""

import json
import sys
from pathlib import Path

CORPUS = Path(__file__).parents[2] / "crates/darwin-fuzz/corpus"
# In the order of FILES in crates/darwin-fuzz/src/kept.rs; the seed's first byte is the digit.
FILES = [
    "father.profile.json",
    "comparison.json",
    "health.json",
    "child/manifest.json",
    "scores.json",
    "journal.jsonl",
    "best.yaml",
    "run.json",
    "diagnosis.json",
]
# How many entries of a list are kept.
KEPT = {
    "father.profile.json": {"layers": 1},
    "comparison.json": {"layers": 2},
    "health.json": {"layers": 2},
    "child/manifest.json": {"tensors": 4, "entries": 4},
    "scores.json": {"models": 3},
    "diagnosis.json": {"parts": 12},
}
JOURNAL_LINES = 8


def cut(run: Path, file: str) -> str:
    text = (run / file).read_text()
    if file.endswith(".jsonl"):
        # A chain of hashes is whole at every length.
        return "".join(text.splitlines(keepends=True)[:JOURNAL_LINES])
    if not file.endswith(".json"):
        return text
    value = json.loads(text)
    for key, number in KEPT.get(file, {}).items():
        if key in value:
            value[key] = value[key][:number]
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def main() -> None:
    run = Path(sys.argv[1])
    for digit, file in enumerate(FILES):
        seed = cut(run, file)
        name = file.replace("/", "-")
        (CORPUS / "kept" / name).write_text(f"{digit}{seed}")
        if file == "journal.jsonl":
            (CORPUS / "journal/chained.jsonl").write_text(seed)
            (CORPUS / "journal/torn.jsonl").write_text(seed[: len(seed) // 2])


main()
