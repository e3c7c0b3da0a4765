"""Greedy exact-match scores of a parent on items, by transformers' own functions.

    python score.py MODEL_FOLDER ITEMS.jsonl.gz [--n 500] [--out scores.json --name father]
"""
import argparse
import gzip
import json
import os
import time

import torch
from tokenizers import Tokenizer

import data
import tokenizer as tk


@torch.no_grad()
def greedy(model, prompts, max_new=96):
    """Continue a batch of token lists greedily; left padding, whose states the mask keeps at zero."""
    n, w = len(prompts), max(map(len, prompts))
    ids = torch.full((n, w), tk.PAD)
    mask = torch.zeros(n, w, dtype=torch.long)
    for i, p in enumerate(prompts):
        ids[i, w - len(p):] = torch.tensor(p)
        mask[i, w - len(p):] = 1
    pos = (mask.cumsum(-1) - 1).clamp(min=0)
    out, cache, done = [[] for _ in range(n)], None, torch.zeros(n, dtype=torch.bool)
    for _ in range(max_new):
        r = model(ids, attention_mask=mask, position_ids=pos, past_key_values=cache, use_cache=True,
                  logits_to_keep=1)
        cache, nxt = r.past_key_values, r.logits[:, -1].argmax(-1)
        for i, t in enumerate(nxt.tolist()):
            if not done[i]:
                out[i].append(t)
        done |= nxt == tk.END
        if done.all():
            break
        ids, pos = nxt[:, None], pos[:, -1:] + 1
        mask = torch.cat([mask, torch.ones(n, 1, dtype=torch.long)], 1)
    return out


def given_answer(tok, ids, think):
    """The text between `</think>` (or the start) and `<|end|>`; None where either is missing."""
    if not ids or ids[-1] != tk.END:
        return None
    ids = ids[:-1]
    if think:
        if tk.END_THINK not in ids:
            return None
        ids = ids[ids.index(tk.END_THINK) + 1:]
    return tok.decode(ids, skip_special_tokens=False)


def score(model, tok, items, batch=128, details=None):
    """{domain: {format: {"n":, "correct":}}} for item tuples."""
    jobs = []
    for it in items:
        for think in ([False, True] if it[4] is not None else [False]):
            jobs.append((it, think, tok.encode(data.prompt(it[2], think)).ids))
    jobs.sort(key=lambda j: (j[1], len(j[2])))
    res, fam = {}, {}
    for b in range(0, len(jobs), batch):
        part = jobs[b:b + batch]
        for (it, think, _), ids in zip(part, greedy(model, [j[2] for j in part])):
            ok = given_answer(tok, ids, think) == it[3]
            f = "think" if think else "direct"
            for table, key in ((res, it[0]), (fam, it[0] + "/" + it[1])):
                c = table.setdefault(key, {}).setdefault(f, {"n": 0, "correct": 0})
                c["n"] += 1
                c["correct"] += ok
            if details is not None:
                details.append((it, think, ok, tok.decode(ids, skip_special_tokens=False)))
    return res, fam


def load_items(path, n=None):
    """The first `n` items per domain of a shipped file, as tuples."""
    out, seen = [], {}
    with gzip.open(path, "rt", encoding="utf-8") as f:
        for line in f:
            r = json.loads(line)
            seen[r["domain"]] = seen.get(r["domain"], 0) + 1
            if n is None or seen[r["domain"]] <= n:
                out.append((r["domain"], r["family"], r["question"], r["target"], r.get("trace")))
    return out


def main():
    from transformers import AutoModelForCausalLM
    ap = argparse.ArgumentParser()
    ap.add_argument("model")
    ap.add_argument("items")
    ap.add_argument("--n", type=int)
    ap.add_argument("--out")
    ap.add_argument("--name")
    a = ap.parse_args()
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32).eval()
    tok = Tokenizer.from_file(os.path.join(a.model, "tokenizer.json"))
    t0 = time.time()
    res, fam = score(model, tok, load_items(a.items, a.n))
    for k in sorted(fam):
        print(k, {f: f"{c['correct']}/{c['n']}" for f, c in fam[k].items()})
    for k in data.DOMAINS:
        print(k, {f: round(c["correct"] / c["n"], 3) for f, c in res.get(k, {}).items()})
    print(f"{time.time() - t0:.0f} s")
    if a.out:
        old = json.load(open(a.out)) if os.path.exists(a.out) else {}
        old[a.name] = {d: res[d] for d in data.DOMAINS if d in res}
        with open(a.out, "w") as f:
            json.dump(old, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
