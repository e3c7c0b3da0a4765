//! Shares that differ within one tensor: one for each routed expert, or for each row of a router.

use std::ops::Range;
use std::sync::Arc;

/// The shares of the mother in the runs that a tensor's elements are made of, equally long.
#[derive(Clone, Debug)]
pub(crate) struct Each {
    /// One for each run.
    shares: Arc<[f64]>,
    /// Elements of a run.
    run: usize,
    /// Factor of the task vectors' weights.
    scale: f64,
    /// Which input of the operation a run is a copy of where its share is 0, and where it is 1.
    ends: [Option<usize>; 2],
    /// Whether each task vector is the mother's.
    mothers: Vec<bool>,
}

impl Each {
    pub(super) fn new(
        shares: Vec<f64>,
        run: usize,
        scale: f64,
        ends: [Option<usize>; 2],
        mothers: Vec<bool>,
    ) -> Self {
        Self { shares: shares.into(), run: run.max(1), scale, ends, mothers }
    }

    pub(crate) fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// The runs within so many elements from `first` on: which run, and where in them.
    pub(crate) fn runs(
        &self,
        first: usize,
        elements: usize,
    ) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let (run, mut at) = (self.run, first);
        let last = first + elements;
        std::iter::from_fn(move || {
            let which = at / run;
            let end = last.min((which + 1) * run);
            let part = at - first..end - first;
            at = end.max(at);
            (!part.is_empty()).then_some((which, part))
        })
    }

    /// The share of a run.
    pub(crate) fn share(&self, run: usize) -> f64 {
        self.shares[run]
    }

    /// The input that a run is a copy of.
    pub(crate) fn copied(&self, run: usize) -> Option<usize> {
        match self.shares[run] {
            0.0 => self.ends[0],
            1.0 => self.ends[1],
            _ => None,
        }
    }

    /// The weight of a task vector in a run.
    pub(crate) fn weight(&self, run: usize, vector: usize) -> f64 {
        let t = self.shares[run];
        if self.mothers[vector] { self.scale * t } else { self.scale * (1.0 - t) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_the_elements() {
        let each = Each::new(vec![0.0, 0.5, 1.0], 4, 2.0, [Some(0), None], vec![false, true]);
        let runs = |first, elements| each.runs(first, elements).collect::<Vec<_>>();
        assert_eq!(runs(0, 12), [(0, 0..4), (1, 4..8), (2, 8..12)]);
        assert_eq!(runs(3, 6), [(0, 0..1), (1, 1..5), (2, 5..6)]);
        assert_eq!(runs(5, 2), [(1, 0..2)]);
        assert_eq!(runs(5, 0), []);
        assert_eq!((each.copied(0), each.copied(1), each.copied(2)), (Some(0), None, None));
        assert_eq!((each.weight(0, 0), each.weight(0, 1), each.weight(1, 1)), (2.0, 0.0, 1.0));
    }
}
