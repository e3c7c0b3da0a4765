//! The items of a run: one set and one evaluator per split.

use crate::{Error, RunConfig};
use darwin_core::{Fingerprint, Split};
use darwin_engine::Text;
use darwin_eval::{Encoded, ExactMatch, ItemSet, Likelihood};
use std::collections::BTreeMap;

/// Items and evaluators of all splits.
pub(crate) struct Items {
    /// For profiles and comparison.
    pub(crate) calibration: Encoded,
    /// The proxy phase.
    pub(crate) proxy: Likelihood,
    /// The real phase.
    pub(crate) search: ExactMatch,
    /// The choice of each arm's child.
    pub(crate) selection: ExactMatch,
    /// Held-out test split, evaluated once.
    pub(crate) test: ExactMatch,
    /// Which items these are, by split.
    pub(crate) fingerprints: Vec<(&'static str, Fingerprint)>,
}

impl Items {
    /// Reads the five files, takes the configured number per domain, and checks that no item is
    /// in two splits.
    ///
    /// # Errors
    /// [`Error::Config`] naming an item in two splits; whatever reading and tokenising bring.
    pub(crate) fn open(config: &RunConfig, text: &Text) -> Result<Self, Error> {
        let read = |split: Split, n: usize| {
            let set = ItemSet::open(&config.items_of(split), split).map_err(Error::below)?;
            Ok::<_, Error>(set.take_per_domain(n))
        };
        let calibration = read(Split::Calibration, config.calibration.per_domain)?;
        let proxy = read(Split::Proxy, config.proxy.per_domain)?;
        let search = read(Split::Search, config.real.per_domain)?;
        let selection = read(Split::Selection, config.selection.per_domain)?;
        let test = read(Split::Test, config.test.per_domain)?;
        let all = [&calibration, &proxy, &search, &selection, &test];
        disjoint(config, &all)?;
        let named = |set: &ItemSet| (set.split().name(), set.fingerprint().clone());
        let fingerprints = all.map(named).to_vec();
        // In the search only the main format counts; the report shows both.
        let exact = |items: ItemSet, both: bool| {
            ExactMatch::new(items, text, config.max_new_tokens, both).map_err(Error::below)
        };
        Ok(Self {
            calibration: Encoded::new(&calibration, text).map_err(Error::below)?,
            proxy: Likelihood::new(proxy, text).map_err(Error::below)?,
            search: exact(search, false)?,
            selection: exact(selection, false)?,
            test: exact(test, true)?,
            fingerprints,
        })
    }
}

fn disjoint(config: &RunConfig, sets: &[&ItemSet]) -> Result<(), Error> {
    let mut seen: BTreeMap<&str, Split> = BTreeMap::new();
    for set in sets {
        for item in set.items() {
            if let Some(other) = seen.insert(&item.id, set.split()) {
                return Err(Error::Config {
                    path: config.items.clone(),
                    text: format!(
                        "item `{}` is in the splits {other} and {}",
                        item.id,
                        set.split()
                    ),
                    hint: "splits never mix: remove it from one of the files".to_owned(),
                });
            }
        }
    }
    Ok(())
}
