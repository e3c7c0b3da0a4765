//! A run folder, read. What is not there, or cannot be read, is a sentence for the reader.

use crate::error::{ReportError, Result};
use darwin_core::files::{
    Comparison, DiagnosisFile, Health, JournalLine, JournalText, MergeManifest, ModelScores,
    Profile, RunHeader, SCHEMA, Scores,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// A part of the run, or the sentence that says why it is not here.
pub(crate) type Part<T> = std::result::Result<T, String>;

/// The journal, read line by line.
#[derive(Debug)]
pub(crate) struct Journal {
    /// The first line.
    pub(crate) header: RunHeader,
    /// One line for each candidate.
    pub(crate) lines: Vec<JournalLine>,
    /// Why what follows the lines could not be read: the last line of a killed run is cut off.
    pub(crate) unread: Option<String>,
}

/// Everything the report is made from.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) father: Part<Profile>,
    pub(crate) mother: Part<Profile>,
    pub(crate) child: Part<Profile>,
    pub(crate) comparison: Part<Comparison>,
    pub(crate) diagnosis: Part<DiagnosisFile>,
    pub(crate) journal: Part<Journal>,
    pub(crate) scores: Part<Scores>,
    pub(crate) health: Part<Health>,
    pub(crate) recipe: Part<String>,
    pub(crate) manifest: Part<MergeManifest>,
    /// `run.json`: free, and null where there is none.
    pub(crate) about: Part<serde_json::Value>,
}

impl Run {
    /// Reads what is there.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(ReportError::NoRunFolder(folder.to_owned()));
        }
        Ok(Self {
            father: versioned(folder, "father.profile.json"),
            mother: versioned(folder, "mother.profile.json"),
            child: versioned(folder, "child.profile.json"),
            comparison: versioned(folder, "comparison.json"),
            diagnosis: versioned(folder, "diagnosis.json"),
            journal: journal(folder, "journal.jsonl"),
            scores: versioned(folder, "scores.json"),
            health: versioned(folder, "health.json"),
            recipe: text(folder, "best.yaml"),
            manifest: versioned(folder, "child/manifest.json"),
            about: json(folder, "run.json"),
        })
    }

    /// A string of `run.json`.
    pub(crate) fn about(&self, key: &str) -> Option<&str> {
        self.about.as_ref().ok()?.get(key)?.as_str()
    }

    /// The scores of a model by its name.
    pub(crate) fn model(&self, name: &str) -> Option<&ModelScores> {
        self.scores.as_ref().ok()?.models.iter().find(|m| m.name == name)
    }

    /// The scores of the child: the arm whose recipe was written to `child/`, else the arm that
    /// `run.json` names under `child`, else `guided`.
    pub(crate) fn child_scores(&self) -> Option<&ModelScores> {
        let scores = self.scores.as_ref().ok()?;
        let written = self.manifest.as_ref().ok().map(|m| m.recipe_sha256.as_str());
        let by_recipe = scores
            .models
            .iter()
            .filter(|m| !m.recipe_sha256.is_empty() && Some(m.recipe_sha256.as_str()) == written)
            .min_by_key(|m| m.name != "guided");
        by_recipe
            .or_else(|| self.about("child").and_then(|name| self.model(name)))
            .or_else(|| self.model("guided"))
    }

    /// The parents' scores.
    pub(crate) fn parent_scores(&self) -> Vec<&ModelScores> {
        ["father", "mother"].iter().filter_map(|name| self.model(name)).collect()
    }
}

fn bytes(folder: &Path, name: &str) -> Part<Vec<u8>> {
    std::fs::read(folder.join(name)).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("The run folder has no {name}."),
        _ => format!("{name} could not be read: {error}."),
    })
}

fn text(folder: &Path, name: &str) -> Part<String> {
    String::from_utf8(bytes(folder, name)?).map_err(|_| format!("{name} is not UTF-8 text."))
}

fn json<T: DeserializeOwned>(folder: &Path, name: &str) -> Part<T> {
    serde_json::from_slice(&bytes(folder, name)?)
        .map_err(|error| format!("{name} could not be read: {error}."))
}

#[derive(Deserialize)]
struct Versioned {
    schema: u32,
}

fn versioned<T: DeserializeOwned>(folder: &Path, name: &str) -> Part<T> {
    let Versioned { schema } = json(folder, name)?;
    if schema != SCHEMA {
        return Err(format!("{name} has schema {schema}; this Darwin reads schema {SCHEMA}."));
    }
    json(folder, name)
}

fn journal(folder: &Path, name: &str) -> Part<Journal> {
    let text = JournalText::read(&bytes(folder, name)?);
    let unread = match &text.damaged {
        Some((line, what)) => Some(format!("line {line} is damaged ({what})")),
        None if text.torn > 0 => Some("its last line was cut off".to_owned()),
        None => None,
    };
    match (text.header, &unread) {
        (Some(header), _) => Ok(Journal { header, lines: text.lines, unread }),
        (None, Some(unread)) => Err(format!("{name} could not be read: {unread}.")),
        (None, None) => Err(format!("{name} is empty.")),
    }
}
