//! Loading a `tokenizer.json` from a stranger.

use super::parts;
use darwin_core::panics::caught;
use tokenizers::{ModelWrapper, Tokenizer};

/// The tokenizer of a file's bytes, without padding, truncation and the dropout of merges, which
/// would encode a text differently each time. What would take memory or time without bounds is
/// refused before the library sees it; panics of the library become errors.
pub(super) fn load(bytes: &[u8]) -> Result<Tokenizer, String> {
    parts::check(bytes)?;
    caught(|| {
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|e| e.to_string())?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
        if let ModelWrapper::BPE(model) = tokenizer.get_model()
            && model.dropout.is_some()
        {
            let mut model = model.clone();
            model.dropout = None;
            tokenizer.with_model(model);
        }
        // parts that can never work fail here, where the file is named, and not at the first text
        for text in ["", "a b"] {
            let encoding = tokenizer.encode_fast(text, true).map_err(|e| e.to_string())?;
            tokenizer.decode(encoding.get_ids(), false).map_err(|e| e.to_string())?;
        }
        Ok(tokenizer)
    })?
}
