//! Matrices packed once for many products.

use super::{Pool, Pooled};
use half::f16;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Columns of one panel.
pub(crate) const PANEL: usize = 16;

/// About how many values are read at once.
const BLOCK_VALUES: usize = 1 << 20;

/// A weight (out, in) as panels of 16 output columns, each panel (in, 16), zero-padded. Values that
/// all are bfloat16 or all float16 numbers are kept as such, in half the memory, and widened in the
/// product.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    data: Arc<Pooled>,
    form: Form,
    columns: usize,
    depth: usize,
}

/// How values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    F32,
    /// Inputs 2k and 2k + 1 of a column are the low and the high half of a word.
    Bf16,
    F16,
}

impl Form {
    /// The least one that holds all values exactly.
    fn of(values: &[f32]) -> Self {
        [Self::Bf16, Self::F16].into_iter().find(|f| f.holds(values)).unwrap_or(Self::F32)
    }

    /// Whether it holds all values exactly.
    fn holds(self, values: &[f32]) -> bool {
        match self {
            Self::F32 => true,
            Self::Bf16 => values.iter().fold(0, |bits, v| bits | v.to_bits()) & 0xffff == 0,
            Self::F16 => values.iter().all(|v| f16::from_f32(*v).to_f32().to_bits() == v.to_bits()),
        }
    }

    /// Lines of 16 elements of a panel of so many inputs.
    fn lines(self, depth: usize) -> usize {
        if self == Self::Bf16 { depth.div_ceil(2) } else { depth }
    }

    /// Words of a panel of so many inputs.
    fn words(self, depth: usize) -> usize {
        self.lines(depth) * if self == Self::F16 { PANEL / 2 } else { PANEL }
    }

    /// Bytes of a packed (`columns`, `depth`) weight.
    pub(crate) fn bytes(self, columns: usize, depth: usize) -> u64 {
        4 * (columns.div_ceil(PANEL) * self.words(depth)) as u64
    }

    /// Packs row-major rows of `depth` values, 16 a panel.
    fn fill(self, to: &mut [u32], rows: &[f32], depth: usize) {
        let panels = to.chunks_exact_mut(self.words(depth).max(1));
        for (panel, rows) in panels.zip(rows.chunks((PANEL * depth).max(1))) {
            if rows.len() < PANEL * depth {
                panel.fill(0);
            }
            match self {
                Self::F32 => lines(panel, rows, depth, |row, k| row[k].to_bits()),
                Self::Bf16 => lines(panel, rows, depth, |row, k| pair(row, 2 * k)),
                Self::F16 => {
                    let half = |n: usize, k: usize| {
                        rows.get(n * depth + k).map_or(0, |v| f16::from_f32(*v).to_bits())
                    };
                    for (i, word) in panel.iter_mut().enumerate() {
                        let (k, n) = (i / (PANEL / 2), 2 * (i % (PANEL / 2)));
                        let [a, b] = [half(n, k), half(n + 1, k)].map(u16::to_ne_bytes);
                        *word = u32::from_ne_bytes([a[0], a[1], b[0], b[1]]);
                    }
                }
            }
        }
    }
}

/// Writes the lines of a panel from up to 16 rows of `depth` values.
fn lines(panel: &mut [u32], rows: &[f32], depth: usize, word: impl Fn(&[f32], usize) -> u32) {
    for (k, line) in panel.chunks_exact_mut(PANEL).enumerate() {
        for (to, row) in line.iter_mut().zip(rows.chunks_exact(depth)) {
            *to = word(row, k);
        }
    }
}

impl Matrix {
    /// Packs a row-major (`columns`, `depth`) weight.
    pub(crate) fn pack(rows: &[f32], columns: usize, depth: usize) -> Self {
        assert_eq!(rows.len(), columns * depth, "a weight has (out, in) values");
        let form = Form::of(rows);
        let mut data = Pooled::of(None, columns.div_ceil(PANEL) * form.words(depth));
        form.fill(data.words_mut(), rows, depth);
        Self::of(data, form, columns, depth)
    }

