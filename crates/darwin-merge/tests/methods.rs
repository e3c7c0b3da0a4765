//! What every method beyond the classic seven must do: with the same models, with models in
//! another order, tile by tile, by several threads, expert by expert; and what it refuses.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use common::{bytes, layout, model, write};
use darwin_checkpoint::{Checkpoint, MemorySource, TensorSource, read_tensor};
use darwin_core::{Cancel, Diagnose, NoProgress};
use darwin_merge::{METHODS, Merge, MergeOptions, Recipe, Sources, merge_to};
use std::path::Path;
use std::sync::Arc;

/// Method and its recipe for the models a, b and the base; `{}` stands for what is added.
const RECIPES: [(&str, &str, &str); 17] = [
    ("breadcrumbs", THINNED, "{density: 0.6, gamma: 0.1}"),
    ("breadcrumbs_ties", THINNED, "{density: 0.6, rescale: true}"),
    ("della", THINNED, "{density: 0.6}"),
    ("della_linear", THINNED, "{density: 0.6, epsilon: 0.3}"),
    ("model_stock", PLAIN, "{}"),
    ("model_stock", PLAIN, "{filter_wise: true}"),
    ("nuslerp", THINNED, "{}"),
    ("nuslerp", THINNED, "{nuslerp_flatten: false}"),
    ("multislerp", THINNED, "{}"),
    ("karcher", PLAIN, "{}"),
    ("sce", PLAIN, "{}"),
    ("sce", PLAIN, "{select_topk: 0.3}"),
    ("nearswap", ONE, "{t: 0.01}"),
    ("ram", PLAIN, "{}"),
    ("ram", PLAIN, "{epsilon: 0.05}"),
    ("ramplus_tl", PLAIN, "{epsilon: 0.05}"),
    ("arcee_fusion", ONE, "{}"),
];
const THINNED: &str =
    "[{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]";
const PLAIN: &str = "[{model: a}, {model: b}]";
const ONE: &str = "[{model: a}]";

/// Tensors of every kind; the last has several blocks of statistics.
const TENSORS: [&str; 6] = [
    "norm.weight",
    "layers.0.linear_attn.A_log",
    "layers.0.linear_attn.conv1d.weight",
    "layers.1.self_attn.q_proj.weight",
    "layers.0.mlp.experts.gate_up_proj",
    "layers.1.mlp.experts.down_proj",
];

fn text(method: &str, models: &str, parameters: &str, more: &str) -> String {
    format!(
        "merge_method: {method}\nbase_model: base\nmodels: {models}\nparameters: {parameters}\n{more}\n"
    )
}

fn recipes(more: &str) -> impl Iterator<Item = Recipe> {
    RECIPES.iter().map(move |(method, models, parameters)| {
        Recipe::parse(&text(method, models, parameters, more)).unwrap()
    })
}

fn sources(base: &MemorySource, a: &MemorySource, b: &MemorySource) -> Sources {
    let mut sources = Sources::new();
    for (name, source) in [("base", base), ("a", a), ("b", b)] {
        sources.insert(name, Arc::new(source.clone()));
    }
    sources
}

fn three() -> [MemorySource; 3] {
    [model("base", 0, 0.0, false), model("a", 1, 0.3, false), model("b", 2, 0.2, false)]
}

fn values(recipe: &Recipe, sources: &Sources, tensor: &str) -> Vec<f32> {
    let merge = Merge::new(recipe, sources).unwrap();
    let id = merge.manifest().find(tensor).unwrap();
    read_tensor(&merge, id).unwrap()
}

fn of<'a>(source: &'a MemorySource, tensor: &str) -> &'a [f32] {
    source.values(source.manifest().find(tensor).unwrap())
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn every_method_is_tested() {
    let classic = METHODS.iter().take(7).map(|method| method.name);
    let tested: Vec<&str> = classic.chain(RECIPES.iter().map(|(name, ..)| *name)).collect();
    // what needs activations is tested where they are: darwin-regmean
    for method in METHODS.iter().filter(|method| !method.needs_activations()) {
        assert!(tested.contains(&method.name), "{}", method.name);
    }
}

