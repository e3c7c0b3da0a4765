//! Items dealt out in windows: new ones every time, until all were used.

use crate::job::Window;
use darwin_core::{Domain, Split};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One replicate's items of a split. A clone deals the same windows again.
#[derive(Clone, Debug)]
pub(crate) struct Deck {
    split: Split,
    domains: BTreeMap<Domain, Cards>,
    /// Of every item of the run's set, by position.
    tokens: Arc<[u64]>,
}

#[derive(Clone, Debug, Default)]
struct Cards {
    /// Positions in the run's set.
    items: Vec<u32>,
    next: usize,
}

impl Deck {
    /// Every `replicates`-th item of each domain that is wanted, from the `replicate`-th on: the
    /// subsets of replicates are disjoint. An item is a domain and its tokens.
    pub(crate) fn new(
        split: Split,
        items: &[(Domain, u64)],
        wanted: impl Fn(&Domain) -> bool,
        (replicate, replicates): (usize, usize),
    ) -> Self {
        let mut domains: BTreeMap<Domain, Cards> = BTreeMap::new();
        let mut seen: BTreeMap<&Domain, usize> = BTreeMap::new();
        for (position, (domain, _)) in items.iter().enumerate() {
            let count = seen.entry(domain).or_insert(0);
            if wanted(domain) && *count % replicates == replicate {
                let cards = domains.entry(domain.clone()).or_default();
                cards.items.push(position as u32);
            }
            *count += 1;
        }
        Self { split, domains, tokens: items.iter().map(|(_, tokens)| *tokens).collect() }
    }

    /// The next items of each domain, as many as asked for and at most all of them.
    pub(crate) fn deal(&mut self, count: impl Fn(&Domain) -> usize) -> Window {
        let mut indices = Vec::new();
        for (domain, cards) in &mut self.domains {
            let n = count(domain).min(cards.items.len());
            indices.extend((0..n).map(|i| cards.items[(cards.next + i) % cards.items.len()]));
            cards.next = (cards.next + n) % cards.items.len().max(1);
        }
        indices.sort_unstable();
        Window { split: self.split, indices }
    }

    /// Forward tokens of a pass over a window.
    pub(crate) fn tokens(&self, window: &Window) -> u64 {
        self.sum(&window.indices)
    }

    fn sum(&self, positions: &[u32]) -> u64 {
        positions.iter().map(|position| self.tokens[*position as usize]).sum()
    }

    /// Mean forward tokens of a pass over so many items of each domain.
    pub(crate) fn mean_tokens(&self, count: impl Fn(&Domain) -> usize) -> u64 {
        let of = |(domain, cards): (&Domain, &Cards)| {
            let n = count(domain).min(cards.items.len());
            self.sum(&cards.items) as f64 * n as f64 / cards.items.len().max(1) as f64
        };
        self.domains.iter().map(of).sum::<f64>().round() as u64
    }

    /// Items of each domain.
    #[cfg(test)]
    fn sizes(&self) -> BTreeMap<Domain, usize> {
        self.domains.iter().map(|(domain, cards)| (domain.clone(), cards.items.len())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deck(replicate: usize) -> Deck {
        let domain = |name: &str| name.parse::<Domain>().expect("a domain");
        let items: Vec<(Domain, u64)> =
            (0..30).map(|i| (domain(["math", "code", "logic"][i % 3]), 10 + i as u64)).collect();
        Deck::new(Split::Proxy, &items, |d| d.as_str() != "logic", (replicate, 2))
    }

    #[test]
    fn windows_are_new_until_all_were_dealt() {
        let mut deck = deck(0);
        assert_eq!(deck.sizes().values().copied().collect::<Vec<_>>(), [5, 5]);
        let (a, b) = (deck.deal(|_| 2), deck.deal(|_| 2));
        assert_eq!((a.indices.len(), b.indices.len()), (4, 4));
        assert!(a.indices.iter().all(|i| !b.indices.contains(i)));
        assert_eq!(deck.deal(|_| 99).indices.len(), 10);
        assert_eq!(deck.tokens(&a), a.indices.iter().map(|i| 10 + u64::from(*i)).sum::<u64>());
    }

    #[test]
    fn replicates_share_no_item() {
        let [a, b] = [0, 1].map(|replicate| deck(replicate).deal(|_| 99).indices);
        assert!(a.iter().all(|i| !b.contains(i)));
        assert_eq!(a.len() + b.len(), 20);
    }
}
