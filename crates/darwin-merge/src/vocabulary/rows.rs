//! Which row of which model stands behind each row of the child's vocabulary (mergekit 0.1.5, `tokenizer/`).

use super::tokenizer::Tokenizer;
use crate::recipe::{TokenName, TokenRow, TokenRule};
use darwin_checkpoint::Problem;
use std::collections::{BTreeMap, BTreeSet};

/// No row of the model's own.
pub(super) const NONE: u32 = u32::MAX;

/// A row of one of the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowOf {
    pub(super) model: usize,
    pub(super) row: u32,
}

/// What a model gets that has no row for a token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fill {
    Zero,
    Row(RowOf),
    /// The mean of these.
    Mean(Vec<RowOf>),
    /// Padding: the mean of the model's rows of all tokens.
    OfTokens,
}

/// The rows of the child's vocabulary.
#[derive(Debug, Default, PartialEq)]
pub(super) struct RowMap {
    /// By model: its row for each row of the child, or [`NONE`].
    pub(super) own: Vec<Vec<u32>>,
    /// By the child's row; there for every row that some model lacks.
    pub(super) fill: BTreeMap<u32, Fill>,
}

/// A model's part in the vocabulary.
pub(super) struct Owner<'a> {
    pub(super) model: &'a str,
    pub(super) tokenizer: &'a Tokenizer,
    /// Rows of its embedding; tokens beyond are not its own.
    pub(super) rows: usize,
}

impl Owner<'_> {
    fn row(&self, token: &str) -> Option<u32> {
        let id = self.tokenizer.ids.get(token).copied();
        id.filter(|id| (*id as usize) < self.rows)
    }
}

/// What the map is made from.
pub(super) struct Wanted<'a> {
    /// The child's tokens by id.
    pub(super) tokens: &'a BTreeMap<u32, String>,
    pub(super) rules: &'a [(String, TokenRule)],
    /// The child's rows.
    pub(super) size: usize,
    /// Which owner the recipe's base is.
    pub(super) base: Option<usize>,
    /// Whose padding rows are kept, as far as they reach.
    pub(super) padding: Option<usize>,
}

