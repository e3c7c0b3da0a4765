//! The child: written, checked, scored.

use crate::items::Items;
use crate::run::{Ui, save};
use crate::search::Champion;
use crate::{Error, Parents, RunConfig, diagnose};
use darwin_checkpoint::Checkpoint;
use darwin_core::Split;
use darwin_core::files::{Health, MergeManifest, SCHEMA, Scores};
use darwin_core::fs::write_atomic;
use darwin_eval::{Evaluator, ItemSet, Scorer, model_scores};
use darwin_merge::{Merge, MergeOptions, merge_to};
use darwin_profile::{CheckOptions, Family, Loaded, Subject, check as check_health, model_ref};
use std::path::Path;

/// Largest shard and working memory of the child.
const SHARD_BYTES: u64 = 5_000_000_000;
const MEMORY_BYTES: u64 = 512 << 20;

/// Writes the champion as `child/` and its recipe as `best.yaml`. A child of the same recipe that
/// is there already is kept; one of another recipe, written by an earlier run into this folder, is
/// replaced.
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
    write_atomic(&best, champion.recipe.to_yaml().as_bytes()).map_err(io(&best))?;
    let out = config.out.join("child");
    if !is_written(&out, &champion.recipe.sha256())? {
        if out.exists() {
            std::fs::remove_dir_all(&out).map_err(io(&out))?;
        }
        let merge = Merge::new(&champion.recipe, &parents.sources).map_err(Error::below)?;
        let options = MergeOptions {
            max_shard_bytes: SHARD_BYTES,
            memory: MEMORY_BYTES,
            documents: Vec::new(),
            progress: ui.progress,
            cancel: ui.cancel,
        };
        merge_to(&merge, &out, &options).map_err(Error::below)?;
    }
    Checkpoint::open(&out).map_err(Error::below)
}

pub(crate) fn is_written(child: &Path, recipe_sha256: &str) -> Result<bool, Error> {
    let path = child.join("manifest.json");
    if !child.exists() {
        return Ok(false);
    }
    let foreign = || Error::Config {
        path: child.to_owned(),
        text: "holds something that no run of Darwin wrote".to_owned(),
        hint: "move it away, or choose another `out` folder".to_owned(),
    };
    let bytes = std::fs::read(&path).map_err(|_| foreign())?;
    let manifest: MergeManifest = serde_json::from_slice(&bytes).map_err(|_| foreign())?;
    Ok(manifest.recipe_sha256 == recipe_sha256)
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
    let reference = model_ref("child", child, Some(&parents.text));
    let subject = Subject { model: &loaded.model, source: child, reference: &reference };
    diagnose::one(config, &subject, items, ui)?;
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
    let mut models = vec![
        model_scores("father", "", set, father, None),
        model_scores("mother", "", set, mother, None),
    ];
    for champion in champions {
        let e = parents.evaluate(&champion.recipe, test, ui.cancel)??;
        let name = champion.arm.name();
        let hash = champion.recipe.sha256();
        models.push(model_scores(name, &hash, set, &e, Some([father, mother])));
        ui.progress.advance(1);
    }
    ui.progress.finish();
    let scores = Scores {
        schema: SCHEMA,
        split: Split::Test,
        items_sha256: set.sha256().to_owned(),
        parents: parents.refs.to_vec(),
        protected: config.goal.protected.keys().cloned().collect(),
        models,
    };
    save(&config.out.join("scores.json"), &scores)?;
    Ok(scores)
}
