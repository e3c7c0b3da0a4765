//! Fuzz targets: every file that Darwin reads, as bytes from anywhere (development only).
//!
//! A [`Target`] takes bytes, writes them as the file that they stand for, and reads it by the real
//! entry point. Bad input must be an error of the library: a panic, an abort, a hang or memory out
//! of proportion is a finding. Where an input is accepted, the target asserts what must hold then.
//!
//! The corpus in `corpus/` is made by `examples/seed.rs` and replayed, with mutations of
//! [`mutate`], by `tests/corpus.rs`; `examples/long.rs` runs for as long as it is told to. The
//! folder `fuzz/` at the root gives the same targets to cargo-fuzz.
//!
//! ```
//! darwin_fuzz::target("recipe").expect("a target").run(b"merge_method: none\n");
//! ```

mod kept;
mod models;
mod mutate;
mod recipes;
mod scratch;
mod text;
mod weights;

pub use mutate::{Form, mutate};
pub use scratch::scratch_in;

/// A way to read a file.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also of its folder in `corpus/`.
    pub name: &'static str,
    /// How its inputs are built, for the mutator.
    pub form: Form,
    run: fn(&[u8]),
}

impl Target {
    /// Reads an input.
    ///
    /// # Panics
    /// Where reading panics, or an accepted input breaks what must hold.
    pub fn run(&self, input: &[u8]) {
        (self.run)(input);
    }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "safetensors", form: Form::Safetensors, run: weights::safetensors },
    Target { name: "index", form: Form::Text, run: weights::index },
    Target { name: "gguf", form: Form::Binary, run: weights::gguf },
    Target { name: "config", form: Form::Text, run: weights::config },
    Target { name: "adapter", form: Form::Chosen, run: weights::adapter },
    Target { name: "recipe", form: Form::Text, run: recipes::recipe },
    Target { name: "shares", form: Form::Safetensors, run: recipes::shares },
    Target { name: "run_config", form: Form::Text, run: recipes::run_config },
    Target { name: "tokenizer", form: Form::Text, run: text::tokenizer },
    Target { name: "template", form: Form::Text, run: text::template },
    Target { name: "items", form: Form::Zipped, run: text::items },
    Target { name: "journal", form: Form::Journal, run: kept::journal },
    Target { name: "kept", form: Form::Chosen, run: kept::kept },
];

/// The target of a name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
