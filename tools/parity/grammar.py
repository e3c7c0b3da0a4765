"""Generated recipes: every parameter of every tensor as mergekit resolves it, and as we do.

    python tools/parity/grammar.py target/release/darwin [--files 300] [--keep DIR]

Writes recipes from mergekit's grammar (twenty methods; `models`, `slices`, `modules`; scalars, gradients, conditions;
all levels of precedence; YAML 1.1's spellings; some with mistakes) for the tiny llama models of the golden merges.
mergekit 0.1.5 plans each, without merging, and the planner's reading of parameters is recorded; `darwin merge
--dry-run --json` says what we read. Values are compared exactly. Exit code 1 where one differs, or where mergekit
refuses what we accept. Methods that have no numerics of mergekit's are read in native ones, whose plan leaves out
what adds nothing (weight or lambda 0).
"""

import argparse
import collections
import contextlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("PYTHONHASHSEED", "0")
# mergekit.py beside this file is named like the package that is run here
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

import mergekit.plan  # noqa: E402
import transformers  # noqa: E402
import yaml  # noqa: E402
from mergekit.architecture import get_architecture_info  # noqa: E402
from mergekit.config import MergeConfiguration  # noqa: E402
from mergekit.io.tasks import LoaderCache  # noqa: E402
from mergekit.merge import _model_out_config  # noqa: E402
from mergekit.options import MergeOptions  # noqa: E402

FOLDER = Path(__file__).resolve().parents[2] / "crates/darwin-testkit/fixtures/golden/merge/llama-float32"
LAYERS = 3
DELTAS = ["normalize", "rescale", "lambda", "int8_mask"]
METHODS = {  # parameters of each model, and of all
    "linear": (["weight"], ["normalize"]),
    "slerp": ([], ["t"]),
    "passthrough": (["scale"], []),
    "task_arithmetic": (["weight", "density"], DELTAS),
    "ties": (["weight", "density"], DELTAS),
    "dare_linear": (["weight", "density"], DELTAS),
    "dare_ties": (["weight", "density"], DELTAS),
    "breadcrumbs": (["weight", "density", "gamma"], DELTAS),
    "breadcrumbs_ties": (["weight", "density", "gamma"], DELTAS),
    "della": (["weight", "density", "epsilon"], DELTAS),
    "della_linear": (["weight", "density", "epsilon"], DELTAS),
    "model_stock": ([], ["filter_wise"]),
    "nuslerp": (["weight"], ["nuslerp_row_wise", "nuslerp_flatten"]),
    "multislerp": (["weight"], ["normalize_weights", "eps"]),
    "sce": ([], ["select_topk", "int8_mask"]),
    "nearswap": ([], ["t"]),
    "karcher": ([], ["max_iter", "tol"]),
    "ram": ([], ["epsilon"]),
    "ramplus_tl": ([], ["r", "alpha", "epsilon"]),
    "arcee_fusion": ([], []),
}
# equal to the bit in mergekit's numerics, which are asked for; the others have native ones alone
TO_THE_BIT = {"linear", "slerp", "passthrough", "task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs",
              "breadcrumbs_ties"}
BASELESS = {"linear", "passthrough", "nuslerp", "multislerp", "karcher"}
PAIRS = {"slerp", "nuslerp", "nearswap", "arcee_fusion"}
SWITCHES = ("normalize", "rescale", "int8_mask", "filter_wise", "nuslerp_row_wise", "nuslerp_flatten",
            "normalize_weights")
RANGES = dict(density=(0, 1), t=(0, 1), select_topk=(0, 1), gamma=(0, 0.2), epsilon=(0, 0.3), r=(0, 0.5),
              alpha=(0, 0.5), eps=(1e-9, 1e-3), tol=(1e-9, 1e-3), max_iter=(1, 50))
FILTERS = ["self_attn", "mlp", "layers.1", "norm", "embed_tokens", "lm_head", "model.", "'*'", "q_proj.weight", "nothing"]
IGNORED = {"int8_mask"}  # a matter of memory in mergekit, without effect here


