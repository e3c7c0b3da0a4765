//! From YAML to a recipe; every problem is found in one run (mergekit 0.1.5, `config.py`).

use super::parse_darwin::darwin;
use super::parse_inputs::{TEXT_MODULE, inputs, stacked};
use super::parse_parameters::parameters;
use super::yaml::{self, Mark, Node, NodeKind};
use super::{AdapterRef, HubRef, Recipe, child, tokenizer, validate};
use crate::{Error, METHODS, Method, RecipeProblem};
use darwin_checkpoint::Dtype;
use darwin_core::nearest;
use std::collections::BTreeMap;
use std::path::Path;

const TOP: [&str; 12] = [
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "darwin",
];

/// As many problems are kept as a person may want to read; the last says so.
const MAX_PROBLEMS: usize = 100;

/// Collects what is wrong on the way.
pub(super) struct Reader<'a> {
    file: &'a str,
    /// Where the recipe lies.
    pub(super) folder: &'a Path,
    /// Whether shares stand in a file of their own.
    pub(super) groups_apart: bool,
    pub(super) problems: Vec<RecipeProblem>,
    /// Where keys stand, by their path, for problems that are found later.
    pub(super) marks: BTreeMap<String, Mark>,
    /// What is no problem and has no effect.
    notes: Vec<String>,
    /// Every model that was named, with what stands behind `base+adapter`.
    pub(super) models: BTreeMap<String, Option<AdapterRef>>,
    /// What stands behind `owner/name@revision`.
    pub(super) revisions: BTreeMap<String, HubRef>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a str, folder: &'a Path) -> Self {
        Self {
            file,
            folder,
            groups_apart: false,
            problems: Vec::new(),
            marks: BTreeMap::new(),
            notes: Vec::new(),
            models: BTreeMap::new(),
            revisions: BTreeMap::new(),
        }
    }

    pub(super) fn problem(&mut self, at: Mark, text: impl Into<String>, hint: impl Into<String>) {
        let (file, at) = (self.file.to_owned(), Some(at));
        let (text, hint) = match self.problems.len() {
            MAX_PROBLEMS.. => return,
            n if n + 1 == MAX_PROBLEMS => {
                (format!("there are more problems, {n} are shown"), "begin with the first".into())
            }
            _ => (bounded(text.into()), bounded(hint.into())),
        };
        self.problems.push(RecipeProblem { file, at, text, hint });
    }

    pub(super) fn note(&mut self, at: Mark, text: &str) {
        self.notes.push(format!("line {}: {text}", at.0));
    }

    /// The entries of a mapping; unknown keys are problems.
    pub(super) fn fields<'n>(
        &mut self,
        node: &'n Node,
        place: &str,
        known: &[&str],
    ) -> BTreeMap<&'n str, &'n Node> {
        let NodeKind::Mapping(entries) = &node.kind else {
            let text = format!("{place} is {}, allowed is a mapping", node.describe());
            self.problem(node.mark, text, format!("write its keys: {}", known.join(", ")));
            return BTreeMap::new();
        };
        let mut fields = BTreeMap::new();
        for (key, mark, value) in entries {
            if known.contains(&key.as_str()) {
                fields.insert(key.as_str(), value);
                self.marks.entry(format!("{place}/{key}")).or_insert(*mark);
            } else {
                self.unknown_key(*mark, key, place, known);
            }
        }
        fields
    }

    pub(super) fn unknown_key(&mut self, at: Mark, key: &str, place: &str, known: &[&str]) {
        if self.problems.len() >= MAX_PROBLEMS {
            return;
        }
        let key = super::shortened(key);
        let hint = match nearest(&key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known keys are {}", known.join(", ")),
        };
        self.problem(at, format!("unknown key `{key}` in {place}"), hint);
    }

    pub(super) fn string(&mut self, node: &Node, key: &str) -> Option<String> {
        match node.text() {
            Some(text) if !node.is_null() => Some(text.to_owned()),
            _ => {
                let text = format!("`{key}` is {}, allowed is text", node.describe());
                self.problem(node.mark, text, "write a name");
                None
            }
        }
    }

    pub(super) fn items<'n>(&mut self, node: &'n Node, key: &str) -> &'n [Node] {
        match &node.kind {
            NodeKind::Sequence(items) => items,
            _ => {
                let text = format!("`{key}` is {}, allowed is a list", node.describe());
                self.problem(node.mark, text, "begin each entry with `- `");
                &[]
            }
        }
    }

    fn dtype(&mut self, node: &Node, key: &str) -> Option<Dtype> {
        if node.is_null() {
            return None;
        }
        let text = self.string(node, key)?;
        let dtype = Dtype::from_torch_name(&text).filter(|dtype| dtype.is_mergeable());
        if dtype.is_none() {
            let allowed = "allowed are bfloat16, float16, float32";
            let hint = nearest(&text, ["bfloat16", "float16", "float32"]).map_or_else(
                || "choose one of them".to_owned(),
                |n| format!("did you mean `{n}`?"),
            );
            self.problem(node.mark, format!("`{key}` is `{text}`, {allowed}"), hint);
        }
        dtype
    }
}

