//! RegMean's solutions: PyTorch's linear algebra (tools/oracle/regmean.py), the cases with a known
//! answer, and the same bits on every way.

#![allow(clippy::unwrap_used, reason = "a test")]

use darwin_checkpoint::{Checkpoint, Dtype, MemorySource, TensorSource, read_tensor};
use darwin_core::{Cancel, NoProgress, Progress};
use darwin_engine::{LayerSource, Model, Room, ScoreItem, Stream};
use darwin_merge::{Merge, Recipe, RegMean, Sources};
use darwin_regmean::{Error, Options, Side, SolvedTensors, solve};
use darwin_testkit::{Tiny, sibling, tiny_qwen3_moe, tiny_qwen35};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Sequences of a parent, one item each; the last token of an item is not run, so that one more
/// stands behind.
fn items(parent: &str, count: usize, length: usize, vocab: usize) -> Vec<ScoreItem> {
    let item = |s| {
        let name = format!("{parent}.{s}");
        let id = |i| ((draw(&name, i) + 0.5) * vocab as f64) as u32;
        let prompt: Vec<u32> = (0..length).map(id).collect();
        ScoreItem { prompt, answer: vec![0] }
    };
    (0..count).map(item).collect()
}

fn sources(father: &Arc<dyn TensorSource>, mother: &Arc<dyn TensorSource>) -> Sources {
    let mut sources = Sources::new();
    sources.insert("father", Arc::clone(father));
    sources.insert("mother", Arc::clone(mother));
    sources
}

fn recipe(settings: &RegMean, more: &str) -> Recipe {
    let text = format!(
        "merge_method: regmean\nmodels: [{{model: father}}, {{model: mother}}]\n\
         darwin: {{father: father, mother: mother, t: 0.25{more}}}\nout_dtype: float32\n"
    );
    let recipe = Recipe::parse(&text).unwrap().with_regmean(settings.clone());
    assert_eq!(Recipe::parse(&recipe.to_yaml()).unwrap(), recipe);
    recipe
}

struct Pair {
    father: Arc<dyn TensorSource>,
    mother: Arc<dyn TensorSource>,
    items: [Vec<ScoreItem>; 2],
}

impl Pair {
    fn of(father: MemorySource, mother: MemorySource, count: usize) -> Self {
        let items = ["father", "mother"].map(|parent| items(parent, count, 40, 250));
        Self { father: Arc::new(father), mother: Arc::new(mother), items }
    }

    fn tiny() -> Self {
        let father = tiny_qwen35(1);
        let mother = sibling(&father, "mother", 2, 0.05);
        Self::of(father, mother, 12)
    }

    fn merge(&self, recipe: &Recipe) -> Merge {
        Merge::new(recipe, &sources(&self.father, &self.mother)).unwrap()
    }

