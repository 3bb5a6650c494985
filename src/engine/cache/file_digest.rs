//! Digests of files, read in pieces into memory of our own: a file that somebody cuts short under a memory map would end the
//! process.
//!
//! BLAKE3 is a tree. Of a large file each thread reads and hashes pieces of its own, which then are still in its cache, and the
//! digests of pieces are joined to that of the whole.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write};
use std::os::unix::fs::FileExt as _;

use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use crate::cache::digest::Digest;

/// What a thread reads and hashes at a time: fits its cache, and is a power of two as subtrees are.
const PIECE: u64 = 256 << 10;
/// From this size on a file is hashed by several threads.
const PARALLEL: u64 = 4 * PIECE;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE as usize]);
}

/// Digest and number of the bytes of a file that has just been opened.
pub(crate) fn of_open(mut file: File) -> io::Result<(Digest, u64)> {
    let size = file.metadata()?.len();
    if size >= PARALLEL {
        match of_large(&file, size) {
            // Somebody has cut it short meanwhile: what is there counts.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            digest => return Ok((digest?.into(), size)),
        }
    }
    let mut hasher = blake3::Hasher::new();
    BUFFER.with_borrow_mut(|buffer| {
        loop {
            match file.read(buffer) {
                Ok(0) => return Ok((hasher.finalize().into(), hasher.count())),
                Ok(count) => drop(hasher.update(&buffer[..count])),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    })
}

/// Why bytes were not copied.
pub(crate) enum CopyError {
    Reading(io::Error),
    Writing(io::Error),
}

/// Hashes what is written through it. Of large pieces one thread takes the digest while another writes: neither waits for the
/// other, and nobody has to read the file again.
pub struct HashingWriter<W> {
    inner: W,
    hasher: blake3::Hasher,
}

impl<W: Write> HashingWriter<W> {
    /// Counts and hashes from here on; what `inner` holds already does not count.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: blake3::Hasher::new() }
    }

    /// Digest and number of the bytes that were written.
    pub fn finish(self) -> (Digest, u64) {
        (self.hasher.finalize().into(), self.hasher.count())
    }
}

impl<W: Write + Send> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() < PIECE as usize {
            let count = self.inner.write(bytes)?;
            self.hasher.update(&bytes[..count]);
            return Ok(count);
        }
        let (inner, hasher) = (&mut self.inner, &mut self.hasher);
        let (written, _) = rayon::join(|| inner.write_all(bytes), || hasher.update(bytes));
        written?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Copies a file that has just been opened; the digest of what was copied.
pub(crate) fn copy(mut source: File, target: &mut impl io::Write) -> Result<Digest, CopyError> {
    let mut hasher = blake3::Hasher::new();
    BUFFER.with_borrow_mut(|buffer| {
        loop {
            let count = match source.read(buffer) {
                Ok(0) => return Ok(hasher.finalize().into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(CopyError::Reading(error)),
            };
            hasher.update(&buffer[..count]);
            target.write_all(&buffer[..count]).map_err(CopyError::Writing)?;
        }
    })
}

/// Of the first `size` bytes, more than one piece.
fn of_large(file: &File, size: u64) -> io::Result<blake3::Hash> {
    let (left, right) = halves(file, 0, size)?;
    Ok(merge_subtrees_root(&left, &right, Mode::Hash))
}

/// The two subtrees of `length` bytes at `offset`.
fn halves(file: &File, offset: u64, length: u64) -> io::Result<(ChainingValue, ChainingValue)> {
    let left = left_subtree_len(length);
    let (left, right) = rayon::join(|| subtree(file, offset, left), || subtree(file, offset + left, length - left));
    Ok((left?, right?))
}

fn subtree(file: &File, offset: u64, length: u64) -> io::Result<ChainingValue> {
    if length > PIECE {
        let (left, right) = halves(file, offset, length)?;
        return Ok(merge_subtrees_non_root(&left, &right, Mode::Hash));
    }
    BUFFER.with_borrow_mut(|buffer| {
        let piece = &mut buffer[..length as usize];
        file.read_exact_at(piece, offset)?;
        Ok(blake3::Hasher::new().set_input_offset(offset).update(piece).finalize_non_root())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_every_kind_of_length_have_the_digest_of_their_contents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, 1025, PIECE - 1, PIECE, PARALLEL - 1, PARALLEL, PARALLEL + 1, 2 * PARALLEL + 1, 9 * PIECE] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 7 + i / 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(of_open(File::open(&path).unwrap()).unwrap(), (Digest::of(&bytes), length), "{length} bytes");
            let mut copied = Vec::new();
            let digest = copy(File::open(&path).unwrap(), &mut copied);
            assert!(digest.is_ok_and(|digest| digest == Digest::of(&bytes)) && copied == bytes, "{length} bytes");
            let mut writer = HashingWriter::new(Vec::new());
            let (front, back) = bytes.split_at(bytes.len() / 3);
            writer.write_all(front).and_then(|()| writer.write_all(back)).unwrap();
            assert!(writer.inner == bytes && writer.finish() == (Digest::of(&bytes), length), "{length} bytes");
        }
    }
}
