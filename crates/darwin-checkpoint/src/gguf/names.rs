//! Names of a Llama model's tensors in a GGUF file, and which of them lie otherwise than in Hugging
//! Face's files.

/// What a tensor of the file is to the rest of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A weight under its canonical name.
    Weight {
        /// Without prefix, as everywhere.
        canonical: String,
        /// Its layer.
        layer: Option<u64>,
        /// Whose rows are in another order.
        heads: Option<Heads>,
    },
    /// Divisors of the rotary frequencies; they are part of the config.
    RopeFactors,
}

/// Whose heads the rows of a permuted tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heads {
    Query,
    Key,
}

/// Parts of a layer: in the file, and canonical.
const PARTS: [(&str, &str, Option<Heads>); 9] = [
    ("attn_norm", "input_layernorm", None),
    ("attn_q", "self_attn.q_proj", Some(Heads::Query)),
    ("attn_k", "self_attn.k_proj", Some(Heads::Key)),
    ("attn_v", "self_attn.v_proj", None),
    ("attn_output", "self_attn.o_proj", None),
    ("ffn_norm", "post_attention_layernorm", None),
    ("ffn_gate", "mlp.gate_proj", None),
    ("ffn_up", "mlp.up_proj", None),
    ("ffn_down", "mlp.down_proj", None),
];

/// Projections of attention, and of the feed-forward block, with a bias in models that have them.
pub(super) const ATTENTION: [&str; 4] =
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"];
pub(super) const MLP: [&str; 3] = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];

/// The meaning of a name, if it is one of a Llama model's.
pub(super) fn meaning(name: &str) -> Option<Meaning> {
    let weight = |canonical: &str| Meaning::Weight {
        canonical: canonical.to_owned(),
        layer: None,
        heads: None,
    };
    match name {
        "token_embd.weight" => return Some(weight("embed_tokens.weight")),
        "output_norm.weight" => return Some(weight("norm.weight")),
        "output.weight" => return Some(weight("lm_head.weight")),
        "rope_freqs.weight" => return Some(Meaning::RopeFactors),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: u64 = layer.parse().ok().filter(|n: &u64| n.to_string() == layer)?;
    let (part, end) = rest.split_once('.')?;
    let (_, canonical, heads) = PARTS.iter().find(|(known, ..)| *known == part)?;
    let norm = canonical.ends_with("norm");
    if end != "weight" && (end != "bias" || norm) {
        return None;
    }
    let canonical = format!("layers.{layer}.{canonical}.{end}");
    Some(Meaning::Weight { canonical, layer: Some(layer), heads: *heads })
}

/// The row in the file of a row of a permuted tensor: dimensions of a head lie in pairs that are
/// rotated together there, (head, pair, half); here halves come first, (head, half, pair).
pub(super) fn row_in_file(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * pair + half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        let found = meaning("blk.12.attn_k.bias");
        let canonical = "layers.12.self_attn.k_proj.bias".to_owned();
        let heads = Some(Heads::Key);
        assert_eq!(found, Some(Meaning::Weight { canonical, layer: Some(12), heads }));
        for other in ["blk.01.attn_k.weight", "blk.+1.attn_k.weight", "blk.1.attn_norm.bias"] {
            assert_eq!(meaning(other), None, "{other}");
        }
        for other in ["blk.1.attn_k", "blk.1.ffn_gate_exps.weight", "output.bias", "", "blk."] {
            assert_eq!(meaning(other), None, "{other}");
        }
    }

    #[test]
    fn halves_of_a_head_come_together() {
        let rows: Vec<usize> = (0..8).map(|row| row_in_file(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
