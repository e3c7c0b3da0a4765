//! Qwen3.5 and Qwen3.6, dense: Gated DeltaNet and gated attention, one feed-forward block.

use super::Family;
use crate::config::{AttentionForm, Config, LinearForm, QkNorm, Reader, Rope};

pub(super) const FAMILY: Family = Family { model_types: &["qwen3_5", "qwen3_5_text"], config };

fn config(read: &mut Reader<'_>) -> Config {
    Config { intermediate_size: read.size("intermediate_size"), ..mixers(read) }
}

/// What the dense and the sparse members have in common.
pub(super) fn mixers(read: &mut Reader<'_>) -> Config {
    let config = Config::plain(read).with_linear_attention(read, LinearForm::Split);
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
        ..config
    }
}
