//! Tensors whose values come from somebody who looks at activations.

use crate::plan::Operation;
use crate::{Error, Merge};
use darwin_checkpoint::{
    Dtype, Error as SourceError, TensorId, TensorInfo, TensorPlan, TensorSource,
};
use std::ops::Range;
use std::sync::Arc;

/// An output tensor that is to be solved, and what it is solved from.
#[derive(Clone)]
pub struct Unsolved<'a> {
    /// The output: canonical name, dtype, shape.
    pub info: &'a TensorInfo,
    /// The father's tensor.
    pub father: (Arc<dyn TensorSource>, TensorId),
    /// The mother's.
    pub mother: (Arc<dyn TensorSource>, TensorId),
    /// The dtype that both are rounded to when they are read.
    pub load: Option<Dtype>,
    /// The share of the mother where activations say too little.
    pub anchor: f64,
}

/// The solved values of a merge.
pub(crate) struct Solved {
    source: Arc<dyn TensorSource>,
    /// The tensor there of each line.
    ids: Vec<Option<TensorId>>,
}

impl Merge {
    /// The tensors whose values must be handed over ([`Merge::with_solved`]), in the plan's order.
    #[must_use]
    pub fn unsolved(&self) -> Vec<Unsolved<'_>> {
        let lines = self.plan.lines.iter().filter_map(|line| {
            let Operation::Solved { father, mother, anchor } = line.operation else { return None };
            let of = |source: usize| Arc::clone(&self.sources[source].tensors);
            Some(Unsolved {
                info: &line.info,
                father: (of(father.source), father.id),
                mother: (of(mother.source), mother.id),
                load: line.load,
                anchor,
            })
        });
        lines.collect()
    }

    /// Takes the values of all [`Merge::unsolved`] tensors from a source that has them under the same
    /// names, in the same dtypes and shapes.
    ///
    /// # Errors
    /// [`Error::Plan`] naming the first that is missing or different.
    pub fn with_solved(mut self, source: Arc<dyn TensorSource>) -> Result<Self, Error> {
        let mut ids = Vec::with_capacity(self.plan.lines.len());
        for line in &self.plan.lines {
            let (info, manifest) = (&line.info, source.manifest());
            let found = line.operation.is_solved().then(|| manifest.find(&info.name));
            let fits = |id: TensorId| {
                let solved = manifest.get(id);
                (solved.dtype, &solved.shape) == (info.dtype, &info.shape)
            };
            if found.is_some_and(|id| !id.is_some_and(fits)) {
                let text = format!(
                    "`{}` has no solved tensor `{}` of {} {:?}",
                    source.name(),
                    info.name,
                    info.dtype,
                    info.shape
                );
                return Err(Error::plan(text, "solve it for this plan"));
            }
            ids.push(found.flatten());
        }
        self.solved = Some(Solved { source, ids });
        Ok(self)
    }

    /// Whether no value is missing.
    #[must_use]
    pub fn is_solved(&self) -> bool {
        self.solved.is_some() || !self.plan.lines.iter().any(|line| line.operation.is_solved())
    }

    pub(crate) fn not_solved(&self) -> Error {
        let what = match self.plan.lines.iter().find(|line| line.operation.is_solved()) {
            Some(line) => line.info.name.as_str(),
            None => "nothing",
        };
        Error::plan(
            format!("`{what}` is solved from activations of both parents, and nobody has done so"),
            "give the items that the parents are run on (`darwin merge CONFIG OUT --items FILE`)",
        )
    }

    /// The solved values.
    pub(crate) fn solved(&self, id: TensorId) -> Result<&Solved, SourceError> {
        self.solved.as_ref().ok_or_else(|| SourceError::MissingTensor {
            model: self.name().to_owned(),
            tensor: self.plan.lines[id.index()].info.name.clone(),
        })
    }
}

impl Solved {
    fn of(&self, plan: &TensorPlan) -> TensorPlan {
        TensorPlan { id: self.ids[plan.id.index()].unwrap_or(plan.id), ..plan.clone() }
    }

    pub(crate) fn prepare(&self, id: TensorId) -> Result<TensorPlan, SourceError> {
        let own = self.source.prepare(self.ids[id.index()].unwrap_or(id))?;
        Ok(TensorPlan { id, ..own })
    }

    pub(crate) fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), SourceError> {
        self.source.read_tile(&self.of(plan), rows, out)
    }

    pub(crate) fn read_bytes(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<bool, SourceError> {
        self.source.read_bytes(&self.of(plan), rows, out)
    }
}
