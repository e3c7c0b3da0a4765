//! Command lines of `mergekit-yaml`, and `darwin validate`.

use super::{RECIPE, darwin, siblings};
use darwin_core::files::MergeManifest;

#[test]
fn flags_without_a_meaning_get_one_warning() {
    let folder = siblings();
    let line = "-q merge merge.yaml child --cuda --device auto --low-cpu-memory --no-lazy-unpickle \
        --clone-tensors --read-to-gpu --multi-gpu --gpu-rich --async-write --write-threads 4 \
        --no-safe-serialization --lora-merge-cache l \
        --lora-merge-dtype float16 --no-allow-crimes --num-threads 2 --random-seed 7 \
        --out-shard-size 20k --copy-tokenizer";
    let arguments: Vec<&str> = line.split_whitespace().collect();
    let (code, stdout, stderr) = darwin(folder.path(), &arguments);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        stderr,
        "warning: --cuda, --device, --low-cpu-memory, --no-lazy-unpickle, --clone-tensors, \
         --read-to-gpu, --multi-gpu, --gpu-rich, --async-write, --write-threads, \
         --no-safe-serialization, --lora-merge-cache, \
         --lora-merge-dtype have no effect here\n"
    );
    let shards: usize = stdout
        .split(" in ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| {
            stdout.split_whitespace().filter_map(|w| w.parse().ok()).max().unwrap_or(0)
        });
    assert!(shards > 3, "shards of 20,000 bytes: {stdout}");
    let (_, help, _) = darwin(folder.path(), &["merge", "--help"]);
    for flag in ["--cuda", "--device", "--gpu-rich", "--allow-crimes", "--trust-remote-code"] {
        assert!(!help.contains(flag), "{help}");
    }
    for flag in ["--random-seed", "--out-shard-size", "--num-threads", "--no-copy-tokenizer"] {
        assert!(help.contains(flag), "{help}");
    }
}

#[test]
fn dangerous_flags_are_refused_with_the_reason() {
    let folder = siblings();
    for (flag, words) in [
        ("--allow-crimes", ["different architectures", "`slices`"]),
        ("--trust-remote-code", ["no code of a model is ever run", "leave the flag out"]),
        ("--unsafe-truncate-embeddings", ["rows of other tokens", "`tokenizer_source: union`"]),
    ] {
        let (code, _, stderr) = darwin(folder.path(), &["merge", "merge.yaml", "child", flag]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.starts_with(&format!("error: {flag} is refused: ")), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "`{word}` is not in:\n{stderr}");
        }
        assert!(!folder.path().join("child").exists());
    }
    let both = ["merge", "merge.yaml", "child", "--allow-crimes", "--trust-remote-code"];
    let (code, _, stderr) = darwin(folder.path(), &both);
    assert!(code == 2 && stderr.matches("is refused").count() == 2, "{stderr}");
    for wrong in [["--out-shard-size", "5X"], ["--num-threads", "0"], ["--random-seed", "x"]] {
        let line = ["merge", "merge.yaml", "child", wrong[0], wrong[1]];
        let (code, _, stderr) = darwin(folder.path(), &line);
        assert_eq!(code, 2, "{stderr}");
    }
}

#[test]
fn the_tokenizer_is_copied_unless_the_last_flag_says_no() {
    let folder = siblings();
    for (out, flags, there) in [
        ("one", &["--no-copy-tokenizer", "--copy-tokenizer"][..], true),
        ("two", &["--copy-tokenizer", "--no-copy-tokenizer"], false),
    ] {
        let mut line = vec!["-q", "merge", "merge.yaml", out];
        line.extend(flags);
        let (code, _, stderr) = darwin(folder.path(), &line);
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(folder.path().join(out).join("tokenizer.json").exists(), there);
    }
    let text = format!("{RECIPE}chat_template: chatml\ntokenizer_source: union\n");
    std::fs::write(folder.path().join("merge.yaml"), text).expect("write");
    let line = ["-q", "merge", "merge.yaml", "three", "--no-copy-tokenizer"];
    let (code, _, stderr) = darwin(folder.path(), &line);
    assert!(code == 0 && stderr.contains("`chat_template` is not written"), "{stderr}");
    assert!(stderr.contains("the tokenizer that the recipe asks for is not written"), "{stderr}");
}

