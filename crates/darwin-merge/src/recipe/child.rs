//! What the child gets beside its weights: `tokenizer_source`, `tokenizer`, `chat_template`
//! (mergekit.md 1.8, 1.9).

use super::emit::quote;
use super::parse::Reader;
use super::yaml::Node;
use darwin_core::nearest;
use std::collections::BTreeMap;

/// Whose tokenizer the child gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerSource {
    /// The base model's, else the structural parent's.
    Base,
    /// A model of the merge.
    Model(String),
}

/// The child's chat template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatTemplate {
    /// The one that most of the models have; the first of them where several are as frequent.
    Auto,
    /// One of [`ChatTemplate::BUILT_IN`], by name.
    BuiltIn(&'static str),
    /// Jinja.
    Text(String),
}

impl ChatTemplate {
    /// Templates that are known by name. Their text is our own, for the formats as their
    /// publishers document them; mergekit's other two names belong to models whose licences
    /// restrict the use of their files.
    pub const BUILT_IN: [(&'static str, &'static str); 3] = [
        ("alpaca", include_str!("templates/alpaca.jinja")),
        ("chatml", include_str!("templates/chatml.jinja")),
        ("mistral", include_str!("templates/mistral.jinja")),
    ];

    pub(super) fn emit(&self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::BuiltIn(name) => (*name).to_owned(),
            Self::Text(text) => quote(text),
        }
    }
}

/// mergekit's names whose templates are not ours to give.
const LICENSED: [&str; 2] = ["exaone", "llama3"];

/// mergekit takes shorter texts for a mistake.
const SHORTEST_TEMPLATE: usize = 20;

const LATER: &str = "write `base`, or a model of the merge whose tokenizer the child gets";

type Fields<'n> = BTreeMap<&'n str, &'n Node>;

pub(super) fn tokenizer(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<TokenizerSource> {
    let given = |key: &str| fields.get(key).copied().filter(|node| !node.is_null());
    match (given("tokenizer_source"), given("tokenizer")) {
        (Some(node), None) => source(reader, node, "tokenizer_source"),
        (None, Some(node)) => block(reader, node),
        (Some(_), Some(node)) => {
            let text = "both `tokenizer_source` and `tokenizer` are given";
            reader.problem(node.mark, text, "keep one of them");
            None
        }
        (None, None) => None,
    }
}

fn block(reader: &mut Reader<'_>, node: &Node) -> Option<TokenizerSource> {
    let known = ["source", "tokens", "pad_to_multiple_of"];
    let fields = reader.fields(node, "`tokenizer`", &known);
    for key in ["tokens", "pad_to_multiple_of"] {
        if let Some(node) = fields.get(key).filter(|node| !node.is_null() && !node.is_empty()) {
            let text = format!("`{key}` of `tokenizer` is not supported yet");
            reader.problem(node.mark, text, "remove it: rows of the vocabulary are not moved");
        }
    }
    match fields.get("source").filter(|node| !node.is_null()) {
        Some(node) => source(reader, node, "source"),
        None => {
            let text = "`tokenizer` has no `source`: mergekit's `union` is not supported yet";
            reader.problem(node.mark, text, LATER);
            None
        }
    }
}

fn source(reader: &mut Reader<'_>, node: &Node, key: &str) -> Option<TokenizerSource> {
    match node.text() {
        Some("base") => Some(TokenizerSource::Base),
        Some("union") => {
            let text = format!("`{key}` is `union`: joining vocabularies is not supported yet");
            reader.problem(node.mark, text, LATER);
            None
        }
        _ => reader.model(node, key).map(TokenizerSource::Model),
    }
}

pub(super) fn chat_template(reader: &mut Reader<'_>, node: &Node) -> Option<ChatTemplate> {
    let text = reader.string(node, "chat_template")?;
    let known = ChatTemplate::BUILT_IN.iter().map(|(name, _)| *name);
    if text == "auto" {
        return Some(ChatTemplate::Auto);
    }
    if let Some(name) = known.clone().find(|name| *name == text) {
        return Some(ChatTemplate::BuiltIn(name));
    }
    if LICENSED.contains(&text.as_str()) {
        let problem = format!("`chat_template` is `{text}`, a template under its model's licence");
        let hint = "write `auto` where a model of the merge has it, or the Jinja itself";
        reader.problem(node.mark, problem, hint);
        return None;
    }
    if text.len() < SHORTEST_TEMPLATE || !text.contains('{') {
        let names: Vec<&str> = known.chain(["auto"]).collect();
        let hint = match nearest(&text, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write {}, or Jinja of 20 characters or more", names.join(", ")),
        };
        let problem = format!("`chat_template` is {}, not a known name", node.describe());
        reader.problem(node.mark, format!("{problem} and no Jinja"), hint);
        return None;
    }
    Some(ChatTemplate::Text(text))
}