#[test]
fn identical_models_give_the_model_back() {
    let [_, a, _] = three();
    let sources = sources(&a, &a, &a);
    for recipe in recipes("") {
        for tensor in TENSORS {
            let found = values(&recipe, &sources, tensor);
            assert!(same(&found, of(&a, tensor)), "{} {tensor}", recipe.method().name);
        }
    }
}

#[test]
fn where_models_agree_against_the_base_the_child_is_theirs() {
    let [base, a, _] = three();
    let sources = sources(&base, &a, &a);
    let agree = ["model_stock", "nuslerp", "multislerp", "sce"];
    for recipe in recipes("").filter(|recipe| agree.contains(&recipe.method().name)) {
        if recipe.to_yaml().contains("select_topk") {
            continue; // nothing varies, so nothing is selected
        }
        for tensor in TENSORS {
            let found = values(&recipe, &sources, tensor);
            assert!(same(&found, of(&a, tensor)), "{} {tensor}", recipe.method().name);
        }
    }
}

#[test]
fn the_order_of_models_does_not_matter() {
    let [base, a, b] = three();
    let (ab, ba) = (sources(&base, &a, &b), sources(&base, &b, &a));
    // DELLA's masks are keyed by the position.
    let symmetric = |name: &str| !name.starts_with("della") && name != "nearswap";
    for recipe in recipes("out_dtype: float32").filter(|r| symmetric(r.method().name)) {
        if recipe.method().name == "arcee_fusion" {
            continue;
        }
        for tensor in TENSORS {
            let (x, y) = (values(&recipe, &ab, tensor), values(&recipe, &ba, tensor));
            let worst = x.iter().zip(&y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-6, "{} {tensor}: {worst}", recipe.method().name);
        }
    }
}

#[test]
fn tiles_and_threads_do_not_matter() {
    let [base, a, b] = three();
    let sources = sources(&base, &a, &b);
    for unit in ["tensor", "expert"] {
        for recipe in recipes(&format!("darwin: {{unit: {unit}}}")) {
            for tensor in [TENSORS[2], TENSORS[5]] {
                let whole = values(&recipe, &sources, tensor);
                let merge = Merge::new(&recipe, &sources).unwrap();
                let id = merge.manifest().find(tensor).unwrap();
                let plans: Vec<_> = std::thread::scope(|scope| {
                    let each = || scope.spawn(|| merge.prepare(id).unwrap());
                    let threads: Vec<_> = (0..3).map(|_| each()).collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
                });
                let plan = &plans[2];
                let mut out = vec![0.0; whole.len()];
                let mut row = 0;
                for (at, rows) in [1, 7, 150].into_iter().cycle().enumerate() {
                    let end = (row + rows + at % 2).min(plan.rows);
                    let part = row * plan.cols..end * plan.cols;
                    merge.read_tile(plan, row..end, &mut out[part]).unwrap();
                    row = end;
                    if row == plan.rows {
                        break;
                    }
                }
                assert!(same(&whole, &out), "{} {tensor} {unit}", recipe.method().name);
            }
        }
    }
}

#[test]
fn bytes_do_not_depend_on_threads_shards_or_layout() {
    let dir = tempfile::tempdir().unwrap();
    for (folder, per_expert) in [("fused", false), ("single", true)] {
        for source in three() {
            let layout = layout(source.manifest(), "model.", per_expert && source.name() != "base");
            write(&source, &layout, &dir.path().join(folder).join(source.name()));
        }
    }
    for recipe in recipes("darwin: {seed: 3}") {
        let mut expected = None;
        for (threads, shard, folder) in [(1, u64::MAX, "fused"), (3, 300_000, "single")] {
            let out = dir.path().join("out");
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| write_merge(&recipe, &dir.path().join(folder), &out, shard));
            let found = bytes(&out);
            std::fs::remove_dir_all(&out).unwrap();
            let expected = expected.get_or_insert_with(|| found.clone());
            assert!(*expected == found, "{} by {threads} threads", recipe.method().name);
        }
    }
}

fn write_merge(recipe: &Recipe, folder: &Path, out: &Path, shard: u64) {
    let mut sources = Sources::new();
    for model in ["base", "a", "b"] {
        sources.insert_checkpoint(model, Arc::new(Checkpoint::open(folder.join(model)).unwrap()));
    }
    let options = MergeOptions {
        max_shard_bytes: shard,
        memory: 1 << 20,
        documents: Vec::new(),
        progress: &NoProgress,
        cancel: &Cancel::default(),
    };
    merge_to(&Merge::new(recipe, &sources).unwrap(), out, &options).unwrap();
}

