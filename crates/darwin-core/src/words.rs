//! Newtypes that carry their rules.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A value outside its allowed range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{what} is {found}, allowed is {allowed}")]
pub struct OutOfRange {
    /// Which quantity.
    pub what: &'static str,
    /// The value found.
    pub found: String,
    /// The values allowed.
    pub allowed: &'static str,
}

impl crate::Diagnose for OutOfRange {}

macro_rules! interval {
    ($(#[$doc:meta])* $name:ident, $what:literal, $low:literal to $high:literal, $allowed:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(try_from = "f64", into = "f64")]
        pub struct $name(f64);

        impl $name {
            /// The least value.
            pub const MIN: f64 = $low;
            /// The greatest value.
            pub const MAX: f64 = $high;

            /// Checks that the value lies between [`Self::MIN`] and [`Self::MAX`].
            ///
            /// # Errors
            /// [`OutOfRange`] for anything else, NaN included.
            pub fn new(value: f64) -> Result<Self, OutOfRange> {
                if (Self::MIN..=Self::MAX).contains(&value) {
                    Ok(Self(value))
                } else {
                    Err(OutOfRange { what: $what, found: value.to_string(), allowed: $allowed })
                }
            }

            /// The value, from [`Self::MIN`] to [`Self::MAX`].
            #[must_use]
            pub fn get(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $name {
            type Error = OutOfRange;
            fn try_from(value: f64) -> Result<Self, OutOfRange> {
                Self::new(value)
            }
        }

        impl From<$name> for f64 {
            fn from(value: $name) -> f64 {
                value.0
            }
        }
    };
}

interval!(
    /// The share `t` of the **mother** in a blend: 0 is the father, 1 the mother (method 0). Below 0
    /// and above 1 the child lies beyond a parent, on the line through both.
    Share,
    "a share",
    -0.5 to 1.5,
    "-0.5 to 1.5"
);
interval!(
    /// The share of a task vector's elements that a sparsifier keeps.
    Density,
    "a density",
    0.0 to 1.0,
    "0 to 1"
);

impl Share {
    /// Whether the child lies between its parents: from 0 to 1.
    #[must_use]
    pub fn is_between(self) -> bool {
        (0.0..=1.0).contains(&self.0)
    }
}

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub usize);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index!(
    /// Index of a decoder layer, from 0.
    LayerIdx
);
index!(
    /// Index of a routed expert in its layer, from 0.
    ExpertIdx
);

/// The five disjoint splits of a set of items (method 0). A score on a split that was used for
/// choosing is never a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Profiles.
    Calibration,
    /// Cheap fitness.
    Proxy,
    /// The real-benchmark phase.
    Search,
    /// Choice of the final child.
    Selection,
    /// One look, for the report.
    Test,
}

impl Split {
    /// All splits, in the order of their use.
    pub const ALL: [Self; 5] =
        [Self::Calibration, Self::Proxy, Self::Search, Self::Selection, Self::Test];

    /// The name used in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Calibration => "calibration",
            Self::Proxy => "proxy",
            Self::Search => "search",
            Self::Selection => "selection",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A domain of items: one of method 0's names, or a user's own `x-…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

impl Domain {
    /// The names that method 0 fixes.
    pub const KNOWN: [&'static str; 10] = [
        "general",
        "reasoning",
        "math",
        "logic",
        "code",
        "knowledge",
        "language",
        "tools",
        "vision",
        "composed",
    ];

    /// The domain's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = OutOfRange;
    fn from_str(name: &str) -> Result<Self, OutOfRange> {
        if Self::KNOWN.contains(&name) || name.starts_with("x-") {
            Ok(Self(name.to_owned()))
        } else {
            Err(OutOfRange {
                what: "a domain",
                found: format!("`{name}`"),
                allowed: "general, reasoning, math, logic, code, knowledge, language, tools, vision, composed or x-…",
            })
        }
    }
}

impl TryFrom<String> for Domain {
    type Error = OutOfRange;
    fn try_from(name: String) -> Result<Self, OutOfRange> {
        name.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_density_cannot_be_1_7() {
        assert!(Density::new(1.7).is_err());
        assert!(Share::new(f64::NAN).is_err());
        assert!(serde_json::from_str::<Density>("1.7").is_err());
        assert_eq!(serde_json::from_str::<Share>("0.5").map(Share::get).ok(), Some(0.5));
        assert!(Density::new(-0.01).is_err());
    }

    #[test]
    fn shares_reach_beyond_the_parents() {
        for (t, between) in [(-0.5, false), (0.0, true), (1.0, true), (1.5, false)] {
            assert_eq!(Share::new(t).map(Share::is_between), Ok(between), "{t}");
        }
        for t in [-0.500_001, 1.500_001, f64::INFINITY] {
            let error = Share::new(t).unwrap_err().to_string();
            assert!(error.ends_with("allowed is -0.5 to 1.5"), "{error}");
        }
    }

    #[test]
    fn domains_are_known_or_the_users_own() {
        assert!("math".parse::<Domain>().is_ok());
        assert!("x-legal".parse::<Domain>().is_ok());
        assert!("maths".parse::<Domain>().is_err());
    }
}