/// The front matter of a card as YAML.
fn front_matter(card: &str) -> serde_json::Value {
    let yaml = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n"));
    serde_saphyr::from_str(yaml.expect("front matter").0).expect("YAML")
}

#[test]
fn a_model_card_is_written_unless_the_last_flag_says_no() {
    let folder = siblings();
    let at = |path: &str| folder.path().join(path);
    let write = |path: &str, text: &str| std::fs::write(at(path), text).expect("write");
    write("father/README.md", "---\nlicense: mit\nmodel_name: us/father\n---\n# The father\n");
    write("mother/README.md", "---\nlicense: mit\n---\n# The mother\n");
    let card = |out: &str, flags: &[&str]| {
        let mut line = vec!["-q", "merge", "merge.yaml", out];
        line.extend(flags);
        let (code, _, stderr) = darwin(folder.path(), &line);
        assert_eq!((code, stderr.as_str()), (0, ""));
        std::fs::read_to_string(at(out).join("README.md")).ok()
    };
    assert_eq!(card("none", &["--write-model-card", "--no-write-model-card"]), None);
    let text = card("named", &["--no-write-model-card", "--write-model-card"]).expect("a card");
    let yaml = front_matter(&text);
    assert_eq!(yaml["license"], "mit");
    assert_eq!(yaml["base_model"], serde_json::json!(["mother", "us/father"]));
    assert_eq!(yaml["base_model_relation"], "merge");
    assert_eq!(yaml["library_name"], "transformers");
    assert_eq!(yaml["tags"], serde_json::json!(["merge", "darwin"]));
    let manifest = std::fs::read(at("named").join("manifest.json")).expect("a manifest");
    let manifest: MergeManifest = serde_json::from_slice(&manifest).expect("it is JSON");
    let sha256 = manifest.recipe_sha256;
    assert_eq!(sha256.len(), 64);
    for words in [
        "# Merge of us/father, mother\n",
        "no score is claimed",
        "**linear**: the weighted mean. Source: arXiv 2203.05482.",
        "| us/father | ",
        "| weight 0.5 | mit |",
        "merge_method: linear",
        "rounded once",
        &sha256,
    ] {
        assert!(text.contains(words), "`{words}` is not in:\n{text}");
    }
    assert!(!text.contains("The father"), "the parent's own card is not the child's");
    assert!(!text.contains("mergekit 0.1.5"), "{text}");

    // Both say that they come from one model: each has its folder's name.
    write("mother/README.md", "---\nlicense: mit\nmodel_name: us/father\n---\n");
    let yaml = front_matter(&card("same", &[]).expect("a card"));
    assert_eq!(yaml["base_model"], serde_json::json!(["father", "mother"]));

    // Two licences, and a folder's name that would break YAML and Markdown.
    let odd = "mo\"th: er`|<i>\n- x";
    std::fs::rename(at("mother"), at(odd)).expect("rename");
    std::fs::write(at(odd).join("README.md"), "---\nlicense: apache-2.0\n---\n").expect("write");
    let quoted = serde_json::Value::from(odd).to_string();
    write("merge.yaml", &RECIPE.replace("model: mother", &format!("model: {quoted}")));
    let text = card("odd", &[]).expect("a card");
    let yaml = front_matter(&text);
    assert_eq!(yaml["base_model"], serde_json::json!([odd, "us/father"]));
    assert_eq!(yaml["license"], serde_json::Value::Null);
    assert!(text.contains("| mo\"th: er\\`\\|&lt;i&gt; - x | "), "{text}");
    assert!(text.contains("do not all state one licence"), "{text}");
}

