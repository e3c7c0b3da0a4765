//! Qwen3.5-MoE: the decoder layer in the order of computation (qwen35-moe.md).

use crate::cache::Caches;
use crate::kernels::{Buffer, Matrix, add_assign, add_sum, rms_norm, scratch};
use crate::mixer::{Block, Input};
use crate::moe::{Routed, Router, Shared};
use crate::probe::Probe;
use crate::weights::{Expected, Loader, centred};
use crate::{Config, Error, LayerKind, Site, attention, gdn, moe};
use darwin_core::Component;
use std::sync::Arc;

/// The weights around the layers.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    /// (vocab, hidden), row-major
    pub(crate) embed_tokens: Arc<[f32]>,
    /// 1 + weight (hidden)
    pub(crate) norm: Arc<[f32]>,
    /// (vocab, hidden)
    pub(crate) lm_head: Matrix,
}

/// The weights of a decoder layer; each part can be swapped for itself.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// 1 + weight (hidden)
    input_layernorm: Arc<[f32]>,
    mixer: Mixer,
    /// 1 + weight (hidden)
    post_attention_layernorm: Arc<[f32]>,
    router: Arc<Router>,
    routed: Arc<Routed>,
    shared: Arc<Shared>,
}

#[derive(Clone, Debug)]
enum Mixer {
    Linear(Arc<gdn::Weights>),
    Full(Arc<attention::Weights>),
}

/// Buffers of a forward pass, reused from layer to layer and from step to step.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// (tokens, hidden), as are the two outputs
    normed: Buffer,
    routed_out: Buffer,
    shared_out: Buffer,
    /// (tokens of a block, hidden)
    mixed: Buffer,
    router_logits: Buffer,
    shared_gate: Buffer,
    gdn: gdn::Scratch,
    attention: attention::Scratch,
    moe: moe::Scratch,
}

/// What goes with the tokens of some sequences through all layers.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    /// [`Block::cut`] of the sequences
    pub(crate) blocks: Vec<Block>,
    pub(crate) caches: Caches<'a>,
    pub(crate) work: &'a mut Workspace,
    pub(crate) probe: Probe<'a>,
}

/// Every tensor of the text model in its shape.
pub(crate) fn expected(config: &Config) -> Vec<Expected> {
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let ends = [("embed_tokens.weight", vec![vocab, hidden]), ("norm.weight", vec![hidden])];
    let mut all = Expected::list("", ends);
    if !config.tie_word_embeddings {
        all.extend(Expected::list("", [("lm_head.weight", vec![vocab, hidden])]));
    }
    for (layer, kind) in config.layer_types.iter().enumerate() {
        let prefix = format!("layers.{layer}.");
        let norms = [
            ("input_layernorm.weight", vec![hidden]),
            ("post_attention_layernorm.weight", vec![hidden]),
        ];
        all.extend(Expected::list(&prefix, norms));
        all.extend(match kind {
            LayerKind::LinearAttention => gdn::expected(config, &prefix),
            LayerKind::FullAttention => attention::expected(config, &prefix),
        });
        all.extend(moe::expected(config, &prefix));
    }
    all
}

impl Ends {
    pub(crate) fn load(
        loader: &Loader<'_>,
        config: &Config,
        old: Option<&Self>,
    ) -> Result<Self, Error> {
        let head =
            if config.tie_word_embeddings { "embed_tokens.weight" } else { "lm_head.weight" };
        let old_embedding = old.map(|o| &o.embed_tokens);
        Ok(Self {
            embed_tokens: loader.vector("embed_tokens.weight", old_embedding, |w| w)?,
            norm: loader.vector("norm.weight", old.map(|o| &o.norm), centred)?,
            lm_head: loader.matrix(head, old.map(|o| &o.lm_head))?,
        })
    }
}

impl Layer {
    pub(crate) fn load(
        loader: &Loader<'_>,
        config: &Config,
        layer: usize,
        old: Option<&Self>,
    ) -> Result<Self, Error> {
        let prefix = format!("layers.{layer}.");
        let name = |tensor: &str| format!("{prefix}{tensor}.weight");
        let norm = old.map(|o| &o.input_layernorm);
        let post_norm = old.map(|o| &o.post_attention_layernorm);
        let mixer = match (config.layer_types[layer], old.map(|o| &o.mixer)) {
            (LayerKind::LinearAttention, old) => {
                let old = old.and_then(Mixer::linear);
                Mixer::Linear(Arc::new(gdn::Weights::load(loader, config, &prefix, old)?))
            }
            (LayerKind::FullAttention, old) => {
                let old = old.and_then(Mixer::full);
                Mixer::Full(Arc::new(attention::Weights::load(loader, &prefix, old)?))
            }
        };
        Ok(Self {
            input_layernorm: loader.vector(&name("input_layernorm"), norm, centred)?,
            mixer,
            post_attention_layernorm: loader.vector(
                &name("post_attention_layernorm"),
                post_norm,
                centred,
            )?,
            router: Arc::new(Router::load(loader, &prefix, old.map(|o| &*o.router))?),
            routed: Arc::new(Routed::load(loader, &prefix, old.map(|o| &*o.routed))?),
            shared: Arc::new(Shared::load(loader, &prefix, old.map(|o| &*o.shared))?),
        })
    }

