//! Weights in 8-bit floats with scales beside them, read as the bfloat16 weights that they stand
//! for: value times the scale of its block, rounded once. Scales may be for blocks (DeepSeek's
//! `weight_scale_inv`, 128 x 128), for rows, or for a whole matrix (`weight_scale`).

use crate::error::Problems;
use crate::header::Entry;
use crate::{Dtype, Problem};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;

/// What ends a scale's name instead of the weight's own end, with what the weight's name ends in.
const SCALES: [(&str, &str); 4] = [
    (".weight_scale_inv", ".weight"),
    (".weight_scale", ".weight"),
    ("_scale_inv", ""),
    ("_scale", ""),
];

/// The scales of activations, which go with the quantisation.
const OF_INPUTS: [(&str, &str); 2] =
    [(".input_scale", ".weight"), (".activation_scale", ".weight")];

/// Blocks where the config does not say.
const BLOCK: [usize; 2] = [128, 128];

/// The scales of one stored matrix, or of a stack of matrices.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scale {
    pub(crate) shard: usize,
    pub(crate) bytes: Range<u64>,
    pub(crate) dtype: Dtype,
    /// Rows and columns of scales for one matrix.
    grid: [usize; 2],
    /// Rows and columns of a block.
    block: [usize; 2],
    /// Rows of one matrix.
    rows: usize,
}

/// The entries that are no tensors of their own: scales by the name of their weight, and the
/// names of those that say nothing of weights.
#[derive(Debug, Default)]
pub(crate) struct Scales {
    of_weight: BTreeMap<String, Scale>,
    names: Vec<String>,
}

impl Scales {
    /// Finds the scales of all 8-bit floats.
    pub(crate) fn find(
        folder: &str,
        config: &Value,
        entries: &[(usize, Entry)],
        problems: &mut Problems,
    ) -> Self {
        let weights: BTreeMap<&str, &Entry> = entries
            .iter()
            .filter(|(_, entry)| entry.dtype.is_float8())
            .map(|(_, entry)| (entry.name.as_str(), entry))
            .collect();
        let mut scales = Self::default();
        if weights.is_empty() {
            return scales;
        }
        let stated = stated_block(config);
        for (shard, entry) in entries {
            if of(&entry.name, &OF_INPUTS, &weights).is_some() {
                scales.names.push(entry.name.clone());
            }
            let Some(weight) = of(&entry.name, &SCALES, &weights) else { continue };
            scales.names.push(entry.name.clone());
            match scale(*shard, entry, weight, stated) {
                Some(scale) => {
                    scales.of_weight.insert(weight.name.clone(), scale);
                }
                None => problems.push(Problem::new(
                    format!(
                        "{folder}: `{}` is {} {:?}, which are no scales for `{}` {:?}",
                        entry.name, entry.dtype, entry.shape, weight.name, weight.shape
                    ),
                    "convert the model to bfloat16 with its publisher's script",
                )),
            }
        }
        scales.names.sort_unstable();
        let quantised = config.get("quantization_config").is_some() || !scales.of_weight.is_empty();
        for name in weights.keys().filter(|name| !scales.of_weight.contains_key(**name)) {
            if quantised {
                problems.push(Problem::new(
                    format!(
                        "{folder}: `{name}` is quantised to 8 bits and has no scales beside it"
                    ),
                    "the checkpoint is incomplete: download it again",
                ));
            }
        }
        scales
    }

    /// Whether an entry is no tensor of its own.
    pub(crate) fn absorbs(&self, name: &str) -> bool {
        self.names.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
    }

    /// The scales of a weight.
    pub(crate) fn take(&mut self, weight: &str) -> Option<Scale> {
        self.of_weight.remove(weight)
    }
}

/// The weight whose name, with another end, this is.
fn of<'e>(
    name: &str,
    ends: &[(&str, &str)],
    weights: &BTreeMap<&str, &'e Entry>,
) -> Option<&'e Entry> {
    ends.iter().find_map(|(end, own)| {
        let stem = name.strip_suffix(end)?;
        weights.get(format!("{stem}{own}").as_str()).copied()
    })
}

fn stated_block(config: &Value) -> Option<[usize; 2]> {
    let block = config.get("quantization_config")?.get("weight_block_size")?.as_array()?;
    let size = |i: usize| block.get(i).and_then(Value::as_u64).map(|n| n as usize);
    size(0).zip(size(1)).filter(|(rows, cols)| *rows > 0 && *cols > 0).map(|(r, c)| [r, c])
}

fn scale(shard: usize, entry: &Entry, weight: &Entry, stated: Option<[usize; 2]>) -> Option<Scale> {
    let (rows, cols) = match weight.shape[..] {
        [.., rows, cols] => (rows, cols),
        _ => return None,
    };
    let stack = weight.shape.len() == 3;
    let grid = match entry.shape[..] {
        [] | [1] if !stack => [1, 1],
        [n] if n == rows && !stack => [rows, 1],
        [r, c] if !stack => [r, c],
        [e, r, c] if stack && e == weight.shape[0] => [r, c],
        [e] if stack && e == weight.shape[0] => [1, 1],
        _ => return None,
    };
    let known = matches!(entry.dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F16 | Dtype::F8E8m0);
    let block = stated.unwrap_or(BLOCK);
    let size = |scales: usize, length: usize, block: usize| match scales {
        1 => Some(length.max(1)),
        _ if scales == length => Some(1),
        _ if length.div_ceil(block) == scales => Some(block),
        _ if scales > 0 && length.is_multiple_of(scales) => Some((length / scales).max(1)),
        _ => None,
    };
    let block = [size(grid[0], rows, block[0])?, size(grid[1], cols, block[1])?];
    known.then(|| Scale {
        shard,
        bytes: entry.bytes.clone(),
        dtype: entry.dtype,
        grid,
        block,
        rows: rows.max(1),
    })
}

impl Scale {
    /// The bytes of the scales that rows of the stored tensor need, from the start of the scales.
    pub(crate) fn span(&self, rows: &Range<usize>) -> Range<u64> {
        let first = self.line(rows.start);
        let last = rows.len().checked_sub(1).map_or(first, |_| self.line(rows.end - 1) + 1);
        let row = (self.grid[1] * self.dtype.size()) as u64;
        first as u64 * row..last as u64 * row
    }

    /// Which line of scales a row of the stored tensor has.
    fn line(&self, row: usize) -> usize {
        row / self.rows * self.grid[0] + row % self.rows / self.block[0]
    }

    /// Multiplies rows by their scales, given the bytes of [`Self::span`], and rounds to bfloat16.
    pub(crate) fn apply(&self, rows: &Range<usize>, cols: usize, bytes: &[u8], values: &mut [f32]) {
        let mut scales = vec![0.0; bytes.len() / self.dtype.size()];
        self.dtype.decode(bytes, &mut scales);
        let first = self.line(rows.start);
        for (row, values) in rows.clone().zip(values.chunks_exact_mut(cols.max(1))) {
            let line = (self.line(row) - first) * self.grid[1];
            let line = &scales[line..line + self.grid[1]];
            for (values, scale) in values.chunks_mut(self.block[1]).zip(line) {
                values.iter_mut().for_each(|value| *value *= scale);
            }
        }
        Dtype::Bf16.round(values);
    }
}
