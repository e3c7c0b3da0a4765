//! Targets that read what Darwin itself wrote.

use crate::scratch::{folder, put};
use darwin_core::Fingerprint;
use darwin_core::files::{
    Chain, Comparison, DiagnosisFile, FileHashes, Health, JournalText, MergeManifest, Origin,
    Profile, RunHeader, SCHEMA, Scores,
};
use darwin_evolve::Journal;
use darwin_profile::{comparison_summary, health_summary, literal_mri, profile_summary};
use serde::de::DeserializeOwned;

/// A run's journal.
pub(crate) fn journal(input: &[u8]) {
    let read = JournalText::read(input);
    match &read.damaged {
        None => assert_eq!(read.whole + read.torn, input.len()),
        Some(_) => assert!(read.whole + read.torn <= input.len()),
    }
    let header = read.header.clone().unwrap_or_else(any_header);
    let path = folder("journal", |_| ()).join("journal.jsonl");
    put(&path, input);
    let known = Journal::known(&path, &header);
    let opened = Journal::open(&path, &header);
    assert_eq!(known.is_ok(), opened.is_ok(), "both look at the same file");
    assert_eq!(opened.is_ok(), read.damaged.is_none(), "what is damaged is not gone on with");
    drop(opened);
    let after = JournalText::read(&std::fs::read(&path).expect("written above"));
    if read.damaged.is_none() {
        assert_eq!((after.torn, &after.damaged), (0, &None), "an open journal is whole");
        assert_eq!(after.lines.len(), read.lines.len(), "no line is lost");
        let mut chain = Chain::default();
        assert!(chain.seal(&header).is_ok());
    }
}

fn any_header() -> RunHeader {
    let origin = Origin::now([], [], Fingerprint::of("fuzz", [("text", "text")]));
    RunHeader { schema: SCHEMA, run: origin.fingerprint(), origin, seeds: [].into() }
}

/// The files of a run's folder that the first byte, a digit in the corpus, chooses from.
const FILES: [&str; 9] = [
    "father.profile.json",
    "comparison.json",
    "health.json",
    "child/manifest.json",
    "scores.json",
    "journal.jsonl",
    "best.yaml",
    "run.json",
    "diagnosis.json",
];

fn chosen(first: u8) -> &'static str {
    FILES[usize::from(first.wrapping_sub(b'0')) % FILES.len()]
}

/// A kept file by its type, and the report of a folder with it alone.
pub(crate) fn kept(input: &[u8]) {
    let Some((first, input)) = input.split_first() else { return };
    let file = chosen(*first);
    let run = folder("kept", |folder| {
        std::fs::create_dir_all(folder.join("child")).expect("a folder for temporary files");
    });
    let path = run.join(file);
    put(&path, input);
    typed(file, input);
    let page = darwin_report::html(&run);
    let card = darwin_report::model_card(&run);
    std::fs::remove_file(&path).expect("written above");
    assert!(page.is_ok_and(|page| page.ends_with("</html>\n") || page.contains("</html>")));
    assert!(card.is_ok(), "a card of what is there");
}

/// Reads a file as its type and prints it; whether it is of that type.
fn typed(file: &str, input: &[u8]) -> bool {
    fn read<T: DeserializeOwned>(input: &[u8], print: impl FnOnce(&T)) -> bool {
        serde_json::from_slice(input).map(|value| print(&value)).is_ok()
    }
    match file {
        "father.profile.json" => read(input, |profile: &Profile| {
            if profile.check(profile.layers.len()).is_ok() {
                let _ = profile_summary(profile);
                let _ = literal_mri(profile, 0.5);
            }
        }),
        "comparison.json" => read(input, |comparison: &Comparison| {
            if comparison.check(comparison.layers.len()).is_ok() {
                let _ = comparison_summary(comparison);
            }
        }),
        "health.json" => read(input, |health: &Health| drop(health_summary(health))),
        "child/manifest.json" => read(input, |_: &MergeManifest| ()),
        "scores.json" => read(input, |_: &Scores| ()),
        "diagnosis.json" => read(input, |_: &DiagnosisFile| ()),
        "journal.jsonl" => JournalText::read(input).damaged.is_none(),
        _ => read(input, |_: &FileHashes| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_of_this_schema() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/kept");
        let mut whole = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let path = entry.unwrap().path();
            let seed = std::fs::read(&path).unwrap();
            let (file, text) = (chosen(seed[0]), &seed[1..]);
            if file.replace('/', "-") != path.file_name().unwrap().to_string_lossy()
                || ["best.yaml", "run.json"].contains(&file)
            {
                continue;
            }
            assert!(
                typed(file, text),
                "{file}: make the seeds anew, `cargo run -p darwin-fuzz --example seed`"
            );
            let first: serde_json::Value =
                serde_json::Deserializer::from_slice(text).into_iter().next().unwrap().unwrap();
            assert_eq!(first["schema"], SCHEMA, "{file}: make the seeds anew");
            whole += 1;
        }
        assert_eq!(whole, FILES.len() - 2);
    }
}
