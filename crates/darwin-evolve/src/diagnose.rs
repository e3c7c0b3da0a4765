//! Phase 0 of a run: profiles and comparison, kept in files and used again where they still fit.

use crate::items::Items;
use crate::run::{Ui, save};
use crate::{Error, Parents, RunConfig};
use darwin_core::files::{Comparison, Profile};
use darwin_profile::{
    CompareOptions, ProfileOptions, Subject, calibration_sha256, compare, profile,
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
    let kept: Option<Profile> = read(&path);
    if let Some(kept) = kept
        && kept.model == *subject.reference
        && kept.calibration.items_sha256 == calibration_sha256(&items.calibration, None)
    {
        return Ok(kept);
    }
    let options = ProfileOptions::default();
    let (profile, samples) = profile(subject, &items.calibration, &options, ui.progress, ui.cancel)
        .map_err(Error::below)?;
    samples.save(&config.out.join(format!("{name}.samples.safetensors"))).map_err(Error::below)?;
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
    let path = config.out.join("comparison.json");
    let kept: Option<Comparison> = read(&path);
    if let Some(kept) = kept
        && kept.father == parents.refs[0]
        && kept.mother == parents.refs[1]
        && kept.calibration == profiles[0].calibration
    {
        return Ok(kept);
    }
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

/// A file of an earlier part of this run; one that cannot be read is made again.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
