//! A real language model: SmolLM2-135M-Instruct gives transformers' tokens and likelihoods
//! (tools/fetch/smollm2.sh, tools/oracle/smollm2.py). Without the file the tests say so and pass;
//! where `DARWIN_SMOLLM2` names it, as tools/full.sh does, it must be there.

use super::{ids, record};
use darwin_checkpoint::AnyModel;
use darwin_core::Cancel;
use darwin_engine::{GenerateOptions, Model, ScoreItem, Text, generate, score};
use serde_json::Value;
use std::path::PathBuf;

const FILE: &str = "target/models/SmolLM2-135M-Instruct.Q4_1.gguf";

/// Largest difference of a token's negative log-likelihood, nats.
const LIMIT: f64 = 1e-4;

/// Where the file lies: `DARWIN_SMOLLM2`, or where the script puts it.
fn file() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("DARWIN_SMOLLM2").map(PathBuf::from) {
        assert!(named.is_file(), "DARWIN_SMOLLM2: {} is not there", named.display());
        return Some(named);
    }
    let found = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(FILE);
    if found.is_file() {
        return Some(found);
    }
    println!("skipped: {} is not there, run tools/fetch/smollm2.sh", found.display());
    None
}

fn golden(key: &str) -> Vec<Value> {
    record("smollm2/golden.json")[key].as_array().unwrap().clone()
}

fn text_of(case: &Value) -> &str {
    case["text"].as_str().unwrap()
}

#[test]
fn texts_become_the_same_tokens() {
    let Some(file) = file() else { return };
    let text = Text::open(&file).unwrap();
    for case in golden("strings") {
        let found = text.encode(text_of(&case)).unwrap();
        assert_eq!(found, ids(&case["ids"]), "{:?}", text_of(&case));
    }
    for case in golden("prompts") {
        assert_eq!(text.chat(text_of(&case), false).unwrap(), case["chat"].as_str().unwrap());
    }
    assert_eq!(text.stop_ids(), [2]);
}

#[test]
fn prompts_are_continued_as_transformers_continues_them() {
    let Some(file) = file() else { return };
    let text = Text::open(&file).unwrap();
    let model = Model::load(&AnyModel::open(&file).unwrap()).unwrap();
    let (mut prompts, mut wanted) = (Vec::new(), Vec::new());
    for case in golden("prompts") {
        for (prompt, answer) in
            [(text_of(&case), "plain"), (case["chat"].as_str().unwrap(), "templated")]
        {
            prompts.push(text.encode(prompt).unwrap());
            wanted.push(ids(&case[answer]));
        }
    }
    let options = GenerateOptions { max_new_tokens: wanted[0].len(), stop: vec![] };
    let found = generate(&model, &prompts, &[], &options, &Cancel::default()).unwrap();
    assert_eq!((found.len(), wanted[0].len()), (20, 32));
    for ((prompt, found), wanted) in prompts.iter().zip(&found).zip(&wanted) {
        assert_eq!(found, wanted, "{}", text.decode(prompt, false));
    }
}

#[test]
fn likelihoods_are_those_of_transformers() {
    let Some(file) = file() else { return };
    let text = Text::open(&file).unwrap();
    let model = Model::load(&AnyModel::open(&file).unwrap()).unwrap();
    let cases = golden("texts");
    let item = |case: &Value| {
        let ids = text.encode(text_of(case)).unwrap();
        ScoreItem { prompt: ids[..1].to_vec(), answer: ids[1..].to_vec() }
    };
    let items: Vec<ScoreItem> = cases.iter().map(item).collect();
    let scores = score(&model, &items, &Cancel::default()).unwrap();
    let (mut worst, mut tokens) = (0.0_f64, 0);
    for (case, score) in cases.iter().zip(&scores) {
        let wanted = case["nll"].as_array().unwrap();
        assert_eq!(score.logprobs.len(), wanted.len());
        for (found, wanted) in score.logprobs.iter().zip(wanted) {
            worst = worst.max((f64::from(-found) - wanted.as_f64().unwrap()).abs());
            tokens += 1;
        }
    }
    println!("{tokens} tokens, largest difference {worst:.1e} nats");
    assert!(tokens > 250 && worst < LIMIT, "{tokens} tokens, {worst:e} nats");
}
