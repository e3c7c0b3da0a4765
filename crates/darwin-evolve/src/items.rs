//! The items of a run: one set per split, and evaluators over parts of them.

use crate::job::Window;
use crate::{Error, RunConfig};
use darwin_core::{Cancel, Domain, Fingerprint, Split};
use darwin_engine::{Model, Text};
use darwin_eval::{
    Encoded, EncodedItem, Evaluation, Evaluator, ExactMatch, ItemSet, Likelihood, Scorer,
};
use std::collections::BTreeMap;

/// Items and evaluators of all splits.
pub(crate) struct Items {
    /// For profiles and comparison.
    pub(crate) calibration: Encoded,
    /// The proxy phase: all items of the domains that are wanted.
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
    /// Reads the five files, takes what is configured, and checks that no item is in two splits.
    ///
    /// # Errors
    /// [`Error::Config`] naming an item in two splits; whatever reading and tokenising bring.
    pub(crate) fn open(config: &RunConfig, text: &Text) -> Result<Self, Error> {
        let replicates = config.seeds.replicates;
        let read = |split: Split, n: &dyn Fn(&Domain) -> usize| {
            let set = ItemSet::open(&config.items_of(split), split).map_err(Error::below)?;
            Ok::<_, Error>(set.take(n))
        };
        let wanted = |n: usize| {
            move |d: &Domain| if config.wants(d) { n.saturating_mul(replicates) } else { 0 }
        };
        let calibration = read(Split::Calibration, &|_| config.calibration.per_domain)?;
        let proxy = read(Split::Proxy, &wanted(usize::MAX))?;
        let search = read(Split::Search, &wanted(config.real.per_domain))?;
        let selection = read(Split::Selection, &wanted(config.selection.per_domain))?;
        let others = config.test.others.unwrap_or(config.test.per_domain);
        let of_test = |d: &Domain| if config.wants(d) { config.test.per_domain } else { others };
        let test = read(Split::Test, &of_test)?;
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

    /// A window's items, with what scores them.
    pub(crate) fn select(&self, window: &Window) -> Selected {
        match window.split {
            Split::Proxy => Selected::Likelihood(self.proxy.select(&window.indices)),
            Split::Search => Selected::ExactMatch(Box::new(self.search.select(&window.indices))),
            _ => Selected::ExactMatch(Box::new(self.selection.select(&window.indices))),
        }
    }

    /// Domain and forward tokens of every item of `proxy`, `search` and `selection`.
    pub(crate) fn costs(&self) -> [Vec<(Domain, u64)>; 3] {
        [self.proxy.encoded(), self.search.encoded(), self.selection.encoded()].map(|encoded| {
            let of = |item: &EncodedItem| {
                (item.domain.clone(), item.main().tokens().saturating_sub(1) as u64)
            };
            encoded.items().iter().map(of).collect()
        })
    }
}

/// Some items of a split, and the split's evaluator over them.
pub(crate) enum Selected {
    /// Of the proxy.
    Likelihood(Likelihood),
    /// Of the others.
    ExactMatch(Box<ExactMatch>),
}

impl Selected {
    pub(crate) fn evaluator(&self) -> &dyn Evaluator {
        match self {
            Self::Likelihood(likelihood) => likelihood,
            Self::ExactMatch(exact) => exact.as_ref(),
        }
    }

    /// The items.
    pub(crate) fn set(&self) -> &ItemSet {
        self.evaluator().items()
    }

    /// Forward tokens of a pass over their prompts and reference answers.
    pub(crate) fn tokens(&self) -> u64 {
        match self {
            Self::Likelihood(likelihood) => likelihood.encoded().tokens(),
            Self::ExactMatch(exact) => exact.encoded().tokens(),
        }
    }

    /// A loaded model's results.
    pub(crate) fn score(&self, model: &Model, cancel: &Cancel) -> Result<Evaluation, Error> {
        match self {
            Self::Likelihood(likelihood) => likelihood.evaluate_model(model, cancel),
            Self::ExactMatch(exact) => exact.evaluate_model(model, cancel),
        }
        .map_err(Error::below)
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
