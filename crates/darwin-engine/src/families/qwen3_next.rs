//! Qwen3-Next: as Qwen3.5-MoE, with the projections of Gated DeltaNet grouped by key head.

use super::Family;
use crate::config::{
    AttentionForm, Config, LinearForm, QkNorm, Reader, Rope, RouterForm, SharedForm,
};

pub(super) const FAMILY: Family = Family { model_types: &["qwen3_next"], config };

fn config(read: &mut Reader<'_>) -> Config {
    let config = Config::plain(read)
        .with_linear_attention(read, LinearForm::ByKeyHead)
        .with_experts(read, "num_experts");
    read.needed(&["head_dim", "num_key_value_heads"]);
    let biased = read.flag("attention_bias", false);
    Config {
        attention: AttentionForm {
            gated: true,
            qk_norm: QkNorm::Head,
            qkv_bias: biased,
            o_bias: biased,
            clip_qkv: None,
        },
        rope: Rope::read(read, config.head_dim, 0.25, 1e4),
        centred_norms: true,
        moe_intermediate_size: read.size("moe_intermediate_size"),
        shared_expert_intermediate_size: read.size("shared_expert_intermediate_size"),
        router: RouterForm::softmax(read.flag("norm_topk_prob", true)),
        shared: SharedForm::Gated,
        ..config
    }
}
