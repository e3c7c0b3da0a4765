//! The model families that are known by name: what their configs say, how their files name routed
//! experts. Any other model is merged tensor by tensor, by names and shapes alone.

use serde_json::Value;

/// How a family's files name routed experts where they lie one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertNaming {
    /// It has none.
    Dense,
    /// `mlp.experts.J.{gate,up,down}_proj.weight`.
    Projections,
    /// `block_sparse_moe.experts.J.{w1,w3,w2}.weight`, and `block_sparse_moe.gate.weight`.
    Mixtral,
    /// They are always fused, inputs before outputs: (E, H, 2I) and (E, I, H).
    FusedOnly,
}

/// A model family.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// The `model_type`s of its configs, each with its `architectures` entry.
    pub types: &'static [(&'static str, &'static str)],
    /// How routed experts are named.
    pub experts: ExpertNaming,
    /// What it has beside a plain decoder.
    pub parts: &'static str,
}

/// All families, mixtures of experts first.
pub const FAMILIES: [Family; 14] = [
    Family {
        name: "Qwen3.5-MoE, Qwen3.6-MoE",
        types: &[
            ("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration"),
            ("qwen3_5_moe_text", "Qwen3_5MoeForCausalLM"),
        ],
        experts: ExpertNaming::Projections,
        parts: "linear attention, shared expert, vision, MTP",
    },
    Family {
        name: "Qwen3-Next",
        types: &[("qwen3_next", "Qwen3NextForCausalLM")],
        experts: ExpertNaming::Projections,
        parts: "linear attention, shared expert, MTP",
    },
    Family {
        name: "Qwen3-MoE",
        types: &[("qwen3_moe", "Qwen3MoeForCausalLM")],
        experts: ExpertNaming::Projections,
        parts: "",
    },
    Family {
        name: "Qwen2-MoE",
        types: &[("qwen2_moe", "Qwen2MoeForCausalLM")],
        experts: ExpertNaming::Projections,
        parts: "shared expert",
    },
    Family {
        name: "Mixtral",
        types: &[("mixtral", "MixtralForCausalLM")],
        experts: ExpertNaming::Mixtral,
        parts: "",
    },
    Family {
        name: "OLMoE",
        types: &[("olmoe", "OlmoeForCausalLM")],
        experts: ExpertNaming::Projections,
        parts: "",
    },
    Family {
        name: "DeepSeek-V2, DeepSeek-V3",
        types: &[
            ("deepseek_v2", "DeepseekV2ForCausalLM"),
            ("deepseek_v3", "DeepseekV3ForCausalLM"),
        ],
        experts: ExpertNaming::Projections,
        parts: "latent attention, dense first layers, shared experts, router bias, MTP, FP8",
    },
    Family {
        name: "GLM-MoE",
        types: &[("glm4_moe", "Glm4MoeForCausalLM"), ("glm4_moe_lite", "Glm4MoeLiteForCausalLM")],
        experts: ExpertNaming::Projections,
        parts: "dense first layers, shared experts, router bias, MTP",
    },
    Family {
        name: "gpt-oss",
        types: &[("gpt_oss", "GptOssForCausalLM")],
        experts: ExpertNaming::FusedOnly,
        parts: "expert and router biases, attention sinks, MXFP4",
    },
    Family {
        name: "Qwen3.5, Qwen3.6",
        types: &[
            ("qwen3_5", "Qwen3_5ForConditionalGeneration"),
            ("qwen3_5_text", "Qwen3_5ForCausalLM"),
        ],
        experts: ExpertNaming::Dense,
        parts: "linear attention, vision, MTP",
    },
    Family {
        name: "Qwen3, Qwen2",
        types: &[("qwen3", "Qwen3ForCausalLM"), ("qwen2", "Qwen2ForCausalLM")],
        experts: ExpertNaming::Dense,
        parts: "",
    },
    Family {
        name: "Llama",
        types: &[("llama", "LlamaForCausalLM"), ("smollm3", "SmolLM3ForCausalLM")],
        experts: ExpertNaming::Dense,
        parts: "",
    },
    Family {
        name: "Mistral",
        types: &[
            ("mistral", "MistralForCausalLM"),
            ("ministral3", "Ministral3ForCausalLM"),
            ("mistral3", "Mistral3ForConditionalGeneration"),
        ],
        experts: ExpertNaming::Dense,
        parts: "vision in mistral3",
    },
    Family {
        name: "Gemma",
        types: &[
            ("gemma", "GemmaForCausalLM"),
            ("gemma2", "Gemma2ForCausalLM"),
            ("gemma3_text", "Gemma3ForCausalLM"),
            ("gemma3", "Gemma3ForConditionalGeneration"),
        ],
        experts: ExpertNaming::Dense,
        parts: "norms around both blocks, tied head, vision in gemma3",
    },
];

impl Family {
    /// The family of a config, by its `model_type`.
    #[must_use]
    pub fn of(config: &Value) -> Option<&'static Self> {
        Self::of_type(config.get("model_type")?.as_str()?)
    }

    /// The family with a `model_type`.
    #[must_use]
    pub fn of_type(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.types.iter().any(|(known, _)| *known == model_type))
    }

    /// The `architectures` entry of a `model_type`.
    #[must_use]
    pub fn architecture(model_type: &str) -> Option<&'static str> {
        let types = FAMILIES.iter().flat_map(|family| family.types);
        types.into_iter().find(|(known, _)| *known == model_type).map(|(_, class)| *class)
    }
}
