//! A merge that goes from stored bytes to bytes is the merge that goes by way of values, bit for
//! bit; and trimming keeps exactly the largest magnitudes, however they are found.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod common;

use common::{layout, write};
use darwin_checkpoint::{
    Checkpoint, Dtype, Error, Manifest, MemorySource, TensorId, TensorPlan, TensorSource,
    read_tensor,
};
use darwin_core::keyed::{Key, Rng};
use darwin_core::{Cancel, NoProgress};
use darwin_merge::{Merge, MergeOptions, Recipe, Sources, merge_to};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A checkpoint without bytes of its own.
struct Values(Arc<Checkpoint>);

impl TensorSource for Values {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn manifest(&self) -> &Manifest {
        self.0.manifest()
    }

    fn config(&self) -> &Value {
        self.0.config()
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, Error> {
        self.0.prepare(id)
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        self.0.read_tile(plan, rows, out)
    }

    fn read_raw(&self, id: TensorId, rows: Range<usize>, out: &mut Vec<u8>) -> Result<bool, Error> {
        self.0.read_raw(id, rows, out)
    }
}

/// How the numbers of a tensor are spread.
#[derive(Clone, Copy, Debug)]
enum Spread {
    /// Hardly two are equal.
    Fine,
    /// Few magnitudes, both zeros among them.
    Coarse,
    /// Rows of very different sizes, most of them small.
    Uneven,
    /// As the base.
    Same,
}

const SPREADS: [Spread; 4] = [Spread::Fine, Spread::Coarse, Spread::Uneven, Spread::Same];

fn values(shape: &[usize], seed: u64, spread: Spread) -> Vec<f32> {
    let cols = *shape.last().unwrap();
    let mut base = Rng::new(Key::new(9, &["base"]), 0);
    let mut own = Rng::new(Key::new(seed, &["own"]), 0);
    let one = |i: usize| {
        let (base, own) = (base.uniform() - 0.5, own.uniform() - 0.5);
        let row = i / cols;
        let value = match spread {
            Spread::Fine => base + 0.1 * own,
            Spread::Coarse => (own * 6.0).round() * 0.125 * if own < 0.2 { -1.0 } else { 1.0 },
            Spread::Uneven if row % 97 == 5 || row > 200 && row < 230 => base + 8.0 * own,
            Spread::Uneven => base + 1e-3 * own,
            Spread::Same => base,
        };
        value as f32
    };
    (0..shape.iter().product()).map(one).collect()
}

/// Tensors: large enough for samples and several tiles, odd, of one row, and experts.
fn model(name: &str, dtype: Dtype, seed: u64, spread: Spread, odd: usize) -> MemorySource {
    let shapes = [
        ("layers.0.self_attn.q_proj.weight", vec![520 + odd, 67]),
        ("layers.0.self_attn.o_proj.weight", vec![3, odd]),
        ("norm.weight", vec![2 * odd + 1]),
        ("layers.0.mlp.experts.down_proj", vec![2, 330, 64]),
    ];
    let tensors = shapes.into_iter().map(|(tensor, shape)| {
        let values = values(&shape, seed, spread);
        (tensor.to_owned(), dtype, shape, values)
    });
    let config = json!({"num_hidden_layers": 1, "num_experts": 2, "model_type": "qwen3_moe"});
    MemorySource::new(name, config, tensors.collect()).unwrap()
}

/// The models written below a folder and opened from there.
fn checkpoints(folder: &Path, models: &[MemorySource]) -> Vec<(String, Arc<Checkpoint>)> {
    let open = |(i, model): (usize, &MemorySource)| {
        let path = folder.join(format!("{i}"));
        write(model, &layout(model.manifest(), "model.", i % 2 == 1), &path);
        (model.name().to_owned(), Arc::new(Checkpoint::open(path).unwrap()))
    };
    models.iter().enumerate().map(open).collect()
}

fn same(models: &[(String, Arc<Checkpoint>)], text: &str, cut: usize) {
    let recipe = Recipe::parse(text).unwrap();
    let (mut bytes, mut plain) = (Sources::new(), Sources::new());
    for (name, checkpoint) in models {
        bytes.insert_checkpoint(name, Arc::clone(checkpoint));
        plain.insert_checkpoint(name, Arc::clone(checkpoint));
        plain.insert(name, Arc::new(Values(Arc::clone(checkpoint))));
    }
    let (by_bytes, by_values) =
        (Merge::new(&recipe, &bytes).unwrap(), Merge::new(&recipe, &plain).unwrap());
    for id in by_bytes.manifest().ids() {
        let (ours, other) = (by_bytes.prepare(id).unwrap(), by_values.prepare(id).unwrap());
        let name = &by_bytes.manifest().get(id).name;
        let bits = |plan: &TensorPlan| -> Vec<u64> {
            plan.statistics.iter().map(|v| v.to_bits()).collect()
        };
        assert_eq!(bits(&ours), bits(&other), "statistics of {name}");
        let values = read_tensor(&by_values, id).unwrap();
        let size = ours.dtype.size();
        let mut expected = vec![0; values.len() * size];
        ours.dtype.encode(&values, &mut expected);
        for rows in [0..cut % (ours.rows + 1), cut % (ours.rows + 1)..ours.rows] {
            let at = rows.start * ours.cols * size..rows.end * ours.cols * size;
            let mut found = vec![0; at.len()];
            assert!(by_bytes.read_bytes(&ours, rows.clone(), &mut found).unwrap(), "{name}");
            let first = found.iter().zip(&expected[at.clone()]).position(|(a, b)| a != b);
            assert_eq!(first, None, "{name} rows {rows:?}: {text}");
        }
    }
}

const DTYPES: [Dtype; 3] = [Dtype::Bf16, Dtype::F16, Dtype::F32];
const METHODS: [&str; 8] = [
    "ties",
    "dare_ties",
    "dare_linear",
    "task_arithmetic",
    "breadcrumbs",
    "breadcrumbs_ties",
    "linear",
    "slerp",
];

/// What a case says of one model.
type Of = (usize, usize, f64, f64);

fn recipe(method: &str, of: &[Of], flags: [bool; 3], more: &str) -> String {
    let [normalize, rescale, expert] = flags;
    let thins = !["linear", "slerp"].contains(&method);
    let mut text = format!("merge_method: {method}\nmodels:\n");
    if !thins {
        text += "- {model: base, parameters: {weight: 0.6}}\n";
    }
    let of = if method == "slerp" { &of[..1] } else { of };
    for (i, (.., weight, density)) in of.iter().enumerate() {
        let density = if thins && method != "task_arithmetic" {
            format!(", density: {density}")
        } else {
            String::new()
        };
        text += &format!("- {{model: m{i}, parameters: {{weight: {weight}{density}}}}}\n");
    }
    text += match method {
        "linear" => "parameters: {normalize: ",
        "slerp" => "base_model: base\nparameters: {t: 0.3, ",
        _ => "base_model: base\nparameters: {lambda: 0.9, normalize: ",
    };
    text += &match method {
        "slerp" => "}".to_owned(),
        "linear" | "task_arithmetic" => format!("{normalize}}}"),
        _ => format!("{normalize}, rescale: {rescale}}}"),
    };
    let unit = if expert { "expert" } else { "tensor" };
    format!("{text}\n{more}darwin: {{seed: 5, unit: {unit}}}\n").replace(", }", "}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn bytes_are_those_of_the_values(
        method in 0..METHODS.len(),
        base in (0..3_usize, 0..4_usize),
        of in prop::collection::vec((
            0..3_usize,
            0..4_usize,
            prop_oneof![Just(0.0), Just(1.0), -1.5..1.5],
            prop_oneof![Just(0.0), Just(1.0), 0.001..0.999],
        ), 1..5),
        flags in any::<[bool; 3]>(),
        written in prop_oneof![
            Just(""), Just("dtype: float16\n"), Just("dtype: bfloat16\nout_dtype: float32\n")
        ],
        odd in 1..90_usize,
        cut in 0..700_usize,
    ) {
        let method = METHODS[method];
        // Weights that sum to nothing are refused, and told elsewhere.
        let total: f64 = of.iter().map(|of| of.2).sum();
        prop_assume!((total + 0.6).abs() > 0.01);
        let mut models = vec![model("base", DTYPES[base.0], 0, SPREADS[base.1], odd)];
        for (i, (dtype, spread, ..)) in of.iter().enumerate() {
            let name = format!("m{i}");
            models.push(model(&name, DTYPES[*dtype], 1 + i as u64, SPREADS[*spread], odd));
        }
        let dir = tempfile::tempdir().unwrap();
        same(&checkpoints(dir.path(), &models), &recipe(method, &of, flags, written), cut);
    }

    #[test]
    fn trimming_keeps_the_largest_and_of_equals_the_first(
        dtypes in (0..3_usize, 0..3_usize),
        spreads in (0..4_usize, 0..4_usize),
        density in prop_oneof![Just(1e-6), 0.001..0.999, Just(0.999_99)],
        expert in any::<bool>(),
        odd in 1..90_usize,
    ) {
        let father = model("base", DTYPES[dtypes.0], 0, SPREADS[spreads.0], odd);
        let mother = model("m0", DTYPES[dtypes.1], 1, SPREADS[spreads.1], odd);
        let text = recipe("ties", &[(0, 0, 1.0, density)], [false, false, expert], "dtype: float32\n")
            .replace("lambda: 0.9", "lambda: 1.0");
        let mut sources = Sources::new();
        let dir = tempfile::tempdir().unwrap();
        for (name, checkpoint) in checkpoints(dir.path(), &[father.clone(), mother.clone()]) {
            sources.insert_checkpoint(&name, checkpoint);
        }
        let merge = Merge::new(&Recipe::parse(&text).unwrap(), &sources).unwrap();
        for id in merge.manifest().ids() {
            let info = merge.manifest().get(id);
            let of = |parent: &MemorySource| {
                parent.values(parent.manifest().find(&info.name).unwrap()).to_vec()
            };
            let (a, b, found) = (of(&father), of(&mother), read_tensor(&merge, id).unwrap());
            let units = if expert { info.experts().unwrap_or(1) } else { 1 };
            let n = a.len() / units;
            for unit in 0..units {
                let delta = |i: &usize| b[unit * n + i] - a[unit * n + i];
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|i, j| delta(j).abs().total_cmp(&delta(i).abs()).then(i.cmp(j)));
                let kept = ((density * n as f64) as usize).max(1);
                for (rank, i) in order.iter().enumerate() {
                    let at = unit * n + i;
                    let added = if rank < kept && delta(i) != 0.0 { a[at] + delta(i) } else { a[at] };
                    prop_assert_eq!(found[at].to_bits(), added.to_bits(), "{} [{}]", info.name, at);
                }
            }
        }
    }
}

