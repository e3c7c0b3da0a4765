//! The text model's numbers, read from `config.json` by its family and checked.

mod input;
mod latent;
mod reader;
mod rope;
mod router;

pub use latent::LatentForm;
pub(crate) use reader::Reader;
pub use rope::{Rope, RopeScaling};
pub use router::{RouterForm, RouterGroups, RouterScores};

use crate::Error;
use crate::layer::{expected, expected_of_layer, prefix};
use crate::weights::Expected;

/// What mixes the tokens in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// Gated DeltaNet.
    LinearAttention,
    /// Softmax attention over all earlier tokens.
    FullAttention,
    /// Softmax attention over the last [`Config::sliding_window`] tokens.
    SlidingAttention,
}

impl LayerKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::LinearAttention, Self::FullAttention, Self::SlidingAttention];

    /// The name in `layer_types`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LinearAttention => "linear_attention",
            Self::FullAttention => "full_attention",
            Self::SlidingAttention => "sliding_attention",
        }
    }
}

/// What follows the mixer in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpKind {
    /// One feed-forward block for every token.
    Dense,
    /// A router and experts.
    Sparse,
}

/// Which form softmax attention takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AttentionForm {
    /// `q_proj` gives a query and a gate for each head.
    pub gated: bool,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// `q_proj`, `k_proj` and `v_proj` have biases.
    pub qkv_bias: bool,
    /// `o_proj` has a bias.
    pub o_bias: bool,
    /// Projected queries, keys and values are cut to this range around 0.
    pub clip_qkv: Option<f32>,
}

/// Norms of queries and keys before they are rotated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QkNorm {
    /// There are none.
    #[default]
    None,
    /// Each head for itself: weights (head dim).
    Head,
    /// All heads together: weights (heads x head dim).
    Whole,
}

/// How Gated DeltaNet's input projections are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinearForm {
    /// `in_proj_qkv`, `in_proj_z`, `in_proj_b`, `in_proj_a`.
    #[default]
    Split,
    /// `in_proj_qkvz` and `in_proj_ba`, with the rows of each key head together.
    ByKeyHead,
}

/// What runs beside the routed experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharedForm {
    /// Nothing.
    #[default]
    None,
    /// `shared_expert` times the sigmoid of `shared_expert_gate`.
    Gated,
    /// `shared_experts`.
    Plain,
}

/// The numbers of a text model, under transformers' names; 0 for a part that it does not have.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the field names are the keys of config.json")]
pub struct Config {
    pub model_type: String,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub layer_types: Vec<LayerKind>,
    /// What follows the mixer, for each layer.
    pub mlp_types: Vec<MlpKind>,
    pub intermediate_size: usize,
    pub mlp_bias: bool,
    pub num_experts: usize,
    pub num_experts_per_tok: usize,
    pub moe_intermediate_size: usize,
    pub shared_expert_intermediate_size: usize,
    pub router: RouterForm,
    pub shared: SharedForm,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub attention: AttentionForm,
    /// In place of the usual attention.
    pub latent: Option<LatentForm>,
    pub sliding_window: usize,
    pub rope: Rope,
    pub linear: LinearForm,
    pub linear_num_key_heads: usize,
    pub linear_num_value_heads: usize,
    pub linear_key_head_dim: usize,
    pub linear_value_head_dim: usize,
    pub linear_conv_kernel_dim: usize,
    pub rms_norm_eps: f64,
    /// Norm weights are stored as their difference from 1.
    pub centred_norms: bool,
    pub vocab_size: usize,
    pub tie_word_embeddings: bool,
    pub max_position_embeddings: usize,
}

impl Config {
    /// Width of the keys of linear attention.
    #[must_use]
    pub fn linear_key_dim(&self) -> usize {
        self.linear_num_key_heads * self.linear_key_head_dim
    }

    /// Width of the values of linear attention.
    #[must_use]
    pub fn linear_value_dim(&self) -> usize {
        self.linear_num_value_heads * self.linear_value_head_dim
    }

