//! What can go wrong when a report is made; a missing or unreadable input is no error but a
//! sentence in its section.

use darwin_core::{Diagnose, Fault, io_hint};
use std::io;
use std::path::PathBuf;

/// A report that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The run folder is not there.
    #[error("{}: no such folder", .0.display())]
    NoRunFolder(PathBuf),
    /// A template of this crate does not fit its data: a bug.
    #[error("template `{name}`")]
    Template {
        /// The template's name.
        name: &'static str,
        /// What minijinja says.
        #[source]
        source: minijinja::Error,
    },
    /// The crate `plotly` no longer hands out its JavaScript as this crate expects.
    #[error("the crate `plotly` carries no embedded plotly.js")]
    NoPlotly,
    /// The report could not be written.
    #[error("{}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The result of making a report.
pub type Result<T> = std::result::Result<T, ReportError>;

impl Diagnose for ReportError {
    fn fault(&self) -> Fault {
        match self {
            Self::NoRunFolder(_) => Fault::User,
            Self::Write { source, .. } => Fault::of_io(source),
            Self::Template { .. } | Self::NoPlotly => Fault::Environment,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoRunFolder(_) => Some("give the folder that `darwin evolve` wrote".to_owned()),
            Self::Write { source, .. } => io_hint(source),
            Self::Template { .. } | Self::NoPlotly => Some("this is a bug in Darwin".to_owned()),
        }
    }
}
