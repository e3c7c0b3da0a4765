//! Which files make a checkpoint: the index, the shards, and whether they agree.

use crate::error::{Problems, cut};
use crate::header::{Entry, MAX_TENSORS, read_header};
use crate::{Error, Problem};
use darwin_core::Fault;
use darwin_core::fs::{MAX_JSON_BYTES, open_regular, read_bounded};
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

pub(crate) const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// A shard's file name with the tensors that the index expects in it (`None` without an index).
pub(crate) type Expected = (String, Option<Vec<String>>);

/// The shards of a folder with what the index says is in each.
pub(crate) fn shard_files(folder: &Path, problems: &mut Problems) -> Result<Vec<Expected>, Error> {
    let index_path = folder.join(INDEX);
    if !index_path.exists() {
        if folder.join(SINGLE).exists() {
            return Ok(vec![(SINGLE.to_owned(), None)]);
        }
        problems.push(Problem::new(
            format!("{}: neither {SINGLE} nor {INDEX}", folder.display()),
            "convert pickle checkpoints to safetensors first",
        ));
        return Ok(Vec::new());
    }
    let bytes =
        read_bounded(&index_path, MAX_JSON_BYTES).map_err(|e| Error::io("read", &index_path, e))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| {
        Error::one(
            format!("{}: not a safetensors index: {e}", index_path.display()),
            "restore the file from the model's source",
        )
    })?;
    let mut files = index.weight_map.0;
    files.retain(|file, _| {
        let mut parts = Path::new(file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain {
            problems.push(Problem::new(
                format!(
                    "{}: names the file `{}` outside the folder",
                    index_path.display(),
                    cut(file)
                ),
                "shards lie beside their index; do not trust this download",
            ));
        }
        plain
    });
    Ok(files.into_iter().map(|(f, t)| (f, Some(t))).collect())
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: Files,
}

/// The tensors of each file.
struct Files(BTreeMap<String, Vec<String>>);

impl<'de> serde::Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsFiles;
        impl<'de> Visitor<'de> for AsFiles {
            type Value = Files;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors and their files")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Files, A::Error> {
                let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
                let mut tensors = 0;
                while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                    tensors += 1;
                    if tensors > MAX_TENSORS {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    }
                    files.entry(file).or_default().push(tensor);
                }
                Ok(Files(files))
            }
        }
        deserializer.deserialize_map(AsFiles)
    }
}

/// The largest model that is read, bytes of all its shards: no sum of sizes overflows below it.
pub(crate) const MAX_BYTES: u64 = 1 << 47;

/// Shards, and the tensors of each.
pub(crate) type Opened = (Vec<(PathBuf, File)>, Vec<Vec<Entry>>);

/// # Errors
/// [`Error::Io`] where it is not the file's fault that it cannot be opened.
pub(crate) fn open_shards(
    folder: &Path,
    files: &[Expected],
    problems: &mut Problems,
) -> Result<Opened, Error> {
    let mut opened: Opened = Default::default();
    let (mut tensors, mut bytes) = (0, 0_u64);
    for (file, expected) in files {
        let path = folder.join(file);
        let mut handle = match open_regular(&path) {
            Ok(handle) => handle,
            Err(e) if Fault::of_io(&e) != Fault::User => return Err(Error::io("open", &path, e)),
            Err(e) => {
                problems.push(unopened(&path, &e));
                continue;
            }
        };
        bytes = bytes.saturating_add(handle.metadata().map_or(0, |about| about.len()));
        match read_header(&path, &mut handle) {
            Ok(entries) => {
                if let Some(expected) = expected {
                    compare_with_index(&path, &entries, expected, problems);
                }
                tensors += entries.len();
                opened.1.push(entries);
                opened.0.push((path, handle));
            }
            Err(found) => problems.extend(found),
        }
        if tensors > MAX_TENSORS || bytes > MAX_BYTES {
            let text = format!(
                "{}: more than {MAX_TENSORS} tensors or {MAX_BYTES} bytes",
                folder.display()
            );
            return Err(Error::one(text, "no model is that large: get it from its source again"));
        }
    }
    Ok(opened)
}

fn unopened(path: &Path, error: &std::io::Error) -> Problem {
    if error.kind() == std::io::ErrorKind::NotFound {
        let text = format!("{}: shard is missing ({error})", path.display());
        return Problem::new(text, "download the missing shard");
    }
    let text = format!("{}: is no shard: {error}", path.display());
    Problem::new(text, "restore the file from the model's source")
}

fn compare_with_index(
    path: &Path,
    entries: &[Entry],
    expected: &[String],
    problems: &mut Problems,
) {
    let mut found: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
    found.sort_unstable();
    let hint = "index and shards are of different downloads: download both again";
    for name in expected {
        if found.binary_search(&name.as_str()).is_err() {
            problems.push(Problem::new(
                format!(
                    "{}: tensor `{}` is in the index but not in the shard",
                    path.display(),
                    cut(name)
                ),
                hint,
            ));
        }
    }
    let mut listed: Vec<&str> = expected.iter().map(String::as_str).collect();
    listed.sort_unstable();
    for name in found {
        if listed.binary_search(&name).is_err() {
            problems.push(Problem::new(
                format!("{}: tensor `{name}` is in the shard but not in the index", path.display()),
                hint,
            ));
        }
    }
}

pub(crate) fn no_config(folder: &Path, error: std::io::Error) -> Error {
    if error.kind() != std::io::ErrorKind::NotFound {
        return Error::io("read", &folder.join("config.json"), error);
    }
    if folder.exists() {
        Error::one(
            format!("{}: no config.json", folder.display()),
            "give a folder with a Hugging Face checkpoint (config.json, *.safetensors, tokenizer)",
        )
    } else {
        Error::one(format!("{}: no such folder", folder.display()), "check the path")
    }
}
