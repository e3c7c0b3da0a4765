//! Candidates that fail: by an error, a panic, a loss that is not finite. The search goes on.

use super::*;
use crate::run::Ui;
use crate::{RunConfig, line_recipe};
use darwin_checkpoint::{HashCache, MemorySource, Tapped};
use darwin_core::Progress;
use darwin_engine::Cost;
use darwin_eval::{Candidate, ItemResult, ItemSet, Likelihood};
use darwin_merge::Recipe;
use darwin_testkit::{ExpertLayout, edited, sibling, tiny_qwen35, write_model};
use std::path::Path;

const LAYERS: usize = 4;

/// Routed experts with the same function, whose inner values are so many times as large.
fn scaled(model: &MemorySource, inner: f32, outer: f32) -> MemorySource {
    edited(model, "scaled", |info, values| {
        let factor = match info.name.rsplit('.').next() {
            Some("gate_up_proj") => inner,
            Some("down_proj") if info.name.contains("mlp.experts") => outer,
            _ => 1.0,
        };
        values.iter_mut().for_each(|v| *v *= factor);
    })
}

/// Two parents whose own values are finite, while the experts of what lies between them overflow.
fn setting(folder: &Path) -> RunConfig {
    let father = tiny_qwen35(1);
    let mother = sibling(&father, "mother", 2, 0.1);
    let (father, mother) = (scaled(&father, 1e17, 1e-34), scaled(&mother, 1e-10, 1e20));
    write_model(&folder.join("father"), &father, ExpertLayout::Fused, 1 << 20);
    write_model(&folder.join("mother"), &mother, ExpertLayout::Fused, 1 << 20);
    let item = |i: usize| {
        format!(
            r#"{{"id":"p{i}","domain":"math","family":"f","question":"{i} + 1","target":"{i}","formats":["direct"]}}"#
        )
    };
    let lines: Vec<String> = (0..4).map(item).collect();
    std::fs::create_dir(folder.join("items")).expect("create");
    for split in ["calibration", "proxy", "search", "selection", "test"] {
        let lines: Vec<String> = lines
            .iter()
            .map(|line| {
                if split == "proxy" {
                    line.clone()
                } else {
                    line.replace("\"id\":\"p", &format!("\"id\":\"{split}"))
                }
            })
            .collect();
        let path = folder.join(format!("items/{split}.jsonl"));
        darwin_core::fs::write_atomic(&path, lines.join("\n").as_bytes()).expect("write");
    }
    let path = folder.join("run.yaml");
    let text = format!(
        "title: tiny\nfather: {0}/father\nmother: {0}/mother\nitems: {0}/items\nout: {0}/run\n\
         calibration: {{ per_domain: 4 }}\nproxy: {{ per_domain: 4, steps: 26 }}\n\
         real: {{ per_domain: 2, steps: 14 }}\nselection: {{ per_domain: 2, top: 1 }}\n\
         test: {{ per_domain: 3 }}\narms: [line]\n",
        folder.display()
    );
    darwin_core::fs::write_atomic(&path, text.as_bytes()).expect("write");
    RunConfig::read(&path).expect("valid")
}

/// What an evaluator does instead of evaluating.
#[derive(Clone, Copy)]
enum Odd {
    Panics,
    /// On a thread of the pool, in the middle of loading the model.
    PanicsInThePool,
    Errs,
    /// Gives this loss.
    Loses(f64),
}

struct Evaluates {
    odd: Odd,
    items: ItemSet,
}

impl Evaluator for Evaluates {
    fn kind(&self) -> Kind {
        Kind::Proxy
    }

    fn items(&self) -> &ItemSet {
        &self.items
    }

