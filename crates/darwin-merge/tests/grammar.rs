//! mergekit's grammar: what it means, and what is refused with which sentence.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{model, pair};
use darwin_core::Diagnose;
use darwin_merge::{Merge, Recipe, Sources};
use serde_json::Value;
use std::sync::Arc;

/// The value of a tensor's parameter in a plan: a model's own, or the merge's.
fn planned(merge: &Merge, tensor: &str, model: Option<&str>, name: &str) -> Value {
    let manifest = serde_json::to_value(merge.plan().manifest()).unwrap();
    let lines = manifest["tensors"].as_array().unwrap();
    let line = lines.iter().find(|line| line["tensor"] == tensor).unwrap();
    let parameters = match model {
        None => &line["parameters"],
        Some(model) => {
            let sources = line["sources"].as_array().unwrap();
            &sources.iter().find(|source| source["model"] == model).unwrap()["parameters"]
        }
    };
    parameters[name]["value"].clone()
}

/// A plan for text models a and b.
fn plan(text: &str) -> Merge {
    let mut sources = Sources::new();
    sources.insert("a", Arc::new(model("a", 0, 0.0, false)));
    sources.insert("b", Arc::new(model("b", 1, 0.3, false)));
    Merge::new(&Recipe::parse(text).unwrap(), &sources).unwrap()
}

#[test]
fn levels_of_parameters_answer_from_the_source_to_the_recipe() {
    let merge = plan(
        "
merge_method: linear
modules:
  default:
    slices:
      - sources:
          - {model: a, layer_range: [0, 2], parameters: {weight: {filter: norm, value: 1}}}
          - {model: b, layer_range: [0, 2]}
        parameters: {weight: [{filter: mlp, value: 2}], normalize: [on, off]}
    parameters:
      weight: {filter: attn, value: 3}
parameters:
  weight: [{filter: lm_head, value: 4}, {value: 5}]
  normalize: {filter: embed, value: false}
",
    );
    let weight = |tensor, model| planned(&merge, tensor, Some(model), "weight");
    assert_eq!(weight("layers.0.input_layernorm.weight", "a"), 1.0, "of the source");
    assert_eq!(weight("layers.0.input_layernorm.weight", "b"), 5.0, "of the recipe");
    assert_eq!(weight("layers.0.mlp.gate.weight", "a"), 2.0, "of the slice");
    assert_eq!(weight("layers.1.self_attn.q_proj.weight", "b"), 3.0, "of the module");
    assert_eq!(weight("lm_head.weight", "a"), 4.0, "of the recipe");
    let normalize = |tensor| planned(&merge, tensor, None, "normalize");
    assert_eq!(normalize("layers.0.mlp.gate.weight"), 1.0, "the first switch");
    assert_eq!(normalize("layers.1.mlp.gate.weight"), 0.0, "the last switch");
    assert_eq!(normalize("embed_tokens.weight"), 1.0, "outside the layers: the first");
}

#[test]
fn a_slice_without_layers_gives_norm_and_head() {
    let merge = plan(
        "
merge_method: passthrough
slices:
  - sources: [{model: b, layer_range: [0, 0]}]
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [2, 2]}]
",
    );
    let manifest = merge.plan().manifest();
    let from = |tensor: &str| {
        let line = manifest.tensors.iter().find(|line| line.tensor == tensor).unwrap();
        line.sources[0].model.clone()
    };
    assert_eq!(from("embed_tokens.weight"), "b");
    assert_eq!(from("layers.1.self_attn.q_proj.weight"), "a");
    assert_eq!(from("norm.weight"), "b");
    assert_eq!(from("lm_head.weight"), "b");
}

#[test]
fn a_slice_may_have_a_base_of_its_own() {
    let merge = plan(
        "
merge_method: task_arithmetic
base_model: a
slices:
  - sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]
  - sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]
    base_model: b
parameters: {weight: 0.5}
",
    );
    let manifest = merge.plan().manifest();
    let weighted = |tensor: &str| {
        let line = manifest.tensors.iter().find(|line| line.tensor == tensor).unwrap();
        let own = line.sources.iter().filter(|source| source.parameters.contains_key("weight"));
        own.map(|source| source.model.clone()).collect::<Vec<_>>()
    };
    assert_eq!(weighted("layers.0.mlp.gate.weight"), ["b"]);
    assert_eq!(weighted("layers.1.mlp.gate.weight"), ["a"]);
}

