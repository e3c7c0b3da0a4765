//! From YAML to a recipe; every problem is found in one run (mergekit.md 1.1).

use super::parse_darwin::darwin;
use super::parse_parameters::parameters;
use super::yaml::{self, Mark, Node, NodeKind};
use super::{Inputs, ModelEntry, Recipe, Slice, SliceSource, validate};
use crate::{Error, METHODS, Method, RecipeProblem};
use darwin_checkpoint::Dtype;
use darwin_core::nearest;
use std::collections::BTreeMap;

const TOP: [&str; 10] = [
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "darwin",
];
const UNSUPPORTED: [&str; 2] = ["tokenizer", "chat_template"];

/// Collects what is wrong on the way.
pub(super) struct Reader<'a> {
    file: &'a str,
    pub(super) problems: Vec<RecipeProblem>,
    /// Where keys stand, by their path, for problems that are found later.
    pub(super) marks: BTreeMap<String, Mark>,
}

impl Reader<'_> {
    pub(super) fn problem(&mut self, at: Mark, text: impl Into<String>, hint: impl Into<String>) {
        let (file, at) = (self.file.to_owned(), Some(at));
        self.problems.push(RecipeProblem { file, at, text: text.into(), hint: hint.into() });
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
        let hint = match nearest(key, known.iter().copied()) {
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

    /// A model's folder; revisions, adapters and the hub come later.
    pub(super) fn model(&mut self, node: &Node, key: &str) -> Option<String> {
        let (text, at) = match &node.kind {
            NodeKind::Mapping(_) => {
                let known = ["path", "model", "revision", "lora", "override_architecture"];
                let fields = self.fields(node, key, &known);
                for extra in ["revision", "lora", "override_architecture"] {
                    if let Some(value) = fields.get(extra).filter(|value| !value.is_null()) {
                        self.unsupported(value.mark, extra);
                    }
                }
                let inner = fields.get("path").or_else(|| fields.get("model"));
                let Some(inner) = inner.copied() else {
                    self.problem(node.mark, format!("`{key}` names no `path`"), "write the folder");
                    return None;
                };
                return self.model(inner, key);
            }
            _ => (self.string(node, key)?, node.mark),
        };
        if text.contains('@') {
            self.unsupported(at, &format!("@revision` in `{text}"));
        } else if text.contains('+') {
            self.unsupported(at, &format!("+lora` in `{text}"));
        }
        Some(text)
    }

    fn unsupported(&mut self, at: Mark, what: &str) {
        let hint = "download that revision, or merge the adapter first, and name its folder";
        self.problem(at, format!("`{what}` is not supported yet"), hint);
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

/// Reads a recipe.
pub(super) fn parse(file: &str, text: &str) -> Result<Recipe, Error> {
    let mut reader = Reader { file, problems: Vec::new(), marks: BTreeMap::new() };
    let root = match yaml::parse(text) {
        Ok(root) => root,
        Err((at, message)) => {
            reader.problem(at, message, "see mergekit's documentation for the format of recipes");
            return Err(Error::Recipe(reader.problems));
        }
    };
    let recipe = top(&mut reader, &root);
    if let (Some(mut recipe), true) = (recipe, reader.problems.is_empty()) {
        recipe.text = Some(text.to_owned());
        for finding in validate::validate(&mut recipe) {
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

fn top(reader: &mut Reader<'_>, root: &Node) -> Option<Recipe> {
    let known: Vec<&str> = TOP.iter().chain(&UNSUPPORTED).copied().collect();
    let fields = reader.fields(root, "the recipe", &known);
    for key in UNSUPPORTED {
        if let Some(node) = fields.get(key) {
            let hint = "leave it out: the child gets the structural parent's";
            reader.problem(node.mark, format!("`{key}` is not supported yet"), hint);
        }
    }
    let method = method(reader, root, fields.get("merge_method").copied());
    let base = fields.get("base_model").filter(|node| !node.is_null());
    let base = base.and_then(|node| reader.model(node, "base_model"));
    let inputs = inputs(reader, root, &fields);
    let parameters = fields.get("parameters").map(|node| parameters(reader, node, true));
    let dtype = fields.get("dtype").and_then(|node| reader.dtype(node, "dtype"));
    let out_dtype = fields.get("out_dtype").and_then(|node| reader.dtype(node, "out_dtype"));
    if let Some(node) = fields.get("tokenizer_source").filter(|node| !node.is_null()) {
        let source = reader.string(node, "tokenizer_source");
        if source.as_deref().is_some_and(|source| source != "base") {
            let text = format!("`tokenizer_source` is {}, supported is `base`", node.describe());
            reader.problem(node.mark, text, "leave it out: the child gets the structural parent's");
        }
    }
    let darwin = fields.get("darwin").map(|node| darwin(reader, node)).unwrap_or_default();
    Some(Recipe {
        method: method?,
        base,
        inputs: inputs?,
        parameters: parameters.unwrap_or_default(),
        dtype,
        out_dtype,
        darwin,
        text: None,
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

fn inputs(reader: &mut Reader<'_>, root: &Node, fields: &BTreeMap<&str, &Node>) -> Option<Inputs> {
    if let Some(node) = fields.get("modules") {
        let hint = "use `models` (all modules are merged) or `slices` (of the language model)";
        reader.problem(node.mark, "`modules` is not supported yet", hint);
        return None;
    }
    match (fields.get("models"), fields.get("slices")) {
        (Some(node), None) => {
            let items = reader.items(node, "models");
            Some(Inputs::Models(
                items.iter().filter_map(|item| model_entry(reader, item)).collect(),
            ))
        }
        (None, Some(node)) => {
            let items = reader.items(node, "slices");
            Some(Inputs::Slices(items.iter().map(|item| slice(reader, item)).collect()))
        }
        (Some(_), Some(node)) => {
            reader.problem(node.mark, "both `models` and `slices` are given", "keep one of them");
            None
        }
        (None, None) => {
            let hint = "write `models:` with one `- model: FOLDER` a model";
            reader.problem(root.mark, "the recipe has neither `models` nor `slices`", hint);
            None
        }
    }
}

fn model_entry(reader: &mut Reader<'_>, node: &Node) -> Option<ModelEntry> {
    let fields = reader.fields(node, "an entry of `models`", &["model", "parameters"]);
    let parameters = fields.get("parameters").map(|node| parameters(reader, node, false));
    let model = model_field(reader, node, &fields)?;
    Some(ModelEntry { model, parameters: parameters.unwrap_or_default() })
}

fn model_field(
    reader: &mut Reader<'_>,
    node: &Node,
    fields: &BTreeMap<&str, &Node>,
) -> Option<String> {
    let Some(model) = fields.get("model") else {
        reader.problem(node.mark, "this entry names no `model`", "write `model: FOLDER`");
        return None;
    };
    reader.model(model, "model")
}

fn slice(reader: &mut Reader<'_>, node: &Node) -> Slice {
    let known = ["sources", "base_model", "parameters", "residual_weight"];
    let fields = reader.fields(node, "an entry of `slices`", &known);
    if let Some(node) = fields.get("residual_weight").filter(|node| !node.is_null()) {
        reader.problem(node.mark, "`residual_weight` has no effect", "remove it");
    }
    let mut sources = Vec::new();
    match fields.get("sources") {
        Some(list) => {
            for item in reader.items(list, "sources") {
                sources.extend(slice_source(reader, item));
            }
        }
        None => reader.problem(node.mark, "this slice has no `sources`", "write `sources:`"),
    }
    let base = fields.get("base_model").filter(|node| !node.is_null());
    let parameters = fields.get("parameters").map(|node| parameters(reader, node, true));
    Slice {
        sources,
        base: base.and_then(|node| reader.model(node, "base_model")),
        parameters: parameters.unwrap_or_default(),
    }
}

fn slice_source(reader: &mut Reader<'_>, node: &Node) -> Option<SliceSource> {
    let known = ["model", "layer_range", "parameters"];
    let fields = reader.fields(node, "an entry of `sources`", &known);
    let parameters = fields.get("parameters").map(|node| parameters(reader, node, false));
    let model = model_field(reader, node, &fields);
    let range = fields.get("layer_range").copied();
    let ends: Vec<Option<usize>> = match range.map(|node| &node.kind) {
        Some(NodeKind::Sequence(ends)) => {
            ends.iter().map(|end| end.text().and_then(|text| text.parse().ok())).collect()
        }
        _ => Vec::new(),
    };
    let [Some(start), Some(end)] = ends[..] else {
        let found = range.map_or_else(|| "missing".to_owned(), Node::describe);
        let at = range.map_or(node.mark, |range| range.mark);
        let text = format!("`layer_range` is {found}, allowed is [FIRST, END)");
        reader.problem(at, text, "write `layer_range: [0, 8]` for the first eight layers");
        return None;
    };
    if start > end {
        let text = format!("`layer_range` is [{start}, {end}], the end lies before the start");
        reader.problem(range.map_or(node.mark, |r| r.mark), text, "swap the two numbers");
        return None;
    }
    let parameters = parameters.unwrap_or_default();
    Some(SliceSource { model: model?, layers: start..end, parameters })
}
