//! Bad input gets a sentence that names the place.

use crate::fixture::source;
use darwin_checkpoint::{Dtype, MemorySource, TensorSource};
use darwin_core::{Cancel, Diagnose, Fault};
use darwin_engine::{
    Batch, Config, Error, GenerateOptions, Interventions, Model, NoTap, ScoreItem, Sequence,
    generate, score,
};
use darwin_testkit::{Tiny, tiny_qwen35};
use serde_json::{Value, json};

type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<f32>)>;

/// A tiny model with an edited config and edited tensors.
fn load(edit_config: impl Fn(&mut Value), edit: impl Fn(&mut Tensors)) -> Result<Model, Error> {
    let source = tiny_qwen35(1);
    let mut config = source.config().clone();
    edit_config(&mut config);
    let mut tensors: Tensors = source
        .manifest()
        .ids()
        .map(|id| {
            let info = source.manifest().get(id);
            (info.name.clone(), info.dtype, info.shape.clone(), source.values(id).to_vec())
        })
        .collect();
    edit(&mut tensors);
    Model::load(&MemorySource::new("tiny", config, tensors).unwrap())
}

fn check(error: Error, expect: &[&str]) {
    assert_eq!(error.fault(), Fault::User);
    assert!(error.hint().is_some(), "{error}");
    let text = error.to_string();
    for part in expect {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn config_errors_name_the_key() {
    let with = |key: &'static str, value: Value| {
        load(|c| c["text_config"][key] = value.clone(), |_| {}).unwrap_err()
    };
    check(
        with("num_experts", json!("many")),
        &["tiny: config.json: `text_config.num_experts` is \"many\", needed is a whole number"],
    );
    check(with("hidden_size", json!(0)), &["`text_config.hidden_size` is 0"]);
    check(with("num_experts_per_tok", json!(7)), &["is 7, needed is at most num_experts = 6"]);
    check(with("num_attention_heads", json!(3)), &["a multiple of num_key_value_heads = 2"]);
    check(with("layer_types", json!(["mamba"])), &["layer_types[0]", "\"mamba\"", "4 entries"]);
    check(with("hidden_act", json!("gelu")), &["`text_config.hidden_act` is \"gelu\""]);
    check(with("rms_norm_eps", json!(-1)), &["rms_norm_eps", "a number above 0"]);
    let rope = json!({"rope_type": "dynamic", "factor": 2.0});
    let words = ["rope_parameters.rope_type", "default, linear, yarn or llama3"];
    check(with("rope_parameters", rope), &words);
    let missing = |c: &mut Value| {
        let text = c["text_config"].as_object_mut().unwrap();
        text.remove("head_dim");
        text.remove("vocab_size");
    };
    check(load(missing, |_| {}).unwrap_err(), &["head_dim` is missing", "vocab_size` is missing"]);
    let family = |c: &mut Value| c["model_type"] = json!("mamba");
    check(load(family, |_| {}).unwrap_err(), &["`model_type` is `mamba`"]);
}

#[test]
fn tensor_errors_come_all_at_once() {
    let error = load(
        |_| {},
        |tensors| {
            tensors.retain(|t| t.0 != "layers.2.linear_attn.A_log");
            let gate = tensors.iter_mut().find(|t| t.0 == "layers.3.mlp.gate.weight").unwrap();
            gate.2 = vec![32, 6];
        },
    );
    check(
        error.unwrap_err(),
        &[
            "tensor `layers.2.linear_attn.A_log` is missing, needed in shape [4]",
            "tensor `layers.3.mlp.gate.weight` has shape [32, 6], config.json asks for [6, 32]",
        ],
    );
}

#[test]
fn tied_embeddings_need_no_head() {
    let tied = |c: &mut Value| {
        c["tie_word_embeddings"] = json!(true);
        c["text_config"]["tie_word_embeddings"] = json!(true);
    };
    load(tied, |t| t.retain(|t| t.0 != "lm_head.weight")).unwrap();
    check(
        load(|_| {}, |t| t.retain(|t| t.0 != "lm_head.weight")).unwrap_err(),
        &["lm_head.weight"],
    );
}

#[test]
fn ids_and_lengths_are_checked() {
    let model = Model::load(&Tiny::default().build("tiny", 1)).unwrap();
    let (vocab, limit) = (model.config().vocab_size, model.config().max_position_embeddings);
    let never = Cancel::default();
    let embed = |ids: Vec<u32>| {
        let sequences = vec![Sequence::new(vec![1]), Sequence::new(ids)];
        model.embed(&Batch::new(sequences)).unwrap_err()
    };
    check(embed(vec![3, vocab as u32]), &["sequence 1: token id", "position 1", "vocabulary"]);
    check(embed(vec![]), &["sequence 1 is empty"]);
    check(embed(vec![0; limit + 1]), &["context", &limit.to_string()]);
    let item = |prompt: Vec<u32>, answer: Vec<u32>| {
        score(&model, &[ScoreItem { prompt, answer }], &never).unwrap_err()
    };
    check(item(vec![], vec![1]), &["prompt 0 is empty"]);
    check(item(vec![1], vec![]), &["answer of item 0 is empty"]);
    check(item(vec![1], vec![u32::MAX]), &["4294967295"]);
    check(item(vec![1; limit], vec![1]), &["context"]);
    let options = GenerateOptions { max_new_tokens: 9, stop: vec![] };
    check(
        generate(&model, &[vec![1; limit]], &[], &options, &never).unwrap_err(),
        &["sequence 0", "context"],
    );
}

#[test]
fn layers_must_continue_the_state() {
    let model = Model::load(&tiny_qwen35(1)).unwrap();
    let mut state = model.embed(&Batch::new(vec![Sequence::new(vec![1, 2])])).unwrap();
    for layers in [1..2, 0..5] {
        let error = model.run(&mut state, layers, &mut NoTap, &Interventions::new()).unwrap_err();
        assert!(error.to_string().contains("that has passed 0"), "{error}");
    }
}

#[test]
fn cancelled_work_says_so() {
    let model = Model::load(&tiny_qwen35(1)).unwrap();
    let cancel = Cancel::default();
    cancel.cancel();
    let item = ScoreItem { prompt: vec![1], answer: vec![2] };
    assert_eq!(score(&model, &[item], &cancel).unwrap_err().fault(), Fault::Interrupted);
    let options = GenerateOptions { max_new_tokens: 2, stop: vec![] };
    let error = generate(&model, &[vec![1]], &[], &options, &cancel).unwrap_err();
    assert_eq!(error.fault(), Fault::Interrupted);
}

/// The config of a golden case, edited, is refused with these words.
fn refused(case: &str, edit: impl Fn(&mut Value), expect: &[&str]) {
    let source = source(case);
    let mut config = source.config().clone();
    edit(&mut config);
    check(Config::from_json(&config, case).unwrap_err(), expect);
}

#[test]
fn rope_that_depends_on_the_length_is_refused_by_name() {
    for (case, kind) in [("llama3", "dynamic"), ("qwen3_5_moe_yarn", "longrope"), ("qwen3", "ntk")]
    {
        let edit = |c: &mut Value| {
            let key = ["rope_scaling", "rope_parameters"].into_iter().find(|k| c.get(k).is_some());
            c[key.unwrap()]["rope_type"] = json!(kind);
        };
        let found = format!("rope_type` is \"{kind}\", needed is default, linear, yarn or llama3");
        refused(case, edit, &[&found]);
    }
}

#[test]
fn routers_of_other_kinds_are_refused_by_name() {
    let set = |key: &'static str, value: Value| move |c: &mut Value| c[key] = value.clone();
    refused("deepseek_v2", set("norm_topk_prob", json!(true)), &["norm_topk_prob` is true"]);
    refused("deepseek_v2", set("topk_method", json!("noaux_tc")), &["group_limited_greedy"]);
    refused("deepseek_v2", set("scoring_func", json!("sigmoid")), &["needed is \"softmax\""]);
    refused("deepseek_v2", set("moe_layer_freq", json!(2)), &["moe_layer_freq` is 2"]);
    refused("deepseek_v3", set("topk_method", json!("greedy")), &["needed is \"noaux_tc\""]);
    refused("deepseek_v3", set("n_group", json!(4)), &["n_group` is 4", "a divisor of", "9"]);
    refused("deepseek_v3", set("n_group", json!(9)), &["n_group` is 9", "2 or more each"]);
    refused(
        "deepseek_v3",
        set("topk_group", json!(4)),
        &["topk_group` is 4", "at most n_group = 3"],
    );
    refused("deepseek_v3", set("qk_rope_head_dim", json!(5)), &["qk_rope_head_dim` is 5", "even"]);
    refused("deepseek_v3", set("num_key_value_heads", json!(1)), &["num_key_value_heads` is 1"]);
    refused("deepseek_v3", set("n_shared_experts", Value::Null), &["n_shared_experts` is missing"]);
    refused("deepseek_v3", set("routed_scaling_factor", Value::Null), &["routed_scaling_factor"]);
}