#[test]
fn spellings_of_one_meaning() {
    let with = |parameters: &str, rest: &str| {
        let text = format!(
            "merge_method: linear\nmodels:\n- {{model: a, parameters: {{weight: {parameters}}}}}\n- {{model: b, parameters: {{weight: 1}}}}\n{rest}"
        );
        Recipe::parse(&text).unwrap()
    };
    for (one, other) in [
        ("1e-5", "0.00001"),
        ("'2'", "2.0"),
        ("1_0", "10"),
        ("010", "8"),
        ("0x10", "16"),
        ("1:30", "90"),
        ("0b11", "3"),
        ("08", "8"),
        ("'010'", "10"),
    ] {
        assert_eq!(with(one, ""), with(other, ""), "{one}");
    }
    assert_eq!(with("{value: 2}", ""), with("[{value: 2}]", ""));
    assert_eq!(
        with("1", "parameters: {normalize: 'yes'}"),
        with("1", "parameters: {normalize: 1}")
    );
    assert_eq!(with("1", "dtype: torch.float16"), with("1", "dtype: float16"));
    assert_eq!(with("1", "slices: ~\nbase_model: null\n"), with("1", ""));
    let module = "merge_method: linear\nmodules: {default: {models: [{model: a}, {model: b}], parameters: {weight: 2}}}\nparameters: {weight: 3, normalize: no}";
    let flat = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 2, normalize: false}";
    assert_eq!(Recipe::parse(module).unwrap(), Recipe::parse(flat).unwrap());
    let noted = "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 1]}]\n  residual_weight: 0.5\n";
    let notes = Recipe::parse(noted).unwrap().notes().join("\n");
    assert_eq!(notes, "line 4: `residual_weight` has no effect, as in mergekit");
}

