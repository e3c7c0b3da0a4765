//! Vocabularies of several models: every case of mergekit 0.1.5 (`tools/parity/vocab.py`), token
//! by token, and what mergekit does not do.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod common;
#[path = "common/golden.rs"]
mod golden;

use darwin_checkpoint::{Checkpoint, Dtype, TensorSource, read_tensor};
use darwin_core::{Cancel, NoProgress};
use darwin_merge::{Error, Merge, MergeOptions, Recipe, Sources, merge_to};
use golden::{cases, read_file};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizers::Tokenizer;

const EMBEDDING: &str = "embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

fn fixtures() -> PathBuf {
    let folder = "../darwin-testkit/fixtures/golden/vocabulary";
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn opened(recipe: &Recipe, folder: &Path) -> Sources {
    let mut sources = Sources::new();
    for model in recipe.models() {
        sources.insert_checkpoint(model, Arc::new(Checkpoint::open(folder.join(model)).unwrap()));
    }
    sources
}

fn bound(text: &str, folder: &Path) -> Result<Merge, Error> {
    let recipe = Recipe::parse(text)?;
    Merge::new(&recipe, &opened(&recipe, folder))
}

/// Merges models of a folder into `out`.
fn written(text: &str, folder: &Path, out: &Path) -> Merge {
    let merge = bound(text, folder).unwrap();
    write(&merge, out);
    merge
}

fn write(merge: &Merge, out: &Path) {
    let options = MergeOptions {
        max_shard_bytes: 1 << 30,
        memory: 1 << 20,
        documents: Vec::new(),
        progress: &NoProgress,
        cancel: &Cancel::default(),
    };
    merge_to(merge, out, &options).unwrap();
}

/// A copy of a model to change.
fn copied(model: &str, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(fixtures().join(model)).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = json_of(path);
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

fn tokenizer(folder: &Path) -> Tokenizer {
    Tokenizer::from_file(folder.join("tokenizer.json")).unwrap()
}

/// The rows of a tensor.
fn rows(source: &dyn TensorSource, name: &str) -> Vec<Vec<f32>> {
    let id = source.manifest().find(name).unwrap();
    let cols = source.manifest().get(id).cols();
    read_tensor(source, id).unwrap().chunks(cols).map(<[f32]>::to_vec).collect()
}

fn near(a: &[f32], b: &[f32], what: &str) {
    within(1e-6, a, b, what);
}

fn within(limit: f32, a: &[f32], b: &[f32], what: &str) {
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= limit * a.abs().max(b.abs()).max(1.0), "{what}: {a} {b}");
    }
}

fn mean(rows: &[&Vec<f32>]) -> Vec<f32> {
    let cols = rows[0].len();
    (0..cols).map(|c| rows.iter().map(|row| row[c]).sum::<f32>() / rows.len() as f32).collect()
}

