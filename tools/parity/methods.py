"""Golden merges of the methods beyond mergekit.py's seven.

    python tools/parity/methods.py [OUT [PAIR ...]]

As mergekit.py, on smaller pairs, into crates/darwin-testkit/fixtures/golden/methods; every method
on `qwen3_moe`, whose experts lie one by one on disk. Masks are recorded for DELLA
(which draws) and, in bfloat16, for breadcrumbs (whose unstable sort decides between equal magnitudes).

mergekit stops where DELLA meets a convolution of shape [C, 1, k]; its recipe gives these the density 1.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# not `import mergekit`: that is the package
spec = importlib.util.spec_from_file_location("golden", HERE / "mergekit.py")
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)
models = golden.models

DEFAULT_OUT = HERE.parents[1] / "crates/darwin-testkit/fixtures/golden/methods"
WEIGHTS = dict(a=dict(weight=0.5), b=dict(weight=0.3))
PLAIN = dict(a=None, b=None)


def recipe(method, given, base="base", **parameters):
    config = dict(merge_method=method)
    if base:
        config["base_model"] = base
    config["models"] = models(**given)
    if parameters:
        config["parameters"] = parameters
    return config


def thinned(**own):
    return dict(a=dict(weight=0.5, **own), b=dict(weight=0.3, **own))


DENSITY = [dict(filter="conv1d", value=1.0), dict(value=0.6)]

CASES = {
    "breadcrumbs": recipe("breadcrumbs", thinned(density=0.6, gamma=0.1), **{"lambda": 0.9}),
    "breadcrumbs_ties": recipe("breadcrumbs_ties", thinned(density=0.5), rescale=True),
    "della": recipe("della", thinned(density=DENSITY, epsilon=0.2)),
    "della_linear": recipe("della_linear", thinned(density=DENSITY), rescale=False),
    "model_stock": recipe("model_stock", PLAIN),
    "model_stock-filter_wise": recipe("model_stock", PLAIN, filter_wise=True),
    "nuslerp": recipe("nuslerp", WEIGHTS),
    "nuslerp-nobase": recipe("nuslerp", WEIGHTS, base=None),
    "nuslerp-rows": recipe("nuslerp", WEIGHTS, nuslerp_flatten=False),
    "multislerp": recipe("multislerp", WEIGHTS),
    "multislerp-nobase": recipe("multislerp", dict(base=dict(weight=0.4), **WEIGHTS), base=None),
    "sce": recipe("sce", PLAIN),
    "sce-topk": recipe("sce", PLAIN, select_topk=0.4),
    "nearswap": recipe("nearswap", dict(a=None), t=0.02),
    "karcher": recipe("karcher", dict(base=None, **PLAIN)),
    "ram": recipe("ram", PLAIN),
    "ram-epsilon": recipe("ram", PLAIN, epsilon=0.05),
    "ramplus_tl": recipe("ramplus_tl", PLAIN, epsilon=0.05, r=0.3, alpha=2.5),
    "arcee_fusion": recipe("arcee_fusion", dict(a=None)),
}
WIDE = ("della", "nuslerp-rows", "sce-topk", "karcher", "ramplus_tl")
NARROW = ("breadcrumbs", "nearswap", "arcee_fusion")


# every method once
EVERY = {}
for name, case in (golden.COMMON | CASES).items():
    if all(case["merge_method"] != other["merge_method"] for other in EVERY.values()):
        EVERY[name] = case


def tiny_moe():
    return golden.qwen3_moe(6, 8, 3, num_hidden_layers=1, num_experts=3, head_dim=4)


def some(names):
    return {name: CASES[name] for name in names}


PAIRS = {
    "llama-float32": dict(build=lambda: golden.llama(12, 8, 12, 4), cases=CASES, seed=1),
    "llama-bfloat16": dict(build=lambda: golden.llama(12, 8, 12, 4), cases=CASES, seed=1),
    "moe-float32": dict(build=golden.qwen35_moe, cases=some(WIDE), seed=2),
    "moe-bfloat16": dict(build=golden.qwen35_moe, cases=some(NARROW), seed=2),
    "qwen3_moe-float32": dict(build=tiny_moe, cases=EVERY, seed=3, per_expert=True),
    "qwen3_moe-bfloat16": dict(build=tiny_moe, cases=EVERY, seed=3, per_expert=True),
}


def main():
    golden.torch.set_num_threads(1)
    golden.transformers.logging.set_verbosity_error()
    if sys.argv[1:2] == ["--one"]:
        _, _, name, folder = sys.argv
        return golden.run_pair(Path(folder), PAIRS[name], name.split("-")[1])
    out = Path(sys.argv[1] if sys.argv[1:] else DEFAULT_OUT).resolve()
    for name in sys.argv[2:] or PAIRS:
        shutil.rmtree(out / name, ignore_errors=True)
        # a process each, as in mergekit.py
        subprocess.run([sys.executable, __file__, "--one", name, str(out / name)], check=True)
    total = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
