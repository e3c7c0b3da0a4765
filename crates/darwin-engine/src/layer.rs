//! The decoder layer of every family, in the order of computation.

use crate::cache::Caches;
use crate::finite::{RESIDUAL, first_not_finite};
use crate::kernels::{Buffer, add_assign, add_sum, rms_norm, scratch};
use crate::mixer::{Block, Input, token_of};
use crate::mlp::Dense;
use crate::moe::{Routed, Shared};
use crate::probe::Probe;
use crate::router::Router;
use crate::team::{PER_VALUE, Team};
use crate::weights::{Expected, Loader};
use crate::{
    Config, Error, LatentForm, LayerKind, MlpKind, NonFinite, SharedForm, Site, attention, gdn,
    mla, mlp, moe,
};
use darwin_core::Part;
use std::sync::Arc;

/// The weights of a decoder layer; each part can be swapped for itself.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// The scale (hidden)
    pub(crate) input_layernorm: Arc<[f32]>,
    pub(crate) mixer: Mixer,
    /// The scale (hidden)
    pub(crate) post_attention_layernorm: Arc<[f32]>,
    pub(crate) mlp: Mlp,
}

/// What follows the mixer.
#[derive(Clone, Debug)]
pub(crate) enum Mlp {
    Dense(Arc<Dense>),
    Sparse { router: Arc<Router>, routed: Arc<Routed>, shared: Option<Arc<Shared>> },
}

/// What mixes the tokens.
#[derive(Clone, Debug)]
pub(crate) enum Mixer {
    Linear(Arc<gdn::Weights>),
    Full(Arc<attention::Weights>),
    Latent(LatentForm, Arc<mla::Weights>),
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
    latent: mla::Scratch,
    mlp: mlp::Scratch,
    moe: moe::Scratch,
}

/// What goes with the tokens of some sequences through all layers.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    /// [`Block::cut`] of the sequences
    pub(crate) blocks: Vec<Block>,
    pub(crate) caches: Caches<'a>,
    pub(crate) team: Team<'a>,
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
    let layers = 0..config.num_hidden_layers;
    all.extend(layers.flat_map(|layer| expected_of_layer(config, layer, &prefix(layer))));
    all
}

/// What the names of a layer's tensors begin with.
pub(crate) fn prefix(layer: usize) -> String {
    format!("layers.{layer}.")
}

/// Every tensor of a layer in its shape.
pub(crate) fn expected_of_layer(config: &Config, layer: usize, prefix: &str) -> Vec<Expected> {
    let hidden = config.hidden_size;
    let norms = [
        ("input_layernorm.weight", vec![hidden]),
        ("post_attention_layernorm.weight", vec![hidden]),
    ];
    let mut all = Expected::list(prefix, norms);
    all.extend(match config.layer_types[layer] {
        LayerKind::LinearAttention => gdn::expected(config, prefix),
        LayerKind::FullAttention | LayerKind::SlidingAttention => match &config.latent {
            Some(form) => mla::expected(config, form, prefix),
            None => attention::expected(config, prefix),
        },
    });
    all.extend(match config.mlp_types[layer] {
        MlpKind::Dense => mlp::expected(config, prefix),
        MlpKind::Sparse => moe::expected(config, prefix),
    });
    all
}

