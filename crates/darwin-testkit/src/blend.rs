//! Children of two models, layer by layer between them.

use darwin_checkpoint::{Error, Manifest, TensorId, TensorPlan, TensorSource};
use serde_json::Value;
use std::ops::Range;
use std::sync::Arc;

/// A child of two models of one manifest: father + share (mother - father), each layer with a share
/// of its own, as bfloat16 where it lies between; what belongs to no layer is the father's.
pub struct Blend {
    father: Arc<dyn TensorSource>,
    mother: Arc<dyn TensorSource>,
    shares: Vec<f32>,
}

impl Blend {
    /// A child.
    #[must_use]
    pub fn new(
        father: Arc<dyn TensorSource>,
        mother: Arc<dyn TensorSource>,
        shares: Vec<f32>,
    ) -> Self {
        Self { father, mother, shares }
    }
}

impl TensorSource for Blend {
    fn name(&self) -> &str {
        "a blend"
    }

    fn manifest(&self) -> &Manifest {
        self.father.manifest()
    }

    fn config(&self) -> &Value {
        self.father.config()
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, Error> {
        self.father.prepare(id)
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let layer = self.manifest().get(plan.id).layer;
        let share = layer.and_then(|layer| self.shares.get(layer.0)).copied().unwrap_or(0.0);
        if share == 1.0 {
            return self.mother.read_tile(plan, rows, out);
        }
        self.father.read_tile(plan, rows.clone(), out)?;
        if share == 0.0 {
            return Ok(());
        }
        let mut mother = vec![0.0; out.len()];
        self.mother.read_tile(plan, rows, &mut mother)?;
        for (value, mother) in out.iter_mut().zip(mother) {
            let between = *value + share * (mother - *value);
            *value = f32::from_bits(between.to_bits() & 0xffff_0000);
        }
        Ok(())
    }

    fn read_raw(&self, _: TensorId, _: Range<usize>, _: &mut Vec<u8>) -> Result<bool, Error> {
        Ok(false)
    }
}
