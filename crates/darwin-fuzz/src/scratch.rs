//! Where targets write the files that they read: in memory where the system has a folder there,
//! one folder a thread, used again and again.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Has this process's folders made in a folder that the caller removes: what a killed process
/// leaves goes with it. Without effect once a target has run.
pub fn scratch_in(folder: &Path) {
    let _ = ROOT.set(folder.to_owned());
}

thread_local! {
    static FOLDER: TempDir = {
        let root = ROOT.get_or_init(|| PathBuf::from("/dev/shm"));
        TempDir::new_in(root).or_else(|_| TempDir::new()).expect("a folder for temporary files")
    };
}

/// A folder of this thread. `fill` is called where it is new.
pub(crate) fn folder(name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let path = FOLDER.with(|folder| folder.path().join(name));
    if !path.exists() {
        std::fs::create_dir_all(&path).expect("a folder for temporary files");
        fill(&path);
    }
    path
}

/// Writes a file that only this thread reads.
pub(crate) fn put(path: &Path, bytes: &[u8]) {
    let written = File::create(path).and_then(|mut file| file.write_all(bytes));
    written.expect("the folder for temporary files can be written");
}
