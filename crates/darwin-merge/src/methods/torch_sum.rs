//! The sum of a whole tensor in the order of torch's CPU kernel on one thread
//! (mergekit 0.1.5, `sparsify.py`), found by experiment and checked bit for bit against torch 2.15.
//!
//! Elements are taken in rows of four vectors (of 8 f32 or 16 half-width numbers, the two halves
//! of which are added first). Rows are added up lane by lane through four levels: a level is added
//! to the next one after `2^power` of its own additions, `power = max(4, log2(rows) / 4)`. Whole
//! vectors that make no row go to the first of the four, then the four are added, then the
//! elements that make no vector are added to 0 in order, and last the eight lanes to that.

use darwin_checkpoint::Dtype;

const LANES: usize = 8;
/// Vectors that are added up side by side.
const SIDE_BY_SIDE: usize = 4;
const WIDTH: usize = LANES * SIDE_BY_SIDE;
const LEVELS: usize = 4;

/// A sum to which elements are given in order, as many at a time as one likes.
pub(crate) struct TorchSum {
    elements: usize,
    /// Elements that make a vector: 8, or 16 of half width.
    vector: usize,
    rows: usize,
    power: u32,
    row: usize,
    levels: [[f32; WIDTH]; LEVELS],
    pending: Vec<f32>,
}

impl TorchSum {
    /// A sum of `elements` numbers of a dtype.
    pub(crate) fn new(dtype: Dtype, elements: usize) -> Self {
        let vector = if dtype == Dtype::F32 { LANES } else { 2 * LANES };
        let rows = elements / (vector * SIDE_BY_SIDE);
        let log2 = if rows < 2 { 1 } else { usize::BITS - (rows - 1).leading_zeros() };
        Self {
            elements,
            vector,
            rows,
            power: (log2 / LEVELS as u32).max(4),
            row: 0,
            levels: [[0.0; WIDTH]; LEVELS],
            pending: Vec::new(),
        }
    }

    /// Adds the next elements.
    pub(crate) fn push(&mut self, mut values: &[f32]) {
        let length = self.vector * SIDE_BY_SIDE;
        if !self.pending.is_empty() && self.row < self.rows {
            let missing = (length - self.pending.len()).min(values.len());
            self.pending.extend_from_slice(&values[..missing]);
            values = &values[missing..];
            if self.pending.len() == length {
                let row = std::mem::take(&mut self.pending);
                self.add_row(&row);
            }
        }
        while self.row < self.rows && values.len() >= length {
            let (row, rest) = values.split_at(length);
            self.add_row(row);
            values = rest;
        }
        self.pending.extend_from_slice(values);
    }

    fn add_row(&mut self, row: &[f32]) {
        for (lanes, vector) in
            self.levels[0].as_chunks_mut::<LANES>().0.iter_mut().zip(row.chunks(self.vector))
        {
            add(lanes, vector);
        }
        self.row += 1;
        let mask = (1_usize << self.power) - 1;
        if self.row & mask != 0 {
            return;
        }
        for level in 1..LEVELS {
            let below = std::mem::replace(&mut self.levels[level - 1], [0.0; WIDTH]);
            self.levels[level].iter_mut().zip(below).for_each(|(sum, more)| *sum += more);
            if self.row & (mask << (level as u32 * self.power)) != 0 {
                break;
            }
        }
    }

    /// The sum.
    pub(crate) fn finish(mut self) -> f32 {
        if self.elements < self.vector {
            return few(&self.pending);
        }
        let (first, above) = self.levels.split_at_mut(1);
        let sums = &mut first[0];
        for level in above {
            sums.iter_mut().zip(level).for_each(|(sum, more)| *sum += *more);
        }
        let (lanes, others) = sums.split_at_mut(LANES);
        let vectors = self.pending.chunks_exact(self.vector);
        let rest = vectors.remainder();
        vectors.for_each(|vector| add(lanes, vector));
        for other in others.as_chunks::<LANES>().0 {
            lanes.iter_mut().zip(other).for_each(|(sum, more)| *sum += *more);
        }
        rest.iter().chain(lanes.iter()).fold(0.0, |sum, more| sum + *more)
    }
}

/// Adds a vector to the lanes; of half-width numbers its two halves, added to one another.
fn add(lanes: &mut [f32], vector: &[f32]) {
    let (low, high) = vector.split_at(LANES);
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane += high.get(i).map_or(low[i], |high| low[i] + *high);
    }
}

/// The sum of fewer numbers than a vector has; also that of a method's weights.
pub(crate) fn few(values: &[f32]) -> f32 {
    let mut sums = [0.0; SIDE_BY_SIDE];
    let (rows, rest) = values.as_chunks::<SIDE_BY_SIDE>();
    for row in rows {
        sums.iter_mut().zip(row).for_each(|(sum, more)| *sum += *more);
    }
    rest.iter().for_each(|more| sums[0] += *more);
    sums[1..].iter().fold(sums[0], |sum, more| sum + *more)
}

