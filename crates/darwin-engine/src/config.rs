//! The text model's numbers, read from `config.json` and checked.

use crate::Error;
use darwin_checkpoint::Problem;
use serde_json::Value;

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

    fn from_name(name: &str) -> Option<Self> {
        [Self::LinearAttention, Self::FullAttention].into_iter().find(|k| k.name() == name)
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

impl Config {
    /// Reads the numbers from a whole `config.json` (under `text_config` or flat) of the model
    /// called `name`.
    ///
    /// # Errors
    /// [`Error::Model`] with every key that is missing or cannot be run.
    pub fn from_json(config: &Value, name: &str) -> Result<Self, Error> {
        let mut read = Reader::new(config, name);
        let parsed = Self {
            hidden_size: read.size("hidden_size"),
            num_hidden_layers: read.size("num_hidden_layers"),
            layer_types: read.layer_types(),
            num_experts: read.size("num_experts"),
            num_experts_per_tok: read.size("num_experts_per_tok"),
            moe_intermediate_size: read.size("moe_intermediate_size"),
            shared_expert_intermediate_size: read.size("shared_expert_intermediate_size"),
            num_attention_heads: read.size("num_attention_heads"),
            num_key_value_heads: read.size("num_key_value_heads"),
            head_dim: read.size("head_dim"),
            rotary_dim: read.rotary_dim(),
            rope_theta: read.rope("rope_theta", 1e4),
            linear_num_key_heads: read.size("linear_num_key_heads"),
            linear_num_value_heads: read.size("linear_num_value_heads"),
            linear_key_head_dim: read.size("linear_key_head_dim"),
            linear_value_head_dim: read.size("linear_value_head_dim"),
            linear_conv_kernel_dim: read.size("linear_conv_kernel_dim"),
            rms_norm_eps: read.number("rms_norm_eps", Some(1e-6)),
            vocab_size: read.size("vocab_size"),
            tie_word_embeddings: read.tied(),
            max_position_embeddings: read.size("max_position_embeddings"),
        };
        read.supported();
        parsed.check(&mut read);
        if read.problems.is_empty() { Ok(parsed) } else { Err(Error::Model(read.problems)) }
    }

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

    fn check(&self, read: &mut Reader<'_>) {
        if self.layer_types.len() != self.num_hidden_layers {
            let n = self.num_hidden_layers;
            read.wrong("layer_types", self.layer_types.len(), &format!("{n} entries"));
        }
        if self.num_experts_per_tok > self.num_experts {
            let allowed = format!("at most num_experts = {}", self.num_experts);
            read.wrong("num_experts_per_tok", self.num_experts_per_tok, &allowed);
        }
        for (key, n, of_key, of) in [
            (
                "num_attention_heads",
                self.num_attention_heads,
                "num_key_value_heads",
                self.num_key_value_heads,
            ),
            (
                "linear_num_value_heads",
                self.linear_num_value_heads,
                "linear_num_key_heads",
                self.linear_num_key_heads,
            ),
        ] {
            if !n.is_multiple_of(of) {
                read.wrong(key, n, &format!("a multiple of {of_key} = {of}"));
            }
        }
        if !self.head_dim.is_multiple_of(2) {
            read.wrong("head_dim", self.head_dim, "even");
        }
        if !self.rotary_dim.is_multiple_of(2) || self.rotary_dim > self.head_dim {
            let allowed = format!("an even share of head_dim = {}", self.head_dim);
            read.wrong("rope_parameters.partial_rotary_factor", self.rotary_dim, &allowed);
        }
    }
}

/// Reads keys and collects what is wrong with them.
struct Reader<'a> {
    whole: &'a Value,
    text: &'a Value,
    prefix: &'static str,
    name: &'a str,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn new(whole: &'a Value, name: &'a str) -> Self {
        let nested = whole.get("text_config");
        let prefix = if nested.is_some() { "text_config." } else { "" };
        Self { whole, text: nested.unwrap_or(whole), prefix, name, problems: Vec::new() }
    }

    fn wrong(&mut self, key: &str, found: impl std::fmt::Display, allowed: &str) {
        let text = format!(
            "{}: config.json: `{}{key}` is {found}, needed is {allowed}",
            self.name, self.prefix
        );
        self.problems.push(Problem::new(text, "restore config.json from the model's source"));
    }

    /// A whole number of at least 1; 1 where it is missing, after noting so.
    fn size(&mut self, key: &str) -> usize {
        let found = self.text.get(key);
        match found.and_then(Value::as_u64) {
            Some(n) if (1..1 << 32).contains(&n) => n as usize,
            _ => {
                let shown = found.map_or("missing".to_owned(), Value::to_string);
                self.wrong(key, shown, "a whole number of at least 1");
                1
            }
        }
    }

    fn number(&mut self, key: &str, default: Option<f64>) -> f64 {
        self.positive(key, self.text.get(key), default)
    }

    fn positive(&mut self, key: &str, found: Option<&Value>, default: Option<f64>) -> f64 {
        match (found.map(Value::as_f64), default) {
            (None, Some(default)) => default,
            (Some(Some(x)), _) if x > 0.0 && x.is_finite() => x,
            _ => {
                let shown = found.map_or("missing".to_owned(), Value::to_string);
                self.wrong(key, shown, "a number above 0");
                1.0
            }
        }
    }

    /// A rope number: under `rope_parameters`, under `rope_scaling`, or beside the others.
    fn rope(&mut self, key: &str, default: f64) -> f64 {
        let nested = ["rope_parameters", "rope_scaling"]
            .iter()
            .find_map(|group| self.text.get(group).and_then(|g| g.get(key)));
        self.positive(key, nested.or(self.text.get(key)), Some(default))
    }

    fn rotary_dim(&mut self) -> usize {
        let head_dim = self.text.get("head_dim").and_then(Value::as_u64).unwrap_or(1);
        (head_dim as f64 * self.rope("partial_rotary_factor", 0.25)) as usize
    }

    fn tied(&self) -> bool {
        let key = "tie_word_embeddings";
        let found = self.whole.get(key).or(self.text.get(key));
        found.and_then(Value::as_bool).unwrap_or(false)
    }

    fn layer_types(&mut self) -> Vec<LayerKind> {
        let Some(list) = self.text.get("layer_types").and_then(Value::as_array) else {
            let layers = self.text.get("num_hidden_layers").and_then(Value::as_u64).unwrap_or(0);
            let every = self.text.get("full_attention_interval").and_then(Value::as_u64);
            let full = |i: u64| (i + 1).is_multiple_of(every.unwrap_or(4).max(1));
            let kind =
                |i| if full(i) { LayerKind::FullAttention } else { LayerKind::LinearAttention };
            return (0..layers.min(1 << 16)).map(kind).collect();
        };
        let mut kinds = Vec::new();
        for (i, value) in list.iter().enumerate() {
            match value.as_str().and_then(LayerKind::from_name) {
                Some(kind) => kinds.push(kind),
                None => {
                    let key = format!("layer_types[{i}]");
                    self.wrong(&key, value, "linear_attention or full_attention");
                    kinds.push(LayerKind::FullAttention);
                }
            }
        }
        kinds
    }

    /// Notes what the numbers ask for that this engine does not compute.
    fn supported(&mut self) {
        if let Some(act) = self.text.get("hidden_act").filter(|a| a.as_str() != Some("silu")) {
            self.wrong("hidden_act", act, "silu");
        }
        if let Some(bias) = self.text.get("attention_bias").filter(|b| b.as_bool() == Some(true)) {
            self.wrong("attention_bias", bias, "false");
        }
        let rope = self.text.get("rope_parameters").and_then(|r| r.get("rope_type"));
        if let Some(kind) = rope.filter(|r| r.as_str() != Some("default")) {
            self.wrong("rope_parameters.rope_type", kind, "default");
        }
    }
}
