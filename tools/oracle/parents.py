"""Golden numbers for a trained model folder, without its weights.

    python tools/oracle/parents.py examples/parents/father OUT [--ids 5,17,9 --ids 40,2] [--limit-kb 500]

Writes OUT/golden.safetensors and OUT/case.json. Keys as in the random cases (README), of which: input_ids,
layer_NN.{resid_out, router_logits, experts}, logits_last (vocab), greedy, greedy_nocache, and logits (T, vocab)
where all of it stays under the limit. The token ids need no tokenizer: either given, or arithmetic
progressions whose greedy continuation and experts are free of near-ties.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

import taps

LENGTHS = (12, 8)
STEPS = (131, 57)
MIN_EXPERT_MARGIN = 2e-5
MIN_GREEDY_MARGIN = 2e-3


def proposals(vocab):
    """Pairs of sequences that depend on the vocabulary size only."""
    for start in range(3, 1000, 37):
        yield [torch.tensor([(start + s * i) % vocab for i in range(n)]) for n, s in zip(LENGTHS, STEPS)]


def golden_of(model, ids):
    seen = taps.record(model, ids)
    chunked = taps.record_chunked(model, ids)
    new, uncached = taps.greedy(model, ids, use_cache=True), taps.greedy(model, ids, use_cache=False)
    assert torch.equal(new, uncached), f"cache changes the greedy tokens after {ids.tolist()}"
    layers = len(model.model.layers)
    top_k = seen["layer_00.experts"].shape[1]
    routers = torch.cat([seen[f"layer_{i:02d}.router_logits"] for i in range(layers)])
    about = dict(
        tokens=len(ids),
        min_expert_margin=taps.expert_margins(routers, top_k).min().item(),
        min_greedy_margin=taps.greedy_margin(model, ids, new),
        router_entropy_bits=taps.entropy_bits(routers).mean().item(),
        logits_rms=taps.rms(seen["logits"]),
        chunked_max_over_rms=taps.max_over_rms(chunked["logits"], seen["logits"]),
        cached_by_one_max_over_rms=taps.max_over_rms(taps.cached_logits(model, ids, 1), seen["logits"]),
    )
    keep = ("resid_out", "router_logits", "experts")
    out = {k: v for k, v in seen.items() if k.rsplit(".", 1)[-1] in keep}
    out |= dict(input_ids=ids, logits=seen["logits"], logits_last=seen["logits"][-1].clone())
    out |= dict(greedy=new, greedy_nocache=uncached)
    return out, about


def distance_from_ties(model, ids):
    """At least 1 where no expert and no greedy token is decided by less than rounding could change."""
    seen = taps.record(model, ids)
    routers = torch.cat([v for k, v in seen.items() if k.endswith("router_logits")])
    top_k = seen["layer_00.experts"].shape[1]
    expert = taps.expert_margins(routers, top_k).min().item() / MIN_EXPERT_MARGIN
    if expert < 1:
        return expert
    new = taps.greedy(model, ids, use_cache=True)
    return min(expert, taps.greedy_margin(model, ids, new) / MIN_GREEDY_MARGIN)


def choose(model):
    """The first proposal without near-ties, or the one farthest from them."""
    best = (-1.0, None)
    for pair in proposals(model.config.vocab_size):
        score = min(distance_from_ties(model, ids) for ids in pair)
        if score > best[0]:
            best = (score, pair)
        if score >= 1:
            break
    return best[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ids", action="append", default=[], help="comma-separated token ids; once per sequence")
    parser.add_argument("--limit-kb", type=float, default=500)
    args = parser.parse_args()
    given = [torch.tensor([int(t) for t in text.split(",")]) for text in args.ids]

    model = taps.load_reference(args.model)
    found = [golden_of(model, ids) for ids in given or choose(model)]
    tensors = {f"seq{s}.{k}": v.contiguous() for s, (seen, _) in enumerate(found) for k, v in seen.items()}
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    whole = size <= args.limit_kb * 1000 - 20_000  # room for the header and case.json
    if not whole:
        tensors = {k: v for k, v in tensors.items() if not k.endswith(".logits")}
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out / "golden.safetensors")
    (args.out / "golden.safetensors").chmod(0o644)

    shards = sorted(args.model.glob("*.safetensors"))
    about = dict(
        model=args.model.name,
        sha256={f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in [args.model / "config.json", *shards]},
        compute_dtype="float32",
        delta_rule="recurrent",
        all_logits=whole,
        versions=dict(torch=torch.__version__, transformers=transformers.__version__),
        sequences=[a for _, a in found],
    )
    (args.out / "case.json").write_text(json.dumps(about, indent=1) + "\n")
    total = sum(f.stat().st_size for f in args.out.iterdir()) / 1000
    print(f"{args.model}: {total:.0f} kB, logits of {'all positions' if whole else 'the last position'}")
    for a in about["sequences"]:
        print("  " + ", ".join(f"{k} {v:.3g}" for k, v in a.items()))


if __name__ == "__main__":
    main()
