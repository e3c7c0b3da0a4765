"""Runs `darwin merge` on the recipes that mergekit was run on, and compares the tensors.

    python tools/parity/compare.py target/release/darwin [--golden DIR]

Two rows per pair, dtype and recipe: `native` and `mergekit` numerics. A row fails where a tensor is missing, added,
or of another shape or dtype, or an element is off:

- mergekit: any element that differs in value. DARE draws its own masks here, from mergekit's seed.
- native: float32 beyond 1e-6 relative, bfloat16 beyond one unit in the last place. DARE gets mergekit's masks.

unless one of EXPLAINED says why, and its own condition holds; its letter then stands in the last column and its
sentence under the table. Exit code 1 where a row failed.

- Relative error is |x - y| / max(|y|, rms of the tensor): where a sum cancels, its own size says nothing.
  A unit in the last place likewise is one at max(|y|, rms).
- TIES is compared tie-aware: where magnitudes equal to the smallest one kept could not all be kept, any choice
  among them is right (mergekit's own falls out of an unstable sort); these elements are counted, not compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

DEFAULT_GOLDEN = Path(__file__).resolve().parents[2] / "crates/darwin-testkit/fixtures/golden/merge"
SEED = 42  # mergekit's, as in mergekit.py
FLOAT32_LIMIT = 1e-6
BFLOAT16_ULPS = 1.0
MANTISSA = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}
TASK_VECTORS = ("task_arithmetic", "ties", "dare_linear", "dare_ties")

EXPLAINED = {
    "a": "native, task vectors in bfloat16: mergekit rounds deltas, weights, products, sums and quotients to bfloat16 "
    "one after the other, so that it is off by several units and turns some sign elections and trims; we compute in "
    "float32 and round once. Accepted only where the row of mergekit numerics is equal to the bit.",
    "b": "native, `out_dtype` wider than `dtype`: mergekit rounds the result to `dtype` and then widens it; we round "
    "once, to `out_dtype`. Accepted only within one unit in the last place of `dtype`.",
    "c": "native: a tensor that stands in float32 among bfloat16 weights (A_log, linear_attn.norm) stays float32 "
    "whatever `dtype` and `out_dtype` say, since models are trained and served so; mergekit narrows it. Accepted only "
    "where the values agree once they are narrowed.",
    "d": "mergekit, slerp: torch's acos and sin are approximations of their own, so that a coefficient may differ in "
    "its last bit. Accepted only within 1e-6 relative (float32), one unit in the last place (bfloat16).",
    "e": "native, slerp in float32, large tensors: mergekit adds up norms and dot products in float32 and is off by "
    "more than 1e-6 itself; we use float64. Accepted only where the row of mergekit numerics is within its limits.",
}


@dataclass
class Row:
    problems: list = field(default_factory=list)
    explained: set = field(default_factory=set)
    rel: float = 0.0
    ulps: float = 0.0
    differing: int = 0
    tied: int = 0


def load_folder(folder):
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def ties(densities, inputs, name):
    """Mask of the elements of one tensor where TIES may keep one or another of equal magnitudes; None if none."""
    base = inputs["base"][name]
    found = torch.zeros(base.shape, dtype=torch.bool)
    for model, density in densities[name].items():
        if density >= 1:
            continue
        size = (inputs[model][name] - base).abs().float()
        keep = max(1, int(density * size.numel()))
        threshold = size.flatten().sort(descending=True).values[keep - 1]
        # at zero any choice gives the same result
        if threshold > 0 and (size >= threshold).sum() > keep:
            found |= size == threshold
    return found


def errors(got, want, dtype):
    """(relative errors, distances in units in the last place of dtype) of all elements."""
    got, exact = got.double(), want.double()
    size = torch.maximum(exact.abs(), exact.pow(2).mean().sqrt()).clamp_min(1e-300)
    gap = (got - exact).abs()
    ulp = 2.0 ** (size.log2().floor() - MANTISSA[dtype])
    return gap / size, gap / ulp


def within(dtype, rel, ulps):
    return rel <= FLOAT32_LIMIT if dtype == torch.float32 else ulps <= BFLOAT16_ULPS


def dtype_of(name):
    return getattr(torch, name) if name else None


def island(name, inputs):
    """Whether a tensor stands in float32 among narrower ones."""
    base = inputs["base"]
    return base[name].dtype == torch.float32 and any(t.dtype != torch.float32 for t in base.values())


def compare(config, inputs, got, densities, want, numerics, exact, agrees):
    """`densities`: by tensor and model, as the manifest says. `exact`, `agrees`: whether the row of mergekit numerics
    was equal to the bit, or had no problem."""
    row = Row()
    row.problems += [f"no {k}" for k in sorted(want.keys() - got.keys())]
    row.problems += [f"extra {k}" for k in sorted(got.keys() - want.keys())]
    loaded, saved = dtype_of(config.get("dtype")), dtype_of(config.get("out_dtype"))
    widened = loaded and saved and MANTISSA[loaded] < MANTISSA[saved]
    method = config["merge_method"]
    for name in sorted(want.keys() & got.keys()):
        a, b = got[name], want[name]
        if numerics == "native" and a.dtype == torch.float32 != b.dtype and island(name, inputs):
            row.explained.add("c")
            a = a.to(b.dtype)
        if a.shape != b.shape or a.dtype != b.dtype:
            row.problems.append(f"{name}: {a.dtype} {tuple(a.shape)}, mergekit {b.dtype} {tuple(b.shape)}")
            continue
        rel, ulps = errors(a, b, b.dtype)
        if method == "ties":
            free = ties(densities, inputs, name)
            row.tied += free.sum().item()
            rel, ulps = rel[~free], ulps[~free]
        row.differing += (rel != 0).sum().item()
        worst = (rel.max().item(), ulps.max().item()) if rel.numel() else (0.0, 0.0)
        row.rel, row.ulps = max(row.rel, worst[0]), max(row.ulps, worst[1])
        fine = within(b.dtype, *worst)
        if numerics == "mergekit" and worst[0] > 0:
            if method == "slerp" and fine:
                row.explained.add("d")
            else:
                row.problems.append(f"{name}: relative error {worst[0]:.1e}, {worst[1]:.1f} ulps")
        elif not fine:
            if widened and within(loaded, 1.0, errors(a, b, loaded)[1].max().item()):
                row.explained.add("b")
            elif method == "slerp" and b.dtype == torch.float32 and agrees:
                row.explained.add("e")
            elif method in TASK_VECTORS and (loaded or inputs["base"][name].dtype) == torch.bfloat16 and exact:
                row.explained.add("a")
            else:
                row.problems.append(f"{name}: relative error {worst[0]:.1e}, {worst[1]:.1f} ulps")
    return row


def run_recipe(binary, folder, recipe, numerics):
    """(tensors, densities by tensor and model, None), or (None, None, why not)."""
    masks = recipe.with_name(f"{recipe.stem}.masks.safetensors")
    with tempfile.TemporaryDirectory() as tmp:
        command = [binary, "merge", str(recipe.relative_to(folder)), str(Path(tmp) / "out"), "--numerics", numerics]
        if recipe.stem.startswith("dare") and numerics == "native":
            command += ["--masks", str(masks.relative_to(folder))]
        else:
            command += ["--random-seed", str(SEED)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[0]
            return None, None, f"exit {done.returncode}: {said}"
        manifest = json.loads((Path(tmp) / "out/manifest.json").read_text())
        assert manifest["numerics"] == numerics
        densities = {
            line["tensor"]: {
                source["model"]: source["parameters"]["density"]["value"]
                for source in line["sources"]
                if "density" in source.get("parameters", {})
            }
            for line in manifest["tensors"]
        }
        return load_folder(Path(tmp) / "out"), densities, None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--golden", type=Path, default=DEFAULT_GOLDEN)
    args = parser.parse_args()
    torch.set_num_threads(1)
    binary = str(args.binary.resolve())
    failed = compared = explained = 0
    print(f"{'pair':15} {'recipe':26} {'method':16} {'numerics':9} {'max rel':>8} {'max ulps':>8} {'differ':>7} {'tied':>5}")
    for folder in sorted(p.parent for p in args.golden.resolve().glob("*/cases.json")):
        inputs = {m: load_folder(folder / m) for m in ("base", "a", "b")}
        for recipe in sorted((folder / "cases").glob("*.yml")):
            config = yaml.safe_load(recipe.read_text())
            want = load_file(recipe.with_suffix(".safetensors"))
            rows, exact, agrees = {}, False, False
            for numerics in ("mergekit", "native"):
                got, densities, why = run_recipe(binary, folder, recipe, numerics)
                if got is None:
                    rows[numerics] = Row(problems=[why])
                else:
                    rows[numerics] = compare(config, inputs, got, densities, want, numerics, exact, agrees)
                    agrees = not rows[numerics].problems
                    exact = agrees and not rows[numerics].differing
            for numerics in ("native", "mergekit"):
                row = rows[numerics]
                compared += 1
                failed += bool(row.problems)
                explained += bool(row.explained and not row.problems)
                said = f"FAIL {row.problems[0]}" if row.problems else " ".join(sorted(row.explained))
                text = f"{folder.name:15} {recipe.stem:26} {config['merge_method']:16} {numerics:9} "
                text += f"{row.rel:8.1e} {row.ulps:8.1f} {row.differing:7} {row.tied:5} {said}"
                print(text.rstrip())
    for letter, reason in EXPLAINED.items():
        print(f"{letter}: {reason}")
    print(f"{compared} compared, {compared - failed - explained} within the limits, {explained} explained, {failed} failed")
    sys.exit(1 if failed or not compared else 0)


if __name__ == "__main__":
    main()
