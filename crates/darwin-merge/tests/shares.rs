//! Shares per expert and per tensor (method 3.1): each expert as if it were merged alone, router rows
//! likewise, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
#[path = "common/experts.rs"]
mod experts;

use common::{layout, pair, write};
use darwin_checkpoint::{Checkpoint, MemorySource, TensorId, TensorSource, Unit, read_tensor};
use darwin_core::{Cancel, Density, NoProgress, Part, Share};
use darwin_merge::{
    Error, GroupShares, LayerSpec, METHODS, Merge, MergeOptions, Recipe, RecipeBuilder, RouterMode,
    Sources, merge_to,
};
use std::path::Path;
use std::sync::{Arc, LazyLock};

fn share(t: f64) -> Share {
    Share::new(t).unwrap()
}

fn groups(list: &[(&str, &[f64])]) -> GroupShares {
    let mut groups = GroupShares::new();
    for (tensor, shares) in list {
        groups.insert(*tensor, shares.iter().map(|t| share(*t)).collect());
    }
    groups
}

fn family(models: [(&str, MemorySource); 3]) -> Sources {
    let mut sources = Sources::new();
    for (name, model) in models {
        sources.insert(name, Arc::new(model));
    }
    sources
}

/// Father, mother and a base that is neither, made once.
fn trio() -> &'static Sources {
    static TRIO: LazyLock<Sources> = LazyLock::new(|| {
        let (father, mother) = pair();
        family([
            ("father", father),
            ("mother", mother),
            ("base", common::model("base", 5, 0.2, true)),
        ])
    });
    &TRIO
}

/// The same three on a disk, which give bytes, too.
fn trio_on_disk(folder: &Path) -> Sources {
    let (father, mother) = pair();
    let base = common::model("base", 5, 0.2, true);
    let mut sources = Sources::new();
    for (name, model) in [("father", father), ("mother", mother), ("base", base)] {
        let out = folder.join(name);
        write(&model, &layout(model.manifest(), "model.language_model.", false), &out);
        sources.insert(name, Arc::new(Checkpoint::open(&out).unwrap()));
    }
    sources
}

/// Bits of a tensor's values.
fn bits(merge: &Merge, name: &str) -> Vec<u32> {
    bits_both_ways(merge, name).0
}

/// Bits of a tensor's values, and whether they came as bytes, too: the same ones then.
fn bits_both_ways(merge: &Merge, name: &str) -> (Vec<u32>, bool) {
    let id: TensorId = merge.manifest().find(name).unwrap();
    let values = read_tensor(merge, id).unwrap();
    let plan = merge.prepare(id).unwrap();
    let mut bytes = vec![0; values.len() * plan.dtype.size()];
    let gives_bytes = merge.read_bytes(&plan, 0..plan.rows, &mut bytes).unwrap();
    if gives_bytes {
        let mut decoded = vec![0.0; values.len()];
        assert!(plan.dtype.decode(&bytes, &mut decoded));
        assert!(decoded.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
    }
    // A part that begins and ends within experts.
    let (first, last) = (plan.rows / 3, plan.rows - plan.rows / 5);
    let mut part = vec![0.0; (last - first) * plan.cols];
    merge.read_tile(&plan, first..last, &mut part).unwrap();
    assert_eq!(part, values[first * plan.cols..last * plan.cols], "{name}");
    (values.into_iter().map(f32::to_bits).collect(), gives_bytes)
}

/// Every blend that there is, as builders of recipes.
fn blends(base: Option<&str>, unit: Unit) -> Vec<(&'static str, RecipeBuilder)> {
    let of = |name: &'static str| {
        let mut builder = Recipe::blend(name, "father", "mother").unit(unit).seed(7);
        let thins = METHODS.iter().find(|m| m.name == name).unwrap().parameters.iter();
        if thins.clone().any(|p| p.name == "density") && name != "task_arithmetic" {
            builder = builder.density(Density::new(0.8).unwrap(), Density::new(0.6).unwrap());
        }
        match base.filter(|_| thins.clone().any(|p| p.name == "density")) {
            Some(base) => builder.base(base),
            None => builder,
        }
    };
    let names = METHODS.iter().filter(|method| method.takes_shares()).map(|method| method.name);
    names.map(|name| (name, of(name))).collect()
}

