//! Llama and what is shaped like it.

use super::Family;
use crate::config::{AttentionForm, Config, Reader, Rope};

pub(super) const FAMILY: Family = Family { model_types: &["llama"], config };

fn config(read: &mut Reader<'_>) -> Config {
    let config = Config::plain(read);
    let biased = read.flag("attention_bias", false);
    Config {
        attention: AttentionForm { qkv_bias: biased, o_bias: biased, ..AttentionForm::default() },
        rope: Rope::read(read, config.head_dim, 1.0, 1e4),
        intermediate_size: read.size("intermediate_size"),
        mlp_bias: read.flag("mlp_bias", false),
        ..config
    }
}
