//! From a tensor source to packed weights: names and shapes are checked before values are read.

use crate::kernels::{Form, Matrix, Pool};
use crate::{Config, Error};
use darwin_checkpoint::{Dtype, Problem, TensorId, TensorPlan, TensorSource, read_tensor};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// A tensor that a family needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

impl Expected {
    /// Expected tensors under a common prefix.
    pub(crate) fn list<'n>(
        prefix: &str,
        shapes: impl IntoIterator<Item = (&'n str, Vec<usize>)>,
    ) -> Vec<Self> {
        let one = |(name, shape)| Self { name: format!("{prefix}{name}"), shape };
        shapes.into_iter().map(one).collect()
    }
}

/// Checks that the source holds every expected tensor in its shape; all problems at once.
pub(crate) fn check_tensors(source: &dyn TensorSource, expected: &[Expected]) -> Result<(), Error> {
    let manifest = source.manifest();
    let mut problems = Vec::new();
    for Expected { name, shape } in expected {
        let model = source.name();
        match manifest.find(name).map(|id| manifest.get(id)) {
            None => problems.push(Problem::new(
                format!("{model}: tensor `{name}` is missing, needed in shape {shape:?}"),
                "check that the model is complete (`darwin inspect`)",
            )),
            Some(info) if info.shape != *shape => problems.push(Problem::new(
                format!(
                    "{model}: tensor `{name}` has shape {:?}, config.json asks for {shape:?}",
                    info.shape
                ),
                "config.json and weights are of different models: download both again",
            )),
            Some(info) if !info.dtype.is_mergeable() => problems.push(Problem::new(
                format!("{model}: tensor `{name}` is {}", info.dtype),
                "only float32, float16 and bfloat16 weights can be run",
            )),
            Some(_) => {}
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Model(problems)) }
}

/// Reads weights.
pub(crate) struct Loader<'a> {
    source: &'a dyn TensorSource,
    /// Where memory of matrices comes from.
    pool: Option<Arc<Pool>>,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(source: &'a dyn TensorSource) -> Self {
        Self { source, pool: None }
    }

    /// The loader with memory from a pool.
    pub(crate) fn pooled(self, pool: Arc<Pool>) -> Self {
        Self { pool: Some(pool), ..self }
    }

    /// A vector; `map` puts the stored values into the form that is computed with.
    pub(crate) fn vector(
        &self,
        name: &str,
        map: impl Fn(Vec<f32>) -> Vec<f32>,
    ) -> Result<Arc<[f32]>, Error> {
        Ok(map(read_tensor(self.source, self.find(name)?)?).into())
    }

    /// The scale of a norm.
    pub(crate) fn norm(&self, config: &Config, name: &str) -> Result<Arc<[f32]>, Error> {
        let offset = if config.centred_norms { 1.0 } else { 0.0 };
        let scale = |weight: Vec<f32>| weight.into_iter().map(|w| offset + w).collect();
        self.vector(&format!("{name}.weight"), scale)
    }

    /// Chosen rows of a weight (out, in), packed.
    pub(crate) fn rows(
        &self,
        name: &str,
        rows: impl Iterator<Item = usize>,
    ) -> Result<Matrix, Error> {
        let mut part = Rows::default();
        let plan = part.plan(self.source, self.find(name)?)?;
        rows.for_each(|row| part.push(plan, row..row + 1));
        self.pack(&part)
    }

    /// Chosen rows of weights (out, in) of the same input, packed as one.
    pub(crate) fn chosen(&self, parts: &[(&str, Vec<usize>)]) -> Result<Matrix, Error> {
        let mut all = Rows::default();
        for (name, rows) in parts {
            let plan = all.plan(self.source, self.find(name)?)?;
            rows.iter().for_each(|row| all.push(plan, *row..row + 1));
        }
        self.pack(&all)
    }

    /// A weight (out, in), packed.
    pub(crate) fn matrix(&self, name: &str) -> Result<Matrix, Error> {
        self.stacked(&[name])
    }

    /// Weights (out, in) of the same input, packed as one whose outputs follow one another.
    pub(crate) fn stacked(&self, names: &[&str]) -> Result<Matrix, Error> {
        let mut part = Rows::default();
        for name in names {
            let plan = part.plan(self.source, self.find(name)?)?;
            part.push(plan, 0..part.plans[plan].rows);
        }
        self.pack(&part)
    }

    /// Some consecutive outputs of a weight (out, in), packed.
    pub(crate) fn band(&self, name: &str, rows: Range<usize>) -> Result<Matrix, Error> {
        let mut part = Rows::default();
        let plan = part.plan(self.source, self.find(name)?)?;
        part.push(plan, rows);
        self.pack(&part)
    }

    /// A fused weight (experts, out, in), each expert packed for itself.
    pub(crate) fn experts(&self, name: &str) -> Result<Arc<[Matrix]>, Error> {
        let id = self.find(name)?;
        let info = self.source.manifest().get(id);
        let (experts, rows) = (info.shape[0], info.rows() / info.shape[0]);
        let mut whole = Rows::default();
        let plan = whole.plan(self.source, id)?;
        let pack = |expert: usize| {
            let mut part = Rows { plans: whole.plans.clone(), ..Rows::default() };
            part.push(plan, expert * rows..(expert + 1) * rows);
            self.pack(&part)
        };
        let packed: Vec<Matrix> =
            (0..experts).into_par_iter().map(pack).collect::<Result<_, _>>()?;
        Ok(packed.into())
    }

    /// Rows as an (out, in) weight.
    fn pack(&self, part: &Rows) -> Result<Matrix, Error> {
        let read = |rows, out: &mut [f32]| part.read(self.source, rows, out);
        Matrix::read(part.rows, part.cols(), part.form(), self.pool.as_ref(), read)
    }

    fn find(&self, name: &str) -> Result<TensorId, Error> {
        self.source.manifest().find(name).ok_or_else(|| {
            Error::Weights(darwin_checkpoint::Error::MissingTensor {
                model: self.source.name().to_owned(),
                tensor: name.to_owned(),
            })
        })
    }
}

