//! A compact binary encoding: little-endian base-128 numbers, texts with their length, digests as they are. The same values
//! always give the same bytes. Reading checks every length against what is left, so that damaged bytes are an error and never a
//! panic or a huge allocation. Unaware of what the bytes describe.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use crate::cache::artifact::{Artifact, Fields};
use crate::cache::digest::Digest;

/// Bytes under construction.
#[derive(Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    /// 1 to 10 bytes, 7 bits each, low bits first.
    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// The length in bytes, then UTF-8.
    pub(crate) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// 0, or 1 and the text.
    pub(crate) fn optional_text(&mut self, text: Option<&str>) {
        self.number(text.is_some().into());
        if let Some(text) = text {
            self.text(text);
        }
    }

    /// 32 bytes, without a length.
    pub(crate) fn digest(&mut self, digest: &Digest) {
        self.bytes.extend_from_slice(digest.as_bytes());
    }

    /// 8 bytes, little-endian: every value comes back bit for bit.
    pub(crate) fn float(&mut self, value: f64) {
        self.bytes.extend_from_slice(&value.to_bits().to_le_bytes());
    }

    /// The count, then name and text of each, in the order of the names.
    pub(crate) fn texts(&mut self, texts: &BTreeMap<String, String>) {
        self.number(texts.len() as u64);
        for (name, text) in texts {
            self.text(name);
            self.text(text);
        }
    }

    /// The count, then name, digest, size and extension of each, in the order of the names.
    pub(crate) fn artifacts(&mut self, artifacts: &Fields) {
        self.number(artifacts.len() as u64);
        for (name, artifact) in artifacts {
            self.text(name);
            self.digest(&artifact.digest);
            self.number(artifact.size);
            self.text(&artifact.extension);
        }
    }
}

/// A file that says what it is and knows when it is damaged: a header, what was written after it, and a checksum of both.
pub(crate) fn sealed(header: &[u8; 16], write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.bytes.extend_from_slice(header);
    write(&mut writer);
    let checksum = Digest::of(&writer.bytes);
    writer.digest(&checksum);
    writer.bytes
}

/// Reads what `sealed` gave, to its end.
pub(crate) fn unsealed<T>(header: &[u8; 16], bytes: &[u8], read: impl FnOnce(&mut Reader<'_>) -> Result<T>) -> Result<T> {
    let (content, checksum) = bytes.split_at(bytes.len().saturating_sub(32));
    ensure!(Digest::of(content).as_bytes() == checksum, "damaged");
    let mut reader = Reader::new(content);
    ensure!(reader.bytes(header.len())? == header, "of another version");
    let value = read(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// Bytes that are read from the front.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins at the first byte.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `count` bytes, as they are; an error if fewer are left.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).context("the bytes end too early")?;
        self.rest = rest;
        Ok(taken)
    }

    /// What `Writer::number` wrote; an error if it does not fit into 64 bits.
    pub(crate) fn number(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes(1)?[0];
            let bits = u64::from(byte & 0x7f);
            ensure!(bits << shift >> shift == bits, "a number has too many bits");
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        anyhow::bail!("a number has too many bytes")
    }

    /// A number of things that take at least one byte each.
    pub(crate) fn count(&mut self) -> Result<usize> {
        let count = self.number()?;
        ensure!(count <= self.rest.len() as u64, "a count is larger than the bytes that are left");
        Ok(count as usize)
    }

    /// What `Writer::text` wrote; an error if it is not UTF-8.
    pub(crate) fn text(&mut self) -> Result<&'a str> {
        let length = self.count()?;
        std::str::from_utf8(self.bytes(length)?).context("a text is not UTF-8")
    }

    /// What `Writer::optional_text` wrote; an error if it begins with neither 0 nor 1.
    pub(crate) fn optional_text(&mut self) -> Result<Option<&'a str>> {
        match self.number()? {
            0 => Ok(None),
            1 => self.text().map(Some),
            other => anyhow::bail!("expected 0 or 1, found {other}"),
        }
    }

    /// The next 32 bytes. Any 32 bytes are a digest.
    pub(crate) fn digest(&mut self) -> Result<Digest> {
        let bytes = self.bytes(32)?.try_into().expect("32 bytes were taken");
        Ok(Digest::from_bytes(bytes))
    }

    /// The next 8 bytes. Any 8 bytes are a float, which may be infinite or NaN.
    pub(crate) fn float(&mut self) -> Result<f64> {
        let bytes = self.bytes(8)?.try_into().expect("8 bytes were taken");
        Ok(f64::from_bits(u64::from_le_bytes(bytes)))
    }

    /// What `Writer::texts` wrote. Of a name that comes twice the last text counts.
    pub(crate) fn texts(&mut self) -> Result<BTreeMap<String, String>> {
        let count = self.count()?;
        (0..count).map(|_| Ok((self.text()?.to_string(), self.text()?.to_string()))).collect()
    }

    /// What `Writer::artifacts` wrote. Does not look whether the objects are in the store.
    pub(crate) fn artifacts(&mut self) -> Result<Fields> {
        let count = self.count()?;
        (0..count)
            .map(|_| {
                let name = self.text()?;
                let digest = self.digest()?;
                let size = self.number()?;
                let extension = self.text()?.into();
                Ok((name, Artifact { digest, size, extension }))
            })
            .collect()
    }

    /// An error if bytes are left: whoever wrote them meant something that was not read.
    pub(crate) fn finish(self) -> Result<()> {
        ensure!(self.rest.is_empty(), "{} bytes too many", self.rest.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_come_back() {
        for value in (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit]).chain([u64::MAX]) {
            let mut writer = Writer::default();
            writer.number(value);
            let mut reader = Reader::new(&writer.bytes);
            assert_eq!(reader.number().unwrap(), value);
            reader.finish().unwrap();
        }
    }

    #[test]
    fn a_number_beyond_64_bits_is_an_error() {
        assert!(Reader::new(&[0xff; 11]).number().is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).number().is_err());
    }

    #[test]
    fn a_count_cannot_exceed_what_is_left() {
        let mut writer = Writer::default();
        writer.number(u64::MAX);
        assert!(Reader::new(&writer.bytes).text().is_err());
        assert!(Reader::new(&writer.bytes).artifacts().is_err());
    }
}
