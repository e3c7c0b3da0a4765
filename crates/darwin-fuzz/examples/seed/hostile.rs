//! Inputs that are hostile, each in a way of its own.

use crate::{llama_tensors, put, safetensors};
use serde_json::{Value, json};

/// Recipes that are planned against `base`, `father` and `mother`.
pub(crate) const RECIPES: [(&str, &str); 9] = [
    (
        "shares",
        "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: father}, {model: mother}]\ndarwin:\n  father: father\n  mother: mother\n  t:\n    default: 0.3\n    scale: 1.5\n    components: {norm: 1.2, lm_head: 0}\n    layers: [{layers: last, t: 1.5}]\n    groups: {layers.0.mlp.up_proj.weight: -0.25, embed_tokens.weight: [1]}\n",
    ),
    (
        "linear",
        "merge_method: linear\nmodels:\n  - model: father\n    parameters: {weight: 0.3}\n  - model: mother\n    parameters: {weight: 0.7}\ndtype: float32\n",
    ),
    (
        "slerp",
        "merge_method: slerp\nbase_model: father\nmodels:\n  - model: father\n  - model: mother\nparameters:\n  t:\n    - filter: self_attn\n      value: [0, 0.5, 1]\n    - value: 0.4\nseed: 5\n",
    ),
    (
        "ties",
        "merge_method: dare_ties\nbase_model: base\nmodels:\n  - model: father\n    parameters: {weight: 0.5, density: 0.6}\n  - model: mother\n    parameters: {weight: [0.1, 0.9], density: 0.5}\nparameters: {normalize: true, int8_mask: true}\ndtype: bfloat16\n",
    ),
    (
        "slices",
        "merge_method: passthrough\nslices:\n  - sources:\n      - model: father\n        layer_range: [0, 1]\n  - sources:\n      - model: mother\n        layer_range: [0, 1]\n",
    ),
    (
        "darwin",
        "merge_method: dare_ties\nbase_model: father\nmodels:\n  - model: father\n  - model: mother\ndtype: float32\ndarwin:\n  seed: 3\n  blocks:\n    - layers: [0, 0]\n      t: 0.31\n      router: father\n",
    ),
    (
        "steps",
        "name: first\nmerge_method: linear\nmodels:\n  - model: father\n    parameters: {weight: 1}\n  - model: mother\n    parameters: {weight: 1}\n---\nname: second\nmerge_method: slerp\nbase_model: father\nmodels:\n  - model: father\n  - model: first\nparameters: {t: 0.5}\n",
    ),
    (
        "tokenizer",
        "merge_method: linear\nmodels:\n  - model: father\n    parameters: {weight: 1}\n  - model: mother\n    parameters: {weight: 1}\ntokenizer:\n  source: union\n  tokens:\n    <|im_end|>: {source: father, force: true}\n  pad_to_multiple_of: 8\nchat_template: auto\n",
    ),
    (
        "anchors",
        "merge_method: &m linear\nmodels: &l\n  - &f {model: father, parameters: {weight: 1}}\n  - {model: mother, parameters: {weight: 1}}\n",
    ),
];

/// A run's configuration.
pub(crate) const RUN: &str = r#"{"title": "tiny", "father": "a", "mother": "b", "items": "i", "out": "o",
"goal": {"protected": {"knowledge": 0.5}, "weights": {"math": 2.0}}, "calibration": {"per_domain": 4},
"proxy": {"per_domain": 2, "steps": 8}, "real": {"per_domain": 2, "steps": 5},
"selection": {"per_domain": 2, "top": 1}, "test": {"per_domain": 2}, "max_new_tokens": 4,
"rank_check": 4, "arms": ["line", "blind", "card", "guided", "placebo"]}"#;

/// Items of a benchmark.
pub(crate) const ITEMS: &str = r#"{"id":"a","domain":"math","family":"f","question":"2 + 3?","target":"5","trace":"2+3","formats":["direct","think"]}
{"id":"b","domain":"knowledge","family":"f","question":"Why?","target":"so","formats":["direct"]}
{"id":"b","domain":"knowledge","family":"f","question":"Why?","target":"so","formats":["direct"]}
"#;

