//! Models whose values overflow: each way to run them says in which layer and component, whatever the
//! number of threads, and at which token.

use darwin_checkpoint::{MemorySource, TensorSource};
use darwin_core::{Cancel, NoProgress};
use darwin_engine::{
    Batch, CandidateSet, Error, GenerateOptions, Interventions, Model, NoTap, NonFinite, Room,
    ScoreItem, Sequence, Site, Stream, Sweep, generate, score,
};
use darwin_testkit::{edited, tiny_llama, tiny_qwen3_moe, tiny_qwen35};

/// A model whose tensors of a layer with such names are so many times as large.
fn grown(model: &MemorySource, layer: usize, names: &[&str], factor: f64) -> MemorySource {
    let prefix = format!("layers.{layer}.");
    let named = |name: &str| match name.strip_prefix(&prefix) {
        Some(rest) => names.iter().any(|n| rest.starts_with(n)),
        None => names.contains(&name),
    };
    let mut met = 0;
    let grown = edited(model, "grown", |info, values| {
        if named(&info.name) {
            met += 1;
            let most = f64::from(f32::MAX);
            let grow = |v: f32| (f64::from(v) * factor).clamp(-most, most) as f32;
            values.iter_mut().for_each(|v| *v = grow(*v));
        }
    });
    assert!(met > 0, "{names:?}");
    grown
}

/// Every value of the tensors is so large.
fn filled(model: &MemorySource, name: &str, value: f32) -> MemorySource {
    edited(model, "filled", |info, values| {
        if info.name == name {
            values.fill(value);
        }
    })
}

/// What breaks: a model, and where its values stop being finite.
fn cases() -> Vec<(MemorySource, Option<usize>, &'static str)> {
    let (hybrid, moe, dense) = (tiny_qwen35(1), tiny_qwen3_moe(1), tiny_llama(1));
    let experts = ["mlp.experts.gate_up_proj"];
    let mlp = ["mlp.gate_proj", "mlp.up_proj"];
    let shared = ["mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"];
    vec![
        (filled(&hybrid, "embed_tokens.weight", f32::INFINITY), None, "embedding"),
        (grown(&hybrid, 1, &["input_layernorm.weight"], 1e39), Some(1), "mixer"),
        (grown(&hybrid, 3, &["input_layernorm.weight"], 1e39), Some(3), "mixer"),
        (grown(&hybrid, 2, &["mlp.gate.weight"], 1e39), Some(2), "router"),
        (grown(&hybrid, 1, &experts, 1e25), Some(1), "routed"),
        (grown(&hybrid, 2, &shared, 1e25), Some(2), "shared"),
        (grown(&hybrid, 0, &["lm_head.weight"], 1e39), None, "head"),
        (grown(&moe, 0, &["mlp.gate.weight"], 1e39), Some(0), "router"),
        (grown(&moe, 2, &experts, 1e25), Some(2), "routed"),
        (grown(&moe, 1, &mlp, 1e25), Some(1), "routed"),
        (grown(&dense, 3, &mlp, 1e25), Some(3), "routed"),
        (grown(&dense, 2, &["self_attn.v_proj", "self_attn.o_proj"], 1e30), Some(2), "mixer"),
    ]
}

fn found<T: std::fmt::Debug>(result: Result<T, Error>) -> NonFinite {
    match result {
        Err(Error::NotFinite(found)) => found,
        other => panic!("{other:?}"),
    }
}

fn ids(n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 37 + seed * 11) % 250) as u32).collect()
}

#[test]
fn the_place_is_named_however_the_model_is_run() {
    let prompts: Vec<Vec<u32>> = (0..5).map(|i| ids(9 + 60 * i, i)).collect();
    let items: Vec<ScoreItem> =
        prompts.iter().map(|p| ScoreItem { prompt: p.clone(), answer: ids(4, 3) }).collect();
    let all = || Batch::new(prompts.iter().cloned().map(Sequence::new).collect());
    let options = GenerateOptions { max_new_tokens: 3, stop: vec![] };
    let never = Cancel::default();
    for (source, layer, component) in cases() {
        let model = Model::load(&source).unwrap();
        let mut seen: Vec<NonFinite> = Vec::new();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let place = format!("{layer:?} {component}");
                let is = |found: &NonFinite| {
                    assert_eq!((found.layer, found.component), (layer, component), "{found}");
                    assert!(!found.value.is_finite(), "{place}");
                    assert!(found.position < prompts[found.sequence].len() + 3, "{place}");
                };
                seen.push(found(score(&model, &items, &never)));
                is(&seen[seen.len() - 1]);
                is(&found(generate(&model, &prompts, &[], &options, &never)));
                let error = CandidateSet::new(vec![&source, &source])
                    .score(&items, &Room::default(), &NoProgress, &never)
                    .unwrap();
                error.scores.into_iter().for_each(|scores| is(&found(scores)));
                let run = |batch: Batch| {
                    let mut state = model.embed(&batch)?;
                    let layers = 0..model.config().num_hidden_layers;
                    model.run(&mut state, layers, &mut NoTap, &Interventions::new())
                };
                let stream = Stream::open(&source).unwrap();
                let room = Room::default();
                let batches = [Batch::new(vec![Sequence::new(ids(3, 1))]), all()];
                let mut sweep = Sweep::begin(&stream, &batches, &room).unwrap();
                let swept = sweep.run(&mut [NoTap, NoTap], &NoProgress, &never);
                if component == "head" {
                    // whoever asks for logits looks at them
                    run(all()).unwrap();
                    swept.unwrap();
                } else {
                    is(&found(run(all())));
                    let swept = found(swept);
                    assert_eq!((swept.layer, swept.component), (layer, component));
                    assert_eq!(swept.sequence, 0, "batches are counted together");
                }
            });
        }
        assert_eq!(seen[0].place(), seen[1].place(), "1 and 3 threads");
    }
}

