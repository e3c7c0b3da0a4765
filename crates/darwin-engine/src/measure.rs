//! Parts of the engine, for its benchmark alone.

use crate::kernels::{Matrix, scratch};
use crate::moe::{Routed, Scratch};
use crate::team::Team;
use darwin_core::keyed::{Key, Rng};

/// Routed experts that every token chooses.
#[derive(Debug)]
pub struct Experts {
    routed: Routed,
    count: usize,
    hidden: Vec<f32>,
    buffers: Scratch,
    out: Vec<f32>,
}

impl Experts {
    /// `count` experts of bfloat16 weights, `hidden` inputs and outputs and `width` values between,
    /// and so many tokens.
    #[must_use]
    pub fn random(count: usize, hidden: usize, width: usize, tokens: usize) -> Self {
        let values = |n: usize, name: &str| -> Vec<f32> {
            let mut rng = Rng::new(Key::new(1, &[name]), 0);
            let bfloat16 = |v: f64| f32::from_bits((v as f32).to_bits() & 0xffff_0000);
            (0..n).map(|_| bfloat16(rng.normal() * 0.1)).collect()
        };
        let (up, down) = (values(2 * width * hidden, "up"), values(hidden * width, "down"));
        let matrices = |values: &[f32], columns, depth| {
            (0..count).map(|_| Matrix::pack(values, columns, depth)).collect()
        };
        let (up, down) = (matrices(&up, 2 * width, hidden), matrices(&down, hidden, width));
        let mut buffers = Scratch::default();
        let all = (0..tokens).flat_map(|_| 0..count as u32);
        buffers.experts = all.collect();
        scratch(&mut buffers.gates, tokens * count).fill(1.0 / count as f32);
        Self {
            routed: Routed::of(up, down),
            count,
            hidden: values(tokens * hidden, "hidden"),
            buffers,
            out: vec![0.0; tokens * hidden],
        }
    }

    /// All tokens through all experts, so many times, on all threads, which are asked once, as for a
    /// pass through many layers.
    pub fn run(&mut self, times: usize) {
        let Self { routed, count, hidden, buffers, out } = self;
        Team::gather(|team| {
            for _ in 0..times {
                routed.forward(team, hidden, *count, false, buffers, out);
            }
        });
    }
}
