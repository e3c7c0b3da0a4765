"""Writes a random checkpoint of a given size in the layer shape of Qwen3.5-35B-A3B, with as many layers as fit.

    python tools/bench/big_moe.py FOLDER --size 20GB [--tokenizer FOLDER] [--vocab 248320] [--seed 0]

Needs numpy alone, and little memory: tensors are written in pieces, one shard a layer. Every matrix is Gaussian with
variance 1 / inputs, bfloat16, its pieces cut from a table of 34 million draws at random places, so that the disk is
what takes the time; routed experts are fused. `--tokenizer` copies tokenizer and chat
template of another model, so that `darwin profile` has something to read text with; its ids must lie below `--vocab`.
"""

import argparse
import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np

HIDDEN, EXPERTS, TOP, WIDTH = 2048, 256, 8, 512
HEADS, KV_HEADS, HEAD_DIM = 16, 2, 256
KEY_HEADS, VALUE_HEADS, LINEAR_DIM, KERNEL = 16, 32, 128, 4
KEYS, VALUES = KEY_HEADS * LINEAR_DIM, VALUE_HEADS * LINEAR_DIM
PREFIX = "model.language_model."
PIECE = 1 << 24


def layer_shapes(layer):
    p = f"{PREFIX}layers.{layer}."
    if layer % 4 == 3:
        mixer = {
            "self_attn.q_proj.weight": (2 * HEADS * HEAD_DIM, HIDDEN),
            "self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
            "self_attn.q_norm.weight": (HEAD_DIM,),
            "self_attn.k_norm.weight": (HEAD_DIM,),
        }
    else:
        mixer = {
            "linear_attn.in_proj_qkv.weight": (2 * KEYS + VALUES, HIDDEN),
            "linear_attn.in_proj_z.weight": (VALUES, HIDDEN),
            "linear_attn.in_proj_b.weight": (VALUE_HEADS, HIDDEN),
            "linear_attn.in_proj_a.weight": (VALUE_HEADS, HIDDEN),
            "linear_attn.conv1d.weight": (2 * KEYS + VALUES, 1, KERNEL),
            "linear_attn.A_log": (VALUE_HEADS,),
            "linear_attn.dt_bias": (VALUE_HEADS,),
            "linear_attn.norm.weight": (LINEAR_DIM,),
            "linear_attn.out_proj.weight": (HIDDEN, VALUES),
        }
    shapes = {
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
        **mixer,
        "mlp.gate.weight": (EXPERTS, HIDDEN),
        "mlp.experts.gate_up_proj": (EXPERTS, 2 * WIDTH, HIDDEN),
        "mlp.experts.down_proj": (EXPERTS, HIDDEN, WIDTH),
        "mlp.shared_expert.gate_proj.weight": (WIDTH, HIDDEN),
        "mlp.shared_expert.up_proj.weight": (WIDTH, HIDDEN),
        "mlp.shared_expert.down_proj.weight": (HIDDEN, WIDTH),
        "mlp.shared_expert_gate.weight": (1, HIDDEN),
    }
    return {p + name: shape for name, shape in shapes.items()}


def vector(rng, name, count):
    """`count` values of a vector as float32."""
    if name.endswith("A_log"):
        return np.log(rng.uniform(1, 16, count)).astype(np.float32)
    if name.endswith("linear_attn.norm.weight") or name.endswith("dt_bias"):
        return 1 + 0.1 * rng.standard_normal(count, dtype=np.float32)
    return 0.1 * rng.standard_normal(count, dtype=np.float32)


class Table:
    """Gaussian draws in bfloat16, for each scale that is asked for."""

    def __init__(self, rng):
        self.rng, self.draws, self.scaled = rng, rng.standard_normal(2 * PIECE, dtype=np.float32), {}

    def cut(self, inputs, count):
        if inputs not in self.scaled:
            self.scaled[inputs] = bfloat16(self.draws / np.float32(math.sqrt(inputs)))
        start = int(self.rng.integers(0, PIECE))
        return self.scaled[inputs][start : start + count]


def bfloat16(x):
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write(path, shapes, rng, table):
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = dict(dtype="BF16", shape=list(shape), data_offsets=[offset, end])
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            left = math.prod(shape)
            while left:
                n = min(left, PIECE)
                if len(shape) == 1:
                    piece = bfloat16(vector(rng, name, n))
                else:
                    piece = table.cut(1 if "embed_tokens" in name else shape[-1], n)
                file.write(piece.tobytes())
                left -= n
    return {name: path.name for name in shapes}, offset


def config(layers, vocab):
    text = dict(
        model_type="qwen3_5_moe_text", dtype="bfloat16", vocab_size=vocab, hidden_size=HIDDEN,
        num_hidden_layers=layers,
        layer_types=["full_attention" if i % 4 == 3 else "linear_attention" for i in range(layers)],
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM,
        linear_num_key_heads=KEY_HEADS, linear_num_value_heads=VALUE_HEADS,
        linear_key_head_dim=LINEAR_DIM, linear_value_head_dim=LINEAR_DIM, linear_conv_kernel_dim=KERNEL,
        num_experts=EXPERTS, num_experts_per_tok=TOP, moe_intermediate_size=WIDTH,
        shared_expert_intermediate_size=WIDTH, hidden_act="silu", rms_norm_eps=1e-6,
        max_position_embeddings=262144, tie_word_embeddings=False, attention_bias=False,
        rope_parameters=dict(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.25,
                             mrope_section=[11, 11, 10], mrope_interleaved=True),
    )
    return dict(architectures=["Qwen3_5MoeForConditionalGeneration"], model_type="qwen3_5_moe",
                tie_word_embeddings=False, text_config=text)


def size(text):
    units = dict(KB=1e3, MB=1e6, GB=1e9, KIB=2**10, MIB=2**20, GIB=2**30)
    for unit, factor in sorted(units.items(), key=lambda u: -len(u[0])):
        if text.upper().endswith(unit):
            return float(text[: -len(unit)]) * factor
    return float(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=size, required=True)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--vocab", type=int, default=248320)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    ends = {f"{PREFIX}embed_tokens.weight": (args.vocab, HIDDEN), f"{PREFIX}norm.weight": (HIDDEN,),
            "lm_head.weight": (args.vocab, HIDDEN)}
    weigh = lambda shapes: 2 * sum(map(math.prod, shapes.values()))
    layers, total = 0, weigh(ends)
    while layers < 40 and total + weigh(layer_shapes(layers)) <= args.size:
        total += weigh(layer_shapes(layers))
        layers += 1
    if layers == 0:
        raise SystemExit(f"{args.size:.2e} bytes hold no layer of {weigh(layer_shapes(0)):.2e} beside {total:.2e}")
    args.folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    table = Table(rng)
    shards = [ends] + [layer_shapes(layer) for layer in range(layers)]
    weight_map = {}
    for i, shapes in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        names, _ = write(args.folder / name, shapes, rng, table)
        weight_map |= names
    index = dict(metadata=dict(total_size=total), weight_map=weight_map)
    (args.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    (args.folder / "config.json").write_text(json.dumps(config(layers, args.vocab), indent=1))
    if args.tokenizer:
        for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]:
            if (args.tokenizer / file).exists():
                shutil.copy(args.tokenizer / file, args.folder / file)
    print(f"{args.folder}: {layers} layers, {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
