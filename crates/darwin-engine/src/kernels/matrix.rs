//! Matrices packed once for many products.

use super::Buffer;
#[cfg(feature = "accelerator")]
use crate::device::accelerator::Weight;
use crate::{Device, Error};
use std::sync::Arc;

/// Columns of one panel.
pub(crate) const PANEL: usize = 16;

/// A weight (out, in) as panels of 16 output columns, each panel (in, 16), zero-padded. Values that
/// all are bfloat16 numbers are kept as such, in half the memory, and widened in the product.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    data: Arc<Buffer>,
    /// Whether inputs 2k and 2k + 1 of a column are the low and the high half of a word.
    narrow: bool,
    columns: usize,
    depth: usize,
    /// The same on an accelerator.
    #[cfg(feature = "accelerator")]
    elsewhere: Option<Weight>,
}

impl Matrix {
    /// Packs a row-major (`columns`, `depth`) weight.
    pub(crate) fn pack(rows: &[f32], columns: usize, depth: usize) -> Self {
        assert_eq!(rows.len(), columns * depth, "a weight has (out, in) values");
        let narrow = rows.iter().all(|v| v.to_bits() & 0xffff == 0);
        let padded = columns.next_multiple_of(PANEL);
        let steps = if narrow { depth.div_ceil(2) } else { depth };
        let mut data = Buffer::default();
        data.resize(padded * steps);
        if depth > 0 {
            let panels = data.words_mut().chunks_exact_mut(steps * PANEL);
            for (panel, rows) in panels.zip(rows.chunks(PANEL * depth)) {
                for (k, line) in panel.chunks_exact_mut(PANEL).enumerate() {
                    for (word, row) in line.iter_mut().zip(rows.chunks_exact(depth)) {
                        *word = if narrow { pair(row, 2 * k) } else { row[k].to_bits() };
                    }
                }
            }
        }
        Self {
            data: Arc::new(data),
            narrow,
            columns,
            depth,
            #[cfg(feature = "accelerator")]
            elsewhere: None,
        }
    }

    /// The matrix of these row-major values, on a device too.
    #[cfg_attr(
        not(feature = "accelerator"),
        expect(unused_variables, reason = "there is only the CPU")
    )]
    pub(crate) fn on(self, device: &Device, values: &[f32]) -> Result<Self, Error> {
        #[cfg(feature = "accelerator")]
        let elsewhere = device.weight(values, self.narrow, self.columns, self.depth)?;
        Ok(Self {
            #[cfg(feature = "accelerator")]
            elsewhere,
            ..self
        })
    }

    /// Output width.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Input width.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// The panels for a product.
    pub(crate) fn panels(&self) -> Panels<'_> {
        Panels {
            #[cfg(feature = "accelerator")]
            elsewhere: self.elsewhere.as_ref(),
            ..self.panels_of_depth(0, self.depth)
        }
    }

    /// The panels restricted to inputs `first..first + depth`; `first` is even.
    pub(crate) fn panels_of_depth(&self, first: usize, depth: usize) -> Panels<'_> {
        let (values, rows) = if self.narrow {
            assert!(first.is_multiple_of(2), "pairs of inputs are not torn apart");
            (Values::Bf16(&self.data.words()[first / 2 * PANEL..]), self.depth.div_ceil(2))
        } else {
            (Values::F32(&self.data[first * PANEL..]), self.depth)
        };
        Panels {
            values,
            columns: self.columns,
            depth,
            row: PANEL,
            panel: rows * PANEL,
            #[cfg(feature = "accelerator")]
            elsewhere: None,
        }
    }
}

/// Two bfloat16 numbers of a row in a word, 0 for one beyond its end.
fn pair(row: &[f32], k: usize) -> u32 {
    let high = row.get(k + 1).map_or(0, |v| v.to_bits());
    high | row[k].to_bits() >> 16
}

/// The right-hand side of a product: element (k, n) lies at
/// `k * row + n / 16 * panel + n % 16` (of words, with k / 2 for k, where two inputs share a
/// word), and all 16 columns of the last panel can be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a> {
    pub(crate) values: Values<'a>,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
    pub(crate) row: usize,
    pub(crate) panel: usize,
    /// The same on an accelerator.
    #[cfg(feature = "accelerator")]
    pub(crate) elsewhere: Option<&'a Weight>,
}

/// The elements of [`Panels`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Values<'a> {
    /// One by one.
    F32(&'a [f32]),
    /// Two inputs in a word.
    Bf16(&'a [u32]),
}