#[test]
fn each_expert_is_as_if_it_were_merged_alone() {
    const TENSORS: [&str; 3] = [
        "layers.0.mlp.experts.gate_up_proj",
        "layers.0.mlp.experts.down_proj",
        "layers.1.mlp.gate.weight",
    ];
    // Of several blocks of statistics, and slow to merge.
    const LARGE: &str = "layers.1.mlp.experts.down_proj";
    let dir = tempfile::tempdir().unwrap();
    let sources = trio_on_disk(dir.path());
    for base in [None, Some("base")] {
        for unit in [Unit::Tensor, Unit::Expert] {
            let several = base.is_some() && unit == Unit::Tensor;
            let tensors: Vec<&str> = TENSORS.into_iter().chain(several.then_some(LARGE)).collect();
            for (method, builder) in blends(base, unit) {
                let beyond = if method == "slerp" { 0.9 } else { -0.3 };
                let shares = [0.0, beyond, 1.0, 0.35];
                let build = |each: &[f64]| {
                    let list: Vec<_> = tensors.iter().map(|tensor| (*tensor, each)).collect();
                    let recipe = builder.clone().groups(groups(&list)).build().unwrap();
                    Merge::new(&recipe, &sources).unwrap()
                };
                let together = build(&shares);
                for (expert, t) in shares.into_iter().enumerate() {
                    let alone = build(&[t]);
                    for name in &tensors {
                        let (all, as_bytes) = bits_both_ways(&together, name);
                        let own = bits(&alone, name);
                        let whole_rows = method.starts_with("della") && !name.ends_with(".weight");
                        assert_eq!(as_bytes, !whole_rows, "{method} {name}");
                        let run = all.len() / shares.len();
                        let at = expert * run..(expert + 1) * run;
                        assert!(all[at.clone()] == own[at], "{method} {unit:?} {name} {expert}");
                    }
                }
            }
        }
    }
}

#[test]
fn whole_shares_are_the_parents() {
    let sources = trio();
    let (father, mother) = pair();
    let name = "layers.0.mlp.experts.down_proj";
    for (shares, action) in
        [([0.0; 4], "copy"), ([1.0; 4], "copy"), ([0.0, 1.0, 1.0, 0.0], "linear")]
    {
        let recipe = Recipe::blend("linear", "father", "mother").groups(groups(&[(name, &shares)]));
        let merge = Merge::new(&recipe.build().unwrap(), sources).unwrap();
        let found = bits(&merge, name);
        for (i, found) in found.iter().enumerate() {
            let parent = if shares[i * 4 / (4 * 96 * 128)] == 0.0 { &father } else { &mother };
            let id = parent.manifest().find(name).unwrap();
            assert_eq!(*found, parent.values(id)[i].to_bits());
        }
        let line = merge.plan().describe().into_iter().find(|line| line.contains(name)).unwrap();
        assert!(line.starts_with(action), "{line}");
    }
}

#[test]
fn shares_reach_beyond_the_parents() {
    let sources = trio();
    let (father, mother) = pair();
    let name = "layers.0.linear_attn.A_log";
    for t in [-0.5, 1.5] {
        let recipe = Recipe::blend("linear", "father", "mother").default_share(share(t));
        let recipe = recipe.build().unwrap();
        assert_eq!(Recipe::parse(&recipe.to_yaml()).unwrap(), recipe);
        let merge = Merge::new(&recipe, sources).unwrap();
        let of = |model: &MemorySource| model.values(model.manifest().find(name).unwrap()).to_vec();
        let id = merge.manifest().find(name).unwrap();
        for ((c, f), m) in read_tensor(&merge, id).unwrap().iter().zip(of(&father)).zip(of(&mother))
        {
            let wanted = f64::from(f) + t * (f64::from(m) - f64::from(f));
            assert!((f64::from(*c) - wanted).abs() < 1e-6, "{c} {wanted}");
        }
    }
}

