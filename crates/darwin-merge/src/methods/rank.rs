//! DELLA's chance of staying (arXiv 2406.11617; mergekit 0.1.5, `della_magprune` in `sparsify.py`): the larger an
//! element is within its row, the likelier it stays.
//!
//! A row is what lies along the last dimension, so that fused and per-expert layouts give the
//! same. mergekit takes the second dimension instead: in fused experts it ranks across output
//! rows, and in convolutions of shape `[C, 1, k]`, where a rank divides by 0, it stops.

/// The chances of one row: `(density - epsilon) + 2 epsilon (rank - 1) / (n - 1)`, ranks from the
/// smallest magnitude, of equal ones the lowest index first. An element alone has the density.
pub(crate) fn chances(
    delta: &[f32],
    density: f64,
    epsilon: f64,
    order: &mut Vec<u32>,
    out: &mut [f32],
) {
    let last = delta.len().saturating_sub(1);
    if last == 0 {
        return out.fill(density as f32);
    }
    order.clear();
    order.extend(0..delta.len() as u32);
    order.sort_by_key(|at| delta[*at as usize].to_bits() & 0x7fff_ffff);
    for (rank, at) in order.iter().enumerate() {
        let chance = density - epsilon + 2.0 * epsilon * rank as f64 / last as f64;
        out[*at as usize] = chance as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_rise_with_the_rank() {
        let (mut order, mut out) = (Vec::new(), [0.0; 5]);
        chances(&[3.0, -1.0, 0.0, -4.0, 1.0], 0.5, 0.25, &mut order, &mut out);
        assert_eq!(out, [0.625, 0.375, 0.25, 0.75, 0.5]);
        chances(&[3.0], 0.5, 0.25, &mut order, &mut out[..1]);
        assert_eq!(out[0], 0.5);
    }
}
