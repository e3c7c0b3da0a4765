//! Qwen3.5-MoE and Qwen3.6-MoE: Gated DeltaNet and gated attention, routed experts beside a gated
//! shared one (transformers' `models/qwen3_5_moe`).

use super::{Family, qwen3_5};
use crate::config::{Config, Reader, RouterForm, SharedForm};

pub(super) const FAMILY: Family =
    Family { model_types: &["qwen3_5_moe", "qwen3_5_moe_text"], config };

fn config(read: &mut Reader<'_>) -> Config {
    let config = qwen3_5::mixers(read).with_experts(read, "num_experts");
    Config {
        moe_intermediate_size: read.size("moe_intermediate_size"),
        shared_expert_intermediate_size: read.size("shared_expert_intermediate_size"),
        router: RouterForm::softmax(true),
        shared: SharedForm::Gated,
        ..config
    }
}