#[test]
fn a_scale_is_a_factor_of_both_task_vectors() {
    let sources = trio();
    for (t, s) in [(0.3, 1.6), (0.0, 0.5), (1.0, 2.0), (-0.25, 1.25)] {
        let scaled = Recipe::blend("task_arithmetic", "father", "mother")
            .base("base")
            .default_share(share(t))
            .router(LayerSpec::all(), RouterMode::Blend)
            .scale(s)
            .build()
            .unwrap();
        assert_eq!(Recipe::parse(&scaled.to_yaml()).unwrap(), scaled);
        let plain = format!(
            "merge_method: task_arithmetic\nbase_model: base\nmodels:\n  - {{model: father, \
             parameters: {{weight: {:?}}}}}\n  - {{model: mother, parameters: {{weight: {:?}}}}}\n\
             darwin: {{structure: father}}\n",
            s * (1.0 - t),
            s * t
        );
        let plain = Merge::new(&Recipe::parse(&plain).unwrap(), sources).unwrap();
        let scaled = Merge::new(&scaled, sources).unwrap();
        let of_text = scaled.manifest().tensors().iter().filter(|info| info.part().is_some());
        let mut compared = 0;
        for info in of_text {
            assert!(bits(&scaled, &info.name) == bits(&plain, &info.name), "{t} {s} {}", info.name);
            compared += 1;
        }
        assert!(compared > 20);
    }
    // Sparsified methods scale, too: the sum of a weighted vector is linear in its weight.
    let dare = |s: Option<f64>| {
        let builder = Recipe::blend("dare_linear", "father", "mother").base("base");
        let builder = builder.density(Density::new(0.7).unwrap(), Density::new(0.7).unwrap());
        let recipe = s.into_iter().fold(builder, RecipeBuilder::scale).build().unwrap();
        Merge::new(&recipe, sources).unwrap()
    };
    let (one, two, plain) = (dare(Some(1.0)), dare(Some(2.0)), dare(None));
    let name = "layers.0.mlp.experts.gate_up_proj";
    assert!(bits(&one, name) == bits(&plain, name));
    assert!(bits(&two, name) != bits(&plain, name));
}

const LIST: &str = "merge_method: linear\nmodels: [{model: father}, {model: mother}]\ndarwin:\n  \
    father: father\n  mother: mother\n  router: row_with_expert\n  t:\n    default: 0.1\n    \
    components: {routed: 0.2, lm_head: 0.0, norm: 0.3, embed: 0.4}\n    layers:\n      - {layers: \
    \"1-2\", experts: [{experts: \"0,last\", t: 0.9}, {experts: 0-1, t: 0.7}]}\n    groups:\n      \
    layers.2.mlp.experts.down_proj: [0.0, 0.5, 1.0, 0.25]\n      layers.3.mlp.gate.weight: [1, 0, \
    0.5, -0.5]\n      layers.3.mlp.gate.e_score_correction_bias: 1.25\n";

/// The shares in a plan's line: one, or (mean, least, most, number).
fn shares_of(merge: &Merge, name: &str) -> Vec<f64> {
    let manifest = merge.plan().manifest();
    let line = manifest.tensors.iter().find(|line| line.tensor == name).unwrap();
    let keys = ["t", "t_mean", "t_min", "t_max", "t_shares"];
    keys.iter().filter_map(|key| line.parameters.get(*key)?.value.as_f64()).collect()
}

#[test]
fn the_most_precise_rule_gives_the_share() {
    let mut sources = Sources::new();
    sources.insert("father", Arc::new(experts::model(0, 0.0, 4)));
    sources.insert("mother", Arc::new(experts::model(1, 0.5, 4)));
    let recipe = Recipe::parse(LIST).unwrap();
    assert_eq!(Recipe::parse(&recipe.to_yaml()).unwrap(), recipe);
    let merge = Merge::new(&recipe, &sources).unwrap();
    for (name, wanted) in [
        ("embed_tokens.weight", vec![0.4]),
        ("norm.weight", vec![0.3]),
        ("lm_head.weight", vec![]),
        ("layers.0.input_layernorm.weight", vec![0.1]),
        ("layers.0.mlp.experts.down_proj", vec![0.2]),
        ("layers.0.mlp.gate.weight", vec![0.2]),
        ("layers.1.mlp.experts.gate_up_proj", vec![0.675, 0.2, 0.9, 4.0]),
        ("layers.1.mlp.gate.weight", vec![0.675, 0.2, 0.9, 4.0]),
        ("layers.2.mlp.experts.down_proj", vec![0.4375, 0.0, 1.0, 4.0]),
        // half of the list's shares, half of the group's
        ("layers.2.mlp.gate.weight", vec![0.55625, 0.45, 0.6, 4.0]),
        ("layers.3.mlp.gate.weight", vec![0.25, -0.5, 1.0, 4.0]),
        ("layers.3.mlp.gate.e_score_correction_bias", vec![1.25]),
    ] {
        let found = shares_of(&merge, name);
        let near = found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-12);
        let copied = name == "lm_head.weight" && found == [0.0];
        assert!(near && found.len() == wanted.len() || copied, "{name}: {found:?}");
    }
    let value = |model: &dyn TensorSource, name: &str, at: usize| {
        read_tensor(model, model.manifest().find(name).unwrap()).unwrap()[at]
    };
    let (father, mother) = (experts::model(0, 0.0, 4), experts::model(1, 0.5, 4));
    // Biases have an element an expert.
    for (expert, t) in [0.9, 0.7, 0.2, 0.9].into_iter().enumerate() {
        let name = "layers.1.mlp.gate.e_score_correction_bias";
        let (f, m) = (value(&father, name, expert), value(&mother, name, expert));
        let wanted = f64::from(f) + t * (f64::from(m) - f64::from(f));
        assert!((f64::from(value(&merge, name, expert)) - wanted).abs() < 1e-6);
    }
    let lines: Vec<String> =
        recipe.describe().into_iter().map(|(what, value)| format!("{what}: {value}")).collect();
    for wanted in [
        "components: embed 0.4, routed 0.2, norm 0.3, lm_head 0",
        "  layers 1-2: experts 0,last 0.9, experts 0-1 0.7",
        "groups: 9 shares for 3 tensors; mean (least to most) by part",
        "  layer 2: routed 0.438 (0.000 to 1.000, 4 shares)",
        "  layer 3: router 0.450 (-0.500 to 1.250, 5 shares)",
    ] {
        let wanted = wanted.replace("; experts", ", experts");
        let found = lines.iter().any(|line| line.replace("; experts", ", experts") == wanted);
        assert!(found, "{wanted}\n{}", lines.join("\n"));
    }
}

