//! Shares of single tensors and of single experts in them: `darwin.t.groups`, in the recipe itself
//! or in a safetensors file beside it.

use super::Recipe;
use super::emit::emit;
use crate::Error;
use darwin_checkpoint::{Dtype, Problem, whole_tensors_of};
use darwin_core::Share;
use darwin_core::fs::write_atomic;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::Arc;

/// The file of shares beside a recipe that [`Recipe::save`] writes.
pub(crate) const SIDE_FILE: &str = "shares.safetensors";

/// The same file beside a child's weights, with a name that no loader of weights takes for a shard.
pub(crate) const SIDE_FILE_OF_CHILD: &str = "mergekit_config.shares";

/// From so many shares on they stand in a file of their own.
pub(crate) const SIDE_FILE_FROM: usize = 500;

/// The most shares of a recipe: those of 96 layers with 512 experts in three tensors, and some.
pub(crate) const MAX_SHARES: usize = 200_000;

/// The largest file of shares: as many tensors of one share, with long names.
const MAX_SIDE_BYTES: u64 = 64 << 20;

/// Shares of the mother by canonical name of the tensor: one for the tensor, or one for each routed
/// expert (each row of a router, each element of its biases). A clone is cheap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupShares(Arc<BTreeMap<String, Vec<Share>>>);

impl GroupShares {
    /// No shares yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the shares of a tensor; those that it had before are returned.
    pub fn insert(&mut self, tensor: impl Into<String>, shares: Vec<Share>) -> Option<Vec<Share>> {
        Arc::make_mut(&mut self.0).insert(tensor.into(), shares)
    }

    /// The shares of a tensor.
    #[must_use]
    pub fn get(&self, tensor: &str) -> Option<&[Share]> {
        self.0.get(tensor).map(Vec::as_slice)
    }

    /// How many tensors have shares of their own.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no tensor has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many shares there are, over all tensors.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Tensors and their shares, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Share])> {
        self.0.iter().map(|(name, shares)| (name.as_str(), shares.as_slice()))
    }

    /// Reads a file of shares: an F64 tensor for each name, of shape (1) or (experts).
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it is no safetensors file or too large; [`Error::Plan`] with
    /// every tensor that holds no shares.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut groups = BTreeMap::new();
        let mut problems = Vec::new();
        let mut count = 0;
        for tensor in whole_tensors_of(path, MAX_SIDE_BYTES)? {
            match shares_of(tensor.dtype, &tensor.shape, &tensor.bytes) {
                Ok(shares) => {
                    count += shares.len();
                    groups.insert(tensor.name, shares);
                }
                Err(found) => problems.push(Problem::new(
                    format!("{}: tensor `{}` {found}", path.display(), tensor.name),
                    "write shares of the mother as F64, of shape [1] or [experts]",
                )),
            }
        }
        if count > MAX_SHARES {
            problems.push(too_many(&path.display().to_string(), count));
        }
        if problems.is_empty() { Ok(Self(Arc::new(groups))) } else { Err(Error::Plan(problems)) }
    }

    /// The bytes of a file that [`Self::read`] reads: the same for the same shares.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut header = Map::new();
        let mut data = Vec::with_capacity(8 * self.count());
        for (name, shares) in self.iter() {
            let start = data.len();
            data.extend(shares.iter().flat_map(|t| t.get().to_le_bytes()));
            let offsets = [start, data.len()];
            let entry = json!({"dtype": "F64", "shape": [shares.len()], "data_offsets": offsets});
            header.insert(name.to_owned(), entry);
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut file = (text.len() as u64).to_le_bytes().to_vec();
        file.extend(text);
        file.extend(data);
        file
    }
}

pub(crate) fn too_many(place: &str, count: usize) -> Problem {
    let text = format!("{place}: {count} shares, allowed are {MAX_SHARES}");
    Problem::new(text, "give parts and layers shares instead of single experts")
}

