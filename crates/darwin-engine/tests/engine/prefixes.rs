//! Beginnings that items share run once, and change no bit.

use crate::fixture::{golden, model};
use darwin_core::Cancel;
use darwin_engine::{Cost, ItemScore, Model, ScoreItem, score, score_counted};

fn item(prompt: &[u32], answer: &[u32]) -> ScoreItem {
    ScoreItem { prompt: prompt.to_vec(), answer: answer.to_vec() }
}

fn counted(model: &Model, items: &[ScoreItem]) -> (Vec<ItemScore>, Cost) {
    score_counted(model, items, &Cancel::default()).unwrap()
}

fn alone(model: &Model, items: &[ScoreItem]) -> Vec<ItemScore> {
    let one = |item: &ScoreItem| {
        let scores = score(model, std::slice::from_ref(item), &Cancel::default()).unwrap();
        scores.into_iter().next().unwrap()
    };
    items.iter().map(one).collect()
}

/// Few examples that all questions begin with, questions, four answers each, some of one token.
#[test]
fn multiple_choice_equals_each_alone() {
    for case in ["plain", "odd", "long", "father", "qwen3_next", "olmoe_clip", "deepseek_v3"] {
        let (model, golden) = (model(case), golden(case));
        let vocab = model.config().vocab_size as u32;
        let examples: Vec<u32> = golden[0].ids.iter().cycle().take(70).copied().collect();
        let mut items = Vec::new();
        for question in 0..6_u32 {
            let words = (0..20 + question).map(|i| (i * 7 + question * 31) % vocab);
            let prompt: Vec<u32> = examples.iter().copied().chain(words).collect();
            for answer in 0..4_u32 {
                let answer = (0..1 + question % 3).map(|i| (answer * 11 + i) % vocab);
                items.push(item(&prompt, &answer.collect::<Vec<_>>()));
            }
        }
        // answers that begin with one another, a prompt that is another's beginning, one of its own
        items.push(item(&examples, &[1, 2, 3]));
        items.push(item(&examples, &[1, 2]));
        items.push(item(&examples[..40], &examples[40..]));
        items.push(item(&[5], &[6, 7]));
        let (scores, cost) = counted(&model, &items);
        assert_eq!(scores, alone(&model, &items), "{case}");
        let tokens: usize = items.iter().map(|i| i.prompt.len() + i.answer.len() - 1).sum();
        assert_eq!(cost.tokens, tokens as u64);
        assert!(5 * cost.run < cost.tokens, "{case}: {cost:?}");
    }
}

/// Four answers of one token are read off one row.
#[test]
fn answers_of_one_token_cost_their_prompt() {
    let (model, golden) = (model("long"), golden("long"));
    let prompt = &golden[0].ids[..100];
    let items: Vec<_> = (0..4).map(|answer| item(prompt, &[answer])).collect();
    let (scores, cost) = counted(&model, &items);
    assert_eq!((cost.tokens, cost.run), (400, 100));
    assert_eq!(scores, alone(&model, &items));
    assert!(scores[0].nll != scores[1].nll);
}

#[test]
fn items_of_their_own_cost_what_they_are() {
    let (model, golden) = (model("plain"), golden("plain"));
    let items: Vec<_> = golden.iter().map(|g| item(&g.ids, &g.greedy)).collect();
    let (_, cost) = counted(&model, &items);
    assert_eq!(cost.run, cost.tokens);
}
