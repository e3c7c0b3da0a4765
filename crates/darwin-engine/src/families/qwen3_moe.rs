//! Qwen3-MoE: attention with a norm on each head, routed experts.

use super::{Family, qwen3};
use crate::config::{Config, Reader, RouterForm};

pub(super) const FAMILY: Family = Family { model_types: &["qwen3_moe"], config };

fn config(read: &mut Reader<'_>) -> Config {
    let config = qwen3::mixers(read).with_experts(read, "num_experts");
    Config {
        moe_intermediate_size: read.size("moe_intermediate_size"),
        router: RouterForm::softmax(read.flag("norm_topk_prob", false)),
        ..config
    }
}
