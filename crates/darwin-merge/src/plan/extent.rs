//! Which of the structural parent's tensors the child has: no head of its own where it is tied,
//! multi-token prediction as the config says, no vision in a text-only child.

use super::check::Problems;
use super::depth::text;
use crate::sources::Source;
use darwin_checkpoint::{Manifest, Problem, Role, TensorInfo};
use serde_json::{Map, Value, json};

/// The keys by which configs count layers of multi-token prediction.
const MTP_KEYS: [&str; 2] = ["mtp_num_hidden_layers", "num_nextn_predict_layers"];

/// What the child has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    tied: bool,
    text_only: bool,
    mtp: Mtp,
}

/// Multi-token prediction in the child.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mtp {
    /// So many layers.
    Layers(usize),
    /// The structural parent's config counts none, whatever its files hold.
    NotConfigured,
    /// Its layers are numbered behind the decoder's, whose number changes.
    OtherDepth,
}

impl Extent {
    pub(super) fn new(structure: &Source, text_only: bool, num_layers: usize) -> Self {
        let manifest = structure.tensors.manifest();
        let text = text(structure.tensors.config());
        let counted = MTP_KEYS.iter().find_map(|key| text.get(key)?.as_u64());
        let behind = manifest.tensors().iter().any(|t| t.role == Role::Mtp && is_behind(t));
        let mtp = match counted {
            Some(0) => Mtp::NotConfigured,
            _ if behind && num_layers != manifest.num_layers() => Mtp::OtherDepth,
            _ => Mtp::Layers(mtp_layers(manifest)),
        };
        Self { tied: is_tied(structure), text_only, mtp }
    }

    /// Why the child has no such tensor; `None` where it has.
    pub(super) fn leaves_out(&self, info: &TensorInfo) -> Option<&'static str> {
        match info.role {
            Role::Head if self.tied => Some("the head is tied to the embedding"),
            Role::Vision if self.text_only => Some("only the language model is written"),
            Role::Mtp => match self.mtp {
                Mtp::Layers(_) => None,
                Mtp::NotConfigured => {
                    Some("config.json counts no layers of multi-token prediction")
                }
                Mtp::OtherDepth => Some("the child's layers are stacked anew"),
            },
            _ => None,
        }
    }

    /// Makes the text model's config count the layers of multi-token prediction that are there:
    /// loaders stop where the two differ. Says so where the parent's was wrong.
    pub(super) fn count_mtp(&self, config: &mut Map<String, Value>) -> Option<String> {
        let has = match self.mtp {
            Mtp::Layers(layers) => layers,
            Mtp::NotConfigured | Mtp::OtherDepth => 0,
        };
        let stated = MTP_KEYS.iter().find(|key| config.contains_key(**key));
        let key = stated.or((has > 0).then_some(&MTP_KEYS[0]))?;
        let found = config.insert((*key).to_owned(), json!(has));
        let found = found.and_then(|value| value.as_u64());
        (found != Some(has as u64)).then(|| {
            let said = found.map_or("nothing".to_owned(), |n| n.to_string());
            format!(
                "`{key}` is {has} in the child's config.json, as its tensors are; it was {said}"
            )
        })
    }

    /// A head of one's own beside a tied one would be lost.
    pub(super) fn check_heads(
        &self,
        sources: &[&Source],
        structure: &Source,
        problems: &mut Problems,
    ) {
        for source in sources.iter().filter(|_| self.tied) {
            let has = source.tensors.manifest().find("lm_head.weight").is_some();
            if has && !is_tied(source) {
                problems.push(Problem::new(
                    format!(
                        "`{}` has a head of its own (`lm_head.weight`), `{}` ties it to the embedding",
                        source.model, structure.model
                    ),
                    format!("write `darwin: {{structure: {}}}`: the other's embedding stands in for \
                             its head then", source.model),
                ));
            }
        }
    }
}

/// A layer of multi-token prediction that is numbered behind the decoder's.
fn is_behind(info: &TensorInfo) -> bool {
    info.name.starts_with("layers.")
}

/// How many layers of multi-token prediction there are, by their tensors.
fn mtp_layers(manifest: &Manifest) -> usize {
    let mtp = manifest.tensors().iter().filter(|t| t.role == Role::Mtp);
    let mut found: Vec<&str> = mtp
        .filter_map(|t| {
            let rest = t.name.strip_prefix("mtp.").unwrap_or(&t.name);
            rest.strip_prefix("layers.")?.split('.').next()
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found.len()
}

/// Whether a model's output head is its embedding.
pub(super) fn is_tied(source: &Source) -> bool {
    let config = source.tensors.config();
    let of = |config: &Value| config.get("tie_word_embeddings").and_then(Value::as_bool);
    let stated = of(config).or_else(|| of(text(config)));
    stated.unwrap_or_else(|| source.tensors.manifest().find("lm_head.weight").is_none())
}
