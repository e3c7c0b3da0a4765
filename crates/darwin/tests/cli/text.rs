//! `darwin generate` and `darwin score`.

use super::{darwin, siblings};
use serde_json::Value;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

fn father() -> String {
    let parents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/parents/father");
    parents.canonicalize().expect("the example father").display().to_string()
}

/// A folder with the example father's files, some of them others.
fn father_with(other: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("tempdir");
    let model = folder.path().join("model");
    std::fs::create_dir(&model).expect("create");
    for file in std::fs::read_dir(father()).expect("list").flatten() {
        if other.iter().all(|(name, _)| *name != file.file_name()) {
            std::os::unix::fs::symlink(file.path(), model.join(file.file_name())).expect("link");
        }
    }
    for (name, text) in other.iter().filter(|(_, text)| !text.is_empty()) {
        std::fs::write(model.join(name), text).expect("write");
    }
    folder
}

/// `darwin ARGUMENTS` with a text on stdin: exit code, stdout, stderr.
fn piped(arguments: &[&str], stdin: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_darwin"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    child.stdin.take().expect("piped").write_all(stdin.as_bytes()).expect("write");
    let output = child.wait_with_output().expect("ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

#[test]
fn answers_stream_and_are_the_same_by_every_way() {
    let (folder, father) = (tempfile::tempdir().expect("tempdir"), father());
    let ask = ["generate", &father, "What is 2 + 3?", "--max-new-tokens", "16"];
    let (code, text, stderr) = darwin(folder.path(), &ask);
    assert_eq!(code, 0, "{stderr}");
    assert!(!text.trim().is_empty() && !text.contains('\u{1b}') && !text.contains("<|"), "{text}");
    assert!(stderr.contains(" prompt tokens in ") && stderr.contains(" new ones in "), "{stderr}");
    assert!(stderr.contains("ended by stop id 3"), "{stderr}");
    let (code, from_stdin, stderr) =
        piped(&["-q", "generate", &father, "--max-new-tokens", "16"], "What is 2 + 3?\n");
    assert_eq!((code, from_stdin.as_str(), stderr.as_str()), (0, text.as_str(), ""));
    let (_, line, _) = darwin(folder.path(), &[&ask[..], &["--json", "-q"]].concat());
    let line = json(&line);
    assert_eq!(line["text"].as_str(), Some(text.trim_end_matches('\n')));
    assert_eq!(line["finish"]["reason"], "stop_id");
    assert_eq!(line["ids"].as_array().and_then(|ids| ids.last()), Some(&Value::from(3)));
    let (_, special, _) = darwin(folder.path(), &[&ask[..], &["--special", "-q"]].concat());
    assert_eq!(special.trim_end(), format!("{}<|end|>", text.trim_end_matches('\n')));
    // ends before a text of its own
    let end: String = text.trim_end().chars().last().into_iter().collect();
    let (_, cut, stderr) = darwin(folder.path(), &[&ask[..], &["--stop", &end]].concat());
    assert_eq!(cut.trim_end_matches('\n'), &text[..text.find(&end).expect("there")]);
    assert!(stderr.contains(&format!("ended by stop text {end:?}")), "{stderr}");
    // a special token as a stop text is its id
    let stopped = ["generate", &father, "hi", "-v", "--stop", "<think>", "--stop", "<|user|>"];
    let (_, _, stderr) = darwin(folder.path(), &stopped);
    assert!(stderr.contains(r#"ends at ids [3, 1] and texts ["<think>"]"#), "{stderr}");
    assert!(stderr.contains("max_new_tokens 96 (generation_config.json)"), "{stderr}");
    assert!(stderr.contains("temperature 0 (default)"), "{stderr}");
    // the template puts two tokens around a message, and one more where the model shall think
    for (flag, tokens) in [("--thinking", 1), ("--no-thinking", 0), ("--raw", -2)] {
        let (_, other, _) = darwin(folder.path(), &[&ask[..], &["--json", "-q", flag]].concat());
        let prompt = |line: &Value| line["prompt_tokens"].as_i64().expect("a number");
        assert_eq!(prompt(&json(&other)), prompt(&line) + tokens, "{flag}");
    }
}

#[test]
fn draws_are_the_seeds() {
    let (folder, father) = (tempfile::tempdir().expect("tempdir"), father());
    let draw = |more: &[&str]| {
        let ask = ["-q", "generate", &father, "Tell me", "--n", "3", "--temperature", "1.5"];
        let (code, text, stderr) = darwin(folder.path(), &[&ask[..], more].concat());
        assert_eq!((code, stderr.as_str()), (0, ""));
        text
    };
    let one = draw(&["--seed", "1", "--threads", "1"]);
    assert!(one.starts_with("== 1 of 3\n") && one.contains("\n== 3 of 3\n"), "{one}");
    assert_eq!(one, draw(&["--seed", "1", "--threads", "3"]));
    assert_ne!(one, draw(&["--seed", "2"]));
    let lines = draw(&["--seed", "1", "--json"]);
    let lines: Vec<Value> = lines.lines().map(json).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0]["ids"] != lines[1]["ids"] && lines[2]["sample"] == 2);
    // one alone is the first of three
    let alone =
        ["-q", "generate", &father, "Tell me", "--temperature", "1.5", "--seed", "1", "--json"];
    assert_eq!(json(&darwin(folder.path(), &alone).1)["ids"], lines[0]["ids"]);
    let model = father_with(&[(
        "generation_config.json",
        r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "eos_token_id": 3}"#,
    )]);
    let (_, _, stderr) = darwin(model.path(), &["generate", "model", "hi", "-v", "--top-p", "0.9"]);
    for word in [
        "temperature 0.6 (generation_config.json)",
        "top_k 20 (generation_config.json)",
        "top_p 0.9 (given)",
        "repetition_penalty 1 (default)",
        "max_new_tokens 128 (default)",
    ] {
        assert!(stderr.contains(word), "`{word}` is not in {stderr}");
    }
}

#[test]
fn tools_and_system_reach_the_template() {
    let template = "{{ raise_exception(tools[0].function.name ~ messages[0].content \
        ~ messages[1].content ~ (enable_thinking | string) ~ (strftime_now('%Y') | length)) }}";
    let model = father_with(&[("chat_template.jinja", template)]);
    let tools = model.path().join("tools.json");
    std::fs::write(&tools, r#"[{"type": "function", "function": {"name": "clock"}}]"#)
        .expect("write");
    let ask =
        ["generate", "model", "hi", "--system", "Be brief.", "--tools", "tools.json", "--think"];
    let (code, _, stderr) = darwin(model.path(), &ask);
    assert_eq!(code, 2);
    assert!(stderr.contains("chat template fails: clockBe brief.hiTrue4"), "{stderr}");
    for (text, words) in
        [("{", "tools.json: not valid JSON"), ("[3]", "tools.json: not a list of objects")]
    {
        std::fs::write(&tools, text).expect("write");
        let (code, _, stderr) = darwin(model.path(), &ask);
        assert!(code == 2 && stderr.contains(words) && stderr.contains("hint: "), "{stderr}");
    }
}

#[test]
fn bad_input_gets_a_sentence() {
    let long = "x ".repeat(9000);
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    let father = father();
    for (other, arguments, words) in [
        (&[("tokenizer.json", "")][..], &["hi"][..], "model/tokenizer.json: cannot read"),
        (&[("chat_template.jinja", "{% if %}")], &["hi"], "not a chat template: syntax error"),
        (&[("chat_template.jinja", endless)], &["hi"], "chat template fails: stopped after"),
        (
            &[("chat_template.jinja", "{{ raise_exception('no') }}")],
            &["hi"],
            "chat_template.jinja: chat template fails: no (line 1)",
        ),
        (&[("generation_config.json", r#"{"top_k": "x"}"#)], &["hi"], "`top_k` is \"x\""),
        (&[], &[""], "the prompt is empty"),
        (&[], &[&long], "the model's context (max_position_embeddings) is"),
        (&[], &["hi", "--n", "2"], "all 2 answers would be the same"),
        (&[], &["hi", "--temperature=-1"], "`temperature` is -1, allowed is 0 (greedy) or above"),
        (&[], &["hi", "--stop", ""], "stop string 0 is empty"),
        (&[], &["hi", "--raw", "--think"], "cannot be used with"),
        (&[], &["hi", "--tools", "gone.json"], "cannot read gone.json"),
        (&[], &["hi", "--threads", "0"], "`--threads` is 0"),
    ] {
        let model = father_with(other);
        let all = [&["generate", "model"], arguments].concat();
        let (code, stdout, stderr) = darwin(model.path(), &all);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(words), "{words}: {stderr}");
    }
    let (code, _, stderr) = piped(&["generate", &father, "-"], "");
    assert!(code == 2 && stderr.contains("the prompt is empty"), "{stderr}");
}

#[test]
fn an_interrupted_answer_ends_with_what_was_said() {
    let model = father_with(&[("generation_config.json", "{}"), ("config.json", &no_end())]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_darwin"))
        .args(["generate", "model", "Tell me", "--temperature", "2", "--max-new-tokens", "100000"])
        .current_dir(model.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut stdout = child.stdout.take().expect("piped");
    let mut text = vec![0];
    stdout.read_exact(&mut text).expect("a first byte");
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("kill").success());
    stdout.read_to_end(&mut text).expect("the rest");
    let output = child.wait_with_output().expect("ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(text.ends_with(b"\n") && stderr.contains("ended by interruption"), "{stderr}");
}

/// The father's config without the id that ends an answer.
fn no_end() -> String {
    let text = std::fs::read_to_string(Path::new(&father()).join("config.json")).expect("read");
    let mut config = json(&text);
    for part in ["/text_config", ""] {
        if let Some(part) = config.pointer_mut(part).and_then(Value::as_object_mut) {
            part.remove("eos_token_id");
        }
    }
    config.to_string()
}

#[test]
fn a_reader_that_leaves_ends_the_answer() {
    let model = father_with(&[("generation_config.json", "{}"), ("config.json", &no_end())]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_darwin"))
        .args(["-q", "generate", "model", "Tell me", "--temperature", "2"])
        .args(["--max-new-tokens", "100000"])
        .current_dir(model.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn scores_are_a_table_or_lines() {
    let folder = siblings();
    let items = "{\"id\":\"a\",\"prompt_ids\":[1,2,3],\"answer_ids\":[4,5]}\n\
        {\"prompt\":\"1+1\",\"answer\":\"2é\"}\n\n{\"text\":\"abcd\"}\n";
    std::fs::write(folder.path().join("items.jsonl"), items).expect("write");
    let with = |more: &[&str]| {
        let all = [&["-q", "score", "father", "items.jsonl"], more].concat();
        let (code, stdout, stderr) = darwin(folder.path(), &all);
        assert_eq!((code, stderr.as_str()), (0, ""));
        stdout
    };
    let lines: Vec<Value> = with(&["--json", "--tokens", "--taps"]).lines().map(json).collect();
    assert_eq!(lines.len(), 4);
    let number = |value: &Value| value.as_f64().expect("a number");
    let nll = number(&lines[0]["nll"]);
    let logprobs = lines[0]["logprobs"].as_array().expect("a list");
    let sum: f64 = logprobs.iter().filter_map(Value::as_f64).sum();
    assert!((nll + sum).abs() < 1e-4 && nll > 0.0);
    // 4 layers, 5 tokens, 2 experts each.
    assert_eq!(lines[0]["experts"].as_array().map(Vec::len), Some(4));
    assert_eq!(lines[0]["experts"][3].as_array().map(Vec::len), Some(5));
    assert_eq!(lines[0]["experts"][3][4].as_array().map(Vec::len), Some(2));
    assert_eq!((&lines[0]["id"], &lines[1]["id"]), (&Value::from("a"), &Value::from(2)));
    // a byte is a token; the first one of a text is not scored
    let counts = |key: &str| lines[..3].iter().map(|l| l[key].clone()).collect::<Vec<_>>();
    assert_eq!(counts("tokens"), [2, 3, 3].map(Value::from));
    assert_eq!(counts("bytes"), [Value::Null, 3.into(), 3.into()]);
    let summary = &lines[3]["summary"];
    let nlls: Vec<f64> = lines[..3].iter().map(|l| number(&l["nll"])).collect();
    let mean = nlls.iter().sum::<f64>() / 3.0;
    assert!((number(&summary["nll"]) - mean).abs() < 1e-9);
    assert!((number(&summary["nll_per_token"]) - mean * 3.0 / 8.0).abs() < 1e-9);
    let bits = (nlls[1] + nlls[2]) / std::f64::consts::LN_2 / 6.0;
    assert!((number(&summary["bits_per_byte"]) - bits).abs() < 1e-9);
    assert!(number(&summary["nll_low"]) < mean && mean < number(&summary["nll_high"]));
    assert_eq!((summary["n"].as_u64(), summary["tokens"].as_u64()), (Some(3), Some(8)));
    let table = with(&[]);
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["item", "tokens", "nll", "nll/token", "greedy"]);
    assert_eq!(rows[2][..3], ["a", "2", &format!("{nll:.4}")]);
    let last = table.lines().last().expect("a summary");
    assert!(
        last.starts_with(&format!("nll {mean:.4} nats an item (n = 3, 95 % interval ")),
        "{last}"
    );
    assert!(last.ends_with(&format!("{bits:.4} bits a byte (n = 6)")), "{last}");
    assert!(!with(&["--json"]).contains("logprobs"));
}

#[test]
fn wrong_items_are_named_by_line() {
    let folder = siblings();
    for (items, words) in [
        ("{\"prompt_ids\":[999999],\"answer_ids\":[1]}\n", "999999"),
        ("{\"text\":\"abc\"}\n{\"text\":\n", "items.jsonl:2: not JSON"),
        ("{\"text\":\"a\"}\n", "items.jsonl:1: key `text` holds fewer than two tokens"),
        ("\n{\"text\":\"ab\",\"answer\":\"c\"}\n", "items.jsonl:2: has more than one kind"),
        ("{\"prompt\":\"ab\"}\n", "items.jsonl:1: key `answer` is missing"),
        ("{\"prompt\":\"\",\"answer\":\"c\"}\n", "items.jsonl:1: key `prompt` holds no tokens"),
        ("[1]\n", "items.jsonl:1: found a list, not an object"),
        ("", "items.jsonl"),
    ] {
        std::fs::write(folder.path().join("items.jsonl"), items).expect("write");
        let (code, stdout, stderr) =
            darwin(folder.path(), &["-q", "score", "father", "items.jsonl"]);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains(words) && stderr.contains("hint: "), "{words}: {stderr}");
    }
}