class Writer:
    def __init__(self, rng):
        self.rng = rng

    def scalar(self, name):
        rng = self.rng
        if name in SWITCHES:
            return rng.choice(["true", "false", "yes", "no", "On", "OFF", "1", "0", "'true'"])
        low, high = RANGES.get(name, (-0.5, 1.5))
        if name == "max_iter":
            return str(rng.randint(low, high))
        if name in ("eps", "tol"):
            return f"{rng.uniform(low, high):.2e}"
        value = round(rng.uniform(low, high), rng.randint(0, 4))
        return rng.choice([repr(value), f"{value:e}", f"'{value}'", f"{value:.0f}", f"{value:.0e}".replace("e-0", "e-")])

    def value(self, name):
        if self.rng.random() < 0.6:
            return self.scalar(name)
        return f"[{', '.join(self.scalar(name) for _ in range(self.rng.randint(1, 4)))}]"

    def condition(self, name):
        filter_ = f", filter: {self.rng.choice(FILTERS)}" if self.rng.random() < 0.8 else ""
        return f"{{value: {self.value(name)}{filter_}}}"

    def setting(self, name):
        kind = self.rng.random()
        if kind < 0.4:
            return self.value(name)
        if kind < 0.5:
            return self.condition(name)
        return f"[{', '.join(self.condition(name) for _ in range(self.rng.randint(1, 3)))}]"

    def parameters(self, names, chance, indent):
        lines = [f"{name}: {self.setting(name)}" for name in names if self.rng.random() < chance]
        if not lines:
            return ""
        if self.rng.random() < 0.5:
            return f"{indent}parameters: {{{', '.join(lines)}}}\n"
        return f"{indent}parameters:\n" + "".join(f"{indent}  {line}\n" for line in lines)

    def recipe(self, method):
        rng = self.rng
        own, shared = METHODS[method]
        based = method not in BASELESS
        count = dict(passthrough=1, linear=rng.randint(1, 3)).get(method, 2 if method in PAIRS else 3)
        models = rng.sample(["base", "a", "b"], count)
        form = rng.choice(["models", "slices", "modules/models", "modules/slices"])
        indent = "    " if form.startswith("modules") else ""
        text = f"merge_method: {method}\n"
        base = models[0] if based else rng.choice([None, models[0]])
        if method == "nuslerp" and base:
            models = ["base", "a", "b"]  # two beside the base
        if base:
            text += f"base_model: {base}\n"
        text += "modules:\n  default:\n" if indent else ""
        if form.endswith("models"):
            text += f"{indent}models:\n"
            for model in models:
                text += f"{indent}  - model: {model}\n" + self.parameters(own, 0.6, indent + "    ")
        else:
            text += f"{indent}slices:\n"
            lengths = [rng.randint(1, LAYERS)] + [rng.randint(0, LAYERS) for _ in range(rng.randint(0, 2))]
            for length in lengths:
                text += f"{indent}  - sources:\n"
                for model in models:
                    first = rng.randint(0, LAYERS - length)
                    text += f"{indent}    - model: {model}\n{indent}      layer_range: [{first}, {first + length}]\n"
                    text += self.parameters(own, 0.5, indent + "      ")
                if based and rng.random() < 0.3:
                    text += f"{indent}    base_model: {rng.choice(models)}\n"
                if rng.random() < 0.1:
                    text += f"{indent}    residual_weight: 0.5\n"
                text += self.parameters(own + shared, 0.3, indent + "    ")
        if indent:
            text += self.parameters(own + shared, 0.3, indent)
        # mostly everything has a value in the end
        complete, lines = rng.random() < 0.9, []
        for name in own + shared:
            if rng.random() < 0.3:
                conditions = [self.condition(name) for _ in range(rng.randint(0, 2))]
                conditions += [f"{{value: {self.value(name)}}}"] * complete
                lines += [f"  {name}: [{', '.join(conditions)}]\n"] * bool(conditions)
            elif complete:
                lines.append(f"  {name}: {self.value(name)}\n")
        text += "parameters:\n" * bool(lines) + "".join(lines)
        return form, text


def of_mergekit(text):
    """{tensor: (shared, {model: own})} as mergekit's planner reads them."""
    seen = {}
    resolve = mergekit.plan.resolve_parameters

    def record(spec, *, tensor_name, inputs, **more):
        shared, own = resolve(spec, tensor_name=tensor_name, inputs=inputs, **more)
        seen[tensor_name] = (shared, {str(model.model.path): values for model, values in own.items()})
        return shared, own

    options = MergeOptions(quiet=True, device="cpu")
    config = MergeConfiguration.model_validate(yaml.safe_load(text))
    arch = get_architecture_info(config, options)
    LoaderCache().setup(options=options)
    out = _model_out_config(config, arch)
    mergekit.plan.resolve_parameters = record
    try:
        mergekit.plan.MergePlanner(config, arch, options=options, out_model_config=out).plan_to_disk("unused")
    finally:
        mergekit.plan.resolve_parameters = resolve
    return seen


