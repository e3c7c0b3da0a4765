//! Depth blocks from the derivatives, not from a grid (method 3.1): contiguous layers with alike
//! derivative, outliers alone.

use crate::diagnosis::Diagnosis;
use darwin_core::Domain;
use std::ops::Range;

/// Most depth blocks that a genome has genes for.
const MOST: usize = 5;

/// Cuts the layers into blocks: the segmentation of their derivatives with the smallest sum of
/// squared standardised deviations from the blocks' means, plus `2 ln L` per block (BIC for a mean
/// and a boundary each). Layers whose derivatives differ by noise alone end up in one block.
pub(crate) fn depth_blocks(
    diagnosis: &Diagnosis,
    layers: usize,
    weight: impl Fn(&Domain) -> f64,
) -> Vec<Range<usize>> {
    let mut points = vec![(0.0, 0.0); layers];
    for half in &diagnosis.halves {
        for (domain, slope) in &half.domains {
            let weight = weight(domain) / 2.0;
            for (i, group) in diagnosis.groups.iter().enumerate() {
                let Some(layer) = group.layer else { continue };
                let (value, variance) = &mut points[layer.0];
                *value += weight * f64::from(slope.value[i]);
                *variance += (weight * f64::from(slope.se[i])).powi(2);
            }
        }
    }
    points.iter_mut().for_each(|(_, variance)| *variance = variance.sqrt());
    segments(&points, MOST)
}

fn segments(points: &[(f64, f64)], most: usize) -> Vec<Range<usize>> {
    let n = points.len();
    if n == 0 {
        return Vec::new();
    }
    let penalty = 2.0 * (n as f64).ln();
    // best[k][i]: the smallest cost of the first i layers in k blocks, with the last block's start.
    let mut best = vec![vec![(f64::INFINITY, 0_usize); n + 1]; most.min(n) + 1];
    best[0][0] = (0.0, 0);
    for k in 1..best.len() {
        for end in k..=n {
            for start in k - 1..end {
                let total = best[k - 1][start].0 + cost(&points[start..end]) + penalty;
                if total < best[k][end].0 {
                    best[k][end] = (total, start);
                }
            }
        }
    }
    let blocks =
        (1..best.len()).min_by(|a, b| best[*a][n].0.total_cmp(&best[*b][n].0)).unwrap_or(1);
    let mut ranges = Vec::with_capacity(blocks);
    let mut end = n;
    for k in (1..=blocks).rev() {
        let start = best[k][end].1;
        ranges.push(start..end);
        end = start;
    }
    ranges.reverse();
    ranges
}

fn cost(points: &[(f64, f64)]) -> f64 {
    let weight = |se: f64| 1.0 / (se * se).max(1e-18);
    let total: f64 = points.iter().map(|(_, se)| weight(*se)).sum();
    let mean = points.iter().map(|(a, se)| a * weight(*se)).sum::<f64>() / total;
    points.iter().map(|(a, se)| weight(*se) * (a - mean) * (a - mean)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_one_block_and_an_outlier_stands_alone() {
        let noise: Vec<(f64, f64)> = (0..8).map(|i| (0.01 * f64::from(i % 3), 0.05)).collect();
        assert_eq!(segments(&noise, 5), vec![0..8]);
        let mut outlier = noise;
        outlier[6].0 = 1.0;
        assert_eq!(segments(&outlier, 5), vec![0..6, 6..7, 7..8]);
    }

    #[test]
    fn a_step_makes_two_blocks() {
        let step: Vec<(f64, f64)> = (0..10).map(|i| (if i < 4 { 0.0 } else { 0.8 }, 0.1)).collect();
        assert_eq!(segments(&step, 5), vec![0..4, 4..10]);
        assert!(segments(&[], 5).is_empty());
    }
}