impl Layer {
    pub(crate) fn load(
        loader: &Loader<'_>,
        config: &Config,
        layer: usize,
        prefix: &str,
    ) -> Result<Self, Error> {
        let norm = |tensor: &str| loader.norm(config, &format!("{prefix}{tensor}"));
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            mixer: Mixer::load(loader, config, layer, prefix)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: Mlp::load(loader, config, layer, prefix)?,
        })
    }

    /// This layer with one part of the donor's.
    pub(crate) fn with_part(&self, part: Part, donor: &Self) -> Self {
        let mut layer = self.clone();
        match part {
            Part::Mixer => {
                layer.input_layernorm = donor.input_layernorm.clone();
                layer.mixer = donor.mixer.clone();
            }
            Part::Routed | Part::Shared | Part::Router => {
                if part == Part::Routed {
                    layer.post_attention_layernorm = donor.post_attention_layernorm.clone();
                }
                layer.mlp = self.mlp.with_part(part, &donor.mlp);
            }
            Part::Embed | Part::Norm | Part::Head => {}
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
            self.block(config, layer, block, hidden, pass)?;
        }

        let Pass { blocks, team, work, probe, .. } = pass;
        let Workspace { normed, routed_out, shared_out, moe, .. } = &mut **work;
        let routed_out = &mut routed_out[..hidden.len()];
        if let Mlp::Sparse { routed, .. } = &self.mlp {
            let norms = probe.wants(Site::ExpertNorms, layer);
            routed.forward(*team, &normed[..hidden.len()], k, norms, moe, routed_out);
            if norms {
                let (norms, experts) = (&moe.norms[..tokens * k], &moe.experts[..tokens * k]);
                probe.see_experts(Site::ExpertNorms, layer, norms, experts, k);
            }
        }
        probe.at(Site::ExpertOut, layer, 0, routed_out, config.hidden_size)?;
        let (width, shared_out) = (config.hidden_size, &shared_out[..hidden.len()]);
        let shared = matches!(&self.mlp, Mlp::Sparse { shared: Some(_), .. });
        team.rows(hidden, width, PER_VALUE * width as f64, |rows, hidden| {
            let values = rows.start * width..rows.end * width;
            match shared {
                true => add_sum(hidden, &routed_out[values.clone()], &shared_out[values]),
                false => add_assign(hidden, &routed_out[values]),
            }
        });
        if let Some((row, value)) = first_not_finite(hidden, width) {
            let own = row * width..(row + 1) * width;
            let shared_out = if shared { &shared_out[own.clone()] } else { &[] };
            let parts = [("routed", &routed_out[own]), ("shared", shared_out)];
            return Err(not_finite(blocks, layer, row, &parts, value));
        }
        probe.at(Site::ResidOut, layer, 0, hidden, config.hidden_size)
    }

    /// A block's mixer, router and shared expert, or its dense feed-forward block.
    fn block(
        &self,
        config: &Config,
        layer: usize,
        block: usize,
        hidden: &mut [f32],
        pass: &mut Pass<'_>,
    ) -> Result<(), Error> {
        let Pass { blocks, caches, team, work, probe } = pass;
        let team = *team;
        let Block { rows, pieces } = &blocks[block];
        let (width, k) = (config.hidden_size, config.num_experts_per_tok);
        let (eps, first, tokens) = (config.rms_norm_eps as f32, rows.start, rows.len());
        let values = rows.start * width..rows.end * width;
        let hidden = &mut hidden[values.clone()];
        let normed = &mut work.normed[values.clone()];
        probe.at(Site::ResidIn, layer, first, hidden, width)?;

        let mixed = scratch(&mut work.mixed, hidden.len());
        norm(team, hidden, &self.input_layernorm, eps, normed);
        let input = Input { config, team, layer, x: normed, pieces };
        match &self.mixer {
            Mixer::Linear(mixer) => mixer.forward(&input, caches, &mut work.gdn, mixed),
            Mixer::Full(mixer) => {
                mixer.forward(&input, caches, &mut work.attention, mixed);
                if probe.wants(Site::MixerHeads, layer) {
                    let norms = mixer.head_norms(config, tokens, &work.attention);
                    probe.see(Site::MixerHeads, layer, &norms, config.num_attention_heads);
                }
            }
            Mixer::Latent(form, mixer) => {
                mixer.forward(form, &input, caches, &mut work.latent, mixed);
                if probe.wants(Site::MixerHeads, layer) {
                    let norms = mixer.head_norms(form, config, tokens, &work.latent);
                    probe.see(Site::MixerHeads, layer, &norms, config.num_attention_heads);
                }
            }
        }
        probe.at(Site::MixerOut, layer, first, mixed, width)?;
        add_assign(hidden, mixed);
        if let Some((row, value)) = first_not_finite(hidden, width) {
            let parts = [("mixer", &mixed[row * width..(row + 1) * width])];
            return Err(not_finite(blocks, layer, first + row, &parts, value));
        }
        probe.at(Site::ResidMid, layer, first, hidden, width)?;

        norm(team, hidden, &self.post_attention_layernorm, eps, normed);
        match &self.mlp {
            Mlp::Dense(mlp) => {
                mlp.forward(team, normed, &mut work.mlp, &mut work.routed_out[values]);
                Ok(())
            }
            Mlp::Sparse { router, shared, .. } => {
                let router_logits = scratch(&mut work.router_logits, tokens * config.num_experts);
                router.logits(team, normed, router_logits);
                let broken = |(row, value)| {
                    not_finite(blocks, layer, first + row, &[("router", &[value])], value)
                };
                if let Some(found) = first_not_finite(router_logits, config.num_experts) {
                    return Err(broken(found));
                }
                probe.at(Site::RouterLogits, layer, first, router_logits, config.num_experts)?;
                probe.mask(layer, router_logits, config.num_experts);
                let experts = &mut work.moe.experts[rows.start * k..rows.end * k];
                let gates = &mut work.moe.gates[rows.start * k..rows.end * k];
                router.select(&config.router, router_logits, experts, gates, k).map_err(broken)?;
                probe.see_experts(Site::TopK, layer, gates, experts, k);

                let Some(shared) = shared else { return Ok(()) };
                let shared_out = &mut work.shared_out[values];
                let gates = scratch(&mut work.shared_gate, tokens);
                shared.forward(team, normed, &mut work.mlp, gates, shared_out);
                if config.shared == SharedForm::Gated {
                    probe.see(Site::SharedGate, layer, gates, 1);
                }
                probe.at(Site::SharedOut, layer, first, shared_out, width)
            }
        }
    }
}