    /// The (`columns`, `depth`) weight whose rows `read` gives: it is called with consecutive rows
    /// and the place for their values, from any thread. `likely` is the form that will do, as far
    /// as is known; what it does not hold is read again, wider. Memory comes from a pool where there
    /// is one.
    pub(crate) fn read<E: Send>(
        columns: usize,
        depth: usize,
        likely: Form,
        pool: Option<&Arc<Pool>>,
        read: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let form = likely;
        let mut data = Pooled::of(pool, columns.div_ceil(PANEL) * form.words(depth));
        let step = (BLOCK_VALUES / depth.max(1)).max(1).next_multiple_of(PANEL);
        let words = (step / PANEL * form.words(depth)).max(1);
        let exact = AtomicBool::new(true);
        data.words_mut().par_chunks_mut(words).enumerate().try_for_each(|(i, to)| {
            let rows = i * step..columns.min((i + 1) * step);
            let mut values = Pooled::of(pool, rows.len() * depth);
            read(rows, &mut values)?;
            if !form.holds(&values) {
                exact.store(false, Ordering::Relaxed);
            }
            form.fill(to, &values, depth);
            Ok(())
        })?;
        if !exact.into_inner() {
            return Self::read(columns, depth, Form::F32, pool, read);
        }
        Ok(Self::of(data, form, columns, depth).narrowed(pool))
    }

    /// The same in a narrower form, where float32 was more than its values need.
    fn narrowed(self, pool: Option<&Arc<Pool>>) -> Self {
        let all: &[f32] = &self.data[..];
        let narrow = match self.form {
            Form::F32 => Form::of(all),
            form => form,
        };
        if narrow == self.form || self.depth == 0 {
            return self;
        }
        let mut data = Pooled::of(pool, self.columns.div_ceil(PANEL) * narrow.words(self.depth));
        let panels = data.words_mut().chunks_exact_mut(narrow.words(self.depth));
        let mut rows = vec![0.0; PANEL * self.depth];
        for (to, from) in panels.zip(all.chunks_exact(PANEL * self.depth)) {
            for (k, line) in from.chunks_exact(PANEL).enumerate() {
                for (n, value) in line.iter().enumerate() {
                    rows[n * self.depth + k] = *value;
                }
            }
            narrow.fill(to, &rows, self.depth);
        }
        Self::of(data, narrow, self.columns, self.depth)
    }

    fn of(data: Pooled, form: Form, columns: usize, depth: usize) -> Self {
        Self { data: Arc::new(data), form, columns, depth }
    }

    /// The transposed of weights of the same input whose outputs follow one another: (in, all out).
    pub(crate) fn transposed(parts: &[&Self]) -> Self {
        let columns = parts.iter().map(|part| part.columns).sum();
        let depth = parts.first().map_or(0, |part| part.depth);
        let mut rows = vec![0.0; depth * columns];
        let mut first = 0;
        for part in parts {
            assert_eq!(part.depth, depth, "weights of the same input");
            for panel in 0..part.columns.div_ceil(PANEL) {
                let n = PANEL.min(part.columns - panel * PANEL);
                let to = first + panel * PANEL;
                for (k, row) in rows.chunks_exact_mut(columns).enumerate() {
                    row[to..to + n].copy_from_slice(&part.line(panel, k)[..n]);
                }
            }
            first += part.columns;
        }
        let form = parts.first().map_or(Form::F32, |part| part.form);
        let form = if parts.iter().all(|part| part.form == form) { form } else { Form::F32 };
        let read = |range: Range<usize>, out: &mut [f32]| {
            out.copy_from_slice(&rows[range.start * columns..range.end * columns]);
            Ok::<(), std::convert::Infallible>(())
        };
        match Self::read(depth, columns, form, None, read) {
            Ok(matrix) => matrix,
            Err(never) => match never {},
        }
    }

    /// Values of an input and the 16 outputs of a panel.
    fn line(&self, panel: usize, k: usize) -> [f32; PANEL] {
        let from = (panel * self.form.lines(self.depth) + self.form.lines(k + 1) - 1) * PANEL;
        match self.form {
            Form::F32 => std::array::from_fn(|n| self.data[from + n]),
            Form::Bf16 => {
                let words = &self.data.words()[from..from + PANEL];
                let half = |w: u32| if k.is_multiple_of(2) { w << 16 } else { w & 0xffff_0000 };
                std::array::from_fn(|n| f32::from_bits(half(words[n])))
            }
            Form::F16 => {
                let halves = &self.data.halves()[from..from + PANEL];
                std::array::from_fn(|n| f16::from_bits(halves[n]).to_f32())
            }
        }
    }