#[test]
fn every_token_has_mergekits_row() {
    let fixtures = fixtures();
    let mut compared = 0;
    for case in cases(&fixtures) {
        let theirs = json_of(&fixtures.join(format!("cases/{case}.json")));
        let text = std::fs::read_to_string(fixtures.join(format!("cases/{case}.yml"))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let merge = written(&text, &fixtures, &out);
        let child = Checkpoint::open(&out).unwrap();
        let ours = tokenizer(&out);
        for name in [EMBEDDING, HEAD] {
            let written = rows(&child, name);
            assert_eq!(written, rows(&merge, name), "{case}: the file is the source");
            assert_eq!(json!(written.len()), child.config()["vocab_size"], "{case}");
        }
        let Some(tokens) = theirs["tokens"].as_array() else {
            assert_eq!(
                (case.as_str(), &theirs["error"]),
                ("null-forced", &json!("NotImplementedError"))
            );
            continue;
        };
        assert_eq!(ours.get_vocab_size(true), tokens.len(), "{case}");
        let golden = read_file(&fixtures.join(format!("cases/{case}.safetensors")));
        for (name, on_disk) in [(EMBEDDING, "model.embed_tokens.weight"), (HEAD, HEAD)] {
            let (dtype, bytes) = &golden[on_disk];
            let dtype = Dtype::from_name(dtype).unwrap();
            // mergekit rounds computed rows to bfloat16 before it merges them.
            let limit = if dtype == Dtype::F32 { 1e-6 } else { 1.0 / 128.0 };
            let mut theirs = vec![0.0; bytes.len() / dtype.size()];
            dtype.decode(bytes, &mut theirs);
            let theirs: Vec<&[f32]> = theirs.chunks(8).collect();
            let ours_rows = rows(&child, name);
            for (id, token) in tokens.iter().enumerate() {
                let token = token.as_str().unwrap();
                let own = ours.token_to_id(token).unwrap_or_else(|| panic!("{case}: no `{token}`"));
                let what = format!("{case} {name} `{token}`");
                within(limit, &ours_rows[own as usize], theirs[id], &what);
                compared += 1;
            }
            // Asked for, padding is mergekit's; else there are as many rows as there were.
            let padded = text.contains("pad_to_multiple_of");
            let before = if case == "model" { 76 } else { 72 };
            let expected = if padded { theirs.len() } else { tokens.len().max(before) };
            assert_eq!(ours_rows.len(), expected, "{case}");
            for (ours, theirs) in ours_rows.iter().zip(theirs).skip(tokens.len()).filter(|_| padded)
            {
                within(limit, ours, theirs, &format!("{case} {name} padding"));
            }
        }
    }
    assert_eq!(compared, 2 * (4 * 142 + 64 + 73 + 142 + 64 + 144 + 65 + 116 + 116));
}

/// mergekit 0.1.5 stops at a token without a source that is forced; here it has the row that a
/// model without the token would get: the base's.
#[test]
fn a_forced_token_without_a_source_has_the_default_row() {
    let recipe = std::fs::read_to_string(fixtures().join("cases/null-forced.yml")).unwrap();
    let merge = bound(&recipe, &fixtures()).unwrap();
    let base = Checkpoint::open(fixtures().join("base")).unwrap();
    let id = tokenizer(&fixtures().join("base")).token_to_id("<s>").unwrap() as usize;
    near(&rows(&merge, EMBEDDING)[id], &rows(&base, EMBEDDING)[id], "<s>");
    assert!(merge.plan().describe().iter().any(|line| line.contains("; rows by token")));
}

const UNION: &str = "merge_method: linear\nbase_model: base\nmodels: [{model: base}, {model: a}, {model: b}]\nparameters: {weight: 1}\ntokenizer_source: union\n";

#[test]
fn the_union_cuts_text_where_the_base_does_or_at_fewer_places() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    written(UNION, &fixtures(), &out);
    let (union, base) = (tokenizer(&out), tokenizer(&fixtures().join("base")));
    for (token, id) in base.get_vocab(true) {
        assert_eq!(union.token_to_id(&token), Some(id), "the base's order is kept");
        let text = base.decode(&[id], false).unwrap();
        if base.encode(text.as_str(), false).unwrap().get_ids() == [id] {
            assert_eq!(union.encode(text.as_str(), false).unwrap().get_ids(), [id], "{text:?}");
        }
    }
    let mut fewer = 0;
    for text in [
        "the newest river boats follow the wider bridge",
        "<s>der Fluss unter der Bruecke</s><pad>",
        "der weitere fliesst weiter",
    ] {
        let ends = |tokenizer: &Tokenizer| {
            let encoding = tokenizer.encode(text, false).unwrap();
            encoding.get_offsets().iter().map(|(_, end)| *end).collect::<Vec<usize>>()
        };
        let (own, of_base) = (ends(&union), ends(&base));
        // Letters that the base does not have it leaves out.
        let ids = base.encode(text, false).unwrap().get_ids().to_vec();
        let read_by_base = base.decode(&ids, false).unwrap() == text;
        assert!(!read_by_base || own.iter().all(|end| of_base.contains(end)), "{text}");
        fewer += usize::from(read_by_base && own.len() < of_base.len());
    }
    assert_eq!(fewer, 1, "the German text in the base's letters");
    let english = "the newest river boats follow the wider bridge";
    let ids = |t: &Tokenizer| t.encode(english, false).unwrap().get_ids().to_vec();
    assert_eq!(ids(&union), ids(&base), "in its own language nothing changes");
    let chat = union.encode("<|im_start|>the<|im_end|><tool>", false).unwrap();
    assert_eq!(chat.get_tokens(), ["<|im_start|>", "the", "<|im_end|>", "<tool>"]);
    let german = union.encode("der Fluss", false).unwrap();
    assert_eq!(german.get_tokens(), ["der", "ĠFluss"]);
}

