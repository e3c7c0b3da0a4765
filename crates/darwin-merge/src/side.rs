//! The child's side files: whose tokenizer it gets, and which chat template.

use crate::recipe::ChatTemplate;
use crate::vocabulary::{Files, Vocabulary};
use crate::{Error, Recipe, Sources};
use darwin_checkpoint::{Checkpoint, SideFile, SideKind};
use darwin_core::fs::{MAX_JSON_BYTES, read_bounded};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Where the side files come from.
#[derive(Clone, Default)]
pub(crate) struct Side {
    /// Whose tokenizer, where it is not the structural parent's.
    tokenizer: Option<Arc<Checkpoint>>,
    /// What follows from a vocabulary of its own.
    files: Files,
    /// Names that vocabulary.
    vocabulary: String,
    template: Option<ChatTemplate>,
    /// The structural parent, for what of its files is not carried.
    structure: Option<Arc<Checkpoint>>,
    /// All models of the recipe, for the template that most of them have.
    models: Vec<Arc<Checkpoint>>,
    /// The child gets no tokenizer.
    pub(crate) bare: bool,
    /// The child sees and hears nothing.
    text_only: bool,
}

/// Names of a line that says what is left out.
const NAMED: usize = 12;

/// Files to copy and files to write.
pub(crate) struct SideFiles {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) documents: Vec<(String, Vec<u8>)>,
}

impl Side {
    pub(crate) fn new(recipe: &Recipe, sources: &Sources, vocabulary: Option<&Vocabulary>) -> Self {
        let other = recipe.tokenizer.as_ref();
        let other = other.filter(|_| recipe.tokenizer() != recipe.structure());
        Self {
            tokenizer: other.and_then(|_| sources.checkpoint(recipe.tokenizer()).cloned()),
            files: vocabulary.map(|of| of.files.clone()).unwrap_or_default(),
            vocabulary: vocabulary.map(|of| of.digest.clone()).unwrap_or_default(),
            template: recipe.chat_template.clone(),
            structure: sources.checkpoint(recipe.structure()).cloned(),
            models: match recipe.chat_template {
                Some(ChatTemplate::Auto) => {
                    recipe.models().iter().filter_map(|m| sources.checkpoint(m).cloned()).collect()
                }
                _ => Vec::new(),
            },
            bare: false,
            text_only: recipe.darwin.text_only,
        }
    }

    /// Names the child's vocabulary, where it is not that of all models.
    pub(crate) fn vocabulary(&self) -> &str {
        &self.vocabulary
    }

    /// What has no effect, what is left out, what needs a look.
    pub(crate) fn note(&self) -> Result<Vec<String>, Error> {
        let mut notes = Vec::new();
        if self.template == Some(ChatTemplate::Auto) && self.template()?.is_none() {
            notes.push("no model has a chat template for `chat_template: auto`".to_owned());
        }
        let Some(structure) = &self.structure else { return Ok(notes) };
        let (files, left_out) = self.carried(structure)?;
        if !left_out.is_empty() {
            let shown: Vec<String> = left_out.iter().take(NAMED).cloned().collect();
            let more = match left_out.len() - shown.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            notes.push(format!(
                "files beside the weights that are left out: {}{more}",
                shown.join(", ")
            ));
        }
        let code: Vec<String> = files
            .iter()
            .filter(|file| file.kind == SideKind::Code)
            .map(|file| format!("`{}`", file.name()))
            .collect();
        if !code.is_empty() {
            notes.push(format!(
                "code that loaders run where they are told to trust it goes with the child, for its \
                 configuration names it: {}",
                code.join(", ")
            ));
        }
        Ok(notes)
    }

    /// The files of the structural parent and of the model that gives the tokenizer, and the names
    /// of what is left out.
    fn carried(&self, parent: &Checkpoint) -> Result<(Vec<SideFile>, Vec<String>), Error> {
        let of = |model: &Checkpoint| model.side_files();
        let found = of(parent)?;
        let (mut files, mut left_out) = (found.files, found.left_out);
        if self.text_only {
            files.retain(|file| file.kind != SideKind::Processor);
        }
        let is_tokenizer = |name: &str| SideKind::of(name) == Some(SideKind::Tokenizer);
        if self.bare || self.tokenizer.is_some() {
            files.retain(|file| file.kind != SideKind::Tokenizer);
            left_out.retain(|(name, _)| !is_tokenizer(name));
        }
        if let (Some(donor), false) = (&self.tokenizer, self.bare) {
            let theirs = of(donor)?;
            let names: Vec<String> = files.iter().map(|file| file.name().to_owned()).collect();
            files.extend(theirs.files.into_iter().filter(|file| {
                let code =
                    file.kind == SideKind::Code && !names.iter().any(|name| name == file.name());
                file.kind == SideKind::Tokenizer || code
            }));
            left_out.extend(theirs.left_out.into_iter().filter(|(name, _)| is_tokenizer(name)));
        }
        let named = |(name, why): (String, Option<&str>)| match why {
            Some(why) => format!("`{name}` ({why})"),
            None => format!("`{name}`"),
        };
        Ok((files, left_out.into_iter().map(named).collect()))
    }

