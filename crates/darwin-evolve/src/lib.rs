//! Phase 1: the evolution of a merge recipe (method 2, 3).
//!
//! [`run`] takes a [`RunConfig`], profiles and compares the parents, searches with each arm first
//! on a proxy and then on a real benchmark, chooses and writes the child, checks its health and
//! scores everybody on the test split. Every candidate is one line of the [`Journal`].

mod blocks;
mod child;
pub mod cma;
mod config;
mod deck;
mod diagnose;
mod diagnosis;
mod error;
mod execute;
mod fitness;
mod genome;
mod items;
pub mod job;
mod journal;
mod outlook;
mod parents;
mod prior;
mod recipe;
mod run;
mod search;
mod slopes;
mod solver;

pub use config::{
    BlendMethod, Goal, MergeChoice, PerDomain, PhaseBudget, ProxyBudget, RunConfig, Seeds,
    SelectionBudget, TestItems, UnitName,
};
pub use darwin_core::files::{ArmName, Asker};
pub use diagnosis::Diagnosis;
pub use error::Error;
pub use execute::Executor;
pub use fitness::Fitness;
pub use genome::{COMPONENTS, Gene, GeneKind, Genome, LayerShares, RouterChoice, Shares};
pub use journal::{Journal, Wanted};
pub use outlook::{ArmOutlook, Outlook, Place, SplitOutlook, Takes, outlook, takes};
pub use parents::Parents;
pub use prior::Prior;
pub use recipe::{group_recipe, line_recipe, published_recipe, recipe};
pub use run::{Outcome, RankCheck, Ui, run};
pub use search::{Champion, FAILED, Search, Setup, Shape, TensorShare, Tried};
pub use solver::Solvable;
