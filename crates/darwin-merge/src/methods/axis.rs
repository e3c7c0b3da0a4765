//! Spans (see `span.rs`) of rows and of columns instead of whole units.

use super::formula::Tile;
use super::kernels::combine;
use super::span::{Gram, Span, add_products, products};

/// What counts as a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    /// The whole unit.
    Whole,
    /// Each run along the last dimension.
    Rows,
    /// Each run along the first dimension, so many of them (mergekit 0.1.5, `nuslerp.py`): elements of a
    /// unit belong to one another where their flat indices are equal modulo this.
    Columns(usize),
}

impl Axis {
    /// How many Gram matrices a unit has.
    pub(crate) fn vectors(self) -> usize {
        match self {
            Self::Columns(count) => count,
            _ => 1,
        }
    }
}

/// Adds a tile to the products of all columns.
pub(crate) fn add_columns(count: usize, tile: Tile<'_>, sums: &mut [f64]) {
    let models = tile.models();
    let width = products(models.len());
    let mut column = (tile.first % count as u64) as usize;
    let mut deltas = vec![0.0; models.len()];
    for at in 0..models.first().map_or(0, |model| model.len()) {
        deltas_at(tile, at, &mut deltas);
        let sums = &mut sums[column * width..(column + 1) * width];
        let pairs = (0..deltas.len()).flat_map(|i| (i..deltas.len()).map(move |j| (i, j)));
        for ((i, j), sum) in pairs.zip(sums) {
            *sum += deltas[i] * deltas[j];
        }
        column = if column + 1 == count { 0 } else { column + 1 };
    }
}

fn deltas_at(tile: Tile<'_>, at: usize, out: &mut [f64]) {
    let (base, models) = tile.split();
    let base = base.map_or(0.0, |base| f64::from(base[at]));
    for (delta, model) in out.iter_mut().zip(models) {
        *delta = f64::from(model[at]) - base;
    }
}

/// The coefficients of all columns, from their products.
pub(crate) fn coefficients(rule: &Span, sums: &[f64], k: usize) -> Vec<f64> {
    sums.chunks_exact(products(k).max(1))
        .flat_map(|products| rule.coefficients(&Gram::new(products, k)))
        .collect()
}

/// Each column by its own coefficients.
pub(crate) fn by_column(count: usize, coefficients: &[f64], tile: Tile<'_>, out: &mut [f32]) {
    let (base, k) = (tile.split().0, tile.models().len());
    let mut deltas = vec![0.0; k];
    let mut column = (tile.first % count as u64) as usize;
    for (at, out) in out.iter_mut().enumerate() {
        deltas_at(tile, at, &mut deltas);
        let own = &coefficients[column * k..(column + 1) * k];
        let sum: f64 = deltas.iter().zip(own).map(|(delta, own)| delta * own).sum();
        *out = (base.map_or(0.0, |base| f64::from(base[at])) + sum) as f32;
        column = if column + 1 == count { 0 } else { column + 1 };
    }
}

/// Each row by its own lengths and angles.
pub(crate) fn by_row(rule: &Span, tile: Tile<'_>, out: &mut [f32]) {
    let (base, models) = (tile.split().0, tile.models());
    let mut sums = vec![0.0; products(models.len())];
    for (row, out) in out.chunks_exact_mut(tile.cols).enumerate() {
        let part = row * tile.cols..(row + 1) * tile.cols;
        let base = base.map(|base| &base[part.clone()]);
        let models: Vec<&[f32]> = models.iter().map(|model| &model[part.clone()]).collect();
        sums.fill(0.0);
        add_products(&models, base, &mut sums);
        let coefficients = rule.coefficients(&Gram::new(&sums, models.len()));
        combine(&models, base, &coefficients, out);
    }
}
