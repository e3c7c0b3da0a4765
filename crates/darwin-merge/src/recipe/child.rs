//! The child's chat template: `chat_template` (mergekit 0.1.5, `merge.py`).

use super::emit::quote;
use super::parse::Reader;
use super::yaml::Node;
use darwin_core::nearest;

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
    /// publishers document them.
    pub const BUILT_IN: [(&'static str, &'static str); 5] = [
        ("alpaca", include_str!("templates/alpaca.jinja")),
        ("chatml", include_str!("templates/chatml.jinja")),
        ("exaone", include_str!("templates/exaone.jinja")),
        ("llama3", include_str!("templates/llama3.jinja")),
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

/// mergekit takes shorter texts for a mistake.
const SHORTEST_TEMPLATE: usize = 20;

pub(super) fn chat_template(reader: &mut Reader<'_>, node: &Node) -> Option<ChatTemplate> {
    let text = reader.string(node, "chat_template")?;
    let known = ChatTemplate::BUILT_IN.iter().map(|(name, _)| *name);
    if text == "auto" {
        return Some(ChatTemplate::Auto);
    }
    if let Some(name) = known.clone().find(|name| *name == text) {
        return Some(ChatTemplate::BuiltIn(name));
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
