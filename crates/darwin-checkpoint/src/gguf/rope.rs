//! Rotary scaling: from keys, and from Llama 3's factors, which lie in a tensor.

use super::keys::Keys;
use serde_json::{Value, json};
use std::f64::consts::PI;

/// Largest relative difference of a factor from what the four numbers of Llama 3's rule give; the
/// tensor is float32, and was computed from float32 wavelengths.
const FACTOR_TOLERANCE: f64 = 1e-5;

/// The numbers of Llama 3.1's rule that all its models share: `low_freq_factor`,
/// `high_freq_factor`, `original_max_position_embeddings`.
const LLAMA3: [f64; 3] = [1.0, 4.0, 8192.0];

/// Factors that llama.cpp multiplies into other formulas than transformers': read where they change
/// nothing.
const UNTOUCHED: [&str; 3] = ["attn_factor", "yarn_attn_factor", "yarn_ext_factor"];

/// Keys that speak of stretched contexts.
pub(super) const KEYS: [&str; 10] = [
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
];

/// `rope_parameters` as transformers 5 writes them. `factors` are those of `rope_freqs.weight`.
pub(super) fn parameters(
    keys: &mut Keys<'_>,
    theta: f64,
    head_dim: u64,
    context: u64,
    factors: Option<&[f32]>,
) -> Value {
    let kind = keys.text("llama.rope.scaling.type");
    let factor = keys.positive("llama.rope.scaling.factor");
    let factor = factor.or(keys.positive("llama.rope.scale_linear")).filter(|f| *f != 1.0);
    for key in UNTOUCHED {
        let key = format!("llama.rope.scaling.{key}");
        if keys.positive(&key).is_some_and(|x| x != 1.0) {
            keys.wrong(&key, "1 or nothing");
        }
    }
    if let Some(factors) = factors {
        if factor.is_some() {
            keys.problem(
                "the context is stretched twice, by `llama.rope.scaling` and `rope_freqs.weight`",
                "get the model as safetensors",
            );
        }
        return from_factors(keys, theta, head_dim, factors);
    }
    match (kind, factor) {
        (None | Some("none" | "linear"), None) | (Some("none"), _) => {
            json!({"rope_type": "default", "rope_theta": theta})
        }
        (None | Some("linear"), Some(factor)) => {
            json!({"rope_type": "linear", "rope_theta": theta, "factor": factor})
        }
        (Some("yarn"), Some(factor)) => yarn(keys, theta, context, factor),
        (Some("yarn"), None) => {
            keys.wrong("llama.rope.scaling.factor", "a number above 0 beside `yarn`");
            Value::Null
        }
        (Some(_), _) => {
            keys.wrong("llama.rope.scaling.type", "none, linear or yarn");
            Value::Null
        }
    }
}

fn yarn(keys: &mut Keys<'_>, theta: f64, context: u64, factor: f64) -> Value {
    let original = keys.size("llama.rope.scaling.original_context_length", Some(context));
    let mut rope = json!({
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": factor,
        "original_max_position_embeddings": original,
    });
    for beta in ["beta_fast", "beta_slow"] {
        if let Some(number) = keys.positive(&format!("llama.rope.scaling.yarn_{beta}")) {
            rope[beta] = json!(number);
        }
    }
    rope
}

/// Llama 3's four numbers from the divisor of each frequency.
fn from_factors(keys: &mut Keys<'_>, theta: f64, head_dim: u64, factors: &[f32]) -> Value {
    let factors: Vec<f64> = factors.iter().copied().map(f64::from).collect();
    let wavelengths: Vec<f64> = (0..factors.len())
        .map(|i| 2.0 * PI * theta.powf(2.0 * i as f64 / head_dim as f64))
        .collect();
    let found = (factors.len() as u64 * 2 == head_dim)
        .then(|| rules(&factors, &wavelengths))
        .into_iter()
        .flatten()
        .find(|rule| rule.gives(&factors, &wavelengths));
    let Some(Rule { factor, low, high, context }) = found else {
        keys.problem(
            format!(
                "the {} factors of `rope_freqs.weight` are not those of Llama 3 for heads of {head_dim}",
                factors.len()
            ),
            "get the model as safetensors",
        );
        return Value::Null;
    };
    json!({
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context as u64,
    })
}

