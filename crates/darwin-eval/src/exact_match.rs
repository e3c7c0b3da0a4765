//! The real benchmark: exact match by greedy generation.

use crate::evaluator::log_odds;
use crate::{Encoded, Error, Evaluation, Format, ItemResult, ItemSet, Kind, Prompted, Scorer};
use darwin_core::Cancel;
use darwin_engine::{
    Cost, GenerateOptions, ItemScore, Model, ScoreItem, Text, generate_counted, score_counted,
};

const CLOSE: &str = "</think>";

/// A right direct answer has at most one token per byte; so much room is left for blanks around it.
const DIRECT_SLACK: usize = 8;

/// Exact match of the generated answer in each format, and the NLL of the reference answer.
///
/// The reference answer is scored first, in one pass: where every token of it is the model's first
/// choice, greedy decoding *is* the reference. Else only what follows the first disagreement is
/// decoded. The result equals plain greedy decoding.
#[derive(Clone)]
pub struct ExactMatch {
    items: ItemSet,
    encoded: Encoded,
    text: Text,
    max_new_tokens: usize,
    with_direct: bool,
}

/// What became of one generation.
struct Outcome {
    exact: bool,
    closed: bool,
}

/// One format's run over some items.
struct Run {
    scores: Vec<ItemScore>,
    outcomes: Vec<Outcome>,
    cost: Cost,
}

impl ExactMatch {
    /// Tokenises the items. `with_direct` also generates the direct format of items that have both.
    ///
    /// # Errors
    /// Whatever [`Encoded::new`] brings.
    pub fn new(
        items: ItemSet,
        text: &Text,
        max_new_tokens: usize,
        with_direct: bool,
    ) -> Result<Self, Error> {
        let encoded = Encoded::new(&items, text)?;
        Ok(Self { items, encoded, text: text.clone(), max_new_tokens, with_direct })
    }

    /// The tokenised items.
    #[must_use]
    pub fn encoded(&self) -> &Encoded {
        &self.encoded
    }

    /// The same over some of the items, by position.
    ///
    /// # Panics
    /// If there is no such item.
    #[must_use]
    pub fn select(&self, indices: &[u32]) -> Self {
        let items = self.items.select(indices);
        let encoded = self.encoded.select(&items, indices);
        Self { items, encoded, text: self.text.clone(), ..*self }
    }
}

impl Scorer for ExactMatch {
    const KIND: Kind = Kind::Real;

    fn item_set(&self) -> &ItemSet {
        &self.items
    }

    fn evaluate_model(&self, model: &Model, cancel: &Cancel) -> Result<Evaluation, Error> {
        let mut results = vec![ItemResult::default(); self.items.items().len()];
        let mut cost = Cost::default();
        for format in [Format::Think, Format::Direct] {
            let chosen = self.chosen(format);
            let run = self.run(model, &chosen, format, cancel)?;
            cost += run.cost;
            for (((i, _), score), outcome) in chosen.iter().zip(&run.scores).zip(&run.outcomes) {
                self.record(&mut results[*i], *i, format, score, outcome);
            }
        }
        Ok(Evaluation { results, cost })
    }
}

impl ExactMatch {
    /// The items asked in a format, by index.
    fn chosen(&self, format: Format) -> Vec<(usize, &Prompted)> {
        let items = self.encoded.items().iter().enumerate();
        items
            .filter(|(_, item)| self.with_direct || item.main_format() == format)
            .filter_map(|(i, item)| {
                let prompted = match format {
                    Format::Think => item.think.as_ref(),
                    Format::Direct => item.direct.as_ref(),
                };
                Some((i, prompted?))
            })
            .collect()
    }

    fn record(
        &self,
        result: &mut ItemResult,
        item: usize,
        format: Format,
        score: &ItemScore,
        outcome: &Outcome,
    ) {
        if self.encoded.items()[item].main_format() != format {
            result.direct = Some(outcome.exact);
            return;
        }
        result.nll = score.nll;
        result.log_odds = Some(log_odds(score.nll));
        result.exact = Some(outcome.exact);
        result.closed = (format == Format::Think).then_some(outcome.closed);
    }

    fn run(
        &self,
        model: &Model,
        chosen: &[(usize, &Prompted)],
        format: Format,
        cancel: &Cancel,
    ) -> Result<Run, Error> {
        let asked: Vec<ScoreItem> = chosen.iter().map(|(_, p)| p.score_item()).collect();
        let (scores, mut cost) = score_counted(model, &asked, cancel)?;
        let missed: Vec<usize> = (0..scores.len()).filter(|i| !scores[*i].greedy).collect();
        // The answer up to the first disagreement is what greedy decoding gives so far.
        let begun = |i: usize| &chosen[i].1.answer[..scores[i].first_miss.unwrap_or(0)];
        let prompts: Vec<Vec<u32>> =
            missed.iter().map(|i| [&chosen[*i].1.prompt, begun(*i)].concat()).collect();
        let options = GenerateOptions {
            max_new_tokens: self.limit(chosen, format),
            stop: self.encoded.stop_ids().to_vec(),
        };
        let drafts = vec![Vec::new(); prompts.len()];
        let (continued, decoding) = generate_counted(model, &prompts, &drafts, &options, cancel)?;
        cost += decoding;
        let mut outcomes: Vec<Outcome> =
            scores.iter().map(|s| Outcome { exact: s.greedy, closed: s.greedy }).collect();
        for (i, rest) in missed.into_iter().zip(continued) {
            let generated = [begun(i), &rest].concat();
            let target = &self.encoded.items()[chosen[i].0].target;
            outcomes[i] = self.judge(&generated, target, format);
        }
        Ok(Run { scores, outcomes, cost })
    }

    /// New tokens at most; in the direct format no more than a right answer can have.
    fn limit(&self, chosen: &[(usize, &Prompted)], format: Format) -> usize {
        if format == Format::Think {
            return self.max_new_tokens;
        }
        let longest = chosen.iter().map(|(i, _)| self.encoded.items()[*i].target.len()).max();
        self.max_new_tokens.min(longest.unwrap_or(0) + DIRECT_SLACK)
    }

    fn judge(&self, generated: &[u32], target: &str, format: Format) -> Outcome {
        let generated = &generated[..generated.len().min(self.max_new_tokens)];
        let stop = generated.iter().position(|t| self.encoded.stop_ids().contains(t));
        let text = self.text.decode(&generated[..stop.unwrap_or(generated.len())], false);
        judge_text(&text, stop.is_some(), target, format)
    }
}

/// Compares a generated text, without its stop token, with the target. The think format counts only
/// what follows the first `</think>`; an answer that never closes, or never stops, is wrong.
fn judge_text(text: &str, stopped: bool, target: &str, format: Format) -> Outcome {
    let answer = match format {
        Format::Direct => Some(text),
        Format::Think => text.split_once(CLOSE).map(|(_, answer)| answer),
    };
    let exact = stopped && answer.is_some_and(|a| a.trim() == target.trim());
    Outcome { exact, closed: text.contains(CLOSE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_think_format_counts_what_follows_the_close() {
        let exact = |text, stopped, format| judge_text(text, stopped, "42", format).exact;
        assert!(exact("6*7=42</think> 42\n", true, Format::Think));
        assert!(!exact("6*7=42</think>41", true, Format::Think));
        assert!(!exact("42", true, Format::Think), "never closed");
        assert!(!exact("x</think>42", false, Format::Think), "never stopped");
        assert!(exact("42", true, Format::Direct));
        assert!(!exact("It is 42", true, Format::Direct));
        assert!(!judge_text("42", true, "42", Format::Think).closed);
    }
}
