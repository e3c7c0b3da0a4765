//! The child: written, checked, scored.

use crate::items::Items;
use crate::parents::located;
use crate::run::{Ui, save};
use crate::search::Champion;
use crate::{Error, Parents, RunConfig, diagnose};
use darwin_checkpoint::Checkpoint;
use darwin_core::files::{Health, MergeManifest, SCHEMA, Scores};
use darwin_core::fs::read_bounded;
use darwin_core::{ARITHMETIC, Domain, Split};
use darwin_eval::{Evaluator, ItemSet, Scorer, Wants, model_scores};
use darwin_merge::{MergeOptions, merge_to};
use darwin_profile::{CheckOptions, Family, Loaded, Subject, check as check_health, model_ref};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Largest shard and working memory of the child.
const SHARD_BYTES: u64 = 5_000_000_000;
const MEMORY_BYTES: u64 = 512 << 20;

/// The largest manifest that is read: a line for each of a large model's tensors.
const MAX_MANIFEST: u64 = 1 << 30;

/// Writes the champion as `child/` and its recipe as `best.yaml`. A child of the same recipe and
/// parents that is there already, every shard as it was written, is kept; another one that Darwin
/// wrote is replaced, and the user is told why.
///
/// # Errors
/// Whatever merging or writing bring; [`Error::Config`] where `child/` is not ours.
pub(crate) fn write(
    config: &RunConfig,
    parents: &Parents,
    champion: &Champion,
    ui: Ui<'_>,
) -> Result<Checkpoint, Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    let best = config.out.join("best.yaml");
    let located = located(config, &champion.recipe);
    located.save(&best).map_err(Error::below)?;
    let out = config.out.join("child");
    let recipe = parents.fingerprint_of(&champion.recipe);
    if out.exists() {
        match difference(&out, &recipe, ui)? {
            None => return Checkpoint::open(&out).map_err(Error::below),
            Some(why) => {
                (ui.note)(&format!("{} is made anew: {why}", out.display()));
                std::fs::remove_dir_all(&out).map_err(io(&out))?;
            }
        }
    }
    let merge = parents.merge(&located, ui.progress, ui.cancel)?;
    let options = MergeOptions {
        max_shard_bytes: SHARD_BYTES,
        memory: MEMORY_BYTES,
        documents: Vec::new(),
        progress: ui.progress,
        cancel: ui.cancel,
    };
    merge_to(&merge, &out, &options).map_err(Error::below)?;
    ui.hashes.learn(&out);
    Checkpoint::open(&out).map_err(Error::below)
}

/// Why a child that is there is not the one that is wanted; `None` where it is, to the byte.
fn difference(child: &Path, recipe: &str, ui: Ui<'_>) -> Result<Option<String>, Error> {
    let Ok(manifest) = serde_json::from_value::<MergeManifest>(ours(child)?) else {
        return Ok(Some("another version of Darwin wrote it".to_owned()));
    };
    if (manifest.schema, manifest.arithmetic) != (SCHEMA, ARITHMETIC) {
        return Ok(Some("a Darwin with another arithmetic wrote it".to_owned()));
    }
    if manifest.recipe_sha256 != recipe {
        return Ok(Some("it is of another recipe or of other parents".to_owned()));
    }
    let damaged = ui.hashes.check_sums(child, ui.progress, ui.cancel).map_err(Error::below)?;
    Ok(damaged.map(|file| format!("{} is not what was written", file.display())))
}

/// The manifest of a child that Darwin wrote.
///
/// # Errors
/// [`Error::Config`] where somebody else wrote it.
pub(crate) fn ours(child: &Path) -> Result<Value, Error> {
    let manifest = read_bounded(&child.join("manifest.json"), MAX_MANIFEST).ok();
    let manifest: Option<Value> = manifest.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let darwin = |manifest: &Value| {
        manifest["darwin"].as_str().is_some_and(|program| program.starts_with("darwin "))
    };
    manifest.filter(darwin).ok_or_else(|| Error::Config {
        path: child.to_owned(),
        text: "holds something that no run of Darwin wrote".to_owned(),
        hint: "move it away, or choose another `out` folder".to_owned(),
    })
}

/// Profiles the written child and checks its health.
///
/// # Errors
/// Whatever loading, profiling, checking or writing bring.
pub(crate) fn check(
    config: &RunConfig,
    parents: &Parents,
    items: &Items,
    child: &Checkpoint,
    ui: Ui<'_>,
) -> Result<Health, Error> {
    let loaded = Loaded::open(child).map_err(Error::below)?;
    let fingerprint = ui.hashes.fingerprint(child, ui.progress, ui.cancel).map_err(Error::below)?;
    let reference = model_ref("child", child, Some(&parents.text), fingerprint);
    let subject = Subject { model: &loaded.model, source: child, reference: &reference };
    let family = Family {
        child: subject,
        father: parents.father_subject(),
        mother: parents.mother_subject(),
        weights: [&loaded.weights, &parents.weights[0], &parents.weights[1]],
    };
    let options = CheckOptions { max_new_tokens: config.max_new_tokens, ..CheckOptions::default() };
    let health =
        check_health(&family, &items.calibration, &parents.text, &options, ui.progress, ui.cancel)
            .map_err(Error::below)?;
    save(&config.out.join("health.json"), &health)?;
    // A child that computes NaN has no profile; the health check says where it does.
    if health.layers.is_empty() {
        // nor may that of an earlier child stand for it
        for file in ["child.profile.json", "child.samples.safetensors"] {
            let _ = std::fs::remove_file(config.out.join(file));
        }
    } else {
        diagnose::one(config, &subject, items, ui)?;
    }
    Ok(health)
}

/// Scores both parents and every champion on the test split, in both formats.
///
/// # Errors
/// Whatever evaluating or writing bring.
pub(crate) fn scores(
    config: &RunConfig,
    parents: &Parents,
    items: &Items,
    champions: &[Champion],
    ui: Ui<'_>,
) -> Result<Scores, Error> {
    let test = &items.test;
    let set: &ItemSet = test.items();
    ui.progress.start("test", 2 + champions.len() as u64, "models");
    let mut both = Vec::new();
    for model in [&parents.father_model, &parents.mother_model] {
        both.push(test.evaluate_model(model, ui.cancel).map_err(Error::below)?);
        ui.progress.advance(1);
    }
    let [father, mother] = &both[..] else { unreachable!("two parents were evaluated above") };
    let weights: BTreeMap<Domain, f64> =
        set.domains().into_keys().map(|d| (d.clone(), config.weight(&d))).collect();
    let wants = Wants { weights, margins: config.goal.protected.clone() };
    let mut models = vec![
        model_scores("father", "", set, father, None),
        model_scores("mother", "", set, mother, None),
    ];
    for champion in champions {
        let e = parents.evaluate(&champion.recipe, test, ui.cancel)??;
        let name = champion.arm.name();
        let hash = parents.fingerprint_of(&champion.recipe);
        let name = match champion.replicate {
            0 => name.to_owned(),
            replicate => format!("{name} {}", replicate + 1),
        };
        models.push(model_scores(&name, &hash, set, &e, Some(([father, mother], &wants))));
        ui.progress.advance(1);
    }
    ui.progress.finish();
    let scores = Scores {
        schema: SCHEMA,
        split: Split::Test,
        items_sha256: set.fingerprint().to_string(),
        parents: parents.refs.to_vec(),
        protected: config.goal.protected.keys().cloned().collect(),
        weights: wants.weights,
        models,
    };
    save(&config.out.join("scores.json"), &scores)?;
    Ok(scores)
}
