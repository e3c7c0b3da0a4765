//! A LoRA adapter from a fine-tune and its base: the truncated singular value decomposition of
//! every difference (as `mergekit-extract-lora` does).

mod file;
mod plan;
mod svd;

use crate::Error;
use darwin_checkpoint::{Checkpoint, Dtype, TensorId, TensorSource};
use darwin_core::fs::{AtomicDir, write_atomic, write_json};
use darwin_core::{Cancel, Progress};
use file::{AdapterFile, Targets};
use plan::{Item, Kind, Plan, plan};
use std::io;
use std::ops::Range;
use std::path::Path;
use svd::{Matrix, Truncated, residual, truncated};

/// Values that are read at a time.
const TILE: usize = 1 << 20;

/// What an adapter is extracted by.
pub struct ExtractOptions<'a> {
    /// The largest rank of a tensor.
    pub max_rank: usize,
    /// Singular values must be larger than this.
    pub epsilon: f64,
    /// Regular expressions for names of tensors: only these, where there are any.
    pub include: Vec<String>,
    /// Not these.
    pub exclude: Vec<String>,
    /// The modules of these are kept whole.
    pub save_modules: Vec<String>,
    /// Decomposes embeddings, too, which are kept whole otherwise.
    pub embed_lora: bool,
    /// Told the tensors that are done.
    pub progress: &'a dyn Progress,
    /// Asked between matrices.
    pub cancel: &'a Cancel,
}

/// What became of a tensor that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Extracted {
    /// The tensor's name in the base's files.
    pub tensor: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// The rank of B A; 0 where no singular value is large enough, `None` where the tensor is kept
    /// whole or cannot be represented.
    pub rank: Option<usize>,
    /// What is left of the difference: ||D - B A|| / ||D||, Frobenius norms; 0 for a whole tensor,
    /// 1 for one that is not represented.
    pub error: f64,
    /// ||D||^2.
    pub squared_norm: f64,
}

/// The result of [`extract_lora`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extraction {
    /// The tensors that differ, in the order of the adapter's file.
    pub tensors: Vec<Extracted>,
    /// Tensors that are equal in both.
    pub equal: usize,
    /// Tensors that the filters leave out.
    pub left_out: usize,
    /// Those that differ and are neither matrices nor kept whole.
    pub lost: Vec<String>,
    /// Tensors of multi-token prediction and vision that the base alone has: the adapter leaves
    /// them as they are.
    pub missing: Vec<String>,
    /// Bytes of the adapter.
    pub bytes: u64,
}

impl Extraction {
    /// The sum of all squared differences.
    #[must_use]
    pub fn squared_norm(&self) -> f64 {
        self.tensors.iter().map(|t| t.squared_norm).sum()
    }

    /// What is left of all differences together, as [`Extracted::error`].
    #[must_use]
    pub fn error(&self) -> f64 {
        let rest: f64 = self.tensors.iter().map(|t| t.error * t.error * t.squared_norm).sum();
        let all = self.squared_norm();
        if all > 0.0 { (rest / all).sqrt() } else { 0.0 }
    }
}

