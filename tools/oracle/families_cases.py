"""The cases of engine_families.py: configs as checkpoints in the wild have them, sizes that divide nothing.
"""

BASE = dict(
    vocab_size=61,
    hidden_size=36,
    hidden_act="silu",
    max_position_embeddings=640,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    use_cache=True,
    eos_token_id=None,
    bos_token_id=None,
    pad_token_id=None,
    torch_dtype="bfloat16",
)


def case(config, dtype="bfloat16", lengths=(12, 5), mtp=False, fused=False, bf16_run=False):
    """`mtp`: with an MTP head; `fused`: experts in one tensor; `bf16_run`: also measured as bfloat16 computes it."""
    return dict(config=config, dtype=dtype, lengths=lengths, mtp=mtp, fused=fused, bf16_run=bf16_run)


def flat(model_type, architecture, **numbers):
    return BASE | dict(architectures=[architecture], model_type=model_type) | numbers


def nested(model_type, architecture, **numbers):
    """A multimodal config: the text model's numbers under `text_config`."""
    text = BASE | dict(model_type=f"{model_type}_text") | numbers
    del text["torch_dtype"], text["tie_word_embeddings"]
    return dict(
        architectures=[architecture],
        model_type=model_type,
        tie_word_embeddings=numbers.get("tie_word_embeddings", False),
        torch_dtype="bfloat16",
        text_config=text,
    )


LINEAR = dict(
    linear_num_key_heads=2,
    linear_num_value_heads=6,
    linear_key_head_dim=6,
    linear_value_head_dim=5,
    linear_conv_kernel_dim=4,
)
HYBRID = dict(
    LINEAR,
    num_hidden_layers=2,
    layer_types=["linear_attention", "full_attention"],
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=12,
)
THREE = ["linear_attention", "full_attention", "linear_attention"]
MROPE = dict(
    rope_type="default",
    rope_theta=1e6,
    partial_rotary_factor=0.5,
    mrope_section=[1, 1, 1],
    mrope_interleaved=True,
)
QWEN_MOE = dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=7)
SHARED = dict(shared_expert_intermediate_size=11)
ATTENTION = dict(num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, head_dim=10, intermediate_size=26)
LATENT = dict(
    num_hidden_layers=2,
    rms_norm_eps=1e-3,  # unlike the 1e-6 of the norms of latents, by enough to be seen
    num_attention_heads=3,
    num_key_value_heads=3,
    kv_lora_rank=14,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=7,
    intermediate_size=28,
    moe_intermediate_size=9,
    num_experts_per_tok=3,
    first_k_dense_replace=1,
    moe_layer_freq=1,
)

QWEN3_5 = {
    "qwen3_5": case(
        nested(
            "qwen3_5",
            "Qwen3_5ForConditionalGeneration",
            **HYBRID,
            intermediate_size=22,
            rope_parameters=MROPE,
            mtp_num_hidden_layers=1,
        ),
        mtp=True,
    ),
    "qwen3_5_text": case(
        flat(
            "qwen3_5_text",
            "Qwen3_5ForCausalLM",
            **HYBRID | dict(layer_types=["full_attention", "linear_attention"]),
            intermediate_size=19,
            tie_word_embeddings=True,
            rope_parameters=MROPE | dict(rope_type="linear", factor=4.0),
        ),
    ),
    "qwen3_5_moe_mtp": case(
        nested(
            "qwen3_5_moe",
            "Qwen3_5MoeForConditionalGeneration",
            **HYBRID | QWEN_MOE | SHARED,
            rope_parameters=MROPE,
            mtp_num_hidden_layers=1,
        ),
        mtp=True,
        fused=True,
        lengths=(17, 6),
    ),
    "qwen3_5_moe_yarn": case(
        flat(
            "qwen3_5_moe_text",
            "Qwen3_5MoeForCausalLM",
            **HYBRID | QWEN_MOE | SHARED | dict(layer_types=["full_attention", "linear_attention"]),
            rope_parameters=MROPE
            | dict(
                rope_type="yarn",
                rope_theta=100.0,
                factor=8.0,
                original_max_position_embeddings=16,
                beta_fast=4.0,
                beta_slow=0.25,
            ),
        ),
        lengths=(34, 6),
    ),
    "qwen3_next": case(
        flat(
            "qwen3_next",
            "Qwen3NextForCausalLM",
            **HYBRID | QWEN_MOE | SHARED | dict(num_hidden_layers=3, layer_types=THREE),
            intermediate_size=21,
            norm_topk_prob=True,
            decoder_sparse_step=1,
            mlp_only_layers=[1],
            rope_theta=1e6,
            partial_rotary_factor=0.35,
            rope_scaling=None,
        ),
    ),
}

