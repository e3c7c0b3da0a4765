//! Continuations of prompts: greedy or drawn, many at once.

mod decoder;
mod sample;

use crate::team::{Team, run_all};
use crate::{Cost, Error, Model, Text};
use darwin_core::Cancel;
use decoder::{Decoder, Queue};
pub use sample::Sampling;

/// Sequences that are decoded together.
pub(crate) const GROUP: usize = 64;

/// When generation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerateOptions {
    /// At most so many new tokens for each prompt.
    pub max_new_tokens: usize,
    /// Ids that end a sequence; the id itself is part of the result.
    pub stop: Vec<u32>,
}

/// A prompt to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Token ids; at least one.
    pub prompt: &'a [u32],
    /// What the caller believes will come: it is verified in one pass, and only what follows the
    /// first disagreement is decoded. It changes nothing but the time.
    pub draft: &'a [u32],
    /// Names the sequence among others with the same seed: the draws depend on it.
    pub sequence: u64,
}

/// What a sequence was continued with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The new tokens, with the one that ended the sequence.
    pub ids: Vec<u32>,
    /// Their text up to the stop string, empty where no text was asked for.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// Why a sequence ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// This id of [`GenerateOptions::stop`] came.
    StopId(u32),
    /// This stop string came.
    StopString(String),
    /// It has [`GenerateOptions::max_new_tokens`].
    Length,
    /// The model's context is full.
    Context,
    /// The caller cancelled.
    Interrupted,
}

/// A token that was chosen just now.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// Which of the requests.
    pub request: usize,
    /// The token; none where text that was held back comes after the last one.
    pub id: Option<u32>,
    /// The text that became certain with it, where text was asked for.
    pub text: &'a str,
}

/// A listener to tokens; it is called from many threads, for one sequence in order.
type Listener<'a> = &'a (dyn Fn(&Chosen<'_>) + Sync);

/// Continues prompts. Results do not depend on threads, nor on what else is continued.
#[derive(Clone, Copy)]
pub struct Generator<'a> {
    model: &'a Model,
    options: &'a GenerateOptions,
    sampling: Sampling,
    text: Option<&'a Text>,
    stop_strings: &'a [String],
    skip_special: bool,
    listener: Option<Listener<'a>>,
}

impl<'a> Generator<'a> {
    /// Greedy decoding to token ids.
    #[must_use]
    pub fn new(model: &'a Model, options: &'a GenerateOptions) -> Self {
        Self {
            model,
            options,
            sampling: Sampling::default(),
            text: None,
            stop_strings: &[],
            skip_special: true,
            listener: None,
        }
    }

    /// How tokens are chosen.
    #[must_use]
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }

    /// Text besides ids. A sequence ends when one of `stop_strings` comes, and its text before it.
    /// Special tokens are left out of the text (and of what stop strings are looked for in) where
    /// `skip_special` says so.
    #[must_use]
    pub fn text(mut self, text: &'a Text, stop_strings: &'a [String], skip_special: bool) -> Self {
        self.text = Some(text);
        self.stop_strings = stop_strings;
        self.skip_special = skip_special;
        self
    }

    /// Is told every token as it is chosen.
    #[must_use]
    pub fn listener(mut self, listener: Listener<'a>) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Continues the requests, results in their order. When the caller cancels, there is what had
    /// come by then. Equal prompts that stand beside each other go through the model once for each
    /// thread.
    ///
    /// # Errors
    /// A token outside the vocabulary, an empty prompt, a prompt that fills the context; a number
    /// of the sampling that is out of range, an empty stop string; [`Error::NotFinite`], its
    /// sequence being the request.
    pub fn run(
        &self,
        requests: &[Request<'_>],
        cancel: &Cancel,
    ) -> Result<(Vec<Generation>, Cost), Error> {
        self.sampling.check()?;
        if self.stop_strings.iter().any(String::is_empty) {
            return Err(Error::Empty { what: "stop string", index: 0 });
        }
        for (i, request) in requests.iter().enumerate() {
            self.model.check_ids("prompt", i, request.prompt)?;
            self.model.check_length(i, request.prompt.len() + 1)?;
        }
        // of a large model every step reads the weights: then all sequences at once, on all threads
        let shared = self.model.is_large();
        let threads = if shared { 1 } else { rayon::current_num_threads() };
        let workers = threads.min(requests.len()).max(1);
        let together = requests.len().div_ceil(workers).clamp(1, GROUP);
        let queue = Queue::new(requests);
        let decode = |_, team: Team<'_>| Decoder::new(self, team, cancel).run(&queue, together);
        let done = run_all((0..workers).collect(), shared, decode)?;
        let mut cost = Cost::default();
        let mut all = Vec::with_capacity(requests.len());
        for (generations, of_worker) in done {
            all.extend(generations);
            cost += of_worker;
        }
        all.sort_unstable_by_key(|(i, _)| *i);
        Ok((all.into_iter().map(|(_, generation)| generation).collect(), cost))
    }
}

/// Greedy continuations of many prompts at once, in their order. `drafts[i]` (an empty slice of
/// drafts, or empty drafts, for none) is verified in one pass first, and only what follows the
/// first disagreement is decoded: the result equals plain greedy decoding.
///
/// # Errors
/// A token outside the vocabulary, an empty prompt, a context too long, cancellation;
/// [`Error::NotFinite`].
pub fn generate(
    model: &Model,
    prompts: &[Vec<u32>],
    drafts: &[Vec<u32>],
    options: &GenerateOptions,
    cancel: &Cancel,
) -> Result<Vec<Vec<u32>>, Error> {
    generate_counted(model, prompts, drafts, options, cancel).map(|(ids, _)| ids)
}

/// [`generate`] with its cost.
///
/// # Errors
/// As [`generate`].
pub fn generate_counted(
    model: &Model,
    prompts: &[Vec<u32>],
    drafts: &[Vec<u32>],
    options: &GenerateOptions,
    cancel: &Cancel,
) -> Result<(Vec<Vec<u32>>, Cost), Error> {
    let draft = |i: usize| drafts.get(i).map_or(&[][..], Vec::as_slice);
    let mut requests = Vec::with_capacity(prompts.len());
    for (i, prompt) in prompts.iter().enumerate() {
        model.check_ids("prompt", i, prompt)?;
        model.check_length(i, prompt.len() + options.max_new_tokens)?;
        requests.push(Request { prompt, draft: draft(i), sequence: i as u64 });
    }
    if options.max_new_tokens == 0 {
        return Ok((vec![Vec::new(); prompts.len()], Cost::default()));
    }
    let (generations, cost) = Generator::new(model, options).run(&requests, cancel)?;
    if generations.iter().any(|g| g.finish == Finish::Interrupted) {
        return Err(Error::Cancelled);
    }
    Ok((generations.into_iter().map(|g| g.ids).collect(), cost))
}
