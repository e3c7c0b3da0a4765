//! The namespace `darwin:` from YAML.

use super::parse::Reader;
use super::parse_shares::shares;
use super::yaml::{Node, NodeKind};
use super::{
    Align, CopyRule, Darwin, Densities, LayerSpec, Parent, RouterMode, RouterRule, Selector,
};
use crate::Numerics;
use darwin_checkpoint::{ExpertLayout, Unit};
use darwin_core::{Density, nearest};
use std::collections::BTreeMap;

const KEYS: [&str; 14] = [
    "structure",
    "father",
    "mother",
    "t",
    "density",
    "regmean",
    "router",
    "unit",
    "align",
    "copy",
    "seed",
    "numerics",
    "layout",
    "text_only",
];

pub(super) fn darwin(reader: &mut Reader<'_>, node: &Node) -> Darwin {
    let fields = reader.fields(node, "`darwin`", &KEYS);
    let mut model = |key: &str| fields.get(key).and_then(|node| reader.model(node, key));
    let (structure, father, mother) = (model("structure"), model("father"), model("mother"));
    Darwin {
        structure,
        father,
        mother,
        t: fields.get("t").and_then(|node| shares(reader, node)),
        density: fields.get("density").and_then(|node| densities(reader, node)),
        regmean: fields.get("regmean").and_then(|node| super::regmean::parse(reader, node)),
        router: fields.get("router").map(|node| routers(reader, node)).unwrap_or_default(),
        unit: fields.get("unit").and_then(|node| unit(reader, node)),
        align: fields.get("align").and_then(|node| align(reader, node)),
        copy: fields.get("copy").map(|node| copies(reader, node)).unwrap_or_default(),
        seed: fields.get("seed").and_then(|node| seed(reader, node)),
        numerics: fields.get("numerics").and_then(|node| numerics(reader, node)),
        layout: fields.get("layout").and_then(|node| layout(reader, node)),
        text_only: fields
            .get("text_only")
            .and_then(|node| text_only(reader, node))
            .unwrap_or(false),
    }
}

pub(super) fn required_layers(
    reader: &mut Reader<'_>,
    node: &Node,
    fields: &BTreeMap<&str, &Node>,
) -> Option<LayerSpec> {
    match fields.get("layers") {
        Some(layers) => layer_spec(reader, layers),
        None => {
            let hint = "write `layers: 0-37`, `layers: last` or `layers: all`";
            reader.problem(node.mark, "this entry names no `layers`", hint);
            None
        }
    }
}

