"""Golden merges of LoRA adapters by PEFT itself.

    python tools/parity/lora.py [OUT]               # all cases (PEFT 0.21.2)
    python tools/parity/lora.py [OUT] --only experts,square   # with an older PEFT: its orientation of experts
    python tools/parity/lora.py --check BASE ADAPTER FINETUNED  # does PEFT load what extract-lora wrote?

Each case builds an adapter on a tiny Qwen3-MoE model with random weights, saves it with PEFT, loads it anew (PEFT 0.19
cannot, with this Transformers), merges it by `merge_and_unload` and keeps what changed. The weights are set by hand, for models here are not trained.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, Qwen3MoeConfig, Qwen3MoeForCausalLM

DEFAULT_OUT = Path(__file__).resolve().parents[2] / "crates/darwin-testkit/fixtures/golden/lora"
ATTENTION = ["q_proj", "v_proj", "o_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]

# name: (base, settings)
CASES = {
    "plain": ("fused", dict(r=4, lora_alpha=6, target_modules=ATTENTION)),
    "plain-bfloat16": ("fused-bfloat16", dict(r=4, lora_alpha=6, target_modules=ATTENTION)),
    "patterns": ("fused", dict(
        r=4, lora_alpha=6, target_modules=ATTENTION,
        rank_pattern={"layers.1.self_attn.q_proj": 2, "v_proj": 3, r"^model\.layers\.0\..*o_proj": 1},
        alpha_pattern={"q_proj": 5, "_proj": 100, "self_attn.o_proj": 7})),
    "rslora": ("fused", dict(r=4, lora_alpha=6, use_rslora=True, target_modules=["k_proj", "lm_head"])),
    "embedding": ("fused", dict(
        r=4, lora_alpha=6, target_modules=["embed_tokens"], modules_to_save=["lm_head", "model.norm"])),
    "bias": ("fused", dict(r=2, target_modules=["q_proj"], bias="all")),
    "lora_bias": ("fused", dict(r=2, lora_alpha=6, target_modules=["q_proj"], lora_bias=True)),
    "experts": ("fused", dict(
        r=2, lora_alpha=3, target_modules=["q_proj"], target_parameters=[*EXPERTS, "mlp.gate.weight"],
        rank_pattern={"experts.down_proj": 3})),
    "experts-bfloat16": ("fused-bfloat16", dict(r=2, lora_alpha=3, target_modules=[], target_parameters=EXPERTS)),
    "experts-one": ("fused", dict(r=2, lora_alpha=3, target_modules=[], target_parameters=EXPERTS[:1])),
    "square": ("square", dict(r=2, lora_alpha=3, target_modules=[], target_parameters=EXPERTS)),
    "modules": ("modules", dict(
        r=2, lora_alpha=3, target_modules=["experts.0.up_proj", "experts.2.gate_proj", "experts.1.down_proj"])),
}


def config(square):
    return Qwen3MoeConfig(
        hidden_size=8, moe_intermediate_size=8 if square else 6, intermediate_size=10, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=4, vocab_size=12, num_experts=3, num_experts_per_tok=2,
        attention_bias=True, tie_word_embeddings=False, architectures=["Qwen3MoeForCausalLM"])


class Experts(nn.ModuleList):
    """Experts one by one, as Transformers 4 had them."""

    def __init__(self, fused):
        def linear(weight):
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            layer.weight = nn.Parameter(weight.clone())
            return layer
        super().__init__()
        for up, down in zip(fused.gate_up_proj.data, fused.down_proj.data):
            half = up.shape[0] // 2
            self.append(nn.ModuleDict(dict(
                gate_proj=linear(up[:half]), up_proj=linear(up[half:]), down_proj=linear(down))))


class Plain(nn.Module):
    """The same modules without a configuration: PEFT would turn targets of old models into fused ones."""

    def __init__(self, model):
        super().__init__()
        self.model, self.lm_head = model.model, model.lm_head


def build(kind):
    torch.manual_seed(7)
    model = Qwen3MoeForCausalLM(config(kind == "square"))
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1
    if kind.endswith("bfloat16"):
        model = model.to(torch.bfloat16)
    if kind == "modules":
        for layer in model.model.layers:
            layer.mlp.experts = Experts(layer.mlp.experts)
        return Plain(model)
    return model


def tensors(model):
    return {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}


def write_base(out, kind):
    folder = out / "base" / kind
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(build(kind)), folder / "model.safetensors", metadata=dict(format="pt"))
    (folder / "config.json").write_text(config(kind == "square").to_json_string())


def write_case(out, name, kind, settings, reload):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    model = get_peft_model(build(kind), LoraConfig(**settings))
    torch.manual_seed(11)
    for key, parameter in model.named_parameters():
        if "lora_" in key or "modules_to_save" in key or (settings.get("bias") == "all" and "bias" in key):
            parameter.data = torch.randn_like(parameter.float()).to(parameter.dtype) * 0.3
    model.save_pretrained(folder, save_embedding_layers=False)
    before = tensors(build(kind))
    if reload:
        model = PeftModel.from_pretrained(build(kind), folder)
    after = tensors(model.merge_and_unload())
    changed = {key: value for key, value in after.items() if not torch.equal(value, before[key])}
    save_file(changed, folder / "merged.safetensors")
    (folder / "case.json").write_text(json.dumps(dict(base=kind, peft=peft.__version__, changed=len(changed))) + "\n")
    (folder / "README.md").unlink(missing_ok=True)
    print(f"{name}: PEFT {peft.__version__}, {len(changed)} tensors changed")


def check(base, adapter, finetuned):
    """Loads base and adapter with PEFT, merges, and prints the distance to the fine-tune."""
    def model(folder):
        loaded = Qwen3MoeForCausalLM(AutoConfig.from_pretrained(folder))
        missing = loaded.load_state_dict(load_file(Path(folder) / "model.safetensors"), strict=True)
        assert not missing.missing_keys
        return loaded
    wrapped = PeftModel.from_pretrained(model(base), adapter)
    saved = load_file(Path(adapter) / "adapter_model.safetensors")
    own = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    assert set(own) == set(saved), set(own) ^ set(saved)
    merged, target, start = tensors(wrapped.merge_and_unload()), tensors(model(finetuned)), tensors(model(base))
    for name in target:
        full = (target[name] - start[name]).norm().item()
        left = (target[name] - merged[name]).norm().item()
        if full:
            print(f"{name}: {left / full:.3e}")
    print(f"PEFT {peft.__version__} loads {len(saved)} tensors, all of them used")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", nargs="?", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--only", default="")
    parser.add_argument("--check", nargs=3)
    arguments = parser.parse_args()
    if arguments.check:
        return check(*arguments.check)
    only = arguments.only.split(",") if arguments.only else list(CASES)
    for kind in sorted({kind for kind, _ in CASES.values()}):
        write_base(arguments.out, kind)
    for name in only:
        kind, settings = CASES[name]
        write_case(arguments.out, name + (f"-{peft.__version__}" if arguments.only else ""), kind, settings,
                   reload=not arguments.only)


if __name__ == "__main__":
    sys.exit(main())