#[test]
fn the_plan_is_printed_as_text_or_json() {
    let folder = siblings();
    let (code, stdout, _) = darwin(folder.path(), &["-q", "merge", "merge.yaml", "child", "-v"]);
    assert!(code == 0 && stdout.contains("mlp.gate.weight") && stdout.contains("child: "));
    let line = ["merge", "merge.yaml", "--dry-run", "--json"];
    let (code, stdout, stderr) = darwin(folder.path(), &line);
    assert_eq!(code, 0, "{stderr}");
    let plan: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(plan["tensors"][0]["sources"][0]["parameters"]["weight"]["value"], 0.5);
    let (code, ..) = darwin(folder.path(), &["merge", "merge.yaml", "other", "--json"]);
    assert_eq!(code, 2, "a merge prints what it wrote");
}

#[test]
fn a_filter_that_matches_nothing_is_named() {
    let folder = siblings();
    let text = RECIPE.replace("weight: 0.5", "weight: [{ filter: mpl, value: 1 }, { value: 0.5 }]");
    std::fs::write(folder.path().join("merge.yaml"), text).expect("write");
    let (code, _, stderr) = darwin(folder.path(), &["-q", "merge", "merge.yaml", "child"]);
    assert_eq!((code, stderr.as_str()), (0, "warning: the filter `mpl` matches no tensor\n"));
}