#[test]
fn an_experts_child_does_not_look_at_the_other_experts() {
    let tensor = TENSORS[4];
    let [base, a, b] = three();
    let louder = {
        let tensors = a.manifest().ids().zip(a.manifest().tensors()).map(|(id, info)| {
            let mut values = a.values(id).to_vec();
            if info.name == tensor {
                let quarter = values.len() / 4;
                values[quarter..].iter_mut().for_each(|v| *v *= 2.0);
            }
            (info.name.clone(), info.dtype, info.shape.clone(), values)
        });
        MemorySource::new("a", a.config().clone(), tensors.collect()).unwrap()
    };
    let (plain, loud) = (sources(&base, &a, &b), sources(&base, &louder, &b));
    for recipe in recipes("darwin: {unit: expert}") {
        let (x, y) = (values(&recipe, &plain, tensor), values(&recipe, &loud, tensor));
        let quarter = x.len() / 4;
        let name = recipe.method().name;
        assert!(same(&x[..quarter], &y[..quarter]), "{name}");
        assert!(!same(&x[quarter..], &y[quarter..]), "{name}");
    }
}

#[test]
fn breadcrumbs_keep_what_they_say() {
    let [base, a, b] = three();
    let models = "[{model: a, parameters: {weight: 1.0, density: 0.3, gamma: 0.2}}]";
    let recipe = Recipe::parse(&text("breadcrumbs", models, "{}", "out_dtype: float32")).unwrap();
    let sources = sources(&base, &a, &b);
    let tensor = TENSORS[3];
    let found = values(&recipe, &sources, tensor);
    let (base, a) = (of(&base, tensor), of(&a, tensor));
    let mut deltas: Vec<f32> = a.iter().zip(base).map(|(a, base)| (a - base).abs()).collect();
    let n = deltas.len();
    let kept: Vec<f32> = (0..n).filter(|i| found[*i] != base[*i]).map(|i| deltas[i]).collect();
    deltas.sort_by(|a, b| b.total_cmp(a));
    let (outliers, wanted) = (n / 5, n * 3 / 10);
    assert_eq!(kept.len(), wanted);
    assert!(kept.iter().all(|d| *d <= deltas[outliers] && *d >= deltas[outliers + wanted - 1]));
}

#[test]
fn della_keeps_its_density_and_prefers_large_elements() {
    let [base, a, b] = three();
    let models = "[{model: a, parameters: {weight: 1.0, density: 0.5, epsilon: 0.4}}]";
    let more = "out_dtype: float32";
    let recipe = Recipe::parse(&text("della_linear", models, "{rescale: false}", more)).unwrap();
    let tensor = TENSORS[5];
    let found = values(&recipe, &sources(&base, &a, &b), tensor);
    let cols = 2048;
    let (base, a) = (of(&base, tensor), of(&a, tensor));
    let (mut kept, mut large, mut small) = (0, 0, 0);
    for (row, found) in found.chunks(cols).enumerate() {
        let delta = |i: usize| (a[row * cols + i] - base[row * cols + i]).abs();
        let mut order: Vec<usize> = (0..cols).filter(|i| delta(*i) > 0.0).collect();
        order.sort_by(|i, j| delta(*i).total_cmp(&delta(*j)));
        let stays = |i: &&usize| found[**i] != base[row * cols + **i];
        kept += order.iter().filter(stays).count();
        small += order[..order.len() / 4].iter().filter(stays).count();
        large += order[order.len() * 3 / 4..].iter().filter(stays).count();
    }
    let share = |kept: usize, of: f64| kept as f64 / of;
    let n = found.len() as f64;
    assert!((share(kept, n) - 0.5).abs() < 0.01, "{}", share(kept, n));
    assert!((share(small, n / 4.0) - 0.2).abs() < 0.01, "{}", share(small, n / 4.0));
    assert!((share(large, n / 4.0) - 0.8).abs() < 0.01, "{}", share(large, n / 4.0));
}

