"""Golden solutions of RegMean (docs/method.md 2.3), by plain linear algebra of PyTorch in float64.

    python tools/oracle/regmean.py [OUT] [CASE ...]

Writes OUT/regmean/<case>.json for random models of engine.py and engine_families.py. The father is the case's
model; the mother is the father plus the drawn direction of derivative.py. Each runs on sequences of its own, whose
ids need no file: id i of sequence s is the whole part of (draw i of "father.s" or "mother.s", plus 1/2) times the
vocabulary. Inputs of linear maps are taken by forward hooks, those of experts in a forward pass of our own. With
Gram matrices G, their elements beside the diagonal times `off_diagonal`, scaled to a mean of 1 on the diagonal,

    W = (G_F + b G_M + r I)^-1 (G_F W_F + b G_M W_M + r W_F)

for each setting of SETTINGS. For each weight (of each routed expert) the file has how many tokens both parents had
and, where neither had fewer than the map has inputs, the norm of W - W_F and its inner products with two drawn
directions (draws of "probe0.<name>" and "probe1.<name>").
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

import taps
from derivative import DEFAULT_OUT, canonical, drawn_direction, draws

CASES = ("plain", "qwen3_next", "qwen3_moe", "qwen3")
SETTINGS = (dict(b=1.0, ridge=0.01, off_diagonal=0.9), dict(b=0.3, ridge=0.1, off_diagonal=0.5))
SEQUENCES, LENGTH = 12, 40


def sequences(parent, vocab):
    ids = [np.floor((draws(f"{parent}.{s}", LENGTH) + 0.5) * vocab) for s in range(SEQUENCES)]
    return [torch.from_numpy(s.astype(np.int64)) for s in ids]


@torch.no_grad()
def grams(model, ids):
    """Gram matrix and tokens by (name, expert)."""
    found, names = {}, {id(m): canonical(n) for n, m in model.named_modules()}

    def add(key, x):
        x = x.reshape(-1, x.shape[-1]).double()
        total, count = found.get(key, (0, 0))
        found[key] = (total + x.T @ x, count + len(x))

    def hook(module, args, _out):
        add((names[id(module)] + ".weight", None), args[0])

    def experts(module):
        name = names[id(module)]

        def forward(x, index, weights):
            out = torch.zeros_like(x)
            for e in range(len(module.gate_up_proj)):
                token, rank = (index == e).nonzero(as_tuple=True)
                gate, up = (x[token] @ module.gate_up_proj[e].T).chunk(2, dim=-1)
                inner = module.act_fn(gate) * up
                add((f"{name}.gate_up_proj", e), x[token])
                add((f"{name}.down_proj", e), inner)
                out.index_add_(0, token, (inner @ module.down_proj[e].T) * weights[token, rank, None])
            return out

        return forward

    handles, replaced = [], []
    for name, module in model.named_modules():
        if name == "lm_head":
            continue
        if isinstance(module, torch.nn.Linear) or name.endswith(".mlp.gate"):
            handles.append(module.register_forward_hook(hook))
        elif name.endswith(".mlp.experts"):
            module.forward = experts(module)
            replaced.append(module)
    with taps.recurrent_form(model):
        for s in ids:
            model(input_ids=s[None], use_cache=False)
    for handle in handles:
        handle.remove()
    for module in replaced:
        del module.forward
    return found


def reduced(gram, off_diagonal):
    gram = off_diagonal * gram + (1 - off_diagonal) * torch.diag(torch.diagonal(gram))
    return gram * (len(gram) / torch.trace(gram))


def solved(father, mother, w_father, w_mother, b, ridge, off_diagonal):
    father, mother = reduced(father, off_diagonal), b * reduced(mother, off_diagonal)
    eye = torch.eye(len(father), dtype=torch.float64)
    right = father @ w_father.T + mother @ w_mother.T + ridge * w_father.T
    return torch.linalg.solve(father + mother + ridge * eye, right).T


def main():
    args = sys.argv[1:]
    out = Path(args.pop(0)) if args and args[0] not in CASES else DEFAULT_OUT
    for case in args or CASES:
        folder = DEFAULT_OUT / "engine" / case
        models, scales = [taps.load_reference(folder) for _ in range(2)], {}
        with torch.no_grad():
            for name, p in models[1].named_parameters():
                direction, scales[canonical(name)] = drawn_direction(canonical(name), p.detach())
                p += direction
        models = [model.double() for model in models]
        vocab = models[0].config.vocab_size
        of = [grams(model, sequences(parent, vocab)) for model, parent in zip(models, ("father", "mother"))]
        weights = [{canonical(n): p.detach() for n, p in model.named_parameters()} for model in models]
        maps = []
        for name, expert in sorted(of[0].keys() | of[1].keys(), key=str):
            pick = (lambda w: w) if expert is None else (lambda w: w[expert])
            w_father, w_mother = (pick(w[name]) for w in weights)
            found = [grams.get((name, expert), (None, 0)) for grams in of]
            entry = dict(tensor=name, expert=expert, tokens=[count for _, count in found])
            if min(entry["tokens"]) >= w_father.shape[-1]:
                whole = [draws(f"probe{k}.{name}", weights[0][name].numel()) for k in range(2)]
                probes = [pick(torch.from_numpy(p).reshape(weights[0][name].shape)) for p in whole]
                entry["norm"], entry["probes"] = [], []
                for setting in SETTINGS:
                    moved = solved(found[0][0], found[1][0], w_father, w_mother, **setting) - w_father
                    entry["norm"].append(float(f"{moved.norm().item():.9g}"))
                    entry["probes"].append([float(f"{(moved * p).sum().item():.9g}") for p in probes])
            maps.append(entry)
        versions = dict(torch=torch.__version__, transformers=transformers.__version__)
        head = dict(versions=versions, sequences=SEQUENCES, length=LENGTH, vocab=vocab, settings=SETTINGS)
        head["scales"] = scales
        lines = ",\n".join("  " + json.dumps(entry, separators=(",", ":")) for entry in maps)
        path = out / "regmean" / f"{case}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(head, separators=(",", ":"))[:-1] + ',\n "maps": [\n' + lines + "\n ]\n}\n")
        solved_maps = sum("norm" in entry for entry in maps)
        print(f"{case}: {solved_maps} of {len(maps)} maps solved, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