/// The error of a row of the pass that holds `value`, by the first of the parts that makes it so.
#[cold]
fn not_finite(
    blocks: &[Block],
    layer: usize,
    row: usize,
    parts: &[(&'static str, &[f32])],
    value: f32,
) -> Error {
    let bad = |values: &[f32]| values.iter().copied().find(|v| !v.is_finite());
    let found = parts.iter().find_map(|(name, values)| Some((*name, bad(values)?)));
    let (component, value) = found.unwrap_or((RESIDUAL, value));
    let (sequence, position) = token_of(blocks, row);
    Error::NotFinite(NonFinite { layer: Some(layer), component, value, sequence, position })
}

/// The norm of (tokens, hidden).
pub(crate) fn norm(team: Team<'_>, hidden: &[f32], scale: &[f32], eps: f32, normed: &mut [f32]) {
    let width = scale.len();
    team.rows(normed, width, PER_VALUE * width as f64, |rows, out| {
        rms_norm(&hidden[rows.start * width..rows.end * width], scale, eps, out);
    });
}

impl Mlp {
    fn load(
        loader: &Loader<'_>,
        config: &Config,
        layer: usize,
        prefix: &str,
    ) -> Result<Self, Error> {
        if config.mlp_types[layer] == MlpKind::Dense {
            return Ok(Self::Dense(Arc::new(Dense::load(loader, config, prefix)?)));
        }
        Ok(Self::Sparse {
            router: Arc::new(Router::load(loader, config, prefix)?),
            routed: Arc::new(Routed::load(loader, prefix)?),
            shared: Shared::load(loader, config, prefix)?.map(Arc::new),
        })
    }

    /// This block with one part of the donor's; a dense block stands for the routed experts.
    fn with_part(&self, part: Part, donor: &Self) -> Self {
        let mut mlp = self.clone();
        match (&mut mlp, donor) {
            (
                Self::Sparse { router, routed, shared },
                Self::Sparse { router: donor_router, routed: donor_routed, shared: donor_shared },
            ) => match part {
                Part::Routed => *routed = donor_routed.clone(),
                Part::Shared => shared.clone_from(donor_shared),
                Part::Router => *router = donor_router.clone(),
                _ => {}
            },
            _ if part == Part::Routed => mlp = donor.clone(),
            _ => {}
        }
        mlp
    }
}

impl Mixer {
    fn load(
        loader: &Loader<'_>,
        config: &Config,
        layer: usize,
        prefix: &str,
    ) -> Result<Self, Error> {
        Ok(match (config.layer_types[layer], &config.latent) {
            (LayerKind::LinearAttention, _) => {
                Self::Linear(Arc::new(gdn::Weights::load(loader, config, prefix)?))
            }
            (_, Some(form)) => {
                let weights = mla::Weights::load(loader, config, form, prefix)?;
                Self::Latent(*form, Arc::new(weights))
            }
            (_, None) => Self::Full(Arc::new(attention::Weights::load(loader, config, prefix)?)),
        })
    }
}
