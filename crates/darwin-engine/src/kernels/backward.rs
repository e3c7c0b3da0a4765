//! Gradients of norms, activations, softmax and the convolution, row by row. `grad` is the gradient
//! of what the forward kernel gives.

use super::math::{exp, sigmoid, silu, softplus};
use super::rows::{LANES, LogTotal, dot_lanes, max_lanes, reduce};
use darwin_core::vectorised;

/// Sum of `a * b * c`, in 8 chains.
#[inline(always)]
fn triple_lanes(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a8, a_rest) = a.as_chunks::<LANES>();
    let (b8, b_rest) = b.as_chunks::<LANES>();
    let (c8, c_rest) = c.as_chunks::<LANES>();
    for ((a, b), c) in a8.iter().zip(b8).zip(c8) {
        for i in 0..LANES {
            lanes[i] = (a[i] * b[i]).mul_add(c[i], lanes[i]);
        }
    }
    for (i, ((a, b), c)) in a_rest.iter().zip(b_rest).zip(c_rest).enumerate() {
        lanes[i] = (a * b).mul_add(*c, lanes[i]);
    }
    reduce(lanes)
}

/// The derivative of silu.
#[inline(always)]
fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 - s).mul_add(x, 1.0)
}

vectorised! {
    /// The sum of `a * b * c`.
    pub(crate) fn triple_dot(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
        triple_lanes(a, b, c)
    }
}

vectorised! {
    /// Inner products of rows of `width` values: those of `a`, `a_row` apart, with those of `b`,
    /// `b_row` apart - row by row, or the rows of these numbers where there are numbers.
    pub(crate) fn row_dots(
        a: &[f32],
        a_row: usize,
        b: &[f32],
        b_row: usize,
        numbers: &[u32],
        width: usize,
        out: &mut [f32],
    ) {
        for (i, out) in out.iter_mut().enumerate() {
            let number = numbers.get(i).map_or(i, |n| *n as usize);
            *out = dot_lanes(&a[i * a_row..][..width], &b[number * b_row..][..width]);
        }
    }
}

vectorised! {
    /// Of `rms_norm`: adds to the gradient of `x`; `shares` gets for each row the inner product of
    /// the scale's gradient with `direction`, unless that is empty.
    pub(crate) fn norm_back(
        x: &[f32],
        scale: &[f32],
        eps: f32,
        grad: &[f32],
        direction: &[f32],
        shares: &mut [f32],
        x_grad: &mut [f32],
    ) {
        let width = scale.len();
        let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
        for (i, ((x, grad), x_grad)) in rows.zip(x_grad.chunks_exact_mut(width)).enumerate() {
            let inverse = 1.0 / (dot_lanes(x, x) / width as f32 + eps).sqrt();
            if !direction.is_empty() {
                shares[i] = inverse * triple_lanes(grad, x, direction);
            }
            let along = triple_lanes(grad, scale, x) / width as f32 * inverse * inverse * inverse;
            for (((to, x), grad), scale) in x_grad.iter_mut().zip(x).zip(grad).zip(scale) {
                *to += (grad * scale).mul_add(inverse, -along * x);
            }
        }
    }
}

vectorised! {
    /// Of `gated_rms_norm` on the heads of a token: the gradients of `x` and `z`, and the inner
    /// product of the weight's gradient with `direction`, unless that is empty.
    pub(crate) fn gated_norm_back(
        x_z: (&[f32], &[f32]),
        weight: &[f32],
        eps: f32,
        grad: &[f32],
        direction: &[f32],
        grads: (&mut [f32], &mut [f32]),
    ) -> f32 {
        let ((x, z), (x_grad, z_grad)) = (x_z, grads);
        let width = weight.len();
        let mut share = 0.0;
        for ((to, grad), z) in x_grad.iter_mut().zip(grad).zip(z) {
            *to = grad * silu(*z);
        }
        for ((to, grad), z) in z_grad.iter_mut().zip(grad).zip(z) {
            *to = grad * silu_slope(*z);
        }
        let heads = x.chunks_exact(width).zip(x_grad.chunks_exact_mut(width));
        for ((x, x_grad), z_grad) in heads.zip(z_grad.chunks_exact_mut(width)) {
            let inverse = 1.0 / (dot_lanes(x, x) / width as f32 + eps).sqrt();
            if !direction.is_empty() {
                share += inverse * triple_lanes(x_grad, x, direction);
            }
            let along = triple_lanes(x_grad, weight, x) / width as f32 * inverse * inverse * inverse;
            for (((to, z), x), w) in x_grad.iter_mut().zip(z_grad).zip(x).zip(weight) {
                *z *= w * x * inverse;
                *to = (*to * w).mul_add(inverse, -along * x);
            }
        }
        share
    }
}

vectorised! {
    /// Of `l2_normalize`, in place: from gradients of unit rows of `width` values to those of `x`.
    pub(crate) fn unit_back(x: &[f32], width: usize, scale: f32, grad: &mut [f32]) {
        for (x, grad) in x.chunks_exact(width).zip(grad.chunks_exact_mut(width)) {
            let inverse = 1.0 / (dot_lanes(x, x) + 1e-6).sqrt();
            let along = scale * dot_lanes(grad, x) * inverse * inverse * inverse;
            let factor = scale * inverse;
            for (to, x) in grad.iter_mut().zip(x) {
                *to = (*to).mul_add(factor, -along * x);
            }
        }
    }
}

