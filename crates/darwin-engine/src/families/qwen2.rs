//! Qwen2, dense: attention with biases on queries, keys and values.

use super::Family;
use crate::config::{AttentionForm, Config, Reader, Rope};

pub(super) const FAMILY: Family = Family { model_types: &["qwen2"], config };

fn config(read: &mut Reader<'_>) -> Config {
    read.needed(&["num_key_value_heads"]);
    let config = with_window(Config::plain(read), read);
    Config {
        attention: AttentionForm { qkv_bias: true, ..AttentionForm::default() },
        rope: Rope::read(read, config.head_dim, 1.0, 1e4),
        intermediate_size: read.size("intermediate_size"),
        ..config
    }
}

/// A sliding window from `max_window_layers` on, where `use_sliding_window` says so.
pub(super) fn with_window(config: Config, read: &mut Reader<'_>) -> Config {
    if !read.flag("use_sliding_window", false) {
        return config;
    }
    let from = read.text_u64("max_window_layers").unwrap_or(28) as usize;
    config.with_sliding_window(read, from)
}
