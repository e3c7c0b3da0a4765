//! The flags of `mergekit-yaml` that `darwin merge` takes so that old command lines run: those
//! without a meaning here are accepted and named in one warning, dangerous ones are refused.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// What a flag takes.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    /// Nothing, and there is a `--no-` form.
    Switch,
    /// Nothing.
    Alone,
    /// A value.
    Value,
}

/// mergekit 0.1.5, `options.py`.
const IGNORED: [(&str, &str, Takes); 13] = [
    ("cuda", "no-cuda", Takes::Switch),
    ("device", "", Takes::Value),
    ("low-cpu-memory", "no-low-cpu-memory", Takes::Switch),
    ("lazy-unpickle", "no-lazy-unpickle", Takes::Switch),
    ("clone-tensors", "no-clone-tensors", Takes::Switch),
    ("read-to-gpu", "no-read-to-gpu", Takes::Switch),
    ("multi-gpu", "no-multi-gpu", Takes::Switch),
    ("gpu-rich", "", Takes::Alone),
    ("async-write", "no-async-write", Takes::Switch),
    ("write-threads", "", Takes::Value),
    ("safe-serialization", "no-safe-serialization", Takes::Switch),
    ("lora-merge-cache", "", Takes::Value),
    ("lora-merge-dtype", "", Takes::Value),
];

/// A flag, its `--no-` form (which asks for what we do anyway), the reason, what to do instead.
const REFUSED: [(&str, &str, &str, &str); 3] = [
    (
        "allow-crimes",
        "no-allow-crimes",
        "models of different architectures have no tensors in common that mean the same",
        "merge models of one architecture and size; choose layers with `slices`",
    ),
    (
        "trust-remote-code",
        "no-trust-remote-code",
        "no code of a model is ever run: architectures are read from config and tensor names",
        "leave the flag out",
    ),
    (
        "unsafe-truncate-embeddings",
        "no-unsafe-truncate-embeddings",
        "cut vocabularies give tokens the rows of other tokens",
        "write `tokenizer_source: union` for the tokens of all models, or `base`",
    ),
];

/// What was found of both kinds on the command line.
#[derive(Debug, Default)]
pub(crate) struct MergekitFlags {
    ignored: Vec<&'static str>,
    refused: Vec<&'static str>,
}

impl MergekitFlags {
    /// One sentence for all flags without a meaning.
    pub(crate) fn warning(&self) -> Option<String> {
        let names: Vec<String> = self.ignored.iter().map(|name| format!("--{name}")).collect();
        let verb = if names.len() == 1 { "has" } else { "have" };
        (!names.is_empty()).then(|| format!("{} {verb} no effect here", names.join(", ")))
    }

    /// The refused flags: (sentence, hint).
    pub(crate) fn refusal(&self) -> Option<(String, String)> {
        let found = REFUSED.iter().filter(|(name, ..)| self.refused.contains(name));
        let (sentences, hints): (Vec<String>, Vec<&str>) = found
            .map(|(name, _, why, hint)| (format!("--{name} is refused: {why}"), *hint))
            .unzip();
        (!hints.is_empty()).then(|| (sentences.join("; "), hints.join("; ")))
    }
}

fn flag(name: &'static str, takes: Takes) -> Arg {
    let arg = Arg::new(name).long(name).hide(true);
    match takes {
        Takes::Value => arg.num_args(1).action(ArgAction::Append).allow_hyphen_values(true),
        Takes::Switch | Takes::Alone => arg.action(ArgAction::Count),
    }
}

impl Args for MergekitFlags {
    fn augment_args(command: Command) -> Command {
        let ignored = IGNORED.iter().flat_map(|(name, no, takes)| {
            let no = (*takes == Takes::Switch).then(|| flag(no, Takes::Alone));
            [Some(flag(name, *takes)), no].into_iter().flatten()
        });
        let refused = REFUSED
            .iter()
            .flat_map(|(name, no, ..)| [flag(name, Takes::Alone), flag(no, Takes::Alone)]);
        command.args(ignored.chain(refused))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for MergekitFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (name, no, takes) in IGNORED {
            match takes {
                Takes::Value if matches.contains_id(name) => self.ignored.push(name),
                Takes::Value => {}
                Takes::Switch | Takes::Alone => {
                    let names = [name, no].into_iter().filter(|name| !name.is_empty());
                    self.ignored.extend(names.filter(|name| matches.get_count(name) > 0));
                }
            }
        }
        for (name, ..) in REFUSED {
            self.refused.extend((matches.get_count(name) > 0).then_some(name));
        }
        Ok(())
    }
}