/// One token alone is at fault, in the last of three sequences.
#[test]
fn sequence_and_position_are_those_of_the_token() {
    let bad = 249;
    let model = edited(&tiny_llama(1), "one row", |info, values| {
        if info.name == "embed_tokens.weight" {
            let width = info.cols();
            values[bad * width..(bad + 1) * width].fill(f32::NAN);
        }
    });
    let mut late = ids(300, 2);
    late.iter_mut().for_each(|id| *id %= 200);
    late[217] = bad as u32;
    let clean: Vec<u32> = ids(40, 1).into_iter().map(|id| id % 200).collect();
    let model = Model::load(&model).unwrap();
    let never = Cancel::default();
    let prompts = [clean.clone(), clean.clone(), late.clone()];
    let options = GenerateOptions { max_new_tokens: 2, stop: vec![] };
    let at = |found: NonFinite| (found.sequence, found.position, found.component);
    let generated = found(generate(&model, &prompts, &[], &options, &never));
    assert_eq!(at(generated), (2, 217, "embedding"));
    // the items share a beginning, so that the token lies in a part that goes on from caches
    let item = |prompt: &[u32]| ScoreItem { prompt: prompt.to_vec(), answer: vec![7, 8] };
    let items = [item(&late[..150]), item(&late[..100]), item(&late)];
    assert_eq!(at(found(score(&model, &items, &never))), (2, 217, "embedding"));
    assert!(score(&model, &items[..2], &never).is_ok());
}

/// A sum of finite terms overflows, and so do logits of which every other one is infinite.
#[test]
fn sums_and_single_logits_count_too() {
    let source = tiny_llama(1);
    let model = Model::load(&source).unwrap();
    let batch = Batch::new(vec![Sequence::new(ids(5, 1))]);
    let width = model.config().hidden_size;
    let mut large = Interventions::new();
    large.replace(Site::ResidIn, 1, vec![3e38; 5 * width]);
    large.replace(Site::MixerOut, 1, vec![3e38; 5 * width]);
    let mut state = model.embed(&batch).unwrap();
    let found_in = found(model.run(&mut state, 0..4, &mut NoTap, &large));
    assert_eq!((found_in.layer, found_in.component), (Some(1), "residual stream"));
    assert!(found_in.value == f32::INFINITY && found_in.position == 0);

    // one logit is negative infinity: no sum of exponentials would notice
    let source = edited(&source, "low", |info, values| {
        if info.name == "lm_head.weight" {
            let width = info.cols();
            values[..width].fill(f32::NEG_INFINITY);
        } else if info.name == "norm.weight" {
            values.fill(0.0);
            values[0] = 1.0;
        }
    });
    let model = Model::load(&source).unwrap();
    let item = ScoreItem { prompt: ids(4, 1), answer: vec![9, 10] };
    let error = found(score(&model, &[item], &Cancel::default()));
    assert_eq!((error.layer, error.component), (None, "head"));
}

/// Logits near the largest number: all alike, so every token has the probability 1 / vocabulary.
#[test]
fn large_logits_have_the_likelihood_that_they_have() {
    // the final norm gives the same vector for every token, the head the same logit for every id
    let source = filled(&tiny_llama(1), "lm_head.weight", 1e30);
    let model = Model::load(&source).unwrap();
    let item = ScoreItem { prompt: ids(4, 1), answer: vec![9, 10, 11] };
    let scores = score(&model, std::slice::from_ref(&item), &Cancel::default()).unwrap();
    let want = 3.0 * (model.config().vocab_size as f64).ln();
    assert!((scores[0].nll - want).abs() < 1e-5, "{} {want}", scores[0].nll);
    let sources: Vec<&dyn TensorSource> = vec![&source];
    let set = CandidateSet::new(sources)
        .score(&[item], &Room::default(), &NoProgress, &Cancel::default())
        .unwrap();
    assert_eq!(set.scores[0].as_ref().unwrap(), &scores);
}

/// A candidate that overflows fails alone, before and after the others share its states.
#[test]
fn one_candidate_of_a_set_fails_alone() {
    let good = tiny_qwen35(1);
    let late = grown(&good, 3, &["input_layernorm.weight"], 1e39);
    let early = grown(&good, 0, &["mlp.gate.weight"], 1e39);
    let head = grown(&good, 0, &["lm_head.weight"], 1e39);
    let items: Vec<ScoreItem> =
        (0..90).map(|i| ScoreItem { prompt: ids(60 + i, i), answer: ids(3, 2) }).collect();
    let never = Cancel::default();
    let alone = score(&Model::load(&good).unwrap(), &items, &never).unwrap();
    let sources: Vec<&dyn TensorSource> = vec![&late, &good, &early, &good, &head];
    let set =
        CandidateSet::new(sources).score(&items, &Room::default(), &NoProgress, &never).unwrap();
    let mut scores = set.scores.into_iter();
    let mut next = || scores.next().unwrap();
    assert_eq!(found(next()).layer, Some(3));
    assert_eq!(next().unwrap(), alone);
    assert_eq!(found(next()).component, "router");
    assert_eq!(next().unwrap(), alone);
    assert_eq!(found(next()).component, "head");
}
