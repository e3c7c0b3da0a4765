//! How logical tensors lie on disk: names and pieces.

use crate::error::{Problems, cut};
use crate::families::ExpertNaming;
use crate::header::Entry;
use crate::mxfp4::{Packed, pair_up};
use crate::names::{
    BLOCK, ExpertPart, MAX_NUMBER, MIXTRAL_BLOCK, beyond, canonical_name, expert_piece, role_of,
};
use crate::quantised::{Scale, Scales};
use crate::{Dtype, Manifest, Problem, Role, TensorId, TensorInfo};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// How routed experts lie on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertLayout {
    /// All of a layer in one tensor, `…experts.gate_up_proj`, as in Qwen3.5's official files.
    Fused,
    /// One by one, `…experts.J.gate_proj.weight`, as transformers saves most families.
    PerExpert,
}

impl ExpertLayout {
    /// The layouts with the names used in recipes and on the command line.
    pub const ALL: [(&'static str, Self); 2] =
        [("fused", Self::Fused), ("per-expert", Self::PerExpert)];

    /// The name used in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, layout)| *layout == self).map_or("?", |(name, _)| name)
    }
}

/// A tensor on disk: a run of rows of one logical tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its name in the files.
    pub name: String,
    /// The logical tensor that it belongs to.
    pub id: TensorId,
    /// Which rows of the logical tensor it holds.
    pub rows: Range<usize>,
    /// Its shape in the files.
    pub shape: Vec<usize>,
}

/// All tensors on disk, in the order of the shards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// The tensors.
    pub stored: Vec<Stored>,
}

impl Layout {
    /// Whether routed experts are stored one by one.
    #[must_use]
    pub fn is_per_expert(&self) -> bool {
        self.stored.iter().any(|s| expert_piece(&canonical_name(&s.name)).is_some())
    }

    /// The same tensors with routed experts in one layout, under the names that a family's files
    /// use in it; logical rows stay where they are.
    #[must_use]
    pub fn with_experts(
        &self,
        manifest: &Manifest,
        layout: ExpertLayout,
        naming: ExpertNaming,
    ) -> Self {
        let mut stored: Vec<Stored> = Vec::new();
        let mut done = BTreeSet::new();
        for piece in &self.stored {
            let info = manifest.get(piece.id);
            let base = piece.name.find(EXPERTS).map(|at| &piece.name[..at + EXPERTS.len()]);
            match base.filter(|_| info.experts().is_some() && info.shape.len() == 3) {
                Some(base) if done.insert(piece.id) => {
                    let base = block_named(base, layout, naming);
                    match layout {
                        ExpertLayout::Fused => stored.push(fused(&base, piece.id, info)),
                        ExpertLayout::PerExpert => {
                            split(&base, piece.id, info, naming, &mut stored)
                        }
                    }
                }
                Some(_) => {}
                None => {
                    let name = block_named(&piece.name, layout, naming);
                    stored.push(Stored { name, ..piece.clone() });
                }
            }
        }
        Self { stored }
    }
}

const EXPERTS: &str = ".experts.";

/// A name with Mixtral's name of the block, or without it.
fn block_named(name: &str, layout: ExpertLayout, naming: ExpertNaming) -> String {
    let in_block = [".gate.", EXPERTS].iter().any(|part| name.contains(part));
    match (naming, layout) {
        (ExpertNaming::Mixtral, ExpertLayout::PerExpert) if in_block => {
            name.replacen(BLOCK, MIXTRAL_BLOCK, 1)
        }
        (ExpertNaming::Mixtral, ExpertLayout::Fused) => name.replacen(MIXTRAL_BLOCK, BLOCK, 1),
        _ => name.to_owned(),
    }
}

/// The last part of a fused tensor's canonical name.
fn fused_part(info: &TensorInfo) -> &str {
    info.name.rsplit('.').next().unwrap_or(&info.name)
}

fn fused(base: &str, id: TensorId, info: &TensorInfo) -> Stored {
    let name = format!("{base}{}", fused_part(info));
    Stored { name, id, rows: 0..info.rows(), shape: info.shape.clone() }
}

fn split(
    base: &str,
    id: TensorId,
    info: &TensorInfo,
    naming: ExpertNaming,
    stored: &mut Vec<Stored>,
) {
    let parts: &[&str] = match (fused_part(info), naming) {
        ("gate_up_proj", ExpertNaming::Mixtral) => &["w1", "w3"],
        ("gate_up_proj", _) => &["gate_proj", "up_proj"],
        (_, ExpertNaming::Mixtral) => &["w2"],
        _ => &["down_proj"],
    };
    let rows = info.shape[1] / parts.len();
    for piece in 0..info.shape[0] * parts.len() {
        stored.push(Stored {
            name: format!("{base}{}.{}.weight", piece / parts.len(), parts[piece % parts.len()]),
            id,
            rows: piece * rows..(piece + 1) * rows,
            shape: vec![rows, info.shape[2]],
        });
    }
}