#[test]
fn validate_says_what_a_recipe_is() {
    let folder = siblings();
    let text = "merge_method: dare_ties
base_model: father
slices:
  - sources:
      - { model: father, layer_range: [0, 1] }
      - { model: mother, layer_range: [0, 1], parameters: { weight: [{ filter: mlp, value: [0, 1] }] } }
    residual_weight: 1
  - sources: [{ model: mother, layer_range: [1, 1] }, { model: father, layer_range: [1, 1] }]
    parameters: { weight: 1, lambda: 0.5 }
parameters: { weight: 0.5, rescale: off, t: 1 }
chat_template: auto
";
    std::fs::write(folder.path().join("merge.yaml"), text).expect("write");
    let (code, stdout, stderr) = darwin(folder.path(), &["validate", "merge.yaml"]);
    assert_eq!(code, 0, "{stderr}");
    insta::assert_snapshot!("validate", format!("{stdout}---\n{stderr}"));
    std::fs::write(folder.path().join("merge.yaml"), RECIPE).expect("write");
    let (code, stdout, stderr) = darwin(folder.path(), &["validate", "merge.yaml", "--models"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("models fit: ") && stdout.contains("weight 0.5"), "{stdout}");
}

#[test]
fn validate_lists_all_problems_and_opens_models_only_when_asked() {
    let folder = siblings();
    let text = RECIPE.replace("model: mother", "model: gone");
    std::fs::write(folder.path().join("merge.yaml"), &text).expect("write");
    let (code, stdout, _) = darwin(folder.path(), &["validate", "merge.yaml"]);
    assert!(code == 0 && stdout.contains("no model was opened"), "{stdout}");
    let (code, _, stderr) = darwin(folder.path(), &["validate", "merge.yaml", "--models"]);
    assert!(code == 2 && stderr.contains("gone"), "{stderr}");
    let text = text.replace("weight", "wieght") + "dtype: float8\n";
    std::fs::write(folder.path().join("merge.yaml"), text).expect("write");
    let (code, _, stderr) = darwin(folder.path(), &["validate", "merge.yaml"]);
    assert_eq!(code, 2);
    for word in ["merge.yaml:4:", "merge.yaml:6:", "`weight`", "merge.yaml:7:8", "`float16`"] {
        assert!(stderr.contains(word), "`{word}` is not in:\n{stderr}");
    }
    let (code, _, stderr) = darwin(folder.path(), &["validate", "nothing.yaml"]);
    assert!(code == 2 && stderr.contains("nothing.yaml"), "{stderr}");
}

/// A YAML that names models as on the Hub works where they were downloaded.
#[test]
fn models_are_found_in_the_hubs_cache() {
    let folder = siblings();
    let cache = folder.path().join("cache");
    for (name, revision) in [("father", "main"), ("mother", "v2")] {
        let model = cache.join(format!("models--owner--{name}"));
        std::fs::create_dir_all(model.join("refs")).expect("create");
        std::fs::create_dir_all(model.join("snapshots")).expect("create");
        std::fs::write(model.join("refs").join(revision), "0a1b").expect("write");
        std::fs::rename(folder.path().join(name), model.join("snapshots/0a1b")).expect("move");
    }
    let recipe = |mother: &str| {
        let text = RECIPE.replace("model: father", "model: owner/father");
        let text = text.replace("model: mother", &format!("model: {mother}"));
        std::fs::write(folder.path().join("merge.yaml"), text).expect("write");
        darwin(
            folder.path(),
            &["-q", "merge", "merge.yaml", "out", "--transformers-cache", "cache"],
        )
    };
    let (code, _, stderr) = recipe("owner/mother@v3");
    assert_eq!(code, 2);
    for word in
        ["`owner/mother@v3` is not in the Hub's cache", "hf download owner/mother --revision v3"]
    {
        assert!(stderr.contains(word), "`{word}` is not in:\n{stderr}");
    }
    let (code, _, stderr) = recipe("owner/mother@v2");
    assert_eq!(code, 0, "{stderr}");
    let manifest = std::fs::read_to_string(folder.path().join("out/manifest.json")).expect("read");
    assert!(manifest.contains("owner/mother@v2"));
    // Card and lineage say name and commit, however the recipe names the folder.
    assert!(manifest.contains(r#""hub": "owner/father@0a1b""#), "{manifest}");
    std::fs::remove_dir_all(folder.path().join("out")).expect("remove");
    let (code, _, stderr) = recipe("cache/models--owner--mother/snapshots/0a1b");
    assert_eq!(code, 0, "{stderr}");
    let card = std::fs::read_to_string(folder.path().join("out/README.md")).expect("a card");
    for words in ["owner/father@0a1b", "owner/mother@0a1b", "# Merge of owner/father, owner/mother"]
    {
        assert!(card.contains(words), "`{words}` is missing in:\n{card}");
    }
    assert_eq!(
        front_matter(&card)["base_model"],
        serde_json::json!(["owner/father", "owner/mother"])
    );
}

/// Several documents, as of `mergekit-multi`: named ones are models of the others.
#[test]
fn documents_build_on_each_other() {
    let folder = siblings();
    let document = |name: &str, a: &str, b: &str, weight: f64| {
        format!(
            "{name}merge_method: linear\nmodels:\n- model: {a}\n  parameters: {{weight: {weight}}}\n- model: {b}\n  parameters: {{weight: 1}}\n---\n"
        )
    };
    // The result stands first: the order is that of use.
    let text = document("", "half", "father", 3.0)
        + &document("name: quarter\n", "half", "mother", 1.0)
        + &document("name: half\n", "father", "mother", 1.0);
    std::fs::write(folder.path().join("multi.yml"), &text).expect("write");
    let merge = ["merge", "multi.yml", "out", "--intermediate-dir", "steps"];
    let (code, stdout, _) = darwin(folder.path(), &[&merge[..], &["--dry-run"]].concat());
    assert_eq!(code, 0);
    assert!(stdout.contains("the result: planned when `half` is merged"), "{stdout}");
    let (code, _, stderr) = darwin(folder.path(), &merge);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("no document uses `quarter`"), "{stderr}");
    // The same by hand.
    for (name, a, b, weight) in
        [("by-hand-half", "father", "mother", 1.0), ("by-hand", "steps/half", "father", 3.0)]
    {
        std::fs::write(folder.path().join("one.yml"), document("", a, b, weight)).expect("write");
        let (code, _, stderr) = darwin(folder.path(), &["-q", "merge", "one.yml", name]);
        assert_eq!(code, 0, "{stderr}");
    }
    let weights = |name: &str| {
        std::fs::read(folder.path().join(name).join("model.safetensors")).expect("read")
    };
    assert_eq!(weights("steps/half"), weights("by-hand-half"));
    assert_eq!(weights("out"), weights("by-hand"));
    // What is there is not made again, unless it is of another document.
    std::fs::remove_dir_all(folder.path().join("out")).expect("remove");
    let (code, stdout, stderr) = darwin(folder.path(), &merge);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("steps/half: there from an earlier run"), "{stdout}");
    // A step whose bytes are not what was written is made anew; so is one of other parents.
    let flip = |path: &std::path::Path| {
        let mut bytes = std::fs::read(path).expect("read");
        *bytes.last_mut().expect("not empty") ^= 1;
        std::fs::write(path, bytes).expect("write");
    };
    let merged = || {
        std::fs::remove_dir_all(folder.path().join("out")).expect("remove");
        let (code, _, stderr) = darwin(folder.path(), &merge);
        assert_eq!(code, 0, "{stderr}");
        (weights("out"), stderr)
    };
    flip(&folder.path().join("steps/half/model.safetensors"));
    let (bytes, stderr) = merged();
    assert!(stderr.contains("steps/half is made anew: "), "{stderr}");
    assert!(stderr.contains("model.safetensors is not what was written"), "{stderr}");
    assert_eq!(bytes, weights("by-hand"));
    let mother = std::fs::read_dir(folder.path().join("mother")).expect("list").flatten();
    let shards = mother.map(|entry| entry.path());
    let shard = shards.filter(|p| p.extension().is_some_and(|e| e == "safetensors")).max();
    flip(shard.as_deref().expect("a shard"));
    let (bytes, stderr) = merged();
    assert!(stderr.contains("steps/half is made anew: it was made of other parents"), "{stderr}");
    assert!(bytes != weights("by-hand"), "the output of the old weights");
    std::fs::remove_dir_all(folder.path().join("out")).expect("remove");
    std::fs::write(folder.path().join("multi.yml"), text.replace("weight: 1}", "weight: 2}"))
        .expect("write");
    let (code, _, stderr) = darwin(folder.path(), &merge);
    assert_eq!(code, 2);
    assert!(stderr.contains("was not made of this document"), "{stderr}");
}

#[test]
fn documents_that_do_not_fit_are_all_named() {
    let folder = tempfile::tempdir().expect("tempdir");
    let document = |name: &str, model: &str| {
        format!("{name}\nmerge_method: passthrough\nmodels: [{{model: {model}}}]\n---\n")
    };
    let refused = |text: String| {
        std::fs::write(folder.path().join("multi.yml"), text).expect("write");
        let (code, _, stderr) = darwin(folder.path(), &["validate", "multi.yml"]);
        assert_eq!(code, 2, "{stderr}");
        stderr
    };
    for (text, word) in [
        (document("name: a", "x") + &document("name: a", "y"), "two documents are called `a`"),
        (document("name: a", "x") + &document("name: b", "y"), "every document has a `name`"),
        (document("", "x") + &document("", "y"), "a second document without a `name`"),
        (
            document("", "a") + &document("name: a", "b") + &document("name: b", "a"),
            "`a` is made of itself",
        ),
        (document("", "a") + &document("name: ../a", "b"), "`name` is `../a`"),
        (document("", "a") + &document("name: a", "b").replace("models", "modelz"), "`modelz`"),
    ] {
        let stderr = refused(text);
        assert!(stderr.contains(word), "`{word}` is not in:\n{stderr}");
    }
}
