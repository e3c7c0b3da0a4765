//! Where products with weights are computed: the seam behind which accelerators stand.
//!
//! Everything runs on the CPU by this crate's kernels. With the features `cuda` or `metal` the
//! weights of a model can lie on an accelerator as well ([`Model::load_on`](crate::Model::load_on)),
//! and products of many rows are computed there, in float32 arithmetic, through candle; few rows,
//! and everything between products, stay on the CPU. An accelerator adds up in its own order, so
//! the guarantee that every bit is independent of batches holds on the CPU alone. A product that
//! the accelerator fails at is computed on the CPU.

use crate::Error;

/// A place for products with weights.
#[derive(Clone, Debug, Default)]
pub struct Device {
    #[cfg(feature = "accelerator")]
    accelerator: Option<accelerator::Accelerator>,
}

impl Device {
    /// The device of a name: `cpu`, `cuda`, `cuda:1`, `metal`, `candle-cpu` (candle's own CPU
    /// device, for comparisons). Which of them exist depends on how the program was built.
    ///
    /// # Errors
    /// [`Error::Device`] where this build or this machine has no such device.
    pub fn open(name: &str) -> Result<Self, Error> {
        match name {
            "cpu" => Ok(Self::default()),
            _ => Self::open_accelerator(name),
        }
    }

    #[cfg(not(feature = "accelerator"))]
    fn open_accelerator(name: &str) -> Result<Self, Error> {
        Err(Error::Device {
            name: name.to_owned(),
            reason: "this build runs on the CPU alone (`cpu`)".to_owned(),
        })
    }

    #[cfg(feature = "accelerator")]
    fn open_accelerator(name: &str) -> Result<Self, Error> {
        let accelerator = accelerator::Accelerator::open(name)
            .map_err(|reason| Error::Device { name: name.to_owned(), reason })?;
        Ok(Self { accelerator: Some(accelerator) })
    }

    /// Products computed on the accelerator so far, and those it failed at.
    #[must_use]
    pub fn products(&self) -> (u64, u64) {
        #[cfg(feature = "accelerator")]
        if let Some(accelerator) = &self.accelerator {
            return accelerator.products();
        }
        (0, 0)
    }

    /// Whether products are computed on the CPU alone.
    pub(crate) fn is_cpu(&self) -> bool {
        #[cfg(feature = "accelerator")]
        return self.accelerator.is_none();
        #[cfg(not(feature = "accelerator"))]
        true
    }

    /// Puts a row-major (out, in) weight on the accelerator, where there is one.
    #[cfg(feature = "accelerator")]
    pub(crate) fn weight(
        &self,
        values: &[f32],
        narrow: bool,
        columns: usize,
        depth: usize,
    ) -> Result<Option<accelerator::Weight>, Error> {
        let Some(accelerator) = &self.accelerator else { return Ok(None) };
        let weight = accelerator
            .weight(values, narrow, columns, depth)
            .map_err(|reason| Error::Device { name: accelerator.name().to_owned(), reason })?;
        Ok(Some(weight))
    }
}

#[cfg(feature = "accelerator")]
pub(crate) mod accelerator {
    //! Products through candle.

    use candle_core::{DType, Device, Result, Tensor};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Fewer rows than this are not worth the way to the accelerator and back.
    const MIN_ROWS: usize = 32;

    #[derive(Debug, Default)]
    struct Counts {
        done: AtomicU64,
        failed: AtomicU64,
    }

    /// An open device.
    #[derive(Clone, Debug)]
    pub(crate) struct Accelerator {
        name: String,
        device: Device,
        counts: Arc<Counts>,
    }

    /// A weight (out, in) on a device.
    #[derive(Clone, Debug)]
    pub(crate) struct Weight {
        /// (in, out), bfloat16 where no value needs more
        tensor: Tensor,
        counts: Arc<Counts>,
    }

    impl Accelerator {
        pub(super) fn open(name: &str) -> std::result::Result<Self, String> {
            let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
            let index: usize =
                index.parse().map_err(|_| format!("`{index}` is not the number of a device"))?;
            let device = match kind {
                "candle-cpu" => Ok(Device::Cpu),
                "cuda" => Device::new_cuda(index),
                "metal" => Device::new_metal(index),
                _ => return Err("known are cpu, cuda, cuda:1, metal".to_owned()),
            };
            let device = device.map_err(|e| e.to_string())?;
            Ok(Self { name: name.to_owned(), device, counts: Arc::default() })
        }

        pub(super) fn name(&self) -> &str {
            &self.name
        }

        pub(super) fn products(&self) -> (u64, u64) {
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            (read(&self.counts.done), read(&self.counts.failed))
        }

        pub(super) fn weight(
            &self,
            values: &[f32],
            narrow: bool,
            columns: usize,
            depth: usize,
        ) -> std::result::Result<Weight, String> {
            let place = || {
                let tensor = Tensor::from_slice(values, (columns, depth), &Device::Cpu)?.t()?;
                let dtype = if narrow { DType::BF16 } else { DType::F32 };
                tensor.contiguous()?.to_dtype(dtype)?.to_device(&self.device)
            };
            let tensor = place().map_err(|e| e.to_string())?;
            Ok(Weight { tensor, counts: self.counts.clone() })
        }
    }

    impl Weight {
        /// `out[m, n] = sum_k x[m, k] w[n, k]` of rows of `x` (stride `x_row`) into rows of `out`
        /// (stride `out_row`); false where that shall be, or must be, done on the CPU.
        pub(crate) fn multiply(
            &self,
            rows: impl ExactSizeIterator<Item = usize>,
            x: &[f32],
            x_row: usize,
            out: &mut [f32],
            out_row: usize,
        ) -> bool {
            let n = rows.len();
            let Ok((depth, columns)) = self.tensor.dims2() else { return false };
            if n < MIN_ROWS || depth == 0 {
                return false;
            }
            let mut gathered = Vec::with_capacity(n * depth);
            rows.for_each(|row| gathered.extend_from_slice(&x[row * x_row..][..depth]));
            match self.product(gathered, n, depth) {
                Ok(values) => {
                    for (to, from) in out.chunks_mut(out_row).zip(values.chunks_exact(columns)) {
                        to[..columns].copy_from_slice(from);
                    }
                    self.counts.done.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(_) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    false
                }
            }
        }

        fn product(&self, x: Vec<f32>, rows: usize, depth: usize) -> Result<Vec<f32>> {
            let x = Tensor::from_vec(x, (rows, depth), self.tensor.device())?;
            let weight = self.tensor.to_dtype(DType::F32)?;
            x.matmul(&weight)?.flatten_all()?.to_vec1()
        }
    }
}
