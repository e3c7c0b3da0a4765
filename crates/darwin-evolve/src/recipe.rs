//! From shares to a recipe file that can be merged alone and read back (method 3.1).

use crate::Error;
use crate::config::{BlendMethod, RunConfig, UnitName};
use crate::genome::{LayerShares, RouterChoice, Shares};
use crate::job::{FATHER, MOTHER};
use darwin_checkpoint::Unit;
use darwin_core::{Density, Group, LayerIdx, Part, Share};
use darwin_merge::{GroupShares, LayerSpec, Recipe, RegMean, RouterMode};

/// Shares are rounded to so many decimals: a recipe is for people, too.
const DECIMALS: f64 = 1e6;

/// The recipe of some shares.
///
/// # Errors
/// [`Error::Below`] where the merge crate refuses it.
pub fn recipe(config: &RunConfig, shares: &Shares) -> Result<Recipe, Error> {
    let method = match config.merge.method {
        BlendMethod::DareTies => "dare_ties",
        BlendMethod::Linear => "linear",
    };
    build(config, shares, method)
}

/// A point of the plain interpolation line: linear everywhere, routers included.
///
/// # Errors
/// [`Error::Below`] where the merge crate refuses it.
pub fn line_recipe(config: &RunConfig, t: f64, num_layers: usize) -> Result<Recipe, Error> {
    build(config, &Shares::uniform(t, num_layers), "linear")
}

/// The published three-block recipe (method 4): L0-37 t 0.5988 router M; L38 t 0.9000 router M;
/// L39 t 0.5336 router F; density 0.799, at this model's depth.
///
/// # Errors
/// [`Error::Below`] where the merge crate refuses it.
pub fn published_recipe(config: &RunConfig, num_layers: usize) -> Result<Recipe, Error> {
    let layer =
        |t: f64, router| LayerShares { mixer: t, routed: t, shared: t, router, density_m: 0.799 };
    let mut layers = vec![layer(0.5988, RouterChoice::Mother); num_layers];
    if let [.., golden, last] = &mut layers[..] {
        *golden = layer(0.9, RouterChoice::Mother);
        *last = layer(0.5336, RouterChoice::Father);
    }
    let [embed, norm, head] = [0.5988; 3];
    build(config, &Shares { embed, norm, head, density_m: 0.799, layers }, "dare_ties")
}

fn build(config: &RunConfig, shares: &Shares, method: &str) -> Result<Recipe, Error> {
    let mut builder = Recipe::blend(method, FATHER, MOTHER)
        .default_share(share(shares.embed))
        .component(Part::Embed, share(shares.embed))
        .component(Part::Norm, share(shares.norm))
        .component(Part::Head, share(shares.head))
        .unit(unit(config))
        .seed(config.seeds.masks);
    for (l, layer) in shares.layers.iter().enumerate() {
        let parts = [
            (Part::Mixer, layer.mixer),
            (Part::Routed, layer.routed),
            (Part::Shared, layer.shared),
            (Part::Router, layer.routed),
        ];
        builder = builder.layer(LayerIdx(l), parts.map(|(part, t)| (part, share(t))));
        let from = match layer.router {
            RouterChoice::Father => RouterMode::Father,
            RouterChoice::Blend => RouterMode::Blend,
            RouterChoice::Mother => RouterMode::Mother,
        };
        builder = builder.router(LayerSpec::one(LayerIdx(l)), from);
        if method == "dare_ties" {
            builder = builder.layer_density(LayerIdx(l), density(1.0), density(layer.density_m));
        }
    }
    if method == "dare_ties" {
        builder = builder.density(density(1.0), density(shares.density_m));
    }
    builder.build().map_err(Error::below)
}

/// A share of its own for every group, linear everywhere; what has none is the father's.
///
/// # Errors
/// [`Error::Below`] where the merge crate refuses it.
pub fn group_recipe(
    config: &RunConfig,
    mother: &str,
    groups: &[Group],
    shares: &[f64],
) -> Result<Recipe, Error> {
    let mut of_groups = GroupShares::new();
    let mut own = Vec::new();
    for (i, (group, t)) in groups.iter().zip(shares).enumerate() {
        own.push(share(*t));
        if groups.get(i + 1).is_none_or(|next| next.tensor != group.tensor) {
            of_groups.insert(&*group.tensor, std::mem::take(&mut own));
        }
    }
    Recipe::blend("linear", FATHER, mother)
        .default_share(share(0.0))
        .router(LayerSpec::all(), RouterMode::Blend)
        .groups(of_groups)
        .seed(config.seeds.masks)
        .build()
        .map_err(Error::below)
}

/// RegMean's child, the mother's activations weighing `b`; what cannot be solved is a blend with
/// `anchor` of the mother.
///
/// # Errors
/// [`Error::Below`] where the merge crate refuses it.
pub(crate) fn regmean_recipe(
    config: &RunConfig,
    settings: &RegMean,
    b: f64,
    anchor: f64,
) -> Result<Recipe, Error> {
    let recipe = Recipe::blend("regmean", FATHER, MOTHER)
        .default_share(share(anchor))
        .seed(config.seeds.masks)
        .build()
        .map_err(Error::below)?;
    Ok(recipe.with_regmean(RegMean { b, ..settings.clone() }))
}

/// The share of each group in a recipe that says them all.
pub(crate) fn group_shares(recipe: &Recipe, groups: &[Group]) -> Option<Vec<f64>> {
    let known = recipe.groups()?;
    let of = |group: &Group| {
        let shares = known.get(&group.tensor)?;
        let place = group.expert.filter(|_| shares.len() > 1).map_or(0, |expert| expert.0);
        Some(shares.get(place)?.get())
    };
    groups.iter().map(of).collect()
}

fn rounded(value: f64) -> f64 {
    (value * DECIMALS).round() / DECIMALS
}

/// The unit of the method's statistics.
pub(crate) fn unit(config: &RunConfig) -> Unit {
    match config.merge.unit {
        UnitName::Tensor => Unit::Tensor,
        UnitName::Expert => Unit::Expert,
    }
}

pub(crate) fn share(t: f64) -> Share {
    Share::new(rounded(t).clamp(Share::MIN, Share::MAX)).expect("inside after clamping")
}

pub(crate) fn density(d: f64) -> Density {
    Density::new(rounded(d).clamp(Density::MIN, Density::MAX)).expect("inside after clamping")
}
