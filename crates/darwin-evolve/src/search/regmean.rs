//! RegMean alone: how much the mother's activations weigh, ever finer around the best (method 3.2).

use super::line::next_between;
use super::setting::{Explorer, Setting, Tried, both};
use crate::Error;
use crate::deck::Deck;
use crate::job::{Answer, Ask, Work};
use crate::recipe::regmean_recipe;
use crate::solver::Solvable;
use darwin_core::files::Phase;
use std::sync::Arc;

/// The weights that are tried first.
const FIRST: [f64; 5] = [0.03, 0.1, 0.3, 1.0, 3.0];

/// Weights closer than this, as logarithms, are one.
const WIDTH: f64 = 0.02;

/// Explores the weight of the mother's Gram matrices.
pub(crate) struct Weights {
    setting: Arc<Setting>,
    solvable: Solvable,
    deck: Deck,
    tried: Vec<Tried>,
}

impl Weights {
    pub(crate) fn new(setting: Arc<Setting>, solvable: Solvable) -> Self {
        let deck = setting.deck(Phase::Proxy).clone();
        Self { setting, solvable, deck, tried: Vec::new() }
    }
}

impl Explorer for Weights {
    fn next(&mut self, left: u64) -> Result<Vec<Ask>, Error> {
        let logarithms = match self.tried.is_empty() {
            true => FIRST.map(f64::ln).to_vec(),
            false => next_between(&self.tried, WIDTH).into_iter().collect(),
        };
        let window = self.deck.deal(both(&self.setting.config));
        let each = self.deck.tokens(&window) + self.solvable.tokens;
        let affordable = usize::try_from(left / each.max(1)).unwrap_or(usize::MAX);
        let anchor = self.setting.line_best().0;
        let ask = |logarithm: f64| {
            let b = (logarithm.exp() * 1e4).round() / 1e4;
            let config = &self.setting.config;
            let recipe = regmean_recipe(config, &self.solvable.settings, b, anchor)?;
            let ask = Ask::new(Arc::new(recipe), Work::Likelihood, window.clone());
            Ok(Ask { genes: vec![b.ln()], label: Some(format!("b={b}")), ..ask })
        };
        logarithms.into_iter().take(affordable).map(ask).collect()
    }

    fn tell(&mut self, asks: &[Ask], answers: &[Answer]) -> Result<(), Error> {
        for (ask, answer) in asks.iter().zip(answers) {
            self.tried.push(Tried::of(ask, self.setting.judge(Phase::Proxy, answer)));
        }
        Ok(())
    }

    fn tried(&self) -> Vec<Tried> {
        self.tried.clone()
    }
}
