//! A file on a server, read by ranges so that only the parts that are needed travel; or fetched whole. Unaware of what is in it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use ureq::http::{StatusCode, header};

use crate::computer::libtorch::client::{Client, Failure, header_text};

/// Read at once where nothing was announced: a wheel's directory takes three of them at most, a small wheel one or two.
const BLOCK: u64 = 512 << 10;

/// Read at once of what was announced.
const PIECE: u64 = 4 << 20;

/// What may be read without an announcement: the directory of torch's wheel has 1.5 MB, its RECORD 0.5 MB.
const UNANNOUNCED: u64 = 32 << 20;

/// What a server says of a file when asked for one byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Parts of it may be asked for.
    pub ranged: bool,
    /// In bytes, if the server says it.
    pub size: Option<u64>,
}

/// Asks a server for one byte of a file: a promise of ranges in a header may be broken, a given range is one.
///
/// # Errors
/// `NetworkTrouble`.
pub fn probe(client: &Client, url: &str) -> Result<Probe> {
    client.patiently(url, || {
        let response = client.ask(url, Some(0..1), None)?;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = header_text(&response, header::CONTENT_RANGE);
            let size = range.rsplit('/').next().and_then(|size| size.parse().ok());
            return Ok(Probe { ranged: size.is_some(), size });
        }
        Ok(Probe { ranged: false, size: header_text(&response, header::CONTENT_LENGTH).parse().ok() })
    })
}

/// How many bytes have travelled.
pub type Travelled = Rc<Cell<u64>>;

/// A file on a server that gives ranges of it.
pub struct RemoteFile {
    client: Rc<Client>,
    url: String,
    size: u64,
    at: u64,
    /// By number, of what was read without an announcement.
    blocks: BTreeMap<u64, Vec<u8>>,
    announced: Range<u64>,
    /// The last piece of what was announced, and where it begins.
    piece: (u64, Vec<u8>),
    travelled: Travelled,
}

impl RemoteFile {
    /// Stands at the first byte, and asks the server nothing. `size`: in bytes. What is fetched is added to `travelled`.
    pub const fn new(client: Rc<Client>, url: String, size: u64, travelled: Travelled) -> Self {
        Self { client, url, size, at: 0, blocks: BTreeMap::new(), announced: 0..0, piece: (0, Vec::new()), travelled }
    }

    /// Says that all of `range` will be read, and in order: it is fetched in large pieces, and nothing beyond it.
    pub fn announce(&mut self, range: Range<u64>) {
        self.announced = range.start..range.end.min(self.size);
    }

    /// The bytes from `self.at` on, at least one.
    fn available(&mut self) -> Result<&[u8]> {
        let within = |start: u64, bytes: &Vec<u8>| (start..start + bytes.len() as u64).contains(&self.at);
        if within(self.piece.0, &self.piece.1) {
            return Ok(&self.piece.1[(self.at - self.piece.0) as usize..]);
        }
        let number = self.at / BLOCK;
        if !self.blocks.contains_key(&number) {
            if self.announced.contains(&self.at) {
                let end = self.announced.end.min(self.at + PIECE);
                self.piece = (self.at, fetch_range(&self.client, &self.url, self.at..end, &self.travelled)?);
                return Ok(&self.piece.1);
            }
            anyhow::ensure!(
                (self.blocks.len() as u64 + 1) * BLOCK <= UNANNOUNCED,
                "the directory of `{}` takes more than {} MiB: it is no wheel of PyTorch",
                self.url,
                UNANNOUNCED >> 20
            );
            let range = number * BLOCK..self.size.min((number + 1) * BLOCK);
            let bytes = fetch_range(&self.client, &self.url, range, &self.travelled)?;
            self.blocks.insert(number, bytes);
        }
        Ok(&self.blocks[&number][(self.at % BLOCK) as usize..])
    }
}

impl Read for RemoteFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.size || buffer.is_empty() {
            return Ok(0);
        }
        let bytes = self.available().map_err(io::Error::other)?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for RemoteFile {
    fn seek(&mut self, target: SeekFrom) -> io::Result<u64> {
        let at = match target {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(distance) => self.size.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.at.checked_add_signed(distance),
        };
        self.at = at.ok_or_else(|| io::Error::other("the wheel's directory points outside of the wheel"))?;
        Ok(self.at)
    }
}

fn fetch_range(client: &Client, url: &str, range: Range<u64>, travelled: &Travelled) -> Result<Vec<u8>> {
    client.patiently(url, || {
        let response = client.ask(url, Some(range.clone()), None)?;
        let given = header_text(&response, header::CONTENT_RANGE);
        if response.status() != StatusCode::PARTIAL_CONTENT || !given.starts_with(&format!("bytes {}-", range.start)) {
            return Err(Failure::Lasting("the server gave a part of the file before, and now gives another".to_string()));
        }
        let length = range.end - range.start;
        let mut bytes = Vec::with_capacity(length as usize);
        response.into_body().into_reader().take(length).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < length {
            return Err(cut_off(bytes.len() as u64, length));
        }
        travelled.set(travelled.get() + length);
        Ok(bytes)
    })
}

fn cut_off(got: u64, wanted: u64) -> Failure {
    Failure::Passing(format!("the connection ended after {got} of {wanted} bytes"))
}

/// Fetches a whole file to `to`. Where the server gives ranges it goes on behind what is there already; the caller compares the hash.
///
/// `tick` is called as bytes arrive.
///
/// # Errors
/// `NetworkTrouble`, or `to` cannot be written.
pub fn download(
    client: &Client,
    url: &str,
    probe: Probe,
    to: &Path,
    travelled: &Travelled,
    tick: &mut dyn FnMut(),
) -> Result<()> {
    let writing = || format!("writing `{}`", to.display());
    if let Probe { ranged: true, size: Some(size) } = probe {
        let mut file = OpenOptions::new().create(true).append(true).open(to).with_context(writing)?;
        let mut at = file.metadata().with_context(writing)?.len();
        while at < size {
            let piece = fetch_range(client, url, at..size.min(at + PIECE), travelled)?;
            file.write_all(&piece).with_context(writing)?;
            at += piece.len() as u64;
            tick();
        }
        return Ok(());
    }
    let mut trouble = None;
    let before = travelled.get();
    let done = client.patiently(url, || {
        travelled.set(before);
        let response = client.ask(url, None, None)?;
        let mut file = match File::create(to) {
            Ok(file) => file,
            Err(error) => {
                trouble = Some(error);
                return Err(Failure::Lasting("the file cannot be written".to_string()));
            }
        };
        // A server that sends more than it promised, or than is pinned, must not fill the disk.
        let limit = probe.size.unwrap_or(u64::MAX);
        let mut body = response.into_body().into_reader().take(limit);
        let (mut buffer, mut got) = (vec![0; 256 << 10], 0u64);
        loop {
            let count = body.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            if let Err(error) = file.write_all(&buffer[..count]) {
                trouble = Some(error);
                return Err(Failure::Lasting("the file cannot be written".to_string()));
            }
            got += count as u64;
            travelled.set(before + got);
            tick();
        }
        match probe.size {
            Some(size) if got < size => Err(cut_off(got, size)),
            _ => Ok(()),
        }
    });
    match trouble {
        Some(error) => Err(error).with_context(writing),
        None => done,
    }
}