    fn solve_with(
        &self,
        recipe: &Recipe,
        models: [&dyn LayerSource; 2],
        folder: Option<&Path>,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<SolvedTensors, Error> {
        let room = Room::default();
        let options = Options { room: &room, folder, progress, cancel };
        let side = |i: usize| Side { model: models[i], items: &self.items[i] };
        let settings = recipe.darwin().regmean.clone().unwrap_or_default();
        solve(&self.merge(recipe), &settings, [side(0), side(1)], &options)
    }

    fn solved(&self, recipe: &Recipe) -> SolvedTensors {
        let models = [&self.father, &self.mother].map(|source| Stream::open(&**source).unwrap());
        let models: [&dyn LayerSource; 2] = [&models[0], &models[1]];
        self.solve_with(recipe, models, None, &NoProgress, &Cancel::default()).unwrap()
    }

    /// The child's tensors.
    fn child(&self, recipe: &Recipe) -> Vec<(String, Vec<f32>)> {
        let child = self.merge(recipe).with_solved(Arc::new(self.solved(recipe))).unwrap();
        all(&child)
    }
}

fn all(source: &dyn TensorSource) -> Vec<(String, Vec<f32>)> {
    let name = |id| source.manifest().get(id).name.clone();
    source.manifest().ids().map(|id| (name(id), read_tensor(source, id).unwrap())).collect()
}

fn tensor(source: &dyn TensorSource, name: &str) -> Vec<f32> {
    read_tensor(source, source.manifest().find(name).unwrap()).unwrap()
}

/// A father of the goldens and the mother that his names draw.
fn golden_pair(case: &str, golden: &Value) -> Pair {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let folder = folder.join("../darwin-testkit/fixtures/golden/engine").join(case);
    let father = Checkpoint::open(folder).unwrap();
    let moved = father.manifest().tensors().iter().map(|info| {
        let scale = golden["scales"][&info.name].as_f64().unwrap_or(0.0);
        let values = tensor(&father, &info.name).into_iter().enumerate();
        let values = values.map(|(i, v)| v + (draw(&info.name, i) * scale) as f32);
        (info.name.clone(), Dtype::F32, info.shape.clone(), values.collect())
    });
    let mother = MemorySource::new("mother", father.config().clone(), moved.collect()).unwrap();
    let number = |key: &str| golden[key].as_u64().unwrap() as usize;
    let (count, length, vocab) = (number("sequences"), number("length"), number("vocab"));
    let items = ["father", "mother"].map(|parent| items(parent, count, length, vocab));
    Pair { father: Arc::new(father), mother: Arc::new(mother), items }
}

/// Every map's difference from the father is within 1e-4 of its norm, by its norm and by two random
/// projections; maps of too few tokens are the blend.
#[test]
fn solutions_equal_those_of_pytorch() {
    for case in ["plain", "qwen3_next", "qwen3_moe", "qwen3"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../darwin-testkit/fixtures/golden/regmean/{case}.json"));
        let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let pair = golden_pair(case, &golden);
        for (which, setting) in golden["settings"].as_array().unwrap().iter().enumerate() {
            let number = |key: &str| setting[key].as_f64().unwrap();
            let settings = RegMean {
                b: number("b"),
                ridge: number("ridge"),
                off_diagonal: number("off_diagonal"),
                ..RegMean::default()
            };
            let solved = pair.solved(&recipe(&settings, ""));
            let (mut most, mut met, mut anchored) = (0.0_f64, 0, 0);
            for map in golden["maps"].as_array().unwrap() {
                let name = map["tensor"].as_str().unwrap();
                let id = solved.manifest().find(name).unwrap_or_else(|| panic!("{case}: {name}"));
                let (found, father) =
                    (read_tensor(&solved, id).unwrap(), tensor(&*pair.father, name));
                let info = solved.manifest().get(id);
                let range = match map["expert"].as_u64() {
                    None => 0..found.len(),
                    Some(expert) => {
                        let size = found.len() / info.shape[0];
                        expert as usize * size..(expert as usize + 1) * size
                    }
                };
                met += range.len();
                let moved = range.clone().map(|i| f64::from(found[i]) - f64::from(father[i]));
                let moved: Vec<f64> = moved.collect();
                if map["norm"].is_null() {
                    anchored += 1;
                    let mother = tensor(&*pair.mother, name);
                    for (moved, i) in moved.iter().zip(range) {
                        let wanted = 0.25 * (f64::from(mother[i]) - f64::from(father[i]));
                        assert!((moved - wanted).abs() < 1e-6, "{case}: {name} at the anchor");
                    }
                    continue;
                }
                let norm = map["norm"][which].as_f64().unwrap();
                let found_norm = moved.iter().map(|v| v * v).sum::<f64>().sqrt();
                let mut off = (found_norm - norm).abs() / norm;
                for (k, wanted) in map["probes"][which].as_array().unwrap().iter().enumerate() {
                    let probe = format!("probe{k}.{name}");
                    let products = moved.iter().zip(range.clone());
                    let product: f64 = products.map(|(v, i)| v * draw(&probe, i)).sum();
                    off = off.max((product - wanted.as_f64().unwrap()).abs() / norm);
                }
                assert!(
                    off <= 1e-4,
                    "{case} {which}: {name} {:?} is off by {off:.1e}",
                    map["expert"]
                );
                most = most.max(off);
            }
            let values: usize = solved.manifest().tensors().iter().map(|t| t.elements()).sum();
            assert_eq!(met, values, "{case}: every solved value is met");
            assert_eq!(solved.counts().anchored, anchored, "{case}");
            println!("{case} {which}: off by {most:.1e} at most, {:?}", solved.counts());
        }
    }
}

#[test]
fn identical_parents_and_no_weight_of_the_mother_give_the_father() {
    let father = tiny_qwen35(1);
    let same = Pair::of(father.clone(), father.clone(), 12);
    let found = same.child(&recipe(&RegMean::default(), ""));
    assert_eq!(found, all(&father));

    let pair = Pair::tiny();
    let recipe = recipe(&RegMean { b: 0.0, ..RegMean::default() }, "");
    let (solved, mut met) = (pair.solved(&recipe), 0);
    for (name, found) in all(&solved) {
        if !name.contains(".experts.") {
            assert_eq!(found, tensor(&father, &name), "{name}");
            met += 1;
        }
    }
    assert!(met > 20);
}

/// Embedding, head and final norm are the father's; small tensors are blends; the rest is solved.
#[test]
fn what_is_not_solved_follows_the_shares() {
    let pair = Pair::tiny();
    let recipe = recipe(&RegMean::default(), "");
    let merge = pair.merge(&recipe);
    let solved = pair.solved(&recipe);
    let manifest = merge.plan().manifest();
    let (mut copies, mut blends) = (0, 0);
    let child = pair.child(&recipe);
    for (name, found) in &child {
        let line = manifest.tensors.iter().find(|line| line.tensor == *name).unwrap();
        let (father, mother) = (tensor(&*pair.father, name), tensor(&*pair.mother, name));
        if let Some(id) = solved.manifest().find(name) {
            assert_eq!(line.method, "regmean", "{name}");
            assert_eq!(*found, read_tensor(&solved, id).unwrap(), "{name}");
            assert!(*found != father && *found != mother, "{name}");
        } else if ["embed_tokens.weight", "lm_head.weight", "norm.weight"].contains(&name.as_str())
        {
            assert_eq!(*found, father, "{name}");
            copies += 1;
        } else {
            assert_eq!(line.method, "linear", "{name}");
            for ((found, f), m) in found.iter().zip(father).zip(mother) {
                assert!((found - (0.75 * f + 0.25 * m)).abs() < 1e-5, "{name}");
            }
            blends += 1;
        }
    }
    assert!(copies >= 2 && blends > 8, "{copies} {blends}");
    let router = solved.manifest().find("layers.0.mlp.gate.weight");
    assert!(router.is_some(), "routers are solved by default");
}

#[test]
fn with_equal_weights_and_no_ridge_parents_can_be_swapped() {
    let pair = Pair::tiny();
    let settings = RegMean { ridge: 0.0, ..RegMean::default() };
    let swapped = Pair {
        father: Arc::clone(&pair.mother),
        mother: Arc::clone(&pair.father),
        items: [pair.items[1].clone(), pair.items[0].clone()],
    };
    let (one, other) =
        (pair.solved(&recipe(&settings, "")), swapped.solved(&recipe(&settings, "")));
    assert!(one.counts().solved > 40, "{:?}", one.counts());
    let (mut most, mut met) = (0.0_f32, 0);
    for ((name, one), (_, other)) in all(&one).into_iter().zip(all(&other)) {
        if name.contains(".experts.") {
            // those at the anchor are not symmetric: t is the mother's share
            continue;
        }
        let size = one.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        let off = one.iter().zip(&other).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        most = most.max(off / size);
        met += 1;
    }
    assert!(met > 20 && most < 1e-5, "{most}");
}

#[test]
fn too_few_tokens_leave_maps_at_the_anchor() {
    let father = tiny_qwen35(1);
    let mother = sibling(&father, "mother", 2, 0.05);
    let mut pair = Pair::of(father, mother, 1);
    pair.items.iter_mut().for_each(|items| items[0].prompt.truncate(6));
    let recipe = recipe(&RegMean::default(), "");
    let solved = pair.solved(&recipe);
    assert_eq!(solved.counts().solved, 0);
    for (name, found) in all(&solved) {
        let (father, mother) = (tensor(&*pair.father, &name), tensor(&*pair.mother, &name));
        for ((found, f), m) in found.iter().zip(father).zip(mother) {
            assert!((found - (0.75 * f + 0.25 * m)).abs() < 1e-6, "{name}");
        }
    }
}

/// Threads, where weights come from and where solved layers lie change no bit.
#[test]
fn every_way_gives_the_same_bits() {
    let moe = tiny_qwen3_moe(1);
    let dense_too = Pair::of(moe.clone(), sibling(&moe, "mother", 2, 0.05), 12);
    for pair in [Pair::tiny(), dense_too] {
        let recipe = recipe(&RegMean::default(), "");
        let wanted = all(&pair.solved(&recipe));
        let loaded = [&pair.father, &pair.mother].map(|source| Model::load(&**source).unwrap());
        let streams = [&pair.father, &pair.mother].map(|source| Stream::open(&**source).unwrap());
        for threads in [1, 2, 5] {
            let pool = rayon_pool(threads);
            let ways: [[&dyn LayerSource; 2]; 2] =
                [[&loaded[0], &loaded[1]], [&streams[0], &streams[1]]];
            for models in ways {
                let folder = tempfile::tempdir().unwrap();
                for at in [None, Some(folder.path())] {
                    let solved = pool.install(|| {
                        pair.solve_with(&recipe, models, at, &NoProgress, &Cancel::default())
                    });
                    let solved = solved.unwrap();
                    assert!(all(&solved) == wanted, "{threads} threads, {at:?}");
                }
            }
        }
    }
}

fn rayon_pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// Asks for the end when so many layers were begun.
struct StopAt(AtomicUsize, Cancel);

impl Progress for StopAt {
    fn start(&self, _: &str, _: u64, _: &str) {}
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.1.cancel();
        }
    }
    fn finish(&self) {}
}

