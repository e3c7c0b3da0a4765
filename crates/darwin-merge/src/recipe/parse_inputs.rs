//! What goes into a merge: `models`, `slices` or `modules` (mergekit 0.1.5, `config.py`).

use super::parse::Reader;
use super::parse_parameters::parameters;
use super::yaml::{Mark, Node, NodeKind};
use super::{Inputs, ModelEntry, Parameters, Setting, Slice, SliceSource};
use std::collections::BTreeMap;

/// The one module of a text model, as mergekit names it.
pub(crate) const TEXT_MODULE: &str = "default";

/// Inputs, and what comes with them.
pub(super) struct Given {
    pub(super) inputs: Inputs,
    /// Parameters of the module, which come before the recipe's own.
    pub(super) module: Option<Parameters>,
}

type Fields<'n> = BTreeMap<&'n str, &'n Node>;

pub(super) fn inputs(reader: &mut Reader<'_>, root: &Node, fields: &Fields<'_>) -> Option<Given> {
    let ways = ["models", "slices", "modules"];
    let given: Vec<(&str, &Node)> = ways
        .into_iter()
        .filter_map(|way| fields.get(way).map(|node| (way, *node)))
        .filter(|(_, node)| !node.is_null())
        .collect();
    match given[..] {
        [("modules", node)] => modules(reader, node),
        [(way, node)] => Some(Given { inputs: models_or_slices(reader, way, node), module: None }),
        [(first, _), .., (last, node)] => {
            let text = format!("both `{first}` and `{last}` are given");
            reader.problem(node.mark, text, "keep one of `models`, `slices` and `modules`");
            None
        }
        [] => {
            let hint = "write `models:` with one `- model: FOLDER` a model";
            reader.problem(root.mark, "the recipe has neither `models` nor `slices`", hint);
            None
        }
    }
}

fn models_or_slices(reader: &mut Reader<'_>, way: &str, node: &Node) -> Inputs {
    let items = reader.items(node, way);
    for (i, item) in items.iter().enumerate() {
        reader.marks.entry(format!("{way}/{i}")).or_insert(item.mark);
    }
    if way == "models" {
        Inputs::Models(items.iter().filter_map(|item| model_entry(reader, item)).collect())
    } else {
        let slices = items.iter().enumerate().map(|(i, item)| slice(reader, item, i));
        Inputs::Slices(slices.collect())
    }
}

/// The module of a text model. Its parameters stand between those of a slice and the recipe's.
fn modules(reader: &mut Reader<'_>, node: &Node) -> Option<Given> {
    let NodeKind::Mapping(entries) = &node.kind else {
        let text = format!("`modules` is {}, allowed is a mapping", node.describe());
        reader.problem(node.mark, text, "write `default:` and in it `models:` or `slices:`");
        return None;
    };
    let only = "only the module `default` of text models is supported";
    let hint = "write `default:`, or `models:` without `modules:`, which merges all modules";
    let mut found = None;
    if entries.is_empty() {
        reader.problem(node.mark, format!("`modules` is empty; {only}"), hint);
    }
    for (name, mark, value) in entries {
        if name == TEXT_MODULE {
            found = module(reader, *mark, value);
        } else {
            reader.problem(*mark, format!("there is a module `{name}`; {only}"), hint);
        }
    }
    found
}

fn module(reader: &mut Reader<'_>, at: Mark, node: &Node) -> Option<Given> {
    let fields = reader.fields(node, "a module", &["models", "slices", "parameters"]);
    let given = |key: &str| fields.get(key).copied().filter(|node| !node.is_null());
    let own = given("parameters").map(|node| parameters(reader, node, true));
    let (way, node) = match (given("models"), given("slices")) {
        (Some(node), None) => ("models", node),
        (None, Some(node)) => ("slices", node),
        (Some(_), Some(node)) => {
            let text = "both `models` and `slices` are given in a module";
            reader.problem(node.mark, text, "keep one of them");
            return None;
        }
        (None, None) => {
            let text = "a module has neither `models` nor `slices`";
            reader.problem(at, text, "write `models:` with one `- model: FOLDER` a model");
            return None;
        }
    };
    let inputs = models_or_slices(reader, way, node);
    Some(Given { inputs, module: Some(own.unwrap_or_default()) })
}

/// Two levels of parameters as one: what the first has no match for, the second answers. The same
/// as asking one after the other, since the first condition that matches wins.
pub(super) fn stacked(first: Parameters, second: Parameters) -> Parameters {
    let mut both = first;
    for (name, setting) in second.0 {
        both.0.entry(name).or_insert_with(|| Setting(Vec::new())).0.extend(setting.0);
    }
    // What stands behind a condition without a filter is never asked.
    for setting in both.0.values_mut() {
        setting.close();
    }
    both
}

fn model_entry(reader: &mut Reader<'_>, node: &Node) -> Option<ModelEntry> {
    let fields = reader.fields(node, "an entry of `models`", &["model", "parameters"]);
    let parameters = fields.get("parameters").map(|node| parameters(reader, node, false));
    let model = model_field(reader, node, &fields)?;
    Some(ModelEntry { model, parameters: parameters.unwrap_or_default() })
}

fn model_field(reader: &mut Reader<'_>, node: &Node, fields: &Fields<'_>) -> Option<String> {
    let Some(model) = fields.get("model") else {
        reader.problem(node.mark, "this entry names no `model`", "write `model: FOLDER`");
        return None;
    };
    reader.model(model, "model")
}

fn slice(reader: &mut Reader<'_>, node: &Node, index: usize) -> Slice {
    let known = ["sources", "base_model", "parameters", "residual_weight"];
    let fields = reader.fields(node, "an entry of `slices`", &known);
    if let Some(node) = fields.get("residual_weight").filter(|node| !node.is_null()) {
        if node.number().is_none() {
            let text = format!("`residual_weight` is {}, allowed is a number", node.describe());
            reader.problem(node.mark, text, "remove it: it has no effect");
        }
        reader.note(node.mark, "`residual_weight` has no effect, as in mergekit");
    }
    let mut sources = Vec::new();
    match fields.get("sources") {
        Some(list) => {
            for (i, item) in reader.items(list, "sources").iter().enumerate() {
                reader.marks.entry(format!("slices/{index}/{i}")).or_insert(item.mark);
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
        Some(NodeKind::Sequence(ends)) => ends.iter().map(Node::index).collect(),
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
