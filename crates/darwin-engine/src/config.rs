//! The text model's numbers, read from `config.json` and checked.

/// What mixes the tokens in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// Gated DeltaNet.
    LinearAttention,
    /// Gated softmax attention.
    FullAttention,
}

impl LayerKind {
    /// The name in `layer_types`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LinearAttention => "linear_attention",
            Self::FullAttention => "full_attention",
        }
    }
}

/// The numbers of a Qwen3.5-MoE text model, under transformers' names.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the field names are the keys of config.json")]
pub struct Config {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub layer_types: Vec<LayerKind>,
    pub num_experts: usize,
    pub num_experts_per_tok: usize,
    pub moe_intermediate_size: usize,
    pub shared_expert_intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// `head_dim * partial_rotary_factor`: the dimensions of a head that are rotated.
    pub rotary_dim: usize,
    pub rope_theta: f64,
    pub linear_num_key_heads: usize,
    pub linear_num_value_heads: usize,
    pub linear_key_head_dim: usize,
    pub linear_value_head_dim: usize,
    pub linear_conv_kernel_dim: usize,
    pub rms_norm_eps: f64,
    pub vocab_size: usize,
    pub tie_word_embeddings: bool,
    pub max_position_embeddings: usize,
}