/// A sentence with no more of a recipe's text in it than a person reads.
fn bounded(mut text: String) -> String {
    const LONGEST: usize = 1000;
    if let Some((at, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(at);
        text.push('…');
    }
    text
}

/// Reads a recipe; a file of shares lies in `folder`.
pub(super) fn parse(file: &str, folder: &Path, text: &str) -> Result<Recipe, Error> {
    match yaml::parse(text) {
        Ok(document) => root(file, folder, &document, text),
        Err((at, message, hint)) => {
            let mut reader = Reader::new(file, folder);
            reader.problem(at, message, hint);
            Err(Error::Recipe(reader.problems))
        }
    }
}

/// Reads a recipe from a document of a text.
pub(super) fn root(file: &str, folder: &Path, root: &Node, text: &str) -> Result<Recipe, Error> {
    let mut reader = Reader::new(file, folder);
    if let Some((key, at)) = mixture(root) {
        let text = format!("`{key}`: this is a configuration of mergekit-moe, which builds a");
        let text = format!("{text} mixture of experts from dense models");
        let hint = "build it with mergekit-moe; `darwin merge` merges the models that it writes";
        reader.problem(at, text, hint);
        return Err(Error::Recipe(reader.problems));
    }
    let recipe = top(&mut reader, root);
    if let (Some(mut recipe), true) = (recipe, reader.problems.is_empty()) {
        recipe.text = Some(text.to_owned());
        recipe.notes.append(&mut reader.notes);
        for finding in validate::validate(&mut recipe).into_iter().take(MAX_PROBLEMS) {
            let at = reader.marks.get(&finding.key).copied().unwrap_or(root.mark);
            reader.problems.push(finding.problem(file, Some(at)));
        }
        if reader.problems.is_empty() {
            return Ok(recipe);
        }
    }
    reader.problems.sort_by_key(|problem| problem.at);
    Err(Error::Recipe(reader.problems))
}

/// The key that shows a file of mergekit-moe.
fn mixture(root: &Node) -> Option<(&str, Mark)> {
    let NodeKind::Mapping(entries) = &root.kind else { return None };
    let has = |key: &str| entries.iter().find(|(name, ..)| name == key);
    let shows = has("experts").or_else(|| has("gate_mode"))?;
    has("merge_method").is_none().then_some((shows.0.as_str(), shows.1))
}

fn top(reader: &mut Reader<'_>, root: &Node) -> Option<Recipe> {
    let fields = reader.fields(root, "the recipe", &TOP);
    let method = method(reader, root, fields.get("merge_method").copied());
    let base = fields.get("base_model").filter(|node| !node.is_null());
    let base = base.and_then(|node| reader.model(node, "base_model"));
    let inputs = inputs(reader, root, &fields);
    let parameters = fields.get("parameters").map(|node| parameters(reader, node, true));
    let parameters = parameters.unwrap_or_default();
    let dtype = fields.get("dtype").and_then(|node| reader.dtype(node, "dtype"));
    let out_dtype = fields.get("out_dtype").and_then(|node| reader.dtype(node, "out_dtype"));
    let tokenizer = tokenizer::tokenizer(reader, &fields);
    let template = fields.get("chat_template").filter(|node| !node.is_null());
    let chat_template = template.and_then(|node| child::chat_template(reader, node));
    let darwin = fields.get("darwin").map(|node| darwin(reader, node)).unwrap_or_default();
    let inputs = inputs?;
    let module = inputs.module.is_some().then(|| TEXT_MODULE.to_owned());
    Some(Recipe {
        method: method?,
        base,
        inputs: inputs.inputs,
        parameters: match inputs.module {
            Some(own) => stacked(own, parameters),
            None => parameters,
        },
        module,
        dtype,
        out_dtype,
        tokenizer,
        chat_template,
        darwin,
        adapters: std::mem::take(&mut reader.models)
            .into_iter()
            .filter_map(|(name, adapter)| Some((name, adapter?)))
            .collect(),
        revisions: std::mem::take(&mut reader.revisions),
        steps: BTreeMap::new(),
        hub: None,
        text: None,
        groups_apart: reader.groups_apart,
        folder: None,
        notes: Vec::new(),
    })
}

fn method(reader: &mut Reader<'_>, root: &Node, node: Option<&Node>) -> Option<&'static Method> {
    let Some(node) = node else {
        let hint = format!("write `merge_method:` and one of {}", validate::method_names());
        reader.problem(root.mark, "the recipe has no `merge_method`", hint);
        return None;
    };
    let name = reader.string(node, "merge_method")?;
    let method = Method::find(&name);
    if method.is_none() {
        let hint = match nearest(&name, METHODS.iter().map(|m| m.name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("use one of {}", validate::method_names()),
        };
        reader.problem(node.mark, format!("there is no merge method `{name}`"), hint);
    }
    method
}
