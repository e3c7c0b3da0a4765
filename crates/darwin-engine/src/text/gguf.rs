//! Tokenizer and chat template that lie in a GGUF file.

use super::template::Templates;
use super::{Text, as_id, damaged, max_bytes, tokenizer};
use crate::Error;
use darwin_checkpoint::{Gguf, TensorSource};
use darwin_core::hash::sha256_hex;
use serde_json::{Map, Value};
use std::path::Path;

/// The text of a GGUF file.
pub(super) fn open(file: &Path) -> Result<Text, Error> {
    let model = Gguf::open(file)?;
    let bytes = model.tokenizer_json()?.to_string().into_bytes();
    let tokenizer =
        tokenizer::load(&bytes).map_err(|e| damaged(file, format!("holds no tokenizer: {e}")))?;
    let special = |key: &str| {
        let token = model.token_text(&format!("{key}_id"));
        (!token.is_empty()).then(|| (key.to_owned(), token.into()))
    };
    let specials = ["bos_token", "eos_token", "pad_token"].into_iter().filter_map(special);
    let specials: Map<String, Value> = specials.collect();
    let templates = model
        .chat_template()?
        .map(|source| {
            let sources = vec![("default".to_owned(), source.to_owned())];
            Templates::parse(file.to_owned(), sources, specials)
        })
        .transpose()?;
    let stop_ids = match &model.config()["eos_token_id"] {
        Value::Array(ids) => ids.iter().filter_map(as_id).collect(),
        id => as_id(id).into_iter().collect(),
    };
    Ok(Text {
        tokenizer_sha256: sha256_hex(&bytes),
        tokenizer_path: file.to_owned(),
        tokenizer,
        templates,
        stop_ids,
        max_bytes: max_bytes(model.config()),
    })
}