impl Wanted<'_> {
    /// The map for these owners. `missing` gets the tokens that nobody has.
    pub(super) fn map(
        &self,
        owners: &[Owner<'_>],
        missing: &mut BTreeSet<String>,
        problems: &mut Vec<Problem>,
    ) -> RowMap {
        let mut map =
            RowMap { own: vec![vec![NONE; self.size]; owners.len()], fill: BTreeMap::new() };
        let rules: BTreeMap<&str, &TokenRule> =
            self.rules.iter().map(|(token, rule)| (token.as_str(), rule)).collect();
        for id in 0..self.size as u32 {
            let Some(token) = self.tokens.get(&id) else {
                map.fill.insert(id, self.padding(id, owners));
                continue;
            };
            let rule = rules.get(token.as_str());
            let force = rule.is_some_and(|rule| rule.force);
            let found: Vec<Option<u32>> = owners.iter().map(|owner| owner.row(token)).collect();
            for (own, row) in map.own.iter_mut().zip(&found) {
                own[id as usize] = row.filter(|_| !force).unwrap_or(NONE);
            }
            if force || found.iter().any(Option::is_none) {
                let explicit = rule.and_then(|rule| rule.source.as_ref());
                let fill = match explicit {
                    Some(row) => explicit_row(row, token, owners, problems),
                    None => self.default_row(&found),
                };
                if fill == Fill::Zero && explicit != Some(&TokenRow::Zero) {
                    missing.insert(token.clone());
                }
                map.fill.insert(id, fill);
            }
        }
        map
    }

    fn padding(&self, id: u32, owners: &[Owner<'_>]) -> Fill {
        let kept = self.padding.filter(|model| (id as usize) < owners[*model].rows);
        kept.map_or(Fill::OfTokens, |model| Fill::Row(RowOf { model, row: id }))
    }

    /// The only owner's row, else the base's, else the mean of all that there are.
    fn default_row(&self, found: &[Option<u32>]) -> Fill {
        let rows: Vec<RowOf> = found
            .iter()
            .enumerate()
            .filter_map(|(model, row)| row.map(|row| RowOf { model, row }))
            .collect();
        match &rows[..] {
            [] => Fill::Zero,
            [only] => Fill::Row(*only),
            _ => match rows.iter().find(|row| Some(row.model) == self.base) {
                Some(of_base) => Fill::Row(*of_base),
                None => Fill::Mean(rows),
            },
        }
    }
}

/// The row that a rule names.
fn explicit_row(
    row: &TokenRow,
    token: &str,
    owners: &[Owner<'_>],
    problems: &mut Vec<Problem>,
) -> Fill {
    let (model, name) = match row {
        TokenRow::Zero => return Fill::Zero,
        TokenRow::Model(model) => (model, TokenName::Text(token.to_owned())),
        TokenRow::Token { model, token } => (model, token.clone()),
    };
    let at = owners.iter().position(|owner| owner.model == model);
    let row = at.and_then(|at| match &name {
        TokenName::Text(text) => owners[at].row(text),
        TokenName::Id(id) => u32::try_from(*id).ok().filter(|_| *id < owners[at].rows),
    });
    if let (Some(model), Some(row)) = (at, row) {
        return Fill::Row(RowOf { model, row });
    }
    let named = match (&name, at) {
        (_, None) => "no such tensor".to_owned(),
        (TokenName::Text(text), _) => format!("no token `{text}`"),
        (TokenName::Id(id), Some(at)) => format!("{} rows and no id {id}", owners[at].rows),
    };
    let text = format!("`{model}` gives the row of the token `{token}` and has {named}");
    let problem = Problem::new(text, "see its tokenizer.json for the spelling of tokens");
    if !problems.contains(&problem) {
        problems.push(problem);
    }
    Fill::Zero
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;
    use serde_json::json;

    fn tokenizer(tokens: &[&str]) -> Tokenizer {
        let vocab: serde_json::Map<String, serde_json::Value> =
            tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
        Tokenizer::new(json!({"model": {"type": "BPE", "vocab": vocab, "merges": []}})).unwrap()
    }

    #[test]
    fn rows_follow_tokens() {
        let [one, two, three] =
            [tokenizer(&["a", "b"]), tokenizer(&["b", "c", "d"]), tokenizer(&["d", "b", "c"])];
        let owners = [("one", &one, 4), ("two", &two, 3), ("three", &three, 2)]
            .map(|(model, tokenizer, rows)| Owner { model, tokenizer, rows });
        let tokens: BTreeMap<u32, String> = ["a", "b", "c", "d", "e"]
            .into_iter()
            .map(str::to_owned)
            .zip(0..)
            .map(|(t, i)| (i, t))
            .collect();
        let rules = [("e".to_owned(), TokenRule::default())];
        let wanted =
            Wanted { tokens: &tokens, rules: &rules, size: 7, base: Some(0), padding: Some(0) };
        let (mut missing, mut problems) = (BTreeSet::new(), Vec::new());
        let map = wanted.map(&owners, &mut missing, &mut problems);
        assert_eq!(map.own[0], [0, 1, NONE, NONE, NONE, NONE, NONE]);
        assert_eq!(map.own[1], [NONE, 0, 1, 2, NONE, NONE, NONE]);
        // Id 2 lies beyond the two rows of the third.
        assert_eq!(map.own[2], [NONE, 1, NONE, 0, NONE, NONE, NONE]);
        let row = |model, row| RowOf { model, row };
        assert_eq!(map.fill[&0], Fill::Row(row(0, 0)), "the only owner");
        assert_eq!(map.fill.get(&1), None, "all have it");
        assert_eq!(map.fill[&2], Fill::Row(row(1, 1)));
        assert_eq!(map.fill[&3], Fill::Mean(vec![row(1, 2), row(2, 0)]));
        assert_eq!(map.fill[&4], Fill::Zero);
        assert_eq!(map.fill[&5], Fill::OfTokens, "the base has four rows");
        assert_eq!(missing.into_iter().collect::<Vec<_>>(), ["e"]);
        assert!(problems.is_empty());
    }

    #[test]
    fn rules_come_first_and_name_what_is_there() {
        let [one, two] = [tokenizer(&["a", "b"]), tokenizer(&["b", "c"])];
        let owners = [("one", &one), ("two", &two)].map(|(model, tokenizer)| Owner {
            model,
            tokenizer,
            rows: 2,
        });
        let tokens: BTreeMap<u32, String> = one.tokens.clone();
        let rule = |model: &str, token| TokenRule {
            source: Some(TokenRow::Token { model: model.to_owned(), token }),
            force: true,
        };
        let map = |rule: TokenRule| {
            let rules = [("b".to_owned(), rule)];
            let wanted =
                Wanted { tokens: &tokens, rules: &rules, size: 2, base: Some(0), padding: None };
            let mut problems = Vec::new();
            let map = wanted.map(&owners, &mut BTreeSet::new(), &mut problems);
            (map.own[0][1], map.fill[&1].clone(), problems)
        };
        let found = map(rule("two", TokenName::Text("c".to_owned())));
        assert_eq!((found.0, found.1), (NONE, Fill::Row(RowOf { model: 1, row: 1 })));
        let found = map(rule("one", TokenName::Id(0)));
        assert_eq!(found.1, Fill::Row(RowOf { model: 0, row: 0 }));
        let found = map(TokenRule { source: None, force: true });
        assert_eq!(found.1, Fill::Row(RowOf { model: 0, row: 1 }), "the base's");
        for (rule, words) in [
            (
                rule("two", TokenName::Text("a".to_owned())),
                "`two` gives the row of the token `b` and has no token `a`",
            ),
            (rule("two", TokenName::Id(2)), "has 2 rows and no id 2"),
            (
                rule("three", TokenName::Id(0)),
                "`three` gives the row of the token `b` and has no such tensor",
            ),
        ] {
            let problems = map(rule).2;
            assert!(problems[0].to_string().contains(words), "{}", problems[0]);
        }
    }
}
