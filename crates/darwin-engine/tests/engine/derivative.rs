//! Derivatives by share: PyTorch's gradients (tools/oracle/derivative.py), central differences,
//! integrals along the line between the example parents, and the same bits on every way.

use crate::fixture::{folder, golden, model, source};
use darwin_checkpoint::{
    Checkpoint, Dtype, Error as SourceError, Manifest, MemorySource, TensorId, TensorInfo,
    TensorPlan, TensorSource, read_tensor,
};
use darwin_core::{Cancel, NoProgress};
use darwin_engine::derivative::{Derivatives, Direction, Group, Keep, derivatives};
use darwin_engine::{Error, LayerSource, Model, Room, ScoreItem, Stream, score};
use darwin_testkit::{sibling, tiny_llama, tiny_qwen3_moe, tiny_qwen35};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;

/// Random models of every form that has derivatives.
const CASES: [&str; 16] = [
    "plain",
    "odd",
    "bf16",
    "long",
    "qwen3_5",
    "qwen3_5_text",
    "qwen3_5_moe_yarn",
    "qwen3_next",
    "qwen3",
    "qwen2",
    "mistral",
    "mixtral",
    "llama3",
    "llama_bias",
    "qwen3_moe",
    "qwen3_moe_step",
];

/// The upper 24 bits of splitmix64(fnv1a64(name) + i), from -1/2 to 1/2.
fn draw(name: &str, i: usize) -> f64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let z = hash.wrapping_add(i as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 24) - 0.5
}

/// A source of the tensors of `like` with other values.
fn with_values(like: &dyn TensorSource, values: impl Fn(&TensorInfo) -> Option<Vec<f32>>) -> MemorySource {
    let tensors = like.manifest().tensors().iter().filter_map(|info| {
        Some((info.name.clone(), Dtype::F32, info.shape.clone(), values(info)?))
    });
    MemorySource::new("made", like.config().clone(), tensors.collect()).unwrap()
}

fn drawn(like: &dyn TensorSource, scale: impl Fn(&str) -> Option<f64>) -> MemorySource {
    with_values(like, |info| {
        let scale = scale(&info.name)?;
        Some((0..info.elements()).map(|i| (draw(&info.name, i) * scale) as f32).collect())
    })
}

/// `from + share (to - from)` in float32.
struct Line<'a> {
    from: &'a dyn TensorSource,
    to: &'a dyn TensorSource,
    share: f32,
}

impl TensorSource for Line<'_> {
    fn name(&self) -> &str {
        "a point of the line"
    }

    fn manifest(&self) -> &Manifest {
        self.from.manifest()
    }

    fn config(&self) -> &Value {
        self.from.config()
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, SourceError> {
        Ok(TensorPlan { dtype: Dtype::F32, ..self.from.prepare(id)? })
    }

    fn read_tile(&self, plan: &TensorPlan, rows: Range<usize>, out: &mut [f32]) -> Result<(), SourceError> {
        self.from.read_tile(&self.from.prepare(plan.id)?, rows.clone(), out)?;
        let name = &self.manifest().get(plan.id).name;
        let Some(other) = self.to.manifest().find(name) else { return Ok(()) };
        let mut to = vec![0.0; out.len()];
        self.to.read_tile(&self.to.prepare(other)?, rows, &mut to)?;
        out.iter_mut().zip(to).for_each(|(a, b)| *a += self.share * (b - *a));
        Ok(())
    }

    fn read_raw(&self, _: TensorId, _: Range<usize>, _: &mut Vec<u8>) -> Result<bool, SourceError> {
        Ok(false)
    }
}

fn at(point: &dyn LayerSource, direction: &Direction<'_>, items: &[ScoreItem], keep: &Keep) -> Derivatives {
    derivatives(point, direction, items, keep, &NoProgress, &Cancel::default()).unwrap()
}

fn layered() -> Keep {
    Keep::Inputs(Room::default())
}

