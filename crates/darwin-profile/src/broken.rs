//! Measurements that are not finite: of what, in which layer, on which sample.

use crate::Error;
use crate::profile::counters::{LayerRow, SampleRow, Sum};
use darwin_engine::NonFinite;

/// The first measurement of a model that is NaN or infinite.
#[derive(Clone, Debug, PartialEq)]
pub struct Broken {
    /// The decoder layer; none for what comes before and after the layers.
    pub layer: Option<usize>,
    /// The component: that of [`NonFinite::component`].
    pub component: &'static str,
    /// `layer 3, mixer gives NaN at position 5 of sample 0123abcd`.
    pub text: String,
}

impl Broken {
    /// A value of a forward pass; `sample` is what its sequence is called.
    pub(crate) fn of_pass(found: &NonFinite, sample: &str) -> Self {
        let text = format!("{found} of {sample}");
        Self { layer: found.layer, component: found.component, text }
    }

    /// A measurement of a sample that a forward pass over finite values gives.
    pub(crate) fn of(
        layer: Option<usize>,
        component: &'static str,
        what: &str,
        value: f64,
        sample: &str,
    ) -> Self {
        let place = layer.map_or(String::new(), |layer| format!("layer {layer}, "));
        let text = format!("{place}{component}: the {what} of sample {sample} is {value}");
        Self { layer, component, text }
    }

    /// The first in a sample's counters and loss.
    pub(crate) fn of_row(row: &SampleRow) -> Option<Self> {
        let layers = row.layers.iter().enumerate();
        let in_layers = layers.flat_map(|(l, layer)| {
            numbers(layer).map(move |(component, what, values)| (Some(l), component, what, values))
        });
        let loss = (None, "head", "loss", std::slice::from_ref(&row.nll));
        in_layers.chain(std::iter::once(loss)).find_map(|(layer, component, what, values)| {
            let value = values.iter().find(|v| !v.is_finite())?;
            Some(Self::of(layer, component, what, *value, &row.id))
        })
    }
}

/// All numbers of a layer, each with the component that they measure.
fn numbers(layer: &LayerRow) -> impl Iterator<Item = (&'static str, &'static str, &[f64])> {
    let sum = |sum: Sum| std::slice::from_ref(&layer.sums[sum as usize]);
    [
        ("mixer", "importance", sum(Sum::Mixer)),
        ("mixer", "norm of a head", layer.heads.as_slice()),
        ("router", "entropy", sum(Sum::TokenEntropy)),
        ("router", "entropy of the gates", sum(Sum::GateEntropy)),
        ("router", "gate mass", layer.gates.as_slice()),
        ("router", "mean probability", layer.probability.as_slice()),
        ("routed", "importance", sum(Sum::Routed)),
        ("shared", "importance", sum(Sum::Shared)),
        ("residual stream", "influence", sum(Sum::Influence)),
    ]
    .into_iter()
}

impl Error {
    /// The error of a model whose values are not finite.
    pub(crate) fn broken(model: &str, found: Broken) -> Self {
        Self::NotFinite { model: model.to_owned(), found: Box::new(found) }
    }

    /// Says which model and sample a value of a forward pass belongs to, where this is about one.
    pub(crate) fn of_model(self, model: &str, sample: impl FnOnce(usize) -> String) -> Self {
        match self {
            Self::Engine(darwin_engine::Error::NotFinite(found)) => {
                Self::broken(model, Broken::of_pass(&found, &sample(found.sequence)))
            }
            other => other,
        }
    }
}

/// `the father`, with its name where that says more.
pub(crate) fn called(role: &str, name: &str) -> String {
    if name == role { format!("the {role}") } else { format!("the {role} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_of_a_sample_is_looked_at() {
        let row = || SampleRow {
            id: "s1".to_owned(),
            domain: "math".parse().expect("a domain"),
            tokens: 3,
            nll: 1.0,
            layers: vec![LayerRow::new(2, 2), LayerRow::new(2, 2)],
        };
        assert_eq!(Broken::of_row(&row()), None);
        type Spoil = fn(&mut SampleRow);
        let cases: [(Spoil, Option<usize>, &str); 10] = [
            (|r| r.nll = f64::INFINITY, None, "head"),
            (|r| r.layers[1].sums[Sum::Mixer as usize] = f64::NAN, Some(1), "mixer"),
            (|r| r.layers[1].heads[1] = f64::INFINITY, Some(1), "mixer"),
            (|r| r.layers[0].sums[Sum::TokenEntropy as usize] = f64::NAN, Some(0), "router"),
            (|r| r.layers[0].sums[Sum::GateEntropy as usize] = f64::NAN, Some(0), "router"),
            (|r| r.layers[0].gates[1] = f64::NAN, Some(0), "router"),
            (|r| r.layers[1].probability[0] = f64::NAN, Some(1), "router"),
            (|r| r.layers[1].sums[Sum::Routed as usize] = f64::INFINITY, Some(1), "routed"),
            (|r| r.layers[0].sums[Sum::Shared as usize] = f64::NAN, Some(0), "shared"),
            (|r| r.layers[1].sums[Sum::Influence as usize] = f64::NAN, Some(1), "residual stream"),
        ];
        for (spoil, layer, component) in cases {
            let mut row = row();
            spoil(&mut row);
            let found = Broken::of_row(&row).expect("it is seen");
            assert_eq!((found.layer, found.component), (layer, component), "{}", found.text);
            assert!(found.text.contains("s1"), "{}", found.text);
        }
    }
}
