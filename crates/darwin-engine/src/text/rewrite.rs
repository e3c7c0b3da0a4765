//! Chat templates as minijinja gets them: limited in size and nesting, since its parser and compiler
//! recurse, and with a call that charges the [`Budget`](super::budget::Budget) wherever an operator
//! makes or searches text, which no callback of minijinja's sees.
//!
//! A source is cut into minijinja's own tokens and written again from them, on the same lines. Text
//! between tags becomes a printed literal, so that all output goes through the formatter.

mod wraps;

use minijinja::machinery::{Span, Token, WhitespaceConfig, tokenize};
use minijinja::{Error, ErrorKind};
use std::cmp::Reverse;

/// Largest source of a template. Those of published models have up to 20 KiB.
const MAX_SOURCE: usize = 1 << 20;

/// Operators, attributes, filters, calls and brackets that may lie within each other or follow each
/// other in one expression; minijinja takes a level of recursion for each. Expressions of
/// published templates have up to about 30.
const MAX_CHAIN: usize = 400;

/// Statements within each other, each `elif` counted.
const MAX_STATEMENTS: usize = 150;

/// Literals up to this length are compared and joined without a charge.
const SHORT: usize = 64;

/// What names of ours begin with; templates must not use it.
const OURS: &str = "darwin__";

/// The functions that [`guarded`] writes into a template.
pub(super) mod names {
    pub(in super::super) const CAT: &str = "darwin__cat";
    pub(in super::super) const COMPARE: &str = "darwin__compare";
    pub(in super::super) const WITHIN: &str = "darwin__within";
    pub(in super::super) const AT: &str = "darwin__at";
    pub(in super::super) const CUT: &str = "darwin__cut";
    pub(in super::super) const KEY: &str = "darwin__key";
    pub(in super::super) const LIST: &str = "darwin__list";
    pub(in super::super) const ALL: &str = "darwin__all";
    pub(in super::super) const EACH: &str = "darwin__each";
    pub(in super::super) const TIMES: &str = "darwin__times";
    pub(in super::super) const SET: &str = "darwin__set";
    pub(in super::super) const SET_ATTRIBUTE: &str = "darwin__set_attribute";
}

/// The template with its charges.
///
/// # Errors
/// Where a limit is passed, the template cannot be cut into tokens, or it uses a statement that
/// chat templates do not have.
pub(super) fn guarded(source: &str) -> Result<String, Error> {
    if source.len() > MAX_SOURCE {
        return Err(wrong(format!("it has {} bytes, allowed are {MAX_SOURCE}", source.len()), 0));
    }
    let whitespace =
        WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };
    let mut tokens = Vec::new();
    for token in tokenize(source, false, Default::default(), whitespace) {
        tokens.push(token.map_err(|e| {
            let line =
                e.line().or_else(|| tokens.last().map(|(_, s): &(_, Span)| s.end_line.into()));
            wrong(e.detail().unwrap_or("a tag is broken").to_owned(), line.unwrap_or(0))
        })?);
    }
    let mut rewriter = Rewriter { source, partner: partners(&tokens), tokens, wraps: Vec::new() };
    rewriter.check_limits()?;
    rewriter.find_wraps();
    Ok(rewriter.write())
}

fn wrong(what: String, line: usize) -> Error {
    let at = if line > 0 { format!(" (line {line})") } else { String::new() };
    Error::new(ErrorKind::SyntaxError, what + &at)
}

/// A call around tokens; `a * b` becomes `TIMES(a, b)` by way of `comma`.
struct Wrap {
    from: usize,
    to: usize,
    name: &'static str,
    comma: Option<usize>,
}

struct Rewriter<'a> {
    source: &'a str,
    tokens: Vec<(Token<'a>, Span)>,
    /// The closing bracket of each opening one.
    partner: Vec<usize>,
    wraps: Vec<Wrap>,
}