/// Writes the adapter that turns `base` into `finetuned`, as PEFT reads it: F32 factors, alpha the
/// rank. Fused experts become `target_parameters` in the orientation of PEFT 0.19.1 and newer.
///
/// In memory are one matrix of differences (one expert of a fused tensor) and, for the largest
/// tensor, its factors and about `4 (rows + cols) (rank + 10)` numbers of 8 bytes.
///
/// # Errors
/// [`Error::Plan`] where the models do not fit or an option is wrong; whatever reading and writing
/// brings. Nothing is left under the final name then.
pub fn extract_lora(
    finetuned: &Checkpoint,
    base: &Checkpoint,
    out: &Path,
    options: &ExtractOptions<'_>,
) -> Result<Extraction, Error> {
    let Plan { items, left_out, missing } = plan(base, finetuned, options)?;
    let failed = |e| Error::from(io_error("create", out, e));
    let dir = AtomicDir::create(out).map_err(failed)?;
    let weights = dir.path().join("adapter_model.safetensors");
    let names = items.iter().map(|item| item.name.as_str());
    let file = AdapterFile::create(&weights, names).map_err(failed)?;
    let mut work = Work {
        base,
        finetuned,
        options,
        file,
        weights: &weights,
        targets: Targets::default(),
        result: Extraction { left_out, missing, ..Extraction::default() },
    };
    options.progress.start("extract", items.len() as u64, "tensors");
    for item in &items {
        work.item(item)?;
        options.progress.advance(1);
    }
    options.progress.finish();
    let Work { file, targets, mut result, .. } = work;
    if targets.ranks.is_empty() && targets.saved.is_empty() {
        return Err(Error::plan(
            format!("no tensor of {} is left to make an adapter of", finetuned.name()),
            "the models are equal, or the filters and the smallest singular value leave nothing",
        ));
    }
    let io = |e| Error::from(io_error("write", out, e));
    file.finish().map_err(io)?;
    let config = targets.config(&base.folder().display().to_string());
    write_json(&dir.path().join("adapter_config.json"), &config).map_err(io)?;
    let readme = readme(finetuned, base, &result);
    write_atomic(&dir.path().join("README.md"), readme.as_bytes()).map_err(io)?;
    result.bytes = std::fs::metadata(&weights).map_err(io)?.len();
    finetuned.check_unchanged()?;
    base.check_unchanged()?;
    dir.commit().map_err(io)?;
    Ok(result)
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> darwin_checkpoint::Error {
    darwin_checkpoint::Error::Io { doing, path: path.to_owned(), source }
}

fn readme(finetuned: &Checkpoint, base: &Checkpoint, result: &Extraction) -> String {
    let name = |model: &Checkpoint| {
        let folder = model.folder().file_name().unwrap_or_default();
        folder.to_string_lossy().into_owned()
    };
    format!(
        "---\nlibrary_name: peft\ntags:\n- lora\n---\n\n# {0} as an adapter of {1}\n\n\
         A LoRA adapter that turns `{1}` into `{0}`, extracted by `darwin extract-lora` from the \
         difference of their weights (truncated singular value decomposition).\n\n\
         - tensors changed: {2}\n- relative error of the difference: {3:.3e}\n\
         - needs PEFT 0.19.1 or newer where experts are fused (`target_parameters`)\n",
        name(finetuned),
        name(base),
        result.tensors.len() - result.lost.len(),
        result.error(),
    )
}

struct Work<'a> {
    base: &'a Checkpoint,
    finetuned: &'a Checkpoint,
    options: &'a ExtractOptions<'a>,
    file: AdapterFile,
    weights: &'a Path,
    targets: Targets,
    result: Extraction,
}