/// A recipe whose last lines are wrong, the place, and words of the sentence and hint.
const REFUSED: &[(&str, &str, &[&str])] = &[
    ("model: a@", "3:17", &["`a@`, which names no revision", "branch, tag or commit"]),
    (
        "model: {path: o/a@r}}\nbase_model: {path: o/a, revision: r}\n#",
        "3:24",
        &["`o/a@r` means two things", "rename a folder"],
    ),
    ("model: a+", "3:17", &["its adapter` names no folder"]),
    (
        "model: {path: a+b}}\nbase_model: a+b\n#",
        "3:17",
        &["`a+b` means two things", "rename a folder"],
    ),
    ("model: a+b+c", "3:17", &["at most one `+`"]),
    ("model: a@b@c", "3:17", &["at most one `@`"]),
    ("model: ''", "3:17", &["names no folder"]),
    (
        "model: {model: a, override_architecture: X}",
        "3:51",
        &["`override_architecture` is `X`", "remove it"],
    ),
    ("model: {model: a, path: b}", "3:34", &["both `model` and `path`"]),
    ("model: {lora: l}", "3:17", &["names no `path`"]),
    ("model: {modle: a}", "3:18", &["unknown key `modle`", "did you mean `model`?"]),
    (
        "model: a, parameters: {weight: {filtr: x, value: 1}}",
        "3:42",
        &["unknown key `filtr` in `weight`", "`filter`"],
    ),
    ("model: a, parameters: {weight: [{filter: x}]}", "3:42", &["has no `value`"]),
    ("model: a, parameters: {weight: []}", "3:41", &["empty list"]),
    ("model: a, parameters: {weight: heavy}", "3:41", &["`weight` is `heavy`", "finite number"]),
    (
        "model: a, parameters: {weight: 1, density: [0, 2]}",
        "3:57",
        &["`density` is `2`", "from 0 to 1"],
    ),
    ("model: a, parameters: {normalize: true}", "3:33", &["belongs to the merge"]),
    (
        "model: a}\nparameters: {normalize: [true, maybe]",
        "4:32",
        &["`normalize` is `maybe`", "true or false"],
    ),
    (
        "model: a}\ndtype: float64\n#",
        "4:8",
        &["`dtype` is `float64`", "bfloat16, float16, float32"],
    ),
    ("model: a}\ndtype: bfloat\n#", "4:8", &["did you mean `bfloat16`?"]),
    (
        "model: a}\n---\nmerge_method: linear\n#",
        "4:1",
        &["document 2 begins here", "file of its own"],
    ),
    ("model: a}\nslices: [{sources: []}]\n#", "4:9", &["both `models` and `slices`", "keep one"]),
    ("model: a}\nmodules: {default: {models: []}}\n#", "4:10", &["both `models` and `modules`"]),
    (
        "model: a}\ntokenizer_source: c\n#",
        "4:1",
        &["`c` gives tokens", "no model of the merge", "`union`"],
    ),
    (
        "model: a}\ntokenizer: {tokens: {x: {source: c}}}\n#",
        "4:12",
        &["`c` gives tokens", "no model of the merge"],
    ),
    ("model: a}\ntokenizer: {tokens: [x]}\n#", "4:21", &["`tokens` is a list", "TOKEN"]),
    ("model: a}\ntokenizer: {tokens: {'': {}}}\n#", "4:22", &["a token of `tokens` has no text"]),
    (
        "model: a}\ntokenizer: {tokens: {x: {sauce: a}}}\n#",
        "4:26",
        &["unknown key `sauce` in the token `x`", "`source`"],
    ),
    (
        "model: a}\ntokenizer: {tokens: {x: {force: 3}}}\n#",
        "4:33",
        &["`force` of the token `x` is"],
    ),
    (
        "model: a}\ntokenizer: {tokens: {x: {source: {kind: one}}}}\n#",
        "4:35",
        &["`kind` of the token `x` is `one`", "model_token", "zero"],
    ),
    (
        "model: a}\ntokenizer: {tokens: {x: {source: {kind: zero, token: y}}}}\n#",
        "4:47",
        &["unknown key `token`"],
    ),
    (
        "model: a}\ntokenizer: {tokens: {x: {source: {kind: model_token, token: y}}}}\n#",
        "4:34",
        &["the row of the token `x` names no `model`"],
    ),
    (
        "model: a}\ntokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}\n#",
        "4:34",
        &["the row of the token `x` names no token", "`token_id: ID`"],
    ),
    (
        "model: a}\ntokenizer: {tokens: {x: {source: {kind: model_token, model: a, token: y, token_id: 1}}}}\n#",
        "4:34",
        &["names both `token` and `token_id`"],
    ),
    (
        "model: a}\ntokenizer: {tokens: {x: {source: {kind: model_token, model: a, token_id: y}}}}\n#",
        "4:74",
        &["`token_id` of the token `x` is `y`"],
    ),
    (
        "model: a}\ntokenizer: {source: a, pad_to_multiple_of: 0}\n#",
        "4:44",
        &["`pad_to_multiple_of` is `0`, allowed is a whole number", "such as 64"],
    ),
    (
        "model: a}\ntokenizer: {sorce: a}\n#",
        "4:13",
        &["unknown key `sorce` in `tokenizer`", "`source`"],
    ),
    ("model: a}\nchat_template: chatm1\n#", "4:16", &["`chatm1`", "did you mean `chatml`?"]),
    ("model: a}\nchat_template: llama\n#", "4:16", &["`llama`", "did you mean `llama3`?"]),
    ("model: {model: {revision: r}}", "3:25", &["names no `path`"]),
    ("model: {path: ''}", "3:24", &["names no folder"]),
    ("model: [a]", "3:17", &["`model` is a list, allowed is text"]),
    (
        "model: a}\ntokenizer_source: base\ntokenizer: {source: base}\n#",
        "5:12",
        &["both `tokenizer_source` and `tokenizer`", "keep one"],
    ),
    ("model: a}\ntokenizer: a\n#", "4:12", &["`tokenizer` is `a`, allowed is a mapping"]),
    (
        "model: a}\nchat_template: '{{ x }}'\n#",
        "4:16",
        &["not a known name and no Jinja", "20 characters"],
    ),
    ("model: a}\nchat_template: a text without any Jinja in it\n#", "4:16", &["no Jinja"]),
    ("model: a}\nout_dtype: [float32]\n#", "4:12", &["`out_dtype` is a list"]),
    ("model: a}\n      - {model: a", "4:9", &["`a` comes twice", "once"]),
];

