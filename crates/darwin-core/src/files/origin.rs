//! What a kept file was made from.

use crate::{ARITHMETIC, Fingerprint};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that decides what stands in a kept file. A file is used again only where all of it
/// is the same as now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// [`ARITHMETIC`] of the program that made it.
    pub arithmetic: u32,
    /// The models by role: `father`, `mother`, `model`.
    pub models: BTreeMap<String, Fingerprint>,
    /// The items by split.
    pub items: BTreeMap<String, Fingerprint>,
    /// Configuration or options; seeds are among them.
    pub options: Fingerprint,
}

impl Origin {
    /// The origin of something made now.
    #[must_use]
    pub fn now<'a>(
        models: impl IntoIterator<Item = (&'a str, &'a Fingerprint)>,
        items: impl IntoIterator<Item = (&'a str, &'a Fingerprint)>,
        options: Fingerprint,
    ) -> Self {
        let owned = |(name, of): (&str, &Fingerprint)| (name.to_owned(), of.clone());
        Self {
            arithmetic: ARITHMETIC,
            models: models.into_iter().map(owned).collect(),
            items: items.into_iter().map(owned).collect(),
            options,
        }
    }

    /// All of it as one fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let text = serde_json::to_string(self).expect("an origin is plain data");
        Fingerprint::of("origin", [("origin", text)])
    }

    /// What differs in an earlier origin from this one, as the words after "made"; `None` where
    /// nothing does.
    #[must_use]
    pub fn difference(&self, earlier: &Self) -> Option<String> {
        let mut found = Vec::new();
        if self.arithmetic != earlier.arithmetic {
            found.push(format!(
                "by a Darwin with arithmetic {}, this one has {}",
                earlier.arithmetic, self.arithmetic
            ));
        }
        let differ = |now: &BTreeMap<String, Fingerprint>, then: &BTreeMap<String, Fingerprint>| {
            let names = now.keys().chain(then.keys().filter(|name| !now.contains_key(*name)));
            let names = names.filter(|name| now.get(*name) != then.get(*name));
            names.cloned().collect::<Vec<String>>()
        };
        for name in differ(&self.models, &earlier.models) {
            found.push(format!("from other weights, config or tokenizer of the {name}"));
        }
        let splits = differ(&self.items, &earlier.items);
        if !splits.is_empty() {
            found.push(format!("with other items ({})", splits.join(", ")));
        }
        if self.options != earlier.options {
            found.push("with another configuration".to_owned());
        }
        (!found.is_empty()).then(|| found.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_that_differs_is_named() {
        let of = |text: &str| Fingerprint::of("test", [("text", text)]);
        let (a, b, i) = (of("a"), of("b"), of("i"));
        let now = Origin::now([("father", &a), ("mother", &b)], [("proxy", &i)], of("o"));
        assert_eq!(now.difference(&now.clone()), None);
        let mother = Origin::now([("father", &a), ("mother", &a)], [("proxy", &i)], of("o"));
        let text = now.difference(&mother).expect("differs");
        assert!(text.contains("mother") && !text.contains("father"), "{text}");
        let items = Origin::now([("father", &a), ("mother", &b)], [("proxy", &a)], of("o"));
        assert!(now.difference(&items).expect("differs").contains("items (proxy)"));
        let fewer = Origin::now([("father", &a)], [("proxy", &i)], of("o"));
        assert!(now.difference(&fewer).expect("differs").contains("mother"));
        assert!(fewer.difference(&now).expect("differs").contains("mother"));
        let options = Origin { options: of("p"), ..now.clone() };
        assert!(now.difference(&options).expect("differs").contains("configuration"));
        let older = Origin { arithmetic: ARITHMETIC - 1, ..now.clone() };
        assert!(now.difference(&older).expect("differs").contains("arithmetic"));
        let all = [&mother, &items, &fewer, &options, &older];
        assert!(all.iter().all(|other| other.fingerprint() != now.fingerprint()));
    }
}
