//! From per-sample counters to `profile.json`.

use crate::estimate::mean;
use crate::profile::counters::{IMPORTANCE, Samples, Setting, Sum, has_experts};
use crate::profile::loads::expert_loads;
use crate::profile::probes::distances;
use crate::profile::routing::{mean_of, routing};
use crate::sample::samples_fingerprint;
use darwin_core::files::{
    CalibrationRef, Estimate, LayerProfile, Origin, ProbeDistance, Profile, SCHEMA,
};
use darwin_core::{Domain, Fingerprint};
use std::collections::BTreeMap;

impl Samples {
    /// The profile that follows from the counters, and from nothing else.
    #[must_use]
    pub fn profile(&self) -> Profile {
        let probes = distances(self);
        let golden_layers = golden(&probes);
        let layers = probes.into_iter().enumerate().map(|(l, p)| self.layer(l, p)).collect();
        Profile {
            schema: SCHEMA,
            model: self.setting.model.clone(),
            origin: self.origin(),
            calibration: self.calibration(),
            engine: self.setting.engine.clone(),
            dtype: self.setting.dtype.clone(),
            num_experts: self.setting.num_experts,
            num_experts_per_tok: self.setting.num_experts_per_tok,
            layers,
            nll: self.nll(),
            golden_layers,
            forward_tokens: self.forward_tokens,
        }
    }

    /// What the counters were made from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        let Setting { model, split, arithmetic, options, .. } = &self.setting;
        Origin {
            arithmetic: *arithmetic,
            ..Origin::now(
                [("model", &model.fingerprint)],
                [(split.name(), &self.items())],
                options.clone(),
            )
        }
    }

    fn items(&self) -> Fingerprint {
        samples_fingerprint(self.setting.split, self.rows.iter().map(|r| r.id.as_str()))
    }

    /// What was measured on.
    pub(crate) fn calibration(&self) -> CalibrationRef {
        let mut domains = BTreeMap::new();
        for row in &self.rows {
            *domains.entry(row.domain.clone()).or_insert(0) += 1;
        }
        CalibrationRef {
            items_sha256: self.items().into(),
            split: self.setting.split,
            samples: self.rows.len(),
            tokens: self.rows.iter().map(|r| u64::from(r.tokens)).sum(),
            domains,
        }
    }

    /// Mean NLL per domain.
    pub(crate) fn nll(&self) -> BTreeMap<Domain, Estimate> {
        let mut groups: BTreeMap<Domain, Vec<f64>> = BTreeMap::new();
        for row in &self.rows {
            groups.entry(row.domain.clone()).or_default().push(row.nll);
        }
        groups.into_iter().map(|(domain, values)| (domain, mean(&values))).collect()
    }

    fn layer(&self, layer: usize, probes: BTreeMap<String, ProbeDistance>) -> LayerProfile {
        let kind = self.setting.layer_kinds[layer].clone();
        let experts = has_experts(&self.rows, layer).then(|| expert_loads(self, layer));
        let routing = experts.as_ref().map(|loads| routing(self, layer, loads));
        let adds = |sum| self.rows.iter().any(|row| row.layers[layer].sum(sum) > 0.0);
        let importance = IMPORTANCE
            .iter()
            .filter(|(_, sum)| adds(*sum))
            .map(|(part, sum)| (*part, mean_of(self, layer, *sum)))
            .collect();
        LayerProfile {
            layer,
            head_importance: if kind != "linear_attention" { self.heads(layer) } else { vec![] },
            kind,
            experts,
            routing,
            importance,
            block_influence: mean_of(self, layer, Sum::Influence),
            probes,
            static_stats: self.setting.statics[layer],
        }
    }

    /// Share of the mixer's output per head: the heads' norms over their sum.
    fn heads(&self, layer: usize) -> Vec<f64> {
        let mut heads = vec![0.0; self.setting.num_heads];
        for row in &self.rows {
            heads.iter_mut().zip(&row.layers[layer].heads).for_each(|(sum, h)| *sum += h);
        }
        let total: f64 = heads.iter().sum();
        heads.iter().map(|h| if total > 0.0 { h / total } else { 0.0 }).collect()
    }
}

/// The layer of the largest literal distance of each probe.
fn golden(layers: &[BTreeMap<String, ProbeDistance>]) -> BTreeMap<String, usize> {
    let names = layers.first().map(|l| l.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let place = |name: &String| {
        let distances = layers.iter().map(|l| l.get(name).map_or(0.0, |p| p.literal)).enumerate();
        distances.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(layer, _)| layer)
    };
    names.into_iter().map(|name| (name.clone(), place(&name))).collect()
}
