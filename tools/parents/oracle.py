"""Is there something to win between two parents? The line between them and an oracle, without a look at `test`.

    python oracle.py FATHER MOTHER --out gate.json [--goal x-derived] [--protected knowledge,language,tools]

FATHER and MOTHER are exported folders (`export.py`). The line is father + t (mother - father) for all tensors at once.
The oracle has one share for every tensor, every expert and every row of a router, fitted by back-propagation to the mean
probability of the reference answers: of the goal, and of the protected domains with a weight. It is fitted to items of
`proxy` and `search`; all scores are of items of `dev`, for the goal (whose dev split is small) of `calibration` and `selection`, too.
Children are rounded to bfloat16, as a merge writes them. Scores are exact match of the greedy answer, with a trace where there is one.
"""
import argparse
import json
import os
import random
import re
import time

import torch
from safetensors import safe_open
from tokenizers import Tokenizer

import data
import model as M
import score
import table
import tokenizer as tk

FIT = ("proxy", "search")
CHOSEN = ("dev", "calibration", "selection")
ORIGINAL = M.ref.torch_chunk_gated_delta_rule


def language_model(folder):
    """The text model's tensors in float32, experts fused, by the names of `Qwen3_5MoeForCausalLM`."""
    found = {}
    for file in sorted(os.listdir(folder)):
        if file.endswith(".safetensors"):
            with safe_open(os.path.join(folder, file), "pt") as f:
                for name in f.keys():
                    if not name.startswith(("model.visual.", "mtp.")):
                        found[name.replace("model.language_model.", "model.")] = f.get_tensor(name).float()
    experts = {}
    for name in list(found):
        m = re.fullmatch(r"(.*\.experts\.)(\d+)\.(gate|up|down)_proj\.weight", name)
        if m:
            experts.setdefault(m[1], {})[int(m[2]), m[3]] = found.pop(name)
    for base, parts in experts.items():
        count = 1 + max(i for i, _ in parts)
        found[base + "gate_up_proj"] = torch.stack([torch.cat([parts[i, "gate"], parts[i, "up"]]) for i in range(count)])
        found[base + "down_proj"] = torch.stack([parts[i, "down"] for i in range(count)])
    return found


def load(net, tensors):
    """Put a child's tensors into the network, rounded to bfloat16."""
    missing, unknown = net.load_state_dict({k: v.detach().bfloat16().float() for k, v in tensors.items()}, strict=False)
    assert not missing and not unknown, (missing, unknown)


def some(domain, splits, n):
    """`n` items of a domain out of these splits, the first split first; of `x-derived` all that there are."""
    size = {s: data.DERIVED_MOST[s] if domain == "x-derived" else n for s in splits}
    found = data.heldout(size, domains=[domain])
    items = [i for s in splits for i in found[s]]
    return items if domain == "x-derived" else items[:n]


def encode(tok, item):
    think = item[4] is not None
    return tok.encode(data.prompt(item[2], think)).ids, tok.encode(data.answer(item, think)).ids


def batches(rows, tokens):
    """Indices of rows of like length, padded at most to `tokens` a batch."""
    out, cur = [], []
    for i in sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i]))):
        if cur and (len(cur) + 1) * sum(map(len, rows[i])) > tokens:
            out.append(cur)
            cur = []
        cur.append(i)
    return out + [cur]


def negative_log_likelihood(call, rows):
    """Of each row's answer, given its prompt."""
    w = max(len(p) + len(a) for p, a in rows)
    x, answer = torch.full((len(rows), w), tk.PAD), torch.zeros(len(rows), w)
    mask = torch.zeros(len(rows), w, dtype=torch.long)
    for i, (p, a) in enumerate(rows):
        n = len(p) + len(a)
        x[i, :n], mask[i, :n], answer[i, len(p):n] = torch.tensor(p + a), 1, 1
    logits = call(x, attention_mask=mask, use_cache=False).logits
    each = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), x[:, 1:], reduction="none")
    return (each * answer[:, 1:]).sum(1)


@torch.no_grad()
def outcomes(net, tok, items, max_new):
    """Whether each item's greedy answer is right, as a string of 0 and 1, and whether the trace begins as the reference's."""
    rows = [encode(tok, i)[0] for i in items]
    order = sorted(range(len(items)), key=lambda i: (items[i][4] is None, len(rows[i])))
    right, looked = [0] * len(items), [0] * len(items)
    M.ref.torch_chunk_gated_delta_rule = ORIGINAL       # the fast one keeps no state
    for at in range(0, len(order), 384):
        part = order[at:at + 384]
        for i, ids in zip(part, score.greedy(net, [rows[i] for i in part], max_new)):
            think = items[i][4] is not None
            right[i] = int(score.given_answer(tok, ids, think) == items[i][3])
            first = (items[i][4] or "").split(";")[0]
            looked[i] = int(think and tok.decode(ids, skip_special_tokens=False).split(";")[0] == first)
    M.ref.torch_chunk_gated_delta_rule = M.one_chunk_delta_rule
    return "".join(map(str, right)), "".join(map(str, looked))