/// Items to score.
pub(crate) const SCORE: &str = r#"{"prompt":"the 2 + 3 =","answer":" 5"}
{"id":"x","text":"the cat in the hat"}
{"id":7,"prompt_ids":[1,2],"answer_ids":[3]}
"#;

const ONE: [u8; 4] = [0, 0, 0x80, 0x3f];

pub(crate) fn write() {
    recipes();
    weights();
    adapters();
    templates();
    tokenizers();
    put("items", "hostile-deep.jsonl", format!("{}{}\n", "[".repeat(20_000), "]".repeat(20_000)));
    put("kept", "hostile-deep", format!("0{}", "{\"a\":".repeat(10_000)));
    put(
        "index",
        "hostile-escape.json",
        r#"{"weight_map": {"a": "../../../etc/passwd", "b": "/dev/zero"}}"#,
    );
    put("config", "hostile-deep.json", "[".repeat(20_000));
}

fn recipes() {
    let deep = format!("a:\n  {}x\n", "- ".repeat(14_000));
    put("recipe", "hostile-deep-sequence.yaml", deep);
    put("recipe", "hostile-deep-question.yaml", format!("{}a\n", "? ".repeat(7_000)));
    put("recipe", "hostile-deep-flow.yaml", "[".repeat(14_000));
    let laughs: String = (1..8)
        .map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(",")))
        .collect();
    let laughs = format!("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{laughs}");
    put("recipe", "hostile-laughs.yaml", &laughs);
    put("run_config", "hostile-laughs.yaml", &laughs);
    put("run_config", "hostile-deep.yaml", format!("goal: {}", "[".repeat(14_000)));
    let keys: String = (0..4_000).map(|i| format!("k{i}: 1\n")).collect();
    put("recipe", "hostile-many-keys.yaml", keys);
}

fn weights() {
    let named = |name: &str| safetensors(&[(name, "F32", &[1, 1], &ONE)]);
    for (file, name) in [
        ("expert-1e9", "model.layers.0.mlp.experts.999999999.down_proj.weight"),
        ("expert-max", "model.layers.0.mlp.experts.18446744073709551615.down_proj.weight"),
        ("layer-1e12", "model.layers.999999999999.mlp.up_proj.weight"),
        ("layer-max", "model.layers.18446744073709551615.self_attn.q_proj.weight"),
    ] {
        put("safetensors", &format!("hostile-{file}"), named(name));
    }
    let empty: &[(&str, &str, &[u64], &[u8])] =
        &[("a", "F32", &[1 << 42, 0], &[]), ("b", "F32", &[1], &ONE)];
    put("safetensors", "hostile-no-columns", safetensors(empty));
    let mut tensors: Vec<(String, Vec<u64>)> = llama_tensors();
    tensors.push(("model.layers.0.extra".to_owned(), vec![0, 1 << 62]));
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, shape)| {
            vec![0x7f; if shape[0] == 0 { 0 } else { shape.iter().product::<u64>() as usize * 2 }]
        })
        .collect();
    let all: Vec<(&str, &str, &[u64], &[u8])> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape), bytes)| (&name[..], "BF16", &shape[..], &bytes[..]))
        .collect();
    put("safetensors", "hostile-nan", safetensors(&all));
    let long = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    put("safetensors", "hostile-length", long);
    let nan: [(&str, &str, &[u64], &[u8]); 3] = [
        ("lm_head.weight", "F64", &[1], &f64::NAN.to_le_bytes()),
        ("norm.weight", "F64", &[1, 1], &2.0_f64.to_le_bytes()),
        ("layers.0.mlp.gate.weight", "F32", &[1], &ONE),
    ];
    put("shares", "hostile-nan", safetensors(&nan));
}

fn adapters() {
    let config = |rank: u64| {
        json!({"peft_type": "LORA", "peft_version": "0.19.1", "r": rank, "lora_alpha": 4,
            "target_parameters": ["mlp.experts.gate_up_proj"], "target_modules": ["q_proj"]})
    };
    put("adapter", "hostile-rank", format!("0{}", config((1 << 62) + 2)));
    let p = "base_model.model.model.layers.0.mlp.experts.";
    let tensors: [(&str, &str, &[u64], &[u8]); 2] = [
        (&format!("{p}lora_A.weight"), "F32", &[8, 16], &[0; 512]),
        (&format!("{p}lora_B.weight"), "F32", &[16, 8], &[0; 512]),
    ];
    put("adapter", "hostile-experts", [&b"1"[..], &safetensors(&tensors)].concat());
}

