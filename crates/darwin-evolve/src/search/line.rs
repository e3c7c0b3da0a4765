//! The plain interpolation line: ever finer around its best point.

use super::setting::{Explorer, Setting, Tried, both};
use crate::deck::Deck;
use crate::job::{Answer, Ask, Window, Work};
use crate::recipe::line_recipe;
use crate::{Error, RunConfig};
use darwin_core::files::Phase;
use std::sync::Arc;

/// The grid that every arm begins with: t = 0, 0.1, ..., 1.
pub(crate) fn grid() -> impl Iterator<Item = f64> {
    (0..=10).map(|i| f64::from(i) / 10.0)
}

/// A point of the line, as a question.
pub(crate) fn point(
    config: &RunConfig,
    layers: usize,
    t: f64,
    items: Window,
) -> Result<Ask, Error> {
    let recipe = Arc::new(line_recipe(config, t, layers)?);
    let ask = Ask::new(recipe, Work::Likelihood, items);
    Ok(Ask { genes: vec![t], label: Some(format!("t={t}")), ..ask })
}

/// Explores the line.
pub(crate) struct Line {
    setting: Arc<Setting>,
    deck: Deck,
    tried: Vec<Tried>,
}

impl Line {
    pub(crate) fn new(setting: Arc<Setting>) -> Self {
        let (deck, tried) = (setting.deck(Phase::Proxy).clone(), setting.line.clone());
        Self { setting, deck, tried }
    }
}

impl Explorer for Line {
    fn next(&mut self, left: u64) -> Result<Vec<Ask>, Error> {
        let Some(t) = next_between(&self.tried, 1e-3) else { return Ok(Vec::new()) };
        let window = self.deck.deal(both(&self.setting.config));
        if self.deck.tokens(&window) > left {
            return Ok(Vec::new());
        }
        let layers = self.setting.shape.linear.len();
        Ok(vec![point(&self.setting.config, layers, t, window)?])
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

/// Where to look next along one gene: the middle of the interval with the best end, while it is
/// wider than `width`; `None` when every interval is that small.
pub(super) fn next_between(tried: &[Tried], width: f64) -> Option<f64> {
    let mut points: Vec<(f64, f64)> = tried.iter().map(|t| (t.genes[0], t.fitness)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rank = |f: f64| points.iter().filter(|(_, g)| *g > f).count();
    points
        .windows(2)
        .filter(|w| w[1].0 - w[0].0 > width)
        // The best end decides; among equals the other end, then the width.
        .min_by(|a, b| {
            let key = |w: &[(f64, f64)]| {
                let (x, y) = (rank(w[0].1), rank(w[1].1));
                (x.min(y), x.max(y))
            };
            key(a).cmp(&key(b)).then((b[1].0 - b[0].0).total_cmp(&(a[1].0 - a[0].0)))
        })
        .map(|w| f64::midpoint(w[0].0, w[1].0))
}

#[cfg(test)]
mod tests {
    use super::super::setting::best;
    use super::*;
    use darwin_merge::Recipe;

    #[test]
    fn the_line_closes_in_on_its_best_point() {
        let recipe = Arc::new(Recipe::blend("linear", "f", "m").build().expect("valid"));
        let at = |t: f64| Tried {
            recipe: recipe.clone(),
            genes: vec![t],
            label: None,
            fitness: -(t - 0.37) * (t - 0.37),
        };
        let mut tried: Vec<Tried> = grid().map(at).collect();
        for _ in 0..15 {
            let t = next_between(&tried, 1e-3).expect("not exhausted");
            tried.push(at(t));
        }
        let top = best(&tried, 1).next().expect("some").genes[0];
        assert!((top - 0.37).abs() < 2e-3, "{top}");
    }
}
