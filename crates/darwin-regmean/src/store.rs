//! Solved tensors, in memory or in a file for each layer.

use crate::Error;
use crate::walk::Options;
use darwin_checkpoint::{
    Error as SourceError, Manifest, TensorId, TensorInfo, TensorPlan, TensorSource,
};
use darwin_core::fs::{open_regular, write_atomic};
use darwin_core::hash::sha256_hex;
use darwin_core::{ARITHMETIC, Fingerprint};
use darwin_engine::ScoreItem;
use darwin_merge::{Merge, RegMean, Unsolved};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest header that is read.
const MAX_HEADER: u64 = 100 << 20;

/// How many maps were solved, and how many stayed at the anchor; an expert's maps are its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Solved from activations.
    pub solved: u64,
    /// Of too few tokens, or singular.
    pub anchored: u64,
}

impl Counts {
    pub(crate) fn one(solved: bool) -> Self {
        Self { solved: u64::from(solved), anchored: u64::from(!solved) }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self { solved: self.solved + other.solved, anchored: self.anchored + other.anchored }
    }

    pub(crate) fn add(&mut self, solved: bool) {
        self.join(Self::one(solved));
    }

    pub(crate) fn join(&mut self, other: Self) {
        *self = self.and(other);
    }
}

/// The tensors of a layer, in the plan's order, as bytes of their dtypes.
pub(crate) struct LayerFile {
    pub(crate) tensors: Vec<Vec<u8>>,
    pub(crate) counts: Counts,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
enum Place {
    /// Not yet anywhere.
    Nowhere,
    Memory(Arc<[u8]>),
    File(Arc<File>, Arc<Path>, u64),
}

/// The solved tensors of a merge, under their canonical names.
#[derive(Debug)]
pub struct SolvedTensors {
    manifest: Manifest,
    config: Value,
    places: Vec<Place>,
    counts: Counts,
    kept: usize,
}

impl SolvedTensors {
    /// How many maps were solved.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Layers that were there from an interrupted run.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept
    }

    fn read(&self, id: TensorId, rows: &Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        let info = self.manifest.get(id);
        let at = rows.start * info.cols() * info.dtype.size();
        match &self.places[id.index()] {
            Place::Memory(bytes) => {
                out.copy_from_slice(&bytes[at..at + out.len()]);
                Ok(())
            }
            Place::File(file, path, first) => {
                file.read_exact_at(out, first + at as u64).map_err(|source| SourceError::Io {
                    doing: "read",
                    path: path.to_path_buf(),
                    source,
                })
            }
            Place::Nowhere => Err(SourceError::MissingTensor {
                model: self.name().to_owned(),
                tensor: info.name.clone(),
            }),
        }
    }
}

