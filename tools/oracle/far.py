"""Golden numbers for a long input: 20,000 tokens through a tiny Qwen3.5-MoE, a few rows of logits kept.

    python tools/oracle/far.py [OUT]

Writes OUT/far/{config.json, model.safetensors, golden.safetensors, case.json}. Both forms of transformers' Gated
DeltaNet are run over the whole sequence: token by token (`logits_rows`), and in chunks of 64
(`logits_rows_chunked`). Attention is torch's own (`sdpa`): the plain one would need a matrix of 20,000 x 20,000
for each head. The seed is one at which no token's experts differ between the two forms.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

import margins
import taps
from engine_families import DEFAULT_OUT, nll, text_config, versions, write_checkpoint
from families_cases import HYBRID, MROPE, QWEN_MOE, SHARED, case, nested

TOKENS = 20_000
EVERY = 997
MIN_EXPERT_MARGIN = 2e-6
MAX_NOISE = 2e-5
CASE = case(
    nested(
        "qwen3_5_moe",
        "Qwen3_5MoeForConditionalGeneration",
        # one head: the pairs of 20,000 tokens are many enough
        **HYBRID | QWEN_MOE | SHARED | dict(num_attention_heads=1, num_key_value_heads=1, head_dim=8),
        # heads that nearly cancel over so many tokens are tamed by the larger epsilon
        **dict(hidden_size=28, max_position_embeddings=32768, rms_norm_eps=1e-4, rope_parameters=MROPE),
    ),
    fused=True,
)


def attempt(seed, folder, strict=True):
    gen = torch.Generator().manual_seed(seed)
    write_checkpoint(folder, CASE, gen)
    model, text = taps.load_reference(folder, attention="sdpa"), text_config(CASE["config"])
    ids = torch.randint(text["vocab_size"], (TOKENS,), generator=gen)
    chunked = taps.record_chunked(model, ids)
    routers = [key for key in chunked if key.endswith("router_logits")]
    margin = min(margins.of(text, chunked[key]) for key in routers)
    if strict and margin < MIN_EXPERT_MARGIN:
        return f"expert margin {margin:.1e}"
    seen = taps.record(model, ids)
    rows = torch.arange(EVERY - 1, TOKENS, EVERY)
    noise = taps.max_over_rms(chunked["logits"][rows], seen["logits"][rows])
    other = sum((seen[key] != chunked[key]).sum().item() for key in seen if key.endswith(".experts"))
    if strict and (other or noise > MAX_NOISE):
        return f"{other} experts differ, logits by {noise:.1e} of the rms"
    golden = dict(
        input_ids=ids.to(torch.uint8),
        rows=rows.to(torch.int16),
        logits_rows=seen["logits"][rows],
        logits_rows_chunked=chunked["logits"][rows],
        nll_rows=nll(seen["logits"], ids)[rows],
    )
    save_file({f"seq0.{k}": v.contiguous() for k, v in golden.items()}, folder / "golden.safetensors")
    everywhere = taps.max_over_rms(chunked["logits"], seen["logits"])
    return dict(
        min_expert_margin=margin,
        logits_rms=taps.rms(seen["logits"]),
        chunked_max_over_rms=dict(rows=noise, all_tokens=everywhere),
    )


def main():
    folder = (Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_OUT) / "far"
    known = taps.known_seed(DEFAULT_OUT, folder.parent, "far")
    for seed in [known] if known else range(201, 231):
        about = attempt(seed, folder, strict=not known)
        if isinstance(about, dict):
            break
        print(f"seed {seed}: {about}", file=sys.stderr)
    else:
        sys.exit("no well-conditioned seed")
    about = dict(case="far", seed=seed, tokens=TOKENS, stored_dtype=CASE["dtype"], compute_dtype="float32", **about)
    (folder / "case.json").write_text(json.dumps(about | dict(versions=versions()), indent=1) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)
    print(about)


if __name__ == "__main__":
    main()
