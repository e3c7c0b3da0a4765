//! Models by their name on the Hub (mergekit 0.1.5, `common.py`): found in the cache that its libraries keep on
//! this disk. Nothing is downloaded.

use super::emit::quote;
use darwin_core::fs::read_text_bounded;
use std::path::{Component, Path, PathBuf};

/// The largest file with the name of a commit.
const MAX_REF_BYTES: u64 = 1 << 10;

/// A revision of a model on the Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubRef {
    /// Its name there, `owner/name`.
    pub name: String,
    /// Branch, tag or commit.
    pub revision: String,
}

impl HubRef {
    /// The name that recipes, plans and manifests use: `owner/name@revision`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}@{}", self.name, self.revision)
    }

    /// The model and commit behind a snapshot's folder in a cache of the Hub:
    /// `models--OWNER--NAME/snapshots/COMMIT`, links followed.
    #[must_use]
    pub fn of_snapshot(folder: &Path) -> Option<Self> {
        let whole = folder.canonicalize().ok()?;
        let part = |path: &Path| path.file_name()?.to_str().map(str::to_owned);
        let snapshots = whole.parent()?;
        let model = part(snapshots.parent()?)?;
        let name = model.strip_prefix("models--")?.replace("--", "/");
        let plain = is_plain(&name) && name.split('/').count() <= 2;
        (plain && part(snapshots)? == "snapshots").then_some(())?;
        Some(Self { name, revision: part(&whole)? })
    }

    /// The reference in YAML, as what stands behind `model:`.
    pub(super) fn emit(&self) -> String {
        format!("{{path: {}, revision: {}}}", quote(&self.name), quote(&self.revision))
    }
}

/// The folder in which the Hub's libraries keep what they downloaded: `models--OWNER--NAME` with
/// `refs` (the commit of a branch or tag) and `snapshots` (a folder for each commit).
#[derive(Clone, Debug)]
pub struct HubCache(PathBuf);

impl HubCache {
    /// The cache in a folder, which need not be there.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// The snapshot of a model, `main` unless a revision is named, where it was downloaded.
    #[must_use]
    pub fn snapshot(&self, name: &str, revision: Option<&str>) -> Option<PathBuf> {
        if name.split('/').count() > 2 || !is_plain(name) {
            return None;
        }
        let revision = revision.unwrap_or("main");
        if !is_plain(revision) {
            return None;
        }
        let model = self.0.join(format!("models--{}", name.replace('/', "--")));
        let commit = read_text_bounded(&model.join("refs").join(revision), MAX_REF_BYTES).ok();
        let commit = commit.as_deref().map_or(revision, str::trim);
        let folder = model.join("snapshots").join(commit);
        (is_plain(commit) && folder.is_dir()).then_some(folder)
    }
}

/// Whether a text is a path that stays where it is.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && Path::new(text).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_found_by_branch_and_by_commit_and_nowhere_else() {
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("models--owner--name");
        let snapshot = model.join("snapshots/0a1b");
        for folder in [&snapshot, &model.join("refs/pr")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        for (branch, commit) in
            [("main", "0a1b\n"), ("pr/1", "0a1b"), ("gone", "ffff"), ("out", "../..")]
        {
            darwin_core::fs::write_atomic(&model.join("refs").join(branch), commit.as_bytes())
                .unwrap();
        }
        let hub = HubCache::new(cache.path().to_owned());
        let found = Some(snapshot);
        for revision in [None, Some("main"), Some("pr/1"), Some("0a1b")] {
            assert_eq!(hub.snapshot("owner/name", revision), found, "{revision:?}");
        }
        let hub_ref = HubRef::of_snapshot(found.as_deref().unwrap()).unwrap();
        assert_eq!(hub_ref.full_name(), "owner/name@0a1b");
        assert_eq!(HubRef::of_snapshot(&model), None);
        assert_eq!(HubRef::of_snapshot(cache.path()), None);
        for revision in ["gone", "out", "2", "", "../snapshots/0a1b"] {
            assert_eq!(hub.snapshot("owner/name", Some(revision)), None, "{revision}");
        }
        for name in ["owner/other", "../models--owner--name", "/owner/name", "a/b/c", ""] {
            assert_eq!(hub.snapshot(name, None), None, "{name}");
        }
    }
}
