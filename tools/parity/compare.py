"""Runs `darwin merge` on the recipes that mergekit was run on, and compares the tensors.

    python tools/parity/compare.py target/release/darwin [--golden DIR] [--masks-flag FLAG]

Prints one row per pair, dtype and recipe, and fails (exit 1) where a row is off: float32 beyond 1e-6 relative,
bfloat16 beyond one unit in the last place, a tensor missing, added, or of another shape or dtype.

- Relative error is |x - y| / max(|y|, rms of the tensor): where a sum cancels, its own size says nothing.
  A unit in the last place likewise is one at max(|y|, rms).
- TIES is compared tie-aware: where magnitudes equal to the smallest one kept could not all be kept, any choice
  among them is right (mergekit's own falls out of an unstable sort); these elements are counted, not compared.
- DARE draws its masks; it can be compared only if the binary takes them (`--masks-flag=--masks`, say:
  the binary is then called with FLAG <recipe>.masks.safetensors). Otherwise these rows say so.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

DEFAULT_GOLDEN = Path(__file__).resolve().parents[2] / "crates/darwin-testkit/fixtures/golden/merge"
FLOAT32_LIMIT = 1e-6
BFLOAT16_ULPS = 1.0
MANTISSA = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}


def load_folder(folder):
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def ties(config, inputs, name):
    """Mask of the elements of one tensor where TIES may keep one or another of equal magnitudes; None if none."""
    base = inputs["base"][name]
    found = torch.zeros(base.shape, dtype=torch.bool)
    for entry in config["models"]:
        density = (entry.get("parameters") or {}).get("density", 1.0)
        if entry["model"] == config["base_model"] or density >= 1:
            continue
        size = (inputs[entry["model"]][name] - base).abs().float()
        keep = max(1, int(density * size.numel()))
        threshold = size.flatten().sort(descending=True).values[keep - 1]
        # at zero any choice gives the same result
        if threshold > 0 and (size >= threshold).sum() > keep:
            found |= size == threshold
    return found


def errors(got, want):
    """(largest relative error, largest distance in units in the last place) over all elements."""
    got, exact = got.double(), want.double()
    size = torch.maximum(exact.abs(), exact.pow(2).mean().sqrt()).clamp_min(1e-300)
    gap = (got - exact).abs()
    ulp = 2.0 ** (size.log2().floor() - MANTISSA[want.dtype])
    return gap / size, gap / ulp


def compare(config, inputs, got, want):
    """(problems, largest relative error, largest ulps, elements differing, elements tied)."""
    problems = [f"no {k}" for k in sorted(want.keys() - got.keys())]
    problems += [f"extra {k}" for k in sorted(got.keys() - want.keys())]
    worst_rel = worst_ulps = 0.0
    differing = tied = 0
    for name in sorted(want.keys() & got.keys()):
        a, b = got[name], want[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            problems.append(f"{name}: {a.dtype} {tuple(a.shape)}, mergekit {b.dtype} {tuple(b.shape)}")
            continue
        rel, ulps = errors(a, b)
        if config["merge_method"] == "ties":
            free = ties(config, inputs, name)
            tied += free.sum().item()
            rel, ulps = rel[~free], ulps[~free]
        differing += (rel != 0).sum().item()
        tensor_rel, tensor_ulps = rel.max().item() if rel.numel() else 0.0, ulps.max().item() if ulps.numel() else 0.0
        worst_rel, worst_ulps = max(worst_rel, tensor_rel), max(worst_ulps, tensor_ulps)
        if not (tensor_rel <= FLOAT32_LIMIT if b.dtype == torch.float32 else tensor_ulps <= BFLOAT16_ULPS):
            problems.append(f"{name}: relative error {tensor_rel:.1e}, {tensor_ulps:.1f} ulps")
    return problems, worst_rel, worst_ulps, differing, tied


def run_recipe(binary, folder, recipe, flag):
    """(tensors, None), or (None, why not)."""
    masks = recipe.with_name(f"{recipe.stem}.masks.safetensors")
    with tempfile.TemporaryDirectory() as tmp:
        command = [binary, "merge", str(recipe.relative_to(folder)), str(Path(tmp) / "out")]
        if flag and masks.exists():
            command += [flag, str(masks.relative_to(folder))]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[0]
            return None, f"exit {done.returncode}: {said}"
        return load_folder(Path(tmp) / "out"), None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--golden", type=Path, default=DEFAULT_GOLDEN)
    parser.add_argument("--masks-flag")
    args = parser.parse_args()
    torch.set_num_threads(1)
    binary = str(args.binary.resolve())
    failed = compared = 0
    print(f"{'pair':16} {'recipe':26} {'method':16} {'max rel':>8} {'max ulps':>8} {'differ':>7} {'tied':>5}")
    for folder in sorted(p.parent for p in args.golden.resolve().glob("*/cases.json")):
        inputs = {m: load_folder(folder / m) for m in ("base", "a", "b")}
        for recipe in sorted((folder / "cases").glob("*.yml")):
            config = yaml.safe_load(recipe.read_text())
            row = f"{folder.name:16} {recipe.stem:26} {config['merge_method']:16}"
            if config["merge_method"].startswith("dare") and not args.masks_flag:
                print(row, "not compared: the masks are not handed over (see --masks-flag)")
                continue
            got, why = run_recipe(binary, folder, recipe, args.masks_flag)
            if got is None:
                failed += 1
                print(row, why)
                continue
            want = load_file(recipe.with_suffix(".safetensors"))
            problems, rel, ulps, differing, tied = compare(config, inputs, got, want)
            compared += 1
            failed += bool(problems)
            print(row, f"{rel:8.1e} {ulps:8.1f} {differing:7} {tied:5}", "" if not problems else f"FAIL {problems[0]}")
    print(f"{compared} compared, {failed} failed")
    sys.exit(1 if failed or not compared else 0)


if __name__ == "__main__":
    main()
