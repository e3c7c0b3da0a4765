//! Both parents through their layers in step, each layer solved on the way.

use crate::balance::Balance;
use crate::store::{Counts, LayerFile, Solving};
use crate::{Error, SolvedTensors};
use darwin_checkpoint::{TensorPlan, TensorSource};
use darwin_core::{Cancel, Progress};
use darwin_engine::grams::{GramSweep, LayerInputs, RoutedInputs};
use darwin_engine::{LayerSource, Room, ScoreItem, each_layer};
use darwin_merge::{Merge, RegMean, Unsolved};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// Values of rows that a thread solves together.
const TILE: usize = 1 << 17;

/// A parent and what it is run on.
pub struct Side<'a> {
    /// Its layers.
    pub model: &'a dyn LayerSource,
    /// Items of its own domains.
    pub items: &'a [ScoreItem],
}

/// How solving is done.
pub struct Options<'a> {
    /// What is kept in memory of both parents' hidden states.
    pub room: &'a Room,
    /// A folder for solved layers; what an interrupted run left there is used again. In memory
    /// without.
    pub folder: Option<&'a Path>,
    /// Told tokens times layers.
    pub progress: &'a dyn Progress,
    /// Asked between groups of tokens and between maps.
    pub cancel: &'a Cancel,
}

/// Solves all unsolved tensors of a merge. The same bits whatever the number of threads, and whether
/// parents are loaded or streamed.
///
/// # Errors
/// [`Error::Unfit`] where parents are of different shapes, or a tensor is not one that activations
/// lead to; whatever running them and reading their weights brings; [`Error::Cancelled`]. What is
/// solved in a folder stays there.
pub fn solve(
    merge: &Merge,
    settings: &RegMean,
    sides: [Side<'_>; 2],
    options: &Options<'_>,
) -> Result<SolvedTensors, Error> {
    let unsolved = merge.unsolved();
    let mut layers: BTreeMap<usize, Vec<&Unsolved<'_>>> = BTreeMap::new();
    for tensor in &unsolved {
        layers
            .entry(tensor.info.layer.map_or(usize::MAX, |layer| layer.0))
            .or_default()
            .push(tensor);
    }
    let models = [sides[0].model, sides[1].model];
    let (father, mother) = (models[0].config(), models[1].config());
    if father.num_hidden_layers != mother.num_hidden_layers
        || father.hidden_size != mother.hidden_size
    {
        let text = "the parents are of different sizes";
        return Err(Error::unfit(text, "merge models of one architecture and size"));
    }
    let count = father.num_hidden_layers;
    if let Some(tensor) = layers.range(count..).flat_map(|(_, tensors)| tensors).next() {
        return Err(not_reached(tensor));
    }
    let items = sides.each_ref().map(|side| side.items);
    let mut store = Solving::new(merge, settings, items, options)?;
    layers.retain(|layer, tensors| !store.find(*layer, tensors));
    let Some(last) = layers.keys().next_back().copied() else { return Ok(store.finish()) };
    let mut of_father = GramSweep::begin(models[0], items[0], options.room)?;
    let mut of_mother = GramSweep::begin(models[1], items[1], options.room)?;
    let tokens = of_father.tokens() + of_mother.tokens();
    let (progress, cancel) = (options.progress, options.cancel);
    progress.start("solve", tokens * (last + 1) as u64, "tokens");
    each_layer(&models, options.room.prefetch, |layer, weights| {
        if layer > last {
            return Ok(());
        }
        progress.note(&format!("layer {} of {count}", layer + 1));
        let Some(tensors) = layers.remove(&layer) else {
            of_father.pass(&weights[0], progress, cancel).map_err(stopped)?;
            return of_mother.pass(&weights[1], progress, cancel).map_err(stopped);
        };
        let inputs = [
            of_father.collect(&weights[0], progress, cancel).map_err(stopped)?,
            of_mother.collect(&weights[1], progress, cancel).map_err(stopped)?,
        ];
        let task = Task { settings, cancel, tensors: &tensors };
        store.put(layer, task.solve(&inputs)?)
    })?;
    progress.finish();
    Ok(store.finish())
}

fn stopped(error: darwin_engine::Error) -> Error {
    match error {
        darwin_engine::Error::Cancelled => Error::Cancelled,
        error => error.into(),
    }
}

fn not_reached(tensor: &Unsolved<'_>) -> Error {
    let text = format!("no activations lead to `{}`", tensor.info.name);
    Error::unfit(text, "copy it from a parent: `darwin: {copy: [{filter: NAME, from: father}]}`")
}

/// The tensors of a layer.
struct Task<'a> {
    settings: &'a RegMean,
    cancel: &'a Cancel,
    tensors: &'a [&'a Unsolved<'a>],
}

/// Both parents' plans of a tensor, and room for its bytes.
fn prepared(tensor: &Unsolved<'_>) -> Result<([TensorPlan; 2], Vec<u8>), Error> {
    let (info, [father, mother]) = (tensor.info, [&tensor.father, &tensor.mother]);
    let plans = [father.0.prepare(father.1)?, mother.0.prepare(mother.1)?];
    Ok((plans, vec![0; info.elements() * info.dtype.size()]))
}

