"""Train the base or a parent; the same command goes on from the last checkpoint, at the same data position.

Two processes of one thread each take a batch per step and average their gradients: on shared
cores that is much faster than one process of two threads.

    python train.py base WORK
    python train.py father WORK       (starts from WORK/base/final.pt)
    python train.py mother WORK       (starts from WORK/father/final.pt)

Data comes in blocks of 768 rows, each made from a seed of (parent, block number), cut into batches
of like length. A checkpoint is written aside and renamed every 3 minutes, at the end of a block.
`plan.json` holds the doses; a phase may be added for a token count that is not reached yet.
"""
import json
import math
import os
import random
import socket
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")     # do not spin where other jobs share the cores

import torch                                              # noqa: E402
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer

import data
import model as M
import score
import tokenizer as tk
from muon import Muon

HERE = os.path.dirname(os.path.abspath(__file__))
ROWS, BATCH_TOKENS, MAX_LEN, WORKERS = 768, 1024, 128, 2
SAVE_EVERY, DEV_EVERY, DEV_N = 180, 500_000, 40
PROMPT_WEIGHT = 0.1


def initialise(m, seed):
    """Larger weights and slower decays than the library's defaults, which suit wide models."""
    g = torch.Generator().manual_seed(seed)
    for name, p in m.named_parameters():
        with torch.no_grad():
            if name.endswith("dt_bias"):
                dt = torch.exp(torch.empty_like(p).uniform_(math.log(.001), math.log(.1), generator=g))
                p.copy_(dt + torch.log(-torch.expm1(-dt)))
            elif name.endswith("A_log"):
                p.copy_(torch.empty_like(p).uniform_(1, 16, generator=g).log())
            elif name.endswith("conv1d.weight"):
                p.uniform_(-.5, .5, generator=g)
            elif name.endswith("embed_tokens.weight"):
                p.normal_(0, .3, generator=g)
            elif name.endswith("mlp.gate.weight"):
                p.normal_(0, .03, generator=g)
            elif p.dim() >= 2:
                std = .8 / p.shape[-1] ** .5
                if any(s in name for s in ("o_proj", "out_proj", "down_proj")):
                    std /= (2 * M.LAYERS) ** .5
                p.normal_(0, std, generator=g)


def phase_at(plan, tokens):
    """The last phase that has begun; keys it lacks are those of the phase before."""
    cur = {}
    for ph in plan["phases"]:
        if tokens >= ph["from"]:
            cur.update(ph)
    return cur


def lr_at(plan, tokens):
    """Warm-up, constant, then a cosine down to 3 %."""
    if tokens < plan["warmup"]:
        return plan["lr"] * (tokens + 2000) / (plan["warmup"] + 2000)
    x = min(1, max(0, tokens - plan["decay_from"]) / max(1, plan["tokens"] - plan["decay_from"]))
    return plan["lr"] * (.03 + .97 * .5 * (1 + math.cos(math.pi * x)))


def encode(tok, item, think):
    p = tok.encode(data.prompt(item[2], think)).ids
    return p, tok.encode(data.answer(item, think)).ids


def mean_lengths(tok):
    rng, out = random.Random(3), {}
    for d in data.DOMAINS:
        items = [data.train_item(rng, d) for _ in range(300)]
        out[d] = sum(sum(map(len, encode(tok, i, i[4] is not None))) for i in items) / 300
    return out


def block(tok, plan, who, number, tokens, lengths):
    """The batches of one block: lists of (prompt ids, answer ids)."""
    rng = random.Random(f"{who} {plan['seed']} {number}")
    phase = phase_at(plan, tokens)
    sh = phase["shares"]
    doms = sorted(sh)
    w = [sh[d] / lengths[d] for d in doms]
    rows = []
    for _ in range(ROWS):
        it = data.train_item(rng, rng.choices(doms, w)[0], phase.get("difficulty"), plan.get("hers", False))
        r = encode(tok, it, it[4] is not None and rng.random() < plan["think"])
        if len(r[0]) + len(r[1]) <= MAX_LEN:
            rows.append(r)
    rows.sort(key=lambda r: len(r[0]) + len(r[1]))
    out, cur = [], []
    for r in rows:
        if cur and (len(cur) + 1) * (len(r[0]) + len(r[1])) > BATCH_TOKENS:
            out.append(cur)
            cur = []
        cur.append(r)
    out.append(cur)
    rng.shuffle(out)
    return out


