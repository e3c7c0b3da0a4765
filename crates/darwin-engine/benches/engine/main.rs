//! Speed of the engine beside what the machine can do, and beside transformers' where its numbers
//! are given.
//!
//!     cargo bench -p darwin-engine -- [MODEL] [--peer FILE] [--only WORD] [--scaling]
//!
//! MODEL is a checkpoint folder or a GGUF file (a random model of the example parents' shape without it),
//! FILE the JSON line of `tools/bench/engine_transformers.py`. The jobs are the peer's: prefills of 8
//! sequences of 128 tokens and of 1 of 512, all logits (also the last token's alone, as llama.cpp computes them), and
//! the decoding of 64 tokens after prompts of 16, for 1 sequence and for 64; then scoring, and the routed experts alone.
//!
//! Prefills are stated as arithmetic (two operations for each weight that a token meets, and those
//! of attention and the delta rule, counted by shape) over that of fused multiply-adds in
//! registers, and over that of the fastest product of large matrices by others (torch where the peer's numbers are
//! given, matrixmultiply); decoding as bytes of the weights that a token meets over the speed of reading.
//! `--only` runs the jobs with a word in their name, `--scaling` prints how time grows instead.
//! Paths are taken from the root of the repository.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints and may fail")]

mod clock;
mod models;
mod peaks;
mod scaling;

use clock::{Rate, measure};
use darwin_checkpoint::{AnyModel, Dtype};
use darwin_core::Cancel;
use darwin_core::keyed::{Key, Rng};
use darwin_engine::{
    Batch, Config, GenerateOptions, Interventions, LayerKind, Model, NoTap, ScoreItem, Sequence,
    generate, measure as parts, score_counted,
};
use serde_json::Value;
use std::ops::Range;

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
            "--scaling" => return scaling::print(),
            _ => folder = Some(arg),
        }
    }
    let machine = Machine::measured(&peer);
    let model = match &folder {
        Some(path) => Model::load(&AnyModel::open(path).unwrap()).unwrap(),
        None => Model::load(&models::random(models::PARENT, Dtype::F32)).unwrap(),
    };
    let weights = model.config().active_weights();
    println!(
        "{}: a token meets {:.1} million weights",
        folder.as_deref().unwrap_or("random model"),
        weights as f64 / 1e6
    );

    type Job<'a> = (&'a str, &'a str, Yardstick, &'a dyn Fn() -> Rate);
    let (short, long) = (flops(model.config(), 128), flops(model.config(), 512));
    let jobs: [Job<'_>; 6] = [
        ("prefill, 8 x 128 tokens", "prefill_8x128", Yardstick::Flops(short), &|| {
            let mut logits = Vec::new();
            measure(|| prefill(&model, 8, 128, &mut logits))
        }),
        ("prefill, 1 x 512 tokens", "prefill_1x512", Yardstick::Flops(long), &|| {
            let mut logits = Vec::new();
            measure(|| prefill(&model, 1, 512, &mut logits))
        }),
        ("prefill, 1 x 512 tokens, logits of the last", "", Yardstick::None, &|| {
            let mut logits = Vec::new();
            measure(|| prefill_of(&model, 1, 512, &mut logits, 511..512))
        }),
        ("decode, 1 sequence", "decode_1", Yardstick::Bytes, &|| measure_decode(&model, 1)),
        ("decode, 64 sequences", "decode_64", Yardstick::None, &|| measure_decode(&model, 64)),
        ("score, 512 items of 24 + 8", "", Yardstick::None, &|| measure(|| scoring(&model))),
    ];
    for (what, key, yardstick, rate) in jobs.iter().filter(|(what, ..)| what.contains(&only)) {
        let rate = rate();
        report(what, rate, *yardstick, weights, &machine);
        compare(&peer, key, rate);
    }
    if "experts".contains(&only) && model.config().num_experts > 0 {
        experts(model.config(), &machine);
    }
}

/// What a job is held against.
#[derive(Clone, Copy)]
enum Yardstick {
    /// Operations of a token.
    Flops(f64),
    /// Each token reads the weights that it meets.
    Bytes,
    None,
}

/// What the machine can do.
struct Machine {
    arithmetic: Rate,
    /// The fastest product of large matrices that others make, GFLOP/s of all threads.
    product: f64,
    bandwidth: Rate,
}

impl Machine {
    fn measured(peer: &Value) -> Self {
        let (arithmetic, product) = (peaks::arithmetic(), peaks::product());
        let bandwidth = peaks::bandwidth();
        let of = |rate: Rate| 100.0 * rate.cpu / arithmetic.cpu;
        println!("{} threads", rayon::current_num_threads());
        println!(
            "multiply-adds in registers: {:.0} GFLOP/s ({:.1} per core second)",
            arithmetic.wall, arithmetic.cpu
        );
        println!(
            "product by matrixmultiply: {:.0} GFLOP/s ({:.1} per core second, {:.0} %)",
            product.wall,
            product.cpu,
            of(product)
        );
        let torch = peer["gemm_gflops"].as_f64().unwrap_or(0.0);
        if torch > 0.0 {
            println!("product by torch: {torch:.0} GFLOP/s");
        }
        println!("reading: {:.1} GB/s ({:.1} per core second)", bandwidth.wall, bandwidth.cpu);
        Self { arithmetic, product: product.wall.max(torch), bandwidth }
    }
}

