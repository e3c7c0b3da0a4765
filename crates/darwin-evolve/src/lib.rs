//! Phase 1: the evolution of a merge recipe (method 2, 3).
//!
//! [`run`] takes a [`RunConfig`], profiles and compares the parents, searches with each arm first
//! on a proxy and then on a real benchmark, chooses and writes the child, checks its health and
//! scores everybody on the test split. Every candidate is one line of the [`Journal`].

mod blocks;
mod child;
pub mod cma;
mod config;
mod diagnose;
mod error;
mod fitness;
mod genome;
mod items;
mod journal;
mod outlook;
mod parents;
mod prior;
mod rank;
mod recipe;
mod run;
mod search;
mod stage;

pub use blocks::depth_blocks;
pub use config::{
    ArmName, BlendMethod, Goal, MergeChoice, PerDomain, PhaseBudget, RunConfig, Seeds,
    SelectionBudget, UnitName,
};
pub use error::Error;
pub use fitness::{ByDomain, Fitness, accuracies};
pub use genome::{COMPONENTS, Gene, GeneKind, Genome, LayerShares, RouterChoice, Shares};
pub use journal::{Journal, Wanted};
pub use outlook::{ArmOutlook, Outlook, Place, SplitOutlook, Takes, outlook, takes};
pub use parents::Parents;
pub use prior::Prior;
pub use rank::RankCheck;
pub use recipe::{line_recipe, published_recipe, recipe};
pub use run::{Outcome, Ui, run};
pub use search::{Budget, Champion, Search, Stages, Tried};
pub use stage::{Bench, FAILED, Named, Stage};