fn sentence(error: &Error) -> String {
    let hint = darwin_core::Diagnose::hint(error).unwrap_or_default();
    format!("{error}\nhint: {hint}")
}

fn planned(builder: RecipeBuilder) -> String {
    match builder.build().and_then(|recipe| Merge::new(&recipe, trio()).map(drop)) {
        Ok(()) => "planned".to_owned(),
        Err(error) => sentence(&error),
    }
}

#[test]
fn groups_that_do_not_fit_are_named() {
    let blend = || Recipe::blend("linear", "father", "mother");
    let with = |tensor: &str, shares: &[f64]| planned(blend().groups(groups(&[(tensor, shares)])));
    for (tensor, shares, wanted) in [
        (
            "layers.0.mlp.experts.down_prj",
            &[0.5][..],
            "which the child does not have\nhint: did you mean `layers.0.mlp.experts.down_proj`?",
        ),
        (
            "model.layers.1.mlp.gate.weight",
            &[0.5],
            "which the child does not have\nhint: did you mean `layers.1.mlp.gate.weight`?",
        ),
        (
            "layers.0.mlp.experts.down_proj",
            &[0.1, 0.2, 0.3],
            "gives `layers.0.mlp.experts.down_proj` 3 shares, it takes 1 or 4, one for each expert",
        ),
        ("lm_head.weight", &[0.1, 0.2], "gives `lm_head.weight` 2 shares, it takes 1\n"),
        ("mtp.fc.weight", &[0.1], "`mtp.fc.weight`, which is never blended"),
        ("visual.patch_embed.proj.weight", &[0.1], "which is never blended"),
        ("norm.weight", &[], "has no share for `norm.weight`"),
    ] {
        let found = with(tensor, shares);
        assert!(found.contains(wanted), "{found}");
    }
    let many: Vec<String> = (0..50).map(|i| format!("layers.{i}.nothing")).collect();
    let list: Vec<(&str, &[f64])> = many.iter().map(|name| (name.as_str(), &[0.5][..])).collect();
    let found = planned(blend().groups(groups(&list)));
    assert!(found.contains("names 30 more tensors"), "{found}");
    let copied = "merge_method: linear\nmodels: [{model: father}, {model: mother}]\ndarwin: {father: \
        father, mother: mother, copy: [{filter: norm.weight, from: mother}], t: {default: 0.5, \
        groups: {norm.weight: 0.2}}}\n";
    let error = Merge::new(&Recipe::parse(copied).unwrap(), trio()).err().unwrap();
    assert!(sentence(&error).contains("is copied by `darwin.copy`"), "{error}");
    let numerics = blend().numerics(darwin_merge::Numerics::Mergekit);
    let each = groups(&[("layers.0.mlp.experts.down_proj", &[0.1, 0.2, 0.3, 0.4])]);
    let found = planned(numerics.groups(each));
    assert!(found.contains("not computed in mergekit's numerics"), "{found}");
}