fn report(what: &str, rate: Rate, yardstick: Yardstick, weights: usize, machine: &Machine) {
    print!("{what}: {:.1} tokens/s ({:.1} per core second)", rate.wall, rate.cpu);
    let (unit, of, peak) = match yardstick {
        Yardstick::Flops(each) => ("GFLOP/s", each / 1e9, machine.arithmetic),
        Yardstick::Bytes => ("GB/s", 2.0 * weights as f64 / 1e9, machine.bandwidth),
        Yardstick::None => return println!(),
    };
    println!(
        ", {:.1} {unit}: {:.0} % of the machine ({:.0} % per core second)",
        rate.wall * of,
        100.0 * rate.wall * of / peak.wall,
        100.0 * rate.cpu * of / peak.cpu
    );
    if let Yardstick::Flops(_) = yardstick {
        println!("    {:.0} % of the product of others", 100.0 * rate.wall * of / machine.product);
    }
}

fn compare(peer: &Value, key: &str, rate: Rate) {
    let best = &peer["best"][key];
    if let Some(speed) = best["tokens_per_s"].as_f64() {
        let experts = best["experts_implementation"].as_str().unwrap_or("no experts");
        let dtype = best["dtype"].as_str().unwrap_or_default();
        let ratio = rate.wall / speed;
        println!("    transformers {speed:.1} tokens/s ({dtype}, {experts}), ratio {ratio:.1}");
    }
}

/// Operations of a token of a sequence of so many: matrices, attention, the delta rule.
fn flops(config: &Config, tokens: usize) -> f64 {
    let of_layer = |(i, kind): (usize, &LayerKind)| match kind {
        LayerKind::LinearAttention => 8 * config.linear_key_head_dim * config.linear_value_dim(),
        LayerKind::FullAttention | LayerKind::SlidingAttention => {
            let seen = config.window(i).min(tokens).div_ceil(2);
            4 * seen * config.num_attention_heads * config.head_dim
        }
    };
    let mixing: usize = config.layer_types.iter().enumerate().map(of_layer).sum();
    (2 * config.active_weights() + mixing) as f64
}

pub(crate) fn ids(model: &Model, n: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(Key::new(seed, &["ids"]), 0);
    (0..n).map(|_| rng.below(model.config().vocab_size) as u32).collect()
}

/// All logits of some sequences, as transformers computes them.
pub(crate) fn prefill(model: &Model, sequences: u64, tokens: usize, logits: &mut Vec<f32>) -> f64 {
    prefill_of(model, sequences, tokens, logits, 0..sequences as usize * tokens)
}

/// Logits of some positions of the batch after a prefill.
fn prefill_of(
    model: &Model,
    sequences: u64,
    tokens: usize,
    logits: &mut Vec<f32>,
    positions: Range<usize>,
) -> f64 {
    let batch = (0..sequences).map(|i| Sequence::new(ids(model, tokens, i))).collect();
    let batch = Batch::new(batch);
    let mut state = model.embed(&batch).unwrap();
    let layers = 0..model.config().num_hidden_layers;
    model.run(&mut state, layers, &mut NoTap, &Interventions::new()).unwrap();
    let positions: Vec<usize> = positions.collect();
    model.logits_into(&state, &positions, logits);
    assert!(logits[0].is_finite());
    batch.tokens() as f64
}

/// New tokens per second after prompts of 16, the prompts' time taken off.
pub(crate) fn measure_decode(model: &Model, sequences: u64) -> Rate {
    let prompts: Vec<_> = (0..sequences).map(|i| ids(model, 16, i)).collect();
    let runs = |new: usize| {
        let options = GenerateOptions { max_new_tokens: new, stop: Vec::new() };
        let run = || generate(model, &prompts, &[], &options, &Cancel::default()).unwrap();
        measure(|| {
            run();
            1.0
        })
    };
    let (long, short, tokens) = (runs(65), runs(1), (64 * sequences) as f64);
    let rate = |long: f64, short: f64| tokens / (1.0 / long - 1.0 / short);
    Rate { wall: rate(long.wall, short.wall), cpu: rate(long.cpu, short.cpu) }
}

fn scoring(model: &Model) -> f64 {
    let item = |i| ScoreItem { prompt: ids(model, 24, i), answer: ids(model, 8, 1000 + i) };
    let items: Vec<ScoreItem> = (0..512).map(item).collect();
    let (_, cost) = score_counted(model, &items, &Cancel::default()).unwrap();
    cost.run as f64
}

/// The routed experts alone, each with so many tokens.
fn experts(config: &Config, machine: &Machine) {
    const LAYERS: usize = 16;
    let (hidden, width) = (config.hidden_size, config.moe_intermediate_size);
    for tokens in [1, 8, 64, 128, 1024] {
        let mut experts = parts::Experts::random(8, hidden, width, tokens);
        let rate = measure(|| {
            experts.run(LAYERS);
            (LAYERS * 8 * tokens * 6 * hidden * width) as f64 / 1e9
        });
        println!(
            "experts of {tokens} tokens each: {:.1} GFLOP/s ({:.1} per core second), {:.0} % of the \
             machine ({:.0} % per core second), {:.0} % of the product of others",
            rate.wall,
            rate.cpu,
            100.0 * rate.wall / machine.arithmetic.wall,
            100.0 * rate.cpu / machine.arithmetic.cpu,
            100.0 * rate.wall / machine.product
        );
    }
}