/// Finished layers are used again by the same work alone, and where they are whole.
#[test]
fn an_interrupted_run_goes_on() {
    let pair = Pair::tiny();
    let recipe = recipe(&RegMean::default(), "");
    let wanted = all(&pair.solved(&recipe));
    let models = [&pair.father, &pair.mother].map(|source| Stream::open(&**source).unwrap());
    let models: [&dyn LayerSource; 2] = [&models[0], &models[1]];
    let folder = tempfile::tempdir().unwrap();
    let at = Some(folder.path());
    let cancel = Cancel::default();
    let stop = StopAt(AtomicUsize::new(3), cancel.clone());
    let stopped = pair.solve_with(&recipe, models, at, &stop, &cancel);
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);

    let go_on = |recipe: &Recipe| {
        pair.solve_with(recipe, models, at, &NoProgress, &Cancel::default()).unwrap()
    };
    let solved = go_on(&recipe);
    assert_eq!((solved.kept(), all(&solved) == wanted), (2, true));
    assert_eq!(go_on(&recipe).kept(), 4);

    let path = folder.path().join("layer-00001.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, &bytes).unwrap();
    let solved = go_on(&recipe);
    assert_eq!((solved.kept(), all(&solved) == wanted), (3, true), "a damaged layer is made anew");

    let other = recipe.with_regmean(RegMean { b: 0.5, ..RegMean::default() });
    assert_eq!(go_on(&other).kept(), 0, "other work");
}

