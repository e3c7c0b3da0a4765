//! Errors of loading and running models.

use crate::{NonFinite, Site};
use darwin_checkpoint::Problem;
use darwin_core::{Diagnose, Fault};
use std::path::PathBuf;

/// What can go wrong between a tensor source and an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The config cannot be run, or the tensors do not fit it; all problems at once.
    #[error("{}", join(.0))]
    Model(Vec<Problem>),
    /// Reading weights failed.
    #[error(transparent)]
    Weights(#[from] darwin_checkpoint::Error),
    /// A token id is not in the vocabulary.
    #[error(
        "sequence {sequence}: token id {id} at position {position} is outside the vocabulary of {vocab_size}"
    )]
    TokenOutOfRange {
        /// Index of the sequence, prompt or item.
        sequence: usize,
        /// Position in the sequence.
        position: usize,
        /// The id found.
        id: u32,
        /// Ids are below this.
        vocab_size: usize,
    },
    /// A sequence without tokens.
    #[error("{what} {index} is empty")]
    Empty {
        /// `sequence`, `prompt`, `answer of item` or `stop string`.
        what: &'static str,
        /// Its index.
        index: usize,
    },
    /// A sequence would outgrow the model's context.
    #[error(
        "sequence {sequence} needs {tokens} tokens, the model's context (max_position_embeddings) is {limit}"
    )]
    ContextTooLong {
        /// Index of the sequence, prompt or item.
        sequence: usize,
        /// Tokens needed.
        tokens: usize,
        /// The context.
        limit: usize,
    },
    /// A sequence too short for what is asked.
    #[error("sequence {sequence} has {tokens} tokens, {needed} are needed to score {what}")]
    TooShort {
        /// Index of the sequence.
        sequence: usize,
        /// Its tokens.
        tokens: usize,
        /// How many are needed.
        needed: usize,
        /// For what.
        what: &'static str,
    },
    /// A layer range that does not continue the state, or leaves the model.
    #[error("cannot run layers {}..{} of {layers} on a state that has passed {reached}", asked.start, asked.end)]
    Layers {
        /// The range asked for.
        asked: std::ops::Range<usize>,
        /// Layers of the model.
        layers: usize,
        /// Layers that the state has passed.
        reached: usize,
    },
    /// An intervention that does not fit the model or the batch.
    #[error("intervention at {site:?} of layer {layer}: {reason}")]
    Intervention {
        /// Where.
        site: Site,
        /// Which layer.
        layer: usize,
        /// What does not fit.
        reason: String,
    },
    /// A file of the tokenizer or the chat template could not be read or does not make sense.
    #[error("{}: {reason}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: String,
        /// Whose fault.
        fault: Fault,
    },
    /// A conversation that cannot be rendered as it was asked for, or that its template refuses.
    #[error("{}: {reason}", path.display())]
    Chat {
        /// Where the chat template stands.
        path: PathBuf,
        /// What does not make sense, or what the template says.
        reason: String,
    },
    /// A number of the sampling is out of its range.
    #[error("`{name}` is {found}, allowed is {needed}")]
    Sampling {
        /// Which number.
        name: &'static str,
        /// Its value.
        found: f32,
        /// What it may be.
        needed: &'static str,
    },
    /// Padded input whose mask does not fit, or has holes.
    #[error("sequence {sequence}: {reason}")]
    Padding {
        /// Index of the sequence.
        sequence: usize,
        /// What is wrong.
        reason: String,
    },
    /// The scratch file of hidden states could not be made, written or read.
    #[error("cannot {doing} the scratch folder {}: {why}", folder.display())]
    Scratch {
        /// What was tried.
        doing: &'static str,
        /// The folder.
        folder: PathBuf,
        /// Why it failed.
        why: std::io::Error,
    },
    /// The memory that may be used is less than what the work needs.
    #[error("{}", budget(*given, *least, *with_scratch))]
    Memory {
        /// What may be used, bytes.
        given: u64,
        /// The least that works as things are, bytes.
        least: u64,
        /// The least that works with a scratch folder, bytes; none where there is one.
        with_scratch: Option<u64>,
    },
    /// The model computes NaN or infinities.
    #[error("the model computes values that are not finite: {0} of sequence {sequence}", sequence = .0.sequence)]
    NotFinite(NonFinite),
    /// A model of another shape than those it shall be scored with.
    #[error("the model is of another shape than the others of its set")]
    Shapes,
    /// The work was cancelled.
    #[error("interrupted")]
    Cancelled,
}

/// Says how little memory would do.
fn budget(given: u64, least: u64, with_scratch: Option<u64>) -> String {
    let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
    let mut text = format!("{} of memory are not enough, the least is {}", mib(given), mib(least));
    if let Some(bytes) = with_scratch.filter(|bytes| *bytes < least) {
        text += &format!(", or {} with a scratch folder for hidden states", mib(bytes));
    }
    text
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(|p| p.text.as_str()).collect::<Vec<_>>().join("\n       ")
}

impl Diagnose for Error {
    fn fault(&self) -> Fault {
        match self {
            Self::Weights(error) => error.fault(),
            Self::Text { fault, .. } => *fault,
            Self::Scratch { why, .. } => Fault::of_io(why),
            Self::Cancelled => Fault::Interrupted,
            _ => Fault::User,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Model(problems) => problems.first().map(|p| p.hint.clone()),
            Self::Weights(error) => error.hint(),
            Self::Text { hint, .. } => Some(hint.clone()),
            Self::TokenOutOfRange { .. } => {
                Some("encode the text with this model's own tokenizer".to_owned())
            }
            Self::Chat { .. } => {
                Some("change the conversation, or the template if it is broken".to_owned())
            }
            Self::Sampling { name, .. } => Some(format!("change `{name}`")),
            Self::Padding { .. } => Some(
                "the mask of each sequence is ones beside zeros on the left or on the right"
                    .to_owned(),
            ),
            Self::ContextTooLong { .. } => Some("shorten the prompt or the answer".to_owned()),
            Self::Scratch { .. } => {
                Some("name a folder that exists, can be written to, and has room".to_owned())
            }
            Self::Memory { .. } => Some("allow more memory, or fewer threads".to_owned()),
            Self::NotFinite(_) => Some(
                "its weights are too large for float32, or damaged: merge again with smaller weights"
                    .to_owned(),
            ),
            Self::TooShort { .. } => Some("leave the short sequences out".to_owned()),
            Self::Empty { what: "stop string", .. } => Some("give it a character".to_owned()),
            Self::Empty { .. } => Some("give at least one token".to_owned()),
            _ => None,
        }
    }
}
