"""What the tools' random Qwen3.5-MoE models have in common."""

F32_ISLANDS = ("linear_attn.A_log", "linear_attn.norm.weight")
"""Ends of the names of tensors that stay float32 in a bfloat16 checkpoint."""


def rope(theta=1e7, rotary=0.5, section=(2, 1, 1)):
    """`rope_parameters` of a config: base, share of a head that rotates, its pairs by (time, height, width)."""
    return dict(
        rope_type="default",
        rope_theta=theta,
        partial_rotary_factor=rotary,
        mrope_section=list(section),
        mrope_interleaved=True,
    )


def per_expert(name, experts):
    """The tensors, name -> (out, in), of a fused (experts, out, in) one in the layout with a tensor for each expert."""
    stem, part = name.rsplit(".", 1)
    out = {}
    for j, expert in enumerate(experts):
        parts = [("down_proj", expert)]
        if part == "gate_up_proj":
            parts = zip(("gate_proj", "up_proj"), expert.chunk(2))
        out |= {f"{stem}.{j}.{p}.weight": w.contiguous() for p, w in parts}
    return out
