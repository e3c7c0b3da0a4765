//! What the child says: `<think>` closed, truncation, repetition, length (method 5).

use super::{CheckOptions, Family, finding, not_finite};
use crate::broken::{Broken, called};
use crate::{Error, Subject};
use darwin_core::Cancel;
use darwin_core::files::{Finding, Severity};
use darwin_engine::{GenerateOptions, Model, Text, generate};
use darwin_eval::{Encoded, Format};

const CLOSE: &str = "</think>";
/// A fault's name and its count.
type Kind = (&'static str, fn(&Faults) -> usize);

/// So many equal n-grams in a row are repetition.
const REPEATS: usize = 4;
/// A share must exceed both parents' by so many standard errors.
const STANDARD_ERRORS: f64 = 3.0;

/// Shares of continuations that went wrong.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    n: usize,
    unclosed: usize,
    truncated: usize,
    repeating: usize,
    tokens: usize,
}

pub(super) fn findings(
    family: &Family<'_>,
    encoded: &Encoded,
    text: &Text,
    options: &CheckOptions,
    cancel: &Cancel,
) -> Result<Vec<Finding>, Error> {
    let thinking = encoded.items().iter().filter(|i| i.main_format() == Format::Think);
    let prompts: Vec<Vec<u32>> =
        thinking.take(options.generate).map(|i| i.main().prompt.clone()).collect();
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    let stop = GenerateOptions {
        max_new_tokens: options.max_new_tokens,
        stop: encoded.stop_ids().to_vec(),
    };
    let count = |model: &Model| faults(model, &prompts, &stop, text, cancel);
    let parent = |role: &str, subject: &Subject<'_>| {
        let name = called(role, &subject.reference.name);
        count(subject.model).map_err(|error| error.of_model(&name, prompt))
    };
    let parents = [parent("father", &family.father)?, parent("mother", &family.mother)?];
    let child = match count(family.child.model) {
        Err(Error::Engine(darwin_engine::Error::NotFinite(found))) => {
            return Ok(vec![not_finite(&Broken::of_pass(&found, &prompt(found.sequence)))]);
        }
        child => child?,
    };
    let kinds: [Kind; 3] = [
        ("never close <think>", |f| f.unclosed),
        ("are cut off at the limit", |f| f.truncated),
        ("repeat themselves", |f| f.repeating),
    ];
    let mut found: Vec<Finding> = kinds
        .iter()
        .filter_map(|(what, of)| worse(what, of(&child), parents.map(|p| of(&p)), child.n))
        .collect();
    let length = |f: &Faults| f.tokens as f64 / f.n as f64;
    let longest = length(&parents[0]).max(length(&parents[1]));
    if length(&child) > 2.0 * longest {
        let text = format!(
            "generation: {:.0} tokens per answer, the parents {longest:.0} at most",
            length(&child)
        );
        found.push(finding(
            Severity::Warn,
            "generation",
            text,
            "look at some answers (darwin generate)",
        ));
    }
    Ok(found)
}

/// What a prompt is called.
fn prompt(number: usize) -> String {
    format!("generation {}", number + 1)
}

fn worse(what: &str, child: usize, parents: [usize; 2], n: usize) -> Option<Finding> {
    let worst = *parents.iter().max()?;
    let total = n as f64;
    let pooled = (child + worst) as f64 / (2.0 * total);
    let se = (2.0 * pooled * (1.0 - pooled) / total).sqrt();
    let excess = (child as f64 - worst as f64) / total;
    (excess > STANDARD_ERRORS * se && excess > 0.0).then(|| {
        let text = format!(
            "generation: {child} of {n} answers {what}; father {} and mother {}",
            parents[0], parents[1]
        );
        let advice = "move t towards a parent in the last layers and the embedding";
        Finding { size: Some(excess), ..finding(Severity::Warn, "generation", text, advice) }
    })
}

fn faults(
    model: &Model,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    text: &Text,
    cancel: &Cancel,
) -> Result<Faults, Error> {
    let drafts = vec![Vec::new(); prompts.len()];
    let answers = generate(model, prompts, &drafts, options, cancel)?;
    let mut faults = Faults { n: answers.len(), ..Faults::default() };
    for answer in answers {
        faults.tokens += answer.len();
        faults.unclosed += usize::from(!text.decode(&answer, false).contains(CLOSE));
        let stopped = answer.last().is_some_and(|id| options.stop.contains(id));
        faults.truncated += usize::from(!stopped);
        faults.repeating += usize::from(repeats(&answer));
    }
    Ok(faults)
}

/// Whether some n-gram (1 to 8 tokens) stands `REPEATS` times in a row and fills 12 tokens or more.
fn repeats(tokens: &[u32]) -> bool {
    (1..=8).any(|n| {
        let times = REPEATS.max(12_usize.div_ceil(n));
        tokens.windows(n * times).any(|w| w.iter().zip(&w[n..]).all(|(a, b)| a == b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_is_seen_and_ordinary_text_is_not() {
        assert!(repeats(&[7; 20]));
        assert!(repeats(&[9, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 4]));
        assert!(!repeats(&(0..40).collect::<Vec<u32>>()));
        assert!(!repeats(&[0, 0, 0, 0, 5, 0, 0, 0, 0]));
    }

    #[test]
    fn more_than_both_parents_by_three_standard_errors() {
        assert!(worse("x", 20, [1, 2], 32).is_some());
        assert!(worse("x", 4, [1, 2], 32).is_none());
        assert!(worse("x", 0, [0, 0], 32).is_none());
    }
}