/// Where a stored tensor's bytes are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) shard: usize,
    pub(crate) bytes: Range<u64>,
    /// The element type in the file.
    pub(crate) dtype: Dtype,
    /// The scales of an 8-bit float.
    pub(crate) scale: Option<Scale>,
    /// The scales of 4-bit floats; `dtype` is what they are read as then.
    pub(crate) packed: Option<Packed>,
}

impl Place {
    /// Whether the bytes are not those of the tensor.
    pub(crate) fn is_quantised(&self) -> bool {
        self.dtype.is_float8() || self.packed.is_some()
    }
}

/// Builds manifest and layout from all shards' entries. `places[i]` belongs to `stored[i]`.
pub(crate) fn assemble(
    folder: &str,
    config: &Value,
    shards: Vec<Vec<Entry>>,
) -> Result<(Manifest, Layout, Vec<Place>), Vec<Problem>> {
    let mut entries: Vec<(usize, Entry)> = shards
        .into_iter()
        .enumerate()
        .flat_map(|(s, es)| es.into_iter().map(move |e| (s, e)))
        .collect();
    let mut builder = Builder { folder, mtp_layers: mtp_layers(config), ..Builder::default() };
    let mut scales = Scales::find(folder, config, &entries, &mut builder.problems);
    entries.retain(|(_, entry)| !scales.absorbs(&entry.name));
    let (entries, mut packed) = pair_up(folder, entries, &mut builder.problems);
    for (_, entry) in &entries {
        builder.claim(entry);
    }
    builder.check_groups();
    std::mem::take(&mut builder.problems).into_result(())?;
    let stored = entries.iter().map(|(_, e)| builder.stored(e)).collect();
    let places = entries
        .iter()
        .map(|(shard, e)| Place {
            shard: *shard,
            bytes: e.bytes.clone(),
            dtype: e.dtype,
            scale: scales.take(&e.name),
            packed: packed.remove(&e.name),
        })
        .collect();
    let manifest = Manifest::new(builder.tensors).map_err(|name| {
        vec![Problem::new(
            format!("{folder}: two tensors are both `{name}` once their prefixes are removed"),
            "remove one of the two copies",
        )]
    })?;
    Ok((manifest, Layout { stored }, places))
}

/// The layers behind the decoder's that predict further tokens, where a config counts them so
/// (DeepSeek, GLM).
fn mtp_layers(config: &Value) -> Range<usize> {
    let text = config.get("text_config").unwrap_or(config);
    let number = |key: &str| text.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
    let layers = number("num_hidden_layers");
    layers..layers.saturating_add(number("num_nextn_predict_layers"))
}

/// The dtype that a stored tensor is read as.
fn read_as(dtype: Dtype) -> Dtype {
    if dtype.is_float8() { Dtype::Bf16 } else { dtype }
}

/// The pieces of one fused tensor in a per-expert layout.
struct Group {
    index: usize,
    dtype: Dtype,
    piece_shape: Vec<usize>,
    found: BTreeMap<(usize, bool), String>,
    halves: usize,
}

impl Group {
    /// Which pieces are not there, as one sentence: there may be as many as numbers.
    fn missing(&self, fused: &str, experts: usize) -> Option<String> {
        let all = experts * self.halves;
        let missing = all.checked_sub(self.found.len()).filter(|missing| *missing > 0)?;
        let at = |(expert, up): &(usize, bool)| expert * self.halves + usize::from(*up);
        let first = self.found.keys().zip(0..).find(|(piece, i)| at(piece) != *i);
        let first = first.map_or(self.found.len(), |(_, i)| i);
        let last = self.found.keys().rev().zip((0..all).rev()).find(|(piece, i)| at(piece) != *i);
        let last = last.map_or(missing - 1, |(_, i)| i);
        let base = fused.rsplit_once('.').map_or("", |(base, _)| base);
        let name = |i: usize| {
            let part = match (self.halves, i % self.halves) {
                (1, _) => "down_proj",
                (_, 0) => "gate_proj",
                _ => "up_proj",
            };
            format!("`{base}.{}.{part}.weight`", i / self.halves)
        };
        if missing == 1 {
            return Some(format!("{} is missing", name(first)));
        }
        Some(format!("{missing} tensors from {} to {} are missing", name(first), name(last)))
    }
}

