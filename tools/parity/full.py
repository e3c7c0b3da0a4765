"""Every merge method of mergekit 0.1.5 on every shape, for `compare.py`; nothing of it is kept.

    python tools/parity/full.py OUT [PAIR ...]

As mergekit.py and methods.py, with a third tuned model `c`, and beside `cases/` the folder `references/`: the same
recipe run by mergekit in float32 (where the models are bfloat16) and in float64 (methods without masks), with the
masks of that run. They tell whether a difference is mergekit's own rounding.

Pairs: `llama`; `llama_large`, tensors of up to 307,200 elements, fewer recipes; `qwen3_moe`, experts one by
one on disk; `qwen3_moe_fused`, the same fused, fewer recipes; `qwen3_5_moe`, fused.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import methods

golden = methods.golden
recipe, models = methods.recipe, golden.models

DROPS = ("dare", "della", "breadcrumbs", "ties")
THREE = dict(a=dict(weight=0.5), b=dict(weight=0.3), c=dict(weight=-0.2))
PLAIN = dict(a=None, b=None, c=None)


def thinned(**own):
    return {m: p | own for m, p in THREE.items()}


MANY = {
    "linear-three": recipe("linear", THREE, parameters=None, base="a"),
    "task_arithmetic-three": recipe("task_arithmetic", THREE, **{"lambda": 1.2}),
    "ties-three": recipe("ties", thinned(density=0.4)),
    "dare_linear-three": recipe("dare_linear", thinned(density=0.6)),
    "dare_ties-three": recipe("dare_ties", thinned(density=0.6), normalize=True),
    "breadcrumbs-three": recipe("breadcrumbs", thinned(density=0.7, gamma=0.05), rescale=True),
    "breadcrumbs_ties-three": recipe("breadcrumbs_ties", thinned(density=0.7, gamma=0.05), normalize=True),
    "della-three": recipe("della", thinned(density=methods.DENSITY)),
    "della_linear-three": recipe("della_linear", thinned(density=methods.DENSITY, epsilon=0.3), **{"lambda": 0.7}),
    "model_stock-three": recipe("model_stock", PLAIN),
    "nuslerp-columns": recipe("nuslerp", methods.WEIGHTS, nuslerp_flatten=False, nuslerp_row_wise=True),
    "nuslerp-columns-nobase": recipe("nuslerp", methods.WEIGHTS, base=None, nuslerp_flatten=False, nuslerp_row_wise=True),
    "multislerp-three": recipe("multislerp", dict(a=dict(weight=0.5), b=dict(weight=0.3), c=dict(weight=0.7))),
    "sce-three": recipe("sce", PLAIN, select_topk=0.6),
    "karcher-three": recipe("karcher", dict(base=None, **PLAIN), max_iter=20, tol=1e-7),
    "ram-three": recipe("ram", PLAIN, epsilon=0.02),
    "ramplus_tl-three": recipe("ramplus_tl", PLAIN, epsilon=0.02),
}
MANY["linear-three"].pop("parameters")
ALL = golden.COMMON | methods.CASES | MANY
METHODS = tuple(dict.fromkeys(case["merge_method"] for case in ALL.values()))
# one recipe a method
FEW = {next(n for n, c in ALL.items() if c["merge_method"] == m): None for m in METHODS}
FEW = {name: ALL[name] for name in FEW}

PAIRS = {
    "llama": dict(build=golden.llama, cases=ALL | golden.LLAMA_ONLY, seed=11),
    "qwen3_moe": dict(build=golden.qwen3_moe, cases=ALL, seed=12, per_expert=True),
    "qwen3_moe_fused": dict(build=golden.qwen3_moe, cases=FEW, seed=12),
    # tensors of up to 307,200 elements
    "llama_large": dict(build=lambda: golden.llama(1200, 256, 520, 64), cases=FEW, seed=14),
    "qwen3_5_moe": dict(build=golden.qwen35_moe, cases=ALL, seed=13),
}


def references(name, config, dtype):
    """The recipe in wider dtypes. Masks of the classic methods do not depend on anything but the dtype's work."""
    wider = [] if "dtype" in config else ["float32"] * (dtype != "float32")
    if not config["merge_method"].startswith(DROPS) and "dtype" not in config:
        wider.append("float64")
    for other in wider:
        stem = f"references/{name}.{other}"
        tensors, masks, _ = golden.run_case(f"{stem}.yml", config | dict(dtype=other), trimmed=True)
        golden.save_file(tensors, f"{stem}.safetensors")
        if masks:
            golden.save_file(masks, f"{stem}.masks.safetensors")


def run_pair(folder, pair, dtype):
    folder.mkdir(parents=True)
    golden.write_inputs(folder, pair["build"](), dtype, pair["seed"], "abc", pair.get("per_expert", False))
    golden.os.chdir(folder)
    Path("cases").mkdir()
    Path("references").mkdir()
    for name, config in pair["cases"].items():
        tensors, masks, _ = golden.run_case(f"cases/{name}.yml", config, trimmed=True)
        golden.save_file(tensors, f"cases/{name}.safetensors")
        if masks:
            golden.save_file(masks, f"cases/{name}.masks.safetensors")
        references(name, config, dtype)
    print(f"{folder.name}: {len(pair['cases'])} recipes", flush=True)


def main():
    golden.torch.set_num_threads(1)
    golden.transformers.logging.set_verbosity_error()
    if sys.argv[1:2] == ["--one"]:
        _, _, name, folder = sys.argv
        pair, dtype = name.rsplit("-", 1)
        return run_pair(Path(folder), PAIRS[pair], dtype)
    if not sys.argv[1:]:
        sys.exit(__doc__)
    out = Path(sys.argv[1]).resolve()
    for pair in sys.argv[2:] or PAIRS:
        for dtype in ("float32", "bfloat16"):
            folder = out / f"{pair}-{dtype}"
            shutil.rmtree(folder, ignore_errors=True)
            # a process each, as in mergekit.py
            subprocess.run([sys.executable, __file__, "--one", folder.name, str(folder)], check=True)


if __name__ == "__main__":
    main()
