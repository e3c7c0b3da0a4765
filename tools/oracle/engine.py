"""Golden numbers for the engine: random tiny Qwen3.5-MoE text models, run by transformers in float32.

    python tools/oracle/engine.py [OUT] [CASE ...]

Writes OUT/<case>/{config.json, model*.safetensors, golden.safetensors, case.json}. Every tensor is
perturbed away from its initial value (a wrong `1 + w`, a forgotten dt_bias, a swapped half would pass
unseen otherwise). Checkpoints are written by us, name by name, not by `save_pretrained`, so that both
expert layouts and both name prefixes are met as they are in the wild.
"""

import json
import math
import sys
from pathlib import Path

import safetensors
import torch
import transformers
from safetensors.torch import save_file

import spec
import taps

sys.path.append(str(Path(__file__).resolve().parents[1]))
import qwen35  # noqa: E402
from qwen35 import F32_ISLANDS  # noqa: E402

DEFAULT_OUT = Path(__file__).resolve().parents[2] / "crates/darwin-testkit/fixtures/golden/engine"
ROUTER_BITS = 2.0
MIN_EXPERT_MARGIN = 3e-5
MIN_GREEDY_MARGIN = 1e-3

PLAIN = dict(
    vocab_size=128,
    hidden_size=64,
    layer_types=["linear_attention"] * 3 + ["full_attention"],
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    linear_conv_kernel_dim=4,
    num_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=8,
    shared_expert_intermediate_size=16,
    rms_norm_eps=1e-6,
    rope_parameters=qwen35.rope(),
)

ODD = dict(
    PLAIN,
    vocab_size=97,
    hidden_size=44,
    layer_types=["linear_attention", "full_attention", "full_attention", "linear_attention", "linear_attention"],
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=40,
    linear_num_key_heads=2,
    linear_num_value_heads=6,
    linear_key_head_dim=24,
    linear_value_head_dim=20,
    num_experts=12,
    num_experts_per_tok=3,
    moe_intermediate_size=12,
    shared_expert_intermediate_size=20,
    rope_parameters=qwen35.rope(theta=1e5, rotary=0.25, section=(2, 2, 1)),
)

# the larger epsilon is met in one case at least, and tames heads that nearly cancel over 200 tokens
LONG = dict(PLAIN, vocab_size=64, hidden_size=32, rms_norm_eps=1e-4)

ALL_TAPS = ("resid_out", "mixer_out", "router_logits", "experts", "gates", "shared_out", "expert_out")

# multimodal: architectures Qwen3_5MoeForConditionalGeneration, numbers under text_config, prefix
# model.language_model.; otherwise Qwen3_5MoeForCausalLM, flat, prefix model.
CASES = {
    "plain": dict(text=PLAIN, multimodal=True, fused=True, dtype="float32", shards=1, lengths=(17, 9), seed=1),
    "odd": dict(text=ODD, multimodal=False, fused=False, dtype="bfloat16", shards=1, lengths=(14, 7), seed=2),
    "long": dict(
        text=LONG,
        multimodal=True,
        fused=True,
        dtype="float32",
        shards=1,
        lengths=(200, 65),
        seed=3,
        # smaller taps, to stay small; and over 200 tokens the chunked form is no better than this
        taps=("resid_out", "mixer_out", "router_logits", "experts", "gates"),
        drop=("embed", "final_norm", "logits_chunked"),
        noise=3e-5,
    ),
    "bf16": dict(text=PLAIN, multimodal=True, fused=True, dtype="bfloat16", shards=3, lengths=(12, 5), seed=4),
}


