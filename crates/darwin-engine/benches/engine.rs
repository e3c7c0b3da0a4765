//! Speed of the engine in tokens per second, beside transformers' where its numbers are given.
//!
//!     cargo bench -p darwin-engine -- [MODEL] [--peer FILE] [--only WORD]
//!
//! MODEL is a checkpoint folder (a random model of the example parents' shape without it), FILE
//! the JSON line of `tools/oracle/bench_transformers.py`. The jobs are the peer's: a prefill of 8
//! sequences of 128 tokens, and the decoding of 64 tokens after a prompt of 16; then 64 prompts
//! decoded at once, and scoring. Median of 7 runs and at least
//! a second after a warm-up. `--only` runs the jobs with a
//! word in their name. Paths are taken from the root of the repository.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints and may fail")]

use darwin_checkpoint::{Checkpoint, Dtype, MemorySource, role_of};
use darwin_core::Cancel;
use darwin_core::keyed::{Key, Rng};
use darwin_engine::{
    Batch, GenerateOptions, Interventions, Model, NoTap, ScoreItem, Sequence, generate,
    score_counted,
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn main() {
    // cargo runs benchmarks in the crate's folder
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).unwrap();
    let (mut folder, mut peer, mut only) = (None, Value::Null, String::new());
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--peer" => {
                let file = std::fs::read(args.next().unwrap()).unwrap();
                peer = serde_json::from_slice(&file).unwrap();
            }
            "--only" => only = args.next().unwrap(),
            _ => folder = Some(arg),
        }
    }
    let model = match &folder {
        Some(folder) => Model::load(&Checkpoint::open(folder).unwrap()).unwrap(),
        None => Model::load(&random_parent()).unwrap(),
    };
    let threads = rayon::current_num_threads();
    println!("{}, {threads} threads", folder.as_deref().unwrap_or("random model"));

    type Job<'a> = (&'a str, Option<f64>, &'a dyn Fn() -> Rate);
    let jobs: [Job<'_>; 4] = [
        ("prefill, 8 x 128 tokens", peer["prefill"]["tokens_per_s"].as_f64(), &|| {
            let mut logits = Vec::new();
            measure(|| prefill(&model, &mut logits))
        }),
        ("decode, 1 sequence", peer["decode"]["tokens_per_s"].as_f64(), &|| {
            measure_decode(&model, 1)
        }),
        ("decode, 64 sequences", None, &|| measure_decode(&model, 64)),
        ("score, 512 items of 24 + 8", None, &|| measure(|| scoring(&model))),
    ];
    for (what, peer, rate) in jobs.iter().filter(|(what, ..)| what.contains(&only)) {
        report(what, rate(), *peer);
    }
}

/// Tokens per second, and per second that the process had a core: on a busy machine only the
/// second means something.
#[derive(Clone, Copy)]
struct Rate {
    wall: f64,
    cpu: f64,
}

fn report(what: &str, rate: Rate, peer: Option<f64>) {
    print!("{what}: {:.0} tokens/s ({:.0} per core second)", rate.wall, rate.cpu);
    match peer {
        Some(peer) => {
            println!(", transformers {peer:.0} tokens/s, ratio {:.1}", rate.wall / peer);
        }
        None => println!(),
    }
}

/// Seconds on a core so far, over all threads (Linux; 0 elsewhere).
fn cpu_seconds() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

