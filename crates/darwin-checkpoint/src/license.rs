//! The licence that a model's folder states.

use crate::Error;
use std::io::ErrorKind;
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

fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// The scalar `license` between the two lines `---`; `license_name` where that is `other`.
fn front_matter(readme: &str) -> Option<String> {
    let mut lines = readme.trim_start_matches('\u{feff}').lines();
    (lines.next()?.trim_end() == "---").then_some(())?;
    let lines: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
    let of = |key: &str| {
        let value = lines.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let value = value.split(" #").next()?.trim().trim_matches(['"', '\'']);
        (!value.is_empty() && !value.starts_with(['[', '{'])).then(|| value.to_owned())
    };
    let license = of("license")?;
    if license == "other" { of("license_name").or(Some(license)) } else { Some(license) }
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
}
