//! `parameters:` from YAML (mergekit 0.1.5, `config.py`).

use super::parse::Reader;
use super::yaml::{Node, NodeKind};
use super::{Conditional, Parameters, Setting, Value};
use crate::{METHODS, Parameter};

/// Every parameter of any method, for what names are known.
fn known_parameter(name: &str) -> Option<&'static Parameter> {
    METHODS.iter().find_map(|method| method.parameter(name))
}

pub(super) fn parameters(reader: &mut Reader<'_>, node: &Node, shared: bool) -> Parameters {
    let mut known: Vec<&str> = METHODS.iter().flat_map(|m| m.parameters).map(|p| p.name).collect();
    known.sort_unstable();
    known.dedup();
    let NodeKind::Mapping(entries) = &node.kind else {
        if !node.is_null() {
            let text = format!("`parameters` is {}, allowed is a mapping", node.describe());
            reader.problem(node.mark, text, "write `NAME: VALUE` lines");
        }
        return Parameters::new();
    };
    let mut parameters = Parameters::new();
    for (key, mark, value) in entries {
        let Some(parameter) = known_parameter(key) else {
            reader.unknown_key(*mark, key, "`parameters`", &known);
            continue;
        };
        if !shared && !parameter.per_model {
            let hint = "move it to the recipe's own `parameters`";
            reader.problem(*mark, format!("`{key}` belongs to the merge, not to one model"), hint);
            continue;
        }
        if let Some(setting) = setting(reader, value, parameter) {
            parameters.0.insert(key.clone(), setting);
        }
    }
    parameters
}

/// A scalar, a gradient, a list of conditionals or a lone one (mergekit 0.1.5, `config.py`).
fn setting(reader: &mut Reader<'_>, node: &Node, parameter: &Parameter) -> Option<Setting> {
    let conditionals: Vec<&Node> = match &node.kind {
        NodeKind::Mapping(_) => vec![node],
        NodeKind::Sequence(items)
            if items.iter().any(|item| matches!(item.kind, NodeKind::Mapping(_))) =>
        {
            items.iter().collect()
        }
        _ => return value(reader, node, parameter).map(Setting::plain),
    };
    let mut list = Vec::new();
    for item in conditionals {
        let fields = reader.fields(item, &format!("`{}`", parameter.name), &["filter", "value"]);
        let filter = fields.get("filter").filter(|node| !node.is_null());
        let filter = filter.and_then(|node| reader.string(node, "filter"));
        match fields.get("value") {
            Some(inner) => {
                let value = value(reader, inner, parameter)?;
                list.push(Conditional { filter, value });
            }
            None => {
                let text = format!("a condition of `{}` has no `value`", parameter.name);
                reader.problem(item.mark, text, "write `{filter: NAME, value: NUMBER}`");
            }
        }
    }
    // Some conditions may have been refused; an empty list would match nothing.
    (!list.is_empty()).then_some(Setting(list))
}

fn value(reader: &mut Reader<'_>, node: &Node, parameter: &Parameter) -> Option<Value> {
    let NodeKind::Sequence(items) = &node.kind else {
        if parameter.switch {
            return switch(reader, node, parameter).map(Value::Bool);
        }
        return number(reader, node, parameter).map(Value::Number);
    };
    if items.is_empty() {
        let text = format!("`{}` is an empty list", parameter.name);
        reader.problem(node.mark, text, "write at least one value");
        return None;
    }
    if parameter.switch {
        let switches: Vec<bool> =
            items.iter().filter_map(|item| switch(reader, item, parameter)).collect();
        return (switches.len() == items.len()).then_some(Value::Switches(switches));
    }
    let numbers: Vec<f64> =
        items.iter().filter_map(|item| number(reader, item, parameter)).collect();
    (numbers.len() == items.len()).then_some(Value::Gradient(numbers))
}

/// True or false, in any spelling of YAML 1.1, or 1 and 0.
fn switch(reader: &mut Reader<'_>, node: &Node, parameter: &Parameter) -> Option<bool> {
    let number = || match node.number() {
        Some(0.0) => Some(false),
        Some(1.0) => Some(true),
        _ => None,
    };
    let found = node.switch().or_else(number);
    if found.is_none() {
        let text = format!("`{}` is {}, allowed is true or false", parameter.name, node.describe());
        reader.problem(node.mark, text, "write true or false");
    }
    found
}

fn number(reader: &mut Reader<'_>, node: &Node, parameter: &Parameter) -> Option<f64> {
    let name = parameter.name;
    let allowed = match name {
        "density" | "t" | "gamma" => "a number from 0 to 1",
        "epsilon" | "eps" | "tol" => "a number from 0",
        "max_iter" => "a whole number from 0",
        _ if parameter.switch => "true or false",
        _ => "a finite number",
    };
    let fits = |value: &f64| match name {
        "density" | "t" | "gamma" => (0.0..=1.0).contains(value),
        "epsilon" | "eps" | "tol" => value.is_finite() && *value >= 0.0,
        "max_iter" => value.is_finite() && *value >= 0.0 && value.fract() == 0.0,
        _ if parameter.switch => *value == 0.0 || *value == 1.0,
        _ => value.is_finite(),
    };
    let found = node.number().filter(fits);
    if found.is_none() {
        let text = format!("`{name}` is {}, allowed is {allowed}", node.describe());
        reader.problem(node.mark, text, format!("write {allowed}"));
    }
    found
}
