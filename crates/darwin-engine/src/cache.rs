//! What a sequence leaves behind for its next tokens.

use crate::mixer::Piece;
use crate::{Config, LayerKind, attention, gdn};

/// The memory of one layer for one sequence.
#[derive(Clone, Debug)]
pub(crate) enum LayerCache {
    Linear(gdn::Cache),
    Full(attention::Cache),
}

/// The memory of all layers for one sequence.
#[derive(Clone, Debug)]
pub(crate) struct SequenceCache {
    layers: Vec<LayerCache>,
}

impl SequenceCache {
    /// The memory before the first token.
    pub(crate) fn new(config: &Config) -> Self {
        let layer = |kind: &LayerKind| match kind {
            LayerKind::LinearAttention => LayerCache::Linear(gdn::Cache::default()),
            LayerKind::FullAttention | LayerKind::SlidingAttention => {
                LayerCache::Full(attention::Cache::default())
            }
        };
        Self { layers: config.layer_types.iter().map(layer).collect() }
    }
}

/// The caches of a group of sequences: kept ones, or one for each kind of layer that starts anew
/// for every sequence.
#[derive(Debug)]
pub(crate) enum Caches<'a> {
    Kept(Vec<&'a mut SequenceCache>),
    Fresh(Box<(gdn::Cache, attention::Cache)>),
}

impl Caches<'_> {
    /// Nothing is remembered.
    pub(crate) fn fresh() -> Self {
        Self::Fresh(Box::default())
    }

    /// The cache of a linear-attention layer of the piece's sequence.
    pub(crate) fn linear(&mut self, layer: usize, piece: &Piece) -> &mut gdn::Cache {
        match self {
            Self::Kept(list) => match &mut list[piece.sequence].layers[layer] {
                LayerCache::Linear(cache) => cache,
                LayerCache::Full(_) => unreachable!("caches are made from the same layer types"),
            },
            Self::Fresh(both) => {
                if piece.starts {
                    both.0.clear();
                }
                &mut both.0
            }
        }
    }

    /// The cache of a full-attention layer of the piece's sequence.
    pub(crate) fn full(&mut self, layer: usize, piece: &Piece) -> &mut attention::Cache {
        match self {
            Self::Kept(list) => match &mut list[piece.sequence].layers[layer] {
                LayerCache::Full(cache) => cache,
                LayerCache::Linear(_) => unreachable!("caches are made from the same layer types"),
            },
            Self::Fresh(both) => {
                if piece.starts {
                    both.1.clear();
                }
                &mut both.1
            }
        }
    }
}
