//! The tensors of a block that belong to its experts, one by one.

use darwin_checkpoint::{Manifest, TensorId, TensorInfo};
use std::collections::BTreeMap;

/// A MoE block: what is permuted with its experts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Block {
    /// How many experts it has.
    pub(super) experts: usize,
    /// The router's matrix, a row an expert.
    pub(super) router: Option<TensorId>,
    /// The experts' weights.
    pub(super) weights: Vec<TensorId>,
    /// All tensors whose first dimension counts experts: the two above, the router's biases, the
    /// experts' biases.
    pub(super) all: Vec<TensorId>,
}

/// The block that a tensor of experts or of a router belongs to (`layers.3.mlp`); `None` for others.
pub(crate) fn block_of(name: &str) -> Option<&str> {
    const PARTS: [&str; 4] = [".experts.", ".gate.", ".router.", ".e_score_correction_bias"];
    PARTS.iter().find_map(|part| name.find(part)).map(|at| &name[..at])
}

/// The blocks of a model by name.
pub(super) fn blocks(manifest: &Manifest) -> BTreeMap<String, Block> {
    let mut found: BTreeMap<String, Block> = BTreeMap::new();
    for (id, info) in manifest.ids().zip(manifest.tensors()) {
        if let (Some(experts), Some(prefix)) = (info.experts(), block_of(&info.name)) {
            let block = found.entry(prefix.to_owned()).or_default();
            block.experts = experts;
            block.weights.push(id);
        }
    }
    for (id, info) in manifest.ids().zip(manifest.tensors()) {
        let block = block_of(&info.name).and_then(|prefix| found.get_mut(prefix));
        let Some(block) = block else { continue };
        if info.shape.first() == Some(&block.experts) {
            block.all.push(id);
            if is_router(info) {
                block.router = Some(id);
            }
        }
    }
    found
}

fn is_router(info: &TensorInfo) -> bool {
    info.shape.len() == 2
        && (info.name.ends_with(".gate.weight") || info.name.ends_with(".router.weight"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_block() {
        for (name, block) in [
            ("layers.3.mlp.experts.gate_up_proj", Some("layers.3.mlp")),
            ("layers.3.mlp.experts.gate_up_proj_bias", Some("layers.3.mlp")),
            ("layers.3.mlp.gate.weight", Some("layers.3.mlp")),
            ("layers.3.mlp.gate.e_score_correction_bias", Some("layers.3.mlp")),
            ("layers.3.mlp.router.bias", Some("layers.3.mlp")),
            ("mtp.layers.0.mlp.gate.weight", Some("mtp.layers.0.mlp")),
            ("layers.3.mlp.gate_proj.weight", None),
            ("layers.3.mlp.shared_expert_gate.weight", None),
            ("layers.3.mlp.shared_expert.up_proj.weight", None),
        ] {
            assert_eq!(block_of(name), block, "{name}");
        }
    }
}
