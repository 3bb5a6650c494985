//! Model files made by hand, for tests of what no program would write.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::checkpoint::safetensors;
use loramill::sd::checkpoint::tensor::{Dtype, TensorData};
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

/// A zip as `torch.save` makes it, around a pickle of our own.
pub(crate) fn archive(path: &Path, pickle: &[u8], members: &[(&str, Vec<u8>)], method: CompressionMethod) {
    let mut archive = zip::ZipWriter::new(File::create(path).unwrap());
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in [("data.pkl", pickle.to_vec())].iter().chain(members) {
        archive.start_file(format!("a/{name}"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

/// What opening a zip with this pickle gives.
pub(crate) fn crafted(folder: &Path, pickle: &[u8], members: &[(&str, Vec<u8>)]) -> anyhow::Result<ModelFile> {
    let path: PathBuf = folder.join("crafted.ckpt");
    archive(&path, pickle, members, CompressionMethod::Stored);
    ModelFile::open(&path)
}

/// The end of the error about such a file, behind its path.
pub(crate) fn refused(folder: &Path, pickle: &[u8], members: &[(&str, Vec<u8>)]) -> String {
    let error = format!("{:#}", crafted(folder, pickle, members).unwrap_err());
    error.split_once("crafted.ckpt`: ").expect("the path is in every error").1.to_string()
}

/// A number as LONG1 of 8 bytes.
pub(crate) fn long(out: &mut Vec<u8>, value: i64) {
    out.extend([0x8a, 8]);
    out.extend(value.to_le_bytes());
}

pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
}

/// `_rebuild_tensor_v2(storage of `elements` floats, offset, shape, strides, False, {})`, left on the stack.
pub(crate) fn tensor(key: &str, elements: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let mut out = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    text(&mut out, "storage");
    out.extend(b"ctorch\nFloatStorage\n");
    text(&mut out, key);
    text(&mut out, "cpu");
    long(&mut out, elements);
    out.extend(b"tQ");
    long(&mut out, offset);
    for numbers in [shape, strides] {
        out.push(b'(');
        numbers.iter().for_each(|value| long(&mut out, *value));
        out.push(b't');
    }
    out.extend(b"\x89}tR");
    out
}

/// A dictionary of texts to what is left on the stack.
pub(crate) fn dictionary<'a>(entries: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    for (name, value) in entries {
        text(&mut out, name);
        out.extend(value);
    }
    out.extend(b"u.");
    out
}

/// A safetensors file with this header and so many bytes of zeros.
pub(crate) fn with_header(path: &Path, header: &str, data: usize) -> anyhow::Result<ModelFile> {
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length, header.as_bytes(), &vec![0; data]].concat()).unwrap();
    ModelFile::open(path)
}

pub(crate) fn tensor_of(dtype: Dtype, bytes: &[u8]) -> TensorData {
    TensorData { dtype, shape: vec![bytes.len() / dtype.size()], bytes: bytes.to_vec() }
}

pub(crate) fn saved<const N: usize>(path: &Path, tensors: [(&str, TensorData); N]) -> ModelFile {
    let tensors: BTreeMap<String, TensorData> = tensors.into_iter().map(|(name, data)| (name.to_string(), data)).collect();
    safetensors::write(path, &tensors, &BTreeMap::new()).unwrap();
    ModelFile::open(path).unwrap()
}