/// For each opening bracket, and each start of a tag, where it ends; itself for other tokens and
/// for brackets that are not closed.
fn partners(tokens: &[(Token<'_>, Span)]) -> Vec<usize> {
    let mut partner: Vec<usize> = (0..tokens.len()).collect();
    let mut open = Vec::new();
    for (i, (token, _)) in tokens.iter().enumerate() {
        match token {
            Token::VariableStart | Token::BlockStart => open = vec![i],
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => open.push(i),
            Token::ParenClose | Token::BracketClose | Token::BraceClose if open.len() > 1 => {
                open.pop().into_iter().for_each(|at| partner[at] = i);
            }
            Token::VariableEnd | Token::BlockEnd => {
                open.drain(..).next().into_iter().for_each(|at| partner[at] = i);
            }
            _ => {}
        }
    }
    partner
}

fn is_keyword(name: &str) -> bool {
    matches!(name, "and" | "or" | "not" | "in" | "is" | "if" | "else" | "recursive")
}

impl<'a> Rewriter<'a> {
    fn token(&self, i: usize) -> Option<&Token<'a>> {
        self.tokens.get(i).map(|(token, _)| token)
    }

    /// An identifier that is neither an attribute nor a filter.
    fn word(&self, i: usize) -> Option<&'a str> {
        match self.token(i) {
            Some(Token::Ident(name)) if !self.names_part(i) => Some(name),
            _ => None,
        }
    }

    /// Whether the identifier names an attribute, a filter or a test of what stands before it.
    fn names_part(&self, i: usize) -> bool {
        let before = |n: usize| i.checked_sub(n).and_then(|at| self.token(at));
        match before(1) {
            Some(Token::Dot | Token::Pipe | Token::Ident("is")) => true,
            Some(Token::Ident("not")) => matches!(before(2), Some(Token::Ident("is"))),
            _ => false,
        }
    }

    fn line(&self, i: usize) -> usize {
        self.tokens.get(i).map_or(0, |(_, span)| span.start_line.into())
    }

    fn check_limits(&self) -> Result<(), Error> {
        let mut statements: Vec<usize> = Vec::new();
        // operators of each bracket that is open, those before its last comma not counted
        let mut levels: Vec<usize> = vec![0];
        let mut chain = 0;
        for (i, (token, _)) in self.tokens.iter().enumerate() {
            match token {
                Token::VariableStart | Token::BlockStart => {
                    (levels, chain) = (vec![0], 0);
                }
                Token::TemplateData(_) | Token::VariableEnd | Token::BlockEnd => {}
                Token::Comma | Token::Colon | Token::Assign => {
                    let level = levels.last_mut().map(std::mem::take);
                    chain -= level.unwrap_or(0);
                }
                Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                    chain -= if levels.len() > 1 { levels.pop().unwrap_or(0) } else { 0 };
                }
                Token::Ident(name) if name.starts_with(OURS) => {
                    return Err(wrong(format!("names must not begin with `{OURS}`"), self.line(i)));
                }
                Token::Ident(name) if !is_keyword(name) => {}
                Token::Str(_) | Token::String(_) | Token::Int(_) | Token::Int128(_) => {}
                Token::Float(_) => {}
                _ => {
                    levels.last_mut().into_iter().for_each(|level| *level += 1);
                    chain += 1;
                    if matches!(token, Token::ParenOpen | Token::BracketOpen | Token::BraceOpen) {
                        levels.push(0);
                    }
                }
            }
            if chain > MAX_CHAIN {
                let what = format!("an expression has more than {MAX_CHAIN} steps");
                return Err(wrong(what, self.line(i)));
            }
            if matches!(token, Token::BlockStart) {
                self.count_statement(i, &mut statements)?;
            }
        }
        Ok(())
    }

    /// Counts a statement that is open until its end.
    fn count_statement(&self, start: usize, open: &mut Vec<usize>) -> Result<(), Error> {
        let Some(Token::Ident(name)) = self.token(start + 1) else { return Ok(()) };
        let end = self.partner[start];
        match *name {
            "for" | "if" | "with" | "filter" | "macro" | "call" | "autoescape" => open.push(1),
            "set" if self.assignment(start + 2, end).is_none() => open.push(1),
            "elif" => open.last_mut().into_iter().for_each(|count| *count += 1),
            "extends" | "include" | "import" | "from" | "block" => {
                let what = format!("statement `{name}` is not one of chat templates");
                return Err(wrong(what, self.line(start)));
            }
            name if name.starts_with("end") => drop(open.pop()),
            _ => {}
        }
        if open.iter().sum::<usize>() > MAX_STATEMENTS {
            let what = format!("more than {MAX_STATEMENTS} statements lie within each other");
            return Err(wrong(what, self.line(start)));
        }
        Ok(())
    }

    /// The `=` of a statement `set`.
    fn assignment(&self, from: usize, end: usize) -> Option<usize> {
        (from..end)
            .find(|i| matches!(self.token(*i), Some(Token::Assign | Token::Pipe)))
            .filter(|i| matches!(self.token(*i), Some(Token::Assign)))
    }

    /// The template from its tokens.
    fn write(mut self) -> String {
        let mut commas: Vec<usize> = self.wraps.iter().filter_map(|wrap| wrap.comma).collect();
        commas.sort_unstable();
        // outer calls open first and close last; of equal ones the first found is the outer one
        let mut opens: Vec<usize> = (0..self.wraps.len()).collect();
        opens.sort_by_key(|i| (self.wraps[*i].from, Reverse(self.wraps[*i].to), *i));
        let mut closes: Vec<usize> = (0..self.wraps.len()).collect();
        closes.sort_by_key(|i| (self.wraps[*i].to, Reverse(self.wraps[*i].from), Reverse(*i)));
        let (mut opens, mut closes) = (opens.into_iter().peekable(), closes.into_iter().peekable());
        let tokens = std::mem::take(&mut self.tokens);
        let mut out = String::with_capacity(2 * self.source.len());
        let mut line = 1;
        for (i, (token, span)) in tokens.iter().enumerate() {
            let text = match token {
                Token::TemplateData(text) => {
                    out.push_str("{{");
                    new_lines(&mut out, &mut line, span);
                    literal_text(text, &mut out);
                    out.push_str("}}");
                    continue;
                }
                Token::VariableStart => "{{",
                Token::BlockStart => "{%",
                Token::VariableEnd => "}}",
                Token::BlockEnd => "%}",
                _ if commas.binary_search(&i).is_ok() => ",",
                _ => self
                    .source
                    .get(span.start_offset as usize..span.end_offset as usize)
                    .unwrap_or_default(),
            };
            let starts = matches!(token, Token::VariableStart | Token::BlockStart);
            if !starts {
                new_lines(&mut out, &mut line, span);
                out.push(' ');
            }
            while let Some(wrap) = opens.next_if(|wrap| self.wraps[*wrap].from == i) {
                out.push_str(self.wraps[wrap].name);
                out.push_str(opening(self.wraps[wrap].name));
            }
            out.push_str(text);
            line += text.matches('\n').count();
            while let Some(wrap) = closes.next_if(|wrap| self.wraps[*wrap].to == i) {
                out.push_str(closing(self.wraps[wrap].name));
            }
        }
        out
    }
}

