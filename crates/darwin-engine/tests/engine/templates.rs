//! Chat templates against transformers' `apply_chat_template` (tools/oracle/templates.py).

use darwin_core::fs::write_atomic;
use darwin_core::{Diagnose, Fault};
use darwin_engine::{ChatRequest, Text};
use darwin_testkit::write_tiny_text;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../darwin-testkit/fixtures/golden/templates")
}

fn cases() -> Value {
    serde_json::from_slice(&std::fs::read(golden().join("cases.json")).unwrap()).unwrap()
}

/// A tokenizer with a template and special tokens.
fn text(template: &str, specials: &Value) -> Text {
    let dir = tempfile::tempdir().unwrap();
    write_tiny_text(dir.path()).unwrap();
    let write = |name: &str, text: &str| write_atomic(&dir.path().join(name), text.as_bytes());
    write("chat_template.jinja", template).unwrap();
    write("tokenizer_config.json", &specials.to_string()).unwrap();
    Text::open(dir.path()).unwrap()
}

/// The request of a case: `apply_chat_template`'s arguments beside the result.
fn request(case: &Value) -> ChatRequest {
    let list = |key: &str| case.get(key).map(|v| v.as_array().unwrap().clone());
    let flag = |key: &str| case.get(key).and_then(Value::as_bool);
    let known = [
        "messages",
        "tools",
        "add_generation_prompt",
        "continue_final_message",
        "enable_thinking",
        "template",
        "rendered",
        "error",
        "says",
    ];
    let mut extra: Map<String, Value> = case.as_object().unwrap().clone();
    extra.retain(|key, _| !known.contains(&key.as_str()));
    ChatRequest {
        messages: list("messages").unwrap(),
        tools: list("tools"),
        add_generation_prompt: flag("add_generation_prompt").unwrap_or(false),
        continue_final_message: match &case["continue_final_message"] {
            Value::Bool(true) => Some("content".to_owned()),
            field => field.as_str().map(str::to_owned),
        },
        enable_thinking: flag("enable_thinking"),
        extra,
        now: Some(0),
        ..ChatRequest::default()
    }
}

/// Equal, or refused by both.
fn check(text: &Text, case: &Value, about: &str) {
    let found = text.render(&request(case));
    match (found, case["rendered"].as_str()) {
        (Ok(found), Some(wanted)) => assert_eq!(found, wanted, "{about}"),
        (Ok(found), None) => panic!("{about}: {found:?} instead of {}", case["says"]),
        (Err(error), Some(wanted)) => panic!("{about}: `{error}` instead of {wanted:?}"),
        (Err(error), None) => {
            assert_eq!(error.fault(), Fault::User);
            assert!(error.hint().is_some());
            let (error, says) = (error.to_string(), case["says"].as_str().unwrap());
            if case["error"] == "TemplateError" {
                assert!(error.contains(says), "{error} says nothing of: {says}");
            }
            assert!(error.contains("chat_template.jinja: "), "{error}");
        }
    }
}

#[test]
fn published_templates_render_as_in_transformers() {
    let cases = cases();
    let father = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/parents/father");
    for (model, of_model) in cases["models"].as_object().unwrap() {
        let template = if model == "father" {
            let config = std::fs::read(father.join("tokenizer_config.json")).unwrap();
            let config: Value = serde_json::from_slice(&config).unwrap();
            config["chat_template"].as_str().unwrap().to_owned()
        } else {
            std::fs::read_to_string(golden().join(format!("{model}.jinja"))).unwrap()
        };
        let text = text(&template, &cases["specials"]);
        for (i, case) in of_model.as_array().unwrap().iter().enumerate() {
            check(&text, case, &format!("{model} {i}: {}", case["messages"]));
        }
    }
}

/// The limits of a rendering grow with the conversation: a long one is no attack.
#[test]
fn long_conversations_render_with_published_templates() {
    for model in ["qwen3", "qwen3_5", "smollm2"] {
        let template = std::fs::read_to_string(golden().join(format!("{model}.jinja"))).unwrap();
        let text = text(&template, &json!({"eos_token": "<|im_end|>"}));
        for (messages, bytes) in [(2001, 200), (201, 20_000), (1, 4_000_000)] {
            let content = "a word and ".repeat(bytes / 11);
            let message = |i: usize| {
                let role = if i.is_multiple_of(2) { "user" } else { "assistant" };
                json!({"role": role, "content": content})
            };
            let request = ChatRequest {
                messages: (0..messages).map(message).collect(),
                ..request(&json!({"messages": []}))
            };
            let rendered = text
                .render(&request)
                .unwrap_or_else(|e| panic!("{model}: {messages} messages of {bytes} bytes: {e}"));
            assert_eq!(rendered.matches(content.trim()).count(), messages, "{model}");
        }
    }
}