#[test]
fn experts_that_are_not_there_are_named() {
    let recipe = |layers: &str, list: &str| {
        let text = format!(
            "merge_method: linear\nmodels: [{{model: father}}, {{model: mother}}]\ndarwin: {{father: \
             father, mother: mother, t: {{default: 0.5, layers: [{{layers: {layers}, experts: \
             {list}}}]}}}}\n"
        );
        match Recipe::parse(&text).and_then(|recipe| Merge::new(&recipe, trio()).map(drop)) {
            Ok(()) => "planned".to_owned(),
            Err(error) => sentence(&error),
        }
    };
    assert_eq!(recipe("all", "[{experts: \"0-1,last\", t: 0.9}]"), "planned");
    for (list, wanted) in [
        ("[{experts: 2-4, t: 0.9}]", "names expert 4 of layer 0, which has 4 experts"),
        ("[{experts: x, t: 0.9}]", "`experts` is `x`"),
        ("[{experts: 1}]", "this entry needs `experts` and `t`"),
        ("[{experts: 1, t: 1.6}]", "`t` is `1.6`, allowed is a share from -0.5 to 1.5"),
        ("7", "`experts` is `7`, allowed is a list"),
    ] {
        let found = recipe("all", list);
        assert!(found.contains(wanted), "{found}");
    }
}

#[test]
fn ranges_and_scales_that_mean_nothing_are_refused() {
    let beyond = |method: &str| Recipe::blend(method, "father", "mother").default_share(share(1.2));
    let found = planned(beyond("slerp"));
    assert!(found.contains("a share is 1.2, `slerp` takes shares from 0 to 1"), "{found}");
    let found = planned(beyond("linear").blocks(darwin_merge::Blocks::Compose));
    assert!(found.contains("`blocks: compose` takes shares from 0 to 1"), "{found}");
    for method in ["linear", "task_arithmetic", "ties", "dare_ties", "dare_linear", "della"] {
        assert_eq!(planned(beyond(method)), "planned", "{method}");
    }
    let scaled = |method: &str, base: Option<&str>, scale: f64| {
        let builder = Recipe::blend(method, "father", "mother").scale(scale);
        planned(match base {
            Some(base) => builder.base(base),
            None => builder,
        })
    };
    assert_eq!(scaled("dare_ties", Some("base"), 1.5), "planned");
    for (method, base, scale, wanted) in [
        ("linear", None, 1.5, "`darwin.t.scale` has no effect with `linear`"),
        ("dare_ties", None, 1.5, "with the base `father`, which is a parent"),
        ("ties", Some("mother"), 1.5, "with the base `mother`, which is a parent"),
        ("ties", Some("base"), -1.0, "`scale` is -1, allowed is a number from 0 to 10"),
        ("ties", Some("base"), f64::NAN, "`scale` is NaN"),
    ] {
        let found = scaled(method, base, scale);
        assert!(found.contains(wanted), "{found}");
    }
}

/// Shares for all experts of four layers with 64 experts: 512 and one more.
fn many() -> GroupShares {
    let mut groups = groups(&[("lm_head.weight", &[0.0])]);
    for layer in 0..4 {
        for (m, matrix) in ["gate_up_proj", "down_proj"].into_iter().enumerate() {
            let t = |expert: usize| share((expert + layer + m) as f64 / 3.0 % 2.0 - 0.5);
            let name = format!("layers.{layer}.mlp.experts.{matrix}");
            groups.insert(name, (0..64).map(t).collect());
        }
    }
    groups
}

fn family_on_disk(folder: &Path) -> [String; 2] {
    [("father", 0, 0.0), ("mother", 1, 0.5)].map(|(name, seed, drift)| {
        let model = experts::model(seed, drift, 64);
        write(
            &model,
            &layout(model.manifest(), "model.language_model.", false),
            &folder.join(name),
        );
        folder.join(name).display().to_string()
    })
}

