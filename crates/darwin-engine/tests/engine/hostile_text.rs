//! Chat templates and tokenizers of strangers: a sentence, in bounded time.

use darwin_core::fs::write_atomic;
use darwin_core::{Diagnose, Fault};
use darwin_engine::Text;
use darwin_testkit::write_tiny_text;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What a rendering of "hi" or the opening of the template says.
fn says(template: &str) -> Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    write_tiny_text(dir.path()).unwrap();
    write_atomic(&dir.path().join("chat_template.jinja"), template.as_bytes()).unwrap();
    let begin = Instant::now();
    let said = Text::open(dir.path()).and_then(|text| text.chat("hi", false));
    let took = begin.elapsed();
    let shown: String = template.chars().take(60).collect();
    assert!(took < Duration::from_secs(20), "{shown} took {took:?}");
    said.map_err(|error| {
        assert_eq!(error.fault(), Fault::User);
        error.to_string()
    })
}

/// The template is refused in a sentence with these words.
fn refused(template: &str, words: &str) {
    let error = says(template).expect_err(template.get(..80).unwrap_or(template));
    assert!(error.contains(words), "{}: {error}", template.get(..80).unwrap_or(template));
}

#[test]
fn chains_that_would_exhaust_the_stack_are_refused() {
    for expression in [
        "not ".repeat(22_000) + "1",
        "-".repeat(22_000) + "1",
        "'a'".to_owned() + &"|upper".repeat(33_000),
        "a".to_owned() + &".b".repeat(33_000),
        "a".to_owned() + &"['b']".repeat(33_000),
        "a".to_owned() + &"()".repeat(33_000),
        "1".to_owned() + &"+1".repeat(22_000),
        "1".to_owned() + &"*1".repeat(22_000),
        "1".to_owned() + &" and 1".repeat(22_000),
        "1".to_owned() + &" is defined".repeat(22_000),
        "1 if 1 else ".repeat(22_000) + "2",
        "2 **".repeat(22_000) + "1",
        "x[1:]".to_owned() + &"[1:]".repeat(22_000),
        "(".repeat(22_000) + "1",
        "[".repeat(22_000) + "1",
        "{1:".repeat(22_000) + "1",
    ] {
        refused(&format!("{{{{ {expression} }}}}"), "not a chat template");
        refused(&format!("{{% if {expression} %}}{{% endif %}}"), "not a chat template");
        refused(&format!("{{% set x = {expression} %}}"), "not a chat template");
    }
    refused(&"{% if 1 %}".repeat(20_000), "statements lie within each other");
    let many = "{% if 0 %}".to_owned() + &"{% elif 0 %}".repeat(20_000) + "{% endif %}";
    refused(&many, "statements lie within each other");
    refused(&"{% set x %}".repeat(20_000), "statements lie within each other");
    refused(&"x".repeat(2 << 20), "allowed are");
}

