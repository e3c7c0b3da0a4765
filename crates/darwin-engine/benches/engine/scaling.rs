//! How time grows with tokens, sequences, layers, experts and threads.

use crate::clock::measure;
use crate::models::{MIDDLE, Sizes, random};
use crate::{measure_decode, prefill};
use darwin_checkpoint::Dtype;
use darwin_engine::Model;

/// A table for each of what time depends on, from a model in the middle.
pub(crate) fn print() {
    let model = |sizes| Model::load(&random(sizes, Dtype::Bf16)).unwrap();
    let middle = model(MIDDLE);
    println!(
        "{} wide, {} layers, {} experts of {}, top {}, {} million weights for a token; times are \
         milliseconds of a core",
        MIDDLE.hidden,
        MIDDLE.layers,
        MIDDLE.experts,
        MIDDLE.width,
        MIDDLE.top,
        middle.config().active_weights() / 1_000_000
    );
    println!("tokens of a sequence        all    each");
    for tokens in [64, 256, 1024, 4096] {
        row(&format!("{tokens}"), &middle, 1, tokens);
    }
    println!("sequences of 128 tokens     all    each");
    for sequences in [1, 4, 16, 64] {
        row(&format!("{sequences}"), &middle, sequences, 128);
    }
    println!("layers, 4 x 128 tokens      all    each");
    for layers in [2, 4, 8, 16] {
        row(&format!("{layers}"), &model(Sizes { layers, ..MIDDLE }), 4, 128);
    }
    println!("experts, 4 x 128 tokens     all    each");
    for experts in [8, 32, 128] {
        row(&format!("{experts}"), &model(Sizes { experts, ..MIDDLE }), 4, 128);
    }
    println!("threads: tokens/s of 1 x 512, of 8 x 128, of decoding 1, of 64");
    let most = rayon::current_num_threads();
    for threads in (0..).map(|i| 1 << i).take_while(|n| *n < most).chain([most]) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let run = |sequences, tokens| {
            let mut logits = Vec::new();
            pool.install(|| measure(|| prefill(&middle, sequences, tokens, &mut logits)).wall)
        };
        let decode = |sequences| pool.install(|| measure_decode(&middle, sequences).wall);
        println!(
            "{threads:<20} {:>10.0} {:>10.0} {:>10.0} {:>10.0}",
            run(1, 512),
            run(8, 128),
            decode(1),
            decode(64)
        );
    }
}

/// Milliseconds of a prefill, all and for each token.
fn row(what: &str, model: &Model, sequences: u64, tokens: usize) {
    let mut logits = Vec::new();
    let rate = measure(|| {
        prefill(model, sequences, tokens, &mut logits);
        1.0
    });
    let (all, each) = (1e3 / rate.cpu, 1e3 / rate.cpu / (sequences as f64 * tokens as f64));
    println!("{what:<20} {all:>10.1} {each:>7.3}");
}
