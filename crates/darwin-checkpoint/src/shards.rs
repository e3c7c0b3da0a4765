//! Which files make a checkpoint: the index, the shards, and whether they agree.

use crate::header::{Entry, read_header};
use crate::{Error, Problem};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

pub(crate) const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// A shard's file name with the tensors that the index expects in it (`None` without an index).
pub(crate) type Expected = (String, Option<Vec<String>>);

/// The shards of a folder with what the index says is in each.
pub(crate) fn shard_files(
    folder: &Path,
    problems: &mut Vec<Problem>,
) -> Result<Vec<Expected>, Error> {
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
    let bytes = std::fs::read(&index_path).map_err(|e| Error::io("read", &index_path, e))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| {
        Error::one(
            format!("{}: not a safetensors index: {e}", index_path.display()),
            "restore the file from the model's source",
        )
    })?;
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in index.weight_map {
        files.entry(file).or_default().push(tensor);
    }
    files.retain(|file, _| {
        let mut parts = Path::new(file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain {
            problems.push(Problem::new(
                format!("{}: names the file `{file}` outside the folder", index_path.display()),
                "shards lie beside their index; do not trust this download",
            ));
        }
        plain
    });
    Ok(files.into_iter().map(|(f, t)| (f, Some(t))).collect())
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

pub(crate) type Opened = (Vec<(PathBuf, File)>, Vec<Vec<Entry>>, Vec<u8>);

pub(crate) fn open_shards(
    folder: &Path,
    files: &[Expected],
    problems: &mut Vec<Problem>,
) -> Result<Opened, Error> {
    let mut opened: Opened = Default::default();
    for (file, expected) in files {
        let path = folder.join(file);
        let mut handle = match File::open(&path) {
            Ok(handle) => handle,
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("open", &path, e));
            }
            Err(e) => {
                problems.push(Problem::new(
                    format!("{}: shard is missing ({e})", path.display()),
                    "download the missing shard",
                ));
                continue;
            }
        };
        match read_header(&path, &mut handle) {
            Ok(header) => {
                if let Some(expected) = expected {
                    compare_with_index(&path, &header.entries, expected, problems);
                }
                opened.2.extend_from_slice(&header.raw);
                opened.1.push(header.entries);
                opened.0.push((path, handle));
            }
            Err(found) => problems.extend(found),
        }
    }
    Ok(opened)
}

fn compare_with_index(
    path: &Path,
    entries: &[Entry],
    expected: &[String],
    problems: &mut Vec<Problem>,
) {
    let mut found: Vec<&str> = entries.iter().map(|e| e.name.as_str()).collect();
    found.sort_unstable();
    let hint = "index and shards are of different downloads: download both again";
    for name in expected {
        if found.binary_search(&name.as_str()).is_err() {
            problems.push(Problem::new(
                format!("{}: tensor `{name}` is in the index but not in the shard", path.display()),
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