#[test]
fn values_that_would_exhaust_the_stack_are_refused() {
    let nested = |print: &str| {
        format!(
            "{{% set ns = namespace(x=[]) %}}{{% for i in range(14000) %}}\
             {{% set ns.x = [ns.x] %}}{{% endfor %}}{print}"
        )
    };
    for print in ["{{ ns.x }}", "{{ ns.x|tojson }}", "{{ ns.x == [ns.x] }}", "{{ ns.x ~ '' }}"] {
        refused(&nested(print), "nested deeper than 200");
    }
    refused("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "namespace");
    refused("{% set ns = namespace() %}{% set ns.x = [{'a': ns}] %}{{ ns }}", "namespace");
    refused(
        "{% macro f(x) %}{{ f([[[[[[x]]]]]]) }}{% endmacro %}{{ f(1) }}",
        "chat template fails",
    );
    let views = "{% set ns = namespace(x=range(100)) %}{% for i in range(20000) %}\
                 {% set ns.x = ns.x[0:] %}{% endfor %}{{ ns.x|length }}";
    assert_eq!(says(views), Ok("100".to_owned()));
    let lines = "{% set x = range(9) %}".to_owned() + &"{% set x = x[0:] %}".repeat(20_000);
    assert_eq!(says(&(lines + "{{ x|length }}")), Ok("9".to_owned()));
    refused("{{ {[[1]]: 2} }}", "cannot be a key");
    refused("{% set d = {'a': 1} %}{{ d[[1]] }}", "cannot be a key");
}

#[test]
fn text_without_end_is_refused() {
    let grown = |step: &str| {
        format!(
            "{{% set ns = namespace(x='aaaaaaaaaaaaaaaa', l=[1]) %}}{{% for i in range(40) %}}\
             {{% set ns.x = {step} %}}{{% endfor %}}{{{{ ns.x|length }}}}"
        )
    };
    for step in [
        "ns.x ~ ns.x",
        "ns.x + ns.x",
        "ns.x * 2",
        "2 * ns.x",
        "ns.x|replace('a', 'aa')",
        "ns.x.replace('a', 'aa')",
        "[ns.x, ns.x]|join",
        "''.join([ns.x, ns.x])",
        "'%s%s'|format(ns.x, ns.x)",
        "'{}{}'.format(ns.x, ns.x)",
        "[ns.x, ns.x]|string",
        "[ns.x, ns.x]|tojson",
        "ns.x|indent(1000000, true)",
        "[ns.x, ns.x]",
        "{'a': ns.x, 'b': ns.x}",
        "(ns.x, ns.x)",
        "ns.x|batch(3)|list + [ns.x, ns.x]",
    ] {
        refused(&grown(step), "chat template fails");
    }
    for template in [
        "{{ [1]|batch(100000000000)|list }}",
        "{{ [1]|slice(100000000000)|list }}",
        "{{ 'a\\nb\\nc'|indent(3000000000) }}",
        "{{ 'a\\nb\\nc'|indent(width=3000000000) }}",
        "{{ '%3000000000d'|format(5) }}",
        "{{ '%.3000000000f'|format(5.0) }}",
        "{{ '%*d'|format(3000000000, 5) }}",
        "{{ '{:3000000000}'.format(5) }}",
        "{{ '{:{}}'.format(5, 3000000000) }}",
        "{{ 'a' * 3000000000 }}",
        "{{ 3000000000 * 'a' }}",
        "{{ [1] * 3000000000 }}",
        "{{ ('a' * 60000000)|replace('', 'bbbb') }}",
        "{{ ('a' * 60000000).split('') }}",
        "{{ ('a' * 60000000)|list }}",
        "{% set x %}{% for i in range(100000) %}{% for j in range(1000) %}some text\
         {% endfor %}{% endfor %}{% endset %}",
        "{% macro m(n) %}{{ 'a' * 60000000 }}{% endmacro %}{% set x = [m(1), m(1), m(1)] %}",
        "{{ ''|join }}{% set x = ['a'] * 1000000 %}{{ x|join('b' * 1000000) }}",
    ] {
        refused(template, "chat template fails");
    }
}

#[test]
fn searches_without_end_are_refused() {
    let many = |what: &str| {
        format!(
            "{{% set x = 'a' * 10000000 %}}{{% set y = 'a' * 5000000 ~ 'b' %}}\
             {{% for i in range(100000) %}}{what}{{% endfor %}}"
        )
    };
    for what in [
        "{% if y in x %}{% endif %}",
        "{% if x.find(y) > 0 %}{% endif %}",
        "{% if x.split(y) %}{% endif %}",
        "{% if x[5000000] %}{% endif %}",
        "{% if x[-1] %}{% endif %}",
        "{% if x[1:] %}{% endif %}",
        "{% if x == x ~ '' %}{% endif %}",
        "{% if x.strip(y) %}{% endif %}",
        "{% if x is endingwith y %}{% endif %}",
        "{% if [x, y]|sort %}{% endif %}",
        "{% if loop.changed(x, y) %}{% endif %}",
    ] {
        refused(&many(what), "chat template fails");
    }
    assert_eq!(says("{{ 'aaa'.count('') }}"), Ok("4".to_owned()));
}

#[test]
fn what_is_not_of_chat_templates_is_refused() {
    refused("{% include 'default' %}", "statement `include`");
    refused("{% block a %}{{ self.a() }}{% endblock %}", "statement `block`");
    refused("{% set darwin__cat = 1 %}", "names must not begin");
    refused("{{ strftime_now('%9999999999Y') }}", "chat template fails");
    refused("{{ debug() }}", "chat template fails");
}

#[test]
fn operators_keep_their_order() {
    for (expression, result) in [
        ("1 + 2 * 3 * 4", "25"),
        ("2 * 3 ~ 4 * 5", "620"),
        ("-2 * 3 + 1", "-5"),
        ("2 * -3", "-6"),
        ("7 // 2 * 3", "9"),
        ("2 * 7 // 3 * 2", "8"),
        ("2 ** 3 * 2", "16"),
        ("2 * 2 ** 3", "16"),
        ("2 * 3 ** 2 * 2", "36"),
        ("1.5 * 2", "3.0"),
        ("true * 3", "3"),
        ("'ab' * 2 ~ 'c' * 3", "ababccc"),
        ("'ab' * -1", ""),
        ("[1, 2] * 2", "[1, 2, 1, 2]"),
        ("[messages[0].role] + ['b']", "['user', 'b']"),
        ("'x' ~ messages[0]['role']|upper ~ 'y'", "xUSERy"),
        ("messages[0].role[1:3] ~ messages[0].role[0]", "seu"),
        ("'a' if messages[0].role == 'user' and 's' in messages[0].role else 'b'", "a"),
        ("'z' not in messages[0].role", "True"),
        ("'content' in messages[0]", "True"),
        ("messages[0].role in ['user', 'system']", "True"),
        ("messages[0].role is in ['user']", "True"),
        ("messages[-1].role ~ (messages|length * 2)", "user2"),
        ("{'a' ~ 'b': messages[0].role}", "{'ab': 'user'}"),
        ("(1, messages[0].role)", "[1, 'user']"),
        ("1 < 2 * 3 and 2 + 3 == 5", "True"),
        ("messages[0].role == messages[0]['role'] ~ ''", "True"),
        ("'%s-%s' % ('a', 'b') if false else 'c'", "c"),
        ("dict(a=messages[0].role * 2).a", "useruser"),
        ("range(3)|map('string')|join(',')", "0,1,2"),
        ("1 + 1 is odd", "2"),
        ("'a' 'b' ~ 'c'", "abc"),
    ] {
        assert_eq!(says(&format!("{{{{ {expression} }}}}")), Ok(result.into()), "{expression}");
    }
    let statements = "{% set a, b = 1, messages[0].role %}{% set (c, d) = (2, 3) %}\
        {% set ns = namespace(t='') %}{% for k, v in messages[0]|items if k != 'x' %}\
        {% set ns.t = ns.t ~ k ~ '=' ~ v ~ ';' %}{% endfor %}\
        {% macro m(x, y=[a]) %}{{ x * 2 }}{{ y }}{% endmacro %}\
        {% call(u) m2('q') %}<{{ u }}>{% endcall %}{{ m('w') }}{{ ns.t }}{{ a + c * d }}";
    let macros = "{% macro m2(x) %}{{ caller(x) }}{% endmacro %}";
    let result = "<q>ww[1]role=user;content=hi;7";
    assert_eq!(says(&format!("{macros}{statements}")), Ok(result.to_owned()));
    let loops = "{% for m in [[1, [2, 3]], [4]] recursive %}{% if m is iterable and m is not \
                 string %}({{ loop(m) }}){% else %}{{ m }}{% endif %}{% endfor %}";
    assert_eq!(says(loops), Ok("(1(23))(4)".to_owned()));
}

#[test]
fn lines_of_errors_are_the_templates_own() {
    let error = says("a\n{%- if 1 -%}\n\n  text\n{{ 'x'\n   ~ 'y' }}\n\n{{ 1 + [] }}{% endif %}");
    assert!(error.as_ref().is_err_and(|e| e.contains("(line 8)")), "{error:?}");
    let error = says("a\n\n{{ 'x }}");
    assert!(error.as_ref().is_err_and(|e| e.contains("(line 3)")), "{error:?}");
}

/// What opening the tokenizer, encoding and decoding says.
fn tokenizer(change: impl FnOnce(&mut Value)) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    write_tiny_text(dir.path()).unwrap();
    let path = dir.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    write_atomic(&path, json.to_string().as_bytes()).unwrap();
    let begin = Instant::now();
    let said = Text::open(dir.path()).and_then(|text| {
        let (ids, _) = text.encode_alone("the xx\u{1f600}")?;
        let _ = text.decode(&ids, false);
        Ok(())
    });
    assert!(begin.elapsed() < Duration::from_secs(20), "too slow: {said:?}");
    said.map_err(|error| {
        assert_eq!(error.fault(), Fault::User);
        error.to_string()
    })
}