/// The form that weights of a type have at most.
pub(crate) fn form_of(dtype: Dtype) -> Form {
    match dtype {
        Dtype::Bf16 => Form::Bf16,
        Dtype::F16 => Form::F16,
        _ => Form::F32,
    }
}

/// Rows of one tensor or more, one after another.
#[derive(Debug, Default)]
struct Rows {
    plans: Vec<TensorPlan>,
    /// First row here, plan, rows there; by first row.
    runs: Vec<(usize, usize, Range<usize>)>,
    rows: usize,
}

impl Rows {
    /// Makes a tensor known.
    fn plan(&mut self, source: &dyn TensorSource, id: TensorId) -> Result<usize, Error> {
        self.plans.push(source.prepare(id)?);
        Ok(self.plans.len() - 1)
    }

    /// Goes on with rows of a plan.
    fn push(&mut self, plan: usize, rows: Range<usize>) {
        let first = self.rows;
        self.rows += rows.len();
        match self.runs.last_mut() {
            Some((_, of, last)) if *of == plan && last.end == rows.start => last.end = rows.end,
            _ => self.runs.push((first, plan, rows)),
        }
    }

    fn cols(&self) -> usize {
        self.plans.first().map_or(0, |plan| plan.cols)
    }

    /// The form that will do for all.
    fn form(&self) -> Form {
        let first = self.plans.first().map_or(Form::F32, |plan| form_of(plan.dtype));
        if self.plans.iter().all(|p| form_of(p.dtype) == first) { first } else { Form::F32 }
    }

    fn read(
        &self,
        source: &dyn TensorSource,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let mut rest = out;
        let from = self.runs.partition_point(|(first, _, run)| first + run.len() <= rows.start);
        for (first, plan, run) in &self.runs[from..] {
            let (start, end) = (rows.start.max(*first), rows.end.min(first + run.len()));
            if start >= end {
                break;
            }
            let plan = &self.plans[*plan];
            let (now, later) = rest.split_at_mut((end - start) * plan.cols);
            let there = run.start + start - first..run.start + end - first;
            source.read_tile(plan, there, now)?;
            rest = later;
        }
        Ok(())
    }
}
