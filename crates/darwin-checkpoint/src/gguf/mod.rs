//! GGUF files (llama.cpp's format, versions 2 and 3) of Llama models as tensor sources.
//!
//! Tensors have the names, shapes and order of rows that they have in Hugging Face's files:
//! dimensions are turned round, and rows of `q_proj` and `k_proj` put back into halves (llama.cpp
//! rotates neighbours). F32, F16 and BF16 tensors keep their dtype; Q8_0, Q4_0 and Q4_1 are
//! float32, bit for bit what gguf-py's `dequantize` gives.

mod config;
mod header;
mod keys;
mod kind;
mod names;
mod rope;
mod scan;
mod summary;
mod tokenizer;
mod values;

use crate::checkpoint::main_dtype;
use crate::dtype::first_not_finite;
use crate::error::Problems;
use crate::names::role_of;
use crate::{Error, Manifest, TensorId, TensorInfo, TensorPlan, TensorSource};
use config::Found;
use darwin_core::fs::open_regular;
use header::{Entry, Header, read_header};
use keys::Keys;
use kind::Kind;
use names::{Heads, Meaning, meaning, row_in_file};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes read at once: small enough to be decoded in the first-level cache.
const BUFFER: usize = 1 << 14;

/// A GGUF file, opened from its header alone.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    name: String,
    file: File,
    metadata: BTreeMap<String, values::Value>,
    config: Value,
    manifest: Manifest,
    /// For each tensor of the manifest where it lies.
    places: Vec<Place>,
}

/// Where a tensor lies in the file, and how.
#[derive(Debug)]
struct Place {
    /// Its name in the file.
    stored: String,
    kind: Kind,
    bytes: Range<u64>,
    /// Width of the heads whose rows lie in another order.
    permuted: Option<usize>,
}

impl Gguf {
    /// Opens a file: reads metadata and tensor entries, and reports everything that is wrong with
    /// them at once. No weight is read but `rope_freqs.weight`, which is part of the config.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the file is damaged, holds types or an architecture that are not
    /// read, or is no whole model; [`Error::Io`] where it cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = open_regular(path).map_err(|e| Error::io("open", path, e))?;
        let Header { metadata, entries } = read_header(path, &file)?;
        let name = path.display().to_string();
        let mut keys = Keys::new(&name, &metadata);
        config::check_architecture(&mut keys);
        fail_with(std::mem::take(&mut keys.problems))?;
        let tensors = claim(&mut keys, entries);
        fail_with(std::mem::take(&mut keys.problems))?;
        let factors = tensors.rope_factors.map(|e| rope_factors(path, &file, &e)).transpose()?;
        let manifest = manifest(&name, tensors.infos)?;
        let canonical: BTreeSet<String> =
            manifest.tensors().iter().map(|t| t.name.clone()).collect();
        let embedding = manifest.find("embed_tokens.weight").map(|id| manifest.get(id));
        let found = Found {
            names: &canonical,
            embedding_rows: embedding.map(|info| info.rows() as u64),
            rope_factors: factors.as_deref(),
            dtype: main_dtype(&manifest).torch_name(),
        };
        let config = config::config(&mut keys, &found);
        let places = place(&mut keys, &config, &manifest, tensors.stored);
        fail_with(keys.problems)?;
        Ok(Self { path: path.to_owned(), name, file, config, manifest, places, metadata })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads and decodes values that lie behind one another; `skip` elements of the tensor, a
    /// multiple of its block, lie before them.
    fn read_run(&self, place: &Place, skip: usize, out: &mut [f32]) -> Result<(), Error> {
        let mut buffer = [0; BUFFER];
        let kind = place.kind;
        let at_once = BUFFER / kind.block_bytes() * kind.block();
        let mut at = place.bytes.start + kind.bytes(skip) as u64;
        for values in out.chunks_mut(at_once) {
            let bytes = &mut buffer[..kind.bytes(values.len())];
            self.read_at(at, bytes)?;
            kind.decode(bytes, values);
            at += bytes.len() as u64;
        }
        Ok(())
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(out, at).map_err(|e| Error::io("read", &self.path, e))
    }

    fn check_finite(&self, place: &Place, first: usize, values: &[f32]) -> Result<(), Error> {
        let Some((at, value)) = first_not_finite(values) else { return Ok(()) };
        Err(Error::NotFinite {
            file: self.path.clone(),
            tensor: place.stored.clone(),
            element: first + at,
            value,
        })
    }
}

