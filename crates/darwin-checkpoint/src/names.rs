//! Canonical names and roles of tensors: what a name means, whatever prefix and expert layout the
//! files use (transformers' `models/qwen3_5_moe`).

use darwin_core::{ExpertIdx, LayerIdx, Part};
use serde::{Deserialize, Serialize};

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Token embedding.
    Embedding,
    /// A linear-attention (Gated DeltaNet) tensor, its inner norm, decay and convolution included.
    LinearAttention,
    /// A full-attention tensor, its query and key norms included.
    Attention,
    /// The router.
    Router,
    /// Routed experts.
    RoutedExpert,
    /// The shared expert and its gate.
    SharedExpert,
    /// A dense feed-forward block.
    Mlp,
    /// A layer norm of the residual stream.
    Norm,
    /// The vision tower.
    Vision,
    /// Multi-token prediction.
    Mtp,
    /// The output head.
    Head,
    /// Anything else.
    Other,
}

impl Role {
    /// The name used in files and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::LinearAttention => "linear_attention",
            Self::Attention => "attention",
            Self::Router => "router",
            Self::RoutedExpert => "routed_expert",
            Self::SharedExpert => "shared_expert",
            Self::Mlp => "mlp",
            Self::Norm => "norm",
            Self::Vision => "vision",
            Self::Mtp => "mtp",
            Self::Head => "head",
            Self::Other => "other",
        }
    }
}

/// Prefixes of the language model in the wild, longest first, with what stands for them in a
/// canonical name.
const PREFIXES: [(&str, &str); 4] = [
    ("model.language_model.", ""),
    ("language_model.model.", ""),
    ("language_model.lm_head.", "lm_head."),
    ("model.", ""),
];

/// Mixtral's name of what others, and its own fused checkpoints, call `mlp`.
pub(crate) const MIXTRAL_BLOCK: &str = ".block_sparse_moe.";

/// What a block of routed experts is called elsewhere.
pub(crate) const BLOCK: &str = ".mlp.";

/// The name without the family's prefix: `layers.3.mlp.gate.weight`, `visual.…`, `mtp.…`.
#[must_use]
pub fn canonical_name(name: &str) -> String {
    let (replacement, rest) = PREFIXES
        .iter()
        .find_map(|(prefix, replacement)| Some((*replacement, name.strip_prefix(prefix)?)))
        .unwrap_or(("", name));
    format!("{replacement}{}", rest.replacen(MIXTRAL_BLOCK, BLOCK, 1))
}

/// What stands before the language model: towers for other modalities, and their way in.
const TOWERS: [&str; 5] =
    ["visual.", "vision_tower.", "vision_model.", "multi_modal_projector.", "audio_tower."];

/// The name on disk of the same tensor in a checkpoint of the language model alone.
#[must_use]
pub fn text_only_name(name: &str) -> String {
    let inner = ["model.language_model.", "language_model.model."];
    match inner.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        Some(rest) => format!("model.{rest}"),
        None => name.strip_prefix("language_model.").unwrap_or(name).to_owned(),
    }
}

/// The norm behind the last layer.
const FINAL_NORM: &str = "norm.weight";

/// Layers and experts of a model at most: numbers in names are smaller.
pub const MAX_NUMBER: usize = 1 << 16;

/// The number of a layer or an expert, in its one spelling.
fn number(digits: &str) -> Option<usize> {
    let spelled = is_number(digits) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|number| spelled && *number < MAX_NUMBER)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a canonical name numbers higher than any model has layers or experts, and the number.
pub(crate) fn beyond(canonical: &str) -> Option<(&'static str, &str)> {
    let layer = canonical.strip_prefix("layers.").map(|rest| ("layer", rest));
    let expert = canonical.split_once(".experts.").map(|(_, rest)| ("expert", rest));
    let numbers = [layer, expert]
        .into_iter()
        .flatten()
        .map(|(what, rest)| (what, rest.split_once('.').map_or(rest, |(number, _)| number)));
    numbers.into_iter().find(|(_, digits)| {
        is_number(digits) && !digits.starts_with('0') && number(digits).is_none()
    })
}