    /// The side files of a child of this structural parent.
    pub(crate) fn files(&self, parent: &Checkpoint) -> Result<SideFiles, Error> {
        let mut files: Vec<PathBuf> =
            self.carried(parent)?.0.into_iter().map(|file| file.path).collect();
        let mut documents = Vec::new();
        self.replace(&mut files, &mut documents)?;
        if self.bare {
            return Ok(SideFiles { files, documents });
        }
        if let Some(text) = self.template()? {
            files.retain(|path| !is_one_of(path, &[TEMPLATE, "chat_template.json"]));
            // The child has one template, not two.
            replace(&mut files, &mut documents, |name, bytes| {
                (name == TOKENIZER_CONFIG).then(|| without_template(bytes)).flatten()
            })?;
            documents.push((TEMPLATE.to_owned(), text.into_bytes()));
        }
        Ok(SideFiles { files, documents })
    }

    /// Writes anew what no longer agrees with the vocabulary.
    fn replace(
        &self,
        files: &mut Vec<PathBuf>,
        documents: &mut Vec<(String, Vec<u8>)>,
    ) -> Result<(), Error> {
        replace(files, documents, |name, bytes| self.files.replaced(name, bytes))?;
        documents.retain(|(_, bytes)| !bytes.is_empty());
        Ok(())
    }

    /// The template that the recipe asks for; `None` leaves the tokenizer's own.
    fn template(&self) -> Result<Option<String>, Error> {
        let built_in = |name: &str| {
            let found = ChatTemplate::BUILT_IN.iter().find(|(known, _)| *known == name);
            found.map(|(_, text)| (*text).to_owned())
        };
        Ok(match &self.template {
            None => None,
            Some(ChatTemplate::BuiltIn(name)) => built_in(name),
            Some(ChatTemplate::Text(text)) => Some(text.clone()),
            Some(ChatTemplate::Auto) => {
                let mut found = Vec::new();
                for model in &self.models {
                    found.extend(template_of(model)?);
                }
                most_common(&found)
            }
        })
    }
}

/// Turns files into documents of other content, and gives documents other content, where `other`
/// has it.
fn replace(
    files: &mut Vec<PathBuf>,
    documents: &mut Vec<(String, Vec<u8>)>,
    other: impl Fn(&str, &[u8]) -> Option<Vec<u8>>,
) -> Result<(), Error> {
    for (name, bytes) in documents.iter_mut() {
        if let Some(new) = other(name, bytes) {
            *bytes = new;
        }
    }
    let mut kept = Vec::new();
    for path in std::mem::take(files) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("").to_owned();
        let kind = SideKind::of(&name);
        let known = matches!(kind, Some(SideKind::Tokenizer | SideKind::Generation));
        match if known { other(&name, &read(&path)?) } else { None } {
            Some(new) => documents.push((name, new)),
            None => kept.push(path),
        }
    }
    *files = kept;
    Ok(())
}

fn is_one_of(path: &Path, names: &[&str]) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| names.contains(&name))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    read_bounded(path, MAX_JSON_BYTES)
        .map_err(|source| Error::Io { file: path.display().to_string(), source })
}

/// The most frequent text, the first where several are.
fn most_common(texts: &[String]) -> Option<String> {
    let count = |text: &String| texts.iter().filter(|other| *other == text).count();
    let most = texts.iter().map(count).max()?;
    texts.iter().find(|text| count(text) == most).cloned()
}

/// A model's template without blanks around it: its own file, else in its tokenizer's
/// configuration, where several may have names.
fn template_of(model: &Checkpoint) -> Result<Option<String>, Error> {
    let files = model.side_files()?.files;
    let read_one = |name: &str| {
        let file = files.iter().find(|file| file.name() == name);
        file.map(|file| read(&file.path)).transpose()
    };
    let text = if let Some(bytes) = read_one(TEMPLATE)? {
        Some(String::from_utf8_lossy(&bytes).into_owned())
    } else {
        let config = read_one(TOKENIZER_CONFIG)?.unwrap_or_default();
        let config: Value = serde_json::from_slice(&config).unwrap_or_default();
        match &config["chat_template"] {
            Value::String(text) => Some(text.clone()),
            Value::Array(named) => {
                let default = named.iter().find(|entry| entry["name"] == "default");
                default.and_then(|entry| entry["template"].as_str()).map(str::to_owned)
            }
            _ => None,
        }
    };
    Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
}

/// A tokenizer's configuration without the template in it; `None` where there is none.
fn without_template(config: &[u8]) -> Option<Vec<u8>> {
    let mut config: Value = serde_json::from_slice(config).ok()?;
    config.as_object_mut()?.shift_remove("chat_template")?;
    let mut bytes = serde_json::to_vec_pretty(&config).ok()?;
    bytes.push(b'\n');
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_common_template_wins_and_the_first_of_equals() {
        let texts = |all: &str| all.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(most_common(&texts("a b b")).as_deref(), Some("b"));
        assert_eq!(most_common(&texts("b a")).as_deref(), Some("b"));
        assert_eq!(most_common(&[]), None);
        let config = br#"{"b": 1, "chat_template": "x", "a": 2}"#;
        let left = String::from_utf8(without_template(config).unwrap()).unwrap();
        assert_eq!(left, "{\n  \"b\": 1,\n  \"a\": 2\n}\n");
        assert_eq!(without_template(b"{}"), None);
    }
}
