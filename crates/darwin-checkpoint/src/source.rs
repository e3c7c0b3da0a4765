//! The tensor source: the one shape in which weights are handed around.

use crate::{Dtype, Error, Manifest, TensorId, TensorInfo};
use std::ops::Range;
use std::sync::Arc;

/// What a method's statistics are taken over; explicit in every plan, never implied by the
/// storage layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// The whole (fused) tensor.
    #[default]
    Tensor,
    /// Each routed expert for itself.
    Expert,
}

impl Unit {
    /// The name used in recipes and manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Expert => "expert",
        }
    }
}

/// What [`TensorSource::prepare`] computed about a tensor: norms, angles, thresholds. Small;
/// computed once, cached by the source if expensive.
#[derive(Clone, Debug)]
pub struct TensorPlan {
    /// The tensor.
    pub id: TensorId,
    /// Rows of the tensor seen as a matrix.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// The output dtype: what tiles are rounded to.
    pub dtype: Dtype,
    /// The unit of the statistics.
    pub unit: Unit,
    /// Rows per unit (`rows` for [`Unit::Tensor`]).
    pub rows_per_unit: usize,
    /// The source's own numbers, per unit; meaningless to anybody else.
    pub statistics: Arc<[f64]>,
}

impl TensorPlan {
    /// The plan of a tensor that needs no statistics: one unit, the dtype it is stored in.
    #[must_use]
    pub fn whole(id: TensorId, info: &TensorInfo) -> Self {
        Self {
            id,
            rows: info.rows(),
            cols: info.cols(),
            dtype: info.dtype,
            unit: Unit::Tensor,
            rows_per_unit: info.rows(),
            statistics: Arc::from([]),
        }
    }
}

/// Anything that weights can be read from: a checkpoint, a merge that nobody has written yet, a
/// child under evaluation. Reading is in two phases: `prepare` once, then tiles in any order from
/// any thread.
pub trait TensorSource: Send + Sync {
    /// A name for messages: the folder, or the recipe.
    fn name(&self) -> &str;

    /// The logical tensors.
    fn manifest(&self) -> &Manifest;

    /// The raw `config.json`.
    fn config(&self) -> &serde_json::Value;

    /// The pass over a tensor for what needs the whole unit.
    ///
    /// # Errors
    /// Whatever reading the inputs can bring.
    fn prepare(&self, id: TensorId) -> Result<TensorPlan, Error>;

    /// Fills `out` (`rows.len() * plan.cols` values) with rows of a mergeable tensor, rounded to
    /// `plan.dtype`.
    ///
    /// # Errors
    /// Whatever reading the inputs can bring.
    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error>;

    /// Fills `out` with the same rows as little-endian bytes of `plan.dtype`, where a source can do
    /// so at less cost than by way of values. False, whatever `out` holds then, where it cannot, or
    /// where a computed number is not finite: [`Self::read_tile`] gives the values or says what is
    /// wrong. Stored numbers are not looked at.
    ///
    /// # Errors
    /// Whatever reading the inputs can bring.
    fn read_bytes(
        &self,
        _plan: &TensorPlan,
        _rows: Range<usize>,
        _out: &mut [u8],
    ) -> Result<bool, Error> {
        Ok(false)
    }

    /// The stored bytes of rows of a tensor that passes through unchanged, appended to `out`;
    /// false where the tensor is computed. Always works for dtypes that are not mergeable.
    ///
    /// # Errors
    /// Whatever reading the inputs can bring.
    fn read_raw(&self, id: TensorId, rows: Range<usize>, out: &mut Vec<u8>) -> Result<bool, Error>;

    /// Whether the files that it reads are still those that were opened.
    ///
    /// # Errors
    /// [`Error::Changed`] naming the first that is not.
    fn check_unchanged(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A whole tensor, rounded to its output dtype.
///
/// # Errors
/// Whatever reading the source can bring.
pub fn read_tensor(source: &dyn TensorSource, id: TensorId) -> Result<Vec<f32>, Error> {
    let plan = source.prepare(id)?;
    let mut out = vec![0.0; plan.rows * plan.cols];
    source.read_tile(&plan, 0..plan.rows, &mut out)?;
    Ok(out)
}