def tensors(rows):
    w = max(len(p) + len(a) for p, a in rows)
    x = torch.full((len(rows), w), tk.PAD)
    mask, weight = torch.zeros(len(rows), w, dtype=torch.long), torch.zeros(len(rows), w)
    for i, (p, a) in enumerate(rows):
        n = len(p) + len(a)
        x[i, :n] = torch.tensor(p + a)
        mask[i, :n] = 1
        weight[i, 1:len(p)] = PROMPT_WEIGHT
        weight[i, len(p):n] = 1
        if p[-1] == tk.THINK:
            weight[i, len(p) - 1] = 0       # whether to think is the prompt's decision
    return x, mask, weight


def balance(router_logits, mask):
    """Switch load-balancing loss, layer by layer, without padding; 1 when balanced."""
    m = mask.reshape(-1, 1).float()
    total = 0
    for z in router_logits:
        p = z.softmax(-1)
        k = M.TEXT["num_experts_per_tok"]
        hit = torch.zeros_like(p).scatter_(1, p.topk(k, -1).indices, 1.0)
        total = total + z.shape[-1] * ((hit * m).sum(0) / m.sum() / k * ((p * m).sum(0) / m.sum())).sum()
    return total / len(router_logits)


def save(path, obj):
    torch.save(obj, path + ".tmp")
    os.replace(path + ".tmp", path)


def dev_scores(m, tok, items):
    """Score with transformers' own delta rule (the fast one keeps no state)."""
    fast, M.ref.torch_chunk_gated_delta_rule = M.ref.torch_chunk_gated_delta_rule, ORIGINAL
    m.eval()
    torch.set_num_threads(2)
    res, fam = score.score(m, tok, items, batch=256)
    torch.set_num_threads(1)
    m.train()
    M.ref.torch_chunk_gated_delta_rule = fast

    def show(t):
        return " ".join(f"{k}:" + "/".join(f"{c['correct'] / c['n']:.2f}" for _, c in sorted(v.items()))
                        for k, v in sorted(t.items()))
    return show(res), show(fam)


ORIGINAL = M.ref.torch_chunk_gated_delta_rule


def average(params):
    """Mean of the gradients over the workers, as one message."""
    params = [p for p in params if p.grad is not None]
    flat = torch.cat([p.grad.flatten() for p in params])
    dist.all_reduce(flat)
    flat /= WORKERS
    for p, g in zip(params, flat.split([p.numel() for p in params])):
        p.grad.copy_(g.view_as(p))