    /// Channels of the convolution: queries, keys, values.
    #[must_use]
    pub fn linear_conv_dim(&self) -> usize {
        2 * self.linear_key_dim() + self.linear_value_dim()
    }

    /// How many of the latest tokens, itself included, a token of a layer can attend to.
    #[must_use]
    pub fn window(&self, layer: usize) -> usize {
        match self.layer_types[layer] {
            LayerKind::SlidingAttention => self.sliding_window,
            LayerKind::LinearAttention | LayerKind::FullAttention => usize::MAX,
        }
    }

    /// Active parameters per token: all matrices but the experts that are not chosen, and but the
    /// embedding unless it is the head too.
    #[must_use]
    pub fn active_weights(&self) -> usize {
        let embedding = if self.tie_word_embeddings { "" } else { "embed_tokens.weight" };
        self.met(expected(self).into_iter().filter(|t| t.name != embedding))
    }

    /// As [`Config::active_weights`], of one layer.
    pub(crate) fn active_weights_of(&self, layer: usize) -> usize {
        self.met(expected_of_layer(self, layer, &prefix(layer)).into_iter())
    }

    /// Weights that a token meets in these tensors.
    fn met(&self, tensors: impl Iterator<Item = Expected>) -> usize {
        let matrices = tensors.filter(|t| t.shape.len() > 1);
        let met = matrices.map(|t| {
            let all: usize = t.shape.iter().product();
            if t.name.contains(".mlp.experts.") {
                all / self.num_experts * self.num_experts_per_tok
            } else {
                all
            }
        });
        met.sum()
    }

