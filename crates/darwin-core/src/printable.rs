//! Text from files on its way to a terminal.

use std::borrow::Cow;

/// The text without characters that steer a terminal or turn the order of what is read: control
/// characters (C0 but the line feed, DEL, C1), the overrides and isolates of bidirectional text,
/// the separators of lines and paragraphs, and characters without width become `\uXXXX`, which is
/// what they are in JSON: a printed JSON document stays the same document.
///
/// A line feed stays, for texts are made of lines; names go through [`one_line`]. A tabulator
/// becomes a blank.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    replaced(text, |c| c != '\n' && steers(c))
}

/// As [`printable`], and line feeds are replaced as well: names cannot begin a line of their own.
#[must_use]
pub fn one_line(text: &str) -> Cow<'_, str> {
    replaced(text, steers)
}

fn replaced(text: &str, wrong: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&wrong) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\t' => out.push(' '),
            c if wrong(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
                | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert!(matches!(printable("plain, Ω, 日本, 👩‍🚀\nnext"), Cow::Borrowed(_)));
        assert_eq!(printable("a\u{1b}[31mb\r\u{7}"), "a\\u001b[31mb\\u000d\\u0007");
        assert_eq!(printable("a\tb\u{9b}2J\u{7f}"), "a b\\u009b2J\\u007f");
        assert_eq!(printable("x\u{202e}y\u{2066}z\u{2028}"), "x\\u202ey\\u2066z\\u2028");
        assert_eq!(one_line("a\nerror: b"), "a\\u000aerror: b");
        for c in (0..0x11_0000).filter_map(char::from_u32).filter(|c| c.is_control()) {
            let shown = one_line(&c.to_string()).into_owned();
            assert!(!shown.chars().any(char::is_control), "{:x} stays", c as u32);
        }
    }
}
