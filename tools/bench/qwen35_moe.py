"""Writes a random Qwen3.5-MoE checkpoint in bfloat16, by default of 0.95 billion parameters in the proportions of
the 35B-A3B: the model that `cargo bench -p darwin-engine` and `engine_transformers.py` are compared on.

    python tools/bench/qwen35_moe.py FOLDER [--hidden 1024] [--layers 8] [--experts 64] [--top 8] [--width 512]
        [--vocab 32000] [--seed 0]

Needs numpy alone. Every matrix is Gaussian with variance 1 / inputs, so that activations keep their size through the
layers and the router spreads tokens over all experts. Routed experts are fused, tensors lie in one file.
"""

import argparse
import json
import math
import struct
from pathlib import Path

import numpy as np

HEAD_DIM = 256
LINEAR_HEAD_DIM = 128
KERNEL = 4


def config_of(args):
    text = dict(
        model_type="qwen3_5_moe_text",
        architectures=["Qwen3_5MoeForCausalLM"],
        dtype="bfloat16",
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        layer_types=["full_attention" if i % 4 == 3 else "linear_attention" for i in range(args.layers)],
        num_attention_heads=args.hidden // 128,
        num_key_value_heads=2,
        head_dim=HEAD_DIM,
        linear_num_key_heads=args.hidden // 128,
        linear_num_value_heads=args.hidden // 64,
        linear_key_head_dim=LINEAR_HEAD_DIM,
        linear_value_head_dim=LINEAR_HEAD_DIM,
        linear_conv_kernel_dim=KERNEL,
        num_experts=args.experts,
        num_experts_per_tok=args.top,
        moe_intermediate_size=args.width,
        shared_expert_intermediate_size=args.width,
        hidden_act="silu",
        rms_norm_eps=1e-6,
        max_position_embeddings=32768,
        tie_word_embeddings=False,
        attention_bias=False,
        rope_parameters=dict(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.25,
                             mrope_section=[11, 11, 10], mrope_interleaved=True),
    )
    return text


def shapes_of(c):
    h, experts, width = c["hidden_size"], c["num_experts"], c["moe_intermediate_size"]
    heads, kv_heads = c["num_attention_heads"] * HEAD_DIM, c["num_key_value_heads"] * HEAD_DIM
    keys = c["linear_num_key_heads"] * LINEAR_HEAD_DIM
    value_heads = c["linear_num_value_heads"]
    values = value_heads * LINEAR_HEAD_DIM
    yield "model.embed_tokens.weight", (c["vocab_size"], h)
    for i, kind in enumerate(c["layer_types"]):
        at = f"model.layers.{i}."
        yield f"{at}input_layernorm.weight", (h,)
        if kind == "linear_attention":
            yield f"{at}linear_attn.in_proj_qkv.weight", (2 * keys + values, h)
            yield f"{at}linear_attn.in_proj_z.weight", (values, h)
            yield f"{at}linear_attn.in_proj_b.weight", (value_heads, h)
            yield f"{at}linear_attn.in_proj_a.weight", (value_heads, h)
            yield f"{at}linear_attn.conv1d.weight", (2 * keys + values, 1, KERNEL)
            yield f"{at}linear_attn.A_log", (value_heads,)
            yield f"{at}linear_attn.dt_bias", (value_heads,)
            yield f"{at}linear_attn.norm.weight", (LINEAR_HEAD_DIM,)
            yield f"{at}linear_attn.out_proj.weight", (h, values)
        else:
            yield f"{at}self_attn.q_proj.weight", (2 * heads, h)
            yield f"{at}self_attn.k_proj.weight", (kv_heads, h)
            yield f"{at}self_attn.v_proj.weight", (kv_heads, h)
            yield f"{at}self_attn.o_proj.weight", (h, heads)
            yield f"{at}self_attn.q_norm.weight", (HEAD_DIM,)
            yield f"{at}self_attn.k_norm.weight", (HEAD_DIM,)
        yield f"{at}post_attention_layernorm.weight", (h,)
        yield f"{at}mlp.gate.weight", (experts, h)
        yield f"{at}mlp.experts.gate_up_proj", (experts, 2 * width, h)
        yield f"{at}mlp.experts.down_proj", (experts, h, width)
        yield f"{at}mlp.shared_expert.gate_proj.weight", (width, h)
        yield f"{at}mlp.shared_expert.up_proj.weight", (width, h)
        yield f"{at}mlp.shared_expert.down_proj.weight", (h, width)
        yield f"{at}mlp.shared_expert_gate.weight", (1, h)
    yield "model.norm.weight", (h,)
    yield "lm_head.weight", (c["vocab_size"], h)


def values_of(name, shape, rng):
    """bfloat16 as the upper halves of float32 words, rounded to nearest."""
    values = rng.standard_normal(math.prod(shape), dtype=np.float32)
    if name.endswith("norm.weight") or len(shape) == 1:
        values *= 0.02
    else:
        values *= shape[-1] ** -0.5
    if name.endswith("linear_attn.norm.weight"):
        values += 1
    words = values.view(np.uint32)
    words += 0x7FFF + ((words >> 16) & 1)
    return (words >> 16).astype("<u2")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in dict(hidden=1024, layers=8, experts=64, top=8, width=512, vocab=32000, seed=0).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    config = config_of(args)
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    header, end = {}, 0
    for name, shape in shapes_of(config):
        start, end = end, end + 2 * math.prod(shape)
        header[name] = dict(dtype="BF16", shape=shape, data_offsets=[start, end])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(args.seed)
    with open(args.folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes_of(config):
            file.write(values_of(name, shape, rng).tobytes())
    print(f"{args.folder}: {end / 2e9:.2f} billion parameters")


if __name__ == "__main__":
    main()
