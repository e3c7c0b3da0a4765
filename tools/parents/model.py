"""Shape of the parents, and fast CPU equivalents of two transformers functions for training."""
import torch
import torch.nn.functional as F
from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as ref

import tokenizer as tk

LAYERS = 8
TEXT = dict(
    vocab_size=tk.VOCAB, hidden_size=128, num_hidden_layers=LAYERS,
    layer_types=["full_attention" if i % 4 == 3 else "linear_attention" for i in range(LAYERS)],
    num_attention_heads=2, num_key_value_heads=1, head_dim=64,
    linear_num_key_heads=1, linear_key_head_dim=64, linear_num_value_heads=2, linear_value_head_dim=64,
    linear_conv_kernel_dim=4, moe_intermediate_size=32, shared_expert_intermediate_size=32,
    num_experts=32, num_experts_per_tok=4, rms_norm_eps=1e-6, max_position_embeddings=4096,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                     "mrope_section": [6, 5, 5], "mrope_interleaved": True},
    tie_word_embeddings=False, router_aux_loss_coef=0.01, hidden_act="silu",
    pad_token_id=tk.PAD, eos_token_id=tk.END,
)
VISION = dict(depth=1, hidden_size=32, intermediate_size=48, num_heads=2, in_channels=3, patch_size=4,
              spatial_merge_size=2, temporal_patch_size=2, out_hidden_size=128, num_position_embeddings=16)


def text_config(**kw):
    return Qwen3_5MoeTextConfig(**{**TEXT, **kw})


def full_config(**kw):
    return Qwen3_5MoeConfig(text_config={**TEXT, **kw}, vision_config=VISION, tie_word_embeddings=False,
                            image_token_id=tk.IMAGE, video_token_id=tk.VIDEO,
                            vision_start_token_id=tk.VSTART, vision_end_token_id=tk.VEND)


def one_chunk_delta_rule(query, key, value, g, beta, initial_state=None, output_final_state=False, **_):
    """Gated delta rule without cache, the whole (short) sequence as one chunk."""
    assert initial_state is None and not output_final_state
    rep = value.shape[2] // key.shape[2]
    q, k, v = (x.transpose(1, 2).float() for x in (query, key, value))
    q, k = ref.l2norm(q) * q.shape[-1] ** -.5, ref.l2norm(k)
    kk, qk = k @ k.transpose(-1, -2), q @ k.transpose(-1, -2)
    if rep > 1:
        kk, qk = kk.repeat_interleave(rep, 1), qk.repeat_interleave(rep, 1)
    c = g.transpose(1, 2).float().cumsum(-1)
    beta = beta.transpose(1, 2).float().unsqueeze(-1)
    t = c.shape[-1]
    upper = torch.ones(t, t, dtype=torch.bool).triu(1)
    decay = (c.unsqueeze(-1) - c.unsqueeze(-2)).masked_fill(upper, float("-inf")).exp()
    new = torch.linalg.solve_triangular(kk * beta * decay, v * beta, upper=False, unitriangular=True)
    out = (qk * decay) @ new
    return out.transpose(1, 2).to(query.dtype), None


class Dispatch(torch.autograd.Function):
    """Rows of `x` (n) repeated for `k` choices and sorted by expert; the gradient is a gather, too."""

    @staticmethod
    def forward(ctx, x, perm, inv, k):
        ctx.save_for_backward(inv)
        ctx.k = k
        return x[perm // k]

    @staticmethod
    def backward(ctx, g):
        (inv,) = ctx.saved_tensors
        return g[inv].view(-1, ctx.k, g.shape[-1]).sum(1), None, None, None


class Combine(torch.autograd.Function):
    """The opposite of `Dispatch`: rows sorted by expert back to tokens, summed over the `k` choices."""

    @staticmethod
    def forward(ctx, y, perm, inv, k):
        ctx.save_for_backward(perm)
        ctx.k = k
        return y[inv].view(-1, k, y.shape[-1]).sum(1)

    @staticmethod
    def backward(ctx, g):
        (perm,) = ctx.saved_tensors
        return g[perm // ctx.k], None, None, None


def sorted_experts(self, x, index, weights):
    """The experts' sum with tokens sorted by expert: one matrix product per expert and matrix."""
    k = index.shape[1]
    flat = index.reshape(-1)
    perm = flat.argsort(stable=True)
    sizes = torch.bincount(flat, minlength=self.num_experts).tolist()
    inv = torch.empty_like(perm)
    inv[perm] = torch.arange(len(perm))
    xs = Dispatch.apply(x, perm, inv, k).split(sizes)
    h = torch.cat([a @ w.t() for a, w in zip(xs, self.gate_up_proj.unbind(0))])
    gate, up = h.chunk(2, -1)
    h = (F.silu(gate) * up * weights.reshape(-1)[perm].unsqueeze(-1)).split(sizes)
    y = torch.cat([a @ w.t() for a, w in zip(h, self.down_proj.unbind(0))])
    return Combine.apply(y, perm, inv, k)


def speed_up():
    """Put the fast functions in place (training only; scores are made by transformers' own)."""
    ref.torch_chunk_gated_delta_rule = one_chunk_delta_rule
    ref.Qwen3_5MoeExperts.forward = sorted_experts


def new_model(seed=1, **kw):
    torch.manual_seed(seed)
    cfg = text_config(**kw)
    cfg._attn_implementation = "sdpa"
    m = Qwen3_5MoeForCausalLM(cfg).float()
    return m
