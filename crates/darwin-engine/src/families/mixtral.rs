//! Mixtral: attention as in Llama, routed experts whose gates sum to 1.

use super::Family;
use crate::config::{Config, Reader, Rope, RouterForm};

pub(super) const FAMILY: Family = Family { model_types: &["mixtral"], config };

fn config(read: &mut Reader<'_>) -> Config {
    let config = Config::plain(read).with_sliding_window(read, 0);
    let config = config.with_experts(read, "num_local_experts");
    read.needed(&["num_key_value_heads"]);
    Config {
        rms_norm_eps: read.number("rms_norm_eps", Some(1e-5)),
        rope: Rope::read(read, config.head_dim, 1.0, 1e6),
        // the width of an expert
        moe_intermediate_size: read.size("intermediate_size"),
        router: RouterForm::softmax(true),
        ..config
    }
}
