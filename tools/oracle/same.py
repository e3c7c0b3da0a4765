"""Are two folders of golden numbers the same?

    python tools/oracle/same.py CHECKED_IN MADE_ANEW

Every file of the second folder that is JSON or safetensors is compared with its namesake in the first: whole
numbers and text exactly, floats within 1e-5 of the largest magnitude of their tensor or list (another CPU rounds
otherwise). What case.json says about rounding itself (`noise`, `error`, ...) may be ten times as large, or as
small; least margins between two of them may be a hundredth apart. Evaluations that an optimiser took are the outcome of a
chaotic process: their quartiles may be a tenth apart, single ones are not compared. Prints one line per file; exit 1 where
something differs.
"""

import json
import sys
from pathlib import Path

import numpy as np

LIMIT = 1e-5
ROUNDING = ("noise", "error_max_over_rms", "chunked_max_over_rms")
MARGINS = ("min_greedy_margin", "min_expert_margin")
QUARTILES = ("quartile_1", "median", "quartile_3")


def leaves(value, path=""):
    """(path, leaf) of parsed JSON; lists of numbers are one leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}/{key}")
    elif isinstance(value, list) and not all(isinstance(v, (int, float)) for v in value):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{path}/{i}")
    else:
        yield path, value


def tensors(path):
    from safetensors.torch import load_file

    for name, tensor in load_file(path).items():
        yield name, tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()


def read(path):
    if path.suffix == ".json":
        return dict(leaves(json.loads(path.read_text())))
    return dict(tensors(path))


def distance(a, b):
    """How far apart, in units of the largest magnitude; infinite where nothing may differ."""
    try:
        a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    except (TypeError, ValueError):
        return 0.0 if a == b else np.inf
    if a.shape != b.shape:
        return np.inf
    if a.size == 0 or np.array_equal(a, b, equal_nan=True):
        return 0.0
    return float(np.max(np.abs(a - b)) / max(np.max(np.abs(a)), 1e-300))


def distance_at(path, a, b):
    """`distance`, or 0 between measures of rounding of the same order."""
    if any(word in path for word in ROUNDING) and isinstance(a, float) and isinstance(b, float):
        low, high = sorted((max(a, 1e-7), max(b, 1e-7)))
        return 0.0 if high <= 10 * low else np.inf
    if any(word in path for word in MARGINS) and distance(a, b) <= 1e-2:
        return 0.0
    if path.startswith("/statistics/"):
        if path.endswith("/evaluations") and len(a) == len(b):
            return 0.0
        if path.endswith(QUARTILES) and distance(a, b) <= 0.1:
            return 0.0
    return distance(a, b)


def main(checked_in, made_anew):
    files = sorted(p for p in made_anew.rglob("*") if p.suffix in {".json", ".safetensors"})
    wrong = not files
    for path in files:
        name = path.relative_to(made_anew)
        old, new = read(checked_in / name), read(path)
        apart = {key: distance_at(key, old.get(key), value) for key, value in new.items() if key in old}
        missing = sorted(old.keys() ^ new.keys())
        key, worst = max(apart.items(), key=lambda item: item[1], default=("", 0.0))
        fine = worst <= LIMIT and not missing
        wrong |= not fine
        note = f" at {key}" if worst else ""
        lost = f", only on one side: {', '.join(missing[:3])}" if missing else ""
        print(f"{'same' if fine else 'DIFFERS'}  {name}  {len(new)} values, worst {worst:.1e}{note}{lost}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
