//! Which parent runs on which domains.

use crate::Error;
use darwin_checkpoint::TensorSource;
use darwin_core::{Cancel, Domain, Progress};
use darwin_engine::{CandidateSet, Room, ScoreItem};
use darwin_eval::Encoded;
use darwin_merge::{Recipe, RegMean};
use std::collections::BTreeMap;

/// The domains that each parent is run on.
#[derive(Clone, Debug, PartialEq)]
pub struct Sides {
    /// The father's.
    pub father: Vec<Domain>,
    /// The mother's.
    pub mother: Vec<Domain>,
    /// The mean probability of the reference answers by father and mother, where it was measured.
    pub measured: Vec<(Domain, [f64; 2])>,
}

impl Sides {
    /// The items of the father's domains and of the mother's, in the order of the set.
    #[must_use]
    pub fn items(&self, items: &Encoded) -> [Vec<ScoreItem>; 2] {
        [&self.father, &self.mother].map(|domains| {
            let own = items.items().iter().filter(|item| domains.contains(&item.domain));
            own.map(|item| item.main().score_item()).collect()
        })
    }
}

/// The sides that the settings name; else each domain goes to the parent that gives its reference
/// answers more probability in the mean, and to both where these are equal (method 2.3).
///
/// # Errors
/// [`Error::Unfit`] where a domain has no items, or a parent no domain; whatever running the parents
/// brings; [`Error::Cancelled`].
pub fn sides(
    settings: &RegMean,
    items: &Encoded,
    parents: [&dyn TensorSource; 2],
    room: &Room,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Sides, Error> {
    if let Some(given) = given(settings, items)? {
        return Ok(given);
    }
    let layers = |source: &dyn TensorSource| source.manifest().num_layers() as u64;
    progress.start("measure", parents.iter().map(|p| layers(*p)).sum(), "layers");
    let score_items = items.score_items();
    let mut sums: BTreeMap<&Domain, ([f64; 2], f64)> = BTreeMap::new();
    // one after the other: their configs may differ in what is not run, such as vision
    for (parent, source) in parents.iter().enumerate() {
        let scored = CandidateSet::new(vec![*source]);
        let scored = scored.score(&score_items, room, progress, cancel).map_err(|e| match e {
            darwin_engine::Error::Cancelled => Error::Cancelled,
            error => error.into(),
        })?;
        for scores in scored.scores {
            for (item, score) in items.items().iter().zip(scores?) {
                let (sums, count) = sums.entry(&item.domain).or_default();
                sums[parent] += (-score.nll).exp();
                *count += if parent == 0 { 1.0 } else { 0.0 };
            }
        }
    }
    progress.finish();
    let measured: Vec<(Domain, [f64; 2])> = sums
        .into_iter()
        .map(|(domain, (sums, count))| (domain.clone(), sums.map(|sum| sum / count)))
        .collect();
    let of = |wins: fn(&[f64; 2]) -> bool| -> Vec<Domain> {
        measured.iter().filter(|(_, p)| wins(p)).map(|(domain, _)| domain.clone()).collect()
    };
    let (father, mother) = (of(|p| p[0] >= p[1]), of(|p| p[1] >= p[0]));
    for (name, own) in [("father", &father), ("mother", &mother)] {
        if own.is_empty() {
            let text = format!("the {name} is the stronger parent on no domain of the items");
            let hint = "name domains for both: `darwin: {regmean: {father: [...], mother: [...]}}`";
            return Err(Error::unfit(text, hint));
        }
    }
    Ok(Sides { father, mother, measured })
}

/// The sides that settings name, if they do.
pub(crate) fn given(settings: &RegMean, items: &Encoded) -> Result<Option<Sides>, Error> {
    if settings.father.is_empty() {
        return Ok(None);
    }
    for domain in settings.father.iter().chain(&settings.mother) {
        if !items.items().iter().any(|item| item.domain == *domain) {
            let text = format!(
                "`darwin.regmean` names the domain `{}`, of which there are no items",
                domain.as_str()
            );
            return Err(Error::unfit(text, "name domains of the items, or give other items"));
        }
    }
    let (father, mother) = (settings.father.clone(), settings.mother.clone());
    Ok(Some(Sides { father, mother, measured: Vec::new() }))
}

/// The recipe with everything that its solution depends on: the sides and which items.
///
/// # Errors
/// [`Error::Unfit`] where the recipe names other items.
pub fn bound(recipe: &Recipe, sides: &Sides, items: &Encoded) -> Result<Recipe, Error> {
    let mut settings = recipe.darwin().regmean.clone().unwrap_or_default();
    let found = items.sha256();
    if let Some(named) = settings.items.as_deref().filter(|named| *named != found) {
        let text = format!("`darwin.regmean.items` is `{named}`, the items given are `{found}`");
        return Err(Error::unfit(
            text,
            "give the items that the recipe was made with, or remove it",
        ));
    }
    settings.items = Some(found.to_owned());
    settings.father.clone_from(&sides.father);
    settings.mother.clone_from(&sides.mother);
    Ok(recipe.with_regmean(settings))
}
