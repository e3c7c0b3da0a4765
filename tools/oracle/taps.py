"""Runs a text model of transformers and records what every part of it puts out.

Everything is float32 on one CPU thread, with the eager attention and the eager experts: the plainest
arithmetic that the reference has. Values are taken by forward hooks, because `hidden_states[-1]` of
transformers is already final-normed.

Which form of the Gated DeltaNet: transformers runs a prompt in chunks of 64 and single tokens by the
recurrence. The two are the same function, but the chunked one takes differences of decays summed over the
chunk; in float32 that costs ten times the rounding error of the recurrence (measured against a float64
recurrence: 1e-4 against 1e-5 of a layer's rms on 200 tokens). The golden values are therefore those of
transformers' own *recurrent* function run over the whole sequence, and what its chunked form gives is
recorded beside them.
"""

import contextlib
import json
import sys

import torch
from transformers import AutoModelForCausalLM

NEW_TOKENS = 32


def load_reference(folder, dtype=torch.float32, attention="eager"):
    """The text model in `folder`. Refuses a folder that does not fit the class exactly."""
    torch.set_num_threads(1)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=attention,
        experts_implementation="eager",
        output_loading_info=True,
    )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[what], f"{folder}: {what} {sorted(info[what])[:5]}"
    model.eval()
    # A folder may set these in its generation config; a golden sequence must not stop early.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


class Taps:
    """Collects the outputs of the parts of a text model during `forward`."""

    def __init__(self, model):
        self.seen = {}
        self.handles = []
        text = model.model
        self._hook(text.embed_tokens, "embed", lambda out: out[0])
        self._hook(text.norm, "final_norm", lambda out: out[0])
        for i, layer in enumerate(text.layers):
            at = f"layer_{i:02d}"
            self._hook(layer, f"{at}.resid_out", lambda out: out[0])
            if hasattr(layer, "linear_attn"):
                self._hook(layer.linear_attn, f"{at}.mixer_out", lambda out: out[0])
            else:
                self._hook(layer.self_attn, f"{at}.mixer_out", lambda out: out[0][0])
            self._hook_mlp(layer.mlp, at)

    def _hook_mlp(self, mlp, at):
        if not hasattr(mlp, "gate"):
            self._hook(mlp, f"{at}.mlp_out", lambda out: out[0])
            return
        self._hook(mlp.gate, f"{at}.router_logits", lambda out: out[0])
        self._hook(mlp.gate, f"{at}.gates", lambda out: out[1])
        self._hook(mlp.gate, f"{at}.experts", lambda out: out[2])
        self._hook(mlp.experts, f"{at}.expert_out", lambda out: out)
        if hasattr(mlp, "shared_expert"):
            self._hook(mlp.shared_expert, f"{at}.shared_raw", lambda out: out)
            self._hook(mlp.shared_expert_gate, f"{at}.shared_gate", lambda out: out)
        if hasattr(mlp, "shared_experts"):
            self._hook(mlp.shared_experts, f"{at}.shared_out", lambda out: out[0])

    def _hook(self, module, name, pick):
        def hook(_module, _args, out):
            # a later pass overwrites an earlier one: one pass, one record
            self.seen[name] = pick(out).detach().clone()

        self.handles.append(module.register_forward_hook(hook))

    def remove(self):
        for handle in self.handles:
            handle.remove()


@contextlib.contextmanager
def recurrent_form(model):
    """Inside, transformers' recurrent delta rule also does the work of its chunked one."""
    reference = sys.modules[type(model).__module__]
    chunked = getattr(reference, "torch_chunk_gated_delta_rule", None)
    if chunked is None:
        yield
        return
    reference.torch_chunk_gated_delta_rule = reference.torch_recurrent_gated_delta_rule
    try:
        yield
    finally:
        reference.torch_chunk_gated_delta_rule = chunked


@torch.no_grad()
def record(model, ids):
    """All taps of one sequence (T,) in the recurrent form: matrices (T, width), named as in the golden files."""
    taps = Taps(model)
    with recurrent_form(model):
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
    taps.remove()
    return finish(taps, logits, ids)


@torch.no_grad()
def record_chunked(model, ids):
    """The same by transformers' ordinary forward pass, in chunks of 64 tokens."""
    taps = Taps(model)
    logits = model(input_ids=ids[None], use_cache=False).logits[0]
    taps.remove()
    return finish(taps, logits, ids)


def finish(taps, logits, ids):
    seen = taps.seen
    for name in [n for n in seen if n.endswith("shared_raw")]:
        at = name.removesuffix("shared_raw")
        gate = torch.sigmoid(seen.pop(f"{at}shared_gate"))
        seen[f"{at}shared_out"] = gate * seen.pop(name)
    for name in [n for n in seen if n.endswith(".gates")]:
        # some routers leave the order open
        order = seen[name].argsort(dim=-1, descending=True, stable=True)
        for tap in (name, name.replace(".gates", ".experts")):
            seen[tap] = seen[tap].gather(-1, order)
    seen["logits"] = logits.clone()
    for name, value in seen.items():
        assert value.shape[0] == len(ids), (name, value.shape)
        assert torch.isfinite(value.float()).all(), name
    return seen


@torch.no_grad()
def cached_logits(model, ids, first):
    """Logits (T, vocab) of the same sequence fed as `first` tokens and then one by one."""
    out = model(input_ids=ids[None, :first], use_cache=True)
    rows = [out.logits[0]]
    for t in range(first, len(ids)):
        out = model(input_ids=ids[None, t : t + 1], past_key_values=out.past_key_values, use_cache=True)
        rows.append(out.logits[0])
    return torch.cat(rows)


@torch.no_grad()
def greedy(model, ids, use_cache):
    """The next NEW_TOKENS tokens, greedily, by transformers' own `generate`."""
    out = model.generate(
        ids[None],
        attention_mask=torch.ones_like(ids)[None],
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        use_cache=use_cache,
    )
    new = out[0, len(ids) :]
    assert len(new) == NEW_TOKENS
    return new


@torch.no_grad()
def greedy_margin(model, ids, new):
    """The smallest gap between the best and the second logit along the greedy path."""
    logits = model(input_ids=torch.cat([ids, new])[None], use_cache=False).logits[0]
    rows = logits[len(ids) - 1 : -1]
    assert torch.equal(rows.argmax(-1), new), "greedy path is not the argmax of a full pass"
    best = rows.topk(2, dim=-1).values
    return (best[:, 0] - best[:, 1]).min().item()


def expert_margins(router_logits, top_k):
    """Gap (T,) in probability between the last expert taken and the first one left out."""
    probs = torch.softmax(router_logits, dim=-1).sort(dim=-1, descending=True).values
    return probs[:, top_k - 1] - probs[:, top_k]


def entropy_bits(router_logits):
    """Entropy (T,) of the full softmax over the experts, in bits."""
    log_p = torch.log_softmax(router_logits.double(), dim=-1)
    return -(log_p.exp() * log_p).sum(-1) / torch.log(torch.tensor(2.0, dtype=torch.float64))


def max_over_rms(got, want):
    """Largest absolute difference, over the rms of what it should be."""
    return (got - want).abs().max().item() / rms(want)


def rms(x):
    return x.double().pow(2).mean().sqrt().item()


def known_seed(checked_in, out, name):
    """The seed of a case that is checked in, where its numbers are made again elsewhere: which seeds are
    well-conditioned depends on the rounding of the CPU, and a check wants the same numbers. Else none."""
    file = checked_in / name / "case.json"
    return json.loads(file.read_text())["seed"] if out.resolve() != checked_in and file.exists() else None
