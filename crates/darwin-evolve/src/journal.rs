//! The journal: one JSON line per candidate, appended and synced; what stands in it is never
//! computed again.
//!
//! A resumed run asks the same optimiser the same questions; where the journal holds the answer it
//! is used instead of an evaluation. So a run that was killed ends with the same journal, byte for
//! byte, as one that was not.

use crate::Error;
use darwin_core::files::{JournalLine, Phase, RunHeader};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    replay: std::vec::IntoIter<JournalLine>,
    lines: Vec<JournalLine>,
}

impl Journal {
    /// Opens a run's journal, or begins it. A last line that was cut off by a crash is dropped.
    ///
    /// # Errors
    /// [`Error::Journal`] if it belongs to another run or is damaged before its end.
    pub fn open(path: &Path, header: &RunHeader) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let (whole, replay) = Self::read(path, header)?;
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        file.set_len(whole as u64).map_err(io)?;
        if whole == 0 {
            append(&mut file, header).map_err(io)?;
        }
        Ok(Self { path: path.to_owned(), file, replay: replay.into_iter(), lines: Vec::new() })
    }

    /// How many candidates a run of this header would find in a journal; nothing is written.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn known(path: &Path, header: &RunHeader) -> Result<usize, Error> {
        Self::read(path, header).map(|(_, lines)| lines.len())
    }

    /// The bytes of whole lines, and the candidates among them.
    fn read(path: &Path, header: &RunHeader) -> Result<(usize, Vec<JournalLine>), Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let wrong = |text: String| Error::Journal { path: path.to_owned(), text };
        let mut bytes = if path.exists() { std::fs::read(path).map_err(io)? } else { Vec::new() };
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        bytes.truncate(whole);
        let mut replay: Vec<JournalLine> = Vec::new();
        for (i, line) in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).enumerate() {
            if i == 0 {
                let found: RunHeader = serde_json::from_slice(line)
                    .map_err(|e| wrong(format!("line 1 is not a run header: {e}")))?;
                if found != *header {
                    return Err(wrong(
                        "belongs to a run with another configuration, other parents or other items"
                            .to_owned(),
                    ));
                }
            } else {
                replay.push(
                    serde_json::from_slice(line)
                        .map_err(|e| wrong(format!("line {} is damaged: {e}", i + 1)))?,
                );
            }
        }
        Ok((whole, replay))
    }

    /// The journal's line for the next candidate, if an earlier run wrote one.
    ///
    /// # Errors
    /// [`Error::Journal`] if that line is about another candidate.
    pub fn next_known(&mut self, wanted: &Wanted<'_>) -> Result<Option<JournalLine>, Error> {
        let Some(line) = self.replay.next() else { return Ok(None) };
        if !wanted.matches(&line) {
            return Err(Error::Journal {
                path: self.path.clone(),
                text: format!(
                    "holds {} step {} of {} where {} step {} of {} was expected",
                    line.arm,
                    line.step,
                    phase(line.phase),
                    wanted.arm,
                    wanted.step,
                    phase(wanted.phase)
                ),
            });
        }
        self.lines.push(line.clone());
        Ok(Some(line))
    }

    /// Appends a line and syncs it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, line: JournalLine) -> Result<(), Error> {
        append(&mut self.file, &line)
            .map_err(|source| Error::Io { path: self.path.clone(), source })?;
        self.lines.push(line);
        Ok(())
    }

    /// All lines so far, replayed ones included.
    #[must_use]
    pub fn lines(&self) -> &[JournalLine] {
        &self.lines
    }
}

/// What the next line must be about.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The arm.
    pub arm: &'a str,
    /// The phase.
    pub phase: Phase,
    /// The step.
    pub step: usize,
    /// Hash of the recipe.
    pub recipe_sha256: &'a str,
    /// Hash of the items.
    pub items_sha256: &'a str,
}

impl Wanted<'_> {
    fn matches(&self, line: &JournalLine) -> bool {
        line.arm == self.arm
            && line.phase == self.phase
            && line.step == self.step
            && line.recipe_sha256 == self.recipe_sha256
            && line.items_sha256 == self.items_sha256
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Proxy => "the proxy phase",
        Phase::Real => "the real phase",
        Phase::Selection => "the selection",
    }
}

/// One write per line: a crash leaves a whole line or a tail without its newline.
fn append<T: serde::Serialize>(file: &mut File, value: &T) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(value).map_err(std::io::Error::other)?;
    bytes.push(b'\n');
    file.write_all(&bytes)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use darwin_core::Split;
    use darwin_core::files::Status;

    fn header() -> RunHeader {
        RunHeader { schema: 1, run_sha256: "x".into(), seeds: [("run".into(), 1)].into() }
    }

    fn line(step: usize) -> JournalLine {
        JournalLine {
            schema: 1,
            arm: "blind".into(),
            phase: Phase::Proxy,
            step,
            generation: 0,
            genes: vec![0.1 + 0.2, -1e-300],
            label: None,
            recipe_sha256: format!("r{step}"),
            items_sha256: "i".into(),
            split: Split::Proxy,
            fitness: 1.0 / 3.0,
            domains: [("math".parse().expect("known"), 0.5)].into(),
            n: [("math".parse().expect("known"), 7)].into(),
            tokens: 9,
            status: Status::Ok,
        }
    }

    fn wanted(step: usize, recipe: &str) -> Wanted<'_> {
        Wanted { arm: "blind", phase: Phase::Proxy, step, recipe_sha256: recipe, items_sha256: "i" }
    }

    #[test]
    fn a_cut_off_line_is_dropped_and_the_rest_replayed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, &header()).expect("new");
        journal.append(line(0)).expect("append");
        journal.append(line(1)).expect("append");
        let whole = std::fs::read(&path).expect("read");
        for cut in 0..whole.len() {
            File::options()
                .write(true)
                .open(&path)
                .expect("open")
                .set_len(cut as u64)
                .expect("cut");
            let mut again = Journal::open(&path, &header()).expect("reopens");
            for step in 0..2 {
                let recipe = format!("r{step}");
                if again.next_known(&wanted(step, &recipe)).expect("same run").is_none() {
                    again.append(line(step)).expect("append");
                }
            }
            assert_eq!(std::fs::read(&path).expect("read"), whole, "cut at {cut}");
        }
    }

    #[test]
    fn another_runs_journal_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, &header()).expect("new");
        journal.append(line(0)).expect("append");
        let other = RunHeader { run_sha256: "y".into(), ..header() };
        assert!(Journal::open(&path, &other).is_err());
        let mut same = Journal::open(&path, &header()).expect("same");
        assert!(same.next_known(&wanted(0, "another")).is_err());
    }
}
