//! Qwen3, dense: attention with a norm on each head.

use super::Family;
use super::qwen2::with_window;
use crate::config::{AttentionForm, Config, QkNorm, Reader, Rope};

pub(super) const FAMILY: Family = Family { model_types: &["qwen3"], config };

fn config(read: &mut Reader<'_>) -> Config {
    Config { intermediate_size: read.size("intermediate_size"), ..mixers(read) }
}

/// What the dense and the sparse members have in common.
pub(super) fn mixers(read: &mut Reader<'_>) -> Config {
    let config = with_window(Config::plain(read), read);
    read.needed(&["head_dim", "num_key_value_heads"]);
    let biased = read.flag("attention_bias", false);
    Config {
        attention: AttentionForm {
            gated: false,
            qk_norm: QkNorm::Head,
            qkv_bias: biased,
            o_bias: biased,
            clip_qkv: None,
        },
        rope: Rope::read(read, config.head_dim, 1.0, 1e4),
        ..config
    }
}