def draw_weights(text, gen):
    """Text-model tensors under their own names (no prefix), fused experts, float32."""
    hidden, experts = text["hidden_size"], text["num_experts"]
    width, shared = text["moe_intermediate_size"], text["shared_expert_intermediate_size"]
    key_heads, value_heads = text["linear_num_key_heads"], text["linear_num_value_heads"]
    key_dim = key_heads * text["linear_key_head_dim"]
    value_dim = value_heads * text["linear_value_head_dim"]
    heads, kv_heads, head_dim = text["num_attention_heads"], text["num_key_value_heads"], text["head_dim"]

    def matrix(*shape, gain=1.0):
        return torch.randn(*shape, generator=gen) * (gain / math.sqrt(shape[-1]))

    def uniform(n, centre):
        return centre + (torch.rand(n, generator=gen) * 2 - 1) * 0.3

    def decays():
        # transformers draws A from U(0.01, 16). With few heads a draw would miss the slow ones, which
        # carry the state over many chunks: one log-uniform draw from each of `value_heads` strata.
        u = (torch.randperm(value_heads, generator=gen) + torch.rand(value_heads, generator=gen)) / value_heads
        return math.log(0.01) + u * (math.log(16.0) - math.log(0.01))

    out = {"embed_tokens.weight": torch.randn(text["vocab_size"], hidden, generator=gen)}
    for i, kind in enumerate(text["layer_types"]):
        p = f"layers.{i}."
        out[p + "input_layernorm.weight"] = uniform(hidden, 0.0)
        out[p + "post_attention_layernorm.weight"] = uniform(hidden, 0.0)
        if kind == "linear_attention":
            a = p + "linear_attn."
            out[a + "in_proj_qkv.weight"] = matrix(2 * key_dim + value_dim, hidden, gain=2.0)
            out[a + "in_proj_z.weight"] = matrix(value_dim, hidden)
            out[a + "in_proj_b.weight"] = matrix(value_heads, hidden)
            out[a + "in_proj_a.weight"] = matrix(value_heads, hidden)
            kernel = text["linear_conv_kernel_dim"]
            out[a + "conv1d.weight"] = torch.randn(2 * key_dim + value_dim, 1, kernel, generator=gen) * 0.3
            out[a + "A_log"] = decays()
            out[a + "dt_bias"] = torch.randn(value_heads, generator=gen)
            out[a + "norm.weight"] = uniform(text["linear_value_head_dim"], 1.0)
            out[a + "out_proj.weight"] = matrix(hidden, value_dim, gain=1.5)
        else:
            a = p + "self_attn."
            out[a + "q_proj.weight"] = matrix(2 * heads * head_dim, hidden)
            out[a + "k_proj.weight"] = matrix(kv_heads * head_dim, hidden)
            out[a + "v_proj.weight"] = matrix(kv_heads * head_dim, hidden)
            out[a + "o_proj.weight"] = matrix(hidden, heads * head_dim, gain=2.0)
            out[a + "q_norm.weight"] = uniform(head_dim, 0.0)
            out[a + "k_norm.weight"] = uniform(head_dim, 0.0)
        m = p + "mlp."
        out[m + "gate.weight"] = matrix(experts, hidden)
        out[m + "experts.gate_up_proj"] = matrix(experts, 2 * width, hidden, gain=1.5)
        out[m + "experts.down_proj"] = matrix(experts, hidden, width, gain=1.5)
        out[m + "shared_expert.gate_proj.weight"] = matrix(shared, hidden, gain=1.5)
        out[m + "shared_expert.up_proj.weight"] = matrix(shared, hidden)
        out[m + "shared_expert.down_proj.weight"] = matrix(hidden, shared, gain=1.5)
        out[m + "shared_expert_gate.weight"] = matrix(1, hidden)
    out["norm.weight"] = uniform(hidden, 0.0)
    out["lm_head.weight"] = matrix(text["vocab_size"], hidden, gain=2.0)
    return out


def config_json(case):
    text = dict(
        model_type="qwen3_5_moe_text",
        num_hidden_layers=len(case["text"]["layer_types"]),
        hidden_act="silu",
        attention_bias=False,
        attention_dropout=0.0,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        use_cache=True,
        mtp_num_hidden_layers=0,
        dtype=case["dtype"],
        **case["text"],
    )
    if case["multimodal"]:
        return dict(
            architectures=["Qwen3_5MoeForConditionalGeneration"],
            model_type="qwen3_5_moe",
            tie_word_embeddings=False,
            dtype=case["dtype"],
            text_config=text,
        )
    return dict(architectures=["Qwen3_5MoeForCausalLM"], **text)


def on_disk(case, weights):
    """The tensors as the case stores them: names, expert layout, dtypes."""
    prefix = "model.language_model." if case["multimodal"] else "model."
    dtype = getattr(torch, case["dtype"])
    out = {}
    for name, value in weights.items():
        full = name if name == "lm_head.weight" else prefix + name
        if not name.endswith(F32_ISLANDS):
            value = value.to(dtype)
        if case["fused"] or ".experts." not in name:
            out[full] = value.contiguous()
            continue
        out |= qwen35.per_expert(full, value)
    return out