fn item(ids: &[u32], prompt: usize) -> ScoreItem {
    ScoreItem { prompt: ids[..prompt].to_vec(), answer: ids[prompt..].to_vec() }
}

fn items(golden: &Value) -> Vec<ScoreItem> {
    let ids = |ids: &Value| -> Vec<u32> { serde_json::from_value(ids.clone()).unwrap() };
    let prompt = golden["prompt"].as_u64().unwrap() as usize;
    golden["ids"].as_array().unwrap().iter().map(|s| item(&ids(s), prompt)).collect()
}

fn golden_shares(case: &str) -> Value {
    let path = folder("").join("../derivative").join(format!("{case}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A tensor's name without its layer: the groups of a kind.
fn kind(group: &Group) -> String {
    let name = &*group.tensor;
    name.split_once('.').filter(|_| name.starts_with("layers.")).map_or(name.to_owned(), |(_, rest)| {
        rest.split_once('.').unwrap().1.to_owned()
    })
}

/// Every share is within 1e-4 of itself, or of a tenth of the largest of its kind and sequence:
/// smaller ones are sums that cancel.
fn compare(case: &str, got: &Derivatives, golden: &Value) {
    let mut worst = 0.0_f64;
    let tensors = golden["shares"].as_object().unwrap();
    let mut seen = 0;
    for s in 0..got.nll.len() {
        let nll = golden["nll"][s].as_f64().unwrap();
        assert!((got.nll[s] - nll).abs() < 2e-5 * nll, "{case}: nll {} {nll}", got.nll[s]);
        let want = |group: &Group| {
            let part = group.expert.map_or(0, |expert| expert.0);
            let tensor = tensors.get(&*group.tensor).unwrap_or_else(|| panic!("{}", group.tensor));
            tensor[s][part].as_f64().unwrap()
        };
        let mut largest: BTreeMap<String, f64> = BTreeMap::new();
        for group in &got.groups {
            let most = largest.entry(kind(group)).or_default();
            *most = most.max(want(group).abs());
        }
        for (group, value) in got.groups.iter().zip(got.item(s)) {
            let (want, most) = (want(group), largest[&kind(group)]);
            let off = (value - want).abs() / want.abs().max(0.1 * most);
            worst = worst.max(if most > 0.0 { off } else { value.abs() });
            assert!(off <= 1e-4 || most == 0.0 && *value == 0.0, "{case} seq{s} {group:?}: {value} {want}, {off:.1e}");
            seen += 1;
        }
    }
    let stored: usize = tensors.values().map(|t| t.as_array().unwrap().iter().map(|s| s.as_array().unwrap().len()).sum::<usize>()).sum();
    assert_eq!(seen, stored, "{case}: every golden share is met");
    println!("{case}: {worst:.1e}");
}

#[test]
fn shares_equal_those_of_autograd() {
    for case in CASES {
        let (source, golden) = (source(case), golden_shares(case));
        let made = drawn(&source, |name| golden["scales"][name].as_f64());
        let direction = Direction::of(&made).unwrap();
        let got = at(&model(case), &direction, &items(&golden), &Keep::Activations);
        compare(case, &got, &golden);
    }
}

#[test]
fn shares_between_the_parents_equal_those_of_autograd() {
    let (father, mother, golden) = (source("father"), source("mother"), golden_shares("pair"));
    let point = Line { from: &father, to: &mother, share: 0.5 };
    let direction = Direction::between(&father, &mother).unwrap();
    let got = at(&Model::load(&point).unwrap(), &direction, &items(&golden), &Keep::Activations);
    compare("pair", &got, &golden);
}

/// Items of all lengths, an answer of one token and one after a prompt of one among them.
fn some_items(vocab: u32) -> Vec<ScoreItem> {
    let ids = |n: u32, step: u32| (0..n).map(|i| (i * step + n) % vocab).collect::<Vec<u32>>();
    [(2, 7, 1), (9, 5, 8), (40, 11, 3), (13, 17, 6), (75, 29, 70), (3, 3, 1)]
        .map(|(n, step, prompt)| item(&ids(n, step), prompt))
        .to_vec()
}

/// Threads, company, what is kept, and where weights come from change no bit; losses are the scores.
#[test]
fn every_way_gives_the_same_bits() {
    let scratch = tempfile::tempdir().unwrap();
    for father in [tiny_qwen35(1), tiny_qwen3_moe(1), tiny_llama(1)] {
        let mother = sibling(&father, "mother", 2, 0.05);
        let (model, items) = (Model::load(&father).unwrap(), some_items(250));
        let direction = Direction::between(&father, &mother).unwrap();
        let all = at(&model, &direction, &items, &Keep::Activations);
        let scores = score(&model, &items, &Cancel::default()).unwrap();
        assert_eq!(all.nll, scores.iter().map(|s| s.nll).collect::<Vec<f64>>());
        assert!(all.values.iter().all(|v| v.is_finite()));
        let differs = all.groups.iter().filter(|group| group.expert.is_none());
        let zeros = differs.filter(|group| {
            let i = all.groups.iter().position(|g| g == *group).unwrap();
            all.total()[i] == 0.0
        });
        assert_eq!(zeros.count(), 0, "every tensor has a derivative");

        let little = Room { states: 2000, scratch: Some(scratch.path().to_owned()), prefetch: false, ..Room::default() };
        let kept = Direction::between(&father, &mother).unwrap().keeping();
        let stream = Stream::open(&father).unwrap();
        for keep in [Keep::Activations, layered(), Keep::Inputs(little)] {
            for threads in [1, 2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    assert!(at(&model, &direction, &items, &keep) == all, "{keep:?} {threads}");
                    assert!(at(&stream, &kept, &items, &keep) == all, "{keep:?} {threads}");
                });
            }
            for (i, item) in items.iter().enumerate() {
                let alone = at(&model, &kept, std::slice::from_ref(item), &keep);
                assert!(alone.values == all.item(i) && alone.nll[0] == all.nll[i], "{keep:?} {i}");
            }
        }
        assert_eq!(at(&model, &direction, &[], &layered()).tokens, 0);
    }
}

/// Central differences of the forward pass, for a group of each kind.
#[test]
fn shares_equal_central_differences() {
    for father in [tiny_qwen35(1), tiny_qwen3_moe(3), tiny_llama(1)] {
        let made = drawn(&father, |_| Some(0.2));
        let items = some_items(250);
        let point = Model::load(&father).unwrap();
        let got = at(&point, &Direction::of(&made).unwrap(), &items, &Keep::Activations);
        let totals = got.total();
        let mut largest: BTreeMap<String, (usize, f64)> = BTreeMap::new();
        for (i, group) in got.groups.iter().enumerate() {
            let place = largest.entry(kind(group)).or_insert((i, 0.0));
            if totals[i].abs() >= place.1 {
                *place = (i, totals[i].abs());
            }
        }
        let scale = totals.iter().map(|t| t * t).sum::<f64>().sqrt();
        for (kind, (i, _)) in largest {
            let group = &got.groups[i];
            let loss = |step: f32| {
                let moved = with_values(&father, |info| {
                    let mut values = read_tensor(&father, father.manifest().find(&info.name)?).unwrap();
                    if info.name == *group.tensor {
                        let parts = if group.expert.is_some() { info.shape[0] } else { 1 };
                        let of = values.len() / parts;
                        let first = group.expert.map_or(0, |e| e.0) * of;
                        for at in first..first + of {
                            values[at] += step * (draw(&info.name, at) * 0.2) as f32;
                        }
                    }
                    Some(values)
                });
                let scores = score(&Model::load(&moved).unwrap(), &items, &Cancel::default()).unwrap();
                scores.iter().map(|s| s.nll).sum::<f64>()
            };
            let step = 0.02;
            let want = (loss(step) - loss(-step)) / (2.0 * f64::from(step));
            let off = (totals[i] - want).abs();
            println!("{kind}: {} {want} {:.1e}", totals[i], off / want.abs());
            assert!(off < 2e-3 * want.abs() + 2e-4 * scale, "{group:?}: {} {want}", totals[i]);
        }
    }
}

/// The integral of the derivatives along the line from father to mother is the difference of their
/// losses (Simpson's rule, 9 points).
#[test]
fn derivatives_along_the_line_add_up_to_the_difference() {
    let (father, mother) = (source("father"), source("mother"));
    let items: Vec<ScoreItem> = golden("father")
        .iter()
        .chain(&golden("mother"))
        .map(|g| ScoreItem { prompt: g.ids.clone(), answer: g.greedy[..16].to_vec() })
        .collect();
    let direction = Direction::between(&father, &mother).unwrap().keeping();
    let weights = [1.0, 4.0, 2.0, 4.0, 2.0, 4.0, 2.0, 4.0, 1.0].map(|w: f64| w / 24.0);
    let (mut integral, mut ends) = (0.0, Vec::new());
    for (i, weight) in weights.into_iter().enumerate() {
        let point = Line { from: &father, to: &mother, share: i as f32 / 8.0 };
        let got = at(&Model::load(&point).unwrap(), &direction, &items, &Keep::Activations);
        integral += weight * got.total().iter().sum::<f64>();
        ends.push(got.nll.iter().sum::<f64>());
    }
    let difference = ends[8] - ends[0];
    println!("{integral} {difference}, losses {ends:?}");
    assert!((integral - difference).abs() < 0.01 * difference.abs(), "{integral} {difference}");
}

#[test]
fn what_has_no_derivatives_is_refused_with_a_sentence() {
    for (case, word) in [
        ("deepseek_v2", "latent attention"),
        ("deepseek_v3", "sigmoid"),
        ("olmoe", "norms over all heads"),
        ("olmoe_clip", "clipped"),
    ] {
        let source: Checkpoint = source(case);
        let error = Direction::between(&source, &source).err().unwrap().to_string();
        assert!(error.contains(word) && error.contains("no derivatives"), "{error}");
    }
    let (tiny, other) = (tiny_qwen35(1), tiny_llama(1));
    assert!(matches!(Direction::between(&tiny, &other), Err(Error::Shapes)));
    let direction = Direction::of(&tiny).unwrap();
    let model = Model::load(&other).unwrap();
    let run = |model: &Model, items: &[ScoreItem], cancel: &Cancel| {
        derivatives(model, &direction, items, &Keep::Activations, &NoProgress, cancel)
    };
    assert!(matches!(run(&model, &[], &Cancel::default()), Err(Error::Shapes)));
    let model = Model::load(&tiny).unwrap();
    let empty = ScoreItem { prompt: vec![], answer: vec![1] };
    assert!(matches!(run(&model, &[empty], &Cancel::default()), Err(Error::Empty { .. })));
    let cancel = Cancel::default();
    cancel.cancel();
    assert!(matches!(run(&model, &some_items(250), &cancel), Err(Error::Cancelled)));
}

/// The derivative of the mean probability is that of its definition.
#[test]
fn probabilities_have_the_derivative_of_their_mean() {
    let father = tiny_qwen35(1);
    let mother = sibling(&father, "mother", 2, 0.05);
    let direction = Direction::between(&father, &mother).unwrap();
    let items: Vec<ScoreItem> = some_items(250).into_iter().filter(|i| i.answer.len() < 4).collect();
    let got = at(&Model::load(&father).unwrap(), &direction, &items, &Keep::Activations);
    let mean = |share: f32| {
        let point = Line { from: &father, to: &mother, share };
        let scores = score(&Model::load(&point).unwrap(), &items, &Cancel::default()).unwrap();
        scores.iter().map(|s| (-s.nll).exp()).sum::<f64>() / items.len() as f64
    };
    let want = (mean(0.02) - mean(-0.02)) / 0.04;
    let sum: f64 = got.of_probability().iter().sum();
    assert!((sum - want).abs() < 0.01 * want.abs(), "{sum} {want}");
}
