//! Whose vocabulary the child gets: `tokenizer_source`, `tokenizer` (mergekit 0.1.5, `tokenizer/`).

use super::Recipe;
use super::emit::{entry, line, model_of_tokenizer, quote};
use super::parse::Reader;
use super::yaml::{Node, NodeKind};
use std::collections::BTreeMap;

/// Whose tokenizer the child gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenizerSource {
    /// The base model's, else the structural parent's.
    Base,
    /// The base's with the tokens of all other models behind its own.
    #[default]
    Union,
    /// A model of the merge.
    Model(String),
}

/// The vocabulary of the child.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokenizer {
    /// Whose tokenizer.
    pub source: TokenizerSource,
    /// Rules for single tokens, in the recipe's order; tokens that the tokenizer lacks are added.
    pub tokens: Vec<(String, TokenRule)>,
    /// The rows of embedding and head become a multiple of this; `None` keeps the base's padding.
    pub pad_to_multiple_of: Option<usize>,
}

/// Where the rows of a token come from, in models that lack it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRule {
    /// The row; `None`: as for tokens without a rule.
    pub source: Option<TokenRow>,
    /// Models that have the token get the row, too.
    pub force: bool,
}

/// A row of the vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenRow {
    /// The token's own in this model.
    Model(String),
    /// Another token's.
    Token {
        /// Of which model.
        model: String,
        /// Which one.
        token: TokenName,
    },
    /// Zeros.
    Zero,
}

/// A token by text or by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenName {
    /// As `tokenizer.json` spells it.
    Text(String),
    /// Its row.
    Id(usize),
}

type Fields<'n> = BTreeMap<&'n str, &'n Node>;

const ROWS: &str =
    "write a model, {kind: model_token, model: MODEL, token: TOKEN}, {kind: zero} or null";

impl Tokenizer {
    /// Every model that it names.
    pub(super) fn models(&self) -> impl Iterator<Item = &str> {
        let source = match &self.source {
            TokenizerSource::Model(model) => Some(model.as_str()),
            TokenizerSource::Base | TokenizerSource::Union => None,
        };
        let rows = self.tokens.iter().filter_map(|(_, rule)| rule.source.as_ref());
        source.into_iter().chain(rows.filter_map(|row| match row {
            TokenRow::Model(model) | TokenRow::Token { model, .. } => Some(model.as_str()),
            TokenRow::Zero => None,
        }))
    }

    pub(super) fn rename(&mut self, rename: &mut impl FnMut(&mut String)) {
        if let TokenizerSource::Model(model) = &mut self.source {
            rename(model);
        }
        for row in self.tokens.iter_mut().filter_map(|(_, rule)| rule.source.as_mut()) {
            match row {
                TokenRow::Model(model) | TokenRow::Token { model, .. } => rename(model),
                TokenRow::Zero => {}
            }
        }
    }

    /// What it does, for people; `whose` is the model that gives it.
    pub(super) fn describe(&self, whose: &str) -> String {
        let mut parts = vec![match self.source {
            TokenizerSource::Union => format!("union, the tokens of `{whose}` first"),
            _ => whose.to_owned(),
        }];
        if !self.tokens.is_empty() {
            parts.push(format!("{} tokens with rules", self.tokens.len()));
        }
        if let Some(multiple) = self.pad_to_multiple_of {
            parts.push(format!("rows padded to a multiple of {multiple}"));
        }
        parts.join("; ")
    }

    /// The canonical form: the short key where it says all.
    pub(super) fn emit(&self, recipe: &Recipe, out: &mut String) {
        let source = match &self.source {
            TokenizerSource::Base => "base".to_owned(),
            TokenizerSource::Union => "union".to_owned(),
            TokenizerSource::Model(model) => model_of_tokenizer(recipe, model),
        };
        if self.tokens.is_empty() && self.pad_to_multiple_of.is_none() {
            return line(out, 0, "tokenizer_source", &source);
        }
        out.push_str("tokenizer:\n");
        line(out, 2, "source", &source);
        if let Some(multiple) = self.pad_to_multiple_of {
            line(out, 2, "pad_to_multiple_of", &multiple.to_string());
        }
        if !self.tokens.is_empty() {
            out.push_str("  tokens:\n");
        }
        for (token, rule) in &self.tokens {
            entry(out, 4, token, &rule.emit(recipe));
        }
    }
}

impl TokenRule {
    fn emit(&self, recipe: &Recipe) -> String {
        let source = match &self.source {
            None => "null".to_owned(),
            Some(TokenRow::Model(model)) => model_of_tokenizer(recipe, model),
            Some(TokenRow::Zero) => "{kind: zero}".to_owned(),
            Some(TokenRow::Token { model, token }) => {
                let model = model_of_tokenizer(recipe, model);
                let token = match token {
                    TokenName::Text(text) => format!("token: {}", quote(text)),
                    TokenName::Id(id) => format!("token_id: {id}"),
                };
                format!("{{kind: model_token, model: {model}, {token}}}")
            }
        };
        format!("{{source: {source}, force: {}}}", self.force)
    }
}

