//! Parameters of merge methods: scalars, gradients over layers, filters by tensor name
//! (mergekit 0.1.5, `config.py`).

use crate::METHODS;
use std::collections::BTreeMap;

/// A parameter's value before the layer is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Number(f64),
    /// A switch.
    Bool(bool),
    /// Numbers spread evenly over the layers of a slice, interpolated linearly.
    Gradient(Vec<f64>),
    /// Switches over equal parts of a slice; the last holds at its very end alone.
    Switches(Vec<bool>),
}

impl Value {
    /// The value at a position in 0..=1 of its slice (mergekit 0.1.5, `config.py`); switches are 0 or 1.
    #[must_use]
    pub fn at(&self, position: f64) -> f64 {
        match self {
            Self::Number(value) => *value,
            Self::Bool(value) => f64::from(u8::from(*value)),
            Self::Gradient(values) => interpolate(values, position),
            Self::Switches(values) => {
                let index = (position * (values.len() - 1) as f64) as usize;
                f64::from(u8::from(values[index]))
            }
        }
    }
}

fn interpolate(values: &[f64], position: f64) -> f64 {
    let last = values.len() - 1;
    let scaled = position * last as f64;
    let low = (scaled.floor() as usize).min(last);
    let high = (low + 1).min(last);
    let fraction = scaled - low as f64;
    (1.0 - fraction) * values[low] + fraction * values[high]
}

/// A value for the tensors whose name contains a substring.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditional {
    /// The substring; `None` and `*` match every tensor.
    pub filter: Option<String>,
    /// The value.
    pub value: Value,
}

impl Conditional {
    /// Whether it holds for every tensor.
    pub(super) fn matches_all(&self) -> bool {
        matches!(self.filter.as_deref(), None | Some("*"))
    }

    fn matches(&self, tensor: &str) -> bool {
        match self.filter.as_deref() {
            None | Some("*") => true,
            Some(filter) => filter_matches(filter, tensor),
        }
    }
}

/// Whether a filter is a substring of a tensor's name with one of the prefixes that checkpoints
/// put before the canonical name (mergekit 0.1.5, `config.py`); the head and MTP have none.
pub(crate) fn filter_matches(filter: &str, canonical: &str) -> bool {
    let prefixes: &[&str] = match canonical.split('.').next() {
        Some("lm_head" | "mtp") => &[""],
        Some("visual") => &["model."],
        _ => &["model.", "model.language_model."],
    };
    prefixes.iter().any(|prefix| format!("{prefix}{canonical}").contains(filter))
}

/// The setting of one parameter: conditionals, of which the first that matches wins.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting(pub Vec<Conditional>);

impl Setting {
    /// One value for every tensor.
    #[must_use]
    pub fn plain(value: Value) -> Self {
        Self(vec![Conditional { filter: None, value }])
    }

    /// Drops what can never be asked: conditions behind one that matches every tensor.
    pub(super) fn close(&mut self) {
        if let Some(last) = self.0.iter().position(Conditional::matches_all) {
            self.0.truncate(last + 1);
        }
    }

    fn find(&self, tensor: &str) -> Option<&Value> {
        self.0.iter().find(|c| c.matches(tensor)).map(|c| &c.value)
    }
}

/// The settings of one scope (a source, a slice, the whole recipe) by parameter name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters(pub BTreeMap<String, Setting>);

impl Parameters {
    /// No settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more number for every tensor; 0 and 1 for a switch.
    #[must_use]
    pub fn with(mut self, name: &str, value: f64) -> Self {
        let switch = METHODS.iter().find_map(|m| m.parameter(name)).is_some_and(|p| p.switch);
        let value = match value {
            0.0 if switch => Value::Bool(false),
            1.0 if switch => Value::Bool(true),
            value => Value::Number(value),
        };
        self.0.insert(name.to_owned(), Setting::plain(value));
        self
    }

    /// The value for a tensor of canonical name `tensor`, `None` where nothing matches.
    #[must_use]
    pub fn find(&self, name: &str, tensor: &str) -> Option<&Value> {
        self.0.get(name).and_then(|setting| setting.find(tensor))
    }

    pub(crate) fn filters(&self) -> impl Iterator<Item = &str> {
        let conditionals = self.0.values().flat_map(|setting| &setting.0);
        conditionals.filter_map(|c| c.filter.as_deref()).filter(|f| *f != "*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_interpolate() {
        let gradient = Value::Gradient(vec![0.0, 1.0, 0.5]);
        assert_eq!(gradient.at(0.0), 0.0);
        assert_eq!(gradient.at(0.25), 0.5);
        assert_eq!(gradient.at(0.75), 0.75);
        assert_eq!(gradient.at(1.0), 0.5);
        assert_eq!(Value::Gradient(vec![3.0]).at(1.0), 3.0);
        let switches = Value::Switches(vec![true, false]);
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|at| switches.at(at)), [1.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn the_first_conditional_that_matches_wins() {
        let conditional = |filter: Option<&str>, value| Conditional {
            filter: filter.map(str::to_owned),
            value: Value::Number(value),
        };
        let setting = Setting(vec![conditional(Some("mlp"), 1.0), conditional(None, 2.0)]);
        assert_eq!(setting.find("layers.0.mlp.gate.weight"), Some(&Value::Number(1.0)));
        assert_eq!(setting.find("norm.weight"), Some(&Value::Number(2.0)));
        assert!(filter_matches("model.norm", "norm.weight"));
        assert!(filter_matches("lm_head", "lm_head.weight"));
        assert!(!filter_matches("model.", "lm_head.weight"));
        let mut setting = setting;
        setting.0.push(conditional(Some("norm"), 3.0));
        setting.close();
        assert_eq!(setting.0.len(), 2);
    }
}
