//! Mistral: as Llama, attending to a window where the config has one.

use super::Family;
use crate::config::{Config, Reader, Rope};

pub(super) const FAMILY: Family = Family { model_types: &["mistral"], config };

fn config(read: &mut Reader<'_>) -> Config {
    read.needed(&["num_key_value_heads"]);
    if !read.has("sliding_window") {
        read.wrong("sliding_window", "missing", "a whole number of at least 1, or null");
    }
    let config = Config::plain(read).with_sliding_window(read, 0);
    Config {
        rope: Rope::read(read, config.head_dim, 1.0, 1e4),
        intermediate_size: read.size("intermediate_size"),
        ..config
    }
}
