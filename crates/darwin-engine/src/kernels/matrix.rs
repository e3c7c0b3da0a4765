//! Matrices packed once for many products.

use super::Buffer;
#[cfg(feature = "accelerator")]
use crate::device::accelerator::Weight;
use crate::{Device, Error};
use half::f16;
use std::sync::Arc;

/// Columns of one panel.
pub(crate) const PANEL: usize = 16;

/// A weight (out, in) as panels of 16 output columns, each panel (in, 16), zero-padded. Values that
/// all are bfloat16 or all float16 numbers are kept as such, in half the memory, and widened in the
/// product.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    data: Arc<Buffer>,
    form: Form,
    columns: usize,
    depth: usize,
    /// The same on an accelerator.
    #[cfg(feature = "accelerator")]
    elsewhere: Option<Weight>,
}

/// How values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    F32,
    /// Inputs 2k and 2k + 1 of a column are the low and the high half of a word.
    Bf16,
    F16,
}

impl Form {
    /// The least one that holds all values exactly.
    fn of(values: &[f32]) -> Self {
        if values.iter().all(|v| v.to_bits() & 0xffff == 0) {
            Self::Bf16
        } else if values.iter().all(|v| f16::from_f32(*v).to_f32().to_bits() == v.to_bits()) {
            Self::F16
        } else {
            Self::F32
        }
    }

    /// Lines of 16 elements of a panel of so many inputs.
    fn lines(self, depth: usize) -> usize {
        if self == Self::Bf16 { depth.div_ceil(2) } else { depth }
    }
}

impl Matrix {
    /// Packs a row-major (`columns`, `depth`) weight.
    pub(crate) fn pack(rows: &[f32], columns: usize, depth: usize) -> Self {
        assert_eq!(rows.len(), columns * depth, "a weight has (out, in) values");
        let form = Form::of(rows);
        let elements = columns.next_multiple_of(PANEL) * form.lines(depth);
        let mut data = Buffer::default();
        let panel = form.lines(depth) * PANEL;
        let blocks = rows.chunks((PANEL * depth).max(1));
        match form {
            Form::F32 => {
                data.resize(elements);
                fill(data.words_mut(), panel, blocks, depth, |row, k| row[k].to_bits());
            }
            Form::Bf16 => {
                data.resize(elements);
                fill(data.words_mut(), panel, blocks, depth, |row, k| pair(row, 2 * k));
            }
            Form::F16 => {
                data.resize(elements / 2);
                let half = |row: &[f32], k: usize| f16::from_f32(row[k]).to_bits();
                fill(data.halves_mut(), panel, blocks, depth, half);
            }
        }
        Self {
            data: Arc::new(data),
            form,
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
        let elsewhere = device.weight(values, self.form == Form::Bf16, self.columns, self.depth)?;
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
        let from = self.form.lines(first) * PANEL;
        let values = match self.form {
            Form::F32 => Values::F32(&self.data[from..]),
            Form::Bf16 => {
                assert!(first.is_multiple_of(2), "pairs of inputs are not torn apart");
                Values::Bf16(&self.data.words()[from..])
            }
            Form::F16 => Values::F16(&self.data.halves()[from..]),
        };
        Panels {
            values,
            columns: self.columns,
            depth,
            row: PANEL,
            panel: self.form.lines(self.depth) * PANEL,
            #[cfg(feature = "accelerator")]
            elsewhere: None,
        }
    }
}

/// Writes panels of `panel` elements from blocks of 16 rows of `depth` values.
fn fill<'r, T: Copy>(
    to: &mut [T],
    panel: usize,
    blocks: impl Iterator<Item = &'r [f32]>,
    depth: usize,
    element: impl Fn(&[f32], usize) -> T,
) {
    for (panel, rows) in to.chunks_exact_mut(panel.max(1)).zip(blocks) {
        for (k, line) in panel.chunks_exact_mut(PANEL).enumerate() {
            for (to, row) in line.iter_mut().zip(rows.chunks_exact(depth)) {
                *to = element(row, k);
            }
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
    /// One by one.
    F16(&'a [u16]),
}