/// Role and decoder layer of a canonical name. Numbers from 65,536 on are no layer's.
#[must_use]
pub fn role_of(canonical: &str) -> (Role, Option<LayerIdx>) {
    match canonical {
        "embed_tokens.weight" => return (Role::Embedding, None),
        FINAL_NORM => return (Role::Norm, None),
        "lm_head.weight" => return (Role::Head, None),
        _ => {}
    }
    if TOWERS.iter().any(|tower| canonical.starts_with(tower)) {
        return (Role::Vision, None);
    }
    if canonical.starts_with("mtp.") {
        return (Role::Mtp, None);
    }
    let Some((layer, rest)) = canonical
        .strip_prefix("layers.")
        .and_then(|r| r.split_once('.'))
        .and_then(|(n, rest)| number(n).map(|n| (LayerIdx(n), rest)))
    else {
        return (Role::Other, None);
    };
    (layer_role(rest), Some(layer))
}

/// The part of the model that a tensor of this role and canonical name belongs to (method 3.1's
/// table): the one place where that is decided. An input norm belongs to the mixer that it feeds,
/// the other norms of a layer and a dense feed-forward block to the routed experts. `None` for
/// vision, multi-token prediction and what is not known.
#[must_use]
pub fn part_of(role: Role, canonical: &str) -> Option<Part> {
    match role {
        Role::Embedding => Some(Part::Embed),
        Role::Head => Some(Part::Head),
        Role::LinearAttention | Role::Attention => Some(Part::Mixer),
        Role::RoutedExpert | Role::Mlp => Some(Part::Routed),
        Role::SharedExpert => Some(Part::Shared),
        Role::Router => Some(Part::Router),
        Role::Norm if canonical == FINAL_NORM => Some(Part::Norm),
        Role::Norm if canonical.contains(".input_layernorm.") => Some(Part::Mixer),
        Role::Norm => Some(Part::Routed),
        Role::Vision | Role::Mtp | Role::Other => None,
    }
}

fn layer_role(rest: &str) -> Role {
    const NORMS: [&str; 4] = [
        "input_layernorm.",
        "post_attention_layernorm.",
        "pre_feedforward_layernorm.",
        "post_feedforward_layernorm.",
    ];
    const ROUTERS: [&str; 3] = ["mlp.gate.", "mlp.router.", "mlp.moe_statics."];
    const SHARED: [&str; 3] =
        ["mlp.shared_expert.", "mlp.shared_expert_gate.", "mlp.shared_experts."];
    const MLP: [&str; 4] =
        ["mlp.gate_proj.", "mlp.up_proj.", "mlp.down_proj.", "mlp.gate_up_proj."];
    let any = |starts: &[&str]| starts.iter().any(|start| rest.starts_with(start));
    if any(&NORMS) {
        Role::Norm
    } else if rest.starts_with("linear_attn.") {
        Role::LinearAttention
    } else if rest.starts_with("self_attn.") {
        Role::Attention
    } else if any(&ROUTERS) {
        Role::Router
    } else if rest.starts_with("mlp.experts.") {
        Role::RoutedExpert
    } else if any(&SHARED) {
        Role::SharedExpert
    } else if any(&MLP) {
        Role::Mlp
    } else {
        Role::Other
    }
}

/// Which part of a fused expert tensor a per-expert tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpertPart {
    Gate,
    Up,
    Down,
}

