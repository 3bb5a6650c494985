//! Files written by PyTorch 2.9.1 and safetensors (`generate_containers.py`), read here.

use std::path::{Path, PathBuf};

use loramill::sd::checkpoint::model_file::{Container, ModelFile};
use loramill::sd::checkpoint::tensor::Dtype;

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/containers").join(name)
}

/// `values()` of the generator: every number is i / 8 - 4, or counts up.
fn check_values(file: &ModelFile) {
    let ramp: Vec<f32> = (0..60).map(|i| i as f32 / 8.0 - 4.0).collect();
    let count: Vec<f32> = (0..6).map(|i| i as f32).collect();
    let expected: [(&str, Dtype, &[usize], Vec<f32>); 12] = [
        ("double", Dtype::F64, &[3, 20], ramp.clone()),
        ("float", Dtype::F32, &[3, 4, 5], ramp.clone()),
        ("half", Dtype::F16, &[60], ramp.clone()),
        ("bf16", Dtype::Bf16, &[5, 12], ramp.clone()),
        ("long", Dtype::I64, &[1, 6], count.clone()),
        ("int", Dtype::I32, &[6], count.clone()),
        ("short", Dtype::I16, &[6], count.clone()),
        ("byte", Dtype::U8, &[6], count.clone()),
        ("char", Dtype::I8, &[6], count.iter().map(|value| value - 3.0).collect()),
        ("bool", Dtype::Bool, &[3], vec![1.0, 0.0, 1.0]),
        ("scalar", Dtype::F32, &[], vec![2.5]),
        ("empty", Dtype::F32, &[0, 3], vec![]),
    ];
    let mut names: Vec<&str> = expected.iter().map(|(name, ..)| *name).collect();
    names.sort_unstable();
    assert_eq!(file.tensors().keys().map(String::as_str).collect::<Vec<_>>(), names);
    for (name, dtype, shape, values) in expected {
        let info = file.info(name).unwrap();
        assert_eq!((info.dtype, info.shape.as_slice()), (dtype, shape), "{name}");
        assert_eq!(file.read_f32(name).unwrap(), values, "{name}");
    }
}

fn open(name: &str) -> ModelFile {
    ModelFile::open(&fixture(name)).unwrap()
}

#[test]
fn every_type_of_every_container_is_read() {
    for (name, container) in [
        ("plain.safetensors", Container::Safetensors),
        ("zip.pt", Container::TorchZip),
        ("deflated.pt", Container::TorchZip),
        ("protocol4.pt", Container::TorchZip),
        ("legacy.pt", Container::TorchLegacy),
    ] {
        let file = open(name);
        assert_eq!(file.container(), container, "{name}");
        check_values(&file);
    }
}

#[test]
fn what_pytorch_lightning_leaves_behind_is_passed_over() {
    for name in ["lightning.ckpt", "lightning-legacy.ckpt"] {
        let file = open(name);
        check_values(&file);
        let metadata: Vec<(&str, &str)> = file.metadata().iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(metadata, [("epoch", "3"), ("global_step", "875000"), ("pytorch-lightning_version", "1.4.2")], "{name}");
    }
}

#[test]
fn views_of_one_storage_are_read_as_what_they_show() {
    for name in ["views.pt", "views-legacy.pt"] {
        let file = open(name);
        let base: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let pick = |indices: &[usize]| indices.iter().map(|i| base[*i]).collect::<Vec<f32>>();
        let transposed: Vec<usize> = (0..6).flat_map(|column| (0..4).map(move |row| row * 6 + column)).collect();
        assert_eq!(file.read_f32("base").unwrap(), base, "{name}");
        assert_eq!(file.info("transposed").unwrap().shape, [6, 4]);
        assert_eq!(file.read_f32("transposed").unwrap(), pick(&transposed), "{name}");
        assert_eq!(file.read_f32("row").unwrap(), pick(&[12, 13, 14, 15, 16, 17]), "{name}");
        assert_eq!(file.read_f32("column").unwrap(), pick(&[1, 7, 13, 19]), "{name}");
        assert_eq!(file.read_f32("steps").unwrap(), pick(&[6, 9, 18, 21]), "{name}");
        assert_eq!(file.read_f32("repeated").unwrap(), [0.0; 5], "{name}");
    }
}

#[test]
fn tensors_in_lists_and_nested_dictionaries_have_dotted_names() {
    let list = open("list.pt");
    assert_eq!(list.tensors().keys().collect::<Vec<_>>(), ["0", "1"]);
    let nested = open("nested.pt");
    assert_eq!(nested.tensors().keys().collect::<Vec<_>>(), ["params.net.weight"]);
    assert_eq!(nested.metadata().iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["tags.0=a", "tags.1=b"]);
}

#[test]
fn a_tensor_of_an_unknown_kind_is_named_with_the_reason() {
    let file = open("sparse.pt");
    assert_eq!(file.read_f32("good").unwrap(), [1.0, 1.0]);
    let error = format!("{:#}", file.read("sparse").unwrap_err());
    assert!(
        error.ends_with("cannot be read: it is sparse (`torch._utils._rebuild_sparse_tensor`): save it with `.to_dense()`"),
        "{error}"
    );
}

#[test]
fn safetensors_metadata_is_read() {
    let file = open("plain.safetensors");
    assert_eq!(file.metadata()["format"], "pt");
    assert_eq!(file.metadata()["a"], "ä \"quoted\"");
}