#[test]
fn side_files_agree_with_the_union() {
    let dir = tempfile::tempdir().unwrap();
    let models = dir.path().join("models");
    for model in ["base", "a", "b"] {
        copied(model, &models.join(model));
    }
    let base = models.join("base");
    edit(&base.join("tokenizer_config.json"), |config| {
        config["added_tokens_decoder"] = json!({"61": {"content": "<s>"}});
    });
    for (name, text) in [
        ("special_tokens_map.json", "{\"bos_token\": \"<s>\"}"),
        ("added_tokens.json", "{\"<s>\": 61}"),
        ("vocab.json", "{}"),
        ("merges.txt", "a b"),
    ] {
        std::fs::write(base.join(name), text).unwrap();
    }
    let out = dir.path().join("out");
    let merge = written(&format!("{UNION}chat_template: chatml\n"), &models, &out);
    let union = tokenizer(&out);
    let added = json_of(&out.join("tokenizer_config.json"))["added_tokens_decoder"].clone();
    let ids: BTreeMap<String, u32> =
        serde_json::from_value(json_of(&out.join("added_tokens.json"))).unwrap();
    assert_eq!(ids.len(), 6);
    for (token, id) in &ids {
        assert_eq!(union.token_to_id(token), Some(*id));
        assert_eq!(added[id.to_string()]["content"], json!(token));
    }
    assert_eq!(added[ids["<s>"].to_string()]["lstrip"], json!(false), "the first settings");
    let notes = merge.plan().notes().join("\n");
    assert!(notes.contains("the added token `<s>` has other settings in `b`"), "{notes}");
    assert!(out.join("special_tokens_map.json").exists());
    assert!(!out.join("vocab.json").exists() && !out.join("merges.txt").exists());
    assert!(out.join("chat_template.jinja").exists());
    // The base's ids keep their meaning (thread #202: wrong bos ids).
    let config = json_of(&out.join("config.json"));
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        assert_eq!(config[key], json_of(&base.join("config.json"))[key]);
        assert_eq!(json_of(&out.join("generation_config.json"))[key], config[key]);
    }
    assert_eq!(union.id_to_token(config["bos_token_id"].as_u64().unwrap() as u32).unwrap(), "<s>");
}

/// Ids in configs that come from another model than the tokenizer does.
#[test]
fn special_ids_name_the_same_tokens_under_another_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let models = dir.path().join("models");
    for model in ["base", "a", "b"] {
        copied(model, &models.join(model));
    }
    for file in ["config.json", "generation_config.json"] {
        edit(&models.join("base").join(file), |config| {
            config["image_token_id"] = json!(29);
            config["suppress_tokens"] = json!([29, 28]);
            config["video_token_id"] = json!(63);
            config["temperature"] = json!(0.6);
        });
    }
    let text = UNION.replace("union", "a");
    let out = dir.path().join("out");
    let merge = written(&text, &models, &out);
    let (own, base) = (tokenizer(&out), tokenizer(&models.join("base")));
    for file in ["config.json", "generation_config.json"] {
        let config = json_of(&out.join(file));
        let token = |id: &Value| own.id_to_token(id.as_u64().unwrap() as u32).unwrap();
        assert_eq!(token(&config["bos_token_id"]), "<s>", "{file}");
        assert_eq!(token(&config["eos_token_id"]), "</s>", "{file}");
        assert_eq!(config["image_token_id"].is_null(), own.token_to_id("Ġthe").is_none());
        let lists = &config["suppress_tokens"];
        if let Some(list) = lists.as_array() {
            assert_eq!(token(&list[0]), base.id_to_token(29).unwrap());
        }
        assert_eq!(config["video_token_id"], Value::Null, "`a` has no <pad>");
        assert_eq!(config["temperature"], json!(0.6));
    }
    let notes = merge.plan().notes().join("\n");
    assert!(notes.contains("config.json: `video_token_id` of `base` names a token"), "{notes}");
    // Without a tokenizer beside the weights the ids are the same.
    let bare = dir.path().join("bare");
    write(&bound(&text, &models).unwrap().without_tokenizer(), &bare);
    assert!(!bare.join("tokenizer.json").exists());
    let file = "generation_config.json";
    assert_eq!(json_of(&bare.join(file)), json_of(&out.join(file)));
}