    /// This layer with one component of the donor's.
    pub(crate) fn with_component(&self, component: Component, donor: &Self) -> Self {
        let mut layer = self.clone();
        match component {
            Component::Mixer => {
                layer.input_layernorm = donor.input_layernorm.clone();
                layer.mixer = donor.mixer.clone();
            }
            Component::Routed => {
                layer.post_attention_layernorm = donor.post_attention_layernorm.clone();
                layer.routed = donor.routed.clone();
            }
            Component::Shared => layer.shared = donor.shared.clone(),
            Component::Router => layer.router = donor.router.clone(),
        }
        layer
    }

    /// `hidden + mixer(norm(hidden))`, then `hidden + moe(norm(hidden))`, in place on
    /// (tokens, hidden): block by block up to the routed experts, which take all tokens at once.
    pub(crate) fn forward(
        &self,
        config: &Config,
        layer: usize,
        hidden: &mut [f32],
        pass: &mut Pass<'_>,
    ) -> Result<(), Error> {
        let Workspace { normed, routed_out, shared_out, moe, .. } = &mut *pass.work;
        let k = config.num_experts_per_tok;
        let tokens = hidden.len() / config.hidden_size;
        scratch(normed, hidden.len());
        scratch(routed_out, hidden.len());
        scratch(shared_out, hidden.len());
        scratch(&mut moe.experts, tokens * k);
        scratch(&mut moe.gates, tokens * k);
        for block in 0..pass.blocks.len() {
            self.before_experts(config, layer, block, hidden, pass)?;
        }

        let Pass { work: Workspace { normed, routed_out, shared_out, moe, .. }, probe, .. } = pass;
        let routed_out = &mut routed_out[..hidden.len()];
        let norms = probe.wants(Site::ExpertNorms, layer);
        self.routed.forward(&normed[..hidden.len()], k, norms, moe, routed_out);
        if norms {
            let (norms, experts) = (&moe.norms[..tokens * k], &moe.experts[..tokens * k]);
            probe.see_experts(Site::ExpertNorms, layer, norms, experts, k);
        }
        probe.at(Site::ExpertOut, layer, 0, routed_out, config.hidden_size)?;
        add_sum(hidden, routed_out, &shared_out[..hidden.len()]);
        probe.at(Site::ResidOut, layer, 0, hidden, config.hidden_size)
    }

    /// A block's mixer, router and shared expert.
    fn before_experts(
        &self,
        config: &Config,
        layer: usize,
        block: usize,
        hidden: &mut [f32],
        pass: &mut Pass<'_>,
    ) -> Result<(), Error> {
        let Pass { blocks, caches, work, probe } = pass;
        let Block { rows, pieces } = &blocks[block];
        let (width, k) = (config.hidden_size, config.num_experts_per_tok);
        let (eps, first, tokens) = (config.rms_norm_eps as f32, rows.start, rows.len());
        let values = rows.start * width..rows.end * width;
        let hidden = &mut hidden[values.clone()];
        let normed = &mut work.normed[values.clone()];
        probe.at(Site::ResidIn, layer, first, hidden, width)?;

        let mixed = scratch(&mut work.mixed, hidden.len());
        rms_norm(hidden, &self.input_layernorm, eps, normed);
        let input = Input { config, layer, x: normed, pieces };
        match &self.mixer {
            Mixer::Linear(mixer) => mixer.forward(&input, caches, &mut work.gdn, mixed),
            Mixer::Full(mixer) => {
                mixer.forward(&input, caches, &mut work.attention, mixed);
                if probe.wants(Site::MixerHeads, layer) {
                    let norms = mixer.head_norms(config, tokens, &work.attention);
                    probe.see(Site::MixerHeads, layer, &norms, config.num_attention_heads);
                }
            }
        }
        probe.at(Site::MixerOut, layer, first, mixed, width)?;
        add_assign(hidden, mixed);
        probe.at(Site::ResidMid, layer, first, hidden, width)?;

        rms_norm(hidden, &self.post_attention_layernorm, eps, normed);
        let router_logits = scratch(&mut work.router_logits, tokens * config.num_experts);
        self.router.logits(normed, router_logits);
        probe.at(Site::RouterLogits, layer, first, router_logits, config.num_experts)?;
        probe.mask(layer, router_logits, config.num_experts);
        let experts = &mut work.moe.experts[rows.start * k..rows.end * k];
        let gates = &mut work.moe.gates[rows.start * k..rows.end * k];
        moe::select(router_logits, experts, gates, k);
        probe.see_experts(Site::TopK, layer, gates, experts, k);

        let shared_out = &mut work.shared_out[values];
        let gates = scratch(&mut work.shared_gate, tokens);
        self.shared.forward(normed, &mut work.moe, gates, shared_out);
        probe.see(Site::SharedGate, layer, gates, 1);
        probe.at(Site::SharedOut, layer, first, shared_out, width)
    }
}

impl Mixer {
    fn linear(&self) -> Option<&gdn::Weights> {
        match self {
            Self::Linear(weights) => Some(weights),
            Self::Full(_) => None,
        }
    }

    fn full(&self) -> Option<&attention::Weights> {
        match self {
            Self::Full(weights) => Some(weights),
            Self::Linear(_) => None,
        }
    }
}