/// Median rate of a job that returns its tokens.
fn measure(mut job: impl FnMut() -> u64) -> Rate {
    job();
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    let first = Instant::now();
    while wall.len() < 7 || first.elapsed() < Duration::from_secs(1) {
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        let tokens = job() as f64;
        wall.push(tokens / start.elapsed().as_secs_f64());
        cpu.push(tokens / (cpu_seconds() - cpu_start));
    }
    Rate { wall: median(wall), cpu: median(cpu) }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn ids(model: &Model, n: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(Key::new(seed, &["ids"]), 0);
    (0..n).map(|_| rng.below(model.config().vocab_size) as u32).collect()
}

/// All logits of 8 sequences of 128 tokens, as transformers computes them.
fn prefill(model: &Model, logits: &mut Vec<f32>) -> u64 {
    let batch = Batch::new((0..8).map(|i| Sequence::new(ids(model, 128, i))).collect());
    let mut state = model.embed(&batch).unwrap();
    let layers = 0..model.config().num_hidden_layers;
    model.run(&mut state, layers, &mut NoTap, &Interventions::new()).unwrap();
    let all: Vec<usize> = (0..batch.tokens()).collect();
    model.logits_into(&state, &all, logits);
    assert!(logits[0].is_finite());
    batch.tokens() as u64
}

/// New tokens per second after prompts of 16, the prompts' time taken off.
fn measure_decode(model: &Model, sequences: u64) -> Rate {
    let prompts: Vec<_> = (0..sequences).map(|i| ids(model, 16, i)).collect();
    let runs = |new: usize| {
        let options = GenerateOptions { max_new_tokens: new, stop: Vec::new() };
        let run = || generate(model, &prompts, &[], &options, &Cancel::default()).unwrap();
        measure(|| {
            run();
            1
        })
    };
    let (long, short, tokens) = (runs(65), runs(1), (64 * sequences) as f64);
    let rate = |long: f64, short: f64| tokens / (1.0 / long - 1.0 / short);
    Rate { wall: rate(long.wall, short.wall), cpu: rate(long.cpu, short.cpu) }
}

fn scoring(model: &Model) -> u64 {
    let item = |i| ScoreItem { prompt: ids(model, 24, i), answer: ids(model, 8, 1000 + i) };
    let items: Vec<ScoreItem> = (0..512).map(item).collect();
    let (_, cost) = score_counted(model, &items, &Cancel::default()).unwrap();
    cost.run
}

/// A random model of the example parents' shape.
fn random_parent() -> MemorySource {
    let layer_types: Vec<&str> =
        (0..8).map(|i| if i % 4 == 3 { "full_attention" } else { "linear_attention" }).collect();
    let mut shapes = vec![
        ("embed_tokens.weight".to_owned(), vec![2048, 128]),
        ("norm.weight".to_owned(), vec![128]),
        ("lm_head.weight".to_owned(), vec![2048, 128]),
    ];
    for (i, kind) in layer_types.iter().enumerate() {
        let mixer: &[(&str, &[usize])] = if *kind == "linear_attention" {
            &[
                ("linear_attn.in_proj_qkv.weight", &[256, 128]),
                ("linear_attn.in_proj_z.weight", &[128, 128]),
                ("linear_attn.in_proj_b.weight", &[4, 128]),
                ("linear_attn.in_proj_a.weight", &[4, 128]),
                ("linear_attn.conv1d.weight", &[256, 1, 4]),
                ("linear_attn.A_log", &[4]),
                ("linear_attn.dt_bias", &[4]),
                ("linear_attn.norm.weight", &[32]),
                ("linear_attn.out_proj.weight", &[128, 128]),
            ]
        } else {
            &[
                ("self_attn.q_proj.weight", &[256, 128]),
                ("self_attn.k_proj.weight", &[64, 128]),
                ("self_attn.v_proj.weight", &[64, 128]),
                ("self_attn.o_proj.weight", &[128, 128]),
                ("self_attn.q_norm.weight", &[32]),
                ("self_attn.k_norm.weight", &[32]),
            ]
        };
        let common: &[(&str, &[usize])] = &[
            ("input_layernorm.weight", &[128]),
            ("post_attention_layernorm.weight", &[128]),
            ("mlp.gate.weight", &[32, 128]),
            ("mlp.experts.gate_up_proj", &[32, 64, 128]),
            ("mlp.experts.down_proj", &[32, 128, 32]),
            ("mlp.shared_expert.gate_proj.weight", &[32, 128]),
            ("mlp.shared_expert.up_proj.weight", &[32, 128]),
            ("mlp.shared_expert.down_proj.weight", &[128, 32]),
            ("mlp.shared_expert_gate.weight", &[1, 128]),
        ];
        let named =
            |(name, shape): &(&str, &[usize])| (format!("layers.{i}.{name}"), shape.to_vec());
        shapes.extend(mixer.iter().chain(common).map(named));
    }
    let random = |(name, shape): (String, Vec<usize>)| {
        debug_assert!(role_of(&name).0.name() != "other");
        let mut rng = Rng::new(Key::new(1, &[&name]), 0);
        let sd = 1.0 / (*shape.last().unwrap() as f64).sqrt();
        let values = (0..shape.iter().product()).map(|_| (sd * rng.normal()) as f32).collect();
        (name, Dtype::F32, shape, values)
    };
    let config = json!({
        "model_type": "qwen3_5_moe_text", "hidden_size": 128, "num_hidden_layers": 8,
        "layer_types": layer_types, "num_experts": 32, "num_experts_per_tok": 4,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32,
        "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4, "vocab_size": 2048,
        "max_position_embeddings": 4096
    });
    let tensors = shapes.into_iter().map(random).collect();
    MemorySource::new("random", config, tensors).unwrap()
}