/// Thread #425: padding stays, unless the recipe says how much there should be.
#[test]
fn thread_425_padding_is_kept() {
    let base = Checkpoint::open(fixtures().join("base")).unwrap();
    let own = rows(&base, HEAD);
    assert_eq!((own.len(), tokenizer(&fixtures().join("base")).get_vocab_size(true)), (72, 64));
    // One vocabulary: no row moves, and the bytes are the parent's.
    let same = "merge_method: passthrough\nmodels: [{model: base}]\ntokenizer_source: base\n";
    let merge = bound(same, &fixtures()).unwrap();
    let id = merge.manifest().find(HEAD).unwrap();
    assert!(merge.read_raw(id, 0..72, &mut Vec::new()).unwrap(), "copied byte for byte");
    // Rows move by token, the padding stays the base's.
    for source in ["base", "union"] {
        let text = UNION.replace("union", source);
        let child = rows(&bound(&text, &fixtures()).unwrap(), HEAD);
        assert_eq!(child.len(), if source == "base" { 72 } else { 142 });
        if source == "base" {
            (64..72).for_each(|row| near(&child[row], &own[row], "padding"));
        }
    }
    // A union that fits into the padding.
    let rule = "merge_method: linear\nbase_model: base\nmodels: [{model: base}, {model: base2}]\nparameters: {weight: 1}\ntokenizer: {tokens: {<new>: {source: {kind: model_token, model: base, token: <s>}}}}\n";
    let dir = tempfile::tempdir().unwrap();
    copied("base", &dir.path().join("base"));
    copied("base", &dir.path().join("base2"));
    let out = dir.path().join("out");
    written(rule, dir.path(), &out);
    let child = rows(&Checkpoint::open(&out).unwrap(), HEAD);
    assert_eq!(child.len(), 72);
    assert_eq!(tokenizer(&out).token_to_id("<new>"), Some(64));
    near(&child[64], &own[61], "the row of <s>");
    near(&child[65], &own[65], "padding");
    let padded = bound(&rule.replace("{tokens", "{pad_to_multiple_of: 33, tokens"), dir.path());
    let padded = rows(&padded.unwrap(), HEAD);
    assert_eq!(padded.len(), 66);
    let tokens: Vec<&Vec<f32>> = padded[..65].iter().collect();
    near(&padded[65], &mean(&tokens), "the mean of the rows of all tokens");
}

/// Threads #489 and #343: vocabularies of two sizes are never cropped.
#[test]
fn thread_489_vocabularies_of_two_sizes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for model in ["base", "a"] {
        copied(model, &dir.path().join(model));
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::remove_file(dir.path().join(model).join(name)).unwrap();
        }
    }
    let text =
        "merge_method: linear\nmodels: [{model: base}, {model: a}]\nparameters: {weight: 1}\n";
    let Err(Error::Plan(problems)) = bound(text, dir.path()) else { panic!("merged") };
    for name in [EMBEDDING, HEAD] {
        let found = problems.iter().find(|p| p.to_string().contains(name)).unwrap();
        assert!(found.to_string().contains("[72, 8] in `base` and [76, 8] in `a`"), "{found}");
        assert!(found.hint.contains("`tokenizer_source: union`"), "{}", found.hint);
    }
    assert_eq!(problems.len(), 2);
    // With tokenizers the sentence comes from them.
    let Err(error) = bound(text, &fixtures()) else { panic!("merged") };
    assert!(error.to_string().contains("different tokenizers"), "{error}");
}

/// Threads #47, #139, #342, #169: models whose tokenizers differ merge, each method on rows of the
/// same token; #202: begin-of-text is the base's.
#[test]
fn threads_47_139_342_169_202_models_of_other_vocabularies_merge() {
    for method in ["linear", "slerp", "ties", "dare_ties", "della", "nuslerp", "karcher"] {
        let base = if method == "karcher" { "" } else { "base_model: base\n" };
        let parameters = match method {
            "slerp" => "{t: 0.5}",
            "karcher" => "{}",
            "ties" | "dare_ties" | "della" => "{weight: 0.5, density: 0.7}",
            _ => "{weight: 0.5}",
        };
        let three = !matches!(method, "slerp");
        let models = if method == "nuslerp" {
            "[{model: a}, {model: b}]"
        } else if three {
            "[{model: base}, {model: a}, {model: b}]"
        } else {
            "[{model: base}, {model: b}]"
        };
        let text = format!(
            "merge_method: {method}\n{base}models: {models}\nparameters: {parameters}\ntokenizer_source: union\n"
        );
        let merge = bound(&text, &fixtures()).unwrap_or_else(|e| panic!("{method}: {e}"));
        let child = rows(&merge, EMBEDDING);
        assert!(child.iter().flatten().all(|value| value.is_finite()), "{method}");
        assert_eq!(merge.config()["bos_token_id"], json!(61), "{method}");
        assert_eq!(merge.config()["vocab_size"], json!(child.len()), "{method}");
    }
}

