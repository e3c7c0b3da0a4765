//! Tiny models and items of random tokens.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part")]

use darwin_checkpoint::MemorySource;
use darwin_core::files::ModelRef;
use darwin_core::keyed::{Key, Rng};
use darwin_core::{Fingerprint, Split};
use darwin_engine::Model;
use darwin_eval::{Encoded, EncodedItem, Prompted};
use darwin_profile::{Loaded, Subject, Weights, model_ref};

/// A loaded tiny model.
pub(crate) struct Tiny {
    pub(crate) source: MemorySource,
    pub(crate) model: Model,
    pub(crate) weights: Weights,
    pub(crate) reference: ModelRef,
}

impl Tiny {
    pub(crate) fn new(name: &str, source: MemorySource) -> Self {
        let Loaded { model, weights } = Loaded::open(&source).unwrap();
        let reference = model_ref(name, &source, None, fingerprint(name));
        Self { source, model, weights, reference }
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { model: &self.model, source: &self.source, reference: &self.reference }
    }
}

/// A fingerprint for a model that has no files.
pub(crate) fn fingerprint(name: &str) -> Fingerprint {
    Fingerprint::of("test", [("name", name)])
}

/// Three items, one of each domain, for every number.
pub(crate) fn encoded(numbers: impl IntoIterator<Item = usize>) -> Encoded {
    encoded_of(numbers, 14)
}

/// As [`encoded`], with token ids of a smaller or larger vocabulary.
pub(crate) fn encoded_below(numbers: impl IntoIterator<Item = usize>, vocab: usize) -> Encoded {
    let spread = |id: &u32| (id * 131) % vocab as u32;
    let items = encoded(numbers).items().to_vec().into_iter().map(|mut item| {
        for prompted in item.direct.iter_mut() {
            prompted.prompt = prompted.prompt.iter().map(spread).collect();
            prompted.answer = prompted.answer.iter().map(spread).collect();
        }
        item.question = item.question.iter().map(spread).collect();
        item
    });
    Encoded::from_items(items.collect(), Split::Calibration, "test", vec![1])
}

/// As [`encoded`], with prompts of at least `tokens` tokens.
pub(crate) fn encoded_of(numbers: impl IntoIterator<Item = usize>, tokens: usize) -> Encoded {
    let items = numbers.into_iter().flat_map(|n| {
        ["math", "code", "language"].map(|domain| item(&format!("{domain}-{n}"), domain, tokens))
    });
    Encoded::from_items(items.collect(), Split::Calibration, "test", vec![258])
}

fn item(id: &str, domain: &str, tokens: usize) -> EncodedItem {
    let mut rng = Rng::new(Key::new(7, &[id]), 0);
    let mut ids = |n: usize| (0..n).map(|_| rng.below(256) as u32).collect::<Vec<_>>();
    let question = ids(6);
    let prompt = [ids(tokens), question.clone()].concat();
    let answer = [ids(4), vec![258]].concat();
    EncodedItem {
        id: id.to_owned(),
        domain: domain.parse().unwrap(),
        target: String::new(),
        question,
        direct: Some(Prompted { prompt, answer }),
        think: None,
    }
}
