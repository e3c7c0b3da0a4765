"""Golden merges: mergekit 0.1.5 run on small pairs of models.

    python tools/parity/mergekit.py [OUT]

Writes, for every pair and dtype, OUT/<pair>-<dtype>/{base,a,b}/{config.json,model.safetensors},
cases/<name>.yml (relative model paths), cases/<name>.safetensors (the tensors mergekit wrote),
cases/<name>.masks.safetensors (u8, keys `<model>/<tensor>`, where a method drops elements) and cases.json.

mergekit is used as it comes, from outside: one thread, CPU, `--random-seed 42`, an explicit base_model,
PYTHONHASHSEED=0. Masks are seen by wrapping `torch.bernoulli` (DARE) and mergekit's magnitude trimming
(TIES, bfloat16 only: there magnitudes tie in masses, and an unstable sort decides).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

if os.environ.get("PYTHONHASHSEED") != "0":
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, *sys.argv])
# this file is named like the package that it drives
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
sys.path.append(str(Path(__file__).resolve().parents[1]))

import importlib.metadata  # noqa: E402

import torch  # noqa: E402
import transformers  # noqa: E402
import yaml  # noqa: E402
from mergekit.config import MergeConfiguration  # noqa: E402
from mergekit.merge import run_merge  # noqa: E402
from mergekit.merge_methods import generalized_task_arithmetic as gta  # noqa: E402
from mergekit.options import MergeOptions  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import qwen35  # noqa: E402

DEFAULT_OUT = Path(__file__).resolve().parents[2] / "crates/darwin-testkit/fixtures/golden/merge"
SEED = 42


def llama(vocab_size=40, hidden_size=16, intermediate_size=24, head_dim=8):
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=head_dim,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.LlamaForCausalLM(config)


def qwen35_moe():
    text = dict(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=3,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        linear_num_key_heads=1,
        linear_num_value_heads=2,
        linear_key_head_dim=4,
        linear_value_head_dim=4,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=4,
        shared_expert_intermediate_size=4,
        max_position_embeddings=64,
        mtp_num_hidden_layers=0,
        rope_parameters=qwen35.rope(section=(1, 1, 0)),
    )
    vision = dict(
        depth=2,
        hidden_size=8,
        intermediate_size=8,
        num_heads=2,
        patch_size=2,
        spatial_merge_size=1,
        temporal_patch_size=1,
        out_hidden_size=16,
        num_position_embeddings=4,
    )
    config = transformers.Qwen3_5MoeConfig(text_config=text, vision_config=vision)
    return transformers.Qwen3_5MoeForConditionalGeneration(config)


def models(**parameters):
    """`models:` entries from name -> parameters; None leaves the parameters out."""
    return [dict(model=m, parameters=p) if p else dict(model=m) for m, p in parameters.items()]


WEIGHTS = dict(a=dict(weight=0.5), b=dict(weight=0.3))
SPARSE = dict(a=dict(weight=0.5, density=0.6), b=dict(weight=0.3, density=0.6))
DROPPED = dict(a=dict(weight=0.5, density=0.7), b=dict(weight=0.3, density=0.7))
CLASSIC_T = [
    dict(filter="self_attn", value=[0, 0.5, 0.3, 0.7, 1]),
    dict(filter="mlp", value=[1, 0.5, 0.7, 0.3, 0]),
    dict(value=0.5),
]
GRADIENTS = dict(
    a=dict(weight=[dict(filter="self_attn", value=[0.2, 0.8]), dict(filter="mlp", value=0.6), dict(value=0.5)]),
    b=dict(weight=[dict(filter="down_proj", value=[1, 0.25]), dict(filter="norm", value=0.1), dict(value=[0.3, 0.9])]),
)

COMMON = {
    "passthrough-scale": dict(
        merge_method="passthrough",
        base_model="a",
        models=models(
            a=dict(scale=[dict(filter="o_proj", value=0.5), dict(filter="down_proj", value=[0.0, 1.5])]),
        ),
    ),
    "linear": dict(
        merge_method="linear",
        base_model="base",
        models=models(base=dict(weight=0.2), a=dict(weight=0.5), b=dict(weight=0.6)),
    ),
    "linear-nonorm": dict(
        merge_method="linear",
        base_model="a",
        models=models(a=dict(weight=0.7), b=dict(weight=0.6)),
        parameters=dict(normalize=False),
    ),
    "linear-gradient": dict(merge_method="linear", base_model="a", models=models(**GRADIENTS)),
    "slerp": dict(merge_method="slerp", base_model="base", models=models(base=None, b=None), parameters=dict(t=0.35)),
    "slerp-classic": dict(
        merge_method="slerp", base_model="a", models=models(a=None, b=None), parameters=dict(t=CLASSIC_T)
    ),
    "task_arithmetic": dict(
        merge_method="task_arithmetic",
        base_model="base",
        models=models(base=None, a=dict(weight=0.5), b=dict(weight=-0.4)),
        parameters={"lambda": 0.8},
    ),
    "ties": dict(merge_method="ties", base_model="base", models=models(base=None, **SPARSE)),
    "ties-nonorm": dict(
        merge_method="ties",
        base_model="base",
        models=models(**SPARSE),
        parameters={"normalize": False, "lambda": 1.1, "int8_mask": True},
    ),
    "dare_linear": dict(merge_method="dare_linear", base_model="base", models=models(**DROPPED)),
    "dare_ties": dict(merge_method="dare_ties", base_model="base", models=models(**DROPPED)),
    "dare_ties-norescale": dict(
        merge_method="dare_ties",
        base_model="base",
        models=models(**DROPPED),
        parameters={"rescale": False, "normalize": True, "lambda": 0.9},
    ),
    "dare_ties-gradient": dict(
        merge_method="dare_ties",
        base_model="base",
        models=models(
            a=dict(weight=[0.2, 0.9], density=[0.9, 0.3]),
            b=dict(
                weight=[dict(filter="down_proj", value=0.0), dict(filter="attn", value=[1, -0.25]), dict(value=0.4)],
                density=[dict(filter="o_proj", value=1.0), dict(value=[0.5, 0.6, 1.0])],
            ),
        ),
        parameters={"lambda": 1.3},
    ),
    "ties-rescale": dict(
        merge_method="ties",
        base_model="base",
        models=models(a=dict(weight=0.7, density=[0.3, 0.8]), b=dict(weight=[0.6, 0.1], density=0.45)),
        parameters={"rescale": True, "lambda": 0.75},
    ),
    "dtype-down": dict(
        merge_method="task_arithmetic",
        base_model="base",
        models=models(**WEIGHTS),
        dtype="float32",
        out_dtype="bfloat16",
    ),
}

LLAMA_ONLY = {
    "linear-filter": dict(
        merge_method="linear",
        base_model="base",
        models=models(
            base=dict(weight=1.0),
            a=dict(weight=[dict(filter="mlp", value=0.25), dict(value=0.0)]),
            b=dict(weight=[dict(filter="*", value=[0.0, 1.0, 0.5])]),
        ),
        parameters=dict(normalize=True),
    ),
    "task_arithmetic-normalize": dict(
        merge_method="task_arithmetic",
        base_model="base",
        models=models(a=dict(weight=0.5), b=dict(weight=[dict(filter="self_attn", value=1.0), dict(value=0.2)])),
        parameters=dict(normalize=True),
    ),
    "dare_linear-norescale": dict(
        merge_method="dare_linear",
        base_model="base",
        models=models(a=dict(weight=0.5, density=0.7), b=dict(weight=0.3, density=1.0)),
        parameters=dict(rescale=False),
    ),
    "dtype-up": dict(
        merge_method="linear",
        base_model="a",
        models=models(**WEIGHTS),
        dtype="bfloat16",
        out_dtype="float32",
    ),
    "slices-passthrough": dict(
        merge_method="passthrough",
        base_model="a",
        slices=[
            dict(sources=[dict(model="a", layer_range=[0, 2])]),
            dict(sources=[dict(model="b", layer_range=[1, 3], parameters=dict(scale=[dict(filter="o_proj", value=0.0)]))]),
        ],
    ),
    "slices-linear": dict(
        merge_method="linear",
        base_model="a",
        slices=[
            dict(
                sources=[
                    dict(model="a", layer_range=[0, 2], parameters=dict(weight=[0.2, 0.8])),
                    dict(model="b", layer_range=[1, 3], parameters=dict(weight=0.4)),
                ]
            ),
            dict(
                sources=[
                    dict(model="a", layer_range=[2, 3], parameters=dict(weight=[0.9, 0.1])),
                    dict(model="b", layer_range=[0, 1], parameters=dict(weight=0.5)),
                ],
                parameters=dict(normalize=False),
            ),
        ],
    ),
}



def qwen3_moe(vocab_size=40, hidden_size=16, moe_intermediate_size=6, num_hidden_layers=2, num_experts=4, head_dim=8):
    config = transformers.Qwen3MoeConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=24,
        moe_intermediate_size=moe_intermediate_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=head_dim,
        num_experts=num_experts,
        num_experts_per_tok=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.Qwen3MoeForCausalLM(config)


PAIRS = {
    "llama": dict(build=llama, cases=COMMON | LLAMA_ONLY, seed=1),
    "moe": dict(build=qwen35_moe, cases=COMMON, seed=2),
}


def one_by_one(tensors):
    """Fused experts as `experts.<j>.{gate,up,down}_proj.weight`."""
    out = {}
    for name, value in tensors.items():
        head, _, part = name.rpartition(".experts.")
        if part not in ("gate_up_proj", "down_proj"):
            out[name] = value
            continue
        for j, expert in enumerate(value):
            pieces = expert.chunk(2) if part == "gate_up_proj" else [expert]
            for kind, piece in zip(("gate", "up") if len(pieces) == 2 else ("down",), pieces):
                out[f"{head}.experts.{j}.{kind}_proj.weight"] = piece.contiguous()
    return out


def write_inputs(folder, model, dtype, seed, tuned="ab", per_expert=False):
    """base: random; a, b: the base plus noise of a third of its size, and left alone in a few tensors."""
    gen = torch.Generator().manual_seed(seed)
    noise = lambda like: torch.randn(like.shape, generator=gen)  # noqa: E731
    base = {k: noise(v) * (v.shape[-1] ** -0.5 if v.ndim > 1 else 0.3) for k, v in model.named_parameters()}
    tuned = {m: {k: v + noise(v) * 0.3 * v.std() for k, v in base.items()} for m in tuned}
    for name in base:
        if "layers.0.post_attention_layernorm" in name or name.startswith("model.visual.patch_embed"):
            tuned["b"][name] = base[name].clone()  # not tuned: a task vector of zeros
    config = model.config.to_dict()
    config.pop("transformers_version", None)
    config["architectures"] = [type(model).__name__]
    for part in (config, config.get("text_config"), config.get("vision_config")):
        if part:
            part["dtype"] = dtype
    for name, weights in dict(base=base, **tuned).items():
        out = {}
        for key, value in weights.items():
            out[key] = value if key.endswith(qwen35.F32_ISLANDS) else value.to(getattr(torch, dtype))
        if per_expert:
            out = one_by_one(out)
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        save_file(out, folder / name / "model.safetensors", metadata={"format": "pt"})


class MaskRecorder:
    """Within it, the elements that mergekit keeps are recorded per output tensor and model."""

    def __init__(self, trimmed):
        self.trimmed = trimmed  # also the masks of trimming by magnitude
        self.masks = {}

    def __enter__(self):
        self.saved = (torch.bernoulli, gta.sparsify, gta.GeneralizedTaskArithmeticMerge.merge_group)
        bernoulli, sparsify_, merge_group = self.saved
        pending = []

        def record_bernoulli(probs, *args, **kwargs):
            mask = bernoulli(probs, *args, **kwargs)
            self.masks[pending[-1]] = mask.to(torch.uint8)
            return mask

        def record_sparsify(delta, density, method, **kwargs):
            pending.append(self.queue.pop(0))
            out = sparsify_(delta, density=density, method=method, **kwargs)
            if self.trimmed and method.value.startswith("magnitude") and density < 1:
                self.masks[pending[-1]] = (out != 0).to(torch.uint8)
            return out

        def record_group(method, group, /, **parameters):
            self.queue = [f"{entry.id}/{group.metadata.name}" for entry in group.non_base]
            return merge_group(method, group, **parameters)

        torch.bernoulli = record_bernoulli
        gta.sparsify = record_sparsify
        gta.GeneralizedTaskArithmeticMerge.merge_group = record_group
        return self

    def __exit__(self, *_):
        torch.bernoulli, gta.sparsify, gta.GeneralizedTaskArithmeticMerge.merge_group = self.saved


def run_case(recipe, config, trimmed):
    """(output tensors, masks, layers): mergekit on one YAML, from inside the pair's folder."""
    text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=110)
    Path(recipe).write_text(text)
    options = MergeOptions(
        random_seed=SEED, num_threads=1, copy_tokenizer=False, write_model_card=False, quiet=True, device="cpu"
    )
    with tempfile.TemporaryDirectory() as tmp, MaskRecorder(trimmed) as recorder:
        run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), tmp, options=options)
        files = sorted(Path(tmp).glob("*.safetensors"))
        assert len(files) == 1, files
        tensors = load_file(files[0])
        out_config = json.loads((Path(tmp) / "config.json").read_text())
    layers = out_config.get("text_config", out_config)["num_hidden_layers"]
    return tensors, recorder.masks, layers


