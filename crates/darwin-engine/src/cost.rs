//! How fast this machine reads and runs a model: measured on a layer of each kind.

use crate::{Batch, Config, Error, Interventions, LayerSource, NoTap, Stream, Tap};
use std::time::Instant;

/// Layers faster than this (seconds) are timed again once buffers are warm.
const SHORT: f64 = 0.3;

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Speed {
    /// Bytes of the files that are read and packed in a second, by all threads.
    pub read: f64,
    /// Seconds of each layer for a token.
    pub layers: Vec<f64>,
    /// Operations in a second: two for each weight that a token meets.
    pub operations: f64,
}

impl Speed {
    /// Seconds of reading so many bytes.
    #[must_use]
    pub fn reading(&self, bytes: u64) -> f64 {
        bytes as f64 / self.read
    }

    /// Seconds of so many tokens in all layers.
    #[must_use]
    pub fn running(&self, tokens: u64) -> f64 {
        tokens as f64 * self.layers.iter().sum::<f64>()
    }

    /// Seconds of the logits at so many positions.
    #[must_use]
    pub fn logits(&self, config: &Config, positions: u64) -> f64 {
        2.0 * positions as f64 * (config.vocab_size * config.hidden_size) as f64 / self.operations
    }
}

impl Stream<'_> {
    /// Measures how fast layers are read and run, on one of each kind, a batch, and what a tap does
    /// with it. What the disk gives is measured only as far as the system does not have the files
    /// in memory already.
    ///
    /// # Errors
    /// As [`LayerSource::embed`]; [`Error::Weights`] where reading fails.
    pub fn measure<T: Tap>(
        &self,
        batch: &Batch,
        tap: impl Fn(&Config, &Batch) -> T,
    ) -> Result<Speed, Error> {
        let (config, parts) = (self.config(), self.footprint());
        let mut states = Vec::new();
        self.embed(std::slice::from_ref(batch), u64::MAX, &mut |state| {
            states.push(state);
            Ok(())
        })?;
        let kind = |layer: usize| (config.layer_types[layer], config.mlp_types[layer]);
        let (mut bytes, mut reading, mut running) = (0, 0.0, 0.0);
        let mut layers: Vec<f64> = Vec::new();
        let (tokens, mut met) = (batch.tokens() as f64, 0.0);
        for layer in 0..config.num_hidden_layers {
            if let Some(alike) = (0..layer).find(|l| kind(*l) == kind(layer)) {
                layers.push(layers[alike]);
                continue;
            }
            let start = Instant::now();
            let weights = self.layer(layer)?;
            reading += start.elapsed().as_secs_f64();
            bytes += parts.stored_layers[layer];
            let run = |tap: &mut dyn Tap| -> Result<f64, Error> {
                let mut state = states[0].clone();
                state.layer = layer;
                let start = Instant::now();
                weights.run(&mut state, layer..layer + 1, tap, &Interventions::default())?;
                Ok(start.elapsed().as_secs_f64())
            };
            let mut seconds = run(&mut tap(config, batch))?;
            if seconds < SHORT {
                seconds = seconds.min(run(&mut tap(config, batch))?);
                running += run(&mut NoTap)?;
            } else {
                running += seconds;
            }
            met += 2.0 * tokens * config.active_weights_of(layer) as f64;
            layers.push(seconds / tokens);
        }
        let read = bytes as f64 / reading.max(1e-9);
        Ok(Speed { read, layers, operations: met / running.max(1e-9) })
    }
}
