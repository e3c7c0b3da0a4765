//! The child's side files: whose tokenizer it gets, and which chat template.

use crate::recipe::ChatTemplate;
use crate::vocabulary::{Files, Vocabulary};
use crate::{Error, Recipe, Sources};
use darwin_checkpoint::Checkpoint;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TEMPLATE: &str = "chat_template.jinja";
const GENERATION: &str = "generation_config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// What belongs to a tokenizer.
const TOKENIZER_FILES: [&str; 12] = [
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    TEMPLATE,
    "chat_template.json",
];

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
    /// All models of the recipe, for the template that most of them have.
    models: Vec<Arc<Checkpoint>>,
    /// The child gets no tokenizer.
    pub(crate) bare: bool,
    /// The child sees and hears nothing.
    text_only: bool,
}

/// What prepares images, sound and video for a model.
const PROCESSOR_FILES: [&str; 3] =
    ["preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"];

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

    /// What has no effect.
    pub(crate) fn note(&self) -> Result<Option<String>, Error> {
        let nothing = self.template == Some(ChatTemplate::Auto) && self.template()?.is_none();
        Ok(nothing.then(|| "no model has a chat template for `chat_template: auto`".to_owned()))
    }

    /// The side files of a child of this structural parent.
    pub(crate) fn files(&self, parent: &Checkpoint) -> Result<SideFiles, Error> {
        let mut files = parent.side_files()?;
        let mut documents = Vec::new();
        if self.text_only {
            files.retain(|path| !is_one_of(path, &PROCESSOR_FILES));
        }
        if self.bare {
            files.retain(|path| !is_one_of(path, &TOKENIZER_FILES));
            self.replace(&mut files, &mut documents)?;
            return Ok(SideFiles { files, documents });
        }
        if let Some(donor) = &self.tokenizer {
            files.retain(|path| !is_one_of(path, &TOKENIZER_FILES));
            let theirs = donor.side_files()?;
            files.extend(theirs.into_iter().filter(|path| is_one_of(path, &TOKENIZER_FILES)));
        }
        self.replace(&mut files, &mut documents)?;
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
                    found.extend(template_of(model.folder())?);
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
        let known = TOKENIZER_FILES.contains(&name.as_str()) || name == GENERATION;
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
    std::fs::read(path).map_err(|source| Error::Io { file: path.display().to_string(), source })
}

/// The most frequent text, the first where several are.
fn most_common(texts: &[String]) -> Option<String> {
    let count = |text: &String| texts.iter().filter(|other| *other == text).count();
    let most = texts.iter().map(count).max()?;
    texts.iter().find(|text| count(text) == most).cloned()
}

/// A model's template without blanks around it: its own file, else in its tokenizer's
/// configuration, where several may have names.
fn template_of(folder: &Path) -> Result<Option<String>, Error> {
    let path = folder.join(TEMPLATE);
    let text = if path.exists() {
        Some(String::from_utf8_lossy(&read(&path)?).into_owned())
    } else {
        let path = folder.join(TOKENIZER_CONFIG);
        let config = if path.exists() { read(&path)? } else { Vec::new() };
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
