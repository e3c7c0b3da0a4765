"""How narrowly each kind of router decides: the gap between the last taken and the first left out."""

import torch


def of(config, router_logits, bias=None):
    """The smallest gap, in the scores that are compared, over tokens (and over groups, where they are chosen first)."""
    logits = torch.as_tensor(router_logits).double()
    top_k, method = config["num_experts_per_tok"], config.get("topk_method", "greedy")
    if method == "noaux_tc":
        scores = torch.sigmoid(logits) + bias.double()
    else:
        scores = torch.softmax(logits, dim=-1)
    groups, kept = config.get("n_group") or 1, config.get("topk_group") or 1
    smallest = 1.0
    if method != "greedy" and groups > kept:
        grouped = scores.unflatten(-1, (groups, -1))
        best = grouped.topk(2, dim=-1).values.sum(-1) if method == "noaux_tc" else grouped.amax(-1)
        smallest = gap(best, kept)
        left_out = torch.ones_like(best).scatter(-1, best.topk(kept, dim=-1).indices, 0).bool()
        scores = grouped.masked_fill(left_out[..., None], -1e9).flatten(-2)
    return min(smallest, gap(scores, top_k))


def of_layer(config, seen, model, key):
    """`of` for a recorded `layer_NN.router_logits`."""
    gate = model.model.layers[int(key.split(".")[0].removeprefix("layer_"))].mlp.gate
    return of(config, seen[key], getattr(gate, "e_score_correction_bias", None))


def gap(scores, taken):
    ordered = scores.sort(dim=-1, descending=True).values
    return (ordered[..., taken - 1] - ordered[..., taken]).min().item()
