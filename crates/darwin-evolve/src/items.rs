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

    /// The set that a split's windows are of.
    fn set(&self, split: Split) -> &ItemSet {
        match split {
            Split::Proxy => self.proxy.item_set(),
            Split::Search => self.search.item_set(),
            _ => self.selection.item_set(),
        }
    }

    /// An item's domain.
    pub(crate) fn domain(&self, split: Split, position: u32) -> &Domain {
        &self.set(split).items()[position as usize].domain
    }

    /// Items per domain of a window.
    pub(crate) fn domains(&self, window: &Window) -> BTreeMap<Domain, usize> {
        let mut counts = BTreeMap::new();
        for position in &window.indices {
            *counts.entry(self.domain(window.split, *position).clone()).or_insert(0) += 1;
        }
        counts
    }

    /// The identity of a window's items.
    pub(crate) fn fingerprint(&self, window: &Window) -> String {
        self.set(window.split).select(&window.indices).fingerprint().to_string()
    }

    /// Likelihoods on a window of the proxy.
    pub(crate) fn likelihood(&self, window: &Window) -> Likelihood {
        self.proxy.select(&window.indices)
    }

    /// The evaluator of a window's split, over its items.
    pub(crate) fn evaluator(&self, window: &Window) -> Box<dyn Evaluator> {
        match window.split {
            Split::Proxy => Box::new(self.likelihood(window)),
            Split::Search => Box::new(self.search.select(&window.indices)),
            _ => Box::new(self.selection.select(&window.indices)),
        }
    }

    /// A loaded model's results on a window.
    pub(crate) fn score_model(
        &self,
        window: &Window,
        model: &Model,
        cancel: &Cancel,
    ) -> Result<Evaluation, Error> {
        match window.split {
            Split::Proxy => self.likelihood(window).evaluate_model(model, cancel),
            Split::Search => self.search.select(&window.indices).evaluate_model(model, cancel),
            _ => self.selection.select(&window.indices).evaluate_model(model, cancel),
        }
        .map_err(Error::below)
    }

    /// Forward tokens of a pass over a window's prompts and reference answers.
    pub(crate) fn tokens(&self, window: &Window) -> u64 {
        let encoded = match window.split {
            Split::Proxy => self.proxy.encoded(),
            Split::Search => self.search.encoded(),
            _ => self.selection.encoded(),
        };
        let of = |i: &u32| encoded.items()[*i as usize].main().tokens().saturating_sub(1) as u64;
        window.indices.iter().map(of).sum()
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