/// Splits `….experts.J.gate_proj.weight`, Mixtral's `….experts.J.w1.weight`, into (`….experts.`, J,
/// part).
pub(crate) fn expert_piece(canonical: &str) -> Option<(&str, ExpertIdx, ExpertPart)> {
    let at = canonical.find(".experts.")? + ".experts.".len();
    let (base, rest) = canonical.split_at(at);
    let (index, part) = rest.split_once('.')?;
    let part = match part {
        "gate_proj.weight" | "w1.weight" => ExpertPart::Gate,
        "up_proj.weight" | "w3.weight" => ExpertPart::Up,
        "down_proj.weight" | "w2.weight" => ExpertPart::Down,
        _ => return None,
    };
    Some((base, ExpertIdx(number(index)?), part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_do_not_matter() {
        for name in
            ["model.language_model.layers.3.mlp.gate.weight", "model.layers.3.mlp.gate.weight"]
        {
            assert_eq!(canonical_name(name), "layers.3.mlp.gate.weight");
        }
        for router in
            ["gate.weight", "gate.e_score_correction_bias", "router.weight", "router.bias"]
        {
            let role = role_of(&format!("layers.3.mlp.{router}"));
            assert_eq!(role, (Role::Router, Some(LayerIdx(3))), "{router}");
        }
        assert_eq!(
            role_of(&canonical_name("model.visual.blocks.0.attn.qkv.weight")).0,
            Role::Vision
        );
        assert_eq!(role_of(&canonical_name("mtp.layers.0.mlp.gate.weight")).0, Role::Mtp);
        assert_eq!(role_of("layers.0.linear_attn.norm.weight").0, Role::LinearAttention);
    }

    #[test]
    fn parts_are_those_of_method_3_1() {
        let part = |name: &str| part_of(role_of(name).0, name);
        for (name, wanted) in [
            ("embed_tokens.weight", Some(Part::Embed)),
            ("lm_head.weight", Some(Part::Head)),
            ("norm.weight", Some(Part::Norm)),
            ("layers.3.input_layernorm.weight", Some(Part::Mixer)),
            ("layers.0.linear_attn.norm.weight", Some(Part::Mixer)),
            ("layers.3.self_attn.q_norm.weight", Some(Part::Mixer)),
            ("layers.0.post_attention_layernorm.weight", Some(Part::Routed)),
            ("layers.0.pre_feedforward_layernorm.weight", Some(Part::Routed)),
            ("layers.0.mlp.down_proj.weight", Some(Part::Routed)),
            ("layers.0.mlp.experts.down_proj", Some(Part::Routed)),
            ("layers.0.mlp.shared_expert_gate.weight", Some(Part::Shared)),
            ("layers.0.mlp.gate.e_score_correction_bias", Some(Part::Router)),
            ("visual.pos_embed.weight", None),
            ("mtp.layers.0.input_layernorm.weight", None),
            ("layers.0.something.weight", None),
        ] {
            assert_eq!(part(name), wanted, "{name}");
        }
    }

    #[test]
    fn per_expert_names_split() {
        assert_eq!(
            expert_piece("layers.0.mlp.experts.17.up_proj.weight"),
            Some(("layers.0.mlp.experts.", ExpertIdx(17), ExpertPart::Up))
        );
        assert_eq!(expert_piece("layers.0.mlp.experts.gate_up_proj"), None);
    }

    #[test]
    fn numbers_have_one_spelling_and_a_limit() {
        for (number, layer) in [
            ("0", Some(0)),
            ("65535", Some(65_535)),
            ("65536", None),
            ("18446744073709551615", None),
            ("99999999999999999999999", None),
            ("+1", None),
            ("01", None),
            ("", None),
        ] {
            let name = format!("layers.{number}.mlp.up_proj.weight");
            assert_eq!(role_of(&name).1, layer.map(LayerIdx), "{name}");
            let piece = format!("layers.0.mlp.experts.{number}.up_proj.weight");
            assert_eq!(expert_piece(&piece).map(|(_, e, _)| e), layer.map(ExpertIdx), "{piece}");
            let large = number.len() > 4 && layer.is_none();
            assert_eq!(beyond(&name), large.then_some(("layer", number)));
            assert_eq!(beyond(&piece), large.then_some(("expert", number)));
        }
        assert_eq!(beyond("layers.0.mlp.experts.99999999"), Some(("expert", "99999999")));
        assert_eq!(beyond("layers.0.mlp.experts.gate_up_proj"), None);
    }
}