/// The Euclidean norm of f32 numbers in the order of torch's CPU kernel: squares in eight lanes,
/// the lanes added up, then what makes no vector: four by product and sum, the last ones fused.
#[derive(Default)]
pub(crate) struct TorchNorm {
    lanes: [f32; LANES],
    pending: Vec<f32>,
}

impl TorchNorm {
    /// Adds the next elements.
    pub(crate) fn push(&mut self, mut values: &[f32]) {
        if !self.pending.is_empty() {
            let missing = (LANES - self.pending.len()).min(values.len());
            self.pending.extend_from_slice(&values[..missing]);
            values = &values[missing..];
            if self.pending.len() == LANES {
                let vector = std::mem::take(&mut self.pending);
                self.add(&vector);
            }
        }
        let (vectors, rest) = values.as_chunks::<LANES>();
        vectors.iter().for_each(|vector| self.add(vector));
        self.pending.extend_from_slice(rest);
    }

    fn add(&mut self, vector: &[f32]) {
        self.lanes.iter_mut().zip(vector).for_each(|(sum, v)| *sum += *v * *v);
    }

    /// The norm.
    pub(crate) fn finish(self) -> f32 {
        let (four, last) = self.pending.split_at(self.pending.len() / 4 * 4);
        let sum = self.lanes.iter().fold(0.0, |sum, lane| sum + *lane);
        let sum = four.iter().fold(sum, |sum, v| sum + *v * *v);
        last.iter().fold(sum, |sum, v| v.mul_add(*v, sum)).sqrt()
    }
}

/// Norms of parts of `length` elements, and of the whole as the norm of these.
pub(crate) struct NormOfParts {
    length: usize,
    filled: usize,
    part: TorchNorm,
    parts: TorchNorm,
}

impl NormOfParts {
    /// Nothing yet.
    pub(crate) fn new(length: usize) -> Self {
        Self { length, filled: 0, part: TorchNorm::default(), parts: TorchNorm::default() }
    }

    /// Adds the next elements.
    pub(crate) fn push(&mut self, mut values: &[f32]) {
        while !values.is_empty() {
            let (now, rest) = values.split_at((self.length - self.filled).min(values.len()));
            self.part.push(now);
            self.filled += now.len();
            values = rest;
            if self.filled == self.length {
                self.end_part();
            }
        }
    }

    fn end_part(&mut self) {
        let part = std::mem::take(&mut self.part).finish();
        self.parts.push(&[part]);
        self.filled = 0;
    }

    /// The norm.
    pub(crate) fn finish(mut self) -> f32 {
        if self.filled > 0 {
            self.end_part();
        }
        self.parts.finish()
    }
}

/// Sums of parts of `length` elements, added up.
pub(crate) struct SumOfParts {
    length: usize,
    left: usize,
    filled: usize,
    part: TorchSum,
    parts: Vec<f32>,
}

impl SumOfParts {
    /// A sum of `elements` numbers.
    pub(crate) fn new(length: usize, elements: usize) -> Self {
        let part = TorchSum::new(Dtype::F32, length.min(elements));
        Self { length, left: elements, filled: 0, part, parts: Vec::new() }
    }

    /// Adds the next elements.
    pub(crate) fn push(&mut self, mut values: &[f32]) {
        while !values.is_empty() {
            let part = self.length.min(self.left);
            let (now, rest) = values.split_at((part - self.filled).min(values.len()));
            self.part.push(now);
            self.filled += now.len();
            values = rest;
            if self.filled == part {
                self.left -= part;
                let next = TorchSum::new(Dtype::F32, self.length.min(self.left));
                self.parts.push(std::mem::replace(&mut self.part, next).finish());
                self.filled = 0;
            }
        }
    }

    /// The sum.
    pub(crate) fn finish(self) -> f32 {
        let mut sum = TorchSum::new(Dtype::F32, self.parts.len());
        sum.push(&self.parts);
        sum.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `torch.sum` (2.15, one thread) gives for the same numbers.
    #[test]
    fn sums_are_torchs() {
        let mut bits = 1_u32;
        let numbers: Vec<f32> = (0..70_001)
            .map(|_| {
                bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (bits >> 8) as f32 / 16_777_216.0
            })
            .collect();
        let expected = [
            (5, 0x3fee_c543, 1.859_375),
            (40, 0x419e_f950, 19.875),
            (1_000, 0x43ff_89fc, 512.0),
            (33_000, 0x4680_a1b7, 16_512.0),
            (70_001, 0x4708_90b4, 35_072.0),
        ];
        for (n, single, half) in expected {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                let mut values = numbers[..n].to_vec();
                dtype.round(&mut values);
                let mut sum = TorchSum::new(dtype, n);
                values.chunks(77).for_each(|part| sum.push(part));
                let mut found = [sum.finish()];
                dtype.round(&mut found);
                let wanted = if dtype == Dtype::F32 { f32::from_bits(single) } else { half };
                assert_eq!(found[0], wanted, "{n} of {dtype}");
            }
        }
    }
}