impl Work<'_> {
    fn item(&mut self, item: &Item) -> Result<(), Error> {
        match &item.kind {
            Kind::Experts(experts) => self.low_rank(item, *experts),
            Kind::Linear | Kind::Embedding => self.low_rank(item, 1),
            Kind::Whole { module, always } => self.whole(item, module, *always),
            Kind::Lost => {
                let (_, squared_norm) = self.difference(item, item.rows.clone())?;
                if squared_norm > 0.0 {
                    self.result.lost.push(item.name.clone());
                }
                self.report(item, None, 1.0, squared_norm);
                Ok(())
            }
        }
    }

    fn report(&mut self, item: &Item, rank: Option<usize>, error: f64, squared_norm: f64) {
        if squared_norm == 0.0 {
            self.result.equal += 1;
            return;
        }
        self.result.tensors.push(Extracted {
            tensor: item.name.clone(),
            shape: item.shape.clone(),
            rank,
            error,
            squared_norm,
        });
    }

    /// Fine-tune minus base, and its squared norm.
    fn difference(&self, item: &Item, rows: Range<usize>) -> Result<(Vec<f32>, f64), Error> {
        let mut values = read(self.finetuned, item.finetuned, &rows, item.cols)?;
        let plan = self.base.prepare(item.base)?;
        let step = (TILE / item.cols.max(1)).max(1);
        let mut tile = Vec::new();
        for (i, out) in values.chunks_mut(step * item.cols).enumerate() {
            tile.resize(out.len(), 0.0);
            let first = rows.start + i * step;
            self.base.read_tile(&plan, first..first + out.len() / item.cols, &mut tile)?;
            for (v, b) in out.iter_mut().zip(&tile) {
                *v -= b;
            }
        }
        let norm = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        Ok((values, norm))
    }

    /// One matrix, or each expert's.
    fn low_rank(&mut self, item: &Item, units: usize) -> Result<(), Error> {
        let rows = item.rows.len() / units.max(1);
        let (mut found, mut full, mut rest) = (Vec::with_capacity(units), 0.0, 0.0);
        for unit in 0..units {
            if self.options.cancel.is_cancelled() {
                return Err(darwin_checkpoint::Error::Cancelled.into());
            }
            let first = item.rows.start + unit * rows;
            let (values, norm) = self.difference(item, first..first + rows)?;
            let d = Matrix { values: &values, rows, cols: item.cols };
            let part = if norm > 0.0 {
                let name = format!("{}/{unit}", item.name);
                truncated(d, self.options.max_rank, self.options.epsilon, &name)
            } else {
                Truncated { left: Vec::new(), right: Vec::new(), rank: 0 }
            };
            let (before, after) = residual(d, &part);
            full += before;
            rest += after;
            found.push(part);
        }
        let rank = found.iter().map(|part| part.rank).max().unwrap_or(0);
        let error = if full > 0.0 { (rest / full).sqrt() } else { 0.0 };
        self.report(item, Some(rank), error, full);
        if rank == 0 {
            return Ok(());
        }
        let (inputs, outputs) = (item.cols, rows);
        let (a, b) = stack(&found, rank, inputs, outputs);
        let (width, owner) = (rank * units, &item.owner);
        let mut push = |end, shape, values: &[f32]| {
            let pushed = self.file.push(owner, end, Dtype::F32, shape, values);
            pushed.map_err(|e| io_error("write", self.weights, e))
        };
        if item.kind == Kind::Embedding {
            push(".lora_embedding_A", vec![width, outputs], &transposed(&b, outputs, width))?;
            push(".lora_embedding_B", vec![inputs, width], &transposed(&a, width, inputs))?;
        } else {
            push(".lora_A.weight", vec![width, inputs], &a)?;
            push(".lora_B.weight", vec![outputs, width], &b)?;
        }
        self.targets.ranks.push((item.owner.clone(), rank));
        Ok(())
    }

    fn whole(&mut self, item: &Item, module: &str, always: bool) -> Result<(), Error> {
        if self.options.cancel.is_cancelled() {
            return Err(darwin_checkpoint::Error::Cancelled.into());
        }
        let (_, squared_norm) = self.difference(item, item.rows.clone())?;
        self.report(item, None, 0.0, squared_norm);
        if squared_norm == 0.0 && !always {
            return Ok(());
        }
        let dtype = self.finetuned.manifest().get(item.finetuned).dtype;
        let values = read(self.finetuned, item.finetuned, &item.rows, item.cols)?;
        let pushed = self.file.push(&item.owner, "", dtype, item.shape.clone(), &values);
        pushed.map_err(|e| io_error("write", self.weights, e))?;
        if !self.targets.saved.iter().any(|known| known == module) {
            self.targets.saved.push(module.to_owned());
        }
        Ok(())
    }
}

fn read(
    model: &Checkpoint,
    id: TensorId,
    rows: &Range<usize>,
    cols: usize,
) -> Result<Vec<f32>, Error> {
    let plan = model.prepare(id)?;
    let mut values = vec![0.0; rows.len() * cols];
    model.read_tile(&plan, rows.clone(), &mut values)?;
    Ok(values)
}

/// A as (expert and rank, in), B as (out, rank and expert), padded with zeros to one rank: PEFT
/// keeps experts apart in that order.
fn stack(parts: &[Truncated], rank: usize, inputs: usize, outputs: usize) -> (Vec<f32>, Vec<f32>) {
    let units = parts.len();
    let mut a = vec![0.0; units * rank * inputs];
    let mut b = vec![0.0; outputs * rank * units];
    for (unit, part) in parts.iter().enumerate() {
        a[unit * rank * inputs..][..part.right.len()].copy_from_slice(&part.right);
        for o in 0..outputs {
            for k in 0..part.rank {
                b[o * rank * units + k * units + unit] = part.left[o * part.rank + k];
            }
        }
    }
    (a, b)
}

fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|at| values[at % rows * cols + at / rows]).collect()
}