impl TensorSource for Gguf {
    fn name(&self) -> &str {
        &self.name
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn config(&self) -> &Value {
        &self.config
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, Error> {
        Ok(TensorPlan::whole(id, self.manifest.get(id)))
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let place = &self.places[plan.id.index()];
        let info = self.manifest.get(plan.id);
        match place.permuted {
            None => self.read_run(place, rows.start * plan.cols, out)?,
            // a bias: one row, whose elements lie like rows
            Some(width) if info.shape.len() == 1 => {
                let mut stored = vec![0.0; out.len()];
                self.read_run(place, rows.start * plan.cols, &mut stored)?;
                for (i, value) in out.iter_mut().enumerate() {
                    *value = stored[row_in_file(i, width)];
                }
            }
            Some(width) => {
                for (row, values) in rows.clone().zip(out.chunks_exact_mut(plan.cols)) {
                    self.read_run(place, row_in_file(row, width) * plan.cols, values)?;
                }
            }
        }
        self.check_finite(place, rows.start * plan.cols, out)
    }

    fn read_raw(&self, id: TensorId, rows: Range<usize>, out: &mut Vec<u8>) -> Result<bool, Error> {
        let place = &self.places[id.index()];
        let Kind::Plain(dtype) = place.kind else { return Ok(false) };
        let mut values = vec![0.0; rows.len() * self.manifest.get(id).cols()];
        self.read_tile(&self.prepare(id)?, rows, &mut values)?;
        let start = out.len();
        out.resize(start + values.len() * dtype.size(), 0);
        dtype.encode(&values, &mut out[start..]);
        Ok(true)
    }
}

fn fail_with(problems: Problems) -> Result<(), Error> {
    problems.into_result(()).map_err(Error::Invalid)
}

/// The tensors of a file, by what they mean.
#[derive(Default)]
struct Claimed {
    infos: Vec<TensorInfo>,
    /// For each of `infos` its entry, layer, and whose heads' rows it has.
    stored: Vec<(Entry, Option<u64>, Option<Heads>)>,
    rope_factors: Option<Entry>,
}

/// Gives every tensor its meaning; those without are named.
fn claim(keys: &mut Keys<'_>, entries: Vec<Entry>) -> Claimed {
    let mut claimed = Claimed::default();
    let mut unknown = Vec::new();
    for entry in entries {
        match meaning(&entry.name) {
            Some(Meaning::RopeFactors) => claimed.rope_factors = Some(entry),
            Some(Meaning::Weight { canonical, layer, heads }) => {
                let (role, decoder_layer) = role_of(&canonical);
                claimed.infos.push(TensorInfo {
                    name: canonical,
                    role,
                    layer: decoder_layer,
                    dtype: entry.kind.dtype(),
                    shape: entry.shape.clone(),
                });
                claimed.stored.push((entry, layer, heads));
            }
            None => unknown.push(entry.name),
        }
    }
    if let Some(first) = unknown.first() {
        keys.problem(
            format!(
                "{} tensors are none of a Llama model's, the first is `{first}`",
                unknown.len()
            ),
            "get the model as safetensors",
        );
    }
    claimed
}

fn manifest(file: &str, infos: Vec<TensorInfo>) -> Result<Manifest, Error> {
    Manifest::new(infos).map_err(|twice| {
        Error::one(
            format!("{file}: two tensors are both `{twice}`"),
            "the file was written by a broken program: get it from its source again",
        )
    })
}

/// Checks what the order of rows and the layers need, and places every tensor.
fn place(
    keys: &mut Keys<'_>,
    config: &Value,
    manifest: &Manifest,
    stored: Vec<(Entry, Option<u64>, Option<Heads>)>,
) -> Vec<Place> {
    let number = |key: &str| config[key].as_u64().unwrap_or(1);
    let (width, layers) = (number("head_dim"), number("num_hidden_layers"));
    let mut places = Vec::with_capacity(stored.len());
    for ((entry, layer, heads), info) in stored.into_iter().zip(manifest.tensors()) {
        if layer.is_some_and(|layer| layer >= layers) {
            keys.problem(
                format!("tensor `{}` lies beyond `llama.block_count` = {layers}", entry.name),
                "the file was written by a broken program: get it from its source again",
            );
        }
        let heads = heads.map(|heads| match heads {
            Heads::Query => number("num_attention_heads"),
            Heads::Key => number("num_key_value_heads"),
        });
        let rows = info.shape.first().copied().unwrap_or(1) as u64;
        if let Some(heads) = heads.filter(|heads| rows != heads.saturating_mul(width)) {
            keys.problem(
                format!(
                    "tensor `{}` has {rows} rows, needed are {heads} heads of {width}",
                    entry.name
                ),
                "the file was written by a broken program: get it from its source again",
            );
        }
        places.push(Place {
            stored: entry.name,
            kind: entry.kind,
            bytes: entry.bytes,
            permuted: heads.map(|_| width as usize),
        });
    }
    places
}

/// `rope_freqs.weight`: half as many numbers as a head is wide.
fn rope_factors(path: &Path, file: &File, entry: &Entry) -> Result<Vec<f32>, Error> {
    const MOST: usize = 1 << 16;
    let count: usize = entry.shape.iter().product();
    if entry.kind != Kind::Plain(crate::Dtype::F32) || count > MOST {
        return Err(Error::one(
            format!(
                "{}: tensor `{}` is {} {:?}, needed are at most {MOST} numbers of F32",
                path.display(),
                entry.name,
                entry.kind.name(),
                entry.shape
            ),
            "get the model as safetensors",
        ));
    }
    let mut bytes = vec![0; entry.kind.bytes(count)];
    file.read_exact_at(&mut bytes, entry.bytes.start).map_err(|e| Error::io("read", path, e))?;
    let mut factors = vec![0.0; count];
    entry.kind.decode(&bytes, &mut factors);
    Ok(factors)
}
