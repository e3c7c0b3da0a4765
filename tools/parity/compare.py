"""Runs `darwin merge` on the recipes that mergekit was run on (full.py), and compares the tensors.

    python tools/parity/compare.py target/release/darwin OUT

A row for each pair, dtype, recipe and numerics. Limits:

- native, float32: 1e-6 relative to what mergekit wrote (`own`).
- native, bfloat16: one unit in the last place beside mergekit's run of the same recipe and values in float32, rounded
  to bfloat16 (`wide`). `own` is the distance to what mergekit wrote in bfloat16, in units in the last place too.
- mergekit numerics (nine methods): equal to the bit.
- A fused copy of models whose experts lie one by one gives the same bits.

A row beyond a limit fails unless one of EXPLAINED says why and its condition holds; the letters stand in the last
column. Exit code 1 where a row failed.

- Relative error is |x - y| / max(|y|, rms of the tensor): where a sum cancels, its own size says nothing.
  A unit in the last place likewise is one at max(|y|, rms).
- Methods that drop elements get mergekit's masks of the same run; DARE in mergekit numerics draws its own. Methods
  that trim by magnitude run again without masks: elements of equal magnitude at the cut are counted (`tied`) and left
  out, since any choice among them is right (mergekit's falls out of an unstable sort). So are SCE's variances.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

SEED = 42  # mergekit's, as in mergekit.py
FLOAT32_LIMIT = 1e-6
BFLOAT16_ULPS = 1.0
MANTISSA = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}
FOLLOWED = ("passthrough", "linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties")
FOLLOWED += ("breadcrumbs", "breadcrumbs_ties")
TRIMS = ("ties", "breadcrumbs", "breadcrumbs_ties")
DROPS = (*TRIMS, "dare_linear", "dare_ties", "della", "della_linear")
ROUNDED = "native: within one unit of mergekit's float32 run; mergekit's own bfloat16 is off, since it rounds "

COLUMNS = """\
wide: units in the last place of bfloat16 from mergekit's run in float32, rounded once; at most 1.
own: the distance to what mergekit wrote, relative in float32 (at most 1e-6), else units in the last place.
differ: elements that are not equal to mergekit's. tied: elements of equal magnitude at a cut, not compared."""

EXPLAINED = {
    "a": ROUNDED + "deltas, weights, products, sums and quotients to bfloat16 one after the other (`own` > 1).",
    "b": "native, `out_dtype` wider than `dtype`: mergekit rounds the result to `dtype` and then widens it; we round "
    "once, to `out_dtype`. Accepted only within one unit in the last place of `dtype`.",
    "c": "native: a tensor that stands in float32 among bfloat16 weights (A_log, linear_attn.norm) stays float32 "
    "whatever `dtype` and `out_dtype` say, since models are trained and served so; mergekit narrows it. Accepted only "
    "where the values agree once they are narrowed.",
    "d": "mergekit, slerp: torch's acos and sin are approximations of their own, so that a coefficient may differ in "
    "its last bit. Accepted only within 1e-6 relative (float32), one unit in the last place (bfloat16).",
    "e": "native: mergekit's float32 is itself off. Accepted only within the limits of mergekit's run of the same "
    "recipe and values in float64.",
    "f": "native: mergekit writes float32 whatever it read; we write the dtype of the models.",
    "g": "mergekit, experts one by one on disk: mergekit draws their masks in the order in which a Python set gives up its "
    "tasks (layers 6 to 11, then 0 to 5, of twelve). Accepted only where mergekit's masks give the same bits.",
}


@dataclass
class Row:
    problems: list = field(default_factory=list)
    explained: set = field(default_factory=set)
    own: float = 0.0
    wide: float | None = None
    differing: int = 0
    tied: int = 0


def load_folder(folder):
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return fused(tensors)


def fused(tensors):
    """Experts that lie one by one, put together as `experts.gate_up_proj` and `experts.down_proj`."""
    out, experts = {}, {}
    for name, value in tensors.items():
        head, _, rest = name.partition(".experts.")
        number, _, part = rest.partition(".")
        if number.isdigit():
            experts.setdefault(f"{head}.experts", {})[int(number), part.removesuffix("_proj.weight")] = value
        else:
            out[name] = value
    for head, pieces in experts.items():
        count = 1 + max(j for j, _ in pieces)
        out[f"{head}.gate_up_proj"] = torch.stack([torch.cat([pieces[j, "gate"], pieces[j, "up"]]) for j in range(count)])
        out[f"{head}.down_proj"] = torch.stack([pieces[j, "down"] for j in range(count)])
    return out