@torch.no_grad()
def probability(net, tok, items):
    """Mean probability of the reference answers."""
    rows = [encode(tok, i) for i in items]
    total = sum(torch.exp(-negative_log_likelihood(net, [rows[i] for i in b])).sum().item() for b in batches(rows, 8192))
    return total / len(items)


def shares(father, start, head):
    """One share a tensor, an expert, a row of a router."""
    out = {}
    for name, t in father.items():
        many = ".experts." in name or name.endswith("mlp.gate.weight")
        shape = (t.shape[0],) + (1,) * (t.dim() - 1) if many else (1,) * t.dim()
        out[name] = torch.full(shape, head if name == "lm_head.weight" else start).requires_grad_()
    return out


def oracle(net, tok, father, mother, items, goal, weight, budget, start, seed):
    """Shares by stochastic ascent on p(goal) + weight * mean p(protected); a pass backwards counts as two forwards."""
    rows, count = [encode(tok, i) for i in items], {}
    for i in items:
        count[i[0]] = count.get(i[0], 0) + 1
    w = [(1 if i[0] == goal else weight / (len(count) - 1)) * len(items) / count[i[0]] for i in items]
    direction = {k: mother[k] - father[k] for k in father}
    share = shares(father, start, 0.0)
    opt = torch.optim.Adam(share.values(), betas=(.9, .98))
    rng, used = random.Random(seed), 0
    while used < budget:
        plan = batches(rows, 1536)
        rng.shuffle(plan)
        for b in plan:
            for g in opt.param_groups:
                g["lr"] = .002 + .03 * max(0, 1 - used / budget)
            child = {k: father[k] + share[k] * direction[k] for k in father}
            nll = negative_log_likelihood(lambda *a, **kw: torch.func.functional_call(net, child, a, kw), [rows[i] for i in b])
            value = (torch.exp(-nll) * torch.tensor([w[i] for i in b])).sum() / len(items)
            opt.zero_grad()
            (-value).backward()
            opt.step()
            used += 3 * sum(len(rows[i][0]) + len(rows[i][1]) for i in b)
            if used >= budget:
                break
    return {k: v.detach() for k, v in share.items()}


def paired(a, b):
    """Mean difference of two outcomes of the same items in points, and the half width of its 95 % interval."""
    d = [int(x) - int(y) for x, y in zip(a, b, strict=True)]
    mean = sum(d) / len(d)
    return 100 * mean, 196 * (sum((x - mean) ** 2 for x in d) / (len(d) - 1) / len(d)) ** .5


def accuracy(bits):
    return 100 * bits.count("1") / len(bits)


def families(bits, items):
    """(family, outcomes of its items) of a domain."""
    by = {}
    for bit, item in zip(bits, items, strict=True):
        by[item[1]] = by.get(item[1], "") + bit
    return sorted(by.items())


