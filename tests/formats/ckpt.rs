//! `.ckpt` files as we write them.

use std::collections::BTreeMap;
use std::path::Path;

use loramill::sd::checkpoint::ckpt;
use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::checkpoint::safetensors;
use loramill::sd::checkpoint::tensor::{Dtype, TensorData};

use crate::formats::containers::fixture;

fn tensors() -> BTreeMap<String, TensorData> {
    let file = ModelFile::open(&fixture("zip.pt")).unwrap();
    file.tensors().keys().map(|name| (name.clone(), file.read(name).unwrap())).collect()
}

/// `golden.ckpt` was written by this program and then read by torch 2.9.1 with `weights_only=True` (`check_written.py golden.ckpt`): as
/// long as the bytes are these, so will be every file. Set `LORAMILL_GOLDEN=write` to write it anew, and check it again.
#[test]
fn the_bytes_are_those_that_torch_has_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/golden.ckpt");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("any-name.ckpt");
    ckpt::write(&path, &tensors()).unwrap();
    let written = std::fs::read(&path).unwrap();
    if std::env::var_os("LORAMILL_GOLDEN").is_some_and(|wish| wish == "write") {
        std::fs::write(&golden, &written).unwrap();
    }
    assert!(written == std::fs::read(&golden).unwrap(), "the bytes of a `.ckpt` changed: check that torch still reads it");
}

#[test]
fn the_members_pass_webuis_filter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ckpt");
    ckpt::write(&path, &tensors()).unwrap();
    let archive = zip::ZipArchive::new(std::fs::File::open(&path).unwrap()).unwrap();
    // stable-diffusion-webui, modules/safe.py.
    let allowed = regex::Regex::new(r"^([^/]+)/((data/\d+)|version|(data\.pkl))$").unwrap();
    let names: Vec<String> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
    assert_eq!(names.len(), tensors().len() + 2);
    for name in names {
        assert!(allowed.is_match(&name), "{name}");
    }
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let (ckpt_path, safetensors_path) = (folder.path().join("a.ckpt"), folder.path().join("a.safetensors"));
    ckpt::write(&ckpt_path, &tensors()).unwrap();
    safetensors::write(&safetensors_path, &tensors(), &BTreeMap::new()).unwrap();
    for path in [ckpt_path, safetensors_path] {
        let file = ModelFile::open(&path).unwrap();
        assert_eq!(file.tensors().len(), tensors().len());
        for (name, tensor) in tensors() {
            assert_eq!(file.read(&name).unwrap(), tensor, "{name}");
        }
    }
}

#[test]
fn safetensors_are_laid_out_as_the_original_writer_does() {
    // Apart from the metadata, whose order the original leaves to chance: with one entry there is no order.
    let original = std::fs::read(fixture("plain.safetensors")).unwrap();
    let length = u64::from_le_bytes(original[..8].try_into().unwrap()) as usize;
    let metadata = ModelFile::open(&fixture("plain.safetensors")).unwrap().metadata().clone();
    let ours = safetensors::to_bytes(&tensors(), &metadata).unwrap();
    assert_eq!(ours.len(), original.len());
    assert_eq!(ours[8 + length..], original[8 + length..]);
    let header = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(&bytes[8..8 + length]).unwrap();
    assert_eq!(header(&ours), header(&original));
    assert_eq!(ours[..8], original[..8]);
}

#[test]
fn a_failed_write_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, b"old").unwrap();
    let infos = tensors().iter().map(|(name, tensor)| (name.clone(), tensor.info())).collect();
    let mut left = 3;
    let error = safetensors::write_each(&path, &infos, &BTreeMap::new(), |name| {
        left -= 1;
        anyhow::ensure!(left > 0, "no more");
        Ok(tensors()[name].clone())
    });
    assert!(format!("{:#}", error.unwrap_err()).contains("model.safetensors`: no more"));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the unfinished file is gone");
    let wrong = |_: &str| Ok(TensorData { dtype: Dtype::F32, shape: vec![1], bytes: vec![0; 4] });
    let error = ckpt::write_each(&path, &infos, wrong).unwrap_err();
    assert!(format!("{error:#}").contains("tensor `bf16`: announced as BF16 [5, 12], came as F32 [1] with 4 bytes"), "{error:#}");
}
