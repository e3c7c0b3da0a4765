//! The journal: one JSON line per candidate, appended and synced; what stands in it is never
//! computed again.
//!
//! A resumed run asks the same optimiser the same questions; where the journal holds the answer it
//! is used instead of an evaluation. So a run that was killed ends with the same journal, byte for
//! byte, as one that was not.

use crate::Error;
use crate::job::Job;
use darwin_core::Fingerprint;
use darwin_core::files::{Chain, JournalLine, JournalText, Phase, RunHeader};
use darwin_core::fs::sync_parent;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    chain: Chain,
    replay: std::vec::IntoIter<JournalLine>,
    lines: Vec<JournalLine>,
}

impl Journal {
    /// Opens a run's journal, or begins it. A last line that was cut off by a crash is dropped. A
    /// journal of another run is put aside under that run's fingerprint, and this run's own is taken
    /// back where it was put aside: the second value says so in a sentence.
    ///
    /// # Errors
    /// [`Error::Journal`] if it is damaged before its end, with the line and what can be kept.
    pub fn open(path: &Path, header: &RunHeader) -> Result<(Self, Option<String>), Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut text = read(path)?;
        let mut note = None;
        if let Some((difference, kept)) = other(path, &text, header) {
            std::fs::rename(path, &kept).map_err(io)?;
            let own = aside(path, &header.run);
            if own.exists() {
                std::fs::rename(&own, path).map_err(io)?;
            }
            text = read(path)?;
            note = Some(describe(path, &difference, &kept, text.lines.len()));
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        file.set_len(text.whole as u64).map_err(io)?;
        let mut chain = text.chain;
        if text.header.is_none() {
            append(&mut file, &mut chain, header).map_err(io)?;
            sync_parent(path);
        }
        let (path, replay) = (path.to_owned(), text.lines.into_iter());
        Ok((Self { path, file, chain, replay, lines: Vec::new() }, note))
    }

