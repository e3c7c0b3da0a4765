//! Activations and sums, element by element.

use darwin_core::vectorised;

/// e^x to about 1 ulp, 0 below the normal range; branch-free, so that loops over it vectorise.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to an integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.3, 88.0);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    // Cephes expf: e^r = 1 + r + r^2 p(r) on |r| <= ln(2) / 2, by Estrin's scheme: a short chain
    let r2 = r * r;
    let low = 1.666_666_5e-1_f32.mul_add(r, 0.5);
    let middle = 8.333_452e-3_f32.mul_add(r, 4.166_579_6e-2);
    let high = 1.987_569_1e-4_f32.mul_add(r, 1.398_199_9e-3);
    let p = high.mul_add(r2 * r2, middle.mul_add(r2, low));
    let e = p.mul_add(r2, 1.0 + r);
    let two_to_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let value = e * two_to_n;
    if x < -87.3 { 0.0 } else { value }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x / (1 + e^-x).
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// ln(1 + e^x) to about 2 ulp.
#[inline(always)]
pub(super) fn softplus(x: f32) -> f32 {
    // ln(1 + u) = 2 artanh(s), s = u / (2 + u) <= 1/3, as a series of odd powers
    let u = exp(-x.abs());
    let s = u / (2.0 + u);
    let s2 = s * s;
    let mut p = 1.0_f32 / 15.0;
    for odd in [13.0_f32, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        p = p.mul_add(s2, 1.0 / odd);
    }
    x.max(0.0) + 2.0 * s * p
}

vectorised! {
    /// `1 / (1 + e^-x)`, in place.
    pub(crate) fn sigmoids(x: &mut [f32]) {
        for x in x {
            *x = sigmoid(*x);
        }
    }
}

vectorised! {
    /// From `a` to the factors of a linear-attention state, in place: `exp(rate * softplus(a + dt))`.
    pub(crate) fn decays(a: &mut [f32], rate: f32, dt: f32) {
        for a in a {
            *a = exp(rate * softplus(*a + dt));
        }
    }
}

vectorised! {
    /// A causal depthwise convolution through silu: rows (channels) of `out`, the `first` one on,
    /// each from the rows up to it of `window` followed by `input`, times `taps`
    /// (kernel, channels).
    pub(crate) fn convolve_silu(
        window: &[f32],
        input: &[f32],
        taps: &[f32],
        channels: usize,
        first: usize,
        out: &mut [f32],
    ) {
        let before = window.len() / channels;
        let (taps, newest) = taps.split_at(before * channels);
        for (t, out) in (first..).zip(out.chunks_exact_mut(channels)) {
            for (j, taps) in taps.chunks_exact(channels).enumerate() {
                let (rows, row) =
                    if t + j < before { (window, t + j) } else { (input, t + j - before) };
                let row = &rows[row * channels..][..channels];
                for ((out, tap), x) in out.iter_mut().zip(taps).zip(row) {
                    let sum = if j == 0 { 0.0 } else { *out };
                    *out = tap.mul_add(*x, sum);
                }
            }
            let row = &input[t * channels..][..channels];
            for ((out, tap), x) in out.iter_mut().zip(newest).zip(row) {
                let sum = if before == 0 { 0.0 } else { *out };
                *out = silu(tap.mul_add(*x, sum));
            }
        }
    }
}

vectorised! {
    /// `x * sigmoid(gate)`, into `out`.
    pub(crate) fn gated(x: &[f32], gate: &[f32], out: &mut [f32]) {
        for ((x, gate), out) in x.iter().zip(gate).zip(out) {
            *out = x / (1.0 + exp(-gate));
        }
    }
}

vectorised! {
    /// `x *= factor`.
    pub(crate) fn scale(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

vectorised! {
    /// From rows [gate ; up] of twice `width` to rows `silu(gate) * up`.
    pub(crate) fn silu_mul(gate_up: &[f32], width: usize, out: &mut [f32]) {
        for (row, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            for ((gate, up), out) in gate.iter().zip(up).zip(out) {
                *out = gate * up / (1.0 + exp(-gate));
            }
        }
    }
}

vectorised! {
    /// `to += x`.
    pub(crate) fn add_assign(to: &mut [f32], x: &[f32]) {
        for (to, x) in to.iter_mut().zip(x) {
            *to += x;
        }
    }
}

vectorised! {
    /// `to += a + b`.
    pub(crate) fn add_sum(to: &mut [f32], a: &[f32], b: &[f32]) {
        for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
            *to += a + b;
        }
    }
}

vectorised! {
    /// `to += factor * x`, rounded once.
    pub(crate) fn add_scaled(to: &mut [f32], factor: f32, x: &[f32]) {
        for (to, x) in to.iter_mut().zip(x) {
            *to = factor.mul_add(*x, *to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_and_zero_far_below() {
        for i in -8700..8700 {
            let x = i as f32 * 0.01;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 2.4e-7, "e^{x}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn softplus_is_exact_far_below_and_near_zero() {
        for i in -800..800 {
            let x = i as f32 * 0.1;
            let want = f64::from(x).exp().ln_1p();
            assert!((f64::from(softplus(x)) / want - 1.0).abs() < 4e-7, "{x}");
        }
    }
}