    fn evaluate(
        &self,
        candidates: &[Candidate<'_>],
        _: &dyn Progress,
        _: &Cancel,
    ) -> Result<Vec<Result<Evaluation, darwin_eval::Error>>, darwin_eval::Error> {
        let result = match self.odd {
            Odd::Panics => panic!("an evaluator of number {}", 7),
            Odd::PanicsInThePool => {
                // layers are read by the threads of the pool
                let source = Tapped::new(candidates[0].source, |plan, _, _| {
                    let name = &candidates[0].source.manifest().get(plan.id).name;
                    assert!(!name.starts_with("layers.2."), "`{name}` was read");
                });
                Model::load(&source).map(|_| unreachable!("layer 2 is read"))
            }
            Odd::Errs => Err(darwin_engine::Error::Shapes),
            Odd::Loses(nll) => {
                let loss = ItemResult { nll, ..ItemResult::default() };
                let mut results = vec![ItemResult::default(); self.items.items().len()];
                results[2] = loss;
                Ok(Evaluation { results, cost: Cost { tokens: 5, run: 5 } })
            }
        };
        Ok(vec![result.map_err(darwin_eval::Error::from)])
    }
}

#[test]
fn a_candidate_that_panics_errs_or_overflows_fails_alone() {
    let folder = tempfile::tempdir().expect("tempdir");
    let config = setting(folder.path());
    let line = |t: f64| line_recipe(&config, t, LAYERS).expect("valid");
    let (never, hashes) = (Cancel::default(), HashCache::default());
    let ui = Ui::silent(&never, &hashes);
    let parents = Parents::open(&config, ui).expect("two parents");
    let items = ItemSet::open(&config.items_of(Split::Proxy), Split::Proxy).expect("items");
    let proxy = Likelihood::new(items.clone(), &parents.text).expect("items");
    let run = |recipe: &Recipe, evaluator: &dyn Evaluator| {
        parents.evaluate(recipe, evaluator, &never).expect("the search goes on")
    };
    let before = run(&line(0.0), &proxy).expect("the father is finite");
    let failed = |recipe: &Recipe, evaluator: &dyn Evaluator, words: &str| {
        let error = run(recipe, evaluator).expect_err("it fails").to_string();
        assert!(error.contains(words), "`{words}` is not in: {error}");
    };
    failed(&line(0.5), &proxy, "not finite: layer 0, routed gives");
    for (odd, words) in [
        (Odd::Panics, "the candidate panicked: an evaluator of number 7"),
        (Odd::PanicsInThePool, "the candidate panicked: `layers.2."),
        (Odd::Errs, "of another shape"),
    ] {
        for _ in 0..3 {
            failed(&line(0.0), &Evaluates { odd, items: items.clone() }, words);
        }
        assert_eq!(run(&line(0.0), &proxy).expect("as before"), before);
    }
}

#[test]
fn a_loss_that_is_not_finite_has_no_score() {
    let folder = tempfile::tempdir().expect("tempdir");
    let config = setting(folder.path());
    let items = ItemSet::open(&config.items_of(Split::Proxy), Split::Proxy).expect("items");
    let scored = |nll: f64| {
        let evaluator = Evaluates { odd: Odd::Loses(nll), items: items.clone() };
        let evaluation = evaluator.evaluate(&[], &NoProgress, &Cancel::default());
        let evaluation = evaluation.expect("runs").remove(0).expect("results");
        values(&evaluator, &evaluation)
    };
    assert_eq!(scored(1.0), Ok(vec![1.0, 1.0, (-1.0_f64).exp(), 1.0]));
    // exp(-nll) of an infinite loss is a fine 0: the loss itself is what counts
    for nll in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(scored(nll), Err(format!("the loss of item p2 is {nll}")));
    }
}

/// The search's own candidates between these parents overflow: they are `failed` lines, and the
/// search goes on to its end.
#[test]
fn candidates_that_fail_are_lines_of_the_journal() {
    let folder = tempfile::tempdir().expect("tempdir");
    let config = setting(folder.path());
    let (never, hashes) = (Cancel::default(), HashCache::default());
    let parents = Parents::open(&config, Ui::silent(&never, &hashes)).expect("two parents");
    let items = Items::open(&config, &parents.text).expect("items");
    let header = crate::run::header(
        &config,
        parents.refs.each_ref().map(|parent| &parent.fingerprint),
        &items,
    );
    let path = folder.path().join("journal.jsonl");
    let (mut journal, _) = Journal::open(&path, &header.expect("a header")).expect("new");
    let slopes = folder.path().join("slopes");
    let mut executor = Executor::new(&parents, &items, &mut journal, slopes, &never);
    let job = |id: u64, t: f64| Job {
        id,
        replicate: 0,
        asker: darwin_core::files::Asker::Baseline,
        phase: darwin_core::files::Phase::Proxy,
        step: id as usize,
        ask: crate::job::Ask::new(
            line_recipe(&config, t, LAYERS).expect("valid").into(),
            Work::Likelihood,
            Window { split: Split::Proxy, indices: vec![0, 2] },
        ),
    };
    let finite = executor.answer(&job(0, 0.0), |_| Ok(0.5)).expect("goes on");
    assert!(finite.outcome.is_ok());
    let failed = executor.answer(&job(1, 0.5), |_| Ok(0.5)).expect("goes on");
    assert_eq!(failed.tokens, finite.tokens, "a failure counts like a pass");
    assert!(failed.outcome.is_err_and(|why| why.contains("not finite: layer 0")));
    let wild = executor.answer(&job(2, 0.0), |_| Ok(f64::NAN)).expect("goes on");
    assert_eq!(wild.outcome, Err("its fitness is NaN".to_owned()));
    drop(executor);
    let lines = journal.lines();
    assert_eq!(lines[0].status, Status::Ok);
    for line in &lines[1..] {
        assert!(matches!(line.status, Status::Failed(_)) && line.fitness == FAILED);
        let text = serde_json::to_string(line).expect("JSON");
        assert!(text.contains("\"fitness\":-1000000000.0"), "{text}");
    }
    // Replayed, they are what they were.
    let (mut journal, _) = Journal::open(
        &path,
        &crate::run::header(&config, parents.refs.each_ref().map(|p| &p.fingerprint), &items)
            .expect("a header"),
    )
    .expect("there");
    let mut again =
        Executor::new(&parents, &items, &mut journal, folder.path().join("slopes"), &never);
    let first = again.answer(&job(0, 0.0), |_| Ok(0.5)).expect("known");
    assert_eq!(first, finite);
    assert!(again.answer(&job(1, 0.5), |_| Ok(0.5)).expect("known").outcome.is_err());
}
