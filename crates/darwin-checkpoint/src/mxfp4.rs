//! Experts in 4-bit floats (MXFP4, as gpt-oss is published): `…_blocks` (E, out, in/32, 16) holds two
//! numbers a byte, `…_scales` (E, out, in/32) a power of two for each 32. They are read as the
//! bfloat16 tensor (E, in, out) that they stand for, which holds every such number exactly.

use crate::error::Problems;
use crate::header::Entry;
use crate::{Dtype, Problem};
use std::collections::BTreeMap;
use std::ops::Range;

/// Numbers of a block.
const BLOCK: usize = 32;

/// Bytes of a block.
const BYTES: usize = BLOCK / 2;

/// What four bits stand for: a sign, two bits of exponent, one of mantissa.
const VALUES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The scales of packed experts, and how an expert lies.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packed {
    pub(crate) shard: usize,
    pub(crate) scales: Range<u64>,
    /// Rows of an expert in the file.
    outputs: usize,
    /// Blocks of a row.
    blocks: usize,
}

/// Puts blocks and scales together: the entries with one for each pair, and the pairs by name.
pub(crate) fn pair_up(
    folder: &str,
    entries: Vec<(usize, Entry)>,
    problems: &mut Problems,
) -> (Vec<(usize, Entry)>, BTreeMap<String, Packed>) {
    let scales: BTreeMap<String, (usize, Entry)> = entries
        .iter()
        .filter(|(_, entry)| entry.dtype == Dtype::U8)
        .filter_map(|(shard, entry)| {
            Some((entry.name.strip_suffix("_scales")?.to_owned(), (*shard, entry.clone())))
        })
        .collect();
    let mut packed = BTreeMap::new();
    let mut left = Vec::with_capacity(entries.len());
    for (shard, mut entry) in entries {
        let stem = entry.name.strip_suffix("_blocks").filter(|_| entry.dtype == Dtype::U8);
        let pair = stem.and_then(|stem| Some((stem.to_owned(), scales.get(stem)?)));
        let Some((stem, (scale_shard, scale))) = pair else {
            left.push((shard, entry));
            continue;
        };
        match (&entry.shape[..], &scale.shape[..]) {
            (&[experts, outputs, blocks, BYTES], &[e, o, b])
                if (e, o, b) == (experts, outputs, blocks) =>
            {
                let scales = scale.bytes.clone();
                packed
                    .insert(stem.clone(), Packed { shard: *scale_shard, scales, outputs, blocks });
                entry.shape = vec![experts, blocks * BLOCK, outputs];
                (entry.name, entry.dtype) = (stem, Dtype::Bf16);
                left.push((shard, entry));
            }
            _ => problems.push(Problem::new(
                format!(
                    "{folder}: `{}` {:?} and `{}` {:?} are no blocks of 32 with their scales",
                    entry.name, entry.shape, scale.name, scale.shape
                ),
                "the checkpoint is damaged: download it again",
            )),
        }
    }
    left.retain(|(_, entry)| {
        let stem = entry.name.strip_suffix("_scales");
        entry.dtype != Dtype::U8 || stem.is_none_or(|stem| !packed.contains_key(stem))
    });
    (left, packed)
}

impl Packed {
    /// Rows of an expert as it is read: its inputs.
    pub(crate) fn rows(&self) -> usize {
        self.blocks * BLOCK
    }

    /// Bytes of an expert's blocks, and of its scales.
    pub(crate) fn bytes(&self) -> [usize; 2] {
        [self.outputs * self.blocks * BYTES, self.outputs * self.blocks]
    }

    /// An expert as bfloat16 bits (in, out), from its blocks and scales.
    pub(crate) fn unpack(&self, blocks: &[u8], scales: &[u8]) -> Vec<u16> {
        let mut powers = vec![0.0; scales.len()];
        Dtype::F8E8m0.decode(scales, &mut powers);
        let mut out = vec![0; self.rows() * self.outputs];
        // 32 rows at a time, so that what is turned over lies in whole cache lines.
        for first in (0..self.outputs).step_by(BLOCK) {
            let rows = first..(first + BLOCK).min(self.outputs);
            for block in 0..self.blocks {
                let mut turned = [[0_u16; BLOCK]; BLOCK];
                for row in rows.clone() {
                    let at = row * self.blocks + block;
                    for (i, byte) in blocks[at * BYTES..(at + 1) * BYTES].iter().enumerate() {
                        for (half, bits) in [byte & 15, byte >> 4].into_iter().enumerate() {
                            let value = VALUES[usize::from(bits)] * powers[at];
                            turned[2 * i + half][row - first] = (value.to_bits() >> 16) as u16;
                        }
                    }
                }
                for (i, line) in turned.iter().enumerate() {
                    let at = (block * BLOCK + i) * self.outputs + first;
                    out[at..at + rows.len()].copy_from_slice(&line[..rows.len()]);
                }
            }
        }
        out
    }
}