    /// The name of the output head's weight.
    pub(crate) fn head(&self) -> &'static str {
        if self.tie_word_embeddings { "embed_tokens.weight" } else { "lm_head.weight" }
    }

    /// The numbers that all families have; the parts that a model may lack are absent.
    pub(crate) fn plain(read: &mut Reader<'_>) -> Self {
        let num_hidden_layers = read.layers();
        let (hidden_size, heads) = (read.size("hidden_size"), read.size("num_attention_heads"));
        let head_dim = read.size_or("head_dim", (hidden_size / heads).max(1));
        Self {
            model_type: read.model_type(),
            hidden_size,
            num_hidden_layers,
            layer_types: vec![LayerKind::FullAttention; num_hidden_layers],
            mlp_types: vec![MlpKind::Dense; num_hidden_layers],
            intermediate_size: 0,
            mlp_bias: false,
            num_experts: 0,
            num_experts_per_tok: 0,
            moe_intermediate_size: 0,
            shared_expert_intermediate_size: 0,
            router: RouterForm::softmax(true),
            shared: SharedForm::None,
            num_attention_heads: heads,
            num_key_value_heads: read.size_or("num_key_value_heads", heads),
            head_dim,
            attention: AttentionForm::default(),
            latent: None,
            sliding_window: 0,
            rope: Rope::plain(head_dim),
            linear: LinearForm::Split,
            linear_num_key_heads: 0,
            linear_num_value_heads: 0,
            linear_key_head_dim: 0,
            linear_value_head_dim: 0,
            linear_conv_kernel_dim: 0,
            rms_norm_eps: read.number("rms_norm_eps", Some(1e-6)),
            centred_norms: false,
            vocab_size: read.size("vocab_size"),
            tie_word_embeddings: read.tied(),
            max_position_embeddings: read.size("max_position_embeddings"),
        }
    }

    /// Gated DeltaNet's numbers, and which layers have it (`layer_types`, or every layer but each
    /// `full_attention_interval`-th).
    pub(crate) fn with_linear_attention(mut self, read: &mut Reader<'_>, form: LinearForm) -> Self {
        self.linear = form;
        self.layer_types =
            read.layer_types(&[LayerKind::LinearAttention, LayerKind::FullAttention], |read| {
                let every = read.text_u64("full_attention_interval").unwrap_or(4).max(1) as usize;
                let kind = |i: usize| {
                    let full = (i + 1).is_multiple_of(every);
                    if full { LayerKind::FullAttention } else { LayerKind::LinearAttention }
                };
                (0..self.num_hidden_layers).map(kind).collect()
            });
        self.linear_num_key_heads = read.size("linear_num_key_heads");
        self.linear_num_value_heads = read.size("linear_num_value_heads");
        self.linear_key_head_dim = read.size("linear_key_head_dim");
        self.linear_value_head_dim = read.size("linear_value_head_dim");
        self.linear_conv_kernel_dim = read.size("linear_conv_kernel_dim");
        self
    }

    /// Attention to the latest `sliding_window` tokens, in the layers that `layer_types` says, or
    /// from `from` on.
    pub(crate) fn with_sliding_window(mut self, read: &mut Reader<'_>, from: usize) -> Self {
        let window = read.text_u64("sliding_window").unwrap_or(0) as usize;
        let kinds = [LayerKind::FullAttention, LayerKind::SlidingAttention];
        self.layer_types = read.layer_types(&kinds, |_| {
            let kind = |i| kinds[usize::from(window > 0 && i >= from)];
            (0..self.num_hidden_layers).map(kind).collect()
        });
        if self.layer_types.contains(&LayerKind::SlidingAttention) {
            self.sliding_window = read.size("sliding_window");
        }
        self
    }

    /// Routed experts in the layers that `mlp_only_layers` and `decoder_sparse_step` say; the
    /// others are dense.
    pub(crate) fn with_experts(mut self, read: &mut Reader<'_>, num_experts: &str) -> Self {
        self.num_experts = read.size(num_experts);
        self.num_experts_per_tok = read.size("num_experts_per_tok");
        let step = read.size_or("decoder_sparse_step", 1);
        let dense = read.list("mlp_only_layers");
        let kind = |i: usize| {
            let sparse = (i + 1).is_multiple_of(step) && !dense.contains(&(i as u64));
            if sparse { MlpKind::Sparse } else { MlpKind::Dense }
        };
        self.mlp_types = (0..self.num_hidden_layers).map(kind).collect();
        if self.mlp_types.contains(&MlpKind::Dense) {
            self.intermediate_size = read.size("intermediate_size");
        }
        self
    }

    /// Checks what holds for every family, and gives the config or everything that is wrong.
    pub(crate) fn checked(self, mut read: Reader<'_>) -> Result<Self, Error> {
        read.supported();
        self.check(&mut read);
        let problems = read.into_problems();
        if problems.is_empty() { Ok(self) } else { Err(Error::Model(problems)) }
    }

    fn check(&self, read: &mut Reader<'_>) {
        if self.layer_types.len() != self.num_hidden_layers {
            let n = self.num_hidden_layers;
            read.wrong("layer_types", self.layer_types.len(), &format!("{n} entries"));
        }
        if self.num_experts_per_tok > self.num_experts {
            let allowed = format!("at most num_experts = {}", self.num_experts);
            read.wrong("num_experts_per_tok", self.num_experts_per_tok, &allowed);
        }
        let heads = (self.num_attention_heads, self.num_key_value_heads);
        let linear = (self.linear_num_value_heads, self.linear_num_key_heads);
        for (key, of_key, (n, of)) in [
            ("num_attention_heads", "num_key_value_heads", heads),
            ("linear_num_value_heads", "linear_num_key_heads", linear),
        ] {
            if n > 0 && !n.is_multiple_of(of) {
                read.wrong(key, n, &format!("a multiple of {of_key} = {of}"));
            }
        }
        if self.latent.is_some() {
            return;
        }
        if !self.head_dim.is_multiple_of(2) {
            read.wrong("head_dim", self.head_dim, "even");
        }
        if !self.rope.dim.is_multiple_of(2) || self.rope.dim > self.head_dim {
            let allowed = format!("an even share of head_dim = {}", self.head_dim);
            read.wrong("rope_parameters.partial_rotary_factor", self.rope.dim, &allowed);
        }
    }
}