/// mergekit stops at convolutions of shape `[C, 1, k]`, where it ranks along the second dimension
/// (mergekit 0.1.5, `sparsify.py`); here every row of `k` elements is ranked.
#[test]
fn della_thins_convolutions() {
    let [base, a, b] = three();
    let models = "[{model: a, parameters: {weight: 1.0, density: 0.5, epsilon: 0.4}}]";
    let more = "out_dtype: float32";
    let recipe = Recipe::parse(&text("della_linear", models, "{rescale: false}", more)).unwrap();
    let tensor = TENSORS[2];
    let found = values(&recipe, &sources(&base, &a, &b), tensor);
    let kept = found.iter().zip(of(&base, tensor)).filter(|(x, base)| x != base).count();
    assert_eq!(found.len(), 96);
    assert!((30..66).contains(&kept), "{kept} of 96 stay");
}

/// mergekit writes float32 for bfloat16 models (mergekit 0.1.5, `arcee_fusion.py`), against its own config.json.
#[test]
fn bfloat16_stays_bfloat16() {
    let [base, a, b] = three();
    let sources = sources(&base, &a, &b);
    for recipe in recipes("") {
        let merge = Merge::new(&recipe, &sources).unwrap();
        for (child, parent) in merge.manifest().tensors().iter().zip(base.manifest().tensors()) {
            assert_eq!(child.dtype, parent.dtype, "{} {}", recipe.method().name, child.name);
        }
    }
}

/// Directions that are opposite but for rounding: mergekit divides by about 0
/// (mergekit 0.1.5, `nuslerp.py`).
#[test]
fn opposite_models_have_a_finite_mean() {
    let [_, a, _] = three();
    let times = |name: &str, factor: f32| {
        let tensors = a.manifest().ids().zip(a.manifest().tensors()).map(|(id, info)| {
            let values = a.values(id).iter().map(|v| v * factor).collect();
            (info.name.clone(), info.dtype, info.shape.clone(), values)
        });
        MemorySource::new(name, a.config().clone(), tensors.collect()).unwrap()
    };
    let (minus, half) = (times("b", -1.0), times("base", 0.5));
    let sources = sources(&half, &a, &minus);
    for (method, models) in [("karcher", PLAIN), ("multislerp", THINNED), ("nuslerp", THINNED)] {
        let recipe = Recipe::parse(&text(method, models, "{}", "")).unwrap();
        for tensor in TENSORS {
            let largest = of(&a, tensor).iter().map(|v| v.abs()).fold(0.0, f32::max);
            let found = values(&recipe, &sources, tensor);
            assert!(found.iter().all(|v| v.abs() <= 1.01 * largest), "{method} {tensor}");
        }
    }
}

fn refusal(text: &str, sources: &Sources) -> String {
    let error = Recipe::parse(text)
        .and_then(|recipe| Merge::new(&recipe, sources).map(|_| ()))
        .unwrap_err();
    let found = error.to_string();
    let first = found.lines().next().unwrap().to_owned();
    error.hint().map_or(first.clone(), |hint| format!("{first}\n  hint: {hint}"))
}

#[test]
fn what_does_not_fit_is_refused() {
    let cases = [
        text("model_stock", ONE, "{}", ""),
        text("nearswap", PLAIN, "{t: 0.1}", ""),
        text("arcee_fusion", PLAIN, "{}", ""),
        "merge_method: ram\nmodels: [{model: a}, {model: b}]\n".to_owned(),
        text("ram", "[{model: a, parameters: {epsilon: 0.1}}, {model: b}]", "{}", ""),
        text("della", THINNED, "{density: 0.9}", ""),
        text("nuslerp", THINNED, "{nuslerp_flatten: false, nuslerp_row_wise: true}", ""),
        text("karcher", PLAIN, "{}", "darwin: {numerics: mergekit}"),
        text("karcher", PLAIN, "{max_iter: 2.5}", ""),
        text("della", THINNED, "{density: 0.6}", "darwin: {numerics: mergekit}"),
        text("sce", PLAIN, "{}", "darwin: {father: a, mother: b, t: {default: 0.5}}"),
    ];
    let [base, a, b] = three();
    let sources = sources(&base, &a, &b);
    let found: Vec<String> = cases.iter().map(|case| refusal(case, &sources)).collect();
    insta::assert_snapshot!("methods_refused", found.join("\n"));
}