def run_pair(folder, pair, dtype):
    folder.mkdir(parents=True)
    write_inputs(folder, pair["build"](), dtype, pair["seed"], per_expert=pair.get("per_expert", False))
    (folder / "cases").mkdir()
    os.chdir(folder)
    base = load_file("base/model.safetensors")
    about = {}
    for name, config in pair["cases"].items():
        tensors, masks, layers = run_case(f"cases/{name}.yml", config, trimmed=dtype == "bfloat16")
        if "slices" not in config and not pair.get("per_expert"):
            assert tensors.keys() == base.keys(), f"{name}: mergekit lost {base.keys() - tensors.keys()}"
        assert all(torch.isfinite(t.float()).all() for t in tensors.values()), name
        save_file(tensors, f"cases/{name}.safetensors")
        if masks:
            save_file(masks, f"cases/{name}.masks.safetensors")
        dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()})
        about[name] = dict(method=config["merge_method"], out_dtypes=dtypes, layers=layers, masks=len(masks))
        print(f"{folder.name} {name}: {len(tensors)} tensors {dtypes}, {len(masks)} masks, {layers} layers")
    versions = {p: importlib.metadata.version(p) for p in ("mergekit", "torch", "transformers", "safetensors")}
    text = json.dumps(dict(random_seed=SEED, seed=pair["seed"], versions=versions, cases=about), indent=1)
    Path("cases.json").write_text(text + "\n")
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if sys.argv[1:2] == ["--one"]:
        _, _, name, dtype, folder = sys.argv
        return run_pair(Path(folder), PAIRS[name], dtype)
    out = Path(sys.argv[1] if sys.argv[1:] else DEFAULT_OUT).resolve()
    for name in PAIRS:
        for dtype in ("float32", "bfloat16"):
            folder = out / f"{name}-{dtype}"
            shutil.rmtree(folder, ignore_errors=True)
            # A process each: mergekit keeps loaders by model path for the life of the process, so a second
            # pair under the same relative names would silently be read from the first.
            subprocess.run([sys.executable, __file__, "--one", name, dtype, str(folder)], check=True)
    total = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
