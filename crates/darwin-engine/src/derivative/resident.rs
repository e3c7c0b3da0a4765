//! Point and direction in memory: a thread takes its sequences through all layers and back.

use super::head::{self, Ending};
use super::step::{Kept, Step, Tokens, Work};
use super::{Bundle, Derivatives, Pass, batch, parts};
use crate::Error;
use crate::layers::group_tokens;
use crate::team::run_all;
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

/// Buffers of one thread.
#[derive(Default)]
struct Space {
    /// For each layer, its input and what it keeps.
    layers: Vec<(Vec<f32>, Kept)>,
    grad: Vec<f32>,
    work: Work,
    head: head::Work,
}

/// A bundle and where its results go.
struct Job<'a> {
    bundle: &'a Bundle,
    hidden: Vec<f32>,
    nlls: &'a mut [f64],
    sums: &'a mut [f64],
}

impl Pass<'_> {
    /// Keeps activations.
    pub(super) fn resident(&self, result: &mut Derivatives) -> Result<(), Error> {
        let (point, direction, config) = (self.point, self.direction, self.point.config());
        let layers = config.num_hidden_layers;
        let steps: Vec<Step> = (0..layers)
            .into_par_iter()
            .map(|i| Ok(Step::new(i, point.layer(i)?, direction.layer(i)?)))
            .collect::<Result<_, Error>>()?;
        let ending = Ending::new(point.head(0..config.vocab_size)?, direction.ends()?);
        let enough = group_tokens(result.tokens as usize);
        let bundles = Bundle::cut(0, self.items, enough);
        let ids = bundles.iter().flat_map(|bundle| bundle.ids.iter().copied()).collect();
        let table = direction.embedding(ids)?;

        let batches: Vec<_> = bundles.iter().map(|b| batch(std::slice::from_ref(b))).collect();
        let mut states = Vec::with_capacity(bundles.len());
        point.embed(&batches, u64::MAX, &mut |state| {
            states.push(state.hidden);
            Ok(())
        })?;
        let nlls = parts(&mut result.nll, &bundles, 1);
        let sums = parts(&mut result.values, &bundles, result.groups.len());
        let results = nlls.into_iter().zip(sums);
        let jobs: Vec<Job<'_>> = bundles
            .iter()
            .zip(states)
            .zip(results)
            .map(|((bundle, hidden), (nlls, sums))| Job { bundle, hidden, nlls, sums })
            .collect();
        let spaces: Mutex<Vec<Space>> = Mutex::default();
        let idle = || spaces.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = steps
            .first()
            .is_some_and(|step| step.weights.shares(jobs.len(), result.tokens as usize));
        run_all(jobs, shared, |job, team| {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let mut space = idle().pop().unwrap_or_default();
            let first = job.bundle.first;
            let Job { bundle, hidden, nlls, sums } = job;
            let tokens = Tokens { config, team, offsets: &bundle.offsets };
            space
                .run(&steps, &ending, tokens, bundle, hidden, (nlls, &mut *sums))
                .map_err(|error| error.at(|sequence, at| (first + sequence, at)))?;
            self.embedding(bundle, &table, &space.grad, &mut bundle.tally(sums));
            idle().push(space);
            self.progress.advance(2 * (bundle.tokens() * layers) as u64);
            Ok::<(), Error>(())
        })
        .map(drop)
    }
}

impl Space {
    /// Through all layers and back to the gradient before the first.
    fn run(
        &mut self,
        steps: &[Step],
        ending: &Ending,
        tokens: Tokens<'_>,
        bundle: &Bundle,
        hidden: Vec<f32>,
        (nlls, sums): (&mut [f64], &mut [f64]),
    ) -> Result<(), Error> {
        self.layers.resize_with(steps.len(), Default::default);
        self.grad = hidden;
        for (step, (input, kept)) in steps.iter().zip(&mut self.layers) {
            input.clear();
            input.extend_from_slice(&self.grad);
            step.forward(&tokens, input, kept, &mut self.work, Some(&mut self.grad))?;
        }
        let mut tally = bundle.tally(sums);
        let (grad, work) = (&mut self.grad, (&mut self.head, &mut self.work.maps));
        ending.backward(&tokens, &bundle.asked, grad, work, nlls, &mut tally)?;
        for (step, (input, kept)) in steps.iter().zip(&self.layers).rev() {
            step.backward(&tokens, input, kept, &mut self.work, &mut self.grad, &mut tally)?;
        }
        Ok(())
    }
}
