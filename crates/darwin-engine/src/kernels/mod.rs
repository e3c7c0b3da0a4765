//! Dense kernels in float32.
//!
//! One rule holds for all of them: a result element is computed by the same operations in the
//! same order whatever the number of rows, so that no result depends on how tokens are batched.

mod math;
mod matrix;
mod simd;

pub(crate) use math::{
    add_assign, add_scaled, add_sum, argmax, convolve_silu, decays, dot, gated, gated_rms_norm,
    l2_norm, l2_normalize, largest, log_sum_exp, rms_norm, scale, sigmoids, silu_mul, softmax,
    softmax_of_falling,
};
pub(crate) use matrix::{Matrix, PANEL, Panels, Rows, Values, multiply, multiply_rows};
pub(crate) use simd::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use simd::{Avx2, Avx512};
pub(crate) use simd::{Isa, Simd, isa};

/// The first `n` values of a scratch buffer, which grows and never shrinks. What they hold is
/// left over from earlier use.
pub(crate) fn scratch<T: Copy + Default>(buffer: &mut Vec<T>, n: usize) -> &mut [T] {
    if buffer.len() < n {
        buffer.resize(n, T::default());
    }
    &mut buffer[..n]
}
