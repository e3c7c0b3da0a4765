//! Element types of GGUF files and their exact conversion to f32 (ggml's `dequantize_row_*`).

use crate::Dtype;
use half::f16;

/// An element type whose values can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Stored as it is read.
    Plain(Dtype),
    /// Blocks of a scale d and 32 signed bytes q: d q.
    Q8_0,
    /// Blocks of a scale d and 32 numbers q of 4 bits: d (q - 8).
    Q4_0,
    /// Blocks of a scale d, a minimum m and 32 numbers q of 4 bits: d q + m.
    Q4_1,
}

/// What can be read, for messages.
pub(super) const SUPPORTED: &str = "F32, F16, BF16, Q8_0, Q4_0 and Q4_1";

/// Numbers of a quantised block.
const BLOCK: usize = 32;

/// ggml's number of every type and its name.
const NAMES: [(u32, &str); 34] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// ggml's name of a type number, or the number.
pub(super) fn type_name(number: u32) -> String {
    let known = NAMES.iter().find(|(n, _)| *n == number);
    known.map_or_else(|| format!("of unknown type {number}"), |(_, name)| (*name).to_owned())
}

impl Kind {
    /// The type with ggml's number.
    pub(super) fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Plain(Dtype::F32)),
            1 => Some(Self::Plain(Dtype::F16)),
            2 => Some(Self::Q4_0),
            3 => Some(Self::Q4_1),
            8 => Some(Self::Q8_0),
            30 => Some(Self::Plain(Dtype::Bf16)),
            _ => None,
        }
    }

    /// ggml's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain(dtype) => dtype.name(),
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
        }
    }

    /// What the values are read as. A product of a float16 and a small integer, with a float16
    /// added, needs more than the 8 bits of a bfloat16's significand: quantised weights are f32.
    pub(super) fn dtype(self) -> Dtype {
        match self {
            Self::Plain(dtype) => dtype,
            _ => Dtype::F32,
        }
    }

    /// Elements of a block.
    pub(super) fn block(self) -> usize {
        match self {
            Self::Plain(_) => 1,
            _ => BLOCK,
        }
    }

    /// Bytes of a block.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Self::Plain(dtype) => dtype.size(),
            Self::Q8_0 => 2 + BLOCK,
            Self::Q4_0 => 2 + BLOCK / 2,
            Self::Q4_1 => 4 + BLOCK / 2,
        }
    }

    /// Bytes of whole blocks.
    pub(super) fn bytes(self, elements: usize) -> usize {
        elements / self.block() * self.block_bytes()
    }

    /// The values of whole blocks.
    pub(super) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        debug_assert_eq!(bytes.len(), self.bytes(out.len()), "whole blocks");
        let blocks = bytes.chunks_exact(self.block_bytes()).zip(out.chunks_exact_mut(self.block()));
        match self {
            Self::Plain(dtype) => {
                dtype.decode(bytes, out);
            }
            Self::Q8_0 => {
                for (block, out) in blocks {
                    let d = half_at(block, 0);
                    for (o, q) in out.iter_mut().zip(&block[2..]) {
                        *o = f32::from(*q as i8) * d;
                    }
                }
            }
            Self::Q4_0 => {
                for (block, out) in blocks {
                    let d = half_at(block, 0);
                    nibbles(&block[2..], out, |q| d * (f32::from(q) - 8.0));
                }
            }
            Self::Q4_1 => {
                for (block, out) in blocks {
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    nibbles(&block[4..], out, |q| d * f32::from(q) + m);
                }
            }
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The low halves of 16 bytes, then the high ones.
fn nibbles(packed: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(BLOCK / 2);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(packed) {
        (*low, *high) = (value(byte & 15), value(byte >> 4));
    }
}
