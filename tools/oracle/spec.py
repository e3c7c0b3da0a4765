"""The architecture in float64, written from its description alone, against the golden numbers.

    python tools/oracle/spec.py [GOLDEN]

A second, independent witness: it shares no code with transformers, so it tells a wrong golden number from a
wrong reading of the architecture, and it measures how exact the float32 golden numbers are. Prints, for every
case, the largest |golden - float64| over the rms, per kind of value; fails (exit 1) beyond 3e-5, or where an
expert or a greedy token differs.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

DEFAULT_GOLDEN = Path(__file__).resolve().parents[2] / "crates/darwin-testkit/fixtures/golden/engine"
LIMIT = 3e-5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Model:
    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        self.c = config.get("text_config", config)
        tensors = {}
        for file in folder.glob("model*.safetensors"):
            tensors |= load_file(file)
        self.w = {}
        for name, value in tensors.items():
            name = name.removeprefix("model.").removeprefix("language_model.")
            self.w[name] = value.to(torch.float64).numpy()

    def norm(self, x, name):
        rms = np.sqrt((x * x).mean(-1, keepdims=True) + self.c["rms_norm_eps"])
        return x / rms * (1 + self.w[name])

    def rotate(self, x):
        """x (T, heads, head_dim): the first dims rotated, half against half."""
        freq, scale = self.frequencies()
        dims = 2 * len(freq)
        angle = (np.arange(len(x))[:, None] * freq)[:, None, :]
        first, second, rest = x[..., : dims // 2], x[..., dims // 2 : dims], x[..., dims:]
        turned = [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)]
        return np.concatenate([*(part * scale for part in turned), rest], -1)

    def frequencies(self):
        """Angles per position, and what cosines and sines are multiplied by (YaRN: arXiv:2309.00071, 3.2 to 3.4)."""
        rope = self.c["rope_parameters"]
        dims = int(self.c["head_dim"] * rope["partial_rotary_factor"])
        base, kind = rope["rope_theta"], rope.get("rope_type", "default")
        freq = base ** (-np.arange(0, dims, 2) / dims)
        if kind == "default":
            return freq, 1.0
        factor = rope["factor"]
        if kind == "linear":
            return freq / factor, 1.0
        assert kind == "yarn", kind
        # the (fractional) pair that turns `turns` times within the original context
        context = rope["original_max_position_embeddings"]
        pair = lambda turns: dims * np.log(context / (turns * 2 * np.pi)) / (2 * np.log(base))  # noqa: E731
        low, high = pair(rope.get("beta_fast", 32)), pair(rope.get("beta_slow", 1))
        if rope.get("truncate", True):
            low, high = np.floor(low), np.ceil(high)
        low, high = max(low, 0), min(high, dims - 1)
        share = np.clip((np.arange(dims // 2) - low) / (high - low), 0, 1)  # of interpolation
        scale = rope.get("attention_factor") or 0.1 * np.log(factor) + 1
        return freq / factor * share + freq * (1 - share), scale

    def attention(self, x, p):
        c, w, length = self.c, self.w, len(x)
        heads, kv, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        query_gate = (x @ w[p + "q_proj.weight"].T).reshape(length, heads, 2 * dim)
        query, gate = query_gate[..., :dim], query_gate[..., dim:]
        key = (x @ w[p + "k_proj.weight"].T).reshape(length, kv, dim)
        value = (x @ w[p + "v_proj.weight"].T).reshape(length, kv, dim)
        query = self.rotate(self.norm(query, p + "q_norm.weight"))
        key = self.rotate(self.norm(key, p + "k_norm.weight"))
        key, value = (np.repeat(a, heads // kv, axis=1) for a in (key, value))
        scores = np.einsum("ihd,jhd->hij", query, key) / np.sqrt(dim)
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        out = np.einsum("hij,jhd->ihd", softmax(scores), value) * sigmoid(gate)
        return out.reshape(length, -1) @ w[p + "o_proj.weight"].T

    def delta_net(self, x, p):
        c, w, length = self.c, self.w, len(x)
        key_heads, heads = c["linear_num_key_heads"], c["linear_num_value_heads"]
        key_dim, value_dim = c["linear_key_head_dim"], c["linear_value_head_dim"]
        qkv = x @ w[p + "in_proj_qkv.weight"].T
        kernel = w[p + "conv1d.weight"][:, 0]
        width = kernel.shape[1]
        padded = np.concatenate([np.zeros((width - 1, qkv.shape[1])), qkv])
        qkv = silu(sum(padded[j : j + length] * kernel[:, j] for j in range(width)))
        total = key_heads * key_dim
        query, key = (qkv[:, i * total : (i + 1) * total].reshape(length, key_heads, key_dim) for i in (0, 1))
        value = qkv[:, 2 * total :].reshape(length, heads, value_dim)
        query, key = (a / np.sqrt((a * a).sum(-1, keepdims=True) + 1e-6) for a in (query, key))
        query, key = (np.repeat(a, heads // key_heads, axis=1) for a in (query / np.sqrt(key_dim), key))
        beta = sigmoid(x @ w[p + "in_proj_b.weight"].T)
        decay = np.exp(-np.exp(w[p + "A_log"]) * np.logaddexp(0, x @ w[p + "in_proj_a.weight"].T + w[p + "dt_bias"]))
        state, out = np.zeros((heads, key_dim, value_dim)), np.empty((length, heads, value_dim))
        for t in range(length):
            state = state * decay[t][:, None, None]
            change = beta[t][:, None] * (value[t] - np.einsum("hkv,hk->hv", state, key[t]))
            state = state + key[t][:, :, None] * change[:, None, :]
            out[t] = np.einsum("hkv,hk->hv", state, query[t])
        gate = (x @ w[p + "in_proj_z.weight"].T).reshape(length, heads, value_dim)
        rms = np.sqrt((out * out).mean(-1, keepdims=True) + c["rms_norm_eps"])
        out = w[p + "norm.weight"] * out / rms * silu(gate)
        return out.reshape(length, -1) @ w[p + "out_proj.weight"].T

    def expert(self, p, j):
        """(gate, up, down) of one routed expert, from either layout."""
        if p + "experts.gate_up_proj" in self.w:
            gate, up = np.split(self.w[p + "experts.gate_up_proj"][j], 2)
            return gate, up, self.w[p + "experts.down_proj"][j]
        return [self.w[f"{p}experts.{j}.{part}_proj.weight"] for part in ("gate", "up", "down")]

    def moe(self, x, p, seen, at):
        w, top_k = self.w, self.c["num_experts_per_tok"]
        logits = x @ w[p + "gate.weight"].T
        chosen = np.argsort(-logits, axis=-1, kind="stable")[:, :top_k]
        gates = np.take_along_axis(softmax(logits), chosen, -1)
        gates /= gates.sum(-1, keepdims=True)
        routed = np.zeros_like(x)
        for t, slot in np.ndindex(chosen.shape):
            gate, up, down = self.expert(p, chosen[t, slot])
            routed[t] += gates[t, slot] * (down @ (silu(gate @ x[t]) * (up @ x[t])))
        s = p + "shared_expert."
        shared = silu(x @ w[s + "gate_proj.weight"].T) * (x @ w[s + "up_proj.weight"].T)
        shared = sigmoid(x @ w[p + "shared_expert_gate.weight"].T) * (shared @ w[s + "down_proj.weight"].T)
        found = dict(router_logits=logits, experts=chosen, gates=gates, expert_out=routed, shared_out=shared)
        seen.update({f"{at}.{k}": v for k, v in found.items()})
        return routed + shared

    def mlp(self, x, p, seen, at):
        """The dense one of Qwen3.5, or the experts."""
        if p + "gate.weight" in self.w:
            return self.moe(x, p, seen, at)
        gate, up, down = (self.w[f"{p}{part}_proj.weight"] for part in ("gate", "up", "down"))
        seen[f"{at}.mlp_out"] = (silu(x @ gate.T) * (x @ up.T)) @ down.T
        return seen[f"{at}.mlp_out"]

    def mtp(self, ids, hidden):
        """The MTP head (tensors `mtp.*`): from the final-normed states (T, hidden)
        of the model, at position t the state after the head's own norm and the logits of token t + 2."""
        embedded = self.norm(self.w["embed_tokens.weight"][ids[1:]], "mtp.pre_fc_norm_embedding.weight")
        carried = self.norm(hidden[:-1], "mtp.pre_fc_norm_hidden.weight")
        x = np.concatenate([embedded, carried], -1) @ self.w["mtp.fc.weight"].T
        p, seen = "mtp.layers.0.", {}
        x = x + self.attention(self.norm(x, p + "input_layernorm.weight"), p + "self_attn.")
        x = x + self.mlp(self.norm(x, p + "post_attention_layernorm.weight"), p + "mlp.", seen, "mtp")
        x = self.norm(x, "mtp.norm.weight")
        logits = x @ self.head().T
        following = logits[:-1] - logits[:-1].max(-1, keepdims=True)
        nll = np.log(np.exp(following).sum(-1)) - following[np.arange(len(ids) - 2), ids[2:]]
        return seen | dict(mtp_hidden=x, mtp_logits=logits, mtp_nll=nll)

    def head(self):
        return self.w.get("lm_head.weight", self.w["embed_tokens.weight"])

    def run(self, ids):
        x = self.w["embed_tokens.weight"][ids]
        seen = dict(embed=x)
        for i, kind in enumerate(self.c["layer_types"]):
            p, at = f"layers.{i}.", f"layer_{i:02d}"
            mixer, part = (self.delta_net, "linear_attn.") if kind == "linear_attention" else (self.attention, "self_attn.")
            seen[f"{at}.mixer_out"] = mixer(self.norm(x, p + "input_layernorm.weight"), p + part)
            x = x + seen[f"{at}.mixer_out"]
            x = x + self.mlp(self.norm(x, p + "post_attention_layernorm.weight"), p + "mlp.", seen, at)
            seen[f"{at}.resid_out"] = x
        seen["final_norm"] = self.norm(x, "norm.weight")
        seen["logits"] = seen["final_norm"] @ self.head().T
        return seen


