//! What model cards share: text that stands for itself in Markdown and YAML, templates.

use crate::error::{ReportError, Result};
use minijinja::Environment;
use serde::Serialize;

/// Renders a template of this crate; its own tags leave no blank lines.
pub(crate) fn render(name: &'static str, text: &str, card: impl Serialize) -> Result<String> {
    let failed = |source| ReportError::Template { name, source };
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.add_template(name, text).map_err(failed)?;
    environment.get_template(name).and_then(|t| t.render(card)).map_err(failed)
}

/// A YAML double-quoted scalar: JSON's strings are a subset.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Text that stands for itself in Markdown and its HTML, in a table too.
pub(crate) fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            _ => out.push(c),
        }
    }
    out
}

/// Text for a fenced block, which it must not close.
pub(crate) fn fenced(text: &str) -> String {
    text.trim_end().replace("```", "'''")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_themselves() {
        assert_eq!(markdown("<b>|a_b\r\n"), "&lt;b&gt;\\|a\\_b  ");
        assert_eq!(quoted("a\"b: c"), r#""a\"b: c""#);
    }
}
