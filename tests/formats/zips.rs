//! Zip archives that are damaged, or that two programs would read in two ways.

use std::path::{Path, PathBuf};

use loramill::sd::checkpoint::model_file::ModelFile;
use zip::CompressionMethod;

use crate::formats::containers::fixture;
use crate::formats::crafted::{archive, crafted, dictionary, tensor};

fn model() -> Vec<u8> {
    dictionary([("t", tensor("0", 4, 0, &[4], &[1])), ("last", tensor("0", 4, 3, &[1], &[1]))])
}

fn storage() -> Vec<u8> {
    [1.0f32, 2.0, 3.0, 4.0].into_iter().flat_map(f32::to_le_bytes).collect()
}

fn made(folder: &Path, method: CompressionMethod) -> PathBuf {
    let path = folder.join("model.ckpt");
    archive(&path, &model(), &[("data/0", storage()), ("version", b"3\n".to_vec())], method);
    path
}

fn positions(bytes: &[u8], signature: &[u8]) -> Vec<usize> {
    (0..bytes.len()).filter(|at| bytes[*at..].starts_with(signature)).collect()
}

/// Changes the archive and gives the end of the error.
fn refused(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path(), CompressionMethod::Stored);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    let error = format!("{:#}", ModelFile::open(&path).unwrap_err());
    error.split_once("model.ckpt`: ").unwrap().1.to_string()
}

#[test]
fn one_flipped_bit_of_a_tensor_or_the_pickle_is_found() {
    let folder = tempfile::tempdir().unwrap();
    for (method, whole) in
        [(CompressionMethod::Stored, true), (CompressionMethod::Deflated, true), (CompressionMethod::Stored, false)]
    {
        let path = made(folder.path(), method);
        let mut bytes = std::fs::read(&path).unwrap();
        let file = ModelFile::open(&path).unwrap();
        assert_eq!(file.read_f32("t").unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(file.read_f32("last").unwrap(), [4.0]);
        let at = match method {
            CompressionMethod::Stored => positions(&bytes, &storage())[0],
            _ => positions(&bytes, b"a/data/0")[0] + 8 + 6,
        };
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        // A part of the storage too, though the bit is not in it.
        let error = format!("{:#}", ModelFile::open(&path).unwrap().read(if whole { "t" } else { "last" }).unwrap_err());
        // Of bytes that no longer inflate it is the decoder that complains.
        let is_found = error.ends_with("the file is damaged, download it again") || method == CompressionMethod::Deflated;
        assert!(is_found, "{error}");
    }
    let error = refused(|bytes| {
        let at = positions(bytes, b"FloatStorage")[0];
        bytes[at] ^= 1;
    });
    let says = "reading member `a/data.pkl`: its bytes are not those that were written, by their checksum: the file is damaged, \
                download it again";
    assert_eq!(error, says);
}

#[test]
fn a_file_whose_writer_reckoned_no_checksums_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path(), CompressionMethod::Stored);
    let mut bytes = std::fs::read(&path).unwrap();
    for (signature, at) in [(b"PK\x03\x04", 14), (b"PK\x01\x02", 16)] {
        positions(&bytes, signature).into_iter().for_each(|header| bytes[header + at..][..4].fill(0));
    }
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(ModelFile::open(&path).unwrap().read_f32("t").unwrap(), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn two_members_of_one_name_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ckpt");
    archive(&path, &model(), &[("data/0", storage()), ("data/1", vec![0; 16])], CompressionMethod::Stored);
    let mut bytes = std::fs::read(&path).unwrap();
    positions(&bytes, b"a/data/1").into_iter().for_each(|at| bytes[at + 7] = b'0');
    std::fs::write(&path, bytes).unwrap();
    let error = format!("{:#}", ModelFile::open(&path).unwrap_err());
    assert!(error.ends_with("member `a/data/0` is there twice: programs differ in which they read"), "{error}");
}

#[test]
fn two_pickles_in_two_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ckpt");
    archive(&path, &model(), &[("data/0", storage()), ("x/data.pkl", b"}.".to_vec())], CompressionMethod::Stored);
    let mut bytes = std::fs::read(&path).unwrap();
    positions(&bytes, b"a/x/data.pkl").into_iter().for_each(|at| bytes[at + 1] = b'a');
    std::fs::write(&path, bytes).unwrap();
    let error = format!("{:#}", ModelFile::open(&path).unwrap_err());
    assert!(error.ends_with("the zip archive has a `data.pkl` in two folders: programs differ in which they read"), "{error}");
}

#[test]
fn headers_that_overlap_or_contradict_each_other_are_refused() {
    // The directory says that `version` begins where `data/0` does.
    let error = refused(|bytes| {
        let rows = positions(bytes, b"PK\x01\x02");
        let first: [u8; 4] = bytes[rows[1] + 42..][..4].try_into().unwrap();
        bytes[rows[2] + 42..][..4].copy_from_slice(&first);
    });
    let differs = "its header says other things than the directory: programs differ in which they believe";
    assert_eq!(error, format!("member `a/version`: {differs}"));
    let error = refused(|bytes| {
        let header = positions(bytes, b"PK\x03\x04")[1];
        bytes[header + 18] ^= 1;
    });
    assert_eq!(error, format!("member `a/data/0`: {differs}"));
    // A member whose bytes hold another's header.
    let error = refused(|bytes| {
        let (header, row) = (positions(bytes, b"PK\x03\x04")[1], positions(bytes, b"PK\x01\x02")[1]);
        for at in [header + 18, header + 22, row + 20, row + 24] {
            bytes[at] = 40;
        }
    });
    assert_eq!(error, "members of the zip archive overlap: it was made to mislead, or is damaged");
}

#[test]
fn an_archive_that_is_encrypted_cut_or_a_program_is_refused() {
    let error = refused(|bytes| {
        let header = positions(bytes, b"PK\x03\x04")[1];
        bytes[header + 6] |= 1;
    });
    assert_eq!(error, "member `a/data/0`: it is encrypted");
    let error = refused(|bytes| bytes.truncate(bytes.len() - 1));
    assert!(error.starts_with("the zip archive is damaged or cut short: download the file again"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let members = [("data/0", storage()), ("code/__torch__.py", b"pass".to_vec())];
    let error = format!("{:#}", crafted(folder.path(), &model(), &members).unwrap_err());
    assert!(error.contains("this file carries code: it is a TorchScript program"), "{error}");
}

#[test]
fn what_archivers_write_is_read() {
    for name in ["zip.pt", "deflated.pt", "protocol4.pt", "lightning.ckpt"] {
        let file = ModelFile::open(&fixture(name)).unwrap();
        for tensor in file.tensors().keys() {
            file.read(tensor).unwrap();
        }
    }
}
