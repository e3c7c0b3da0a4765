//! A source that remembers what was read of it last.

use crate::dtype::Dtype;
use crate::{Error, Manifest, TensorId, TensorPlan, TensorSource};
use half::f16;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// About how many values are kept as one.
const BLOCK_VALUES: usize = 1 << 18;

/// Another source with a memory of a bounded size: what several readers ask for one after another
/// (candidates of a search that are made of the same parents) is read once. What was read first is
/// forgotten first. Raw bytes pass unremembered.
pub struct Memo {
    source: Arc<dyn TensorSource>,
    limit: u64,
    kept: Mutex<Kept>,
    read: AtomicU64,
}

/// Tensor and number of the block.
type Key = (usize, usize);

/// A block: empty until it was read, by whoever asks first.
type Block = Arc<Mutex<Option<Values>>>;

#[derive(Default)]
struct Kept {
    blocks: BTreeMap<Key, Block>,
    /// By age, with their bytes.
    order: VecDeque<(Key, u64)>,
    bytes: u64,
}

/// Values in the narrowest type that holds them exactly.
enum Values {
    Bf16(Vec<u16>),
    F16(Vec<u16>),
    F32(Vec<f32>),
}

impl Values {
    fn of(values: &[f32], dtype: Dtype) -> Self {
        let half = |v: &f32| f16::from_f32(*v);
        if values.iter().all(|v| v.to_bits() & 0xffff == 0) {
            Self::Bf16(values.iter().map(|v| (v.to_bits() >> 16) as u16).collect())
        } else if dtype == Dtype::F16
            && values.iter().all(|v| half(v).to_f32().to_bits() == v.to_bits())
        {
            Self::F16(values.iter().map(|v| half(v).to_bits()).collect())
        } else {
            Self::F32(values.to_vec())
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Bf16(values) | Self::F16(values) => 2 * values.len() as u64,
            Self::F32(values) => 4 * values.len() as u64,
        }
    }

    fn copy(&self, range: Range<usize>, out: &mut [f32]) {
        match self {
            Self::Bf16(values) => {
                let widened = values[range].iter().map(|v| f32::from_bits(u32::from(*v) << 16));
                out.iter_mut().zip(widened).for_each(|(o, v)| *o = v);
            }
            Self::F16(values) => {
                let widened = values[range].iter().map(|v| f16::from_bits(*v).to_f32());
                out.iter_mut().zip(widened).for_each(|(o, v)| *o = v);
            }
            Self::F32(values) => out.copy_from_slice(&values[range]),
        }
    }
}

impl Memo {
    /// Remembers up to so many bytes of a source, beside the blocks that are being read.
    #[must_use]
    pub fn new(source: Arc<dyn TensorSource>, limit: u64) -> Self {
        Self { source, limit, kept: Mutex::default(), read: AtomicU64::new(0) }
    }

    /// Bytes that were read of the source so far, in the dtypes of its manifest.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Blocks are whole or empty whatever happened to a reader.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `f` with a block's values.
    fn block(
        &self,
        plan: &TensorPlan,
        number: usize,
        f: impl FnOnce(&Values),
    ) -> Result<(), Error> {
        let key = (plan.id.index(), number);
        let block = self.kept().blocks.entry(key).or_default().clone();
        let mut values = block.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(values) = &*values {
            f(values);
            return Ok(());
        }
        let step = rows_of_block(plan.cols);
        let rows = number * step..plan.rows.min((number + 1) * step);
        let mut read = vec![0.0; rows.len() * plan.cols];
        self.source.read_tile(plan, rows.clone(), &mut read)?;
        let dtype = self.source.manifest().get(plan.id).dtype;
        self.read.fetch_add((read.len() * dtype.size()) as u64, Ordering::Relaxed);
        let new = Values::of(&read, dtype);
        let bytes = new.bytes();
        f(&new);
        *values = Some(new);
        drop(values);
        self.remember(key, bytes);
        Ok(())
    }

    /// Counts a block in, and the oldest ones out.
    fn remember(&self, key: Key, bytes: u64) {
        let mut kept = self.kept();
        kept.bytes += bytes;
        kept.order.push_back((key, bytes));
        while kept.bytes > self.limit {
            let Some((oldest, bytes)) = kept.order.pop_front() else { break };
            kept.blocks.remove(&oldest);
            kept.bytes -= bytes;
        }
    }
}

fn rows_of_block(cols: usize) -> usize {
    (BLOCK_VALUES / cols.max(1)).max(1)
}

impl TensorSource for Memo {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn manifest(&self) -> &Manifest {
        self.source.manifest()
    }

    fn config(&self) -> &Value {
        self.source.config()
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, Error> {
        self.source.prepare(id)
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let step = rows_of_block(plan.cols);
        let mut at = rows.start;
        while at < rows.end {
            let (number, first) = (at / step, at / step * step);
            let end = rows.end.min(first + step);
            let out = &mut out[(at - rows.start) * plan.cols..(end - rows.start) * plan.cols];
            let inside = (at - first) * plan.cols..(end - first) * plan.cols;
            self.block(plan, number, |values| values.copy(inside, out))?;
            at = end;
        }
        Ok(())
    }

    /// Bytes are not memorised, but they do not cost the way by values either.
    fn read_bytes(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<bool, Error> {
        self.source.read_bytes(plan, rows, out)
    }

    fn read_raw(&self, id: TensorId, rows: Range<usize>, out: &mut Vec<u8>) -> Result<bool, Error> {
        self.source.read_raw(id, rows, out)
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        self.source.check_unchanged()
    }
}