def canonical(name):
    return name.removeprefix("model.").removeprefix("language_model.").replace(".experts.*.", ".experts.")


def tied(line, inputs, name):
    """Mask of the elements of one tensor where trimming may keep one or another of equal magnitudes."""
    base = inputs["base"][name]
    found = torch.zeros(base.shape, dtype=torch.bool)
    for source in line["sources"]:
        own = {key: setting["value"] for key, setting in source.get("parameters", {}).items()}
        density, gamma = own.get("density", 1), own.get("gamma", 0)
        if density >= 1:
            continue
        size = (inputs[source["model"]][name] - base).abs().float()
        n = size.numel()
        keep = max(1, int(density * n))
        top = int(gamma * n) if "gamma" in own else 0
        top += min(0, n - keep - top)
        order = size.flatten().sort(descending=True).values
        # the last kept, and the last of the outliers
        for edge in [top + keep] + [top] * (top > 0):
            threshold = order[edge - 1]
            # at zero any choice gives the same result
            if threshold > 0 and edge < n and order[edge] == threshold:
                found |= size == threshold
    return found


def tied_variances(select, inputs, models, name):
    """The same for SCE, which keeps the elements that vary most (ties: up to float32's rounding)."""
    vectors = [(inputs[m][name].double() - inputs["base"][name].double()) for m in models]
    variance = torch.stack(vectors).var(dim=0, unbiased=False)
    keep = int(variance.count_nonzero() * select)
    order = variance.flatten().sort(descending=True).values
    if not 0 < keep < order.numel():
        return torch.zeros_like(variance, dtype=torch.bool)
    threshold = order[keep - 1]
    near = (variance - threshold).abs() <= 1e-6 * threshold
    return near & (order[keep] >= threshold * (1 - 1e-6))


def errors(got, want, dtype):
    """(relative errors, distances in units in the last place of dtype) of all elements."""
    got, exact = got.double(), want.double()
    size = torch.maximum(exact.abs(), exact.pow(2).mean().sqrt()).clamp_min(1e-300)
    gap = (got - exact).abs()
    ulp = 2.0 ** (size.log2().floor() - MANTISSA[dtype])
    return gap / size, gap / ulp


def worst(got, want, dtype, free=None):
    """The largest error in the measure of a dtype (relative for float32, else units in the last place)."""
    error = errors(got, want.to(dtype), dtype)[dtype != torch.float32]
    error = error if free is None else error[~free]
    return error.max().item() if error.numel() else 0.0


def limit(dtype):
    return FLOAT32_LIMIT if dtype == torch.float32 else BFLOAT16_ULPS


def dtype_of(name):
    return getattr(torch, name) if name else None


def island(name, inputs):
    """Whether a tensor stands in float32 among narrower ones."""
    base = inputs["base"]
    return name in base and base[name].dtype == torch.float32 and any(t.dtype != torch.float32 for t in base.values())


def same_names(got, want):
    lost = [f"no {k}" for k in sorted(want.keys() - got.keys())]
    return lost + [f"extra {k}" for k in sorted(got.keys() - want.keys())]


