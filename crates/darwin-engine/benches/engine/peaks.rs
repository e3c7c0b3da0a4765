//! What this machine can do: the yardsticks of the engine.

use crate::clock::{Rate, measure};
use rayon::prelude::*;
use std::hint::black_box;

/// Fused multiply-adds in registers, GFLOP/s of all threads.
pub(crate) fn arithmetic() -> Rate {
    const ROUNDS: usize = 4_000_000;
    let threads = rayon::current_num_threads();
    measure(|| {
        let one = |_: usize| multiply_adds(black_box(ROUNDS));
        let done: Vec<(f32, usize)> = (0..threads).into_par_iter().map(one).collect();
        assert!(done.iter().all(|(sum, _)| sum.is_finite()));
        let lanes: usize = done.iter().map(|(_, lanes)| lanes).sum();
        (lanes * ROUNDS * CHAINS * 2) as f64 / 1e9
    })
}

/// As many as hide the latency of both units.
const CHAINS: usize = 12;

/// Some sum, and how many lanes a vector has.
fn multiply_adds(rounds: usize) -> (f32, usize) {
    #[cfg(target_arch = "x86_64")]
    {
        /// Written out: of the plain loop the compiler makes no such vectors.
        /// # Safety
        /// The processor has AVX-512F.
        #[target_feature(enable = "avx512f")]
        fn widest(rounds: usize) -> (f32, usize) {
            use std::arch::x86_64::*;
            let (factor, addend) =
                (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
            let mut sums = [_mm512_set1_ps(1.0); CHAINS];
            for _ in 0..rounds {
                for chain in &mut sums {
                    *chain = _mm512_fmadd_ps(*chain, factor, addend);
                }
            }
            let mut total = _mm512_setzero_ps();
            for chain in sums {
                total = _mm512_add_ps(total, chain);
            }
            (_mm512_reduce_add_ps(total), 16)
        }
        /// # Safety
        /// The processor has AVX2 and FMA.
        #[target_feature(enable = "avx2,fma")]
        fn wide(rounds: usize) -> (f32, usize) {
            chains(rounds)
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was detected.
            return unsafe { widest(rounds) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were detected.
            return unsafe { wide(rounds) };
        }
    }
    chains(rounds)
}

#[inline(always)]
fn chains(rounds: usize) -> (f32, usize) {
    const LANES: usize = 8;
    let mut sums = [[1.0_f32; LANES]; CHAINS];
    let (factor, addend) = ([black_box(0.5); LANES], [black_box(0.25); LANES]);
    for _ in 0..rounds {
        for chain in &mut sums {
            for lane in 0..LANES {
                chain[lane] = chain[lane].mul_add(factor[lane], addend[lane]);
            }
        }
    }
    (sums.as_flattened().iter().sum(), LANES)
}

/// A product of 1,536 x 1,536 x 1,536 by the crate `matrixmultiply`, one on each thread, GFLOP/s
/// of all.
pub(crate) fn product() -> Rate {
    const N: usize = 1536;
    let threads = rayon::current_num_threads();
    let (a, b) = (vec![0.5_f32; N * N], vec![0.25_f32; N * N]);
    let mut results = vec![vec![0.0_f32; N * N]; threads];
    measure(|| {
        results.par_iter_mut().for_each(|c| {
            let n = N as isize;
            let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
            // SAFETY: three matrices of N x N, rows N apart.
            unsafe { matrixmultiply::sgemm(N, N, N, 1.0, a, n, 1, b, n, 1, 0.0, c, n, 1) };
        });
        (threads * 2 * N * N * N) as f64 / 1e9
    })
}

/// All threads read a buffer that no cache holds, GB/s.
pub(crate) fn bandwidth() -> Rate {
    const BYTES: usize = 1 << 30;
    let buffer = vec![1_u64; BYTES / 8];
    measure(|| {
        let sum: u64 = buffer.par_chunks(1 << 16).map(|part| part.iter().sum::<u64>()).sum();
        assert_eq!(sum, (BYTES / 8) as u64);
        BYTES as f64 / 1e9
    })
}
