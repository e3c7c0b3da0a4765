//! How alike the experts of two models are.

use super::blocks::Block;
use crate::methods::kernels::dot;
use crate::sources::Source;
use darwin_checkpoint::{Error, TensorId, TensorSource};
use darwin_core::keyed::{Key, Rng};

/// Elements of an expert's tensor that are looked at.
const SAMPLE: usize = 1 << 13;

/// The similarities of all pairs, (experts of the first, experts of the second), and how many
/// bytes were read.
pub(super) fn similarities(
    [(a, of_a), (b, of_b)]: [(&Source, &Block); 2],
    prefix: &str,
) -> Result<(Vec<Vec<f64>>, u64), Error> {
    let n = of_a.experts;
    let mut sums = vec![vec![0.0; n]; n];
    let mut bytes = 0;
    let mut add = |ids: [TensorId; 2], share: f64| -> Result<(), Error> {
        let rows = sampled(a, ids[0], n, prefix);
        let (x, read_a) = vectors(a.tensors.as_ref(), ids[0], n, &rows)?;
        let (y, read_b) = vectors(b.tensors.as_ref(), ids[1], n, &rows)?;
        bytes += read_a + read_b;
        let norms = |v: &[Vec<f32>]| v.iter().map(|v| dot(v, v).sqrt()).collect::<Vec<f64>>();
        let (of_x, of_y) = (norms(&x), norms(&y));
        for i in 0..n {
            for j in 0..n {
                let product = of_x[i] * of_y[j];
                if product > 0.0 {
                    sums[i][j] += share * dot(&x[i], &y[j]) / product;
                }
            }
        }
        Ok(())
    };
    if let (Some(x), Some(y)) = (of_a.router, of_b.router) {
        add([x, y], 1.0)?;
    }
    let (names_a, names_b) = (a.tensors.manifest(), b.tensors.manifest());
    let pairs: Vec<[TensorId; 2]> = of_a
        .weights
        .iter()
        .filter_map(|x| {
            let y = names_b.find(&names_a.get(*x).name)?;
            (names_a.get(*x).shape == names_b.get(y).shape).then_some([*x, y])
        })
        .collect();
    for pair in &pairs {
        add(*pair, 1.0 / pairs.len() as f64)?;
    }
    Ok((sums, bytes))
}

/// The rows of an expert that are looked at, in order: all, or as many as a sample has.
fn sampled(source: &Source, id: TensorId, experts: usize, prefix: &str) -> Vec<usize> {
    let info = source.tensors.manifest().get(id);
    let rows = info.rows() / experts.max(1);
    let wanted = (SAMPLE / info.cols().max(1)).max(1);
    let mut all: Vec<usize> = (0..rows).collect();
    if wanted < rows {
        Rng::new(Key::new(0, &["align", prefix, &info.name]), 0).shuffle(&mut all);
        all.truncate(wanted);
        all.sort_unstable();
    }
    all
}

/// The sampled rows of every expert, and the bytes read.
fn vectors(
    source: &dyn TensorSource,
    id: TensorId,
    experts: usize,
    rows: &[usize],
) -> Result<(Vec<Vec<f32>>, u64), Error> {
    let info = source.manifest().get(id);
    let plan = source.prepare(id)?;
    let (cols, rows_per_expert) = (info.cols(), info.rows() / experts.max(1));
    let runs = runs(rows);
    let mut all = Vec::new();
    for expert in 0..experts {
        let mut values = vec![0.0; rows.len() * cols];
        let mut at = 0;
        for (first, length) in &runs {
            let start = expert * rows_per_expert + first;
            let out = &mut values[at * cols..(at + length) * cols];
            source.read_tile(&plan, start..start + length, out)?;
            at += length;
        }
        all.push(values);
    }
    let bytes = (experts * rows.len() * cols * info.dtype.size()) as u64;
    Ok((all, bytes))
}

/// Rows behind one another as (first, how many).
fn runs(rows: &[usize]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &row in rows {
        match runs.last_mut() {
            Some((first, length)) if *first + *length == row => *length += 1,
            _ => runs.push((row, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_rows_are_read_together() {
        assert_eq!(runs(&[0, 1, 2, 5, 7, 8]), [(0, 3), (5, 1), (7, 2)]);
        assert_eq!(runs(&[]), []);
    }
}
