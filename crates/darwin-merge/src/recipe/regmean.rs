//! RegMean's settings: `darwin.regmean` (method 2.3).

use super::emit::{number, quote};
use super::parse::Reader;
use super::yaml::Node;
use super::{Recipe, RouterMode};
use darwin_core::{Domain, nearest};
use std::collections::BTreeSet;

/// How linear maps are solved from Gram matrices of both parents' inputs:
/// `W = (G_F + b G_M + r I)^-1 (G_F W_F + b G_M W_M + r W_F)`.
#[derive(Clone, Debug, PartialEq)]
pub struct RegMean {
    /// The weight of the mother's Gram matrices beside the father's; 0 is the father.
    pub b: f64,
    /// The ridge `r` towards the father. Gram matrices are scaled to a mean of 1 on the diagonal, so
    /// it is a part of an input's mean square.
    pub ridge: f64,
    /// What elements beside the diagonals of Gram matrices are multiplied with.
    pub off_diagonal: f64,
    /// The domains whose items the father is run on; measured where none is given.
    pub father: Vec<Domain>,
    /// The domains whose items the mother is run on.
    pub mother: Vec<Domain>,
    /// The most items of each domain.
    pub per_domain: Option<usize>,
    /// The fingerprint of the items.
    pub items: Option<String>,
}

impl Default for RegMean {
    fn default() -> Self {
        Self {
            b: 1.0,
            ridge: 0.01,
            off_diagonal: 0.9,
            father: Vec::new(),
            mother: Vec::new(),
            per_domain: None,
            items: None,
        }
    }
}

const KEYS: [&str; 7] = ["b", "ridge", "off_diagonal", "father", "mother", "per_domain", "items"];

/// Most of `b` and `ridge`: enough for the mother, or the father, alone.
const MOST: f64 = 1e6;

pub(super) fn parse(reader: &mut Reader<'_>, node: &Node) -> Option<RegMean> {
    let fields = reader.fields(node, "`darwin.regmean`", &KEYS);
    let mut regmean = RegMean::default();
    let numbers = [
        ("b", &mut regmean.b, MOST, "a weight from 0 to 1e6"),
        ("ridge", &mut regmean.ridge, MOST, "a number from 0 to 1e6"),
        ("off_diagonal", &mut regmean.off_diagonal, 1.0, "a number from 0 to 1"),
    ];
    for (key, to, most, allowed) in numbers {
        let Some(node) = fields.get(key) else { continue };
        match node.number().filter(|value| (0.0..=most).contains(value)) {
            Some(value) => *to = value,
            None => {
                let text = format!("`{key}` is {}, allowed is {allowed}", node.describe());
                reader.problem(node.mark, text, "leave it out for the default");
            }
        }
    }
    for (key, to) in [("father", &mut regmean.father), ("mother", &mut regmean.mother)] {
        if let Some(node) = fields.get(key) {
            for item in reader.items(node, key) {
                to.extend(domain(reader, item, key));
            }
        }
    }
    if let Some(node) = fields.get("per_domain") {
        let count = node.text().and_then(|text| text.parse::<usize>().ok()).filter(|n| *n > 0);
        if count.is_none() {
            let text = format!("`per_domain` is {}, allowed is a number from 1", node.describe());
            reader.problem(node.mark, text, "it counts the items of a domain");
        }
        regmean.per_domain = count;
    }
    regmean.items = fields.get("items").and_then(|node| reader.string(node, "items"));
    Some(regmean)
}

fn domain(reader: &mut Reader<'_>, node: &Node, key: &str) -> Option<Domain> {
    let name = node.text().unwrap_or_default();
    let domain = name.parse::<Domain>();
    if domain.is_err() {
        let hint = match nearest(name, Domain::KNOWN) {
            Some(near) => format!("did you mean `{near}`? Own domains are named `x-…`"),
            None => format!("use one of {} or a name `x-…`", Domain::KNOWN.join(", ")),
        };
        let text = format!("`{key}` holds {}, which is no known domain", node.describe());
        reader.problem(node.mark, text, hint);
    }
    domain.ok()
}

impl RegMean {
    /// As a flow mapping, everything written out.
    pub(super) fn emit(&self) -> String {
        let mut parts = vec![
            format!("b: {}", number(self.b)),
            format!("ridge: {}", number(self.ridge)),
            format!("off_diagonal: {}", number(self.off_diagonal)),
        ];
        for (key, domains) in [("father", &self.father), ("mother", &self.mother)] {
            if !domains.is_empty() {
                let names: Vec<String> = domains.iter().map(|d| quote(d.as_str())).collect();
                parts.push(format!("{key}: [{}]", names.join(", ")));
            }
        }
        parts.extend(self.per_domain.map(|count| format!("per_domain: {count}")));
        parts.extend(self.items.as_ref().map(|items| format!("items: {}", quote(items))));
        format!("{{{}}}", parts.join(", "))
    }
}

impl Recipe {
    /// Whether some of its tensors are solved from activations of both parents.
    #[must_use]
    pub fn needs_activations(&self) -> bool {
        let calibrated = |rule: &super::RouterRule| rule.from == RouterMode::Calibrated;
        self.method.needs_activations() || self.darwin.router.iter().any(calibrated)
    }
}

/// What contradicts itself.
pub(super) fn validate(recipe: &Recipe, find: &mut impl FnMut(&str, String, &str)) {
    let darwin = &recipe.darwin;
    let (solves, some) = (recipe.method.needs_activations(), recipe.needs_activations());
    if some && darwin.t.is_none() {
        let (key, what) = match solves {
            true => ("the recipe/merge_method", "`regmean` blends"),
            false => ("`darwin`/router", "a calibrated router belongs to a blend of"),
        };
        let text = format!("{what} two parents by shares, and there is no `darwin.t`");
        find(key, text, "write the share where activations say too little: `t: 0.25`");
    }
    if some && darwin.align.is_some() {
        let text = "`darwin.align` is given and maps are solved from activations".to_owned();
        find("`darwin`/align", text, "write the aligned mother first, and merge with her");
    }
    if some && recipe.tokenizer.is_some() {
        let text = "a tokenizer is given and maps are solved from activations".to_owned();
        let hint =
            "both parents see the same tokens: leave it out, or merge the vocabularies after";
        find("the recipe/tokenizer_source", text, hint);
    }
    let Some(regmean) = &darwin.regmean else { return };
    if !some {
        let text = format!("`darwin.regmean` has no effect with `{}`", recipe.method.name);
        find("`darwin`/regmean", text, "choose regmean or a calibrated router, or remove it");
    }
    if regmean.father.is_empty() != regmean.mother.is_empty() {
        let text = "`darwin.regmean` has domains of one parent alone".to_owned();
        find("`darwin`/regmean", text, "name the domains of both, or of none to measure them");
    }
    for (key, domains) in [("father", &regmean.father), ("mother", &regmean.mother)] {
        let distinct: BTreeSet<_> = domains.iter().collect();
        if distinct.len() < domains.len() {
            let text = format!("`darwin.regmean.{key}` names a domain twice");
            find("`darwin`/regmean", text, "name each domain once");
        }
    }
}
