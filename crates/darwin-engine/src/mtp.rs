//! The head that predicts the token after the next, multi-token prediction
//! (tensors `mtp.*`).

use crate::cache::Caches;
use crate::finite::MTP;
use crate::kernels::{Matrix, multiply, rms_norm};
use crate::layer::{Layer, Pass, expected_of_layer};
use crate::mixer::Block;
use crate::probe::Probe;
use crate::score::{item_score, score_tokens};
use crate::team::{Team, all_of};
use crate::weights::{Expected, Loader, check_tensors};
use crate::{
    Batch, Config, Error, Interventions, ItemScore, LayerKind, MlpKind, Model, NoTap, NonFinite,
    Record, Sequence, Site, State, Tap,
};
use darwin_checkpoint::{Problem, TensorSource};
use darwin_core::Cancel;
use rayon::prelude::*;
use std::sync::Arc;

const PREFIX: &str = "mtp.layers.0.";

/// The MTP head of a Qwen3.5 or Qwen3-Next model: from the state of a token and the embedding of the
/// next one to the logits of the token after that. It shares embedding and output head with the
/// model.
#[derive(Clone, Debug)]
pub struct MtpHead {
    /// The numbers of its one layer.
    config: Config,
    /// Scales (hidden)
    pre_fc_norm_embedding: Arc<[f32]>,
    pre_fc_norm_hidden: Arc<[f32]>,
    norm: Arc<[f32]>,
    /// (hidden, [embedding ; hidden])
    fc: Matrix,
    layer: Layer,
}

impl MtpHead {
    /// The head of a model's source; none where the source holds no `mtp.fc.weight`.
    ///
    /// # Errors
    /// [`Error::Model`] where tensors are missing or do not fit the model's config, and where the
    /// head has more than one layer; [`Error::Weights`] where reading fails.
    pub fn load(source: &dyn TensorSource, model: &Model) -> Result<Option<Self>, Error> {
        let has = |name: &str| source.manifest().find(name).is_some();
        if !has("mtp.fc.weight") {
            return Ok(None);
        }
        if has("mtp.layers.1.input_layernorm.weight") {
            return Err(Error::Model(vec![Problem::new(
                format!("{}: the MTP head has more than one layer (`mtp.layers.1`)", source.name()),
                "the engine runs MTP heads of one layer",
            )]));
        }
        let sparse = has(&format!("{PREFIX}mlp.gate.weight"));
        let config = Config {
            num_hidden_layers: 1,
            layer_types: vec![LayerKind::FullAttention],
            mlp_types: vec![if sparse { MlpKind::Sparse } else { MlpKind::Dense }],
            ..model.config().clone()
        };
        check_tensors(source, &expected(&config))?;
        let loader = Loader::new(source);
        let norm = |name: &str| loader.norm(&config, &format!("mtp.{name}"));
        Ok(Some(Self {
            pre_fc_norm_embedding: norm("pre_fc_norm_embedding")?,
            pre_fc_norm_hidden: norm("pre_fc_norm_hidden")?,
            norm: norm("norm")?,
            fc: loader.matrix("mtp.fc.weight")?,
            layer: Layer::load(&loader, &config, 0, PREFIX)?,
            config,
        }))
    }

    /// Shows a tap the sites [`Site::MtpOut`] and [`Site::MtpLogits`] of a state that has passed all
    /// layers of the head's model; their layer is the number of layers.
    ///
    /// # Errors
    /// [`Error::Layers`] where the state has layers to go.
    pub fn run(&self, model: &Model, state: &State, tap: &mut dyn Tap) -> Result<(), Error> {
        let layer = model.config().num_hidden_layers;
        let wanted = [Site::MtpOut, Site::MtpLogits].map(|site| tap.wants(site, layer));
        if !wanted.contains(&true) {
            return Ok(());
        }
        let offsets = state.batch().offsets();
        for (mut rows, first) in self.forward(model, state)?.into_iter().zip(offsets) {
            let mut tell = |site, values: &[f32], width| {
                tap.record(&Record {
                    site,
                    layer,
                    values,
                    shape: [values.len() / width, width],
                    experts: None,
                    expert: None,
                    first_token: *first,
                    batch: state.batch(),
                });
            };
            let mut logits = if wanted[1] { model.head(&rows) } else { Vec::new() };
            if wanted[0] {
                rows.resize(rows.len() + self.config.hidden_size, 0.0);
                tell(Site::MtpOut, &rows, self.config.hidden_size);
            }
            if wanted[1] {
                logits.resize(logits.len() + self.config.vocab_size, 0.0);
                tell(Site::MtpLogits, &logits, self.config.vocab_size);
            }
        }
        Ok(())
    }

