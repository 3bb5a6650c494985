//! Digests of files, read in pieces into memory of our own: a file that somebody cuts short under a memory map would end the process.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cache::digest::Digest;

/// From this size on a piece is hashed by several threads.
const PARALLEL: usize = 1 << 20;
const PIECE: usize = 8 << 20;

/// Digest and size of the contents.
pub(crate) fn of_file(path: &Path) -> Result<(Digest, u64)> {
    let file = File::open(path).with_context(|| format!("opening `{}`", path.display()))?;
    of_open(file).with_context(|| format!("reading `{}`", path.display()))
}

/// Digest and number of the bytes from here to the end.
pub(crate) fn of_open(mut file: File) -> io::Result<(Digest, u64)> {
    let expected = file.metadata()?.len();
    // One byte more than expected, so that the end is seen without growing.
    let length = (expected as usize).saturating_add(1).clamp(4096, PIECE);
    let mut hasher = blake3::Hasher::new();
    let (mut piece, mut next) = (vec![0; length], Vec::new());
    let mut got = fill(&mut file, &mut piece)?;
    let mut size = 0;
    loop {
        size += got as u64;
        if got < length {
            hash(&mut hasher, &piece[..got]);
            return Ok((hasher.finalize().into(), size));
        }
        // The next piece is read while this one is hashed.
        next.resize(length, 0);
        let (read, ()) = rayon::join(|| fill(&mut file, &mut next), || hash(&mut hasher, &piece));
        got = read?;
        std::mem::swap(&mut piece, &mut next);
    }
}

/// Reads until the buffer is full or the file at its end.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

fn hash(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    if bytes.len() >= PARALLEL {
        hasher.update_rayon(bytes);
    } else {
        hasher.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_every_kind_of_length_have_the_digest_of_their_contents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, 4095, 4096, 4097, PARALLEL, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 7 + i / 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(of_file(&path).unwrap(), (Digest::of(&bytes), length as u64), "{length} bytes");
        }
    }
}