#[test]
fn a_file_of_shares_is_the_recipe_that_has_them_inside() {
    let dir = tempfile::tempdir().unwrap();
    let [father, mother] = family_on_disk(dir.path());
    let recipe = Recipe::blend("linear", father, mother)
        .default_share(share(0.4))
        .component(Part::Mixer, share(0.3))
        .groups(many())
        .build()
        .unwrap();
    let inside = Recipe::parse(&recipe.to_yaml()).unwrap();
    let path = dir.path().join("recipe.yaml");
    recipe.save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("    groups: shares.safetensors\n") && text.len() < 1000, "{text}");
    let apart = Recipe::load(&path).unwrap();
    for other in [&inside, &apart] {
        assert_eq!(*other, recipe);
        assert_eq!(other.groups(), Some(&many()));
        assert_eq!(other.logical_yaml(), recipe.logical_yaml());
    }
    let mut changed = many();
    changed.insert("lm_head.weight", vec![share(1e-9)]);
    let other = Recipe::blend("linear", "father", "mother").groups(changed).build().unwrap();
    let same = Recipe::blend("linear", "father", "mother").groups(many()).build().unwrap();
    assert_ne!(other.logical_yaml(), same.logical_yaml());
    // 12 shares stay inside.
    let few = dir.path().join("few.yaml");
    let small = groups(&[("layers.0.mlp.gate.weight", &[0.1; 12])]);
    let small = Recipe::blend("linear", "f", "m").groups(small).build().unwrap();
    small.save(&few).unwrap();
    assert!(std::fs::read_to_string(&few).unwrap().contains("0.1, 0.1"));
    assert_eq!(Recipe::load(&few).unwrap(), small);
}

#[test]
fn the_childs_own_recipe_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let [father, mother] = family_on_disk(dir.path());
    let recipe = Recipe::blend("linear", father, mother).groups(many()).build().unwrap();
    let path = dir.path().join("recipe.yaml");
    recipe.save(&path).unwrap();
    let child = |recipe: &Recipe, out: &str| {
        let sources = Sources::open(recipe).unwrap();
        let merge = Merge::new(recipe, &sources).unwrap();
        let options = MergeOptions {
            max_shard_bytes: 1 << 30,
            memory: 1 << 24,
            documents: Vec::new(),
            progress: &NoProgress,
            cancel: &Cancel::default(),
        };
        let out = dir.path().join(out);
        merge_to(&merge, &out, &options).unwrap();
        out
    };
    let one = child(&Recipe::load(&path).unwrap(), "one");
    let kept = Recipe::load(&one.join("mergekit_config.yml")).unwrap();
    assert_eq!(kept, recipe);
    let names: Vec<String> = std::fs::read_dir(&one)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    let weights = |name: &&String| name.ends_with(".safetensors");
    assert_eq!(names.iter().filter(weights).count(), 1, "a loader sees weights alone: {names:?}");
    let sources = Sources::open(&recipe).unwrap();
    let merge = Merge::new(&recipe, &sources).unwrap();
    let written = Checkpoint::open(&one).unwrap();
    for (tensor, shares) in many().iter() {
        let id = written.manifest().find(tensor).unwrap();
        let stored = read_tensor(&written, id).unwrap();
        let planned = bits(&merge, tensor);
        assert!(stored.iter().map(|v| v.to_bits()).eq(planned), "{tensor}, {}", shares.len());
    }
    let two = child(&kept, "two");
    assert_eq!(common::bytes(&one), common::bytes(&two));
    // The child is a parent like any other: its file of shares is nobody's side file.
    let side = Checkpoint::open(&one).unwrap().side_files().unwrap();
    assert!(side.left_out.is_empty(), "{:?}", side.left_out);
}

#[test]
fn files_of_shares_lie_beside_the_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.yaml");
    let refused = |groups: &str| {
        let text = format!(
            "merge_method: linear\nmodels: [{{model: father}}, {{model: mother}}]\ndarwin: {{father: \
             father, mother: mother, t: {{default: 0.5, groups: {groups}}}}}\n"
        );
        darwin_core::fs::write_atomic(&path, text.as_bytes()).unwrap();
        sentence(&Recipe::load(&path).unwrap_err())
    };
    for (groups, wanted) in [
        ("../shares.safetensors", "`groups` is `../shares.safetensors`, allowed are tensors"),
        ("/etc/passwd", "`groups` is `/etc/passwd`"),
        ("shares.safetensors", "shares.safetensors"),
        ("recipe.yaml", "is not a safetensors file"),
        ("{norm.weight: []}", "`norm.weight` has an empty list of shares"),
        ("{norm.weight: 2}", "`norm.weight` is `2`, allowed is a share from -0.5 to 1.5"),
        ("{norm.weight: [0.5, .nan]}", "`norm.weight` is"),
        ("[0.5]", "`groups` is a list"),
    ] {
        let found = refused(groups);
        assert!(found.contains(wanted) && found.contains("recipe.yaml:3:"), "{groups}: {found}");
    }
}
