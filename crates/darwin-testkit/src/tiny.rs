//! Tiny models in memory.

use crate::TINY_VOCAB;
use darwin_checkpoint::{Dtype, MemorySource, TensorInfo, TensorSource};
use darwin_core::keyed::{Key, Rng};
use serde_json::{Value, json};

/// Sizes of a tiny model. The default has an odd expert count, KV groups of 2, 3 linear layers
/// and 1 full-attention layer.
#[derive(Clone, Debug)]
pub struct Tiny {
    /// Vocabulary; [`TINY_VOCAB`] fits the tokenizer of [`crate::write_tiny_text`].
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// For every layer, whether it is full attention.
    pub full_attention: Vec<bool>,
    /// Routed experts.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Element type of all tensors but `A_log` and `linear_attn.norm`, which are f32.
    pub dtype: Dtype,
}

impl Default for Tiny {
    fn default() -> Self {
        Self {
            vocab: TINY_VOCAB,
            hidden: 32,
            full_attention: vec![false, false, false, true],
            experts: 6,
            top_k: 2,
            dtype: Dtype::F32,
        }
    }
}

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 16;
const KEY_HEADS: usize = 2;
const VALUE_HEADS: usize = 4;
const LINEAR_DIM: usize = 8;
const EXPERT_WIDTH: usize = 8;
const SHARED_WIDTH: usize = 16;

/// A random model of the default sizes.
#[must_use]
pub fn tiny_qwen35(seed: u64) -> MemorySource {
    Tiny::default().build("tiny", seed)
}

/// A random Qwen3-MoE of four layers, of which the second is dense, without a shared expert.
///
/// # Panics
/// Never: names and shapes are made here.
#[must_use]
pub fn tiny_qwen3_moe(seed: u64) -> MemorySource {
    let hidden = Tiny::default().hidden;
    let sizes = json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
        "head_dim": HEAD_DIM, "num_experts": 6, "num_experts_per_tok": 2,
        "moe_intermediate_size": EXPERT_WIDTH, "norm_topk_prob": false, "mlp_only_layers": [1],
    });
    plain("tiny", &sizes, seed, |layer| {
        let mut shapes = vec![
            ("self_attn.q_norm.weight", vec![HEAD_DIM]),
            ("self_attn.k_norm.weight", vec![HEAD_DIM]),
        ];
        shapes.extend(if layer == 1 {
            dense(hidden)
        } else {
            vec![
                ("mlp.gate.weight", vec![6, hidden]),
                ("mlp.experts.gate_up_proj", vec![6, 2 * EXPERT_WIDTH, hidden]),
                ("mlp.experts.down_proj", vec![6, hidden, EXPERT_WIDTH]),
            ]
        });
        shapes
    })
}

/// A random Llama of four layers.
///
/// # Panics
/// Never: names and shapes are made here.
#[must_use]
pub fn tiny_llama(seed: u64) -> MemorySource {
    let sizes =
        json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": HEAD_DIM});
    plain("tiny", &sizes, seed, |_| dense(Tiny::default().hidden))
}

/// A model of plain attention layers; `more` gives a layer's other tensors.
fn plain(
    name: &str,
    sizes: &Value,
    seed: u64,
    more: impl Fn(usize) -> Vec<(&'static str, Vec<usize>)>,
) -> MemorySource {
    let Tiny { vocab, hidden: h, .. } = Tiny::default();
    let mut config = json!({
        "num_hidden_layers": 4, "hidden_act": "silu", "max_position_embeddings": 1024,
        "tie_word_embeddings": false, "vocab_size": vocab, "hidden_size": h,
        "intermediate_size": 3 * EXPERT_WIDTH, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-6, "dtype": "float32",
    });
    for (key, value) in sizes.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let mut shapes = vec![
        ("embed_tokens.weight".to_owned(), vec![vocab, h]),
        ("norm.weight".to_owned(), vec![h]),
        ("lm_head.weight".to_owned(), vec![vocab, h]),
    ];
    for layer in 0..4 {
        let own = [
            ("input_layernorm.weight", vec![h]),
            ("post_attention_layernorm.weight", vec![h]),
            ("self_attn.q_proj.weight", vec![HEADS * HEAD_DIM, h]),
            ("self_attn.k_proj.weight", vec![KV_HEADS * HEAD_DIM, h]),
            ("self_attn.v_proj.weight", vec![KV_HEADS * HEAD_DIM, h]),
            ("self_attn.o_proj.weight", vec![h, HEADS * HEAD_DIM]),
        ];
        let all = own.into_iter().chain(more(layer));
        shapes.extend(all.map(|(name, shape)| (format!("layers.{layer}.{name}"), shape)));
    }
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let mut values = random_values(&name, &shape, seed);
        if name.ends_with("norm.weight") {
            values.iter_mut().for_each(|v| *v += 1.0); // these norms are not centred
        }
        (name, Dtype::F32, shape, values)
    });
    MemorySource::new(name, config, tensors.collect()).expect("shapes and values agree")
}