def gate(models, chosen, goal, protected):
    """Print the table and what the gate asks."""
    parents = [m for m in models if m in ("father", "mother")]
    better = max(parents, key=lambda m: models[m][goal]["right"].count("1"))

    def loss(m, d):
        return paired(models[m][d]["right"], models["father"][d]["right"])
    line = [m for m in models if m.startswith("t ")]
    allowed = [m for m in line if all(loss(m, d)[0] >= -2 for d in protected)]
    best = max(line, key=lambda m: models[m][goal]["right"].count("1"))
    floored = max(allowed or parents[:1], key=lambda m: models[m][goal]["right"].count("1"))
    domains = list(models["father"])
    print("| model |" + "".join(f" {d} (n = {len(models['father'][d]['right'])}) |" for d in domains) + f" {goal} against {better} |")
    print("|---" * (len(domains) + 2) + "|")
    for m, by in models.items():
        cells = []
        for d in domains:
            if d not in by:
                cells.append("-")
                continue
            bits = by[d]["right"]
            lo, hi = table.wilson(bits.count("1"), len(bits))
            cells.append(f"{accuracy(bits):.1f} ({100 * lo:.1f}-{100 * hi:.1f})")
        print(f"| {m} | " + " | ".join(cells) + " | {:+.1f} ± {:.1f} |".format(*paired(by[goal]["right"], models[better][goal]["right"])))
    say = "{:+.1f} ± {:.1f}"
    print(f"(a) best line point {best}: " + say.format(*paired(models[best][goal]["right"], models[better][goal]["right"])) + f" points over the {better}, at least 8")
    print(f"    best line point that keeps the protected domains within 2 points: {floored}, "
          + say.format(*paired(models[floored][goal]["right"], models[better][goal]["right"])))
    for m in models:
        if m.startswith("oracle"):
            print(f"(b) {m}: " + say.format(*paired(models[m][goal]["right"], models[floored][goal]["right"])) + f" over {floored}, at least 5")
            print("(c)     against the father, none below -2: " + ", ".join(f"{d} " + say.format(*loss(m, d)) for d in protected))
    facts = accuracy(models["father"]["knowledge"]["right"])
    looked = accuracy(models["father"][goal]["looked"])
    operations = accuracy(models["mother"]["x-operations"]["right"])
    for d, m in ((goal, "father"), (goal, "mother"), (goal, floored), (goal, best), ("x-operations", "mother")):
        print(f"    {m}, {d}: " + ", ".join(f"{f} {accuracy(b):.1f}" for f, b in families(models[m][d]["right"], chosen[d])))
    print(f"(d) father's facts {facts:.1f} (of the goal, looked up in his traces: {looked:.1f}), at least 90; mother's operations {operations:.1f}, at least 80")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("father")
    ap.add_argument("mother")
    ap.add_argument("--out", required=True)
    ap.add_argument("--goal", default="x-derived")
    ap.add_argument("--protected", default="knowledge,language,tools")
    ap.add_argument("--n", type=int, default=1000, help="items of each protected domain (of the goal: all)")
    ap.add_argument("--operations", type=int, default=600, help="items of the mother's operations")
    ap.add_argument("--fit", type=int, default=1300, help="items of each protected domain that the oracle is fitted to")
    ap.add_argument("--line", default="0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9")
    ap.add_argument("--weights", default="1,2", help="an oracle for each of these weights of the protected domains")
    ap.add_argument("--budget", type=int, default=1_200_000, help="forward tokens of an oracle")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--max-new", type=int, default=64)
    a = ap.parse_args()
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    protected, began = a.protected.split(","), time.time()
    chosen = {a.goal: some(a.goal, CHOSEN, a.n), **{d: some(d, ("dev",), a.n) for d in protected},
              "x-operations": some("x-operations", ("dev",), a.operations)}
    fit = [i for d in [a.goal, *protected] for i in some(d, FIT, a.fit)]
    print({d: len(v) for d, v in chosen.items()}, "fitted to", len(fit), flush=True)
    tok = Tokenizer.from_file(os.path.join(a.father, "tokenizer.json"))
    M.speed_up()
    father, mother = language_model(a.father), language_model(a.mother)
    net = M.new_model().eval()
    for p in net.parameters():
        p.requires_grad_(False)
    done = json.load(open(a.out)) if os.path.exists(a.out) else {"models": {}, "shares": {}}
    models = done["models"]

    def measure(name, child, domains):
        if name in models:
            return
        load(net, child)
        models[name] = {}
        for d in domains:
            right, looked = outcomes(net, tok, chosen[d], a.max_new)
            models[name][d] = {"right": right, "looked": looked, "p": probability(net, tok, chosen[d])}
        with open(a.out + ".tmp", "w") as f:
            json.dump(done, f)
        os.replace(a.out + ".tmp", a.out)
        print(f"{time.time() - began:.0f} s {name}", {d: (round(accuracy(v["right"]), 1), round(v["p"], 3)) for d, v in models[name].items()}, flush=True)
    everything, few = list(chosen), [a.goal, *protected]
    measure("father", father, everything)
    measure("mother", mother, everything)
    for t in map(float, a.line.split(",")):
        measure(f"t {t:g}", {k: father[k] + t * (mother[k] - father[k]) for k in father}, few)
    for w in [w for w in a.weights.split(",") if w]:
        name = f"oracle {w}"
        if name in models:
            continue
        share = oracle(net, tok, father, mother, fit, a.goal, float(w), a.budget, .3, a.seed)
        done["shares"][name] = {k: v.flatten().tolist() for k, v in share.items()}
        flat = torch.cat([v.flatten() for v in share.values()])
        print(f"{time.time() - began:.0f} s {name}: {len(flat)} shares, mean {flat.mean():.2f}, {flat.min():.2f} to {flat.max():.2f}", flush=True)
        measure(name, {k: father[k] + share[k] * (mother[k] - father[k]) for k in father}, few)
    gate(models, chosen, a.goal, protected)


if __name__ == "__main__":
    main()
