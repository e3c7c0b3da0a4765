//! Dense kernels in float32.
//!
//! One rule holds for all of them: a result element is computed by the same operations in the
//! same order whatever the number of rows, so that no result depends on how tokens are batched.

mod backward;
mod buffer;
mod largest;
mod math;
mod matrix;
mod pool;
mod product;
mod rows;
mod simd;
mod word;

pub(crate) use backward::{
    convolve_row, convolve_row_back, decay_back, gated_back, gated_norm_back, norm_back, row_dots,
    silu_back, silu_mul_back, softmax_back, softmax_loss_back, triple_dot, unit_back,
};
pub(crate) use buffer::Buffer;
pub(crate) use largest::largest;
pub(crate) use math::{
    add_assign, add_scaled, add_sum, convolve_silu, decays, gated, scale, sigmoids, silu_mul,
};
pub(crate) use matrix::{Form, Matrix, PANEL, Panels, Values};
pub(crate) use pool::{Pool, Pooled};
pub(crate) use product::{Rows, multiply, multiply_rows, own_bytes};
pub(crate) use rows::{
    LogTotal, all_finite, argmax, dot, gated_rms_norm, l2_norm, l2_normalize, log_total, rms_norm,
    softmax, softmax_of_falling,
};
pub(crate) use simd::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use simd::{Avx2, Avx512};
pub(crate) use simd::{Isa, Simd, isa};

/// Scratch memory: the first `n` values, which hold what is left over from earlier use.
pub(crate) trait Scratch {
    type Value;

    fn scratch(&mut self, n: usize) -> &mut [Self::Value];
}

impl Scratch for Buffer {
    type Value = f32;

    fn scratch(&mut self, n: usize) -> &mut [f32] {
        self.first(n)
    }
}

impl Scratch for Vec<u32> {
    type Value = u32;

    fn scratch(&mut self, n: usize) -> &mut [u32] {
        if self.len() < n {
            self.resize(n, 0);
        }
        &mut self[..n]
    }
}

/// The first `n` values of a scratch buffer, which grows and never shrinks.
pub(crate) fn scratch<B: Scratch>(buffer: &mut B, n: usize) -> &mut [B::Value] {
    buffer.scratch(n)
}
