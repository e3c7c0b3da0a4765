//! The canonical YAML of a recipe: one spelling for one meaning.

use super::{
    Conditional, CopyRule, Darwin, Densities, Inputs, LayerShares, Parameters, Recipe, Selector,
    Setting, Shares, Value,
};
use darwin_core::Share;
use std::collections::BTreeMap;
use std::fmt::Write;

/// `groups` is the file that holds the shares of groups, which are written out without one.
pub(super) fn emit(recipe: &Recipe, groups: Option<&str>) -> String {
    let mut out = String::new();
    line(&mut out, 0, "merge_method", recipe.method.name);
    if let Some(base) = &recipe.base {
        line(&mut out, 0, "base_model", &model(recipe, base));
    }
    match &recipe.inputs {
        Inputs::Models(entries) => {
            out.push_str("models:\n");
            for entry in entries {
                let _ = writeln!(out, "  - model: {}", model(recipe, &entry.model));
                parameters(&mut out, 4, &entry.parameters);
            }
        }
        Inputs::Slices(_) => slices(&mut out, recipe),
    }
    parameters(&mut out, 0, &recipe.parameters);
    if let Some(dtype) = recipe.dtype {
        line(&mut out, 0, "dtype", dtype.torch_name());
    }
    if let Some(dtype) = recipe.out_dtype {
        line(&mut out, 0, "out_dtype", dtype.torch_name());
    }
    if let Some(tokenizer) = &recipe.tokenizer {
        tokenizer.emit(recipe, &mut out);
    }
    if let Some(template) = &recipe.chat_template {
        line(&mut out, 0, "chat_template", &template.emit());
    }
    if recipe.darwin != Darwin::default() {
        out.push_str("darwin:\n");
        darwin(&mut out, recipe, groups);
    }
    out
}

pub(super) fn line(out: &mut String, indent: usize, key: &str, value: &str) {
    let _ = writeln!(out, "{:indent$}{key}: {value}", "");
}

/// A double-quoted scalar, which every YAML reader takes as text.
pub(super) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// An entry under a key that the user chose. YAML reads a key of more than 1,024 characters only where
/// it is marked as one.
pub(super) fn entry(out: &mut String, indent: usize, key: &str, value: &str) {
    const MOST: usize = 1000;
    let key = quote(key);
    if key.chars().count() <= MOST {
        return line(out, indent, &key, value);
    }
    let _ = writeln!(out, "{:indent$}? {key}", "");
    let _ = writeln!(out, "{:indent$}: {value}", "");
}

/// A model's folder; one with the signs of revisions and adapters in its name needs a mapping.
fn model(recipe: &Recipe, path: &str) -> String {
    if let Some(adapter) = recipe.adapter(path) {
        return adapter.emit(recipe);
    }
    if path.contains(['@', '+']) {
        return format!("{{model: {}}}", recipe.place(path));
    }
    quote(path)
}

/// The same, where a folder may be called like one of the words that stand there.
pub(super) fn model_of_tokenizer(recipe: &Recipe, path: &str) -> String {
    match path {
        "base" | "union" => format!("{{model: {{path: {}}}}}", quote(path)),
        _ => model(recipe, path),
    }
}

/// The shortest decimal that reads back as the same number.
pub(super) fn number(value: f64) -> String {
    format!("{value:?}")
}

fn slices(out: &mut String, recipe: &Recipe) {
    let Inputs::Slices(slices) = &recipe.inputs else { return };
    out.push_str("slices:\n");
    for slice in slices {
        out.push_str("  - sources:\n");
        for source in &slice.sources {
            let _ = writeln!(out, "      - model: {}", model(recipe, &source.model));
            let range = format!("[{}, {}]", source.layers.start, source.layers.end);
            line(out, 8, "layer_range", &range);
            parameters(out, 8, &source.parameters);
        }
        if let Some(base) = &slice.base {
            line(out, 4, "base_model", &model(recipe, base));
        }
        parameters(out, 4, &slice.parameters);
    }
}

fn parameters(out: &mut String, indent: usize, parameters: &Parameters) {
    if parameters.0.is_empty() {
        return;
    }
    let _ = writeln!(out, "{:indent$}parameters:", "");
    for (name, setting) in &parameters.0 {
        line(out, indent + 2, name, &setting_text(setting));
    }
}

