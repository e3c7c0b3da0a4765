//! Models and tokenizers that lie in GGUF files.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests may fail and say so")]
#![allow(clippy::disallowed_methods, reason = "a test may write plainly and read the environment")]

mod smollm2;
mod tiny;
mod tokenizers;

use serde_json::Value;
use std::path::PathBuf;

fn golden(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../darwin-testkit/fixtures/golden").join(file)
}

fn record(file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(file)).unwrap()).unwrap()
}

fn ids(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}
