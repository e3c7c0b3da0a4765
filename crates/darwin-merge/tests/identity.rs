//! What a merge is made from is known by content: weights, config and tokenizer, wherever they lie.

#![allow(clippy::unwrap_used, reason = "tests may be plain")]

use darwin_checkpoint::HashCache;
use darwin_core::{Cancel, Fingerprint, NoProgress};
use darwin_merge::{Merge, Recipe, Sources};
use std::path::{Path, PathBuf};

fn parent(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/parents").join(name)
}

/// A copy of an example parent under another name.
fn copy(name: &str, to: &Path) -> PathBuf {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(parent(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    to.to_owned()
}

fn recipe(father: &Path, mother: &Path) -> Recipe {
    let name = |path: &Path| path.display().to_string();
    Recipe::blend("linear", name(father), name(mother)).build().unwrap()
}

fn identified(recipe: &Recipe) -> Sources {
    let mut sources = Sources::open(recipe).unwrap();
    sources.identify(&HashCache::default(), &NoProgress, &Cancel::default()).unwrap();
    sources
}

fn fingerprint(recipe: &Recipe) -> Fingerprint {
    identified(recipe).fingerprint_of(recipe).unwrap()
}

#[test]
fn a_recipe_is_the_same_wherever_its_parents_lie() {
    let dir = tempfile::tempdir().unwrap();
    let here = recipe(&parent("father"), &parent("mother"));
    let father = copy("father", &dir.path().join("models--a--b/x"));
    let mother = copy("mother", &dir.path().join("father"));
    let there = recipe(&father, &mother);
    assert_eq!(here.logical_yaml(), there.logical_yaml());
    assert!(!there.logical_yaml().contains('/'), "no path");
    assert_eq!(fingerprint(&here), fingerprint(&there));
    assert_ne!(
        fingerprint(&here),
        fingerprint(&recipe(&mother, &father)),
        "parents changed places"
    );
    assert_ne!(fingerprint(&here), fingerprint(&here.with_seed(7)));
}

#[test]
fn one_bit_of_a_parent_changes_lineage_and_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let mother = copy("mother", &dir.path().join("mother"));
    let recipe = recipe(&parent("father"), &mother);
    let manifest = || {
        let sources = identified(&recipe);
        Merge::new(&recipe, &sources).unwrap().plan().manifest()
    };
    let before = manifest();
    let role = |role: &str| {
        let named = |(name, input): (&String, &darwin_core::files::InputRef)| {
            (input.role == role).then(|| name.clone())
        };
        before.inputs.iter().find_map(named).unwrap()
    };
    assert_eq!(role("mother"), mother.display().to_string());
    let weights = std::fs::read_dir(&mother).unwrap().map(|e| e.unwrap().path());
    let weights = weights.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).min();
    for file in [weights.unwrap(), mother.join("tokenizer.json"), mother.join("config.json")] {
        let whole = std::fs::read(&file).unwrap();
        let mut bytes = whole.clone();
        match file.extension().unwrap().to_str() {
            Some("safetensors") => *bytes.last_mut().unwrap() ^= 1,
            _ => bytes.push(b'\n'),
        }
        darwin_core::fs::write_atomic(&file, &bytes).unwrap();
        let after = manifest();
        assert_eq!(after.inputs[&role("father")], before.inputs[&role("father")]);
        assert_ne!(after.inputs[&role("mother")], before.inputs[&role("mother")]);
        assert_ne!(after.recipe_sha256, before.recipe_sha256, "{}", file.display());
        darwin_core::fs::write_atomic(&file, &whole).unwrap();
        assert_eq!(manifest(), before);
    }
}

#[test]
fn roles_are_the_recipes_not_the_folders() {
    let roles = |text: &str| {
        let recipe = Recipe::parse(text).unwrap();
        recipe.roles().into_iter().map(|(m, r)| format!("{m} {r}")).collect::<Vec<_>>().join(", ")
    };
    let ties = "merge_method: ties\nbase_model: z\nmodels:\n  - {model: a, parameters: {weight: 1, \
                density: 1}}\n  - {model: b, parameters: {weight: 1, density: 1}}\n  - {model: c, \
                parameters: {weight: 1, density: 1}}\n";
    assert_eq!(roles(ties), "a model1, b model2, c model3, z base");
    let slerp = "merge_method: slerp\nbase_model: mother\nmodels:\n  - model: mother\n  - model: \
                 father\nparameters: {t: 0.5}\n";
    assert_eq!(roles(slerp), "mother father, father mother", "names of folders say nothing");
    let one = "merge_method: passthrough\nmodels:\n  - model: a\n";
    assert_eq!(roles(one), "a model1");
}

#[test]
fn a_plan_that_reads_no_weights_names_none() {
    let recipe = recipe(&parent("father"), &parent("mother"));
    let sources = Sources::open(&recipe).unwrap();
    let mut merge = Merge::new(&recipe, &sources).unwrap();
    let plan = merge.plan().manifest();
    assert_eq!(plan.recipe_sha256, "");
    assert!(plan.inputs.values().all(|input| input.fingerprint.is_none()));
    merge.name_inputs(&recipe, &identified(&recipe));
    assert!(merge.plan().manifest().inputs.values().all(|input| input.fingerprint.is_some()));
}