pub(super) fn setting_text(setting: &Setting) -> String {
    match &setting.0[..] {
        [Conditional { filter: None, value }] => value_text(value),
        conditionals => {
            let items: Vec<String> = conditionals.iter().map(conditional_text).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

fn conditional_text(conditional: &Conditional) -> String {
    let value = value_text(&conditional.value);
    match &conditional.filter {
        Some(filter) => format!("{{filter: {}, value: {value}}}", quote(filter)),
        None => format!("{{value: {value}}}"),
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Number(value) => number(*value),
        Value::Bool(value) => value.to_string(),
        Value::Gradient(values) => {
            let numbers: Vec<String> = values.iter().map(|v| number(*v)).collect();
            format!("[{}]", numbers.join(", "))
        }
        Value::Switches(values) => {
            let words: Vec<String> = values.iter().map(bool::to_string).collect();
            format!("[{}]", words.join(", "))
        }
    }
}

fn darwin(out: &mut String, recipe: &Recipe, groups: Option<&str>) {
    let darwin = &recipe.darwin;
    let models =
        [("structure", &darwin.structure), ("father", &darwin.father), ("mother", &darwin.mother)];
    for (key, name) in models {
        if let Some(name) = name {
            line(out, 2, key, &model(recipe, name));
        }
    }
    if let Some(t) = &darwin.t {
        shares(out, t, groups);
    }
    if let Some(density) = darwin.density {
        line(out, 2, "density", &densities(density));
    }
    if let Some(regmean) = &darwin.regmean {
        line(out, 2, "regmean", &regmean.emit());
    }
    if !darwin.router.is_empty() {
        out.push_str("  router:\n");
        for rule in &darwin.router {
            let (layers, from) = (&rule.layers, rule.from.name());
            let _ = writeln!(out, "    - {{layers: \"{layers}\", from: {from}}}");
        }
    }
    if let Some(unit) = darwin.unit {
        line(out, 2, "unit", unit.name());
    }
    if let Some(align) = darwin.align {
        line(out, 2, "align", align.name());
    }
    if !darwin.copy.is_empty() {
        out.push_str("  copy:\n");
        for rule in &darwin.copy {
            let _ = writeln!(out, "    - {{{}}}", copy(rule));
        }
    }
    if let Some(seed) = darwin.seed {
        line(out, 2, "seed", &seed.to_string());
    }
    if let Some(numerics) = darwin.numerics {
        line(out, 2, "numerics", numerics.name());
    }
    if let Some(layout) = darwin.layout {
        line(out, 2, "layout", layout.name());
    }
    if darwin.text_only {
        line(out, 2, "text_only", "true");
    }
}

fn shares(out: &mut String, shares: &Shares, groups: Option<&str>) {
    out.push_str("  t:\n");
    line(out, 4, "default", &number(shares.default.get()));
    if let Some(scale) = shares.scale {
        line(out, 4, "scale", &number(scale));
    }
    if !shares.components.is_empty() {
        line(out, 4, "components", &components(&shares.components));
    }
    if shares.blocks != super::Blocks::default() {
        line(out, 4, "blocks", "compose");
    }
    if !shares.layers.is_empty() {
        out.push_str("    layers:\n");
        for entry in &shares.layers {
            let _ = writeln!(out, "      - {{{}}}", layer_shares(entry));
        }
    }
    match (&shares.groups, groups) {
        (None, _) => {}
        (Some(_), Some(file)) => line(out, 4, "groups", file),
        (Some(groups), None) => {
            out.push_str("    groups:\n");
            for (tensor, shares) in groups.iter() {
                let numbers: Vec<String> = shares.iter().map(|t| number(t.get())).collect();
                let value = match &numbers[..] {
                    [one] => one.clone(),
                    _ => format!("[{}]", numbers.join(", ")),
                };
                entry(out, 6, tensor, &value);
            }
        }
    }
}

fn layer_shares(entry: &LayerShares) -> String {
    let mut text = format!("layers: \"{}\"", entry.layers);
    if let Some(t) = entry.t {
        let _ = write!(text, ", t: {}", number(t.get()));
    }
    if !entry.components.is_empty() {
        let _ = write!(text, ", components: {}", components(&entry.components));
    }
    if !entry.experts.is_empty() {
        let list: Vec<String> = entry
            .experts
            .iter()
            .map(|of| format!("{{experts: \"{}\", t: {}}}", of.experts, number(of.t.get())))
            .collect();
        let _ = write!(text, ", experts: [{}]", list.join(", "));
    }
    if let Some(density) = entry.density {
        let _ = write!(text, ", density: {}", densities(density));
    }
    text
}

fn densities(density: Densities) -> String {
    let (father, mother) = (number(density.father.get()), number(density.mother.get()));
    format!("{{father: {father}, mother: {mother}}}")
}

fn components(components: &BTreeMap<Selector, Share>) -> String {
    let items: Vec<String> = components
        .iter()
        .map(|(part, t)| format!("{}: {}", part.name(), number(t.get())))
        .collect();
    format!("{{{}}}", items.join(", "))
}

fn copy(rule: &CopyRule) -> String {
    let mut parts = Vec::new();
    if let Some(filter) = &rule.filter {
        parts.push(format!("filter: {}", quote(filter)));
    }
    if let Some(layers) = &rule.layers {
        parts.push(format!("layers: \"{layers}\""));
    }
    if let Some(part) = rule.part {
        parts.push(format!("component: {}", part.name()));
    }
    parts.push(format!("from: {}", rule.from.name()));
    parts.join(", ")
}