fn layer_spec(reader: &mut Reader<'_>, node: &Node) -> Option<LayerSpec> {
    let text = match &node.kind {
        NodeKind::Sequence(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(Node::text).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => node.text().map(str::to_owned),
    };
    let spec = text.and_then(|text| LayerSpec::parse(&text).ok());
    if spec.is_none() {
        let allowed = "`38`, `0-37`, `last`, `last-1`, `0-last-2`, `all` or a list of these";
        let text = format!("`layers` is {}, allowed are {allowed}", node.describe());
        reader.problem(node.mark, text, "count layers from 0; both ends belong to a range");
    }
    spec
}

pub(super) fn choice<T: Copy>(
    reader: &mut Reader<'_>,
    node: &Node,
    key: &str,
    choices: &[(&str, T)],
) -> Option<T> {
    let text = node.text().unwrap_or("");
    let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if found.is_none() {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let allowed = names.join(", ");
        let hint = nearest(text, names).map_or_else(
            || "choose one of them".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        let text = format!("`{key}` is {}, allowed are {allowed}", node.describe());
        reader.problem(node.mark, text, hint);
    }
    found
}

fn density(reader: &mut Reader<'_>, node: &Node, key: &str) -> Option<Density> {
    let found = node.number().and_then(|value| Density::new(value).ok());
    if found.is_none() {
        let text = format!("`{key}` is {}, allowed is a density from 0 to 1", node.describe());
        reader.problem(node.mark, text, "1 keeps every element");
    }
    found
}

pub(super) fn densities(reader: &mut Reader<'_>, node: &Node) -> Option<Densities> {
    if !matches!(node.kind, NodeKind::Mapping(_)) {
        let both = density(reader, node, "density")?;
        return Some(Densities { father: both, mother: both });
    }
    let fields = reader.fields(node, "`density`", &["father", "mother"]);
    let mut of = |key: &str| match fields.get(key) {
        Some(node) => density(reader, node, key),
        None => Density::new(1.0).ok(),
    };
    let (father, mother) = (of("father"), of("mother"));
    Some(Densities { father: father?, mother: mother? })
}

fn router_mode(reader: &mut Reader<'_>, node: &Node, key: &str) -> Option<RouterMode> {
    // As method 2.2 spells it.
    if node.text() == Some("row-with-expert") {
        return Some(RouterMode::RowWithExpert);
    }
    choice(reader, node, key, &RouterMode::ALL.map(|(mode, name)| (name, mode)))
}

fn routers(reader: &mut Reader<'_>, node: &Node) -> Vec<RouterRule> {
    if node.text().is_some() {
        let mode = router_mode(reader, node, "router");
        return mode
            .map(|from| RouterRule { layers: LayerSpec::all(), from })
            .into_iter()
            .collect();
    }
    let mut rules = Vec::new();
    for item in reader.items(node, "router") {
        let fields = reader.fields(item, "an entry of `darwin.router`", &["layers", "from"]);
        let from = match fields.get("from") {
            Some(node) => router_mode(reader, node, "from"),
            None => {
                let hint = "write `from: father`, `mother`, `blend` or `row_with_expert`";
                reader.problem(item.mark, "this entry has no `from`", hint);
                None
            }
        };
        let layers = required_layers(reader, item, &fields);
        if let (Some(layers), Some(from)) = (layers, from) {
            rules.push(RouterRule { layers, from });
        }
    }
    rules
}

fn unit(reader: &mut Reader<'_>, node: &Node) -> Option<Unit> {
    choice(reader, node, "unit", &[("tensor", Unit::Tensor), ("expert", Unit::Expert)])
}

fn layout(reader: &mut Reader<'_>, node: &Node) -> Option<ExpertLayout> {
    let mut choices = vec![("parent", None)];
    choices.extend(ExpertLayout::ALL.map(|(name, layout)| (name, Some(layout))));
    choice(reader, node, "layout", &choices).flatten()
}

fn text_only(reader: &mut Reader<'_>, node: &Node) -> Option<bool> {
    choice(reader, node, "text_only", &[("true", true), ("false", false)])
}

fn align(reader: &mut Reader<'_>, node: &Node) -> Option<Align> {
    choice(reader, node, "align", &Align::ALL.map(|(align, name)| (name, align)))
}

fn numerics(reader: &mut Reader<'_>, node: &Node) -> Option<Numerics> {
    let choices = Numerics::ALL.map(|(numerics, name)| (name, numerics));
    choice(reader, node, "numerics", &choices)
}

fn copies(reader: &mut Reader<'_>, node: &Node) -> Vec<CopyRule> {
    let mut rules = Vec::new();
    for item in reader.items(node, "copy") {
        rules.extend(copy(reader, item));
    }
    rules
}

fn copy(reader: &mut Reader<'_>, node: &Node) -> Option<CopyRule> {
    let known = ["filter", "layers", "component", "from"];
    let fields = reader.fields(node, "an entry of `darwin.copy`", &known);
    let filter = fields.get("filter").and_then(|node| reader.string(node, "filter"));
    let layers = fields.get("layers").and_then(|node| layer_spec(reader, node));
    let parts = Selector::ALL.map(|(part, name)| (name, part));
    let part = fields.get("component").and_then(|node| choice(reader, node, "component", &parts));
    let Some(from) = fields.get("from") else {
        reader.problem(node.mark, "this entry has no `from`", "write `from: father` or `mother`");
        return None;
    };
    let parents = [("father", Parent::Father), ("mother", Parent::Mother)];
    let from = choice(reader, from, "from", &parents)?;
    if filter.is_none() && layers.is_none() && part.is_none() {
        let hint = "write `filter`, `layers` or `component`";
        reader.problem(node.mark, "this entry does not say what is copied", hint);
        return None;
    }
    Some(CopyRule { filter, layers, part, from })
}

fn seed(reader: &mut Reader<'_>, node: &Node) -> Option<u64> {
    let seed = node.text().and_then(|text| text.parse().ok());
    if seed.is_none() {
        let text = format!("`seed` is {}, allowed is a whole number from 0", node.describe());
        reader.problem(node.mark, text, "any number will do; the same one gives the same masks");
    }
    seed
}