fn dense(h: usize) -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("mlp.gate_proj.weight", vec![3 * EXPERT_WIDTH, h]),
        ("mlp.up_proj.weight", vec![3 * EXPERT_WIDTH, h]),
        ("mlp.down_proj.weight", vec![h, 3 * EXPERT_WIDTH]),
    ]
}

impl Tiny {
    /// A random model of these sizes.
    ///
    /// # Panics
    /// Never for sizes above 0: names and shapes are made here.
    #[must_use]
    pub fn build(&self, name: &str, seed: u64) -> MemorySource {
        let tensors = self
            .shapes()
            .into_iter()
            .map(|(tensor, shape)| {
                let values = random_values(&tensor, &shape, seed);
                let island =
                    tensor.ends_with("A_log") || tensor.ends_with("linear_attn.norm.weight");
                (tensor, if island { Dtype::F32 } else { self.dtype }, shape, values)
            })
            .collect();
        MemorySource::new(name, self.config(), tensors).expect("shapes and values agree")
    }

    /// The `config.json`, official nesting.
    #[must_use]
    pub fn config(&self) -> Value {
        let types: Vec<&str> = self
            .full_attention
            .iter()
            .map(|full| if *full { "full_attention" } else { "linear_attention" })
            .collect();
        json!({
            "architectures": ["Qwen3_5MoeForConditionalGeneration"],
            "model_type": "qwen3_5_moe",
            "tie_word_embeddings": false,
            "dtype": self.dtype.torch_name(),
            "text_config": {
                "model_type": "qwen3_5_moe_text",
                "num_hidden_layers": types.len(),
                "hidden_act": "silu",
                "attention_bias": false,
                "max_position_embeddings": 1024,
                "tie_word_embeddings": false,
                "vocab_size": self.vocab,
                "hidden_size": self.hidden,
                "layer_types": types,
                "num_attention_heads": HEADS,
                "num_key_value_heads": KV_HEADS,
                "head_dim": HEAD_DIM,
                "linear_num_key_heads": KEY_HEADS,
                "linear_num_value_heads": VALUE_HEADS,
                "linear_key_head_dim": LINEAR_DIM,
                "linear_value_head_dim": LINEAR_DIM,
                "linear_conv_kernel_dim": 4,
                "num_experts": self.experts,
                "num_experts_per_tok": self.top_k,
                "moe_intermediate_size": EXPERT_WIDTH,
                "shared_expert_intermediate_size": SHARED_WIDTH,
                "rms_norm_eps": 1e-6,
                "mtp_num_hidden_layers": 0,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10_000_000.0,
                    "partial_rotary_factor": 0.5,
                    "mrope_section": [2, 1, 1],
                    "mrope_interleaved": true
                }
            }
        })
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let h = self.hidden;
        let mut all = vec![("embed_tokens.weight".to_owned(), vec![self.vocab, h])];
        for (layer, full) in self.full_attention.iter().enumerate() {
            let mixer = if *full { full_attention(h) } else { linear_attention(h) };
            for (name, shape) in mixer.into_iter().chain(self.feed_forward()) {
                all.push((format!("layers.{layer}.{name}"), shape));
            }
        }
        all.push(("norm.weight".to_owned(), vec![h]));
        all.push(("lm_head.weight".to_owned(), vec![self.vocab, h]));
        all
    }

    fn feed_forward(&self) -> Vec<(&'static str, Vec<usize>)> {
        let h = self.hidden;
        vec![
            ("input_layernorm.weight", vec![h]),
            ("post_attention_layernorm.weight", vec![h]),
            ("mlp.gate.weight", vec![self.experts, h]),
            ("mlp.experts.gate_up_proj", vec![self.experts, 2 * EXPERT_WIDTH, h]),
            ("mlp.experts.down_proj", vec![self.experts, h, EXPERT_WIDTH]),
            ("mlp.shared_expert.gate_proj.weight", vec![SHARED_WIDTH, h]),
            ("mlp.shared_expert.up_proj.weight", vec![SHARED_WIDTH, h]),
            ("mlp.shared_expert.down_proj.weight", vec![h, SHARED_WIDTH]),
            ("mlp.shared_expert_gate.weight", vec![1, h]),
        ]
    }
}