/// In a blend of another method only the routers are solved.
#[test]
fn calibrated_routers_belong_to_any_blend() {
    let pair = Pair::tiny();
    let text = "merge_method: linear\nmodels: [{model: father}, {model: mother}]\nout_dtype: float32\n\
                darwin: {father: father, mother: mother, t: 0.3, router: [{layers: 1-2, from: calibrated}]}\n";
    let recipe = Recipe::parse(text).unwrap();
    let names: Vec<String> = all(&pair.solved(&recipe)).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["layers.1.mlp.gate.weight", "layers.2.mlp.gate.weight"]);
    let whole = self::recipe(&RegMean::default(), "");
    let child = pair.child(&recipe);
    for (name, found) in pair.child(&whole) {
        let same = child.iter().any(|(other, values)| *other == name && *values == found);
        assert!(same || !names.contains(&name), "{name}: the same system as RegMean's");
    }
}

#[test]
fn what_does_not_fit_is_a_sentence() {
    let pair = Pair::tiny();
    let recipe = recipe(&RegMean::default(), "");
    let merge = pair.merge(&recipe);
    assert!(!merge.is_solved());
    let id = merge.manifest().find("layers.0.mlp.gate.weight").unwrap();
    let error = merge.prepare(id).map(drop).unwrap_err();
    assert!(error.to_string().contains("layers.0.mlp.gate.weight"), "{error}");

    let small = Tiny { hidden: 16, ..Tiny::default() }.build("small", 3);
    let models = [Stream::open(&*pair.father).unwrap(), Stream::open(&small).unwrap()];
    let models: [&dyn LayerSource; 2] = [&models[0], &models[1]];
    let error = pair
        .solve_with(&recipe, models, None, &NoProgress, &Cancel::default())
        .map(drop)
        .unwrap_err();
    assert_eq!(error.to_string(), "the parents are of different sizes");

    let other = Arc::new(tiny_qwen3_moe(1));
    let error = merge.with_solved(other).map(drop).unwrap_err();
    assert!(error.to_string().contains("has no solved tensor"), "{error}");
}