#[test]
fn tiles_give_what_the_whole_gives() {
    let text = UNION.replace("tokenizer_source: union", "tokenizer: {pad_to_multiple_of: 48}");
    let merge = bound(&text, &fixtures()).unwrap();
    for name in [EMBEDDING, HEAD] {
        let id = merge.manifest().find(name).unwrap();
        let whole = read_tensor(&merge, id).unwrap();
        let plan = merge.prepare(id).unwrap();
        assert_eq!(plan.rows, 144);
        for step in [1, 5, 100] {
            let mut tiles = vec![0.0; whole.len()];
            for start in (0..144).step_by(step) {
                let end = 144.min(start + step);
                merge.read_tile(&plan, start..end, &mut tiles[start * 8..end * 8]).unwrap();
            }
            assert_eq!(tiles, whole);
        }
    }
}

/// Tokens beyond the rows of the embedding have no row to give.
#[test]
fn tokens_without_rows_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    for model in ["base", "a", "b"] {
        copied(model, &dir.path().join(model));
    }
    // 60 rows: the base loses `Ġbridge` and its added tokens.
    let folder = dir.path().join("base");
    let base = Checkpoint::open(&folder).unwrap();
    let short = base.manifest().tensors().iter().zip(base.manifest().ids()).map(|(info, id)| {
        let mut shape = info.shape.clone();
        let mut values = read_tensor(&base, id).unwrap();
        if [EMBEDDING, HEAD].contains(&info.name.as_str()) {
            shape[0] = 60;
            values.truncate(60 * 8);
        }
        (info.name.clone(), info.dtype, shape, values)
    });
    let short =
        darwin_checkpoint::MemorySource::new("base", base.config().clone(), short.collect());
    let recipe = Recipe::parse(&UNION.replace("union", "base")).unwrap();
    let mut sources = opened(&recipe, dir.path());
    sources.insert("base", Arc::new(short.unwrap()));
    let merge = Merge::new(&recipe, &sources).unwrap();
    assert_eq!(rows(&merge, HEAD).len(), 60);
    let notes = merge.plan().notes().join("\n");
    assert!(notes.contains("4 tokens of `base` lie beyond the 60 rows"), "{notes}");
    write(&merge, &dir.path().join("out"));
    let child = tokenizer(&dir.path().join("out"));
    assert_eq!(child.get_vocab_size(true), 60);
    assert_eq!(child.token_to_id("Ġbridge"), None);
    assert!(child.encode("the bridge", false).unwrap().get_ids().iter().all(|id| *id < 60));
}