#[derive(Default)]
struct Builder<'a> {
    folder: &'a str,
    mtp_layers: Range<usize>,
    tensors: Vec<TensorInfo>,
    groups: BTreeMap<String, Group>,
    plain: BTreeMap<String, usize>,
    problems: Problems,
}

fn fused_name(base: &str, part: ExpertPart) -> String {
    format!("{base}{}", if part == ExpertPart::Down { "down_proj" } else { "gate_up_proj" })
}

impl Builder<'_> {
    fn claim(&mut self, entry: &Entry) {
        let canonical = canonical_name(&entry.name);
        if let Some((what, number)) = beyond(&canonical) {
            let (name, number) = (cut(&entry.name), cut(number));
            self.problems.push(Problem::new(
                format!(
                    "{}: tensor `{name}` belongs to {what} {number}, allowed are 0 to {}",
                    self.folder,
                    MAX_NUMBER - 1
                ),
                "the file was written by a broken program: get it from its source again",
            ));
        }
        let Some((base, expert, part)) = expert_piece(&canonical) else {
            self.plain.insert(entry.name.clone(), self.tensors.len());
            self.push(canonical, entry.dtype, entry.shape.clone());
            return;
        };
        let fused = fused_name(base, part);
        if !self.groups.contains_key(&fused) {
            let group = Group {
                index: self.tensors.len(),
                dtype: entry.dtype,
                piece_shape: entry.shape.clone(),
                found: BTreeMap::new(),
                halves: if part == ExpertPart::Down { 1 } else { 2 },
            };
            self.push(fused.clone(), entry.dtype, Vec::new());
            self.groups.insert(fused.clone(), group);
        }
        let Some(group) = self.groups.get_mut(&fused) else { return };
        if group.dtype != entry.dtype || group.piece_shape != entry.shape || entry.shape.len() != 2
        {
            self.problems.push(Problem::new(
                format!(
                    "{}: tensor `{}` is {} {:?}, the other experts of its layer are {} {:?}",
                    self.folder,
                    entry.name,
                    entry.dtype,
                    entry.shape,
                    group.dtype,
                    group.piece_shape
                ),
                "all experts of a layer need one shape and dtype",
            ));
        }
        let piece = (expert.0, part == ExpertPart::Up);
        if let Some(other) = group.found.insert(piece, entry.name.clone()) {
            self.problems.push(Problem::new(
                format!("{}: `{other}` and `{}` are the same tensor", self.folder, entry.name),
                "remove one of the two copies",
            ));
        }
    }

    fn push(&mut self, name: String, dtype: Dtype, shape: Vec<usize>) {
        let (mut role, mut layer) = role_of(&name);
        if layer.is_some_and(|layer| self.mtp_layers.contains(&layer.0)) {
            (role, layer) = (Role::Mtp, None);
        }
        let info = TensorInfo { name, role, layer, dtype: read_as(dtype), shape };
        if let Some(experts) = info.experts().filter(|experts| *experts > MAX_NUMBER) {
            self.problems.push(Problem::new(
                format!(
                    "{}: tensor `{}` holds {experts} experts, allowed are {MAX_NUMBER}",
                    self.folder, info.name
                ),
                "the file was written by a broken program: get it from its source again",
            ));
        }
        self.tensors.push(info);
    }

    fn check_groups(&mut self) {
        for (fused, group) in &self.groups {
            // Numbers are below MAX_NUMBER.
            let experts = group.found.last_key_value().map_or(0, |((e, _), _)| e + 1);
            if let Some(missing) = group.missing(fused, experts) {
                self.problems.push(Problem::new(
                    format!("{}: {missing}", self.folder),
                    "the checkpoint is incomplete: download it again",
                ));
            }
            let piece = &group.piece_shape;
            if let [rows, cols] = piece[..] {
                self.tensors[group.index].shape = vec![experts, rows * group.halves, cols];
            }
        }
    }

    fn stored(&self, entry: &Entry) -> Stored {
        let canonical = canonical_name(&entry.name);
        let (index, rows) = match expert_piece(&canonical) {
            Some((base, expert, part)) => {
                let group = &self.groups[&fused_name(base, part)];
                let rows = entry.shape[0];
                let start = (expert.0 * group.halves + usize::from(part == ExpertPart::Up)) * rows;
                (group.index, start..start + rows)
            }
            None => {
                let index = self.plain[&entry.name];
                (index, 0..self.tensors[index].rows())
            }
        };
        Stored {
            name: entry.name.clone(),
            id: TensorId(index as u32),
            rows,
            shape: entry.shape.clone(),
        }
    }
}