def of_darwin(binary, file, method):
    """The same of ours, or the sentence that refuses the file."""
    numerics = "mergekit" if method in TO_THE_BIT else "native"
    command = [binary, "-q", "merge", str(file), "--dry-run", "--json", "--numerics", numerics]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
    if done.returncode:
        return None, done.stderr
    plain = lambda parameters: {name: entry["value"] for name, entry in parameters.items()}  # noqa: E731
    return {
        line["tensor"]: (
            plain(line.get("parameters", {})),
            {source["model"]: plain(source.get("parameters", {})) for source in line["sources"]},
        )
        for line in json.loads(done.stdout)["tensors"]
    }, ""


def left_out(shared, own):
    """Whether nothing of a model is added, so that our native plan leaves it out."""
    return own.get("weight") == 0 or shared.get("lambda") == 0


def differences(ours, theirs, native):
    """(number of values compared, the first that differs)."""
    if ours.keys() != theirs.keys():
        return 0, f"tensors: {sorted(ours.keys() ^ theirs.keys())[:3]}"
    compared = 0
    for tensor, (shared, own) in theirs.items():
        pairs = [("", shared, ours[tensor][0])] + [(m, own[m], ours[tensor][1].get(m)) for m in own]
        for model, want, got in pairs:
            for name, value in want.items():
                if name in IGNORED:
                    continue
                value = 1.0 if value is None else float(value)
                if got is None or name not in got:
                    if native and model and left_out(shared, want):
                        continue
                    return compared, f"{tensor} {model} {name}: mergekit {value}, ours has none"
                compared += 1
                if float(got[name]) != value:
                    return compared, f"{tensor} {model} {name}: mergekit {value}, ours {got[name]}"
    return compared, None


# what refusals of ours are about, and what mergekit does there
REASONS = {
    "give chances": "chances of DELLA beyond 0 and 1: mergekit refuses them when it comes to the tensor",
    "sum to 0": "weights that sum to 0 and are divided by: mergekit writes NaN or infinities",
    "takes two models": "nuslerp takes two models, a base apart",
    "is missing": "a parameter without a value",
    "allowed is": "a value that is not allowed",
    "comes twice": "a model comes twice",
    "needs a `base_model`": "no base",
}


def reason(said):
    """What a refusal is about, without names and numbers."""
    for words, text in REASONS.items():
        if words in said:
            return text
    return said.strip().splitlines()[0][:90]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    binary, keep = str(args.binary.resolve()), args.keep and args.keep.resolve()
    transformers.logging.set_verbosity_error()
    os.chdir(FOLDER)
    rng = random.Random(1)
    rows = collections.defaultdict(collections.Counter)
    reasons, both, failures = collections.Counter(), collections.Counter(), []
    with tempfile.TemporaryDirectory() as tmp:
        folder = keep or Path(tmp)
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(args.files):
            method = list(METHODS)[i % len(METHODS)]
            form, text = Writer(rng).recipe(method)
            file = folder / f"{i:03}.yml"
            file.write_text(text)
            row = rows[method, form]
            row["files"] += 1
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    theirs, why = of_mergekit(text), ""
            except (RuntimeError, ValueError) as error:
                theirs, why = None, str(error)
            ours, said = of_darwin(binary, file, method)
            if theirs is None and ours is None:
                row["both refuse"] += 1
                both[reason(said)] += 1
            elif theirs is None:
                row["mergekit refuses"] += 1
                failures.append(f"{i:03} mergekit refuses, we accept: {why.splitlines()[0][:120]}")
            elif ours is None:
                row["darwin refuses"] += 1
                reasons[reason(said)] += 1
            else:
                compared, differs = differences(ours, theirs, method not in TO_THE_BIT)
                row["tensors"] += len(theirs)
                row["values"] += compared
                row["differ" if differs else "equal"] += 1
                if differs:
                    failures.append(f"{i:03} {differs}")
    columns = ["files", "equal", "differ", "both refuse", "darwin refuses", "mergekit refuses", "tensors", "values"]
    print(f"{'method':16} {'form':15}" + "".join(f"{c:>17}" for c in columns))
    for (method, form), row in sorted(rows.items()):
        print(f"{method:16} {form:15}" + "".join(f"{row[c]:17}" for c in columns))
    total = sum(rows.values(), collections.Counter())
    print(f"{'all':16} {'':15}" + "".join(f"{total[c]:17}" for c in columns))
    for text, n in both.most_common():
        print(f"both refuse {n}: {text}")
    for text, n in reasons.most_common():
        print(f"darwin alone refuses {n}: {text}")
    for failure in failures:
        print(f"FAIL {failure}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
