//! Input files: regular files alone, and of a bounded size, for a path may come from a stranger.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// The largest JSON file beside a model's weights that is read: the index of the shards, the
/// configuration of a tokenizer.
pub const MAX_JSON_BYTES: u64 = 64 << 20;

/// The largest text that a person writes: recipes, configurations of runs, prompts.
pub const MAX_TEXT_BYTES: u64 = 4 << 20;

/// Opens a regular file for reading. A named pipe, which would wait for a writer for ever, a device,
/// which may have no end, and a folder are refused before they are opened; links are followed.
///
/// # Errors
/// Any error of opening; `IsADirectory` for a folder and `InvalidInput` for what else is no regular
/// file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    check_regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    // The name may stand for another file by now.
    check_regular(&file.metadata()?)?;
    Ok(file)
}

/// All bytes of a regular file that has at most `max_bytes`. The size is looked at before memory is
/// taken, and again while reading, since files can grow.
///
/// # Errors
/// Those of [`open_regular`] and of reading; `InvalidInput` where the file is larger;
/// `OutOfMemory` where it does not fit.
pub fn read_bounded(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let length = file.metadata()?.len();
    if length > max_bytes {
        return Err(too_large(length, max_bytes));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length as usize).map_err(|_| ErrorKind::OutOfMemory)?;
    let read = file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)? as u64;
    if read > max_bytes {
        return Err(too_large(read, max_bytes));
    }
    Ok(bytes)
}

/// As [`read_bounded`], as text.
///
/// # Errors
/// Those of [`read_bounded`]; `InvalidData` where the bytes are not UTF-8.
pub fn read_text_bounded(path: &Path, max_bytes: u64) -> io::Result<String> {
    String::from_utf8(read_bounded(path, max_bytes)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::new(ErrorKind::InvalidData, format!("it is not UTF-8 text from byte {at} on"))
    })
}

/// Refuses what is no regular file.
///
/// # Errors
/// `IsADirectory` for a folder, `InvalidInput` for anything else.
pub fn check_regular(found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(io::Error::new(ErrorKind::IsADirectory, "it is a folder, not a file"));
    }
    let what = what_it_is(kind);
    Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {what}, not a regular file")))
}

#[cfg(unix)]
fn what_it_is(kind: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match () {
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_socket() => "a socket",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => "something else",
    }
}

#[cfg(not(unix))]
fn what_it_is(_: fs::FileType) -> &'static str {
    "something else"
}

fn too_large(found: u64, max_bytes: u64) -> io::Error {
    let text = format!("it holds {found} bytes or more, allowed are {max_bytes}");
    io::Error::new(ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_refused_beyond() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("config.json");
        crate::fs::write_atomic(&path, b"{\"a\": 1}").expect("written");
        assert_eq!(read_bounded(&path, 8).expect("it fits"), b"{\"a\": 1}");
        let error = read_bounded(&path, 7).expect_err("it is larger");
        assert_eq!(Fault::of_io(&error), Fault::User);
        assert!(error.to_string().contains("allowed are 7"), "{error}");
        crate::fs::write_atomic(&path, b"abc\xff").expect("written");
        let error = read_text_bounded(&path, 8).expect_err("no text");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("from byte 3"), "{error}");
    }

    #[test]
    fn folders_devices_and_what_is_not_there_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        for (path, part) in [(dir.path(), "a folder"), (Path::new("/dev/zero"), "a device")] {
            let error = open_regular(path).expect_err("no regular file");
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(Fault::of_io(&error), Fault::User);
        }
        let link = dir.path().join("config.json");
        std::os::unix::fs::symlink("/dev/zero", &link).expect("a link");
        let error = read_bounded(&link, 8).expect_err("a link to a device");
        assert!(error.to_string().contains("a device"), "{error}");
        let missing = read_bounded(&dir.path().join("none"), 8).expect_err("nothing there");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_named_pipe_is_refused_without_waiting_for_its_writer() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("README.md");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo makes a pipe");
        let error = read_bounded(&path, 8).expect_err("a pipe");
        assert!(error.to_string().contains("a named pipe"), "{error}");
    }
}
