//! How logical tensors lie on disk: names and pieces.

use crate::header::Entry;
use crate::names::{ExpertPart, canonical_name, expert_piece, role_of};
use crate::{Dtype, Manifest, Problem, TensorId, TensorInfo};
use std::collections::BTreeMap;
use std::ops::Range;

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
}

/// Where a stored tensor's bytes are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) shard: usize,
    pub(crate) bytes: Range<u64>,
}

/// Builds manifest and layout from all shards' entries. `places[i]` belongs to `stored[i]`.
pub(crate) fn assemble(
    folder: &str,
    shards: Vec<Vec<Entry>>,
) -> Result<(Manifest, Layout, Vec<Place>), Vec<Problem>> {
    let entries: Vec<(usize, Entry)> = shards
        .into_iter()
        .enumerate()
        .flat_map(|(s, es)| es.into_iter().map(move |e| (s, e)))
        .collect();
    let mut builder = Builder { folder, ..Builder::default() };
    for (_, entry) in &entries {
        builder.claim(entry);
    }
    builder.check_groups();
    if !builder.problems.is_empty() {
        return Err(builder.problems);
    }
    let stored = entries.iter().map(|(_, e)| builder.stored(e)).collect();
    let places = entries.iter().map(|(s, e)| Place { shard: *s, bytes: e.bytes.clone() }).collect();
    let manifest = Manifest::new(builder.tensors).map_err(|name| {
        vec![Problem::new(
            format!("{folder}: two tensors are both `{name}` once their prefixes are removed"),
            "remove one of the two copies",
        )]
    })?;
    Ok((manifest, Layout { stored }, places))
}

/// The pieces of one fused tensor in a per-expert layout.
struct Group {
    index: usize,
    dtype: Dtype,
    piece_shape: Vec<usize>,
    found: BTreeMap<(usize, bool), String>,
    halves: usize,
}

#[derive(Default)]
struct Builder<'a> {
    folder: &'a str,
    tensors: Vec<TensorInfo>,
    groups: BTreeMap<String, Group>,
    plain: BTreeMap<String, usize>,
    problems: Vec<Problem>,
}

fn fused_name(base: &str, part: ExpertPart) -> String {
    format!("{base}{}", if part == ExpertPart::Down { "down_proj" } else { "gate_up_proj" })
}

impl Builder<'_> {
    fn claim(&mut self, entry: &Entry) {
        let canonical = canonical_name(&entry.name);
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
        group.found.insert((expert.0, part == ExpertPart::Up), entry.name.clone());
    }

    fn push(&mut self, name: String, dtype: Dtype, shape: Vec<usize>) {
        let (role, layer) = role_of(&name);
        self.tensors.push(TensorInfo { name, role, layer, dtype, shape });
    }

    fn check_groups(&mut self) {
        for (fused, group) in &self.groups {
            let experts = group.found.keys().map(|(e, _)| e + 1).max().unwrap_or(0);
            for expert in 0..experts {
                for up in [false, true].into_iter().take(group.halves) {
                    if !group.found.contains_key(&(expert, up)) {
                        let part = match (group.halves, up) {
                            (1, _) => "down_proj",
                            (_, false) => "gate_proj",
                            (_, true) => "up_proj",
                        };
                        let base = fused.rsplit_once('.').map_or("", |(b, _)| b);
                        self.problems.push(Problem::new(
                            format!("{}: `{base}.{expert}.{part}.weight` is missing", self.folder),
                            "the checkpoint is incomplete: download it again",
                        ));
                    }
                }
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
