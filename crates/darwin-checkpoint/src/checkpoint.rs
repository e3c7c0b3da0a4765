//! A checkpoint folder, opened from its headers alone.

mod unpack;

use crate::any::{StoredTensor, no_checkpoint};
use crate::dtype::first_not_finite;
use crate::error::Problems;
use crate::layout::{Layout, Place, assemble};
use crate::shards::{no_config, open_shards, shard_files};
use crate::unchanged::Unchanged;
use crate::{Dtype, Error, Manifest, Problem, Role, SideFiles, TensorId, TensorPlan, TensorSource};
use darwin_core::fs::read_bounded;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Model types whose every tensor we know; an unknown name in them is an error for whoever needs
/// the whole model.
const KNOWN_FAMILIES: [&str; 2] = ["qwen3_5_moe", "qwen3_5_moe_text"];

/// The largest `config.json` that is read; those of the largest models have some 100 KiB.
const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// A checkpoint: config, shards, logical tensors, side files.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    name: String,
    config_bytes: Vec<u8>,
    config: Value,
    shards: Vec<(PathBuf, File)>,
    unchanged: Unchanged,
    manifest: Manifest,
    layout: Layout,
    places: Vec<Place>,
    /// For each logical tensor its stored pieces, by first row.
    pieces: Vec<Vec<usize>>,
    /// The experts that were unpacked last, by stored tensor and number.
    unpacked: Mutex<Vec<Unpacked>>,
}

/// Stored tensor and expert, and its bfloat16 bits.
type Unpacked = ((usize, usize), Arc<[u16]>);

impl Checkpoint {
    /// Opens a folder: reads config, index and headers, and reports everything that is wrong with
    /// them at once. No weight is read.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all problems; [`Error::Io`] where the folder cannot be read.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, Error> {
        let folder = folder.as_ref();
        no_checkpoint(folder)?;
        let config_path = folder.join("config.json");
        let config_bytes =
            read_bounded(&config_path, MAX_CONFIG_BYTES).map_err(|e| no_config(folder, e))?;
        let config: Value = serde_json::from_slice(&config_bytes).map_err(|e| {
            Error::one(
                format!("{}: not valid JSON: {e}", config_path.display()),
                "restore the file from the model's source",
            )
        })?;
        let mut problems = Problems::default();
        let files = shard_files(folder, &mut problems)?;
        let (shards, entries) = open_shards(folder, &files, &mut problems)?;
        problems.into_result(()).map_err(Error::Invalid)?;
        let (manifest, layout, places) =
            assemble(&folder.display().to_string(), &config, entries).map_err(Error::Invalid)?;
        let mut pieces = vec![Vec::new(); manifest.tensors().len()];
        for (i, stored) in layout.stored.iter().enumerate() {
            pieces[stored.id.index()].push(i);
        }
        for list in &mut pieces {
            list.sort_by_key(|i| layout.stored[*i].rows.start);
        }
        Ok(Self {
            name: folder.display().to_string(),
            folder: folder.to_owned(),
            config_bytes,
            config,
            unchanged: Unchanged::of_open(shards.iter().map(|(p, f)| (p.as_path(), f)))?,
            shards,
            manifest,
            layout,
            places,
            pieces,
            unpacked: Mutex::default(),
        })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The bytes of `config.json`.
    #[must_use]
    pub fn config_bytes(&self) -> &[u8] {
        &self.config_bytes
    }