#[test]
fn tokenizers_of_strangers_get_a_sentence() {
    assert_eq!(tokenizer(|_| ()), Ok(()));
    let charsmap = |text: &str| json!({"type": "Precompiled", "precompiled_charsmap": text});
    // nothing; a tree of 4 GiB; a tree that leads out of itself; odd base64
    for text in ["", "/////w==", "BAAAAEFBQUE=", "AAAAAA==", "B", "&"] {
        let error = tokenizer(|t| t["normalizer"] = charsmap(text)).unwrap_err();
        assert!(error.contains("tokenizer.json: not a tokenizer: `normalizer` has"), "{error}");
    }
    let replace = |content: usize, times: usize| {
        let one = json!({
            "type": "Replace", "pattern": {"Regex": "(.)"}, "content": "t".repeat(content)
        });
        json!({"type": "Sequence", "normalizers": vec![one; times]})
    };
    for (content, times) in [(1000, 4), (100, 1), (4, 9)] {
        let error = tokenizer(|t| t["normalizer"] = replace(content, times)).unwrap_err();
        assert!(error.contains("times as long"), "{error}");
    }
    let fixed = json!({"type": "FixedLength", "length": 0});
    let error = tokenizer(|t| t["pre_tokenizer"] = fixed).unwrap_err();
    assert!(error.contains("FixedLength"), "{error}");
    let bomb = json!({"type": "Split", "behavior": "Isolated", "invert": false,
        "pattern": {"Regex": "(?:(?:(?=a)b{1000}){1000}){1000}"}});
    let error = tokenizer(|t| t["pre_tokenizer"] = bomb).unwrap_err();
    assert!(error.contains("repetitions"), "{error}");
    let prefix = |n: usize| {
        move |t: &mut Value| {
            t["model"]["continuing_subword_prefix"] = "x".repeat(n).into();
        }
    };
    assert!(tokenizer(prefix(100_000)).is_err_and(|e| e.contains("continuing_subword_prefix")));
    drop(tokenizer(prefix(100)));
    let only_b = json!({"type": "TemplateProcessing", "special_tokens": {},
        "single": [{"Sequence": {"id": "B", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}]});
    let error = tokenizer(|t| t["post_processor"] = only_b).unwrap_err();
    assert!(error.contains("tokenizer.json: not a tokenizer"), "{error}");
    let error = tokenizer(|t| {
        let first = t["added_tokens"][0].clone();
        let added = (0..100_000).map(|i| {
            let mut token = first.clone();
            token["id"] = i.into();
            token["content"] = format!("z{i}").into();
            token
        });
        t["added_tokens"] = added.collect();
    });
    assert!(error.as_ref().is_err_and(|e| e.contains("100000 added tokens")), "{error:?}");
}

#[test]
fn texts_longer_than_the_context_are_refused_before_they_are_cut() {
    let dir = tempfile::tempdir().unwrap();
    write_tiny_text(dir.path()).unwrap();
    let config = json!({"max_position_embeddings": 512});
    write_atomic(&dir.path().join("config.json"), config.to_string().as_bytes()).unwrap();
    let text = Text::open(dir.path()).unwrap();
    let error = text.encode(&"a".repeat(100_000)).unwrap_err();
    assert_eq!(error.fault(), Fault::User);
    assert_eq!(error.hint().as_deref(), Some("shorten the text"));
    assert!(error.to_string().contains("100000 bytes is longer"), "{error}");
    assert!(text.encode("a").is_ok());
}
