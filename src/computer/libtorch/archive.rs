//! The directory of a wheel, a zip archive, and reading one member by what a RECORD says of it. Unaware of where the bytes come from.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;

use anyhow::{Context as _, Result, bail, ensure};
use flate2::bufread::DeflateDecoder;
use zip::CompressionMethod;

use crate::computer::libtorch::remote_file::RemoteFile;

/// The fixed part of what stands before a member's bytes; APPNOTE.TXT, 4.3.7.
const LOCAL_HEADER: usize = 30;

/// The bytes of a wheel.
pub enum WheelFile {
    Remote(RemoteFile),
    Local(File),
}

impl Read for WheelFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Remote(file) => file.read(buffer),
            Self::Local(file) => file.read(buffer),
        }
    }
}

impl Seek for WheelFile {
    fn seek(&mut self, target: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Remote(file) => file.seek(target),
            Self::Local(file) => file.seek(target),
        }
    }
}

/// Where a member lies, packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// From its header to the next member.
    pub span: Range<u64>,
    packed: u64,
    /// What the directory says of its size unpacked.
    pub size: u64,
    is_deflated: bool,
}

/// A wheel, open, with its directory in memory.
pub struct Archive {
    file: WheelFile,
    members: HashMap<String, Packed>,
}

impl Archive {
    /// Reads the directory.
    ///
    /// # Errors
    /// It is none, or cannot be read.
    pub fn open(file: WheelFile) -> Result<Self> {
        let archive = zip::ZipArchive::new(file).context("reading its directory")?;
        let end = archive.central_directory_start();
        let mut found: Vec<(u64, String, Packed)> = Vec::with_capacity(archive.len());
        for index in 0..archive.len() {
            let entry = archive.by_index_data(index).context("reading its directory")?;
            let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
            let is_deflated = match entry.compression() {
                CompressionMethod::Stored => false,
                CompressionMethod::Deflated => true,
                method => bail!("its member `{name}` is compressed by {method}, which no wheel of PyTorch is"),
            };
            ensure!(!entry.encrypted(), "its member `{name}` is encrypted");
            let (packed, size) = (entry.compressed_size(), entry.size());
            found.push((entry.header_start(), name, Packed { span: 0..0, packed, size, is_deflated }));
        }
        found.sort_by_key(|(start, _, _)| *start);
        let ends: Vec<u64> = found.iter().skip(1).map(|(start, _, _)| *start).chain([end]).collect();
        let spanned = found.into_iter().zip(ends);
        let members = spanned.map(|((start, name, packed), end)| (name, Packed { span: start..end, ..packed })).collect();
        Ok(Self { file: archive.into_inner(), members })
    }

    /// `path`: as the directory of the wheel has it. `None` if there is no such member.
    pub fn member(&self, path: &str) -> Option<&Packed> {
        self.members.get(path)
    }

    /// Says that the members in `span` will be read, and in order.
    pub fn announce(&mut self, span: Range<u64>) {
        if let WheelFile::Remote(file) = &mut self.file {
            file.announce(span);
        }
    }

    /// The bytes of a member, unpacked. There may be more than anybody said: whoever reads counts.
    ///
    /// # Errors
    /// The header before them is none.
    pub fn read(&mut self, member: &Packed) -> Result<Box<dyn Read + '_>> {
        self.file.seek(SeekFrom::Start(member.span.start))?;
        let mut header = [0; LOCAL_HEADER];
        self.file.read_exact(&mut header)?;
        ensure!(header.starts_with(b"PK\x03\x04"), "there is no member at byte {}", member.span.start);
        let length = |at: usize| i64::from(u16::from_le_bytes([header[at], header[at + 1]]));
        self.file.seek(SeekFrom::Current(length(26) + length(28)))?;
        let packed = BufReader::with_capacity(64 << 10, (&mut self.file).take(member.packed));
        Ok(if member.is_deflated { Box::new(DeflateDecoder::new(packed)) } else { Box::new(packed) })
    }
}
