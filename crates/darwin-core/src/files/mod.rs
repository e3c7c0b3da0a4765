//! The versioned types of every file that Darwin writes. Files are the interface: whatever the
//! report or another tool needs stands in one of these.

mod diagnosis;
mod hashes;
mod health;
mod journal;
mod manifest;
mod origin;
mod profile;
mod scores;

pub use diagnosis::{DiagnosisFile, ExpertSlope, PartSlope, Prediction};
pub use hashes::{FileHash, FileHashes};
pub use health::{Finding, Health, LayerHealth, Severity, Verdict};
pub use journal::{ArmName, Asker, Chain, JournalLine, JournalText, Phase, RunHeader, Status};
pub use manifest::{Action, InputRef, ManifestLine, MergeManifest, Setting, SourceRef};
pub use origin::Origin;
pub use profile::{
    Advantage, CalibrationRef, Comparison, ComponentDelta, Estimate, ExpertLoads, LayerComparison,
    LayerProfile, LiteralLoad, ModelRef, ProbeDistance, Profile, Routing,
};
pub use scores::{DomainScore, GoalGain, ModelScores, Protection, Scored, Scores};

/// The schema version of every file type in this module; raised when a field changes meaning.
pub const SCHEMA: u32 = 3;