    /// How many candidates a run of this header would find, and the sentence of
    /// [`Journal::open`]; nothing is written.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn known(path: &Path, header: &RunHeader) -> Result<(usize, Option<String>), Error> {
        let text = read(path)?;
        let Some((difference, kept)) = other(path, &text, header) else {
            return Ok((text.lines.len(), None));
        };
        let known = read(&aside(path, &header.run))?.lines.len();
        Ok((known, Some(describe(path, &difference, &kept, known))))
    }

    /// The journal's line for the next job, if an earlier run wrote one.
    ///
    /// # Errors
    /// [`Error::Journal`] if that line is about another job.
    pub fn next_known(&mut self, wanted: &Wanted<'_>) -> Result<Option<JournalLine>, Error> {
        let Some(line) = self.replay.next() else { return Ok(None) };
        if !wanted.matches(&line) {
            let job = wanted.job;
            return Err(Error::Journal {
                path: self.path.clone(),
                text: format!(
                    "holds job {} ({} step {} of {}) where job {} ({} step {} of {}) was expected",
                    line.id,
                    line.arm.name(),
                    line.step,
                    phase(line.phase),
                    job.id,
                    job.asker.name(),
                    job.step,
                    phase(job.phase)
                ),
                hint: begin_anew(&self.path),
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
        append(&mut self.file, &mut self.chain, &line)
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
    /// The job.
    pub job: &'a Job,
    /// Hash of its recipe.
    pub recipe_sha256: &'a str,
    /// Hash of its items.
    pub items_sha256: &'a str,
}

impl Wanted<'_> {
    fn matches(&self, line: &JournalLine) -> bool {
        let job = self.job;
        (line.id, line.replicate, line.arm, line.phase, line.step)
            == (job.id, job.replicate, job.asker, job.phase, job.step)
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

/// A journal that is whole, or not there yet.
fn read(path: &Path) -> Result<JournalText, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let bytes = if path.exists() { std::fs::read(path).map_err(io)? } else { Vec::new() };
    let text = JournalText::read(&bytes);
    match &text.damaged {
        Some((line, what)) => Err(damaged(path, *line, what)),
        None => Ok(text),
    }
}

/// What differs where a journal is another run's, and the name under which that is kept.
fn other(path: &Path, text: &JournalText, header: &RunHeader) -> Option<(String, PathBuf)> {
    let found = text.header.as_ref().filter(|found| *found != header)?;
    let difference = header.origin.difference(&found.origin);
    let difference = difference.unwrap_or_else(|| "with other seeds".to_owned());
    Some((difference, aside(path, &found.run)))
}

/// Where the journal of another run is kept.
fn aside(path: &Path, run: &Fingerprint) -> PathBuf {
    path.with_file_name(format!("journal.{}.jsonl", run.short()))
}

fn describe(path: &Path, difference: &str, kept: &Path, known: usize) -> String {
    let (path, kept) = (path.display(), kept.display());
    let then = match known {
        0 => "is begun anew".to_owned(),
        known => format!("goes on after {known} candidates of an earlier run like this"),
    };
    format!("{path} {then}: what was there was made {difference}, and is kept as {kept}")
}

/// A line that is not what was written, and what can be kept.
fn damaged(path: &Path, line: usize, what: &str) -> Error {
    let hint = match line {
        0..=2 => begin_anew(path),
        _ => format!(
            "lines 1 to {} are good: `sed -i '{line},$d' {}` keeps them, and the run continues there",
            line - 1,
            path.display()
        ),
    };
    Error::Journal { path: path.to_owned(), text: format!("line {line} is damaged: {what}"), hint }
}

fn begin_anew(path: &Path) -> String {
    let folder = path.parent().unwrap_or(path);
    format!("choose another `out` folder, or remove {} to begin anew", folder.display())
}

/// One write per line: a crash leaves a whole line or a tail without its newline.
fn append<T: serde::Serialize>(
    file: &mut File,
    chain: &mut Chain,
    value: &T,
) -> std::io::Result<()> {
    file.write_all(&chain.seal(value).map_err(std::io::Error::other)?)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Ask, Window, Work};
    use darwin_core::Split;
    use darwin_core::files::{ArmName, Asker, Estimate, Origin, SCHEMA, Status};

    fn header() -> RunHeader {
        let of = |text: &str| Fingerprint::of("test", [("text", text)]);
        let parents = [("father", &of("f")), ("mother", &of("m"))];
        let origin = Origin::now(parents, [("proxy", &of("i"))], of("o"));
        let seeds = [("run".into(), 1)].into();
        RunHeader { schema: SCHEMA, run: origin.fingerprint(), origin, seeds }
    }

    fn line(step: usize) -> JournalLine {
        JournalLine {
            schema: SCHEMA,
            id: step as u64,
            replicate: 0,
            arm: Asker::Arm(ArmName::Blind),
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
            gains: [("math".parse().expect("known"), Estimate { value: 0.1, se: 0.3 })].into(),
            n: [("math".parse().expect("known"), 7)].into(),
            tokens: 9,
            slopes_sha256: Some("s".into()),
            status: Status::Ok,
        }
    }

    fn job(step: usize) -> Job {
        let recipe = darwin_merge::Recipe::blend("linear", "f", "m").build().expect("valid");
        Job {
            id: step as u64,
            replicate: 0,
            asker: Asker::Arm(ArmName::Blind),
            phase: Phase::Proxy,
            step,
            ask: Ask::new(
                recipe.into(),
                Work::Likelihood,
                Window { split: Split::Proxy, indices: Vec::new() },
            ),
        }
    }

    fn wanted<'a>(job: &'a Job, recipe: &'a str) -> Wanted<'a> {
        Wanted { job, recipe_sha256: recipe, items_sha256: "i" }
    }

    #[test]
    fn a_cut_off_line_is_dropped_and_the_rest_replayed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, &header()).expect("new").0;
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
            let mut again = Journal::open(&path, &header()).expect("reopens").0;
            for step in 0..2 {
                let recipe = format!("r{step}");
                if again.next_known(&wanted(&job(step), &recipe)).expect("same run").is_none() {
                    again.append(line(step)).expect("append");
                }
            }
            assert_eq!(std::fs::read(&path).expect("read"), whole, "cut at {cut}");
        }
    }

    #[test]
    fn another_runs_journal_is_put_aside_and_taken_back() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, &header()).expect("new").0;
        journal.append(line(0)).expect("append");
        let first = std::fs::read(&path).expect("read");
        let mother = Fingerprint::of("test", [("text", "another mother")]);
        let mut other = header();
        other.origin.models.insert("mother".into(), mother);
        other.run = other.origin.fingerprint();
        let (known, note) = Journal::known(&path, &other).expect("known");
        assert_eq!((known, std::fs::read(&path).expect("read")), (0, first.clone()));
        assert!(note.expect("a note").contains("of the mother"));
        let (mut second, note) = Journal::open(&path, &other).expect("another run");
        let note = note.expect("a note");
        assert!(note.contains("begun anew") && note.contains("of the mother"), "{note}");
        assert_eq!(second.next_known(&wanted(&job(0), "r0")).expect("empty"), None);
        let kept = dir.path().join(format!("journal.{}.jsonl", header().run.short()));
        assert_eq!(std::fs::read(&kept).expect("kept"), first);
        assert_eq!(Journal::known(&path, &header()).expect("known").0, 1);
        let (mut same, note) = Journal::open(&path, &header()).expect("the first again");
        assert!(note.expect("a note").contains("goes on after 1 candidates"));
        assert!(!kept.exists() && std::fs::read(&path).expect("read") == first);
        assert!(same.next_known(&wanted(&job(0), "another")).is_err());
    }

    #[test]
    fn a_damaged_line_is_named_with_what_can_be_kept() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, &header()).expect("new").0;
        (0..3).for_each(|step| journal.append(line(step)).expect("append"));
        let text = std::fs::read_to_string(&path).expect("read");
        let edited = text.replacen("\"r1\"", "\"r7\"", 1);
        darwin_core::fs::write_atomic(&path, edited.as_bytes()).expect("write");
        let error = Journal::open(&path, &header()).expect_err("damaged");
        assert!(error.to_string().contains("line 3 is damaged"), "{error}");
        let hint = darwin_core::Diagnose::hint(&error).expect("a hint");
        assert!(hint.contains("lines 1 to 2 are good"), "{hint}");
        let kept: String = edited.split_inclusive('\n').take(2).collect();
        darwin_core::fs::write_atomic(&path, kept.as_bytes()).expect("write");
        let mut again = Journal::open(&path, &header()).expect("what was kept").0;
        assert_eq!(again.next_known(&wanted(&job(0), "r0")).expect("same run"), Some(line(0)));
        (1..3).for_each(|step| again.append(line(step)).expect("append"));
        assert_eq!(std::fs::read_to_string(&path).expect("read"), text);
    }
}
