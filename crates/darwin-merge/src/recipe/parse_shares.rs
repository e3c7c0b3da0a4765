//! `darwin.t` from YAML.

use super::groups::{MAX_SHARES, is_plain_name, too_many};
use super::parse::Reader;
use super::parse_darwin::{choice, densities, required_layers};
use super::yaml::{Node, NodeKind};
use super::{
    Blocks, ExpertShares, ExpertSpec, GroupShares, LayerShares, Selector, Shares, shortened,
};
use crate::Error;
use darwin_core::Share;
use std::collections::BTreeMap;

/// The largest factor of the task vectors.
pub(super) const MAX_SCALE: f64 = 10.0;

const KEYS: [&str; 6] = ["default", "scale", "components", "blocks", "layers", "groups"];

fn share(reader: &mut Reader<'_>, node: &Node, key: &str) -> Option<Share> {
    let share = node.number().and_then(|value| Share::new(value).ok());
    if share.is_none() {
        let text = format!("`{key}` is {}, allowed is a share from -0.5 to 1.5", node.describe());
        reader.problem(node.mark, text, "0 is the father, 1 the mother");
    }
    share
}

pub(super) fn shares(reader: &mut Reader<'_>, node: &Node) -> Option<Shares> {
    if !matches!(node.kind, NodeKind::Mapping(_)) {
        return share(reader, node, "t").map(Shares::uniform);
    }
    let fields = reader.fields(node, "`darwin.t`", &KEYS);
    let default = match fields.get("default") {
        Some(node) => share(reader, node, "default"),
        None => {
            let hint = "write the share where no rule decides, such as `default: 0.5`";
            reader.problem(node.mark, "`darwin.t` has no `default`", hint);
            None
        }
    };
    let scale = fields.get("scale").and_then(|node| scale(reader, node));
    let components = fields.get("components").map(|node| components(reader, node));
    let blocks = match fields.get("blocks") {
        Some(node) => {
            let modes = [("override", Blocks::Override), ("compose", Blocks::Compose)];
            choice(reader, node, "blocks", &modes)?
        }
        None => Blocks::default(),
    };
    let mut layers = Vec::new();
    if let Some(list) = fields.get("layers") {
        for item in reader.items(list, "layers") {
            layers.extend(layer_shares(reader, item));
        }
    }
    let groups = fields.get("groups").and_then(|node| groups(reader, node));
    Some(Shares {
        default: default?,
        scale,
        components: components.unwrap_or_default(),
        blocks,
        layers,
        groups,
    })
}

fn scale(reader: &mut Reader<'_>, node: &Node) -> Option<f64> {
    let scale = node.number().filter(|scale| (0.0..=MAX_SCALE).contains(scale));
    if scale.is_none() {
        let text = format!("`scale` is {}, allowed is a number from 0 to 10", node.describe());
        reader.problem(node.mark, text, "1 adds the task vectors as they are");
    }
    scale
}

fn layer_shares(reader: &mut Reader<'_>, node: &Node) -> Option<LayerShares> {
    let place = "an entry of `darwin.t.layers`";
    let known = ["layers", "t", "components", "experts", "density"];
    let fields = reader.fields(node, place, &known);
    let density = fields.get("density").and_then(|node| densities(reader, node));
    let t = fields.get("t").and_then(|node| share(reader, node, "t"));
    let components = fields.get("components").map(|node| components(reader, node));
    let components = components.unwrap_or_default();
    let experts = fields.get("experts").map(|node| experts(reader, node)).unwrap_or_default();
    let layers = required_layers(reader, node, &fields)?;
    Some(LayerShares { layers, t, components, experts, density })
}