    /// The names on disk and what they hold.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Total bytes of tensors.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.places.iter().map(|p| p.bytes.end - p.bytes.start).sum()
    }

    /// Number of shards.
    #[must_use]
    pub fn num_shards(&self) -> usize {
        self.shards.len()
    }

    /// The shards' paths, in the order of the index.
    pub fn shard_paths(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|(path, _)| path.as_path())
    }

    /// The text model's part of the config: `text_config` where there is one.
    #[must_use]
    pub fn text_config(&self) -> &Value {
        self.config.get("text_config").unwrap_or(&self.config)
    }

    /// Refuses names that the family does not know, for nothing may be dropped silently.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming every unknown tensor.
    pub fn check_known(&self) -> Result<(), Error> {
        let family = self.config.get("model_type").and_then(Value::as_str).unwrap_or("");
        if !KNOWN_FAMILIES.contains(&family) {
            return Ok(());
        }
        let mut problems = Problems::default();
        for (stored, place) in self.layout.stored.iter().zip(&self.places) {
            if self.manifest.get(stored.id).role == Role::Other {
                problems.push(Problem::new(
                    format!(
                        "{}: unknown tensor `{}` for a model of type {family}",
                        self.shards[place.shard].0.display(),
                        stored.name
                    ),
                    "remove the tensor from the file, or say what it is in an issue",
                ));
            }
        }
        problems.into_result(()).map_err(Error::Invalid)
    }

    /// Files that belong to the model but are not weights or config (tokenizer, generation
    /// config, chat template, preprocessors, licences), and what is not carried with them.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be listed.
    pub fn side_files(&self) -> Result<SideFiles, Error> {
        crate::side::of_folder(&self.folder, &self.config)
    }

    /// The licence that the model's README or licence file states, as Hugging Face names it.
    ///
    /// # Errors
    /// [`Error::Io`] where a file that is there cannot be read.
    pub fn license(&self) -> Result<Option<String>, Error> {
        crate::license::of_folder(&self.folder)
    }

    /// Whether weights are quantised on disk, and read as the bfloat16 that they stand for.
    #[must_use]
    pub fn is_quantised(&self) -> bool {
        self.places.iter().any(Place::is_quantised)
    }

    /// Whether a tensor's values are not those stored.
    fn is_computed(&self, id: TensorId) -> bool {
        self.pieces[id.index()].iter().any(|stored| self.places[*stored].is_quantised())
    }

    /// Every tensor as the files have it, in the order of the layout.
    pub(crate) fn stored(&self) -> Vec<StoredTensor<'_>> {
        let pairs = self.layout.stored.iter().zip(&self.places);
        pairs
            .map(|(stored, place)| StoredTensor {
                name: &stored.name,
                id: stored.id,
                shape: &stored.shape,
                dtype: place.dtype.name(),
                bytes: place.bytes.end - place.bytes.start,
            })
            .collect()
    }

    /// The name on the Hub that the model gives itself in its config or README, if any.
    ///
    /// # Errors
    /// [`Error::Io`] where a README that is there cannot be read.
    pub fn hub_name(&self) -> Result<Option<String>, Error> {
        crate::license::hub_name(&self.folder, &self.config)
    }

    fn read_stored(&self, stored: usize, skip: u64, out: &mut [u8]) -> Result<(), Error> {
        let place = &self.places[stored];
        self.read_at(place.shard, place.bytes.start + skip, out)
    }

    fn read_at(&self, shard: usize, at: u64, out: &mut [u8]) -> Result<(), Error> {
        let (path, file) = &self.shards[shard];
        file.read_exact_at(out, at).map_err(|e| Error::io("read", path, e))
    }

    /// Calls `f(stored, rows within the stored piece, offset in the request)` for each piece that
    /// overlaps `rows`.
    fn for_pieces(
        &self,
        id: TensorId,
        rows: &Range<usize>,
        mut f: impl FnMut(usize, Range<usize>, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let pieces = &self.pieces[id.index()];
        let first = pieces.partition_point(|i| self.layout.stored[*i].rows.end <= rows.start);
        for &i in &pieces[first..] {
            let held = &self.layout.stored[i].rows;
            if held.start >= rows.end {
                break;
            }
            let start = rows.start.max(held.start);
            let end = rows.end.min(held.end);
            f(i, start - held.start..end - held.start, start - rows.start)?;
        }
        Ok(())
    }

    fn check_finite(&self, stored: usize, first: usize, values: &[f32]) -> Result<(), Error> {
        let Some((at, value)) = first_not_finite(values) else { return Ok(()) };
        Err(Error::NotFinite {
            file: self.shards[self.places[stored].shard].0.clone(),
            tensor: self.layout.stored[stored].name.clone(),
            element: first + at,
            value,
        })
    }
}

impl TensorSource for Checkpoint {
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
        let info = self.manifest.get(plan.id);
        if !info.dtype.is_mergeable() {
            return Err(Error::one(
                format!("{}: tensor `{}` is {}", self.name, info.name, info.dtype),
                "only float32, float16 and bfloat16 weights can be computed with",
            ));
        }
        let cols = plan.cols;
        // Small enough to be decoded in the first-level cache.
        let mut bytes = [0; 1 << 14];
        self.for_pieces(plan.id, &rows, |stored, within, at| {
            let Place { dtype, scale, packed, .. } = &self.places[stored];
            let values = &mut out[at * cols..(at + within.len()) * cols];
            if let Some(packed) = packed {
                self.unpack(stored, packed, &within, values)?;
                return self.check_finite(stored, within.start * cols, values);
            }
            let mut skip = (within.start * cols * dtype.size()) as u64;
            for values in values.chunks_mut(bytes.len() / dtype.size()) {
                let bytes = &mut bytes[..values.len() * dtype.size()];
                self.read_stored(stored, skip, bytes)?;
                dtype.decode(bytes, values);
                skip += bytes.len() as u64;
            }
            if let Some(scale) = scale {
                self.unscale(scale, &within, cols, values)?;
            }
            self.check_finite(stored, within.start * cols, values)
        })
    }

    fn read_bytes(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<bool, Error> {
        let dtype = self.manifest.get(plan.id).dtype;
        if !dtype.is_mergeable() || dtype != plan.dtype || self.is_computed(plan.id) {
            return Ok(false);
        }
        let row_bytes = plan.cols * dtype.size();
        self.for_pieces(plan.id, &rows, |stored, within, at| {
            let out = &mut out[at * row_bytes..(at + within.len()) * row_bytes];
            self.read_stored(stored, (within.start * row_bytes) as u64, out)
        })?;
        Ok(true)
    }

    fn read_raw(&self, id: TensorId, rows: Range<usize>, out: &mut Vec<u8>) -> Result<bool, Error> {
        let info = self.manifest.get(id);
        if self.is_computed(id) {
            return Ok(false);
        }
        let row_bytes = info.cols() * info.dtype.size();
        self.for_pieces(id, &rows, |stored, within, _| {
            let start = out.len();
            out.resize(start + within.len() * row_bytes, 0);
            self.read_stored(stored, (within.start * row_bytes) as u64, &mut out[start..])
        })?;
        Ok(true)
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        self.unchanged.check()
    }
}

/// The dtype that most of a model's bytes have.
pub(crate) fn main_dtype(manifest: &Manifest) -> Dtype {
    let mut bytes: BTreeMap<Dtype, usize> = BTreeMap::new();
    for tensor in manifest.tensors() {
        *bytes.entry(tensor.dtype).or_default() += tensor.elements() * tensor.dtype.size();
    }
    bytes.into_iter().max_by_key(|(_, b)| *b).map_or(Dtype::F32, |(d, _)| d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_that_are_known_whole_are_families() {
        let types = || crate::FAMILIES.iter().flat_map(|family| family.types);
        for known in KNOWN_FAMILIES {
            assert!(types().any(|(name, _)| *name == known), "{known}");
        }
    }
}
