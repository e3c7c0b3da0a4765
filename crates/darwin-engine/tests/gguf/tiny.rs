//! Tiny models of random weights give transformers' logits (tools/oracle/gguf_files.py).

use super::{golden, ids, record};
use darwin_checkpoint::{AnyModel, TensorSource};
use darwin_engine::{Batch, Interventions, Model, NoTap, RopeScaling, Sequence, Text};
use serde_json::Value;

/// Largest difference, in the logits' root mean square.
const LIMIT: f64 = 1e-4;

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn load(name: &str) -> Model {
    let source = AnyModel::open(golden(&format!("gguf/{name}.gguf"))).unwrap();
    Model::load(&source).unwrap()
}

#[test]
fn logits_are_those_of_transformers() {
    for name in ["tiny", "tied"] {
        let (model, record) = (load(name), record(&format!("gguf/{name}.json")));
        let (layers, vocab) = (model.config().num_hidden_layers, model.config().vocab_size);
        for sequence in record["sequences"].as_array().unwrap() {
            let ids = ids(&sequence["ids"]);
            let rows = sequence["rows"].as_u64().unwrap() as usize;
            let first = ids.len() - rows;
            let mut state = model.embed(&Batch::new(vec![Sequence::new(ids)])).unwrap();
            model.run(&mut state, 0..layers, &mut NoTap, &Interventions::new()).unwrap();
            let positions: Vec<usize> = (first..first + rows).collect();
            let logits = model.logits(&state, &positions);
            let want: Vec<f64> = numbers(&sequence["logits"]);
            assert_eq!((logits.len(), want.len()), (rows * vocab, rows * vocab));
            let rms = (want.iter().map(|x| x * x).sum::<f64>() / want.len() as f64).sqrt();
            let differences = logits.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs());
            let worst = differences.fold(0.0, f64::max) / rms;
            assert!(worst < LIMIT, "{name}: {worst:e} of the logits' rms");
        }
    }
}

#[test]
fn the_engine_reads_the_config_of_the_file() {
    let tiny = load("tiny");
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 16.0,
        original_max_position_embeddings: 256.0,
    };
    assert_eq!(tiny.config().rope.scaling, llama3);
    assert_eq!((tiny.config().head_dim, tiny.config().num_key_value_heads), (16, 2));
    let tied = load("tied");
    assert!(tied.config().tie_word_embeddings && tied.config().mlp_bias);
    assert!(tied.config().attention.qkv_bias && tied.config().attention.o_bias);
    assert!(matches!(tied.config().rope.scaling, RopeScaling::Yarn { factor: 4.0, .. }));
}

#[test]
fn a_file_brings_its_text() {
    let path = golden("gguf/tiny.gguf");
    let text = Text::open(&path).unwrap();
    let ids = text.encode("The dog's 24<|im_end|>").unwrap();
    assert_eq!(text.decode(&ids, false), "The dog's 24<|im_end|>");
    assert_eq!((text.decode(&ids, true).as_str(), ids.last()), ("The dog's 24", Some(&2)));
    assert_eq!(text.stop_ids(), [2]);
    assert_eq!(
        text.chat("hi", false).unwrap(),
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!((text.tokenizer_sha256().len(), text.template_sha256().unwrap().len()), (64, 64));
    // in a folder the file's text is used, unless a tokenizer lies beside it
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(&path, dir.path().join("model.gguf")).unwrap();
    assert_eq!(Text::open(dir.path()).unwrap().tokenizer_sha256(), text.tokenizer_sha256());
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let error = Text::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: not a tokenizer"), "{error}");
    assert_eq!(AnyModel::open(dir.path()).unwrap().manifest().num_layers(), 2);
}
