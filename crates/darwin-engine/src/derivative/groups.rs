//! The parts of a model that have a derivative of their own.

use crate::layer::{expected, expected_of_layer, prefix};
use crate::weights::Expected;
use crate::{Config, MlpKind};
use darwin_checkpoint::{part_of, role_of};
use darwin_core::{ExpertIdx, Group, LayerIdx, Part};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// All groups of a model, tensor by tensor.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) all: Vec<Group>,
    /// The first group of each tensor.
    first: BTreeMap<Arc<str>, usize>,
}

impl Groups {
    pub(super) fn of(config: &Config) -> Self {
        let mut groups = Self { all: Vec::new(), first: BTreeMap::new() };
        let layers = 0..config.num_hidden_layers;
        let of_layers: usize =
            layers.clone().map(|i| expected_of_layer(config, i, &prefix(i)).len()).sum();
        let mut tensors = expected(config);
        // layers come last, and in order
        let rest = tensors.split_off(tensors.len() - of_layers);
        tensors.iter().for_each(|tensor| groups.push(config, None, tensor));
        let mut rest = rest.iter();
        for layer in layers {
            let count = expected_of_layer(config, layer, &prefix(layer)).len();
            rest.by_ref().take(count).for_each(|t| groups.push(config, Some(layer), t));
        }
        groups
    }

    fn push(&mut self, config: &Config, layer: Option<usize>, tensor: &Expected) {
        let name: Arc<str> = tensor.name.as_str().into();
        self.first.insert(name.clone(), self.all.len());
        let sparse = layer.is_some_and(|layer| config.mlp_types[layer] == MlpKind::Sparse);
        let part = part_of(role_of(&name).0, &name).expect("the forward pass has parts alone");
        let by_expert = part == Part::Router || name.contains(".mlp.experts.");
        let parts = if sparse && by_expert { config.num_experts } else { 1 };
        self.all.extend((0..parts).map(|expert| Group {
            part,
            layer: layer.map(LayerIdx),
            tensor: name.clone(),
            expert: (parts > 1 || (sparse && by_expert)).then_some(ExpertIdx(expert)),
        }));
    }

    /// The (first) group of a tensor of the model.
    pub(super) fn of_tensor(&self, name: &str) -> usize {
        self.first[name]
    }
}

/// Adds up inner products for each item and group.
pub(super) struct Tally<'a> {
    /// The item of each token, counted from the first of `sums`.
    pub(super) items: &'a [u32],
    /// (items, groups)
    pub(super) sums: &'a mut [f64],
    pub(super) groups: usize,
}

impl Tally<'_> {
    /// Values of consecutive tokens.
    pub(super) fn add(&mut self, group: usize, tokens: Range<usize>, shares: &[f32]) {
        for (item, share) in self.items[tokens].iter().zip(shares) {
            self.sums[*item as usize * self.groups + group] += f64::from(*share);
        }
    }

    /// Values of chosen tokens, times factors.
    pub(super) fn add_chosen(
        &mut self,
        group: usize,
        tokens: &[u32],
        shares: &[f32],
        factors: &[f32],
    ) {
        for (i, (token, share)) in tokens.iter().zip(shares).enumerate() {
            let factor = factors.get(i).copied().unwrap_or(1.0);
            let item = self.items[*token as usize] as usize;
            self.sums[item * self.groups + group] += f64::from(factor) * f64::from(*share);
        }
    }

    /// One value of one token.
    pub(super) fn add_one(&mut self, group: usize, token: usize, share: f32) {
        self.sums[self.items[token] as usize * self.groups + group] += f64::from(share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::read_config;
    use darwin_testkit::{tiny_llama, tiny_qwen3_moe, tiny_qwen35};

    #[test]
    fn every_tensor_of_the_model_has_its_groups() {
        for source in [tiny_qwen35(1), tiny_qwen3_moe(1), tiny_llama(1)] {
            let config = read_config(&source).unwrap();
            let groups = Groups::of(&config);
            let mut names: Vec<&str> = groups.all.iter().map(|g| &*g.tensor).collect();
            names.dedup();
            let expected = expected(&config);
            assert_eq!(names, expected.iter().map(|t| &*t.name).collect::<Vec<_>>());
            for (i, group) in groups.all.iter().enumerate() {
                let expert = group.expert.map_or(0, |expert| expert.0);
                assert_eq!(groups.of_tensor(&group.tensor) + expert, i);
                let layer =
                    group.tensor.strip_prefix("layers.").map(|rest| rest[..1].parse().unwrap());
                assert_eq!(group.layer.map(|layer| layer.0), layer);
                assert_eq!(group.part.is_of_layer(), layer.is_some());
            }
        }
        let groups = Groups::of(&read_config(&tiny_qwen35(1)).unwrap());
        let of = |name: &str| groups.all[groups.of_tensor(name)].part;
        assert_eq!(of("layers.0.input_layernorm.weight"), Part::Mixer);
        assert_eq!(of("layers.0.linear_attn.A_log"), Part::Mixer);
        assert_eq!(of("layers.3.post_attention_layernorm.weight"), Part::Routed);
        assert_eq!(of("layers.3.mlp.experts.down_proj"), Part::Routed);
        assert_eq!(of("layers.3.mlp.shared_expert_gate.weight"), Part::Shared);
        assert_eq!(of("layers.3.mlp.gate.weight"), Part::Router);
        assert_eq!(of("lm_head.weight"), Part::Head);
        assert_eq!(groups.all.iter().filter(|g| g.expert.is_some()).count(), 4 * 3 * 6);
    }
}
