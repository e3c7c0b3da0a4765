//! The logical tensors of a model.

use crate::{Dtype, Role, names};
use darwin_core::{LayerIdx, Part};
use std::collections::BTreeMap;

/// A tensor of one [`Manifest`], by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(pub(crate) u32);

impl TensorId {
    /// Position in [`Manifest::tensors`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One logical tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Canonical name, routed experts fused.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its decoder layer.
    pub layer: Option<LayerIdx>,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape; fused experts are (E, 2I, H) and (E, H, I).
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Rows when seen as a matrix: the product of all dimensions but the last (1 for a vector).
    #[must_use]
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, rest)| rest.iter().product())
    }

    /// Columns when seen as a matrix: the last dimension (1 for a scalar).
    #[must_use]
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The part of the model that it belongs to; none for vision, multi-token prediction and what
    /// is not known.
    #[must_use]
    pub fn part(&self) -> Option<Part> {
        names::part_of(self.role, &self.name)
    }

    /// How many shares it takes at most, and how many elements each is for: a routed expert each in
    /// a fused tensor, a row each in a router and an element each in its biases; `None` for others,
    /// which take one.
    #[must_use]
    pub fn shares(&self) -> Option<(usize, usize)> {
        let count = match self.role {
            Role::RoutedExpert => self.experts(),
            Role::Router if self.shape.len() == 2 && self.name.ends_with(".weight") => {
                self.shape.first().copied()
            }
            Role::Router => Some(self.elements()),
            _ => None,
        };
        count.filter(|count| *count > 0).map(|count| (count, self.elements() / count))
    }

    /// Experts in a fused tensor of routed experts or of their biases, MTP's included.
    #[must_use]
    pub fn experts(&self) -> Option<usize> {
        let biases = self.shape.len() == 2 && self.name.ends_with("_bias");
        (self.name.contains(".experts.") && (self.shape.len() == 3 || biases))
            .then(|| self.shape[0])
    }
}

/// The logical tensors of a model, in the order of the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    tensors: Vec<TensorInfo>,
    by_name: BTreeMap<String, TensorId>,
    num_layers: usize,
}

impl Manifest {
    /// Builds the manifest; a name that comes twice is returned as the error.
    ///
    /// # Errors
    /// The canonical name that appears twice.
    pub fn new(tensors: Vec<TensorInfo>) -> Result<Self, String> {
        let mut by_name = BTreeMap::new();
        for (i, tensor) in tensors.iter().enumerate() {
            if by_name.insert(tensor.name.clone(), TensorId(i as u32)).is_some() {
                return Err(tensor.name.clone());
            }
        }
        let last = tensors.iter().filter_map(|t| t.layer).max();
        let num_layers = last.map_or(0, |layer| layer.0.saturating_add(1));
        Ok(Self { tensors, by_name, num_layers })
    }

    /// All tensors; [`TensorId::index`] points into it.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// All ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = TensorId> + use<> {
        (0..self.tensors.len() as u32).map(TensorId)
    }

    /// The tensor with a canonical name.
    #[must_use]
    pub fn find(&self, canonical: &str) -> Option<TensorId> {
        self.by_name.get(canonical).copied()
    }

    /// What is known of a tensor of this manifest.
    #[must_use]
    pub fn get(&self, id: TensorId) -> &TensorInfo {
        &self.tensors[id.index()]
    }

    /// Number of decoder layers: one more than the largest layer index.
    #[must_use]
    pub fn num_layers(&self) -> usize {
        self.num_layers
    }
}