DENSE = {
    "qwen3": case(
        flat(
            "qwen3",
            "Qwen3ForCausalLM",
            **ATTENTION,
            tie_word_embeddings=True,
            attention_bias=False,
            rope_theta=1000.0,
            rope_scaling=dict(
                rope_type="yarn",
                factor=4.0,
                original_max_position_embeddings=12,
                beta_fast=3.0,
                beta_slow=0.3,
                attention_factor=1.3,
                truncate=False,
            ),
        ),
        lengths=(25, 6),
    ),
    "qwen2": case(
        flat(
            "qwen2",
            "Qwen2ForCausalLM",
            **{k: v for k, v in ATTENTION.items() if k != "head_dim"} | dict(num_attention_heads=3, num_key_value_heads=1),
            rope_theta=1e5,
            use_sliding_window=True,
            sliding_window=9,
            max_window_layers=1,
            rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=16),
        ),
        lengths=(25, 6),
        dtype="float32",
    ),
    "mistral": case(
        flat(
            "mistral",
            "MistralForCausalLM",
            **ATTENTION | dict(num_attention_heads=3, num_key_value_heads=1, head_dim=14),
            rms_norm_eps=1e-5,
            rope_theta=1e4,
            sliding_window=7,
        ),
        lengths=(20, 6),
    ),
    "llama3": case(
        flat(
            "llama",
            "LlamaForCausalLM",
            **ATTENTION | dict(hidden_size=42, num_attention_heads=3, num_key_value_heads=1, head_dim=14, vocab_size=97),
            tie_word_embeddings=True,
            rms_norm_eps=1e-5,
            attention_bias=False,
            mlp_bias=False,
            rope_theta=500.0,
            rope_scaling=dict(
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        ),
        lengths=(34, 6),
        bf16_run=True,
    ),
    "llama_bias": case(
        flat(
            "llama",
            "LlamaForCausalLM",
            **ATTENTION | dict(hidden_size=42, num_attention_heads=3, num_key_value_heads=1, head_dim=18),
            attention_bias=True,
            mlp_bias=True,
            rope_theta=1e4,
            rope_scaling=dict(type="linear", factor=2.5),
        ),
    ),
}

SPARSE = {
    "qwen3_moe": case(
        flat(
            "qwen3_moe",
            "Qwen3MoeForCausalLM",
            **ATTENTION | QWEN_MOE | dict(num_hidden_layers=3),
            norm_topk_prob=True,
            decoder_sparse_step=1,
            mlp_only_layers=[1],
            attention_bias=False,
            rope_theta=1e5,
            rope_scaling=None,
        ),
    ),
    "qwen3_moe_step": case(
        flat(
            "qwen3_moe",
            "Qwen3MoeForCausalLM",
            **ATTENTION | QWEN_MOE,
            norm_topk_prob=False,
            decoder_sparse_step=2,
            mlp_only_layers=[],
            attention_bias=True,
            rope_theta=1e5,
        ),
    ),
    "olmoe": case(
        flat(
            "olmoe",
            "OlmoeForCausalLM",
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=6,
            intermediate_size=11,
            num_experts=7,
            num_experts_per_tok=3,
            norm_topk_prob=False,
            clip_qkv=None,
            attention_bias=False,
            rms_norm_eps=1e-5,
            rope_theta=1e4,
            rope_scaling=None,
        ),
    ),
    "olmoe_clip": case(
        flat(
            "olmoe",
            "OlmoeForCausalLM",
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            intermediate_size=9,
            num_experts=5,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            clip_qkv=0.75,
            attention_bias=False,
            rms_norm_eps=1e-5,
            rope_theta=1e4,
        ),
    ),
    "mixtral": case(
        flat(
            "mixtral",
            "MixtralForCausalLM",
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=1,
            intermediate_size=13,
            num_local_experts=5,
            num_experts_per_tok=2,
            rms_norm_eps=1e-5,
            rope_theta=1e6,
            sliding_window=None,
        ),
        bf16_run=True,
    ),
}

DEEPSEEK = {
    "deepseek_v2": case(
        flat(
            "deepseek_v2",
            "DeepseekV2ForCausalLM",
            **LATENT,
            q_lora_rank=None,
            n_routed_experts=6,
            n_shared_experts=2,
            topk_method="greedy",
            scoring_func="softmax",
            n_group=1,
            topk_group=1,
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
            attention_bias=False,
            rope_theta=1e4,
            rope_scaling=None,
        ),
    ),
    "deepseek_v2_groups": case(
        flat(
            "deepseek_v2",
            "DeepseekV2ForCausalLM",
            **LATENT,
            q_lora_rank=11,
            n_routed_experts=8,
            n_shared_experts=1,
            topk_method="group_limited_greedy",
            scoring_func="softmax",
            n_group=4,
            topk_group=2,
            norm_topk_prob=False,
            routed_scaling_factor=1.6,
            attention_bias=True,
            mlp_bias=True,
            rope_theta=1e3,
            rope_scaling=dict(
                type="yarn",
                factor=8,
                beta_fast=4,
                beta_slow=0.25,
                mscale=0.707,
                mscale_all_dim=1.0,
                original_max_position_embeddings=16,
            ),
        ),
        lengths=(25, 6),
    ),
    "deepseek_v3": case(
        flat(
            "deepseek_v3",
            "DeepseekV3ForCausalLM",
            **LATENT | dict(num_hidden_layers=3),
            q_lora_rank=11,
            n_routed_experts=9,
            n_shared_experts=1,
            topk_method="noaux_tc",
            scoring_func="sigmoid",
            n_group=3,
            topk_group=2,
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
            attention_bias=False,
            rope_theta=1e3,
            num_nextn_predict_layers=0,
            rope_scaling=dict(
                type="yarn",
                factor=40,
                beta_fast=32,
                beta_slow=1,
                mscale=1.0,
                mscale_all_dim=1.0,
                original_max_position_embeddings=16,
            ),
        ),
        lengths=(25, 6),
    ),
    "deepseek_v3_direct": case(
        flat(
            "deepseek_v3",
            "DeepseekV3ForCausalLM",
            **LATENT | dict(first_k_dense_replace=0),
            q_lora_rank=None,
            n_routed_experts=6,
            n_shared_experts=1,
            topk_method="noaux_tc",
            scoring_func="sigmoid",
            n_group=1,
            topk_group=1,
            norm_topk_prob=False,
            routed_scaling_factor=1.3,
            rope_interleave=False,
            attention_bias=False,
            rope_theta=1e4,
            num_nextn_predict_layers=0,
        ),
    ),
}

CASES = QWEN3_5 | DENSE | SPARSE | DEEPSEEK