/// What is set may be a tuple without its brackets.
fn opening(name: &str) -> &'static str {
    if matches!(name, names::SET | names::SET_ATTRIBUTE) { "((" } else { "(" }
}

fn closing(name: &str) -> &'static str {
    if matches!(name, names::SET | names::SET_ATTRIBUTE) { "))" } else { ")" }
}

/// Lines up to the token's own, within a tag.
fn new_lines(out: &mut String, line: &mut usize, span: &Span) {
    while *line < span.start_line.into() {
        out.push('\n');
        *line += 1;
    }
}

/// A text as a literal.
fn literal_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::guards;
    use darwin_core::keyed::{Key, Rng};
    use minijinja::{Environment, context};

    /// What minijinja itself prints, set up as transformers sets up Jinja.
    fn plain(source: &str) -> Result<String, String> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .render_str(source, context! { a => [1, 2], t => "x" })
            .map_err(|e| e.to_string())
    }

    fn ours(source: &str) -> Result<String, String> {
        let mut environment = Environment::empty();
        environment.set_keep_trailing_newline(true);
        guards::add_to(&mut environment);
        let guarded = guarded(source).map_err(|e| e.to_string())?;
        environment
            .render_str(&guarded, context! { a => [1, 2], t => "x" })
            .map_err(|e| e.to_string())
    }

    #[test]
    fn whitespace_and_text_stay_what_they_are() {
        let pieces = [
            "text",
            " ",
            "\n",
            "\n\n",
            "\t",
            "  ",
            "\\",
            "\"",
            "'",
            "ä",
            "\r\n",
            "}",
            "{",
            "{{ t }}",
            "{{- t -}}",
            "{{ t -}}",
            "{{- t }}",
            "{{+ t }}",
            "{{ 't' ~ t\n }}",
            "{% if t %}",
            "{%- if t %}",
            "{% if t -%}",
            "{%- if a -%}",
            "{%+ if t %}",
            "{% endif %}",
            "{%- endif %}",
            "{%- endif -%}",
            "{% else %}",
            "{% elif t %}",
            "{% for i in a %}",
            "{%- for i in a -%}",
            "{% endfor %}",
            "{%- endfor -%}",
            "{% set y = t %}",
            "{%- set y = t -%}",
            "{# c #}",
            "{#- c -#}",
            "{# {{ t }} #}",
            "{% raw %}{{ r }}{% endraw %}",
            "{%- raw -%} {% r %} {%- endraw -%}",
        ];
        let mut whole = 0;
        for case in 0..20_000 {
            let mut rng = Rng::new(Key::new(case, &["whitespace"]), 0);
            let mut source = String::new();
            let mut open = Vec::new();
            for _ in 0..rng.below(12) {
                let piece = pieces[rng.below(pieces.len())];
                if piece.contains("if t") && !piece.contains("elif") || piece.contains("if a") {
                    open.push("{% endif %}");
                } else if piece.contains(" for ") || piece.contains("- for ") {
                    open.push("{%- endfor %}");
                } else if piece.contains("end") && !piece.contains("raw") {
                    let wanted = if piece.contains("if") { "endif" } else { "endfor" };
                    if !open.last().is_some_and(|end: &&str| end.contains(wanted)) {
                        continue;
                    }
                    open.pop();
                }
                source.push_str(piece);
            }
            open.iter().rev().for_each(|end| source.push_str(end));
            let expected = plain(&source);
            if let Ok(expected) = expected {
                whole += 1;
                assert_eq!(ours(&source), Ok(expected), "{source:?}");
            }
        }
        assert!(whole > 5_000, "only {whole} templates are valid");
    }
}
