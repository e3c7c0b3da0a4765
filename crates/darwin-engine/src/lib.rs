//! The forward pass of each model family, from any tensor source.
//!
//! Everything is float32 on the CPU, by kernels of this crate that are chosen at run time
//! (AMX, AVX-512, AVX2 with FMA, plain Rust). Each token's numbers are computed by the same operations
//! in the same order whatever else is in the batch, so results do not depend on threads, on how
//! sequences are grouped, or on whether a cache was used. Processors with AMX add up products with
//! bfloat16 weights in another order than others do, at the same precision.
//!
//! A forward pass is a value: [`Model::embed`] makes a [`State`], [`Model::run`] takes it through
//! layers, a [`Tap`] sees what is computed, [`Interventions`] change it. [`score`] and
//! [`generate`] are the two jobs that need speed; a [`Generator`] also draws, streams, and ends at
//! texts. [`Text`] is the way from text to token ids, and a [`ChatRequest`] from a conversation to
//! text.
//!
//! A model that does not fit into memory is a [`Stream`]: a [`Sweep`] takes all batches through one
//! layer after another, each read once, within a [`Budget`] that [`Stream::plan`] fills; results are
//! those of the loaded [`Model`], bit for bit. A [`CandidateSet`] scores many models of one shape in
//! one such pass.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use darwin_engine::{GenerateOptions, Model, Text, generate};
//!
//! let folder = std::path::Path::new("examples/parents/father");
//! let model = Model::load(&darwin_checkpoint::Checkpoint::open(folder)?)?;
//! let text = Text::open(folder)?;
//! let prompt = text.encode(&text.chat("What is 2 + 2?", false)?)?;
//! let options = GenerateOptions { max_new_tokens: 64, stop: text.stop_ids() };
//! let answers = generate(&model, &[prompt], &[], &options, &Default::default())?;
//! let answer = text.decode(&answers[0], true);
//! # Ok(())
//! # }
//! ```

mod attention;
mod buffers;
mod cache;
mod candidates;
mod config;
mod cost;
pub mod derivative;
mod digest;
mod embedding;
mod error;
mod families;
mod finite;
mod footprint;
mod gdn;
mod generate;
pub mod grams;
mod head;
mod kernels;
mod kv_head;
mod layer;
mod layers;
#[doc(hidden)]
pub mod measure;
mod mixer;
mod mla;
mod mlp;
mod model;
mod moe;
mod mtp;
mod probe;
mod projection;
mod resident;
mod rope;
mod router;
mod score;
mod state;
mod states;
mod stream;
mod sweep;
mod tap;
mod team;
mod text;
mod weights;
mod workspaces;

pub use candidates::{CandidateScores, CandidateSet};
pub use config::{
    AttentionForm, Config, LatentForm, LayerKind, LinearForm, MlpKind, QkNorm, Rope, RopeScaling,
    RouterForm, RouterGroups, RouterScores, SharedForm,
};
pub use cost::Speed;
pub use error::Error;
pub use finite::NonFinite;
pub use footprint::{Budget, Footprint, Plan, Workload};
pub use generate::{
    Chosen, Finish, GenerateOptions, Generation, Generator, Request, Sampling, generate,
    generate_counted,
};
pub use head::Head;
pub use layers::Layers;
pub use model::Model;
pub use mtp::MtpHead;
pub use resident::{Resident, Run};
pub use score::{Cost, ItemScore, ScoreItem, score, score_counted};
pub use state::{Batch, Sequence, State};
pub use states::States;
pub use stream::Stream;
pub use sweep::{HEAD_BLOCK, LayerSource, Logits, Room, Sweep, each_layer};
pub use tap::{Interventions, NoTap, Record, Site, Tap};
pub use text::{ChatRequest, GenerationDefaults, Text, TextStream};