fn shares_of(dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Result<Vec<Share>, String> {
    if dtype != Dtype::F64 || shape.len() != 1 || shape[0] == 0 {
        return Err(format!("is {dtype} of shape {shape:?}"));
    }
    let numbers = bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
    let share =
        |(at, t): (usize, f64)| Share::new(t).map_err(|error| format!("[{at}] is {t}: {error}"));
    numbers.enumerate().map(share).collect()
}

/// A file's name beside the recipe, without a folder.
pub(super) fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

impl Recipe {
    /// Shares of single tensors and experts, where the recipe has any.
    #[must_use]
    pub fn groups(&self) -> Option<&GroupShares> {
        self.darwin.t.as_ref()?.groups.as_ref()
    }

    /// The shares that stand in a file of their own when the canonical form is written.
    fn apart(&self) -> Option<&GroupShares> {
        self.groups().filter(|groups| groups.count() >= SIDE_FILE_FROM)
    }

    /// Writes the canonical form to a file, and shares of 500 or more groups to
    /// `shares.safetensors` beside it; each file bears its name when it is whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let write = |path: &Path, bytes: &[u8]| {
            write_atomic(path, bytes)
                .map_err(|source| Error::Write { file: path.display().to_string(), source })
        };
        if let Some(groups) = self.apart() {
            write(&path.with_file_name(SIDE_FILE), &groups.to_bytes())?;
        }
        write(path, emit(self, self.apart().map(|_| SIDE_FILE)).as_bytes())
    }

    /// What is kept beside the child: the text, as the user wrote it where that is whole, and the
    /// file of shares that it names.
    pub(crate) fn record(&self) -> (String, Option<(&'static str, Vec<u8>)>) {
        let whole = self.text.as_ref().filter(|_| !self.groups_apart);
        match (whole, self.apart()) {
            (Some(text), _) => (text.clone(), None),
            (None, None) => (self.to_yaml(), None),
            (None, Some(groups)) => {
                let text = emit(self, Some(SIDE_FILE_OF_CHILD));
                (text, Some((SIDE_FILE_OF_CHILD, groups.to_bytes())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(values: &[f64]) -> Vec<Share> {
        values.iter().map(|t| Share::new(*t).unwrap()).collect()
    }

    fn read(bytes: &[u8]) -> Result<GroupShares, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SIDE_FILE);
        write_atomic(&path, bytes).unwrap();
        GroupShares::read(&path).map_err(|error| error.to_string())
    }

    /// A file of one tensor `a`.
    fn file(dtype: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let end = data.len();
        let header = format!(
            "{{\"a\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[0,{end}]}}}}"
        );
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.into_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn a_file_reads_back() {
        let mut groups = GroupShares::new();
        assert!(groups.is_empty());
        groups.insert("lm_head.weight", shares(&[0.0]));
        let before = groups.clone();
        groups.insert("layers.0.mlp.experts.down_proj", shares(&[-0.5, 1.5, 0.1 + 0.2]));
        assert_eq!((before.len(), groups.len(), groups.count()), (1, 2, 4));
        assert_eq!(groups.get("lm_head.weight"), Some(&shares(&[0.0])[..]));
        assert_eq!(read(&groups.to_bytes()).unwrap(), groups);
        assert_eq!(read(&GroupShares::new().to_bytes()).unwrap(), GroupShares::new());
    }

    #[test]
    fn hostile_files_are_refused_with_tensor_and_value() {
        let one = 1.0_f64.to_le_bytes();
        for (bytes, wanted) in [
            (file("F64", "[1]", &f64::NAN.to_le_bytes()), "tensor `a` [0] is NaN"),
            (
                file("F64", "[1]", &1.6_f64.to_le_bytes()),
                "[0] is 1.6: a share is 1.6, allowed is -0.5 to 1.5",
            ),
            (file("F64", "[2]", &[one, f64::INFINITY.to_le_bytes()].concat()), "[1] is inf"),
            (file("F32", "[2]", &one), "tensor `a` is F32 of shape [2]"),
            (file("F64", "[1,1]", &one), "of shape [1, 1]"),
            (file("F64", "[0]", &[]), "of shape [0]"),
            (file("F64", "[]", &one), "of shape []"),
            (file("F64", "[4]", &one), "do not hold shape [4]"),
            (b"merge_method: linear".to_vec(), "is not a safetensors file"),
            (Vec::new(), "too few"),
            (
                file("F64", "[200001]", &one.repeat(MAX_SHARES + 1)),
                "200001 shares, allowed are 200000",
            ),
        ] {
            let error = read(&bytes).unwrap_err();
            assert!(error.contains(wanted) && error.contains(SIDE_FILE), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large");
        std::fs::File::create(&large).unwrap().set_len(MAX_SIDE_BYTES + 1).unwrap();
        let error = GroupShares::read(&large).unwrap_err().to_string();
        assert!(error.contains("allowed are 67108864"), "{error}");
        assert!(GroupShares::read(folder.path()).is_err(), "a folder");
    }

    #[test]
    fn only_names_beside_the_recipe() {
        assert!(is_plain_name("shares.safetensors") && is_plain_name("a b"));
        for name in ["", ".", "..", "../a", "a/b", "/a", "a/.."] {
            assert!(!is_plain_name(name), "{name}");
        }
    }
}