impl TensorSource for SolvedTensors {
    fn name(&self) -> &str {
        "the solved tensors"
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn config(&self) -> &Value {
        &self.config
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, SourceError> {
        Ok(TensorPlan::whole(id, self.manifest.get(id)))
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), SourceError> {
        let mut bytes = vec![0; out.len() * plan.dtype.size()];
        self.read(plan.id, &rows, &mut bytes)?;
        plan.dtype.decode(&bytes, out);
        Ok(())
    }

    fn read_bytes(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [u8],
    ) -> Result<bool, SourceError> {
        self.read(plan.id, &rows, out).map(|()| true)
    }

    fn read_raw(
        &self,
        id: TensorId,
        rows: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<bool, SourceError> {
        let (info, start) = (self.manifest.get(id), out.len());
        out.resize(start + rows.len() * info.cols() * info.dtype.size(), 0);
        self.read(id, &rows, &mut out[start..]).map(|()| true)
    }
}

/// Tensors that are being solved.
pub(crate) struct Solving {
    tensors: SolvedTensors,
    /// The folder of the layers' files, and what all of them are of.
    folder: Option<(PathBuf, String)>,
}

impl Solving {
    pub(crate) fn new(
        merge: &Merge,
        settings: &RegMean,
        items: [&[ScoreItem]; 2],
        options: &Options<'_>,
    ) -> Result<Self, Error> {
        let infos: Vec<TensorInfo> = merge.unsolved().iter().map(|of| of.info.clone()).collect();
        let places = vec![Place::Nowhere; infos.len()];
        let manifest = Manifest::new(infos).map_err(|name| {
            Error::unfit(format!("two tensors are both `{name}`"), "name each layer once")
        })?;
        let folder = match options.folder {
            Some(folder) => {
                std::fs::create_dir_all(folder).map_err(|e| cannot("write", folder, e))?;
                Some((folder.to_owned(), identity(merge, settings, items)))
            }
            None => None,
        };
        let (config, counts) = (merge.config().clone(), Counts::default());
        let tensors = SolvedTensors { manifest, config, places, counts, kept: 0 };
        Ok(Self { tensors, folder })
    }

    fn path(folder: &Path, layer: usize) -> PathBuf {
        folder.join(format!("layer-{layer:05}.safetensors"))
    }

    /// Whether a layer is there from an interrupted run, whole and of the same work.
    pub(crate) fn find(&mut self, layer: usize, tensors: &[&Unsolved<'_>]) -> bool {
        let Some((folder, identity)) = &self.folder else { return false };
        let path = Self::path(folder, layer);
        let Some((file, first, counts)) = opened(&path, identity, tensors) else { return false };
        self.place(&path, file, first, counts, tensors.iter().map(|of| of.info));
        self.tensors.kept += 1;
        true
    }

    fn place<'t>(
        &mut self,
        path: &Path,
        file: File,
        mut first: u64,
        counts: Counts,
        infos: impl Iterator<Item = &'t TensorInfo>,
    ) {
        let (file, path): (_, Arc<Path>) = (Arc::new(file), path.into());
        for info in infos {
            if let Some(id) = self.tensors.manifest.find(&info.name) {
                let place = Place::File(Arc::clone(&file), Arc::clone(&path), first);
                self.tensors.places[id.index()] = place;
            }
            first += bytes(info) as u64;
        }
        self.tensors.counts.join(counts);
    }

    /// Keeps a layer.
    pub(crate) fn put(&mut self, layer: usize, solved: LayerFile) -> Result<(), Error> {
        let infos: Vec<TensorInfo> = self
            .tensors
            .manifest
            .tensors()
            .iter()
            .filter(|info| info.layer.is_some_and(|of| of.0 == layer))
            .cloned()
            .collect();
        let Some((folder, identity)) = &self.folder else {
            for (info, bytes) in infos.iter().zip(solved.tensors) {
                if let Some(id) = self.tensors.manifest.find(&info.name) {
                    self.tensors.places[id.index()] = Place::Memory(bytes.into());
                }
            }
            self.tensors.counts.join(solved.counts);
            return Ok(());
        };
        let path = Self::path(folder, layer);
        let data = solved.tensors.concat();
        let sha256 = sha256_hex(&data);
        let of: Vec<&TensorInfo> = infos.iter().collect();
        let mut whole = header(&of, identity, &sha256, solved.counts);
        let first = whole.len() as u64;
        whole.extend_from_slice(&data);
        drop((data, solved.tensors));
        write_atomic(&path, &whole).map_err(|e| cannot("write", &path, e))?;
        let file = open_regular(&path).map_err(|e| cannot("read", &path, e))?;
        self.place(&path, file, first, solved.counts, infos.iter());
        Ok(())
    }

    pub(crate) fn finish(self) -> SolvedTensors {
        self.tensors
    }
}

fn bytes(info: &TensorInfo) -> usize {
    info.elements() * info.dtype.size()
}

fn cannot(doing: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { doing, path: path.to_owned(), source }
}

/// What solved tensors depend on: the plan with its parents, the settings, the items.
fn identity(merge: &Merge, settings: &RegMean, items: [&[ScoreItem]; 2]) -> String {
    let plan = serde_json::to_vec(&merge.plan().manifest()).unwrap_or_default();
    let mut parts = vec![
        ("plan", plan),
        ("settings", format!("{settings:?}").into_bytes()),
        ("arithmetic", ARITHMETIC.to_string().into_bytes()),
    ];
    for items in items {
        parts.push(("side", items.len().to_string().into_bytes()));
        for item in items {
            for ids in [&item.prompt, &item.answer] {
                parts.push(("ids", ids.iter().flat_map(|id| id.to_le_bytes()).collect()));
            }
        }
    }
    Fingerprint::of("solved", parts).to_string()
}

/// A safetensors header with its length before it.
fn header(infos: &[&TensorInfo], identity: &str, sha256: &str, counts: Counts) -> Vec<u8> {
    let mut object = Map::new();
    let counted = [counts.solved.to_string(), counts.anchored.to_string()];
    let about = json!({
        "identity": identity, "sha256": sha256, "solved": counted[0], "anchored": counted[1],
    });
    object.insert("__metadata__".to_owned(), about);
    let mut offset = 0;
    for info in infos {
        let end = offset + bytes(info);
        let entry =
            json!({"dtype": info.dtype.name(), "shape": info.shape, "data_offsets": [offset, end]});
        object.insert(info.name.clone(), entry);
        offset = end;
    }
    let mut text = Value::Object(object).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(&text);
    header
}

/// The file of a layer, where its data begin, and its counts; none where it is not there, of other
/// work, or damaged.
fn opened(path: &Path, identity: &str, tensors: &[&Unsolved<'_>]) -> Option<(File, u64, Counts)> {
    let mut file = open_regular(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = Some(u64::from_le_bytes(length)).filter(|length| *length <= MAX_HEADER)?;
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).ok()?;
    let found: Value = serde_json::from_slice(&text).ok()?;
    let about = |key: &str| found["__metadata__"][key].as_str();
    let count = |key: &str| about(key)?.parse().ok();
    let counts = Counts { solved: count("solved")?, anchored: count("anchored")? };
    let infos: Vec<&TensorInfo> = tensors.iter().map(|of| of.info).collect();
    let wanted = header(&infos, identity, about("sha256")?, counts);
    if wanted[8..] != text {
        return None;
    }
    let size: usize = infos.iter().map(|info| bytes(info)).sum();
    let mut data = Vec::new();
    (&mut file).take(size as u64 + 1).read_to_end(&mut data).ok()?;
    let whole = data.len() == size && sha256_hex(&data) == about("sha256")?;
    whole.then_some((file, 8 + length, counts))
}
