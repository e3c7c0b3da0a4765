//! Derivatives on the disk, so that a run that continues need not compute them again.

use crate::Error;
use crate::job::{Slope, Slopes};
use darwin_core::fs::{read_bounded, write_atomic};
use darwin_core::hash::sha256_hex;
use std::path::{Path, PathBuf};

/// Where the derivatives of a job are.
fn path(folder: &Path, job: u64) -> PathBuf {
    folder.join(format!("{job}.slopes"))
}

/// Writes a job's derivatives: for each domain its name's length, its name, then values and errors as
/// little-endian float32. Gives their SHA-256.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn write(folder: &Path, job: u64, slopes: &Slopes) -> Result<String, Error> {
    let groups = slopes.domains.values().next().map_or(0, |slope| slope.value.len());
    let mut bytes = (groups as u64).to_le_bytes().to_vec();
    for (domain, slope) in &slopes.domains {
        let name = domain.as_str().as_bytes();
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name);
        let values = slope.value.iter().chain(&slope.se);
        bytes.extend(values.flat_map(|v| v.to_le_bytes()));
    }
    let at = path(folder, job);
    let io = |source| Error::Io { path: at.clone(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    write_atomic(&at, &bytes).map_err(io)?;
    Ok(sha256_hex(&bytes))
}

/// A job's derivatives, where the file is there and whole.
pub(crate) fn read(folder: &Path, job: u64, sha256: &str) -> Option<Slopes> {
    const MOST: u64 = 1 << 30;
    let bytes = read_bounded(&path(folder, job), MOST).ok()?;
    if sha256_hex(&bytes) != sha256 {
        return None;
    }
    let mut rest = bytes.as_slice();
    let groups = number(&mut rest)?;
    let mut slopes = Slopes::default();
    while !rest.is_empty() {
        let length = number(&mut rest)?;
        let name = take(&mut rest, length)?;
        let domain = std::str::from_utf8(name).ok()?.parse().ok()?;
        let mut values = || {
            let bytes = take(&mut rest, groups.checked_mul(4)?)?;
            let value = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes"));
            Some(bytes.chunks_exact(4).map(value).collect())
        };
        let slope = Slope { value: values()?, se: values()? };
        slopes.domains.insert(domain, slope);
    }
    Some(slopes)
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let bytes = take(rest, 8)?;
    usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(n)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_come_back_unless_they_were_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let slope = |v: f32| Slope { value: vec![v, -v], se: vec![0.5, f32::MIN_POSITIVE] };
        let domain = |name: &str| name.parse().expect("a domain");
        let domains = [(domain("math"), slope(0.1)), (domain("x-own"), slope(-3.0))].into();
        let slopes = Slopes { domains };
        let sha256 = write(folder.path(), 7, &slopes).expect("written");
        assert_eq!(read(folder.path(), 7, &sha256), Some(slopes));
        assert_eq!(read(folder.path(), 8, &sha256), None);
        let at = path(folder.path(), 7);
        let mut bytes = std::fs::read(&at).expect("there");
        bytes.pop();
        write_atomic(&at, &bytes).expect("written");
        assert_eq!(read(folder.path(), 7, &sha256), None);
        assert_eq!(read(folder.path(), 7, &sha256_hex(&bytes)), None);
    }
}
