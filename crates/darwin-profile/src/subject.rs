//! A model under examination: its weights as the engine runs them and as they lie in the source.

use crate::Error;
use darwin_checkpoint::TensorSource;
use darwin_core::Fingerprint;
use darwin_core::files::ModelRef;
use darwin_engine::{Config, Model, Text};

/// A model, its source and its name in files.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The loaded model.
    pub model: &'a Model,
    /// Where its weights come from.
    pub source: &'a dyn TensorSource,
    /// How files name it.
    pub reference: &'a ModelRef,
}

/// How files name a model.
#[must_use]
pub fn model_ref(
    name: &str,
    source: &dyn TensorSource,
    text: Option<&Text>,
    fingerprint: Fingerprint,
) -> ModelRef {
    ModelRef {
        name: name.to_owned(),
        architecture: source.config()["architectures"][0].as_str().unwrap_or_default().to_owned(),
        fingerprint,
        tokenizer_sha256: text.map(|t| t.tokenizer_sha256().to_owned()).unwrap_or_default(),
        template_sha256: text
            .and_then(Text::template_sha256)
            .map(str::to_owned)
            .unwrap_or_default(),
    }
}

/// Stops where two models differ in a number that makes layers or experts incomparable.
pub(crate) fn same_shape(
    (x, first): (&Config, &ModelRef),
    (y, second): (&Config, &ModelRef),
) -> Result<(), Error> {
    let kinds = |c: &Config| c.layer_types.iter().map(|k| k.name()).collect::<Vec<_>>().join(" ");
    let pairs = [
        ("num_hidden_layers", x.num_hidden_layers.to_string(), y.num_hidden_layers.to_string()),
        ("hidden_size", x.hidden_size.to_string(), y.hidden_size.to_string()),
        ("num_experts", x.num_experts.to_string(), y.num_experts.to_string()),
        (
            "num_experts_per_tok",
            x.num_experts_per_tok.to_string(),
            y.num_experts_per_tok.to_string(),
        ),
        ("vocab_size", x.vocab_size.to_string(), y.vocab_size.to_string()),
        ("layer_types", kinds(x), kinds(y)),
    ];
    for (what, a, b) in pairs {
        if a != b {
            let (first, second) = (first.name.clone(), second.name.clone());
            return Err(Error::Mismatch { first, second, what, a, b });
        }
    }
    Ok(())
}
