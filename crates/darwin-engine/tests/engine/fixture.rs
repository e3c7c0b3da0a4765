//! Reading the golden files and comparing with them.

use darwin_checkpoint::Checkpoint;
use darwin_engine::{Batch, Model, Record, Sequence, Site, Tap};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Random models with every tensor perturbed (tools/oracle/engine.py, engine_families.py), and the
/// example parents (tools/oracle/parents.py).
pub(crate) const CASES: [&str; 25] = [
    "plain",
    "odd",
    "long",
    "bf16",
    "father",
    "mother",
    "qwen3_5",
    "qwen3_5_text",
    "qwen3_5_moe_mtp",
    "qwen3_5_moe_yarn",
    "qwen3_next",
    "qwen3",
    "qwen2",
    "mistral",
    "llama3",
    "llama_bias",
    "qwen3_moe",
    "qwen3_moe_step",
    "olmoe",
    "olmoe_clip",
    "mixtral",
    "deepseek_v2",
    "deepseek_v2_groups",
    "deepseek_v3",
    "deepseek_v3_direct",
];

/// One sequence's golden tensors by key: values as f64 whatever the stored type.
pub(crate) struct Golden {
    pub(crate) ids: Vec<u32>,
    pub(crate) greedy: Vec<u32>,
    tensors: BTreeMap<String, Vec<f64>>,
}

impl Golden {
    pub(crate) fn get(&self, key: &str) -> Option<&[f64]> {
        self.tensors.get(key).map(Vec::as_slice)
    }

    /// What follows a prefix in the names that have it, in their order.
    pub(crate) fn names(&self, prefix: &str) -> Vec<&str> {
        self.tensors.keys().filter_map(|key| key.strip_prefix(prefix)).collect()
    }
}

/// Where a case lies.
pub(crate) fn folder(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../darwin-testkit/fixtures/golden/engine")
        .join(case)
}

/// The weights of a case.
pub(crate) fn source(case: &str) -> Checkpoint {
    let parents = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/parents");
    let weights = match case {
        "father" | "mother" => parents.join(case),
        _ => folder(case),
    };
    Checkpoint::open(weights).unwrap()
}

pub(crate) fn model(case: &str) -> Model {
    Model::load(&source(case)).unwrap_or_else(|e| panic!("{case}: {e}"))
}

/// What is known about a case (case.json).
pub(crate) fn about(case: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder(case).join("case.json")).unwrap()).unwrap()
}

/// The tensors of a golden file by name, values as f64 whatever the stored type.
pub(crate) fn read_tensors(file: &str) -> BTreeMap<String, Vec<f64>> {
    let bytes = std::fs::read(folder(file)).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let index: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..header]).unwrap();
    let tensors = index.into_iter().filter(|(name, _)| name != "__metadata__");
    let read = |(name, entry): (String, Value)| {
        let at = |i: usize| header + entry["data_offsets"][i].as_u64().unwrap() as usize;
        let data = &bytes[at(0)..at(1)];
        let values = match entry["dtype"].as_str().unwrap() {
            "F32" => data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            "I16" => data.as_chunks().0.iter().map(|b| f64::from(i16::from_le_bytes(*b))).collect(),
            "U8" => data.iter().map(|b| f64::from(*b)).collect(),
            "I64" => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
            other => panic!("{name}: {other}"),
        };
        (name, values)
    };
    tensors.map(read).collect()
}

/// The sequences of a case.
pub(crate) fn golden(case: &str) -> Vec<Golden> {
    let mut sequences: BTreeMap<String, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
    for (name, values) in read_tensors(&format!("{case}/golden.safetensors")) {
        let (sequence, key) = name.split_once('.').unwrap();
        sequences.entry(sequence.to_owned()).or_default().insert(key.to_owned(), values);
    }
    let ids = |values: &Vec<f64>| values.iter().map(|v| *v as u32).collect::<Vec<_>>();
    let golden = |t: BTreeMap<String, Vec<f64>>| Golden {
        ids: ids(&t["input_ids"]),
        greedy: t.get("greedy").map(ids).unwrap_or_default(),
        tensors: t,
    };
    sequences.into_values().map(golden).collect()
}

pub(crate) fn batch(golden: &[Golden]) -> Batch {
    Batch::new(golden.iter().map(|g| Sequence::new(g.ids.clone())).collect())
}

/// Keeps everything, rows in the batch's order.
#[derive(Default)]
pub(crate) struct Everything {
    pub(crate) values: BTreeMap<(Site, usize), Vec<f32>>,
    pub(crate) experts: BTreeMap<usize, Vec<u32>>,
}

impl Tap for Everything {
    fn wants(&self, _: Site, _: usize) -> bool {
        true
    }

    fn record(&mut self, r: &Record<'_>) {
        let values = self.values.entry((r.site, r.layer)).or_default();
        assert_eq!(values.len(), r.first_token * r.shape[1], "{:?} in order", r.site);
        assert_eq!(r.values.len(), r.shape[0] * r.shape[1], "{:?} of its shape", r.site);
        values.extend(r.values);
        if r.site == Site::TopK {
            self.experts.entry(r.layer).or_default().extend(r.experts.unwrap());
        }
    }
}

pub(crate) fn rms(want: &[f64]) -> f64 {
    (want.iter().map(|x| x * x).sum::<f64>() / want.len() as f64).sqrt()
}

/// Largest difference over the rms of what it should be.
pub(crate) fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let diff = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs());
    diff.fold(0.0, f64::max) / rms(want)
}