pub(super) fn tokenizer(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Tokenizer> {
    let given = |key: &str| fields.get(key).copied().filter(|node| !node.is_null());
    match (given("tokenizer_source"), given("tokenizer")) {
        (Some(node), None) => {
            let source = source(reader, node, "tokenizer_source")?;
            Some(Tokenizer { source, ..Tokenizer::default() })
        }
        (None, Some(node)) => block(reader, node),
        (Some(_), Some(node)) => {
            let text = "both `tokenizer_source` and `tokenizer` are given";
            reader.problem(node.mark, text, "keep one of them");
            None
        }
        (None, None) => None,
    }
}

fn block(reader: &mut Reader<'_>, node: &Node) -> Option<Tokenizer> {
    // Models that are none of the merge are reported under this key.
    reader.marks.entry("the recipe/tokenizer_source".to_owned()).or_insert(node.mark);
    let known = ["source", "tokens", "pad_to_multiple_of"];
    let fields = reader.fields(node, "`tokenizer`", &known);
    let given = |key: &str| fields.get(key).copied().filter(|node| !node.is_null());
    let source = match given("source") {
        Some(node) => source(reader, node, "source"),
        None => Some(TokenizerSource::default()),
    };
    let pad_to_multiple_of = given("pad_to_multiple_of").and_then(|node| multiple(reader, node));
    let tokens = given("tokens").map(|node| tokens(reader, node)).unwrap_or_default();
    Some(Tokenizer { source: source?, tokens, pad_to_multiple_of })
}

fn source(reader: &mut Reader<'_>, node: &Node, key: &str) -> Option<TokenizerSource> {
    match node.text() {
        Some("base") => Some(TokenizerSource::Base),
        Some("union") => Some(TokenizerSource::Union),
        _ => reader.model(node, key).map(TokenizerSource::Model),
    }
}

/// Larger multiples are a mistake: they would be padding alone.
const LARGEST_MULTIPLE: usize = 1 << 20;

fn multiple(reader: &mut Reader<'_>, node: &Node) -> Option<usize> {
    let value = node.index().filter(|n| (1..=LARGEST_MULTIPLE).contains(n));
    if value.is_none() {
        let text =
            format!("`pad_to_multiple_of` is {}, allowed is a whole number", node.describe());
        let hint = format!("write a number from 1 to {LARGEST_MULTIPLE}, such as 64");
        reader.problem(node.mark, text, hint);
    }
    value
}

fn tokens(reader: &mut Reader<'_>, node: &Node) -> Vec<(String, TokenRule)> {
    let NodeKind::Mapping(entries) = &node.kind else {
        let text = format!("`tokens` is {}, allowed is a mapping", node.describe());
        reader.problem(node.mark, text, "write each token with its rule: `TOKEN: {source: MODEL}`");
        return Vec::new();
    };
    let mut rules = Vec::new();
    for (token, mark, node) in entries {
        if token.is_empty() {
            reader.problem(*mark, "a token of `tokens` has no text", "write its text");
            continue;
        }
        let place = format!("the token `{token}`");
        let fields = reader.fields(node, &place, &["source", "force"]);
        let given = |key: &str| fields.get(key).copied().filter(|node| !node.is_null());
        let force = match given("force") {
            Some(node) => node.switch().unwrap_or_else(|| {
                let text = format!("`force` of {place} is {}", node.describe());
                reader.problem(node.mark, text, "write true or false");
                false
            }),
            None => false,
        };
        let source = given("source").and_then(|node| row(reader, node, &place));
        rules.push((token.clone(), TokenRule { source, force }));
    }
    rules
}

/// A model, or one of the kinds.
fn row(reader: &mut Reader<'_>, node: &Node, place: &str) -> Option<TokenRow> {
    let kind = match &node.kind {
        NodeKind::Mapping(entries) => entries.iter().find(|(key, ..)| key == "kind"),
        _ => None,
    };
    let Some((_, mark, kind)) = kind else {
        return reader.model(node, "source").map(TokenRow::Model);
    };
    match kind.text() {
        Some("zero") => {
            reader.fields(node, place, &["kind"]);
            Some(TokenRow::Zero)
        }
        Some("model_token") => model_token(reader, node, place),
        _ => {
            let text = format!("`kind` of {place} is {}", kind.describe());
            reader.problem(*mark, text, ROWS);
            None
        }
    }
}

fn model_token(reader: &mut Reader<'_>, node: &Node, place: &str) -> Option<TokenRow> {
    let fields = reader.fields(node, place, &["kind", "model", "token", "token_id"]);
    let given = |key: &str| fields.get(key).copied().filter(|node| !node.is_null());
    let model = match given("model") {
        Some(node) => reader.model(node, "model"),
        None => {
            reader.problem(node.mark, format!("the row of {place} names no `model`"), ROWS);
            None
        }
    };
    let token = match (given("token"), given("token_id")) {
        (Some(node), None) => reader.string(node, "token").map(TokenName::Text),
        (None, Some(node)) => {
            if node.index().is_none() {
                let text = format!("`token_id` of {place} is {}", node.describe());
                reader.problem(node.mark, text, "write an id, from 0");
            }
            node.index().map(TokenName::Id)
        }
        (both, _) => {
            let many = if both.is_some() { "both `token` and `token_id`" } else { "no token" };
            let text = format!("the row of {place} names {many}");
            reader.problem(node.mark, text, "write one of `token: TEXT` and `token_id: ID`");
            None
        }
    };
    Some(TokenRow::Token { model: model?, token: token? })
}
