//! Reports a layer's activations to taps and applies interventions.

use crate::{Batch, Error, Interventions, Record, Site, Tap};
use std::ops::Range;

/// Which sites a tap wants, asked once.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    first: usize,
    layers: Vec<[bool; Site::ALL.len()]>,
}

impl Wanted {
    /// What a tap wants of some layers.
    pub(crate) fn of(tap: &dyn Tap, layers: Range<usize>) -> Self {
        let first = layers.start;
        let row = |layer| Site::ALL.map(|site| tap.wants(site, layer));
        Self { first, layers: layers.map(row).collect() }
    }

    /// Whether any site is wanted.
    pub(crate) fn any(&self) -> bool {
        self.layers.as_flattened().contains(&true)
    }

    fn has(&self, site: Site, layer: usize) -> bool {
        layer
            .checked_sub(self.first)
            .and_then(|i| self.layers.get(i))
            .is_some_and(|row| Site::ALL.iter().zip(row).any(|(s, wanted)| *s == site && *wanted))
    }
}

/// Values that were seen, kept until the tap gets them in order.
#[derive(Debug)]
pub(crate) struct Seen {
    site: Site,
    layer: usize,
    values: Vec<f32>,
    width: usize,
    experts: Option<Vec<u32>>,
    first_token: usize,
}

impl Seen {
    /// Hands the values over.
    pub(crate) fn tell(&self, batch: &Batch, tap: &mut dyn Tap) {
        tap.record(&Record {
            site: self.site,
            layer: self.layer,
            values: &self.values,
            shape: [self.values.len() / self.width, self.width],
            experts: self.experts.as_deref(),
            expert: None,
            first_token: self.first_token,
            batch,
        });
    }
}

/// What a group of tokens of a batch shows and is made to do.
#[derive(Debug)]
pub(crate) struct Probe<'a> {
    interventions: Option<&'a Interventions>,
    wanted: Option<&'a Wanted>,
    first_token: usize,
    /// Tokens of the group.
    tokens: usize,
    seen: Vec<Seen>,
}

impl<'a> Probe<'a> {
    /// Shows nothing, changes nothing.
    pub(crate) fn none() -> Self {
        Self { interventions: None, wanted: None, first_token: 0, tokens: 0, seen: Vec::new() }
    }

    /// For so many tokens of a batch from `first_token` on.
    pub(crate) fn new(
        interventions: &'a Interventions,
        wanted: &'a Wanted,
        first_token: usize,
        tokens: usize,
    ) -> Self {
        let interventions = Some(interventions).filter(|i| !i.is_empty());
        let wanted = Some(wanted).filter(|w| w.any());
        Self { interventions, wanted, first_token, tokens, seen: Vec::new() }
    }

    /// What was seen, in the order of computation.
    pub(crate) fn into_seen(self) -> Vec<Seen> {
        self.seen
    }

    pub(crate) fn wants(&self, site: Site, layer: usize) -> bool {
        self.wanted.is_some_and(|w| w.has(site, layer))
    }

    /// Replaces (tokens, width) where asked to, and shows what the layer goes on with. The first
    /// row is the group's `row`; a site's rows come in order.
    pub(crate) fn at(
        &mut self,
        site: Site,
        layer: usize,
        row: usize,
        values: &mut [f32],
        width: usize,
    ) -> Result<(), Error> {
        if let Some(interventions) = self.interventions {
            interventions.apply(site, layer, (self.first_token + row) * width, values)?;
        }
        self.see(site, layer, values, width);
        Ok(())
    }

    /// Shows the next rows of (tokens, width).
    pub(crate) fn see(&mut self, site: Site, layer: usize, values: &[f32], width: usize) {
        if self.wants(site, layer) {
            self.entry(site, layer, width).values.extend_from_slice(values);
        }
    }

    /// Shows the next rows of (tokens, k) values of chosen experts.
    pub(crate) fn see_experts(
        &mut self,
        site: Site,
        layer: usize,
        values: &[f32],
        experts: &[u32],
        k: usize,
    ) {
        if self.wants(site, layer) {
            let seen = self.entry(site, layer, k);
            seen.values.extend_from_slice(values);
            seen.experts.get_or_insert_default().extend_from_slice(experts);
        }
    }

    /// What was seen at a site so far.
    fn entry(&mut self, site: Site, layer: usize, width: usize) -> &mut Seen {
        let found = self.seen.iter().rposition(|s| (s.site, s.layer) == (site, layer));
        let at = found.unwrap_or(self.seen.len());
        if found.is_none() {
            let values = Vec::with_capacity(self.tokens * width);
            let (experts, first_token) = (None, self.first_token);
            self.seen.push(Seen { site, layer, values, width, experts, first_token });
        }
        &mut self.seen[at]
    }

    /// Takes masked experts out of the choice.
    pub(crate) fn mask(&self, layer: usize, router_logits: &mut [f32], num_experts: usize) {
        let Some(interventions) = self.interventions else { return };
        for expert in interventions.masked(layer) {
            for row in router_logits.chunks_exact_mut(num_experts) {
                row[expert as usize] = f32::NEG_INFINITY;
            }
        }
    }
}