fn templates() {
    let all = [
        ("not", format!("{{{{ {}1 }}}}", "not ".repeat(6_000))),
        ("minus", format!("{{{{ {}1 }}}}", "-".repeat(22_000))),
        ("filters", format!("{{{{ 'a'{} }}}}", "|upper".repeat(4_000))),
        ("attributes", format!("{{{{ a{} }}}}", ".b".repeat(11_000))),
        ("plus", format!("{{{{ 1{} }}}}", "+1".repeat(11_000))),
        ("ternary", format!("{{{{ {}2 }}}}", "1 if 1 else ".repeat(2_000))),
        (
            "nested-value",
            "{% set ns = namespace(x=[]) %}{% for i in range(14000) %}{% set ns.x = [ns.x] %}\
             {% endfor %}{{ ns.x }}"
                .to_owned(),
        ),
        (
            "nested-tojson",
            "{% set ns = namespace(x=[]) %}{% for i in range(60000) %}{% set ns.x = [ns.x] %}\
             {% endfor %}{{ ns.x|tojson }}"
                .to_owned(),
        ),
        (
            "doubling",
            "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(34) %}\
             {% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x|length }}"
                .to_owned(),
        ),
        ("batch", "{{ [1]|batch(100000000000)|list }}".to_owned()),
        ("slice", "{{ [1]|slice(100000000000)|list }}".to_owned()),
        ("indent", "{{ 'a\\nb\\nc'|indent(3000000000) }}".to_owned()),
        ("format", "{{ '%3000000000d'|format(5) }}".to_owned()),
        (
            "search",
            "{% set x='a'*10000000 %}{% set y='a'*5000000~'b' %}{% for i in range(100000) %}\
             {% if y in x %}{% endif %}{% endfor %}"
                .to_owned(),
        ),
    ];
    for (name, text) in all {
        put("template", &format!("hostile-{name}.jinja"), text);
    }
}

/// A small tokenizer that is as good as [`hostile`](self) inputs begin from.
fn tokenizer() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 0, "content": "<|im_end|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "ByteLevel",
            "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true,
            "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "vocab": {"<|im_end|>": 0, "t": 1, "h": 2, "e": 3, "th": 4,
            "x": 5, "1": 6, "the": 7}, "merges": [["t", "h"], ["th", "e"]]},
    })
}

fn tokenizers() {
    let save = |name: &str, tokenizer: &Value| {
        put("tokenizer", &format!("hostile-{name}.json"), tokenizer.to_string());
    };
    put("tokenizer", "small.json", tokenizer().to_string());
    let changed = |key: &str, value: Value| {
        let mut tokenizer = tokenizer();
        tokenizer[key] = value;
        tokenizer
    };
    let normalizer = |map: &str| json!({"type": "Precompiled", "precompiled_charsmap": map});
    save("precompiled-empty", &changed("normalizer", normalizer("")));
    save("precompiled-huge", &changed("normalizer", normalizer("/////w==")));
    save("precompiled-index", &changed("normalizer", normalizer("BAAAAEFBQUE=")));
    let mut prefix = tokenizer();
    prefix["model"]["continuing_subword_prefix"] = "x".repeat(20_000).into();
    save("long-prefix", &prefix);
    let post = json!({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B",
        "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}});
    save("post-second", &changed("post_processor", post));
    save("fixed-length-0", &changed("pre_tokenizer", json!({"type": "FixedLength", "length": 0})));
    let replace =
        json!({"type": "Replace", "pattern": {"Regex": "(.)"}, "content": "t".repeat(1000)});
    let bomb = json!({"type": "Sequence", "normalizers": vec![replace; 4]});
    save("replace-bomb", &changed("normalizer", bomb));
    let added: Vec<Value> = (0..300)
        .map(|i| {
            json!({"id": i, "content": format!("z{i}"), "special": false, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    save("many-added", &changed("added_tokens", added.into()));
    let mut deep = json!({"type": "NFC"});
    for _ in 0..50 {
        deep = json!({"type": "Sequence", "normalizers": [deep]});
    }
    save("deep-normalizer", &changed("normalizer", deep));
}