/// WordPiece takes the longest piece, Unigram the most probable cut: what is one token for the
/// base stays one token there, too.
#[test]
fn other_kinds_join_as_well() {
    let word_piece = |words: &[&str]| {
        let vocab: BTreeMap<&str, usize> = words.iter().copied().zip(0..).collect();
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{"id": 0, "content": "[UNK]", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": null, "decoder": null,
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocab},
        })
    };
    let unigram = |words: &[(&str, f64)]| {
        let id = words.len();
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{"id": id, "content": "<x>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": words},
        })
    };
    let dir = tempfile::tempdir().unwrap();
    for model in ["base", "a", "b"] {
        copied(model, &dir.path().join(model));
    }
    let merged = |base: &Value, a: &Value, b: &Value| {
        for (model, json) in [("base", base), ("a", a), ("b", b)] {
            std::fs::write(dir.path().join(model).join("tokenizer.json"), json.to_string())
                .unwrap();
        }
        let out = tempfile::tempdir().unwrap();
        written(UNION, dir.path(), &out.path().join("out"));
        tokenizer(&out.path().join("out"))
    };
    let (one, two) = (["[UNK]", "riv", "##er", "##ers"], ["[UNK]", "river", "##s"]);
    let union = merged(&word_piece(&one), &word_piece(&two), &word_piece(&one));
    let tokens = |text: &str| union.encode(text, false).unwrap().get_tokens().to_vec();
    assert_eq!(tokens("riv rivers other"), ["riv", "river", "##s", "[UNK]"]);
    assert_eq!(union.token_to_id("##ers"), Some(3));

    let one = [("<unk>", 0.0), ("a", -2.0), ("b", -3.0), ("ab", -6.0)];
    let two = [("<unk>", 0.0), ("a", -2.0), ("ba", -1.0)];
    let union = merged(&unigram(&one), &unigram(&two), &unigram(&one));
    let tokens = |text: &str| union.encode(text, false).unwrap().get_tokens().to_vec();
    assert_eq!(union.token_to_id("<x>"), Some(4), "the base's ids stay");
    assert_eq!(union.token_to_id("ba"), Some(5));
    assert_eq!(tokens("ab<x>"), ["a", "b", "<x>"], "as the base cuts it");
    assert_eq!(tokens("ba"), ["b", "a"], "-5 is better than -6");
    assert_eq!(tokens("bb"), ["b", "b"]);
}

/// A model without files has the base's tokens; rules that name what is not there are problems.
#[test]
fn rules_and_models_that_do_not_fit() {
    let rule = |token: &str| {
        UNION.replace("tokenizer_source: union", &format!("tokenizer: {{tokens: {{{token}}}}}"))
    };
    let text =
        rule("<tool>: {source: a}, <pad>: {source: {kind: model_token, model: b, token_id: 55}}");
    let Err(error) = bound(&text, &fixtures()) else { panic!("merged") };
    let found = error.to_string();
    assert!(found.contains("`a` gives the row of the token `<tool>` and has no token"), "{found}");
    assert!(found.contains("`b` gives the row of the token `<pad>` and has 55 rows and no id 55"));
    let one = "merge_method: passthrough\nmodels: [{model: base}]\ntokenizer: {source: base, tokens: {<new>: {}}}\n";
    let merge = bound(one, &fixtures()).unwrap();
    assert_eq!(rows(&merge, EMBEDDING)[64], [0.0; 8]);
    let notes = merge.plan().notes().join("\n");
    assert!(notes.contains("no model has the tokens `<new>`: their rows are zero"), "{notes}");
}

/// In its numerics the same bits, computed rows and all; the mean for padding is torch's sum of
/// another order, and may be off by one unit in the last place.
#[test]
fn bfloat16_rows_are_mergekits_bits_in_its_numerics() {
    let case = "union-bfloat16";
    let text = std::fs::read_to_string(fixtures().join(format!("cases/{case}.yml"))).unwrap();
    let theirs = json_of(&fixtures().join(format!("cases/{case}.json")));
    let golden = read_file(&fixtures().join(format!("cases/{case}.safetensors")));
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    written(&format!("{text}darwin: {{numerics: mergekit}}\n"), &fixtures(), &out);
    let child = Checkpoint::open(&out).unwrap();
    let ours = tokenizer(&out);
    let tokens = theirs["tokens"].as_array().unwrap();
    for (name, on_disk) in [(EMBEDDING, "model.embed_tokens.weight"), (HEAD, HEAD)] {
        let mut theirs = vec![0.0; golden[on_disk].1.len() / 2];
        Dtype::Bf16.decode(&golden[on_disk].1, &mut theirs);
        let theirs: Vec<&[f32]> = theirs.chunks(8).collect();
        let own = rows(&child, name);
        for (id, token) in tokens.iter().enumerate() {
            let at = ours.token_to_id(token.as_str().unwrap()).unwrap() as usize;
            assert_eq!(own[at], theirs[id], "{name} {token}");
        }
        assert_eq!(own.len(), 160);
        for (a, b) in own[142].iter().zip(theirs[142]) {
            assert!((a - b).abs() <= a.abs() / 128.0, "padding: {a} {b}");
        }
    }
}

