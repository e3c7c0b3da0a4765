//! Phase 0 of a run: profiles and comparison, kept in files and used again where they still fit.

use crate::items::Items;
use crate::run::{Ui, save};
use crate::{Error, Parents, RunConfig};
use darwin_core::files::{Comparison, Origin, Profile, SCHEMA};
use darwin_profile::{
    CompareOptions, ProfileOptions, Samples, Subject, compare, compare_origin, profile,
    profile_origin,
};
use serde::de::DeserializeOwned;
use std::path::Path;

/// Both parents' profiles.
///
/// # Errors
/// Whatever profiling or writing bring.
pub(crate) fn profiles(
    config: &RunConfig,
    parents: &Parents,
    items: &Items,
    ui: Ui<'_>,
) -> Result<[Profile; 2], Error> {
    Ok([
        one(config, &parents.father_subject(), items, ui)?,
        one(config, &parents.mother_subject(), items, ui)?,
    ])
}

/// One model's profile, under its name.
pub(crate) fn one(
    config: &RunConfig,
    subject: &Subject<'_>,
    items: &Items,
    ui: Ui<'_>,
) -> Result<Profile, Error> {
    let name = &subject.reference.name;
    let path = config.out.join(format!("{name}.profile.json"));
    let counters = config.out.join(format!("{name}.samples.safetensors"));
    let options = ProfileOptions::default();
    let origin = profile_origin(subject.reference, &items.calibration, &options);
    let of = |profile: &Profile| (profile.schema, profile.origin.clone());
    if let Some(kept) = kept(&path, &origin, of, ui) {
        let own = Samples::origin_of(&counters).as_ref() == Some(&origin);
        let foreign = || format!("{} was not made with it", counters.display());
        let layers = subject.model.config().num_hidden_layers;
        match kept.check(layers).and_then(|()| own.then_some(()).ok_or_else(foreign)) {
            Ok(()) => return Ok(kept),
            Err(why) => made_anew(&path, &why, ui),
        }
    }
    let (profile, samples) = profile(subject, &items.calibration, &options, ui.progress, ui.cancel)
        .map_err(Error::below)?;
    samples.save(&counters).map_err(Error::below)?;
    save(&path, &profile)?;
    Ok(profile)
}

/// The parents against each other.
///
/// # Errors
/// Whatever comparing or writing bring.
pub(crate) fn comparison(
    config: &RunConfig,
    parents: &Parents,
    profiles: &[Profile; 2],
    items: &Items,
    ui: Ui<'_>,
) -> Result<Comparison, Error> {
    let options = CompareOptions {
        weights: profiles[0]
            .calibration
            .domains
            .keys()
            .map(|d| (d.clone(), config.weight(d)))
            .collect(),
        protected: config.goal.protected.keys().cloned().collect(),
        ..CompareOptions::default()
    };
    let path = config.out.join("comparison.json");
    let origin = compare_origin(parents.refs.each_ref(), &items.calibration, &options);
    let layers = parents.father_model.config().num_hidden_layers;
    let of = |comparison: &Comparison| (comparison.schema, comparison.origin.clone());
    if let Some(kept) = kept(&path, &origin, of, ui) {
        match kept.check(layers) {
            Ok(()) => return Ok(kept),
            Err(why) => made_anew(&path, &why, ui),
        }
    }
    let comparison = compare(
        &parents.father_subject(),
        &parents.mother_subject(),
        [&profiles[0], &profiles[1]],
        &items.calibration,
        &options,
        ui.progress,
        ui.cancel,
    )
    .map_err(Error::below)?;
    save(&path, &comparison)?;
    Ok(comparison)
}

/// A file of an earlier part of this run, where it was made from the same things; where it was
/// not, the user is told what differs.
fn kept<T: DeserializeOwned>(
    path: &Path,
    origin: &Origin,
    of: impl Fn(&T) -> (u32, Origin),
    ui: Ui<'_>,
) -> Option<T> {
    let bytes = std::fs::read(path).ok()?;
    let read = serde_json::from_slice(&bytes).map_err(|e| format!("it cannot be read ({e})"));
    let checked = read.and_then(|file: T| {
        let (schema, earlier) = of(&file);
        if schema != SCHEMA {
            return Err(format!("it has schema {schema}, this Darwin writes {SCHEMA}"));
        }
        match origin.difference(&earlier) {
            None => Ok(file),
            Some(difference) => Err(format!("it was made {difference}")),
        }
    });
    checked.map_err(|why| made_anew(path, &why, ui)).ok()
}

fn made_anew(path: &Path, why: &str, ui: Ui<'_>) {
    (ui.note)(&format!("{} is made anew: {why}", path.display()));
}
