//! Derivatives by share: PyTorch's gradients (tools/oracle/derivative.py), central differences,
//! integrals along the line between the example parents, and the same bits on every way.

use crate::fixture::{Everything, folder, model, source};
use darwin_checkpoint::{
    Checkpoint, Dtype, Error as SourceError, Manifest, MemorySource, TensorId, TensorInfo,
    TensorPlan, TensorSource, read_tensor,
};
use darwin_core::{Cancel, NoProgress};
use darwin_engine::derivative::{Derivatives, Direction, Group, Keep, derivatives};
use darwin_engine::{
    Batch, Error, Interventions, LayerSource, Model, Room, ScoreItem, Sequence, Stream, Text, score,
};
use darwin_testkit::{sibling, tiny_llama, tiny_qwen3_moe, tiny_qwen35};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

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
fn with_values(
    like: &dyn TensorSource,
    values: impl Fn(&TensorInfo) -> Option<Vec<f32>>,
) -> MemorySource {
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

/// `from + share (to - from)` in float32, and the config of a family member.
struct Line<'a> {
    from: &'a dyn TensorSource,
    to: &'a dyn TensorSource,
    share: f32,
    config: Value,
}

impl<'a> Line<'a> {
    fn new(from: &'a dyn TensorSource, to: &'a dyn TensorSource, share: f32) -> Self {
        Self { from, to, share, config: from.config().clone() }
    }
}

