//! The golden merges of `tools/parity/mergekit.py`.

#![allow(dead_code, unused_imports, unused_macros, clippy::unwrap_used, reason = "shared by tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A test for each pair: `each_pair!(check; llama_float32, ...)` calls `check("llama-float32")`.
macro_rules! each_pair {
    ($check:path; $($pair:ident),+ $(,)?) => {$(
        #[test]
        fn $pair() {
            let (shape, dtype) = stringify!($pair).rsplit_once('_').unwrap();
            $check(&format!("{shape}-{dtype}"));
        }
    )+};
}
pub(crate) use each_pair;

/// The folder of a pair.
pub(crate) fn pair(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../darwin-testkit/fixtures/golden/merge").join(name)
}

/// The recipes of a pair, by name.
pub(crate) fn cases(pair: &Path) -> Vec<String> {
    let mut cases: Vec<String> = std::fs::read_dir(pair.join("cases"))
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().path().file_name()?.to_str()?.to_owned()))
        .filter_map(|name| name.strip_suffix(".yml").map(str::to_owned))
        .collect();
    cases.sort();
    assert!(cases.len() >= 3);
    cases
}

/// All tensors of a safetensors file: name, dtype, bytes.
pub(crate) fn read_file(path: &Path) -> BTreeMap<String, (String, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    tensors
        .map(|(name, about)| {
            let at = |i: usize| 8 + length + about["data_offsets"][i].as_u64().unwrap() as usize;
            let dtype = about["dtype"].as_str().unwrap().to_owned();
            (name.clone(), (dtype, bytes[at(0)..at(1)].to_vec()))
        })
        .collect()
}