fn refusal(text: &str) -> String {
    let error = Recipe::parse(text).expect_err(text);
    format!("{error}\n{}", error.hint().unwrap_or_default())
}

#[test]
fn refusals_name_place_value_and_remedy() {
    for (wrong, place, words) in REFUSED.iter().copied() {
        let mut text = format!("merge_method: linear\nmodels:\n      - {{{wrong}}}\n");
        if !wrong.contains("parameters") {
            text.push_str("parameters: {weight: 1}\n");
        }
        let found = refusal(&text);
        assert!(found.contains(&format!("<recipe>:{place}: ")), "{place}, {text}\n{found}");
        for word in words {
            assert!(found.contains(word), "`{word}` is not in:\n{found}");
        }
    }
}

#[test]
fn refusals_of_whole_files() {
    let cases: [(&str, &[&str]); 15] = [
        (
            "experts: []\ngate_mode: hidden\nbase_model: a",
            &["1:1", "mergekit-moe", "build it with mergekit-moe"],
        ),
        ("base_model: a\ngate_mode: random", &["2:1", "`gate_mode`", "mixture of experts"]),
        ("- a", &["1:1", "the recipe is a list"]),
        ("", &["the recipe is empty"]),
        (
            "merge_method: delta\nmodels: [{model: a}]",
            &["1:15", "there is no merge method `delta`", "did you mean `della`?"],
        ),
        (
            "merge_method: linear\nmodules: {text: {models: []}}",
            &["2:11", "module `text`", "only the module `default`"],
        ),
        ("merge_method: linear\nmodules: []", &["2:10", "`modules` is a list"]),
        ("merge_method: linear\nmodules: {}", &["2:10", "`modules` is empty"]),
        (
            "merge_method: linear\nmodules: {default: {models: [], slices: []}}",
            &["2:41", "both `models` and `slices`"],
        ),
        (
            "merge_method: linear\nmodules: {default: {parameters: {}}}",
            &["2:11", "neither `models` nor `slices`"],
        ),
        (
            "merge_method: linear\nmodels: [{model: a}, {model: b, parameters: {weight: 1}}]",
            &["2:10", "the parameter `weight` of `a` is missing"],
        ),
        (
            "merge_method: linear\nbase_model: b\nmodels: [{model: a, parameters: {weight: 1}}]",
            &["2:1", "`weight` of `b` is missing"],
        ),
        (
            "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]",
            &["1:1", "`t` of `slerp` is missing"],
        ),
        (
            "merge_method: slerp\nbase_model: c\nparameters: {t: 0}\nslices: [{sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]}]",
            &["4:10", "`c` is not among the sources of slice 0"],
        ),
        (
            "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 0]}]}]",
            &["2:1", "no slice has a layer"],
        ),
    ];
    for (text, words) in cases {
        let found = refusal(text);
        for word in words {
            assert!(found.contains(word), "`{word}` is not in:\n{found}");
        }
    }
    let residual = "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 1]}]\n  residual_weight: some\n";
    assert!(refusal(residual).contains("4:20: `residual_weight` is `some`, allowed is a number"));
    let slices = "merge_method: linear\nparameters: {weight: 1}\nslices:\n- sources:\n  - {model: a, layer_range: [0, 2]}\n  - {model: a, layer_range: [1, 2]}\n- sources: []\n- sources: [{model: a, layer_range: [2, 1]}]\n";
    let found = refusal(slices);
    assert!(found.contains("8:37: `layer_range` is [2, 1]"), "{found}");
    let found = refusal(&slices.replace("[2, 1]", "[1, 2]"));
    for word in [
        "6:5: the model `a` comes twice",
        "4:3: the sources of slice 0 have [2, 1] layers",
        "7:3: slice 1 has no sources",
    ] {
        assert!(found.contains(word), "`{word}` is not in:\n{found}");
    }
}