    /// How likely the head finds each token from the third on; the mean of `nll` over
    /// `logprobs.len()` tokens is its loss. Bit for bit the same whatever else is scored.
    ///
    /// # Errors
    /// A token outside the vocabulary, a sequence of less than three tokens or longer than the
    /// context, cancellation; [`Error::NotFinite`].
    pub fn score(
        &self,
        model: &Model,
        sequences: &[Vec<u32>],
        cancel: &Cancel,
    ) -> Result<Vec<ItemScore>, Error> {
        for (sequence, ids) in sequences.iter().enumerate() {
            let (tokens, what) = (ids.len(), "the token after the next");
            if tokens < 3 {
                return Err(Error::TooShort { sequence, tokens, needed: 3, what });
            }
        }
        let batch = Batch::new(sequences.iter().cloned().map(Sequence::new).collect());
        let mut state = model.embed(&batch)?;
        for layer in 0..model.config().num_hidden_layers {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            model.run(&mut state, layer..layer + 1, &mut NoTap, &Interventions::new())?;
        }
        let rows = self.forward(model, &state)?;
        let score = |(sequence, (rows, ids)): (usize, (&Vec<f32>, &Vec<u32>))| {
            let scored = &rows[..(ids.len() - 2) * self.config.hidden_size];
            score_tokens(model.output(), scored, &ids[2..], <[f32]>::to_vec)
                .map(item_score)
                .map_err(|(position, value)| of_mtp(value, sequence, position))
        };
        let rows = rows.par_iter().zip(sequences).enumerate();
        all_of(rows.map(score).collect())
    }

    /// The normed states (tokens - 1, hidden) of each sequence.
    fn forward(&self, model: &Model, state: &State) -> Result<Vec<Vec<f32>>, Error> {
        let (layers, width) = (model.config().num_hidden_layers, self.config.hidden_size);
        if state.layer != layers {
            return Err(Error::Layers { asked: layers..layers, layers, reached: state.layer });
        }
        let offsets = state.batch().offsets().par_windows(2);
        let sequences = state.batch().sequences().par_iter().zip(offsets).enumerate();
        let forward = |(number, (sequence, ends)): (usize, (&Sequence, &[usize]))| {
            let hidden = &state.hidden[ends[0] * width..(ends[1] - 1) * width];
            self.sequence(model, hidden, &sequence.ids[1..]).map_err(|error| match error {
                Error::NotFinite(found) => of_mtp(found.value, number, found.position),
                other => other,
            })
        };
        all_of(sequences.map(forward).collect())
    }

    /// From states before the final norm (tokens, hidden) and the ids that follow them.
    fn sequence(&self, model: &Model, hidden: &[f32], next: &[u32]) -> Result<Vec<f32>, Error> {
        let (tokens, width) = (next.len(), self.config.hidden_size);
        let eps = self.config.rms_norm_eps as f32;
        let mut embedded = Vec::with_capacity(hidden.len());
        model.embed_into(next, &mut embedded);
        let mut joined = vec![0.0; 2 * hidden.len()];
        let states = model.final_norm(hidden);
        let rows = embedded.chunks_exact(width).zip(states.chunks_exact(width));
        for (joined, (embedded, state)) in joined.chunks_exact_mut(2 * width).zip(rows) {
            let (first, second) = joined.split_at_mut(width);
            rms_norm(embedded, &self.pre_fc_norm_embedding, eps, first);
            rms_norm(state, &self.pre_fc_norm_hidden, eps, second);
        }
        let mut x = vec![0.0; hidden.len()];
        multiply(Team::alone(), tokens, &joined, 2 * width, self.fc.panels(), &mut x, width);
        if tokens > 0 {
            let work = &mut *model.workspace();
            let (caches, probe) = (Caches::fresh(), Probe::none());
            let mut pass =
                Pass { blocks: Block::cut(&[0, tokens]), caches, team: Team::alone(), work, probe };
            self.layer.forward(&self.config, 0, &mut x, &mut pass)?;
        }
        let mut normed = vec![0.0; x.len()];
        rms_norm(&x, &self.norm, eps, &mut normed);
        Ok(normed)
    }
}

/// A value of the head.
fn of_mtp(value: f32, sequence: usize, position: usize) -> Error {
    let (layer, component) = (None, MTP);
    Error::NotFinite(NonFinite { layer, component, value, sequence, position })
}

/// Every tensor of the head in its shape.
fn expected(config: &Config) -> Vec<Expected> {
    let hidden = config.hidden_size;
    let ends = [
        ("mtp.pre_fc_norm_embedding.weight", vec![hidden]),
        ("mtp.pre_fc_norm_hidden.weight", vec![hidden]),
        ("mtp.fc.weight", vec![hidden, 2 * hidden]),
        ("mtp.norm.weight", vec![hidden]),
    ];
    let mut all = Expected::list("", ends);
    all.extend(expected_of_layer(config, 0, PREFIX));
    all
}