impl TensorSource for Line<'_> {
    fn name(&self) -> &str {
        "a point of the line"
    }

    fn manifest(&self) -> &Manifest {
        self.from.manifest()
    }

    fn config(&self) -> &Value {
        &self.config
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, SourceError> {
        Ok(TensorPlan { dtype: Dtype::F32, ..self.from.prepare(id)? })
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), SourceError> {
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

fn at(
    point: &dyn LayerSource,
    direction: &Direction<'_>,
    items: &[ScoreItem],
    keep: &Keep,
) -> Derivatives {
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
    name.split_once('.')
        .filter(|_| name.starts_with("layers."))
        .map_or(name.to_owned(), |(_, rest)| rest.split_once('.').unwrap().1.to_owned())
}

/// Every share is within 1e-4 of itself, or, where that is more, of the largest of its kind in the
/// case, or of a fiftieth of the largest of all: a smaller one is a sum of terms that cancel, each
/// with float32's error.
fn compare(case: &str, got: &Derivatives, golden: &Value) -> (f64, f64) {
    let tensors = golden["shares"].as_object().unwrap();
    let want = |s: usize, group: &Group| {
        let part = group.expert.map_or(0, |expert| expert.0);
        let tensor = tensors.get(&*group.tensor).unwrap_or_else(|| panic!("{}", group.tensor));
        tensor[s][part].as_f64().unwrap()
    };
    let (mut largest, mut all) = (BTreeMap::<String, f64>::new(), 0.0_f64);
    for s in 0..got.nll.len() {
        for group in &got.groups {
            let most = largest.entry(kind(group)).or_default();
            *most = most.max(want(s, group).abs());
            all = all.max(*most);
        }
    }
    let mut errors = Vec::new();
    for s in 0..got.nll.len() {
        let nll = golden["nll"][s].as_f64().unwrap();
        assert!((got.nll[s] - nll).abs() < 2e-5 * nll, "{case}: nll {} {nll}", got.nll[s]);
        for (group, value) in got.groups.iter().zip(got.item(s)) {
            let want = want(s, group);
            let off = (value - want).abs() / largest[&kind(group)].max(0.02 * all);
            assert!(off <= 1e-4, "{case} seq{s} {group:?}: {value} {want}, {off:.1e}");
            errors.push(off);
        }
    }
    let groups = |tensor: &Value| -> usize {
        tensor.as_array().unwrap().iter().map(|s| s.as_array().unwrap().len()).sum()
    };
    let stored: usize = tensors.values().map(groups).sum();
    assert_eq!(errors.len(), stored, "{case}: every golden share is met");
    errors.sort_by(f64::total_cmp);
    (errors[errors.len() - 1], errors[errors.len() / 2])
}

#[test]
fn shares_equal_those_of_autograd() {
    for case in CASES {
        let (source, golden) = (source(case), golden_shares(case));
        let made = drawn(&source, |name| golden["scales"][name].as_f64());
        let direction = Direction::of(&made).unwrap();
        let got = at(&model(case), &direction, &items(&golden), &Keep::Activations);
        let (most, median) = compare(case, &got, &golden);
        println!("{case}: {most:.1e}, median {median:.1e}");
    }
}

#[test]
fn shares_between_the_parents_equal_those_of_autograd() {
    let (father, mother, golden) = (source("father"), source("mother"), golden_shares("pair"));
    let point = Line::new(&father, &mother, 0.5);
    let direction = Direction::between(&father, &mother).unwrap();
    let got = at(&Model::load(&point).unwrap(), &direction, &items(&golden), &Keep::Activations);
    let (most, median) = compare("pair", &got, &golden);
    println!("{most:.1e}, median {median:.1e}");
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

        let little = Room {
            states: 2000,
            scratch: Some(scratch.path().to_owned()),
            prefetch: false,
            ..Room::default()
        };
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

/// The experts that all tokens of items go to.
fn chosen(model: &Model, items: &[ScoreItem]) -> Vec<Vec<u32>> {
    let sequence = |item: &ScoreItem| Sequence::new([&item.prompt[..], &item.answer].concat());
    let mut state = model.embed(&Batch::new(items.iter().map(sequence).collect())).unwrap();
    let (mut tap, layers) = (Everything::default(), model.config().num_hidden_layers);
    model.run(&mut state, 0..layers, &mut tap, &Interventions::new()).unwrap();
    let sorted = |mut row: Vec<u32>| {
        row.sort_unstable();
        row
    };
    let k = model.config().num_experts_per_tok.max(1);
    let rows = tap
        .experts
        .into_values()
        .flat_map(|all| all.chunks(k).map(|row| sorted(row.to_vec())).collect::<Vec<_>>());
    rows.collect()
}

fn loss(model: &Model, items: &[ScoreItem]) -> f64 {
    score(model, items, &Cancel::default()).unwrap().iter().map(|s| s.nll).sum()
}

/// Central differences of the forward pass, for the group of each kind that matters most, over steps
/// that leave every token with its experts.
#[test]
fn shares_equal_central_differences() {
    for father in [tiny_qwen35(1), tiny_qwen3_moe(3), tiny_llama(1)] {
        let made = drawn(&father, |_| Some(0.2));
        let (items, point) = (some_items(250), Model::load(&father).unwrap());
        let got = at(&point, &Direction::of(&made).unwrap(), &items, &Keep::Activations);
        let (totals, experts) = (got.total(), chosen(&point, &items));
        let mut largest: BTreeMap<String, usize> = BTreeMap::new();
        for (i, group) in got.groups.iter().enumerate() {
            let place = largest.entry(kind(group)).or_insert(i);
            if totals[i].abs() > totals[*place].abs() {
                *place = i;
            }
        }
        let mut checked = 0;
        for i in largest.into_values() {
            let group = &got.groups[i];
            let moved = |step: f64| {
                let source = with_values(&father, |info| {
                    let id = father.manifest().find(&info.name)?;
                    let mut values = read_tensor(&father, id).unwrap();
                    if info.name == *group.tensor {
                        let of = values.len() / group.expert.map_or(1, |_| info.shape[0]);
                        let first = group.expert.map_or(0, |e| e.0) * of;
                        let part = values.iter_mut().enumerate().skip(first).take(of);
                        for (at, value) in part {
                            *value += (step * draw(&info.name, at) * 0.2) as f32;
                        }
                    }
                    Some(values)
                });
                Model::load(&source).unwrap()
            };
            let steps = [0.04, 0.02, 0.01, 0.005];
            let found = steps.into_iter().find_map(|step| {
                let ends = [moved(step), moved(-step)];
                let same = ends.iter().all(|end| chosen(end, &items) == experts);
                same.then(|| (loss(&ends[0], &items) - loss(&ends[1], &items)) / (2.0 * step))
            });
            let Some(want) = found else { continue };
            let off = (totals[i] - want).abs();
            println!("{} {:?}: {} {want}", group.tensor, group.expert, totals[i]);
            assert!(off < 5e-3 * want.abs() + 1e-3, "{group:?}: {} {want}", totals[i]);
            checked += 1;
        }
        println!("{checked} kinds");
        assert!(checked >= 12, "{checked} kinds were checked");
    }
}

/// The integral of the derivatives along the line from father to mother is the difference of their
/// losses (Simpson's rule, 9 points). Every token goes to every expert here, with the gates of the
/// trained routers: where a token changes its experts along the line, its loss jumps, which no
/// derivative knows of.
#[test]
fn derivatives_along_the_line_add_up_to_the_difference() {
    let (father, mother) = (source("father"), source("mother"));
    let parents = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/parents");
    let text = Text::open(&parents.join("father")).unwrap();
    let some = [
        ("gcd 84 48", "12"),
        ("Give the Russian for India?", "Индия"),
        ("a=51;b=22;print('yes' if a>b else 'red')", "yes"),
        ("population rank of Palestine plus Israel", "218"),
        ("second tallest: Eve shorter than Jon, Eve taller than Dan", "Eve"),
    ];
    let some = some.map(|(question, answer)| (question.to_owned(), answer.to_owned()));
    let sums = (1..6).map(|i| (i * 37 % 80 + 19, i * 23 % 19));
    let sums = sums.map(|(a, b)| (format!("{a}-{b}"), (a - b).to_string()));
    let item = |(question, answer): (String, String)| {
        let prompt = text.encode(&text.chat(&question, false).unwrap()).unwrap();
        let answer = [text.encode(&answer).unwrap(), text.stop_ids()[..1].to_vec()].concat();
        ScoreItem { prompt, answer }
    };
    let items: Vec<ScoreItem> = some.into_iter().chain(sums).map(item).collect();
    let direction = Direction::between(&father, &mother).unwrap().keeping();
    let weights = [1.0, 4.0, 2.0, 4.0, 2.0, 4.0, 2.0, 4.0, 1.0].map(|w: f64| w / 24.0);
    let (mut integral, mut ends) = (vec![0.0; items.len()], Vec::new());
    for (i, weight) in weights.into_iter().enumerate() {
        let mut point = Line::new(&father, &mother, i as f32 / 8.0);
        let text = &mut point.config["text_config"];
        text["num_experts_per_tok"] = text["num_experts"].clone();
        let got = at(&Model::load(&point).unwrap(), &direction, &items, &Keep::Activations);
        for (item, integral) in integral.iter_mut().enumerate() {
            *integral += weight * got.item(item).iter().sum::<f64>();
        }
        ends.push(got.nll);
    }
    let difference = |item: usize| ends[8][item] - ends[0][item];
    let off = |item: usize| (integral[item] - difference(item)).abs();
    let (off, all): (f64, f64) = (0..items.len())
        .map(|i| (off(i), difference(i).abs()))
        .fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    println!("{integral:?} {ends:?}: {off} of {all}");
    assert!(off < 0.01 * all, "{integral:?} {ends:?}");
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
    let items: Vec<ScoreItem> =
        some_items(250).into_iter().filter(|i| i.answer.len() < 4).collect();
    let got = at(&Model::load(&father).unwrap(), &direction, &items, &Keep::Activations);
    let mean = |share: f32| {
        let point = Line::new(&father, &mother, share);
        let scores = score(&Model::load(&point).unwrap(), &items, &Cancel::default()).unwrap();
        scores.iter().map(|s| (-s.nll).exp()).sum::<f64>() / items.len() as f64
    };
    let want = (mean(0.02) - mean(-0.02)) / 0.04;
    let sum: f64 = got.of_probability().iter().sum();
    assert!((sum - want).abs() < 0.01 * want.abs(), "{sum} {want}");
}
