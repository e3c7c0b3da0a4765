//! The licence that a model's folder states, and the name it gives itself.

use crate::Error;
use darwin_core::Fault;
use darwin_core::fs::open_regular;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// Words that a licence's text begins with, and its name on Hugging Face; the first that fits.
const TEXTS: [(&str, &str); 7] = [
    ("Apache License Version 2.0", "apache-2.0"),
    ("GNU AFFERO GENERAL PUBLIC LICENSE Version 3", "agpl-3.0"),
    ("GNU LESSER GENERAL PUBLIC LICENSE Version 3", "lgpl-3.0"),
    ("GNU GENERAL PUBLIC LICENSE Version 3", "gpl-3.0"),
    ("GNU GENERAL PUBLIC LICENSE Version 2", "gpl-2.0"),
    ("MIT License", "mit"),
    ("The MIT License", "mit"),
];
/// Bytes of a README that its front matter lies within, and of a licence file that are read.
const READ_BYTES: u64 = 1 << 20;
/// Characters of a licence file that its name lies within.
const HEAD: usize = 400;

/// `license` of the README's front matter, else the licence whose text a licence file holds
/// (`other` where we do not know it).
pub(crate) fn of_folder(folder: &Path) -> Result<Option<String>, Error> {
    if let Some(readme) = read(&folder.join("README.md"))?
        && let Some(license) = front_matter(&readme)
    {
        return Ok(Some(license));
    }
    for name in ["LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING"] {
        if let Some(text) = read(&folder.join(name))? {
            return Ok(Some(by_text(&text).to_owned()));
        }
    }
    Ok(None)
}

/// The name on the Hub that a model gives itself: `_name_or_path` of its config, else `model_name`
/// of the README's front matter. Folders of other machines are no names.
pub(crate) fn hub_name(folder: &Path, config: &Value) -> Result<Option<String>, Error> {
    let stated = config["_name_or_path"].as_str();
    if let Some(name) = stated.filter(|name| is_hub_name(name)) {
        return Ok(Some(name.to_owned()));
    }
    let readme = read(&folder.join("README.md"))?;
    let named = readme.and_then(|readme| scalar(&readme, "model_name"));
    Ok(named.filter(|name| is_hub_name(name)))
}

/// `owner/name` in the characters that the Hub allows.
fn is_hub_name(name: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    name.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

/// The beginning of a file, where it is one.
fn read(path: &Path) -> Result<Option<String>, Error> {
    let mut bytes = Vec::new();
    let read = open_regular(path).and_then(|file| file.take(READ_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if Fault::of_io(&error) == Fault::User => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// `license`; `license_name` where that is `other`.
fn front_matter(readme: &str) -> Option<String> {
    let license = scalar(readme, "license")?;
    let named = || scalar(readme, "license_name");
    if license == "other" { named().or(Some(license)) } else { Some(license) }
}

/// A scalar of the front matter, between the two lines `---`.
fn scalar(readme: &str, key: &str) -> Option<String> {
    let mut lines = readme.trim_start_matches('\u{feff}').lines();
    (lines.next()?.trim_end() == "---").then_some(())?;
    let value = lines
        .take_while(|line| line.trim_end() != "---")
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let value = value.split(" #").next()?.trim().trim_matches(['"', '\'']);
    (!value.is_empty() && !value.starts_with(['[', '{'])).then(|| value.to_owned())
}

fn by_text(text: &str) -> &'static str {
    let head: String = text.chars().take(HEAD).collect();
    let words = head.split_whitespace().collect::<Vec<_>>().join(" ");
    TEXTS.iter().find(|(begin, _)| words.starts_with(begin)).map_or("other", |(_, name)| name)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests may be plain")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_readme_comes_first_then_the_licences_text() {
        let dir = tempfile::tempdir().unwrap();
        let found = || of_folder(dir.path()).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(found(), None);
        write("README.md", "# A model\n\nlicense: none of the front matter\n");
        assert_eq!(found(), None);
        write("LICENSE", "All rights reserved.\n");
        assert_eq!(found().as_deref(), Some("other"));
        write("LICENSE", "Modified MIT License\n\nCopyright\n");
        assert_eq!(found().as_deref(), Some("other"));
        write("LICENSE", "\n        Apache License\n   Version 2.0, January 2004\n");
        assert_eq!(found().as_deref(), Some("apache-2.0"));
        write("README.md", "---\ntags:\n- moe\nlicense: \"mit\" # as the father\n---\n# A model\n");
        assert_eq!(found().as_deref(), Some("mit"));
        write("README.md", "---\nlicense: other\nlicense_name: tongyi-qianwen\n---\n");
        assert_eq!(found().as_deref(), Some("tongyi-qianwen"));
        write("README.md", "---\nlicense:\n  - mit\n---\n");
        assert_eq!(found().as_deref(), Some("apache-2.0"));
    }

    #[test]
    fn names_are_the_hubs() {
        let dir = tempfile::tempdir().unwrap();
        let named = |config: Value| hub_name(dir.path(), &config).unwrap();
        assert_eq!(
            named(json!({"_name_or_path": "Qwen/Qwen3-8B"})).as_deref(),
            Some("Qwen/Qwen3-8B")
        );
        for odd in ["/home/me/model", "./model", "model", "a/b/c", "a/../b", "a/b c", "", "a/"] {
            assert_eq!(named(json!({"_name_or_path": odd})), None, "{odd}");
        }
        let readme = "---\nmodel_name: me/mine # as saved\n---\n";
        std::fs::write(dir.path().join("README.md"), readme).unwrap();
        assert_eq!(named(json!({})).as_deref(), Some("me/mine"));
    }
}