#[test]
fn numbers_that_are_none_are_named_alike() {
    for (spoilt, at) in [(f32::NAN, 3), (f32::INFINITY, 67 * 500 + 1), (f32::NEG_INFINITY, 40_000)]
    {
        let dir = tempfile::tempdir().unwrap();
        let father = model("base", Dtype::Bf16, 0, Spread::Fine, 80);
        let mother = model("m0", Dtype::Bf16, 1, Spread::Fine, 80);
        let opened = checkpoints(dir.path(), &[father, mother]);
        let shard = opened[1].1.shard_paths().next().unwrap().to_owned();
        let mut bytes = std::fs::read(&shard).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let text: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
        let begin = &text["model.layers.0.self_attn.q_proj.weight"]["data_offsets"][0];
        let place = header + begin.as_u64().unwrap() as usize + 2 * at;
        bytes[place..place + 2].copy_from_slice(&spoilt.to_bits().to_le_bytes()[2..]);
        std::fs::write(&shard, bytes).unwrap();
        // A model that changes after it was opened is refused for that.
        let again = |(name, checkpoint): &(_, Arc<Checkpoint>)| {
            (Clone::clone(name), Arc::new(Checkpoint::open(checkpoint.folder()).unwrap()))
        };
        let opened: Vec<_> = opened.iter().map(again).collect();
        for method in ["ties", "dare_ties", "linear", "slerp"] {
            let text = recipe(method, &[(0, 0, 1.0, 0.5)], [false; 3], "");
            let messages = [true, false].map(|by_bytes| {
                let mut sources = Sources::new();
                for (name, checkpoint) in &opened {
                    sources.insert_checkpoint(name, Arc::clone(checkpoint));
                    if !by_bytes {
                        sources.insert(name, Arc::new(Values(Arc::clone(checkpoint))));
                    }
                }
                let merge = Merge::new(&Recipe::parse(&text).unwrap(), &sources).unwrap();
                let options = MergeOptions {
                    max_shard_bytes: u64::MAX,
                    memory: 1 << 24,
                    documents: Vec::new(),
                    progress: &NoProgress,
                    cancel: &Cancel::default(),
                };
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
                let out = dir.path().join("out");
                pool.install(|| merge_to(&merge, &out, &options)).unwrap_err().to_string()
            });
            assert!(messages[0].contains("q_proj"), "{}", messages[0]);
            assert_eq!(messages[0], messages[1], "{method}");
        }
    }
}
