//! Latent attention's numbers.

use super::{Reader, Rope};

/// Multi-head latent attention (arXiv 2405.04434, 2.1): keys and values are expanded from one latent
/// vector a token; the part of a key that is rotated is common to all heads.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the field names are the keys of config.json")]
pub struct LatentForm {
    /// Width of the latent of queries; none where they are projected at once.
    pub q_lora_rank: Option<usize>,
    pub kv_lora_rank: usize,
    pub qk_nope_head_dim: usize,
    pub qk_rope_head_dim: usize,
    pub v_head_dim: usize,
    /// Neighbouring dimensions are rotated against each other, not the first half against the
    /// second.
    pub rope_interleave: bool,
    /// `q_a_proj`, `kv_a_proj_with_mqa` and `o_proj` have biases.
    pub attention_bias: bool,
    /// What scores are multiplied with.
    pub scale: f32,
}

impl LatentForm {
    /// Reads the numbers, and the rotary embedding with them.
    pub(crate) fn read(read: &mut Reader<'_>) -> (Self, Rope) {
        let q_lora_rank = read.get("q_lora_rank").is_some().then(|| read.size("q_lora_rank"));
        let nope = read.size("qk_nope_head_dim");
        let rotated = read.size("qk_rope_head_dim");
        if !rotated.is_multiple_of(2) {
            read.wrong("qk_rope_head_dim", rotated, "even");
        }
        let rope = Rope::read(read, rotated, 1.0, 1e4);
        let scale = rope.score_scale(read) / ((nope + rotated) as f64).sqrt();
        let form = Self {
            q_lora_rank,
            kv_lora_rank: read.size("kv_lora_rank"),
            qk_nope_head_dim: nope,
            qk_rope_head_dim: rotated,
            v_head_dim: read.size("v_head_dim"),
            rope_interleave: read.flag("rope_interleave", true),
            attention_bias: read.flag("attention_bias", false),
            scale: scale as f32,
        };
        (form, rope)
    }

    /// Width of a head's queries and keys.
    #[must_use]
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }
}