fn components(reader: &mut Reader<'_>, node: &Node) -> BTreeMap<Selector, Share> {
    let names = Selector::ALL.map(|(_, name)| name);
    let known: Vec<&str> = names.into_iter().chain(["attn", "ffn"]).collect();
    let mut components = BTreeMap::new();
    for (key, node) in reader.fields(node, "`components`", &known) {
        if let Some(t) = share(reader, node, key) {
            for selector in Selector::from_key(key) {
                // `attn` and `ffn` stand for two; a selector's own key is more precise.
                if selector.name() == key || !components.contains_key(&selector) {
                    components.insert(selector, t);
                }
            }
        }
    }
    components
}

fn experts(reader: &mut Reader<'_>, node: &Node) -> Vec<ExpertShares> {
    let mut shares = Vec::new();
    for item in reader.items(node, "experts") {
        let fields = reader.fields(item, "an entry of `experts`", &["experts", "t"]);
        let hint = "write it as `{experts: \"0-3,7\", t: 0.9}`";
        let (Some(experts), Some(t)) = (fields.get("experts"), fields.get("t")) else {
            reader.problem(item.mark, "this entry needs `experts` and `t`", hint);
            continue;
        };
        let spec = expert_spec(reader, experts);
        if let (Some(experts), Some(t)) = (spec, share(reader, t, "t")) {
            shares.push(ExpertShares { experts, t });
        }
    }
    shares
}

fn expert_spec(reader: &mut Reader<'_>, node: &Node) -> Option<ExpertSpec> {
    let text = match &node.kind {
        NodeKind::Sequence(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(Node::text).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => node.text().map(str::to_owned),
    };
    let spec = text.and_then(|text| ExpertSpec::parse(&text).ok());
    if spec.is_none() {
        let allowed = "`7`, `0-3`, `last`, `all` or a list of these";
        let text = format!("`experts` is {}, allowed are {allowed}", node.describe());
        reader.problem(node.mark, text, "count experts from 0; both ends belong to a range");
    }
    spec
}

/// Shares by tensor, written out or in a file beside the recipe.
fn groups(reader: &mut Reader<'_>, node: &Node) -> Option<GroupShares> {
    let groups = match &node.kind {
        NodeKind::Mapping(entries) => {
            let mut groups = GroupShares::new();
            for (tensor, mark, node) in entries {
                let shares: Option<Vec<Share>> = match &node.kind {
                    NodeKind::Sequence(items) => {
                        items.iter().map(|item| share(reader, item, tensor)).collect()
                    }
                    _ => share(reader, node, tensor).map(|t| vec![t]),
                };
                let shares = shares?;
                if shares.is_empty() {
                    let text = format!("`{}` has an empty list of shares", shortened(tensor));
                    reader.problem(*mark, text, "write one share, or one for each expert");
                }
                groups.insert(tensor.as_str(), shares);
            }
            groups
        }
        _ => file(reader, node)?,
    };
    if groups.count() > MAX_SHARES {
        let found = too_many("`darwin.t.groups`", groups.count());
        reader.problem(node.mark, found.text, found.hint);
    }
    (!groups.is_empty()).then_some(groups)
}

fn file(reader: &mut Reader<'_>, node: &Node) -> Option<GroupShares> {
    let Some(name) = node.text().filter(|name| is_plain_name(name)) else {
        let allowed = "tensors with their shares, or the name of a file beside the recipe";
        let text = format!("`groups` is {}, allowed are {allowed}", node.describe());
        reader.problem(node.mark, text, "write `groups: shares.safetensors`");
        return None;
    };
    reader.groups_apart = true;
    let path = reader.folder.join(name);
    match GroupShares::read(&path) {
        Ok(groups) => Some(groups),
        Err(Error::Plan(problems)) => {
            for found in problems {
                reader.problem(node.mark, found.text, found.hint);
            }
            None
        }
        Err(error) => {
            let hint = darwin_core::Diagnose::hint(&error);
            let hint =
                hint.unwrap_or_else(|| "put the file of shares beside the recipe".to_owned());
            reader.problem(node.mark, format!("`groups`: {error}"), hint);
            None
        }
    }
}