/// A vision tower's positions are no tokens; the size stands under `text_config`.
#[test]
fn vision_stays_and_the_text_config_has_the_size() {
    let dir = tempfile::tempdir().unwrap();
    common::write_pair(dir.path(), true);
    let vocab = |words: &[&str]| {
        let vocab: BTreeMap<&str, usize> = words.iter().copied().zip(0..).collect();
        json!({"model": {"type": "BPE", "vocab": vocab, "merges": []}, "added_tokens": []})
    };
    let many: Vec<String> = (0..64).map(|i| format!("t{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (model, words) in [("father", &many[..]), ("mother", &["x", "t1", "y"])] {
        let text = vocab(words).to_string();
        std::fs::write(dir.path().join(model).join("tokenizer.json"), text).unwrap();
    }
    edit(&dir.path().join("father/config.json"), |config| {
        config["text_config"]["vocab_size"] = json!(64);
    });
    let text = "merge_method: linear\nbase_model: father\nmodels: [{model: father}, {model: mother}]\nparameters: {weight: 0.5}\ntokenizer_source: union\n";
    let out = dir.path().join("out");
    written(text, dir.path(), &out);
    let [child, father, mother] =
        ["out", "father", "mother"].map(|name| Checkpoint::open(dir.path().join(name)).unwrap());
    assert_eq!(child.config()["text_config"]["vocab_size"], json!(66));
    assert_eq!(child.config()["vocab_size"], Value::Null);
    let visual = "visual.patch_embed.proj.weight";
    assert_eq!(rows(&child, visual), rows(&father, visual));
    let [own, fathers, mothers] = [&child, &father, &mother].map(|c| rows(c, EMBEDDING));
    assert_eq!(own.len(), 66);
    assert_eq!(own[64], mothers[0], "`x`, of one owner");
    assert_eq!(own[65], mothers[2]);
    assert_eq!(own[0], fathers[0]);
    let half: Vec<f32> = fathers[1].iter().zip(&mothers[1]).map(|(a, b)| (a + b) / 2.0).collect();
    own[1].iter().zip(half).for_each(|(a, b)| assert!((a - b).abs() <= b.abs() / 128.0));
}

/// A tied head has no rows of its own; models of other widths do not give rows.
#[test]
fn tied_heads_and_other_widths() {
    let recipe = Recipe::parse(UNION).unwrap();
    let mut sources = opened(&recipe, &fixtures());
    let change = |model: &str, width: usize| {
        let source = Checkpoint::open(fixtures().join(model)).unwrap();
        let tensors = source.manifest().tensors().iter().zip(source.manifest().ids());
        let tensors = tensors.filter(|(info, _)| info.name != HEAD).map(|(info, id)| {
            let mut shape = info.shape.clone();
            let mut values = read_tensor(&source, id).unwrap();
            if info.name == EMBEDDING {
                shape[1] = width;
                values.truncate(shape[0] * width);
            }
            (info.name.clone(), info.dtype, shape, values)
        });
        let config = source.config().clone();
        let source = darwin_checkpoint::MemorySource::new(model, config, tensors.collect());
        Arc::new(source.unwrap())
    };
    for model in ["base", "a", "b"] {
        sources.insert(model, change(model, 8));
    }
    let merge = Merge::new(&recipe, &sources).unwrap();
    assert_eq!(rows(&merge, EMBEDDING).len(), 142);
    assert_eq!(merge.manifest().find(HEAD), None);
    sources.insert("b", change("b", 4));
    let Err(error) = Merge::new(&recipe, &sources) else { panic!("merged") };
    let found = error.to_string();
    assert!(
        found.contains("`embed_tokens.weight` has rows of [8] in `base` and of [4] in `b`"),
        "{found}"
    );
}

/// A model without files is taken to have the base's tokens.
#[test]
fn a_model_without_a_tokenizer_has_the_bases() {
    let dir = tempfile::tempdir().unwrap();
    for (model, name) in [("base", "base"), ("a", "a"), ("base", "b")] {
        copied(model, &dir.path().join(name));
    }
    std::fs::remove_file(dir.path().join("b/tokenizer.json")).unwrap();
    let merge = bound(UNION, dir.path()).unwrap();
    let notes = merge.plan().notes().join("\n");
    assert!(notes.contains("`b` has no tokenizer.json: its tokens are taken to be"), "{notes}");
    let own = rows(&Checkpoint::open(dir.path().join("base")).unwrap(), EMBEDDING);
    let pad = tokenizer(&dir.path().join("base")).token_to_id("<pad>").unwrap() as usize;
    near(&rows(&merge, EMBEDDING)[pad], &own[pad], "of two owners that are equal");
}
