//! From shares to a recipe file that can be merged alone and read back (method 3.1).

use crate::Error;
use crate::config::{BlendMethod, RunConfig, UnitName};
use crate::genome::{LayerShares, RouterChoice, Shares};
use darwin_checkpoint::Unit;
use darwin_core::{Density, LayerIdx, Share};
use darwin_merge::{LayerSpec, Part, Recipe, RouterMode};

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
    build(config, &Shares { embed: 0.5988, density_m: 0.799, layers }, "dare_ties")
}

fn build(config: &RunConfig, shares: &Shares, method: &str) -> Result<Recipe, Error> {
    let name = |path: &std::path::Path| path.display().to_string();
    let mut builder = Recipe::blend(method, name(&config.father), name(&config.mother))
        .default_share(share(shares.embed))
        .component(Part::Embed, share(shares.embed))
        .unit(match config.merge.unit {
            UnitName::Tensor => Unit::Tensor,
            UnitName::Expert => Unit::Expert,
        })
        .seed(config.seeds.masks);
    for (l, layer) in shares.layers.iter().enumerate() {
        let parts = [
            (Part::LinearAttn, layer.mixer),
            (Part::SelfAttn, layer.mixer),
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

fn rounded(value: f64) -> f64 {
    ((value * DECIMALS).round() / DECIMALS).clamp(0.0, 1.0)
}

fn share(t: f64) -> Share {
    Share::new(rounded(t)).expect("rounding keeps a share in 0..=1")
}

fn density(d: f64) -> Density {
    Density::new(rounded(d)).expect("rounding keeps a density in 0..=1")
}
