"""Tries child_loads.py on folders that are right and on folders that are wrong.

    python tools/oracle/test_child_loads.py
"""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

import child_loads

sys.path.append(str(Path(__file__).resolve().parents[1]))
import qwen35  # noqa: E402

TEXT = dict(
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=2,
    layer_types=["linear_attention", "full_attention"],
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=8,
    shared_expert_intermediate_size=8,
    mtp_num_hidden_layers=1,
    rope_parameters=qwen35.rope(),
)
VISION = dict(
    depth=1,
    hidden_size=16,
    intermediate_size=32,
    num_heads=2,
    patch_size=4,
    out_hidden_size=32,
    num_position_embeddings=16,
)


def make_parent(folder, fused):
    """A random multimodal model with vision and MTP tensors, A_log and the gated norm in float32, the rest bf16."""
    torch.manual_seed(0)
    config = Qwen3_5MoeConfig(text_config=TEXT, vision_config=VISION)
    config.architectures = ["Qwen3_5MoeForConditionalGeneration"]
    model = Qwen3_5MoeForConditionalGeneration(config)
    tensors = {"mtp.fc.weight": torch.randn(32, 64).bfloat16(), "mtp.norm.weight": torch.randn(32).bfloat16()}
    for name, value in model.named_parameters():
        value = value.detach() + torch.randn_like(value) * 0.05
        if not name.endswith(qwen35.F32_ISLANDS):
            value = value.bfloat16()
        if fused or ".experts." not in name:
            tensors[name] = value.contiguous()
            continue
        tensors |= qwen35.per_expert(name, value)
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    write(folder, tensors)
    return tensors


def write(folder, tensors):
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def verdict(child, father):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            code = child_loads.main(child, father)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            code = 1
            print(error)
    return code, said.getvalue()


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        for fused in (True, False):
            folder = tmp / f"fused-{fused}"
            tensors = make_parent(folder, fused)
            code, said = verdict(folder, folder)
            assert code == 0, said
            print(said, end="")

            down = next(k for k in tensors if "experts" in k and "down_proj" in k and "shared" not in k)
            breaks = {
                "expert missing": {k: v for k, v in tensors.items() if k != down},
                "tensor missing": {k: v for k, v in tensors.items() if not k.endswith("dt_bias")},
                "tensor unknown": tensors | {"model.language_model.layers.0.mlp.extra.weight": torch.zeros(2)},
                "wrong shape": tensors | {"lm_head.weight": torch.zeros(63, 32).bfloat16()},
                "vision changed": {k: v + 1 if k.startswith("model.visual.patch") else v for k, v in tensors.items()},
                "mtp lost": {k: v for k, v in tensors.items() if not k.startswith("mtp.")},
                "not finite": tensors | {"lm_head.weight": tensors["lm_head.weight"] * float("nan")},
                "wrong prefix": {k.replace("language_model.", "text."): v for k, v in tensors.items()},
            }
            for what, broken in breaks.items():
                child = tmp / f"{what}-{fused}"
                child.mkdir()
                (child / "config.json").write_bytes((folder / "config.json").read_bytes())
                write(child, broken)
                code, said = verdict(child, folder)
                assert code == 1, f"{what} passed:\n{said}"
                fails = [line.strip() for line in said.splitlines() if "FAIL" in line] or [said.strip()]
                print(f"{what}: caught, {fails[0][:150]}")
            config = json.loads((folder / "config.json").read_text())
            assert config["text_config"]["mtp_num_hidden_layers"] == 1


if __name__ == "__main__":
    main()