#[test]
fn modules_are_for_models_without_a_vision_tower() {
    let text = "merge_method: linear\nmodules: {default: {models: [{model: father}, {model: mother}]}}\nparameters: {weight: 1}";
    let mut sources = Sources::new();
    let (father, mother) = pair();
    sources.insert("father", Arc::new(father));
    sources.insert("mother", Arc::new(mother));
    let Err(error) = Merge::new(&Recipe::parse(text).unwrap(), &sources) else {
        panic!("planned");
    };
    let found = format!("{error} {}", error.hint().unwrap_or_default());
    for word in ["`father` has a vision tower", "without `modules:`"] {
        assert!(found.contains(word), "{found}");
    }
}

#[test]
fn a_path_with_the_signs_of_references_survives_the_canonical_form() {
    let text = "merge_method: linear\nmodels: [{model: {model: {path: a+b@c}}}, {model: {path: base}}]\nparameters: {weight: 1}\ntokenizer_source: {model: {path: base}}\n";
    let recipe = Recipe::parse(text).unwrap();
    assert_eq!(recipe.models(), ["a+b@c", "base"]);
    assert_eq!((recipe.tokenizer(), recipe.structure()), ("base", "a+b@c"));
    assert_eq!(Recipe::parse(&recipe.to_yaml()).unwrap(), recipe);
}

/// A revision on the Hub is a model of its own, and so is one with an adapter on it.
#[test]
fn revisions_are_models_and_read_back() {
    let text = "merge_method: linear
models:
- model: o/a
- model: o/a@main
- model: {model: {path: o/a, revision: v2}}
- model: {path: o/a, revision: \"3\"}
- model: o/a@x+o/lora@y
- model: {model: o/a, lora: {path: l, revision: r}}
parameters: {weight: 1}
";
    let recipe = Recipe::parse(text).unwrap();
    let names = ["o/a", "o/a@main", "o/a@v2", "o/a@3", "o/a@x+o/lora@y", "o/a+l@r"];
    assert_eq!(recipe.models(), names);
    let back = Recipe::parse(&recipe.to_yaml()).unwrap();
    assert_eq!(back, recipe);
    assert_eq!(back.models(), names);
}

/// A model with an adapter is a model of its own, wherever a model may stand.
#[test]
fn adapters_are_models_and_read_back() {
    let text = "merge_method: task_arithmetic
base_model: a
models:
- model: a+lora
- model: {model: {path: b+c@d}, lora: {path: l@2}}
- model: {path: b, lora: l}
tokenizer_source: a+lora
parameters: {weight: 1}
darwin: {structure: a+lora}
";
    let recipe = Recipe::parse(text).unwrap();
    assert_eq!(recipe.models(), ["a+lora", "b+c@d+l@2", "b+l", "a"]);
    let adapter = recipe.adapter("b+c@d+l@2").unwrap();
    assert_eq!((adapter.base.as_str(), adapter.lora.as_str()), ("b+c@d", "l@2"));
    assert_eq!(recipe.adapter("a"), None);
    assert_eq!(recipe.structure(), "a+lora");
    assert_eq!(recipe.tokenizer(), "a+lora");
    let yaml = recipe.to_yaml();
    assert!(yaml.contains(r#"- model: "a+lora""#), "{yaml}");
    assert!(yaml.contains(r#"- model: {model: {path: "b+c@d"}, lora: {path: "l@2"}}"#), "{yaml}");
    assert_eq!(Recipe::parse(&yaml).unwrap(), recipe);
    let plain = Recipe::parse(&text.replace("b, lora: l", "b+l")).unwrap();
    assert_ne!(plain, recipe);
    assert_ne!(plain.to_yaml(), recipe.to_yaml());
    let sliced = "merge_method: passthrough
slices:
- sources: [{model: a+lora, layer_range: [0, 1]}]
- sources: [{model: a, layer_range: [1, 2]}]
";
    let sliced = Recipe::parse(sliced).unwrap();
    assert_eq!(sliced.models(), ["a+lora", "a"]);
    assert_eq!(Recipe::parse(&sliced.to_yaml()).unwrap(), sliced);
}
