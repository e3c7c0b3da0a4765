//! A file that is written from its start to its end.
//!
//! A large one goes past the operating system's cache where the file system lets it: copying into
//! the cache costs as much processor time as a merge's arithmetic, pushes the parents out of it, and
//! a sync at the end would wait for all of it.

use darwin_core::fs::Stamp;
use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes from which on a file goes past the cache; what is smaller is likely to be read soon.
const LARGE: u64 = 128 << 20;

/// Addresses, places and lengths are multiples of this where the cache is passed.
pub(super) const PAGE: usize = 4096;

/// The file.
pub(super) struct Disk {
    file: File,
    bytes: u64,
    /// Whether the cache is passed.
    direct: AtomicBool,
}

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Memory at the start of a page.
pub(super) struct Segment(Vec<Page>);

impl Segment {
    /// So many pages.
    pub(super) fn new(pages: u64) -> Self {
        Self(vec![Page([0; PAGE]); pages as usize])
    }

    /// The first byte, for those who have parts of it while others have others.
    pub(super) fn first(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: a page is its bytes, without padding.
        unsafe { std::slice::from_raw_parts_mut(self.first(), self.0.len() * PAGE) }
    }
}

/// Bytes for the disk and their place in the file.
pub(super) struct Full {
    pub(super) segment: Segment,
    pub(super) len: usize,
    pub(super) at: u64,
}

impl Disk {
    /// A new file that will have so many bytes.
    pub(super) fn create(path: &Path, bytes: u64) -> Result<Self> {
        Self::create_as(path, bytes, bytes >= LARGE)
    }

    fn create_as(path: &Path, bytes: u64, direct: bool) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        if direct && let Some(file) = past_the_cache(&options, path) {
            return Ok(Self { file, bytes, direct: AtomicBool::new(true) });
        }
        Ok(Self { file: options.open(path)?, bytes, direct: AtomicBool::new(false) })
    }

    /// All bytes are on the disk.
    pub(super) fn sync(&self) -> Result<Stamp> {
        self.file.set_len(self.bytes)?;
        self.file.sync_all()?;
        Ok(self.file.metadata()?.into())
    }

    /// Writes bytes that begin where a page does; all but the last are whole pages.
    pub(super) fn write(&self, full: &mut Full) -> Result<()> {
        let Full { segment, len, at } = full;
        if self.direct.load(Ordering::Relaxed) {
            // Beyond the end of the file, which `sync` cuts off.
            let padded = len.next_multiple_of(PAGE);
            let bytes = &mut segment.bytes()[..padded];
            bytes[*len..].fill(0);
            match self.file.write_all_at(bytes, *at) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    through_the_cache(&self.file)?;
                    self.direct.store(false, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        self.file.write_all_at(&segment.bytes()[..*len], *at)?;
        start_writing(&self.file, *at, *len as u64)
    }
}

/// Opens a file so that writing passes the cache; `None` where that cannot be.
#[cfg(target_os = "linux")]
fn past_the_cache(options: &OpenOptions, path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    options.clone().custom_flags(libc::O_DIRECT).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn past_the_cache(_: &OpenOptions, _: &Path) -> Option<File> {
    None
}

/// Writing goes through the cache from now on.
#[cfg(target_os = "linux")]
fn through_the_cache(file: &File) -> Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: an open file and a number; no memory is handed over.
    let failed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) } != 0;
    if failed { Err(Error::last_os_error()) } else { Ok(()) }
}

#[cfg(not(target_os = "linux"))]
fn through_the_cache(_: &File) -> Result<()> {
    Ok(())
}

/// Starts to write a range of the cache and does not wait for it: a sync would hold up those that
/// write on.
#[cfg(target_os = "linux")]
fn start_writing(file: &File, at: u64, len: u64) -> Result<()> {
    use std::os::fd::AsRawFd;
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    let (fd, at, len) = (file.as_raw_fd(), at as i64, len as i64);
    // SAFETY: an open file and numbers; no memory is handed over.
    let failed = unsafe { libc::sync_file_range(fd, at, len, flags) } != 0;
    let error = Error::last_os_error();
    // Not every file system has it; the sync at the end writes all.
    let unknown = matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE));
    if failed && !unknown { Err(error) } else { Ok(()) }
}

#[cfg(not(target_os = "linux"))]
fn start_writing(_: &File, _: u64, _: u64) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Disk {
        /// An empty file that cannot be written.
        pub(in super::super) fn read_only(path: &Path) -> Self {
            File::create(path).unwrap();
            let file = File::open(path).unwrap();
            Self { file, bytes: 1 << 30, direct: AtomicBool::new(false) }
        }
    }

    #[test]
    fn a_file_is_the_same_past_the_cache_and_through_it() {
        for n in [0, 1, PAGE, 3 * PAGE + 5] {
            for direct in [true, false] {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("file");
                let bytes: Vec<u8> = (0..n).map(|i| ((i * i) >> 7) as u8).collect();
                let disk = Disk::create_as(&path, n as u64, direct).unwrap();
                for (i, part) in bytes.chunks(2 * PAGE).enumerate() {
                    let mut segment = Segment::new(2);
                    segment.bytes().fill(9);
                    segment.bytes()[..part.len()].copy_from_slice(part);
                    let at = (i * 2 * PAGE) as u64;
                    disk.write(&mut Full { segment, len: part.len(), at }).unwrap();
                }
                disk.sync().unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn what_the_file_system_refuses_goes_through_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let disk = Disk::create_as(&path, 20, true).unwrap();
        // No place for a page past the cache.
        let mut full = Full { segment: Segment::new(1), len: 10, at: 10 };
        full.segment.bytes().fill(7);
        disk.write(&mut full).unwrap();
        disk.sync().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [[0; 10], [7; 10]].concat());
    }
}