    /// Whether every value is 0.
    pub(crate) fn is_zero(&self) -> bool {
        let value = if self.form == Form::F32 { 0x7fff_ffff } else { 0x7fff_7fff };
        self.data.words().iter().all(|word| word & value == 0)
    }

    /// A copy of some outputs, from a multiple of 16 on.
    pub(crate) fn part(&self, columns: Range<usize>) -> Self {
        assert!(columns.start.is_multiple_of(PANEL), "panels are not torn apart");
        let words = self.form.words(self.depth);
        let panels = columns.start / PANEL * words..columns.end.div_ceil(PANEL) * words;
        let mut data = Pooled::of(None, panels.len());
        data.words_mut().copy_from_slice(&self.data.words()[panels]);
        Self::of(data, self.form, columns.len(), self.depth)
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
        self.panels_of_depth(0, self.depth)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposed_twice_is_the_same() {
        let all =
            [[1.0, -0.5, 3.0, 98_304.0], [1.0, 0.333_251_95, 2.0, 0.25], [1.0, 0.1, 1e-30, 3.0]];
        for (columns, depth) in [(1, 1), (16, 4), (37, 5), (20, 33)] {
            for some in all {
                let rows: Vec<f32> = (0..columns * depth).map(|i| some[i * 7 % 4]).collect();
                let packed = Matrix::pack(&rows, columns, depth);
                let back = Matrix::transposed(&[&packed]);
                assert_eq!((back.columns(), back.depth()), (depth, columns));
                let at = |i: usize| rows[i % columns * depth + i / columns];
                let turned: Vec<f32> = (0..columns * depth).map(at).collect();
                assert_eq!(back.data.words(), Matrix::pack(&turned, depth, columns).data.words());
                let both = Matrix::transposed(&[&packed, &packed]);
                let twice = Matrix::transposed(&[&both]);
                let expected = Matrix::pack(&[rows.clone(), rows].concat(), 2 * columns, depth);
                assert_eq!(twice.data.words(), expected.data.words());
                assert!(!packed.is_zero());
            }
            assert!(Matrix::pack(&vec![-0.0; columns * depth], columns, depth).is_zero());
        }
    }

    /// Read in blocks, with a right, a too narrow or a too wide guess: what is packed at once.
    #[test]
    fn a_weight_is_the_same_however_it_is_read() {
        let widths = [
            (Form::Bf16, [1.0, -0.5, 3.0, 98_304.0]),
            (Form::F16, [1.0, 0.333_251_95, 2.0, 0.100_097_656]),
            (Form::F32, [1.0, 0.1, 1e-30, 3.0]),
        ];
        for (columns, depth) in [(1, 1), (16, 4), (37, 5), (2000, 600)] {
            for (form, some) in widths {
                let rows: Vec<f32> = (0..columns * depth).map(|i| some[i * 7 % 4]).collect();
                let packed = Matrix::pack(&rows, columns, depth);
                for likely in [Form::F32, Form::Bf16, Form::F16] {
                    // what others left there does not show
                    let pool = Arc::new(Pool::default());
                    pool.take(columns.next_multiple_of(16) * depth).fill(f32::NAN);
                    let read = Matrix::read(columns, depth, likely, Some(&pool), |of, out| {
                        out.copy_from_slice(&rows[of.start * depth..of.end * depth]);
                        Ok::<(), ()>(())
                    })
                    .unwrap();
                    // a guess that does is kept, though another form of its size would do too
                    assert!(read.form == packed.form || read.form == likely);
                    assert!(read.form.holds(&rows) && (depth == 1 || packed.form == form));
                    if read.form == packed.form {
                        assert_eq!(read.data.words(), packed.data.words(), "{columns} {depth}");
                    }
                }
            }
        }
        let failed = Matrix::read(100, 3, Form::F32, None, |_, _| Err("no"));
        assert_eq!(failed.unwrap_err(), "no");
    }
}