#[test]
fn jinja_is_transformers_jinja() {
    let cases = cases();
    for case in cases["features"].as_array().unwrap() {
        let template = case["template"].as_str().unwrap();
        let mut case = case.clone();
        case["messages"] = cases["messages"].clone();
        case["data"] = cases["data"].clone();
        check(&text(template, &cases["specials"]), &case, template);
    }
}

#[test]
fn clocks_are_the_callers() {
    let text = text("{{ strftime_now('%d %b %Y, %H:%M:%S %A %j') }}", &json!({}));
    let mut request = ChatRequest::user("hi");
    let error = text.render(&request).unwrap_err().to_string();
    assert!(error.contains("strftime_now"), "{error}");
    // Python: datetime.fromtimestamp(1795545600 + 3723, UTC).strftime(...)
    request.now = Some(1_795_545_600 + 3_723);
    assert_eq!(text.render(&request).unwrap(), "24 Nov 2026, 19:42:03 Tuesday 328");
}

#[test]
fn endless_templates_are_stopped() {
    let nested = "{% for a in range(10000) %}{% for b in range(10000) %}{% if b %}{% endif %}{% endfor %}{% endfor %}";
    let error = text(nested, &json!({})).chat("hi", false).unwrap_err().to_string();
    assert!(error.contains("chat template fails: stopped after 20000000 steps"), "{error}");
    let long = "{% set x = 'x' * 1000000 %}{% for a in range(100) %}{{ x }}{% endfor %}";
    let error = text(long, &json!({})).chat("hi", false).unwrap_err().to_string();
    assert!(error.contains("bytes of output"), "{error}");
    let deep = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    let error = text(deep, &json!({})).chat("hi", false).unwrap_err().to_string();
    assert!(error.contains("recursion"), "{error}");
}

#[test]
fn named_templates_are_chosen_by_the_tools() {
    let dir = tempfile::tempdir().unwrap();
    write_tiny_text(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    let open = |config: Value| {
        let path = dir.path().join("tokenizer_config.json");
        write_atomic(&path, config.to_string().as_bytes()).unwrap();
        Text::open(dir.path())
    };
    let named = |names: [&str; 2]| {
        let [a, b] = names.map(|n| json!({"name": n, "template": format!("{n} {{{{ tools }}}}")}));
        json!({"chat_template": [a, b]})
    };
    let text = open(named(["default", "tool_use"])).unwrap();
    let mut request = ChatRequest::user("hi");
    assert_eq!(text.render(&request).unwrap(), "default None");
    request.tools = Some(vec![]);
    assert_eq!(text.render(&request).unwrap(), "tool_use []");
    let error = open(named(["rag", "other"])).unwrap().render(&request).unwrap_err().to_string();
    assert!(error.contains("none of the chat templates is called `default`"), "{error}");
    let error = open(json!({"chat_template": 7})).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json: `chat_template` is neither"), "{error}");
    let error = open(json!({"chat_template": "{% for %}"})).unwrap_err().to_string();
    assert!(error.contains("not a chat template: syntax error"), "{error}");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let text = text("{{ messages[0].content }}", &json!({}));
    let check = |request: ChatRequest, words: &str| {
        let error = text.render(&request).unwrap_err();
        assert!(error.to_string().contains(words) && error.hint().is_some(), "{error}");
    };
    check(ChatRequest::default(), "the conversation has no messages");
    let messages = vec![json!("hi")];
    check(ChatRequest { messages, ..ChatRequest::default() }, "message 0 is not an object");
    let continued = |field: &str, add_generation_prompt| ChatRequest {
        continue_final_message: Some(field.to_owned()),
        add_generation_prompt,
        ..ChatRequest::user("hi")
    };
    check(continued("content", true), "either continued or followed");
    check(continued("thinking", false), "has no `thinking` to continue");
    check(continued("role", false), "does not read `role`");
}
