//! The report of a run: one offline HTML file, and the child's model card - from files alone.
//!
//! [`html`] and [`model_card`] read a run folder as `darwin evolve` leaves it and know no other
//! part of Darwin:
//!
//! | file | what |
//! |---|---|
//! | `father.profile.json`, `mother.profile.json`, `child.profile.json` | profiles (method 1) |
//! | `comparison.json` | parent against parent (method 1.5, 1.6) |
//! | `journal.jsonl` | every candidate (method 3) |
//! | `scores.json`, `health.json` | results (method 6), health check (method 5) |
//! | `best.yaml`, `child/manifest.json`, `child/config.json` | the recipe and what it did (method 4) |
//! | `run.json` | free: `title`, `created`, `darwin`, `command`, `child` (arm), `licenses` (of the parents), budgets, … |
//!
//! [`merge_card`] is the card of a single merge, from what its caller knows of it.
//!
//! A file that is missing, or that cannot be read, makes its section say so in a sentence.
//!
//! ```
//! let folder = tempfile::tempdir()?;
//! let page = darwin_report::html(folder.path())?;
//! assert!(page.contains("The run folder has no scores.json."));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod card;
mod error;
mod figure;
mod ink;
mod markdown;
mod merge_card;
mod page;
mod run;
mod sections;
mod shares;
mod size;
mod words;

pub use error::{ReportError, Result};
pub use merge_card::{CardModel, MergeCard, merge_card};

use run::Run;
use std::path::{Path, PathBuf};

/// The report of a run as one self-contained HTML page, about 5 MB.
///
/// # Errors
/// [`ReportError::NoRunFolder`] if there is no such folder. Missing files are no error.
pub fn html(run_folder: &Path) -> Result<String> {
    page::render(&Run::open(run_folder)?)
}

/// Writes [`html`] to `report.html` in the run folder, and says where.
///
/// # Errors
/// As [`html`]; [`ReportError::Write`] if the file cannot be written.
pub fn write_html(run_folder: &Path) -> Result<PathBuf> {
    write(run_folder.join("report.html"), &html(run_folder)?)
}

/// The child's model card: a `README.md` with Hugging Face metadata.
///
/// # Errors
/// As [`html`].
pub fn model_card(run_folder: &Path) -> Result<String> {
    card::render(&Run::open(run_folder)?)
}

/// Writes [`model_card`] to `child/README.md` in the run folder, and says where.
///
/// # Errors
/// As [`model_card`]; [`ReportError::Write`] if the file cannot be written.
pub fn write_model_card(run_folder: &Path) -> Result<PathBuf> {
    write(run_folder.join("child").join("README.md"), &model_card(run_folder)?)
}

fn write(path: PathBuf, text: &str) -> Result<PathBuf> {
    match darwin_core::fs::write_atomic(&path, text.as_bytes()) {
        Ok(()) => Ok(path),
        Err(source) => Err(ReportError::Write { path, source }),
    }
}