class Case:
    """One recipe in one pair."""

    def __init__(self, binary, folder, recipe, inputs):
        self.binary, self.folder, self.recipe, self.inputs = binary, folder, recipe, inputs
        self.config = yaml.safe_load(recipe.read_text())
        self.method = self.config["merge_method"]
        self.want = load_file(recipe.with_suffix(".safetensors"))
        self.main = next(iter(t.dtype for n, t in inputs["base"].items() if "embed" in n))
        self.references = folder / "references"
        self.per_expert = any(".experts.0." in n for n in load_file(folder / "base/model.safetensors"))

    def masks(self, dtype=None):
        path = self.recipe if dtype is None else self.references / f"{self.recipe.stem}.{dtype}.yml"
        path = path.with_suffix(".masks.safetensors")
        return path if path.exists() else None

    def reference(self, dtype):
        path = self.references / f"{self.recipe.stem}.{dtype}.safetensors"
        return load_file(path) if path.exists() else None

    def run(self, numerics, masks=None, folder=None):
        """(tensors by fused name, manifest lines by name on disk), or (None, why not)."""
        folder = folder or self.folder
        with tempfile.TemporaryDirectory() as tmp:
            command = [self.binary, "merge", str(self.recipe.relative_to(self.folder)), f"{tmp}/out", "--numerics", numerics]
            command += ["--masks", str(masks)] if masks else ["--random-seed", str(SEED)]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[0]
                return None, f"exit {done.returncode}: {said}"
            manifest = json.loads(Path(tmp, "out/manifest.json").read_text())
            assert manifest["numerics"] == numerics
            return load_folder(Path(tmp, "out")), {canonical(line["tensor"]): line for line in manifest["tensors"]}

    def untied(self, numerics):
        """A run that trims by itself: (tensors, masks of ties by name), or (None, why not)."""
        got, lines = self.run(numerics)
        if got is None:
            return None, lines
        return got, {n: tied(lines[canonical(n)], self.inputs, n) for n in got}

    def followed(self):
        """The row of mergekit numerics."""
        row = Row()
        trims = self.method in TRIMS
        unordered = self.method.startswith("dare") and self.per_expert
        if unordered:
            row.explained.add("g")
        runs = [self.run("mergekit", self.masks() if trims or unordered else None)]
        if trims:
            runs.append(self.untied("mergekit"))
        for i, (got, free) in enumerate(runs):
            if got is None:
                row.problems.append(free)
                return row
            free = free if i else None
            row.problems += same_names(got, self.want)
            for name in sorted(self.want.keys() & got.keys()):
                self.bits(row, name, got[name], self.want[name], free and free[name])
        return row

    def bits(self, row, name, got, want, free):
        if got.shape != want.shape or got.dtype != want.dtype:
            return row.problems.append(f"{name}: {got.dtype} {tuple(got.shape)}, mergekit {want.dtype} {tuple(want.shape)}")
        different = got != want
        if free is not None:
            row.tied += free.sum().item()
            different &= ~free
        count = different.sum().item()
        if not count:
            return None
        row.differing += count
        error = worst(got, want, want.dtype, free)
        row.own = max(row.own, error)
        if self.method == "slerp" and error <= limit(want.dtype):
            row.explained.add("d")
        else:
            row.problems.append(f"{name}: {count} elements, error {error:.1e}")

    def native(self):
        row = Row()
        drops = self.method in DROPS
        got, why = self.run("native", self.masks() if drops else None)
        if got is None:
            row.problems.append(why)
            return row
        row.problems += same_names(got, self.want)
        wide, wider = self.reference("float32"), self.reference("float64")
        over = {}
        for name in sorted(self.want.keys() & got.keys()):
            error, dtype = self.own(row, name, got[name], self.want[name])
            if error > limit(dtype):
                over[name] = f"{name}: {error:.1e} from mergekit's own ({dtype})"
        if wide is not None:
            row.wide = 0.0
            self.wide(row, over, got, wide, wider, drops)
        else:
            if self.method in TRIMS and "dtype" not in self.config:
                self.trimmed(row)
            for name, problem in over.items():
                self.arbitrate(row, name, got[name], wider, problem)
        return row

    def trimmed(self, row):
        """float32 without masks."""
        got, free = self.untied("native")
        for name, value in got.items():
            row.tied += free[name].sum().item()
            error = worst(value, self.want[name], value.dtype, free[name])
            if error > limit(value.dtype):
                row.problems.append(f"{name}: {error:.1e} from mergekit's own, trimmed")

    def own(self, row, name, got, want):
        """The distance to what mergekit wrote, and the dtype in which it is measured."""
        loaded, saved = dtype_of(self.config.get("dtype")), dtype_of(self.config.get("out_dtype"))
        if got.dtype == torch.float32 != want.dtype and island(name, self.inputs):
            row.explained.add("c")
            got = got.to(want.dtype)
        elif want.dtype == torch.float32 != got.dtype:
            row.explained.add("f")
            want = want.to(got.dtype)
        dtype = want.dtype
        if got.shape != want.shape or got.dtype != dtype:
            row.problems.append(f"{name}: {got.dtype} {tuple(got.shape)}, mergekit {dtype} {tuple(want.shape)}")
            return 0.0, dtype
        if loaded and saved and MANTISSA[loaded] < MANTISSA[saved]:
            row.explained.add("b")
            dtype = loaded
            error = errors(got, want, loaded)[1].max().item()
        else:
            error = worst(got, want, dtype)
        row.differing += (got != want).sum().item()
        if dtype == self.main or dtype == loaded or dtype == saved:
            row.own = max(row.own, error)
        return error, dtype

    def wide(self, row, over, got, wide, wider, drops):
        """bfloat16 against the run in float32."""
        runs = [(got, self.variances())]
        if drops and self.masks("float32"):
            runs = [(self.run("native", self.masks("float32"))[0], {})]
        if self.method in TRIMS:
            runs.append(self.untied("native"))
        beyond = set()
        for tensors, free in runs:
            for name, value in tensors.items():
                left_out = free.get(name)
                row.tied += 0 if left_out is None else left_out.sum().item()
                error = worst(value, wide[name], value.dtype, left_out)
                if value.dtype != torch.float32:
                    row.wide = max(row.wide, error)
                if error > limit(value.dtype):
                    beyond.add(name)
                    self.arbitrate(row, name, value, wider, f"{name}: {error:.1e} from mergekit in float32")
        if set(over) - beyond:
            row.explained.add("a")

    def variances(self):
        """Masks of ties of SCE, by name."""
        select = self.config.get("parameters", {}).get("select_topk", 1)
        if self.method != "sce" or select >= 1:
            return {}
        models = [entry["model"] for entry in self.config["models"]]
        return {n: tied_variances(select, self.inputs, models, n) for n in self.want}

    def arbitrate(self, row, name, got, wider, problem):
        """Who is right where mergekit's float32 differs: mergekit in float64."""
        if wider is not None and worst(got, wider[name], got.dtype) <= limit(got.dtype):
            row.explained.add("e")
        else:
            row.problems.append(problem)

    def both_layouts(self, row, fused_folder):
        """Whether a fused copy of the models gives the same bits."""
        masks = self.masks() if self.method in DROPS else None
        a, b = self.run("native", masks)[0], self.run("native", masks, fused_folder)[0]
        if a is None or b is None or same_names(a, b) or any(not torch.equal(a[n], b[n]) for n in a):
            row.problems.append("a fused copy of the models gives other bits")