def is_known(path):
    """Whether the description is of this config's family."""
    return json.loads(path.read_text())["model_type"].startswith("qwen3_5")


def main():
    golden_folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_GOLDEN
    wrong = []
    for folder in sorted(p.parent for p in golden_folder.glob("*/config.json") if is_known(p)):
        model, golden = Model(folder), load_file(folder / "golden.safetensors")
        if "seq1.input_ids" not in golden:
            continue  # `far`: a few rows of many tokens
        worst = {}
        for s in (0, 1):
            ids = golden[f"seq{s}.input_ids"].numpy()
            new = golden[f"seq{s}.greedy"].numpy()
            seen = model.run(ids)
            if "mtp.fc.weight" in model.w:
                seen |= model.mtp(ids, seen["final_norm"])
            for key, value in seen.items():
                want = golden.get(f"seq{s}.{key}")
                kind = key.rsplit(".", 1)[-1]
                if want is None:
                    continue
                if kind == "experts":
                    if (want.numpy() != value).any():
                        wrong.append(f"{folder.name} seq{s}.{key}: other experts")
                    continue
                error = np.abs(want.double().numpy() - value).max() / np.sqrt((value**2).mean())
                worst[kind] = max(worst.get(kind, 0.0), error)
            path = model.run(np.concatenate([ids, new]))["logits"][len(ids) - 1 : -1].argmax(-1)
            if (path != new).any():
                wrong.append(f"{folder.name} seq{s}.greedy: other tokens")
        wrong += [f"{folder.name} {k}: {v:.1e}" for k, v in worst.items() if not v <= LIMIT]
        print(f"{folder.name:6}" + "".join(f" {k} {v:.1e}" for k, v in worst.items()))
    for line in wrong:
        print("FAIL", line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
