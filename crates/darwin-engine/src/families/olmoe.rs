//! OLMoE: norms over all heads of queries and keys together, routed experts.

use super::Family;
use crate::config::{AttentionForm, Config, QkNorm, Reader, Rope, RouterForm};

pub(super) const FAMILY: Family = Family { model_types: &["olmoe"], config };

fn config(read: &mut Reader<'_>) -> Config {
    let config = Config::plain(read).with_experts(read, "num_experts");
    let biased = read.flag("attention_bias", false);
    let clip_qkv = read.get("clip_qkv").is_some().then(|| read.number("clip_qkv", None) as f32);
    Config {
        rms_norm_eps: read.number("rms_norm_eps", Some(1e-5)),
        attention: AttentionForm {
            gated: false,
            qk_norm: QkNorm::Whole,
            qkv_bias: biased,
            o_bias: biased,
            clip_qkv,
        },
        rope: Rope::read(read, config.head_dim, 1.0, 1e4),
        // the width of an expert
        moe_intermediate_size: read.size("intermediate_size"),
        router: RouterForm::softmax(read.flag("norm_topk_prob", false)),
        ..config
    }
}
