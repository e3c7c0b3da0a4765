//! What a recipe is, for people: `darwin validate`.

use super::emit::setting_text;
use super::parse_inputs::stacked;
use super::{ChatTemplate, Conditional, Inputs, Parameters, Recipe};
use crate::Parameter;

impl Recipe {
    /// The recipe as (what, value) lines: method, models, layers, and every parameter as it stands
    /// after precedence. Conditions are listed in the order in which they are asked; defaults are
    /// marked.
    #[must_use]
    pub fn describe(&self) -> Vec<(String, String)> {
        let method = self.method;
        let mut lines = vec![("method".to_owned(), format!("{}: {}", method.name, method.about))];
        let mut line = |what: &str, value: String| lines.push((what.to_owned(), value));
        if let Some(base) = self.base() {
            line("base model", base.to_owned());
        }
        line("structure", format!("{} gives config, tensor names, side files", self.structure()));
        if let Some(t) = self.darwin.t.as_ref() {
            self.describe_shares(t, &mut line);
        }
        if self.method.needs_activations() || self.darwin.regmean.is_some() {
            let settings = self.darwin.regmean.clone().unwrap_or_default();
            line("solved with", settings.emit());
        }
        match &self.inputs {
            Inputs::Models(entries) => {
                line("layers", "all layers of the models, one on one".to_owned());
                let none = Parameters::new();
                let base = self.base.as_deref();
                let extra = base.filter(|base| !entries.iter().any(|e| e.model == *base));
                let named = entries.iter().map(|e| (e.model.as_str(), &e.parameters));
                for (model, own) in named.chain(extra.map(|base| (base, &none))) {
                    let is_base = base == Some(model);
                    line(&format!("model {model}"), self.own(is_base, &[own, &self.parameters]));
                }
                self.add_shared("merge", &[&self.parameters], &mut line);
            }
            Inputs::Slices(_) => self.slices(&mut line),
        }
        let dtypes = [("dtype", self.dtype), ("out dtype", self.out_dtype)];
        for (what, dtype) in dtypes {
            if let Some(dtype) = dtype {
                line(what, dtype.torch_name().to_owned());
            }
        }
        if let Some(tokenizer) = &self.tokenizer {
            line("tokenizer", tokenizer.describe(self.tokenizer()));
        }
        if let Some(template) = &self.chat_template {
            let text = match template {
                ChatTemplate::Auto => "the one that most models have".to_owned(),
                ChatTemplate::BuiltIn(name) => (*name).to_owned(),
                ChatTemplate::Text(text) => format!("Jinja, {} characters", text.chars().count()),
            };
            line("chat template", text);
        }
        lines
    }

    fn slices(&self, line: &mut impl FnMut(&str, String)) {
        let Inputs::Slices(slices) = &self.inputs else { return };
        let mut out = 0;
        for slice in slices {
            let count = slice.sources.first().map_or(0, |source| source.layers.len());
            let base = slice.base.as_deref().or(self.base.as_deref());
            let what = match count {
                0 => "no layer".to_owned(),
                1 => format!("layer {out}"),
                _ => format!("layers {out}-{}", out + count - 1),
            };
            line(&what, base.map_or(String::new(), |base| format!("base model {base}")));
            for source in &slice.sources {
                let range = match count {
                    0 => "nothing".to_owned(),
                    _ => format!("{}-{}", source.layers.start, source.layers.end - 1),
                };
                let levels = [&source.parameters, &slice.parameters, &self.parameters];
                let own = self.own(base == Some(&source.model), &levels);
                line(&format!("  {} {range}", source.model), own);
            }
            self.add_shared("  merge", &[&slice.parameters, &self.parameters], line);
            out += count;
        }
    }

    /// The parameters of one model, or why it has none.
    fn own(&self, is_base: bool, levels: &[&Parameters]) -> String {
        if self.darwin.t.is_some() {
            return "weights by `darwin.t`".to_owned();
        }
        if is_base && self.method.uses_task_vectors() {
            return "the base of the task vectors".to_owned();
        }
        self.settings(levels, true)
    }

    fn add_shared(&self, what: &str, levels: &[&Parameters], line: &mut impl FnMut(&str, String)) {
        let text = self.settings(levels, false);
        if !text.is_empty() {
            line(what, text);
        }
    }

    fn settings(&self, levels: &[&Parameters], per_model: bool) -> String {
        let all = levels
            .iter()
            .rev()
            .fold(Parameters::new(), |rest, level| stacked((*level).clone(), rest));
        let text = |parameter: &Parameter| {
            let default = parameter.default.map(|value| match parameter.switch {
                true => (value != 0.0).to_string(),
                false => format!("{value:?}"),
            });
            let given = all.0.get(parameter.name);
            match (given, default) {
                (None, Some(default)) => format!("{} {default} (default)", parameter.name),
                (None, None) => format!("{} missing", parameter.name),
                (Some(setting), default) => {
                    let always = setting.0.iter().any(Conditional::matches_all);
                    let rest = match default {
                        _ if always => String::new(),
                        Some(default) => format!(" else {default} (default)"),
                        None => " else missing".to_owned(),
                    };
                    format!("{} {}{rest}", parameter.name, setting_text(setting))
                }
            }
        };
        let own = self.method.parameters.iter().filter(|p| p.per_model == per_model);
        own.map(text).collect::<Vec<_>>().join("; ")
    }
}
