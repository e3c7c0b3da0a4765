//! Rotary embedding as the config asks for it.

use super::Reader;
use serde_json::Value;
use std::f64::consts::PI;

/// Rotary embedding (arXiv 2104.09864).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The dimensions of a head that are rotated, from the first on.
    pub dim: usize,
    /// The base of the frequencies (`rope_theta`).
    pub theta: f64,
    /// How the context was stretched.
    pub scaling: RopeScaling,
}

/// How a context is stretched beyond what the model was trained on (`rope_type`).
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the field names are the keys of config.json")]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Positions are divided by `factor`.
    Linear { factor: f64 },
    /// Frequencies are interpolated by parts (arXiv 2309.00071); `low` and `high` are the borders
    /// of the ramp among the frequencies.
    Yarn { factor: f64, low: f64, high: f64, attention_factor: f64 },
    /// As Llama 3.1 does it.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: f64,
    },
}

impl Rope {
    /// The whole head, not stretched.
    pub(crate) fn plain(dim: usize) -> Self {
        Self { dim, theta: 1e4, scaling: RopeScaling::Default }
    }

    /// Reads `rope_parameters`, in older files `rope_scaling` and `rope_theta`; where the config
    /// does not say, `share` of a head is rotated, with base `theta`.
    pub(crate) fn read(read: &mut Reader<'_>, head_dim: usize, share: f64, theta: f64) -> Self {
        let mut found = Parameters { read };
        let share = found.number("partial_rotary_factor", Some(share));
        let theta = found.number("rope_theta", Some(theta));
        let dim = (head_dim as f64 * share) as usize;
        let scaling = found.scaling(dim, theta);
        Self { dim, theta, scaling }
    }

    /// What latent attention's scores are multiplied with for a stretched context: the square of
    /// YaRN's scale by `mscale_all_dim`.
    pub(crate) fn score_scale(&self, read: &mut Reader<'_>) -> f64 {
        let factor = match self.scaling {
            RopeScaling::Default => return 1.0,
            RopeScaling::Linear { factor }
            | RopeScaling::Yarn { factor, .. }
            | RopeScaling::Llama3 { factor, .. } => factor,
        };
        let by = Parameters { read }.scale("mscale_all_dim");
        by.map_or(1.0, |by| mscale(factor, by).powi(2))
    }

    /// Radians per position of each pair of dimensions, and what cosines and sines are multiplied
    /// with; in float32 as transformers computes them.
    pub(crate) fn frequencies(&self) -> (Vec<f32>, f32) {
        let plain = |i: usize| {
            let exponent = (2 * i) as f32 / self.dim as f32;
            (self.theta as f32).powf(exponent)
        };
        let half = self.dim / 2;
        let all = |f: &dyn Fn(usize) -> f32| (0..half).map(f).collect::<Vec<f32>>();
        match self.scaling {
            RopeScaling::Default => (all(&|i| 1.0 / plain(i)), 1.0),
            RopeScaling::Linear { factor } => (all(&|i| 1.0 / plain(i) / factor as f32), 1.0),
            RopeScaling::Yarn { factor, low, high, attention_factor } => {
                let high = if low == high { high + 0.001 } else { high };
                let frequency = |i: usize| {
                    let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let kept = 1.0 - ramp;
                    1.0 / (factor as f32 * plain(i)) * (1.0 - kept) + 1.0 / plain(i) * kept
                };
                (all(&frequency), attention_factor as f32)
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: context,
            } => {
                let (factor, low, high, context) =
                    (factor as f32, low as f32, high as f32, context as f32);
                let frequency = |i: usize| {
                    let plain = 1.0 / plain(i);
                    let wavelength = 2.0 * std::f32::consts::PI / plain;
                    if wavelength < context / high {
                        plain
                    } else if wavelength > context / low {
                        plain / factor
                    } else {
                        let smooth = (context / wavelength - low) / (high - low);
                        (1.0 - smooth) * plain / factor + smooth * plain
                    }
                };
                (all(&frequency), 1.0)
            }
        }
    }
}

/// YaRN's scale for a context that is `factor` times as long.
fn mscale(factor: f64, by: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 }
}

/// The group of keys that speak of rope, wherever they lie.
struct Parameters<'r, 'a> {
    read: &'r mut Reader<'a>,
}

impl<'a> Parameters<'_, 'a> {
    fn group(&self) -> (&'static str, Option<&'a Value>) {
        let groups = ["rope_parameters", "rope_scaling"];
        let found = groups.iter().find_map(|group| Some((*group, self.read.get(group)?)));
        found.map_or((groups[0], None), |(name, group)| (name, Some(group)))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        let nested = self.group().1.and_then(|group| group.get(key)).filter(|v| !v.is_null());
        nested.or(self.read.get(key))
    }

    fn number(&mut self, key: &str, default: Option<f64>) -> f64 {
        let found = self.get(key);
        self.read.positive(&format!("{}.{key}", self.group().0), found, default)
    }

    fn scaling(&mut self, dim: usize, theta: f64) -> RopeScaling {
        let (group, values) = self.group();
        let kind = |key| values.and_then(|v| v.get(key)).filter(|v| !v.is_null());
        let Some(kind) = kind("rope_type").or(kind("type")) else { return RopeScaling::Default };
        match kind.as_str() {
            // mrope: for text alone the three rows of positions are equal
            Some("default" | "mrope") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: self.number("factor", None) },
            Some("yarn") => self.yarn(dim, theta),
            Some("llama3") => RopeScaling::Llama3 {
                factor: self.number("factor", None),
                low_freq_factor: self.number("low_freq_factor", None),
                high_freq_factor: self.number("high_freq_factor", None),
                original_max_position_embeddings: self
                    .number("original_max_position_embeddings", None),
            },
            _ => {
                let key = format!("{group}.rope_type");
                self.read.wrong(&key, kind, "default, linear, yarn or llama3");
                RopeScaling::Default
            }
        }
    }

    fn yarn(&mut self, dim: usize, theta: f64) -> RopeScaling {
        let context = self.number("max_position_embeddings", None);
        let original = self.number("original_max_position_embeddings", Some(context));
        let factor = self.number("factor", Some(context / original));
        let scales = (self.scale("mscale"), self.scale("mscale_all_dim"));
        let attention_factor = match scales {
            (Some(one), Some(all)) => mscale(factor, one) / mscale(factor, all),
            _ => mscale(factor, 1.0),
        };
        let attention_factor = self.number("attention_factor", Some(attention_factor));
        let (fast, slow) =
            (self.number("beta_fast", Some(32.0)), self.number("beta_slow", Some(1.0)));
        let truncate = self.get("truncate").and_then(Value::as_bool).unwrap_or(true);
        let border =
            |turns: f64| dim as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let (low, high) = (border(fast), border(slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        RopeScaling::Yarn {
            factor,
            low: low.max(0.0),
            high: high.min(dim as f64 - 1.0),
            attention_factor,
        }
    }

    /// A multiplier; 0 counts as missing.
    fn scale(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(Value::as_f64).filter(|x| *x > 0.0)
    }
}