/// Rows of a tensor from a balance of the parents, or from the anchor without.
fn fill(
    (tensor, plans): (&Unsolved<'_>, &[TensorPlan; 2]),
    rows: &Range<usize>,
    balance: Option<&Balance>,
    bytes: &mut [u8],
) -> Result<(), Error> {
    let read = |source: &dyn TensorSource, plan: &TensorPlan| {
        let mut values = vec![0.0; rows.len() * plan.cols];
        source.read_tile(plan, rows.clone(), &mut values)?;
        if let Some(dtype) = tensor.load {
            dtype.round(&mut values);
        }
        Ok::<_, Error>(values)
    };
    let father = read(&*tensor.father.0, &plans[0])?;
    let mother = read(&*tensor.mother.0, &plans[1])?;
    let mut out = vec![0.0; father.len()];
    match balance {
        Some(balance) => balance.solve(&father, &mother, &mut out),
        None => {
            for ((out, f), m) in out.iter_mut().zip(&father).zip(&mother) {
                let (f, m) = (f64::from(*f), f64::from(*m));
                *out = (f + tensor.anchor * (m - f)) as f32;
            }
        }
    }
    if !tensor.info.dtype.encode(&out, bytes) {
        let text = format!("`{}` is solved to values that are not finite", tensor.info.name);
        return Err(Error::unfit(text, "use a larger `ridge`, or a wider `dtype`"));
    }
    Ok(())
}

impl Task<'_> {
    fn solve(&self, inputs: &[LayerInputs; 2]) -> Result<LayerFile, Error> {
        let [father, mother] = inputs;
        let (mut done, mut counts) = (vec![None; self.tensors.len()], Counts::default());
        for (of_father, of_mother) in father.maps.iter().zip(&mother.maps) {
            let wanted: Vec<usize> =
                of_father.tensors.iter().filter_map(|name| self.position(name)).collect();
            if wanted.is_empty() {
                continue;
            }
            let balance = Balance::new(&of_father.gram, &of_mother.gram, self.settings);
            for i in wanted {
                done[i] = Some(self.map(self.tensors[i], balance.as_ref())?);
                counts.add(balance.is_some());
            }
        }
        if let (Some(father), Some(mother)) = (&father.routed, &mother.routed) {
            for (which, name) in father.tensors().iter().enumerate() {
                if let Some(i) = self.position(name) {
                    let (bytes, own) = self.experts(self.tensors[i], which, father, mother)?;
                    done[i] = Some(bytes);
                    counts.join(own);
                }
            }
        }
        let mut tensors = Vec::with_capacity(done.len());
        for (tensor, bytes) in self.tensors.iter().zip(done) {
            tensors.push(bytes.ok_or_else(|| not_reached(tensor))?);
        }
        Ok(LayerFile { tensors, counts })
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.tensors.iter().position(|tensor| tensor.info.name == name)
    }

    fn go_on(&self) -> Result<(), Error> {
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// A map that all tokens go through.
    fn map(&self, tensor: &Unsolved<'_>, balance: Option<&Balance>) -> Result<Vec<u8>, Error> {
        let (plans, mut bytes) = prepared(tensor)?;
        let (rows, size) = (tensor.info.rows(), tensor.info.cols() * tensor.info.dtype.size());
        let step = (TILE / tensor.info.cols().max(1)).max(1);
        bytes.par_chunks_mut(step * size).enumerate().try_for_each(|(i, bytes)| {
            self.go_on()?;
            let rows = i * step..rows.min((i + 1) * step);
            fill((tensor, &plans), &rows, balance, bytes)
        })?;
        Ok(bytes)
    }

    /// The first maps of all experts (`which` is 0) or the last, each by its own tokens.
    fn experts(
        &self,
        tensor: &Unsolved<'_>,
        which: usize,
        father: &RoutedInputs,
        mother: &RoutedInputs,
    ) -> Result<(Vec<u8>, Counts), Error> {
        let (plans, mut bytes) = prepared(tensor)?;
        let experts = tensor.info.experts().unwrap_or(1).max(1);
        if (father.experts(), mother.experts()) != (experts, experts) {
            return Err(not_reached(tensor));
        }
        let (rows, cols) = (tensor.info.rows() / experts, tensor.info.cols());
        let of = |inputs: &RoutedInputs, expert: usize| match which {
            0 => inputs.gate_up(expert),
            _ => inputs.down(expert),
        };
        let size = rows * cols * tensor.info.dtype.size();
        let solved = bytes.par_chunks_mut(size).enumerate().map(|(expert, bytes)| {
            self.go_on()?;
            let enough = [father, mother].iter().all(|inputs| inputs.tokens(expert) >= cols);
            let balance = enough
                .then(|| Balance::new(&of(father, expert), &of(mother, expert), self.settings));
            let balance = balance.flatten();
            let step = (TILE / cols.max(1)).max(1);
            let parts = bytes.chunks_mut(step * cols * tensor.info.dtype.size());
            for (i, bytes) in parts.enumerate() {
                let own = i * step..rows.min((i + 1) * step);
                let own = expert * rows + own.start..expert * rows + own.end;
                fill((tensor, &plans), &own, balance.as_ref(), bytes)?;
            }
            Ok::<_, Error>(Counts::one(balance.is_some()))
        });
        let counts = solved.try_reduce(Counts::default, |a, b| Ok(a.and(b)))?;
        Ok((bytes, counts))
    }
}