def fused_copy(folder, models, out):
    """The models with fused experts, and the recipes."""
    (out / "cases").symlink_to(folder / "cases")
    for model, tensors in models.items():
        (out / model).mkdir()
        (out / model / "config.json").write_text((folder / model / "config.json").read_text())
        save_file({n: t.contiguous() for n, t in tensors.items()}, out / model / "model.safetensors", {"format": "pt"})


def table(binary, folder, tally):
    inputs = {m: load_folder(folder / m) for m in "base a b c".split() if (folder / m).exists()}
    with tempfile.TemporaryDirectory() as tmp:
        for recipe in sorted((folder / "cases").glob("*.yml")):
            case = Case(binary, folder, recipe, inputs)
            if case.per_expert and not any(Path(tmp).iterdir()):
                fused_copy(folder, inputs, Path(tmp))
            rows = dict(native=case.native())
            if case.method in FOLLOWED:
                rows["mergekit"] = case.followed()
            if case.per_expert:
                case.both_layouts(rows["native"], Path(tmp))
            for numerics, row in rows.items():
                tally["compared"] += 1
                tally["failed"] += bool(row.problems)
                tally["explained"] += bool(row.explained and not row.problems)
                said = f"FAIL {row.problems[0]}" if row.problems else " ".join(sorted(row.explained))
                wide = "" if row.wide is None else f"{row.wide:.1f}"
                text = f"{folder.name:24} {recipe.stem:26} {case.method:16} {numerics:9} {wide:>5} {row.own:8.1e} "
                print(f"{text}{row.differing:7} {row.tied:5} {said}".rstrip(), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("golden", type=Path, help="what full.py wrote")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tally = Counter()
    print(f"{'pair':24} {'recipe':26} {'method':16} {'numerics':9} {'wide':>5} {'own':>8} {'differ':>7} {'tied':>5}")
    for folder in sorted(p.parent for p in args.golden.resolve().glob("*/references")):
        table(str(args.binary.resolve()), folder, tally)
    print(COLUMNS)
    for letter, reason in EXPLAINED.items():
        print(f"{letter}: {reason}")
    fine = tally["compared"] - tally["failed"] - tally["explained"]
    print(f"{tally['compared']} compared, {fine} within the limits, {tally['explained']} explained, {tally['failed']} failed")
    sys.exit(1 if tally["failed"] or not tally["compared"] else 0)


if __name__ == "__main__":
    main()