/// Llama 3's rule: frequencies of waves longer than `context / low` are divided by `factor`, those
/// of waves shorter than `context / high` are kept, with a ramp between.
struct Rule {
    factor: f64,
    low: f64,
    high: f64,
    context: f64,
}

impl Rule {
    fn divisor(&self, wavelength: f64) -> f64 {
        if wavelength < self.context / self.high {
            1.0
        } else if wavelength > self.context / self.low {
            self.factor
        } else {
            let smooth = (self.context / wavelength - self.low) / (self.high - self.low);
            1.0 / ((1.0 - smooth) / self.factor + smooth)
        }
    }

    fn gives(&self, factors: &[f64], wavelengths: &[f64]) -> bool {
        factors.iter().zip(wavelengths).all(|(factor, wavelength)| {
            (factor / self.divisor(*wavelength) - 1.0).abs() <= FACTOR_TOLERANCE
        })
    }
}

/// Rules that may have made these factors: the usual one, and the one on whose ramp two factors
/// lie. The latter is known up to a common multiple of `low`, `high` and `context`, which changes
/// nothing: `low` is 1.
fn rules(factors: &[f64], wavelengths: &[f64]) -> Vec<Rule> {
    let factor = factors.iter().copied().fold(1.0, f64::max);
    let factor = if (factor - factor.round()).abs() < 1e-4 { factor.round() } else { factor };
    let [low, high, context] = LLAMA3;
    let mut rules = vec![Rule { factor, low, high, context }];
    let ramp: Vec<[f64; 2]> = factors
        .iter()
        .zip(wavelengths)
        .filter(|(f, _)| **f > 1.0 + 1e-4 && **f < factor * (1.0 - 1e-4))
        .map(|(f, wavelength)| [1.0 / wavelength, (1.0 / f - 1.0 / factor) / (1.0 - 1.0 / factor)])
        .collect();
    if let [first, .., last] = ramp[..] {
        // smooth = (context / wavelength - low) / (high - low) is a line over 1 / wavelength
        let slope = (first[1] - last[1]) / (first[0] - last[0]);
        let offset = first[1] - slope * first[0];
        let width = -1.0 / offset;
        let (high, context) = (1.0 + width, slope * width);
        let tidy = |x: f64, unit: f64| (x / unit).round() * unit;
        rules.push(Rule { factor, low: 1.0, high: tidy(high, 1e-3), context: tidy(context, 1.0) });
        rules.push(Rule { factor, low: 1.0, high, context: tidy(context, 1.0) });
    }
    rules.retain(|rule| rule.high > rule.low && rule.context >= 1.0);
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recover(rule: &Rule, head_dim: usize, theta: f64) -> Option<[f64; 4]> {
        let wavelengths: Vec<f64> = (0..head_dim / 2)
            .map(|i| 2.0 * PI * theta.powf(2.0 * i as f64 / head_dim as f64))
            .collect();
        let factors: Vec<f64> =
            wavelengths.iter().map(|w| f64::from(rule.divisor(*w) as f32)).collect();
        let found = rules(&factors, &wavelengths);
        let found = found.into_iter().find(|rule| rule.gives(&factors, &wavelengths));
        found.map(|r| [r.factor, r.low, r.high, r.context])
    }

    #[test]
    fn rules_are_found_again() {
        let usual = Rule { factor: 32.0, low: 1.0, high: 4.0, context: 8192.0 };
        assert_eq!(recover(&usual, 64, 5e5), Some([32.0, 1.0, 4.0, 8192.0]));
        let other = Rule { factor: 8.0, low: 1.0, high: 6.0, context: 2048.0 };
        assert_eq!(recover(&other, 128, 1e4), Some([8.0, 1.0, 6.0, 2048.0]));
        // a common multiple of three numbers changes nothing
        let scaled = Rule { factor: 8.0, low: 2.0, high: 12.0, context: 4096.0 };
        assert_eq!(recover(&scaled, 128, 1e4), Some([8.0, 1.0, 6.0, 2048.0]));
    }

    #[test]
    fn other_factors_have_no_rule() {
        let wavelengths = [10.0, 100.0, 1_000.0, 10_000.0];
        for factors in [[1.0, 3.0, 2.0, 8.0], [2.0; 4], [1.0, 1.0, 0.5, 8.0]] {
            let found = rules(&factors, &wavelengths);
            assert!(!found.iter().any(|rule| rule.gives(&factors, &wavelengths)), "{factors:?}");
        }
    }
}
