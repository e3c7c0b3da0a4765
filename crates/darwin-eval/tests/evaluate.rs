//! Items, evaluators and score items with a tiny model.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests may be plain")]

use darwin_core::{Cancel, Diagnose, NoProgress, Split};
use darwin_engine::{Model, ScoreItem, Text, score};
use darwin_eval::{
    Candidate, Encoded, Evaluator, ExactMatch, Format, ItemSet, Kind, Likelihood, Scorer,
    score_items,
};
use darwin_testkit::{TINY_VOCAB, edited, tiny_qwen35, write_tiny_text};
use std::io::Write;
use std::path::Path;

const LINES: &str = r#"{"id":"a","domain":"math","family":"sum","question":"1+1","target":"2","trace":"1+1=2","formats":["direct","think"]}
{"id":"b","domain":"knowledge","family":"x","question":"capital of Peru","target":"Lima","formats":["direct"]}
{"id":"a","domain":"math","family":"sum","question":"1+1","target":"2","trace":"1+1=2","formats":["direct","think"]}
{"id":"c","domain":"math","family":"sum","question":"1+1","target":"2","trace":"1+1=2","formats":["direct","think"]}
"#;

fn text(folder: &Path) -> Text {
    write_tiny_text(folder).unwrap();
    Text::open(folder).unwrap()
}

fn items(folder: &Path) -> ItemSet {
    let path = folder.join("items.jsonl");
    std::fs::write(&path, LINES).unwrap();
    ItemSet::open(&path, Split::Search).unwrap()
}

fn error_of(line: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.jsonl");
    std::fs::write(&path, format!("\n{line}\n")).unwrap();
    let error = ItemSet::open(&path, Split::Test).unwrap_err();
    assert!(error.hint().is_some());
    error.to_string().replace(&path.display().to_string(), "FILE")
}

#[test]
fn duplicates_are_dropped_by_id_and_by_content() {
    let dir = tempfile::tempdir().unwrap();
    let set = items(dir.path());
    assert_eq!((set.items().len(), set.duplicates()), (2, 2));
    assert_eq!(set.take_per_domain(1).items().len(), 2);
    let zipped = dir.path().join("items.jsonl.gz");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(LINES.as_bytes()).unwrap();
    std::fs::write(&zipped, encoder.finish().unwrap()).unwrap();
    assert_eq!(ItemSet::open(&zipped, Split::Search).unwrap(), set);
    assert_ne!(ItemSet::open(&zipped, Split::Test).unwrap().fingerprint(), set.fingerprint());
}

#[test]
fn bad_lines_are_named_with_file_line_and_key() {
    assert_eq!(error_of("[1]"), "FILE:2: found a list, not an object");
    assert_eq!(
        error_of(r#"{"id":"a","domain":"maths","question":"","target":""}"#),
        "FILE:2: key `domain` is `maths`, which is no known domain"
    );
    assert_eq!(
        error_of(r#"{"id":"a","domain":"math","question":3,"target":""}"#),
        "FILE:2: key `question` is a number, not a string"
    );
    assert_eq!(
        error_of(r#"{"id":"a","domain":"math","question":"q"}"#),
        "FILE:2: key `target` is missing"
    );
    assert_eq!(
        error_of(r#"{"id":"a","domain":"math","question":"q","target":"t","formats":["thnk"]}"#),
        "FILE:2: key `formats` holds `thnk`"
    );
    assert!(error_of("{").starts_with("FILE:2: not JSON"));
}

#[test]
fn both_formats_are_encoded() {
    let dir = tempfile::tempdir().unwrap();
    let text = text(dir.path());
    let encoded = Encoded::new(&items(dir.path()), &text).unwrap();
    let item = &encoded.items()[0];
    assert_eq!(item.main_format(), Format::Think);
    let decode = |ids: &[u32]| text.decode(ids, false);
    assert!(decode(&item.main().prompt).ends_with("assistant\n<think>"));
    assert_eq!(decode(&item.main().answer), "1+1=2</think>2<|im_end|>");
    assert_eq!(decode(&item.direct.as_ref().unwrap().answer), "2<|im_end|>");
    assert_eq!(decode(&item.question), "1+1");
    assert!(encoded.truncated(9).items().iter().all(|i| i.main().tokens() <= 9));
}

#[test]
fn uniform_logits_cost_ln_vocab_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let text = text(dir.path());
    let flat = edited(&tiny_qwen35(1), "flat", |info, values| {
        if info.name == "lm_head.weight" {
            values.fill(0.0);
        }
    });
    let proxy = Likelihood::new(items(dir.path()), &text).unwrap();
    let candidates = [Candidate { name: "flat", source: &flat }];
    let found = proxy.evaluate(&candidates, &NoProgress, &Cancel::default()).unwrap();
    let found = found.into_iter().next().unwrap().unwrap();
    assert_eq!(proxy.kind(), Kind::Proxy);
    assert_eq!(found.cost.tokens, proxy.cost().tokens);
    assert!(found.cost.run <= proxy.cost().run);
    for (result, item) in found.results.iter().zip(proxy.encoded().items()) {
        let expected = item.main().answer.len() as f64 * (TINY_VOCAB as f64).ln();
        assert!((result.nll - expected).abs() < 1e-3);
        assert!((result.log_odds.unwrap() + expected).abs() < 1e-3);
    }
}

#[test]
fn exact_match_agrees_with_plain_greedy_decoding() {
    let dir = tempfile::tempdir().unwrap();
    let text = text(dir.path());
    let model = Model::load(&tiny_qwen35(1)).unwrap();
    let real = ExactMatch::new(items(dir.path()), &text, 12, true).unwrap();
    let found = real.evaluate_model(&model, &Cancel::default()).unwrap();
    assert_eq!(real.kind(), Kind::Real);
    assert!(found.results.iter().all(|r| r.exact == Some(false)), "a random model knows nothing");
    assert_eq!(found.results[0].closed, Some(false));
    assert_eq!(found.results[0].direct, Some(false));
    assert_eq!((found.results[1].closed, found.results[1].direct), (None, None));
    let proxy = Likelihood::new(items(dir.path()), &text).unwrap();
    let same = proxy.evaluate_model(&model, &Cancel::default()).unwrap();
    for (a, b) in found.results.iter().zip(&same.results) {
        assert_eq!(a.nll, b.nll);
    }
}

#[test]
fn score_items_come_as_text_or_as_ids() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("score.jsonl");
    std::fs::write(&path, "{\"id\":7,\"prompt_ids\":[1,2],\"answer_ids\":[3]}\n").unwrap();
    let unused = || panic!("no tokenizer is needed");
    let found = score_items::read(&path, unused).unwrap();
    assert_eq!(found[0].item, ScoreItem { prompt: vec![1, 2], answer: vec![3] });
    let model = Model::load(&tiny_qwen35(1)).unwrap();
    assert!(score(&model, &[found[0].item.clone()], &Cancel::default()).unwrap()[0].nll > 0.0);
    std::fs::write(&path, "{\"prompt\":\"ab\",\"answer\":\"c\"}\n").unwrap();
    let texts = score_items::read(&path, || Ok(text(dir.path()))).unwrap();
    assert_eq!(texts[0].item, ScoreItem { prompt: vec![97, 98], answer: vec![99] });
    std::fs::write(&path, "{\"prompt_ids\":[1],\"answer_ids\":[1.5]}\n").unwrap();
    let error = score_items::read(&path, || panic!("no tokenizer is needed")).unwrap_err();
    assert!(
        error.to_string().ends_with(":1: key `answer_ids` holds 1.5, not a token id"),
        "{error}"
    );
}
