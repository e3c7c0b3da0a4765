//! Identity by content: SHA-256 of what a thing is, never of where it is.

use crate::hash::Hasher;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The version of everything that decides merged bytes and scores. It is raised by a change that
/// makes another child from the same recipe, or another score from the same child; what was kept
/// under another version is not used again.
pub const ARITHMETIC: u32 = 1;

/// The identity of a model, an item set, a recipe or a run: SHA-256 of its content.
///
/// Equal content has equal fingerprints on every machine: paths, times and names of folders are
/// never part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(String);

/// A text that is not 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a fingerprint: 64 hex digits in lower case")]
pub struct NotAFingerprint(String);

impl Fingerprint {
    /// The fingerprint of named parts; `kind` keeps things of different kinds apart.
    ///
    /// Names and values are hashed with their lengths, so that no two lists of parts look alike.
    #[must_use]
    pub fn of<N: AsRef<str>, V: AsRef<[u8]>>(
        kind: &str,
        parts: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let mut hasher = Hasher::default();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(kind.as_bytes());
        for (name, value) in parts {
            add(name.as_ref().as_bytes());
            add(value.as_ref());
        }
        Self(hasher.finish())
    }

    /// The 64 hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl AsRef<[u8]> for Fingerprint {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, NotAFingerprint> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 64 && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAFingerprint(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = NotAFingerprint;

    fn try_from(text: String) -> Result<Self, NotAFingerprint> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let of = |parts: &[(&str, &str)]| Fingerprint::of("x", parts.iter().copied());
        assert_ne!(of(&[("a", "bc")]), of(&[("ab", "c")]));
        assert_ne!(of(&[("a", "b"), ("c", "d")]), of(&[("a", "bcd")]));
        assert_ne!(of(&[("a", "b")]), Fingerprint::of("y", [("a", "b")]));
        assert_eq!(of(&[("a", "b")]), of(&[("a", "b")]));
    }

    #[test]
    fn only_hashes_are_read() {
        let good = Fingerprint::of("x", [("a", "b")]);
        let text = serde_json::to_string(&good).expect("plain");
        assert_eq!(serde_json::from_str::<Fingerprint>(&text).expect("back"), good);
        for wrong in ["\"\"", "\"abc\"", &text.to_uppercase(), "7"] {
            assert!(serde_json::from_str::<Fingerprint>(wrong).is_err(), "{wrong}");
        }
    }
}
