"""Golden derivatives of the loss by share: inner products of PyTorch's gradients with directions.

    python tools/oracle/derivative.py [OUT] [CASE ...]

Writes OUT/derivative/<case>.json for random models of engine.py and engine_families.py, and for the example
parents. For each sequence of the case the loss is the summed negative log-likelihood of its tokens from the
third on; for each group (a tensor; a matrix of one routed expert; a row of a router) the file has
<dNLL / dW, D>, made in float64 where transformers allows it (norms and the delta rule are float32 there).

The direction of a random model needs no file: element i of the tensor of a canonical name is
0.05 * scale * (u - 1/2), u = the upper 24 bits of splitmix64(fnv1a64(name) + i) over 2^24, scale = the root of
the mean square of the tensor. The direction of `pair` is mother - father of examples/parents, at their midpoint.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

import taps

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_OUT = ROOT / "crates/darwin-testkit/fixtures/golden"
CASES = (
    "plain",
    "odd",
    "bf16",
    "long",
    "qwen3_5",
    "qwen3_5_text",
    "qwen3_5_moe_yarn",
    "qwen3_next",
    "qwen3",
    "qwen2",
    "mistral",
    "mixtral",
    "llama3",
    "llama_bias",
    "qwen3_moe",
    "qwen3_moe_step",
)
PROMPT = 2
MASK = (1 << 64) - 1


def fnv1a(text):
    state = 0xCBF29CE484222325
    for byte in text.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    return state


def draws(name, n):
    """Uniform draws of a tensor, centred at 0, float64."""
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a(name)) + np.arange(n, dtype=np.uint64)
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2.0**24 - 0.5


def canonical(name):
    return name.removeprefix("model.").removeprefix("language_model.")


def drawn_direction(name, weight):
    scale = weight.double().square().mean().sqrt().item()
    # rounded as the file would be
    values = (draws(name, weight.numel()) * np.float64(np.float32(0.05 * scale))).astype(np.float32)
    return torch.from_numpy(values).reshape(weight.shape), float(np.float32(0.05 * scale))


def by_group(name, product, experts):
    """Sums of elementwise products: one, or one for each expert."""
    if ".mlp.experts." in name:
        return product.sum((1, 2)).tolist()
    if name.endswith(".mlp.gate.weight") and experts:
        return product.sum(1).tolist()
    return [product.sum().item()]


def shares(model, direction, ids):
    """Loss of a sequence, and its derivative along every group's direction."""
    parameters = {canonical(n): p for n, p in model.named_parameters()}
    model.zero_grad()
    with taps.recurrent_form(model):
        logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0].double()
    loss = torch.nn.functional.cross_entropy(logits[PROMPT - 1 :], ids[PROMPT:], reduction="sum")
    loss.backward()
    experts = any(".mlp.experts." in name for name in parameters)
    out = {}
    for name, parameter in parameters.items():
        # an expert that no token reaches has no gradient
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        out[name] = by_group(name, grad.double() * direction[name].double(), experts)
    return loss.item(), out


def sequences(folder):
    golden = load_file(folder / "golden.safetensors")
    return [golden[f"seq{s}.input_ids"].long() for s in range(2)]


def write(out, case, model, direction, ids, about):
    found = [shares(model, direction, sequence) for sequence in ids]
    versions = dict(torch=torch.__version__, transformers=transformers.__version__)
    golden = dict(
        about,
        versions=versions,
        prompt=PROMPT,
        ids=[s.tolist() for s in ids],
        nll=[loss for loss, _ in found],
        shares={name: [[float(f"{v:.9g}") for v in s[name]] for _, s in found] for name in sorted(found[0][1])},
    )
    folder = out / "derivative"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{case}.json"
    lines = [f'  {json.dumps(k)}: {json.dumps(v, separators=(",", ":"))}' for k, v in golden["shares"].items()]
    head = {k: v for k, v in golden.items() if k != "shares"}
    text = json.dumps(head, separators=(",", ":"))[:-1] + ',\n "shares": {\n' + ",\n".join(lines) + "\n }\n}\n"
    assert json.loads(text) == golden
    path.write_text(text)
    print(f"{case}: nll {golden['nll']}, {path.stat().st_size / 1000:.0f} kB")


def random_case(out, case):
    folder = DEFAULT_OUT / "engine" / case
    model = taps.load_reference(folder).double()
    direction, scales = {}, {}
    for name, p in model.named_parameters():
        direction[canonical(name)], scales[canonical(name)] = drawn_direction(canonical(name), p.detach())
    write(out, case, model, direction, sequences(folder), dict(scales=scales))


def pair(out):
    folder = ROOT / "examples/parents"
    father, mother = (taps.load_reference(folder / name) for name in ("father", "mother"))
    of_mother = dict(mother.named_parameters())
    direction = {}
    with torch.no_grad():
        for name, p in father.named_parameters():
            d = of_mother[name] - p
            direction[canonical(name)] = d.clone()
            p += 0.5 * d
    ids = sequences(DEFAULT_OUT / "engine/father")
    write(out, "pair", father.double(), direction, ids, {})


def main():
    args = sys.argv[1:]
    out = Path(args.pop(0)) if args and args[0] not in (*CASES, "pair") else DEFAULT_OUT
    for case in args or (*CASES, "pair"):
        pair(out) if case == "pair" else random_case(out, case)


if __name__ == "__main__":
    main()
