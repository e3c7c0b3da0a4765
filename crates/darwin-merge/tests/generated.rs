//! Hundreds of recipes from mergekit's grammar: each is read, written in canonical form and read
//! again, and is the same.

#![allow(clippy::unwrap_used, reason = "a test")]

use darwin_merge::{Method, Parameter, Recipe};
use proptest::prelude::*;
use std::fmt::Write;

const METHODS: [&str; 7] =
    ["linear", "slerp", "passthrough", "task_arithmetic", "ties", "dare_linear", "dare_ties"];
const MODELS: [&str; 5] = ["a", "./models/b", "org/c", "\"d: e\"", "{model: {path: f+g@h}}"];
const FILTERS: [&str; 6] =
    ["mlp", "'*'", "self_attn", "\"layers.1.\"", "\"{[#\\u2028: é\"", "\"\""];

/// Choices in order; the first alternative when they are used up, so that shorter is simpler.
struct Tape {
    choices: Vec<u16>,
    at: usize,
}

impl Tape {
    fn pick(&mut self, n: usize) -> usize {
        let choice = self.choices.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        usize::from(choice) % n
    }

    fn flag(&mut self) -> bool {
        self.pick(2) == 1
    }

    fn one<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.pick(list.len())]
    }

    /// A value of a parameter in one of the spellings of YAML 1.1.
    fn scalar(&mut self, parameter: &Parameter) -> String {
        if parameter.switch {
            let spellings = ["true", "false", "yes", "No", "on", "OFF", "1", "0", "'true'"];
            return self.one(&spellings).to_owned();
        }
        let thousandths = match parameter.name {
            "density" | "t" => self.pick(1001) as f64,
            _ => self.pick(5001) as f64 - 2000.0,
        };
        let value = thousandths / 1000.0;
        match self.pick(6) {
            0 => format!("{value:?}"),
            1 => format!("{value:e}"),
            2 => format!("'{value:?}'"),
            3 => format!("\"{value:e}\""),
            4 => format!("{value:+}"),
            _ => format!("{value}"),
        }
    }

    fn value(&mut self, parameter: &Parameter) -> String {
        if !self.flag() {
            return self.scalar(parameter);
        }
        let n = 1 + self.pick(4);
        let items: Vec<String> = (0..n).map(|_| self.scalar(parameter)).collect();
        format!("[{}]", items.join(", "))
    }

    fn condition(&mut self, parameter: &Parameter) -> String {
        let value = self.value(parameter);
        match self.pick(3) {
            0 => format!("{{value: {value}}}"),
            1 => format!("{{filter: {}, value: {value}}}", self.one(&FILTERS)),
            _ => format!("{{value: {value}, filter: ~}}"),
        }
    }

    fn setting(&mut self, parameter: &Parameter) -> String {
        match self.pick(3) {
            0 => self.value(parameter),
            1 => self.condition(parameter),
            _ => {
                let n = 1 + self.pick(3);
                let items: Vec<String> = (0..n).map(|_| self.condition(parameter)).collect();
                format!("[{}]", items.join(", "))
            }
        }
    }

    /// `parameters:` of one level, in block or flow style; `must` is always among them.
    fn parameters(&mut self, method: &Method, indent: usize, shared: bool, must: &str) -> String {
        let mut entries = Vec::new();
        for parameter in method.parameters.iter().filter(|p| shared || p.per_model) {
            if parameter.name == must || self.flag() {
                entries.push(format!("{}: {}", parameter.name, self.setting(parameter)));
            }
        }
        let pad = " ".repeat(indent);
        if entries.is_empty() {
            return String::new();
        }
        if self.flag() {
            return format!("{pad}parameters: {{{}}}\n", entries.join(", "));
        }
        let lines: String = entries.iter().map(|entry| format!("{pad}  {entry}\n")).collect();
        format!("{pad}parameters:\n{lines}")
    }

    fn models(&mut self, method: &Method, count: usize, indent: usize) -> String {
        let pad = " ".repeat(indent);
        let mut text = format!("{pad}models:\n");
        for model in &MODELS[..count] {
            let _ = writeln!(text, "{pad}  - model: {model}");
            text += &self.parameters(method, indent + 4, false, "weight");
        }
        text
    }

    fn slices(&mut self, method: &Method, count: usize, indent: usize, base: bool) -> String {
        let pad = " ".repeat(indent);
        let mut text = format!("{pad}slices:\n");
        for slice in 0..1 + self.pick(3) {
            // A slice without layers is fine, but not the only one.
            let layers = if slice == 0 { 1 + self.pick(4) } else { self.pick(4) };
            let _ = writeln!(text, "{pad}  - sources:");
            for model in &MODELS[..count] {
                let first = self.pick(9);
                let _ = writeln!(text, "{pad}      - model: {model}");
                let _ = writeln!(text, "{pad}        layer_range: [{first}, {}]", first + layers);
                text += &self.parameters(method, indent + 8, false, "weight");
            }
            if base && self.flag() {
                let _ = writeln!(text, "{pad}    base_model: {}", MODELS[self.pick(count)]);
            }
            if self.flag() {
                let _ = writeln!(text, "{pad}    residual_weight: 0.5");
            }
            text += &self.parameters(method, indent + 4, true, "t");
        }
        text
    }

    fn recipe(&mut self) -> String {
        let name = self.one(&METHODS);
        let method = Method::find(name).unwrap();
        let base = !matches!(name, "linear" | "passthrough");
        let count = match name {
            "passthrough" => 1,
            "slerp" => 2,
            "linear" => 1 + self.pick(MODELS.len()),
            _ => 3 + self.pick(MODELS.len() - 2),
        };
        let mut text = format!("merge_method: {name}\n");
        if base {
            let _ = writeln!(text, "base_model: {}", MODELS[0]);
        }
        let module = self.pick(3) == 2;
        let indent = if module { 4 } else { 0 };
        if module {
            text += "modules:\n  default:\n";
        }
        text += &match self.flag() {
            true => self.slices(method, count, indent, base),
            false => self.models(method, count, indent),
        };
        if module {
            text += &self.parameters(method, 4, true, "");
        }
        text += &self.parameters(method, 0, true, "t");
        for key in ["dtype", "out_dtype"] {
            if self.flag() {
                let _ = writeln!(text, "{key}: {}", self.one(&["bfloat16", "float16", "float32"]));
            }
        }
        if self.flag() {
            let lines = [
                "tokenizer_source: base",
                "tokenizer_source: union",
                "tokenizer: {source: a}",
                "tokenizer: {pad_to_multiple_of: 0x40}",
                "tokenizer: {source: base, tokens: {\"x\\n\": {source: a, force: yes}, y: {}}}",
                "tokenizer: {tokens: {x: {source: {kind: model_token, model: a, token_id: 1}}}}",
                "tokenizer: {tokens: {x: {source: {kind: model_token, model: {path: a}, token: z}}}}",
                "tokenizer: {tokens: {x: {source: {kind: zero}}}}",
                "tokenizer_source: a",
            ];
            let _ = writeln!(text, "{}", self.one(&lines));
        }
        if self.flag() {
            let texts = ["auto", "chatml", "\"{% for m in messages %}\\n{{ m }}{% endfor %}\""];
            let _ = writeln!(text, "chat_template: {}", self.one(&texts));
        }
        text
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 768, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_recipe_in_any_spelling_reads_back_from_its_canonical_form(
        choices in prop::collection::vec(any::<u16>(), 0..400),
    ) {
        let text = Tape { choices, at: 0 }.recipe();
        let recipe = match Recipe::parse(&text) {
            Ok(recipe) => recipe,
            Err(error) => return Err(TestCaseError::fail(format!("{error}\n{text}"))),
        };
        let canonical = recipe.to_yaml();
        let back = Recipe::parse(&canonical);
        prop_assert!(back.is_ok(), "{back:?}\n{canonical}");
        let back = back.unwrap();
        prop_assert_eq!(&back, &recipe, "{}\n---\n{}", &text, &canonical);
        prop_assert_eq!(back.to_yaml(), canonical);
        prop_assert!(recipe.describe().len() > 2);
    }
}