def main(rank, who, work, port):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORKERS)
    plan = json.load(open(os.path.join(HERE, "plan.json")))[who]
    folder = os.path.join(work, who)
    os.makedirs(folder, exist_ok=True)
    torch.set_num_threads(1)
    tok = Tokenizer.from_file(os.path.join(work, "tokenizer.json"))
    M.speed_up()
    m = M.new_model(plan["seed"])
    initialise(m, plan["seed"])
    hidden = [p for n, p in m.named_parameters() if p.dim() in (2, 3) and min(p.shape[-2:]) >= 32
              and not any(s in n for s in ("embed_tokens", "lm_head", "mlp.gate.", "conv1d"))]
    rest = [p for p in m.parameters() if all(p is not h for h in hidden)]
    if "muon" in plan:
        opts = [Muon(hidden, lr=1e-3, weight_decay=plan["weight_decay"]),
                torch.optim.AdamW(rest, lr=1e-3, betas=(.9, .98), weight_decay=0.0, fused=True)]
    else:                               # fine-tunes
        opts = [torch.optim.AdamW(m.parameters(), lr=1e-3, betas=(.9, .98), weight_decay=plan["weight_decay"], fused=True)]
    state = {"block": 0, "tokens": 0, "seconds": 0.0, "dev": 0}
    last = os.path.join(folder, "last.pt")
    if os.path.exists(last):
        ck = torch.load(last, weights_only=True)
        m.load_state_dict(ck["model"])
        for o, s in zip(opts, ck["opts"] if "opts" in ck else []):
            o.load_state_dict(s)
        state = ck["state"]
    elif "start" in plan:
        m.load_state_dict(torch.load(os.path.join(work, plan["start"], "final.pt"), weights_only=True)["model"])
    dev = data.heldout({"dev": DEV_N})["dev"]
    lengths = mean_lengths(tok)
    log = open(os.path.join(folder, "log.txt"), "a", buffering=1)

    def say(s):
        if rank:
            return
        print(s, flush=True)
        log.write(s + "\n")
    say(f"# {who} from block {state['block']} tokens {state['tokens']} lengths "
        + " ".join(f"{k}:{v:.1f}" for k, v in lengths.items()))
    m.train()
    t_save = t_log = time.time()
    seen, nlog, loss_sum, aux_sum = state["tokens"], 0, 0.0, 0.0
    while state["tokens"] < plan["tokens"]:
        t0 = time.time()
        batches = block(tok, plan, who, state["block"], state["tokens"], lengths)
        for step in range(0, len(batches) - WORKERS + 1, WORKERS):
            rows = batches[step + rank]
            lr = lr_at(plan, state["tokens"])
            for o, factor in zip(opts, (plan["muon"], 1) if "muon" in plan else (1,)):
                for gr in o.param_groups:
                    gr["lr"] = lr * factor
            x, mask, weight = tensors(rows)
            out = m(x, attention_mask=mask, use_cache=False, output_router_logits=plan["aux"] > 0)
            nll = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), x[:, 1:].flatten(), reduction="none")
            loss = (nll * weight[:, 1:].flatten()).sum() / weight[:, 1:].sum()
            total = loss
            if plan["aux"] > 0:
                aux = balance(out.router_logits, mask)
                total = loss + plan["aux"] * aux
                aux_sum += aux.item()
            total.backward()
            average(m.parameters())
            torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
            for o in opts:
                o.step()
                o.zero_grad()
            state["tokens"] += sum(len(p) + len(a) for b in batches[step:step + WORKERS] for p, a in b)
            loss_sum += loss.item()
            nlog += 1
        state["block"] += 1
        now = time.time()
        state["seconds"] += now - t0
        if now - t_log > 30:
            say(f"tok {state['tokens']} tok/s {(state['tokens'] - seen) / (now - t_log):.0f} loss {loss_sum / nlog:.4f} "
                f"aux {aux_sum / nlog:.3f} lr {lr:.2e} min {state['seconds'] / 60:.1f}")
            t_log, seen, nlog, loss_sum, aux_sum = now, state["tokens"], 0, 0.0, 0.0
        every = DEV_EVERY if who == "base" else DEV_EVERY // 4
        if state["tokens"] // every > state["dev"]:
            state["dev"] = state["tokens"] // every
            if rank:
                continue
            res, fam = dev_scores(m, tok, dev)
            say(f"dev {state['tokens']} {time.time() - now:.0f}s {res}\n  {fam}")
            if who != "base":
                save(os.path.join(folder, f"at{state['dev']:03d}.pt"), {"model": m.state_dict(), "state": state})
            t_log, seen = time.time(), state["tokens"]
        if rank == 0 and time.time() - t_save > SAVE_EVERY:
            save(last, {"model": m.state_dict(), "opts": [o.state_dict() for o in opts], "state": state})
            t_save = time.time()
    if rank:
        return
    save(last, {"model": m.state_dict(), "opts": [o.state_dict() for o in opts], "state": state})
    say("dev end " + "\n  ".join(dev_scores(m, tok, dev)))
    save(os.path.join(folder, "final.pt"), {"model": m.state_dict(), "state": state})
    say(f"# done tokens {state['tokens']} minutes {state['seconds'] / 60:.1f}")


if __name__ == "__main__":
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        free = s.getsockname()[1]
    torch.multiprocessing.spawn(main, (sys.argv[1], sys.argv[2], free), WORKERS)