vectorised! {
    /// Of silu, in place: `grad` times its slope at `x`, and from `x` to silu of it.
    pub(crate) fn silu_back(x: &[f32], grad: &mut [f32]) {
        for (grad, x) in grad.iter_mut().zip(x) {
            *grad *= silu_slope(*x);
        }
    }
}

vectorised! {
    /// Of `silu_mul`: rows [gate ; up] of gradients, those of `grad` times a factor for each row,
    /// where there are factors.
    pub(crate) fn silu_mul_back(
        gate_up: &[f32],
        width: usize,
        grad: &[f32],
        factors: &[f32],
        out: &mut [f32],
    ) {
        let rows = gate_up.chunks_exact(2 * width).zip(grad.chunks_exact(width));
        for (i, ((row, grad), out)) in rows.zip(out.chunks_exact_mut(2 * width)).enumerate() {
            let factor = factors.get(i).copied().unwrap_or(1.0);
            let (gate, up) = row.split_at(width);
            let (gate_grad, up_grad) = out.split_at_mut(width);
            for (((to, gate), up), grad) in gate_grad.iter_mut().zip(gate).zip(up).zip(grad) {
                *to = factor * grad * up * silu_slope(*gate);
            }
            for ((to, gate), grad) in up_grad.iter_mut().zip(gate).zip(grad) {
                *to = factor * grad * silu(*gate);
            }
        }
    }
}

vectorised! {
    /// Of `gated`: the gradients of `x` and of the gate.
    pub(crate) fn gated_back(
        x: &[f32],
        gate: &[f32],
        grad: &[f32],
        x_grad: &mut [f32],
        gate_grad: &mut [f32],
    ) {
        let values = x.iter().zip(gate).zip(grad);
        for (((x, gate), grad), (to, gate_to)) in values.zip(x_grad.iter_mut().zip(gate_grad)) {
            let s = sigmoid(*gate);
            *to = grad * s;
            *gate_to = grad * x * s * (1.0 - s);
        }
    }
}

vectorised! {
    /// Of `softmax` of rows of scores, in place: from gradients of the probabilities `p` to those of
    /// the scores before `scale`.
    pub(crate) fn softmax_back(p: &[f32], width: usize, scale: f32, grad: &mut [f32]) {
        for (p, grad) in p.chunks_exact(width).zip(grad.chunks_exact_mut(width)) {
            let along = dot_lanes(p, grad);
            for (grad, p) in grad.iter_mut().zip(p) {
                *grad = scale * p * (*grad - along);
            }
        }
    }
}

vectorised! {
    /// From a row of logits to the gradient of the negative log-likelihood of one of them, in place.
    /// That of the one is minus the sum of the others, which is exact where its probability is near 1.
    pub(crate) fn softmax_loss_back(row: &mut [f32], total: LogTotal, chosen: usize) {
        let max = max_lanes(row);
        let factor = total.log_probability(max).exp() as f32;
        for value in row.iter_mut() {
            *value = factor * exp(*value - max);
        }
        row[chosen] = 0.0;
        let mut others = 0.0_f64;
        for block in row.chunks(256) {
            let mut lanes = [0.0_f32; LANES];
            for chunk in block.chunks(LANES) {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    *lane += value;
                }
            }
            others += f64::from(reduce(lanes));
        }
        row[chosen] = -others as f32;
    }
}

vectorised! {
    /// Row `t` of the causal convolution of a whole sequence (tokens, channels), before silu; `taps`
    /// (kernel, channels).
    pub(crate) fn convolve_row(
        input: &[f32],
        taps: &[f32],
        channels: usize,
        t: usize,
        out: &mut [f32],
    ) {
        let kernel = taps.len() / channels;
        out.fill(0.0);
        for (j, taps) in taps.chunks_exact(channels).enumerate() {
            let Some(from) = (t + j + 1).checked_sub(kernel) else { continue };
            let row = &input[from * channels..][..channels];
            for ((out, tap), x) in out.iter_mut().zip(taps).zip(row) {
                *out = tap.mul_add(*x, *out);
            }
        }
    }
}

vectorised! {
    /// Of the convolution: the gradient of row `t` of the input from those of all rows of the output.
    pub(crate) fn convolve_row_back(
        grad: &[f32],
        taps: &[f32],
        channels: usize,
        t: usize,
        out: &mut [f32],
    ) {
        let kernel = taps.len() / channels;
        out.fill(0.0);
        for (j, taps) in taps.chunks_exact(channels).enumerate() {
            let Some(row) = grad.get((t + kernel - 1 - j) * channels..) else { continue };
            for ((out, tap), grad) in out.iter_mut().zip(taps).zip(row) {
                *out = tap.mul_add(*grad, *out);
            }
        }
    }
}

vectorised! {
    /// Of `decays`, in place: from gradients of the factors `decay` to those of `a`; the sums of the
    /// gradients of the logarithm of `-rate` into `rate_grad`, a value for each token.
    pub(crate) fn decay_back(
        a: &[f32],
        decay: &[f32],
        rate_dt: (f32, f32),
        grad: &mut [f32],
        rate_grad: &mut [f32],
    ) {
        let (rate, dt) = rate_dt;
        let values = a.iter().zip(decay).zip(grad.iter_mut());
        for (((a, decay), grad), rate_grad) in values.zip(rate_grad.iter_mut()) {
            let of_log = *grad * decay * rate;
            *rate_grad = of_log * softplus(a + dt);
            *grad = of_log * sigmoid(a + dt);
        }
    }
}