def write_checkpoint(folder, case, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("model*"):
        old.unlink()
    (folder / "config.json").write_text(json.dumps(config_json(case), indent=2) + "\n")
    if case["shards"] == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    # Round robin over sorted names: the tensors of one layer lie in different shards.
    n, names = case["shards"], sorted(tensors)
    weight_map = {}
    for s in range(n):
        file = f"model-{s + 1:05d}-of-{n:05d}.safetensors"
        save_file({k: tensors[k] for k in names[s::n]}, folder / file, metadata={"format": "pt"})
        weight_map.update({k: file for k in names[s::n]})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


@torch.no_grad()
def scale_routers(model, weights, sequences):
    """Scales each router, first layer first, until its mean token entropy is ROUTER_BITS."""
    for i, layer in enumerate(model.model.layers):
        inputs = []
        handle = layer.mlp.gate.register_forward_hook(lambda _m, args, _out: inputs.append(args[0].clone()))
        for ids in sequences:
            model(input_ids=ids[None], use_cache=False)
        handle.remove()
        logits = torch.cat(inputs) @ layer.mlp.gate.weight.T
        low, high = 1e-3, 1e3
        for _ in range(60):
            mid = math.sqrt(low * high)
            too_flat = taps.entropy_bits(logits * mid).mean() > ROUTER_BITS
            low, high = (mid, high) if too_flat else (low, mid)
        weights[f"layers.{i}.mlp.gate.weight"] *= low
        layer.mlp.gate.weight.copy_(weights[f"layers.{i}.mlp.gate.weight"])


def assert_perturbed(model, dtype):
    """No tensor is at its initial value, and no norm where a forgotten `1 +` would hide."""
    for name, value in model.named_parameters():
        assert value.std() > 1e-3 or value.numel() == 1, f"{name} is constant"
        if name.endswith("norm.weight"):
            centre = 1.0 if name.endswith("linear_attn.norm.weight") else 0.0
            assert (value - centre).abs().max() <= 0.3 + 1e-2 and (value - centre).abs().mean() > 0.05, name
        if name.endswith("dt_bias"):
            assert (value - 1).abs().max() > 0.1, name
        if dtype == "bfloat16" and not name.endswith(F32_ISLANDS):
            assert torch.equal(value, value.bfloat16().float()), f"{name} is not a bf16 value"


def assert_file_is_model(model, weights, case):
    """The parameters that transformers runs are the drawn ones, bit for bit, whatever the layout on disk."""
    dtype = getattr(torch, case["dtype"])
    params = dict(model.named_parameters())
    assert len(params) == len(weights)
    for name, value in weights.items():
        got = params[name if name == "lm_head.weight" else "model." + name]
        want = value if name.endswith(F32_ISLANDS) else value.to(dtype).float()
        assert torch.equal(got, want), f"{name} differs after loading"


def measure(model, case, golden, sequences):
    """The numbers of case.json, and the assertions about what makes a golden case a good one."""
    text, layers = case["text"], len(case["text"]["layer_types"])
    top_k, per_layer, margins = text["num_experts_per_tok"], [], []
    for i in range(layers):
        at = f"layer_{i:02d}"
        every = {t: torch.cat([g[f"{at}.{t}"] for g in golden]) for t in ALL_TAPS}
        bits = taps.entropy_bits(every["router_logits"]).mean().item()
        margins.append(taps.expert_margins(every["router_logits"], top_k).min().item())
        row = dict(
            layer=i,
            router_entropy_bits=round(bits, 4),
            experts_used=len(every["experts"].unique()),
            min_expert_margin=margins[-1],
            rms={t: round(taps.rms(every[t]), 4) for t in ("resid_out", "mixer_out", "shared_out", "expert_out")},
        )
        assert abs(bits - ROUTER_BITS) < 0.1, row
        assert 0.5 < row["rms"]["resid_out"] < 8, row
        assert all(0.1 < v < 4 for k, v in row["rms"].items() if k != "resid_out"), row
        per_layer.append(row)
    noise = reference_noise(model, golden, sequences, layers)
    return dict(
        logits_rms=taps.rms(torch.cat([g["logits"] for g in golden])),
        reference_noise_max_over_rms=noise,
        min_expert_margin=min(margins),
        min_greedy_margin=min(g["greedy_margin"] for g in golden),
        layers=per_layer,
    )


def reference_noise(model, golden, sequences, layers):
    """How far transformers' other ways to the same numbers are from the golden ones (max |diff| / rms)."""
    noise = dict(cached_by_one=0.0, prefill_then_cached=0.0, chunked=0.0, chunked_worst_layer=0.0)
    for ids, g in zip(sequences, golden):
        found = dict(
            cached_by_one=taps.max_over_rms(taps.cached_logits(model, ids, 1), g["logits"]),
            prefill_then_cached=taps.max_over_rms(taps.cached_logits(model, ids, len(ids) * 2 // 3), g["logits"]),
            chunked=taps.max_over_rms(g["chunked"]["logits"], g["logits"]),
            chunked_worst_layer=max(
                taps.max_over_rms(g["chunked"][k], g[k]) for i in range(layers) for k in [f"layer_{i:02d}.resid_out"]
            ),
        )
        noise = {k: max(noise[k], found[k]) for k in noise}
    return {k: float(f"{v:.2e}") for k, v in noise.items()}


def float32_error(folder, golden):
    """Largest |golden - float64| / rms per kind of value, by the independent float64 model of spec.py."""
    model, worst = spec.Model(folder), {}
    for seen in golden:
        for key, value in model.run(seen["input_ids"].numpy()).items():
            kind = key.rsplit(".", 1)[-1]
            if kind != "experts":
                error = taps.max_over_rms(seen[key], torch.from_numpy(value))
                worst[kind] = max(worst.get(kind, 0.0), error)
    return {k: float(f"{v:.2e}") for k, v in worst.items()}


def attempt(name, case, seed, out, strict=True):
    """What case.json says of the seed's case; none where `strict` and the case is badly conditioned."""
    gen = torch.Generator().manual_seed(seed)
    weights = draw_weights(case["text"], gen)
    sequences = [torch.randint(case["text"]["vocab_size"], (n,), generator=gen) for n in case["lengths"]]
    folder = out / name
    write_checkpoint(folder, case, on_disk(case, weights))
    scale_routers(taps.load_reference(folder), weights, sequences)
    write_checkpoint(folder, case, on_disk(case, weights))
    model = taps.load_reference(folder)
    assert_file_is_model(model, weights, case)
    assert_perturbed(model, case["dtype"])

    # cheap reasons to take another seed first
    golden = [dict(taps.record(model, ids), input_ids=ids) for ids in sequences]
    layers = range(len(case["text"]["layer_types"]))
    routers = torch.cat([g[f"layer_{i:02d}.router_logits"] for g in golden for i in layers])
    if strict and taps.expert_margins(routers, case["text"]["num_experts_per_tok"]).min() < MIN_EXPERT_MARGIN:
        return None
    error = float32_error(folder, golden)
    if strict and (max(error.values()) > 3e-5 or max(error["resid_out"], error["logits"]) > 1.5e-5):
        return None

    for ids, seen in zip(sequences, golden):
        seen["chunked"] = taps.record_chunked(model, ids)
        seen["greedy"] = taps.greedy(model, ids, use_cache=True)
        seen["greedy_nocache"] = taps.greedy(model, ids, use_cache=False)
        assert torch.equal(seen["greedy"], seen["greedy_nocache"]), "cache changes the greedy tokens"
        seen["greedy_margin"] = taps.greedy_margin(model, ids, seen["greedy"])
    measured = measure(model, case, golden, sequences) | dict(float32_error_max_over_rms=error)
    noise = measured["reference_noise_max_over_rms"]
    if strict and (measured["min_greedy_margin"] < MIN_GREEDY_MARGIN or max(noise.values()) > case.get("noise", 1e-5)):
        return None
    write_golden(folder, case, golden)
    return measured


def write_golden(folder, case, golden):
    keep = set(case.get("taps", ALL_TAPS)) | {"input_ids", "greedy", "greedy_nocache", "logits"}
    keep |= {"embed", "final_norm", "logits_chunked"} - set(case.get("drop", ()))
    out = {}
    for s, seen in enumerate(golden):
        seen = dict(seen, logits_chunked=seen["chunked"]["logits"])
        for key, value in seen.items():
            if key.rsplit(".", 1)[-1] in keep:
                assert value.dtype in (torch.float32, torch.int64), (key, value.dtype)
                out[f"seq{s}.{key}"] = value.contiguous()
    save_file(out, folder / "golden.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)


def main():
    args = sys.argv[1:]
    out = Path(args[0]) if args else DEFAULT_OUT
    for name in args[1:] or CASES:
        case = CASES[name]
        # A near-tie between experts or between tokens tests luck, not arithmetic, and so does a head whose
        # output nearly cancels before its norm: take the next seed. Cached equals uncached to `noise`, and the
        # golden numbers are within half of the tests' limits of the float64 ones.
        known = taps.known_seed(DEFAULT_OUT, out, name)
        for seed in [known] if known else (case["seed"] + 1000 * tries for tries in range(100)):
            measured = attempt(name, case, seed, out, strict=not known)
            if measured:
                break
        else:
            sys.exit(f"{name}: no well-conditioned seed")
        about = dict(
            case=name,
            seed=seed,
            layout="fused" if case["fused"] else "per-expert",
            stored_dtype=case["dtype"],
            float32_tensors=list(F32_ISLANDS) if case["dtype"] != "float32" else "all",
            compute_dtype="float32",
            delta_rule="recurrent; logits_chunked is transformers' ordinary forward pass",
            vision="none: no vision_config and no model.visual.* tensors",
            lengths=case["lengths"],
            taps=case.get("taps", ALL_TAPS),
            versions=dict(
                torch=torch.__version__,
                transformers=transformers.__version__,
                safetensors=safetensors.__version__,
            ),
            **measured,
        )
        folder = out / name
        (folder / "case.json").write_text(json.dumps(about, indent=1) + "\n")
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(
            f"{name}: seed {seed}, {size / 1000:.0f} kB, expert margin {measured['min_expert_margin']:.1e}, "
            f"greedy margin {measured['min_greedy_margin']:.1e}, "
            f"reference noise {measured['reference_noise_max_over_rms']}"
        )


if __name__ == "__main__":
    main()
