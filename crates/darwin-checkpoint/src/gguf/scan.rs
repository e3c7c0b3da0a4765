//! Reading a header from front to back: no length is believed before it is compared with the bytes
//! that are there.

use crate::Error;
use std::fs::File;
use std::io::{BufReader, Read};

/// A file under reading, from its start.
pub(super) struct Scan<'a> {
    file: &'a str,
    reader: BufReader<&'a File>,
    at: u64,
    /// Bytes of the file.
    length: u64,
    /// The header ends here at the latest.
    limit: u64,
}

impl<'a> Scan<'a> {
    /// Scans a file of `length` bytes, of which the header may take `limit`.
    pub(super) fn new(file: &'a str, handle: &'a File, length: u64, limit: u64) -> Self {
        let reader = BufReader::with_capacity(1 << 16, handle);
        Self { file, reader, at: 0, length, limit }
    }

    /// The file's name, for messages.
    pub(super) fn file(&self) -> &str {
        self.file
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Bytes that the header may still have.
    pub(super) fn left(&self) -> u64 {
        self.length.min(self.limit).saturating_sub(self.at)
    }

    /// Fails unless `bytes` more can follow.
    pub(super) fn expect(&self, bytes: u64, what: &str) -> Result<(), Error> {
        if bytes <= self.left() {
            return Ok(());
        }
        let has = if self.length <= self.limit {
            format!("the file has {}", self.length)
        } else {
            format!("a header may have {}", self.limit)
        };
        Err(Error::one(
            format!("{}: {what} needs {bytes} bytes from byte {} on, {has}", self.file, self.at),
            "the file is damaged or cut short: download it again",
        ))
    }

    fn fill(&mut self, out: &mut [u8], what: &str) -> Result<(), Error> {
        self.expect(out.len() as u64, what)?;
        self.reader.read_exact(out).map_err(|e| {
            Error::one(
                format!("{}: cannot read {what}: {e}", self.file),
                "the file is damaged or cut short: download it again",
            )
        })?;
        self.at += out.len() as u64;
        Ok(())
    }

    /// Passes over bytes.
    pub(super) fn skip(&mut self, bytes: u64, what: &str) -> Result<(), Error> {
        self.expect(bytes, what)?;
        let mut buffer = [0; 1 << 10];
        let mut left = bytes;
        while left > 0 {
            let count = left.min(buffer.len() as u64) as usize;
            self.fill(&mut buffer[..count], what)?;
            left -= count as u64;
        }
        Ok(())
    }

    /// The next bytes.
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    /// A number of 32 bits.
    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Error> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// A number of 64 bits.
    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Error> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A text with its length before it.
    pub(super) fn text(&mut self, what: &str) -> Result<String, Error> {
        let length = self.u64(what)?;
        self.expect(length, what)?;
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes, what)?;
        String::from_utf8(bytes).map_err(|e| {
            let shown = String::from_utf8_lossy(e.as_bytes()).chars().take(40).collect::<String>();
            Error::one(
                format!("{}: {what} is no UTF-8 text: `{shown}`", self.file),
                "the file is damaged: download it again",
            )
        })
    }
}