fn full_attention(h: usize) -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("self_attn.q_proj.weight", vec![2 * HEADS * HEAD_DIM, h]),
        ("self_attn.k_proj.weight", vec![KV_HEADS * HEAD_DIM, h]),
        ("self_attn.v_proj.weight", vec![KV_HEADS * HEAD_DIM, h]),
        ("self_attn.o_proj.weight", vec![h, HEADS * HEAD_DIM]),
        ("self_attn.q_norm.weight", vec![HEAD_DIM]),
        ("self_attn.k_norm.weight", vec![HEAD_DIM]),
    ]
}

fn linear_attention(h: usize) -> Vec<(&'static str, Vec<usize>)> {
    let channels = (2 * KEY_HEADS + VALUE_HEADS) * LINEAR_DIM;
    vec![
        ("linear_attn.in_proj_qkv.weight", vec![channels, h]),
        ("linear_attn.in_proj_z.weight", vec![VALUE_HEADS * LINEAR_DIM, h]),
        ("linear_attn.in_proj_b.weight", vec![VALUE_HEADS, h]),
        ("linear_attn.in_proj_a.weight", vec![VALUE_HEADS, h]),
        ("linear_attn.conv1d.weight", vec![channels, 1, 4]),
        ("linear_attn.A_log", vec![VALUE_HEADS]),
        ("linear_attn.dt_bias", vec![VALUE_HEADS]),
        ("linear_attn.norm.weight", vec![LINEAR_DIM]),
        ("linear_attn.out_proj.weight", vec![h, VALUE_HEADS * LINEAR_DIM]),
    ]
}

/// Values with every kind of tensor perturbed: norms +-0.3, `dt_bias` N(0, 1), routers strong
/// enough to choose.
fn random_values(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(Key::new(seed, &["tiny", name]), 0);
    let fan_in = shape.last().copied().unwrap_or(1).max(1) as f64;
    let (centre, sd) = if name.ends_with("linear_attn.norm.weight") {
        (1.0, 0.3)
    } else if name.ends_with("norm.weight") {
        (0.0, 0.3)
    } else if name.ends_with("dt_bias") {
        (0.0, 1.0)
    } else if name.ends_with("A_log") {
        (0.5, 0.5)
    } else if name.ends_with("conv1d.weight") {
        (0.0, 0.5)
    } else if name.ends_with("mlp.gate.weight") {
        (0.0, 1.5 / fan_in.sqrt())
    } else if name == "embed_tokens.weight" {
        (0.0, 1.0)
    } else {
        (0.0, 1.0 / fan_in.sqrt())
    };
    let n = shape.iter().product();
    (0..n).map(|_| (centre + sd * rng.normal()) as f32).collect()
}

/// A relative of a model: every tensor gets noise of `scale` times its own rms.
///
/// # Panics
/// Never: names and shapes are the given model's.
#[must_use]
pub fn sibling(model: &MemorySource, name: &str, seed: u64, scale: f64) -> MemorySource {
    edited(model, name, |info, values| {
        let mut rng = Rng::new(Key::new(seed, &["sibling", &info.name]), 0);
        let squares: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
        let rms = (squares / values.len() as f64).sqrt();
        values.iter_mut().for_each(|v| *v += (scale * rms * rng.normal()) as f32);
    })
}

/// The same model with an edit of its tensors.
///
/// # Panics
/// If the edit changes a tensor's length.
#[must_use]
pub fn edited(
    model: &MemorySource,
    name: &str,
    mut edit: impl FnMut(&TensorInfo, &mut Vec<f32>),
) -> MemorySource {
    let manifest = model.manifest();
    let tensors = manifest
        .ids()
        .map(|id| {
            let info = manifest.get(id);
            let mut values = model.values(id).to_vec();
            edit(info, &mut values);
            (info.name.clone(), info.dtype, info.shape.clone(), values)
        })
        .collect();
    MemorySource::new(name, model.config().clone(), tensors).expect("an edit keeps the shapes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tensor_is_constant_and_seeds_differ() {
        let (a, b) = (tiny_qwen35(1), tiny_qwen35(2));
        for id in a.manifest().ids() {
            let values = a.values(id);
            assert!(values.iter().any(|v| *v != values[0]), "{}", a.manifest().get(id).name);
            assert_ne!(values, b.values(id));
        }
    }
}
