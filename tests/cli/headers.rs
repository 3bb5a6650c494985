//! What `check`, `plan` and `run` find in the headers of models, before anything runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::checkpoint::safetensors;
use loramill::sd::checkpoint::tensor::TensorData;

use super::{command, loramill, said};
use crate::formats::tiny_sd;

const LORA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats/lora/files/");

fn project(pipeline: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(tiny_sd(), folder.path().join("base.safetensors")).expect("copied");
    fs::write(folder.path().join("pipeline.yaml"), pipeline).expect("written");
    folder
}

fn merge_with(lora: &str) -> tempfile::TempDir {
    let pipeline = "concept: star\ninputs: { base: base.safetensors, star: star.safetensors }\nstages:\n  merge: { base: base, lora: star }\n";
    let folder = project(pipeline);
    fs::copy(Path::new(LORA).join(lora), folder.path().join("star.safetensors")).expect("copied");
    folder
}

#[test]
fn check_says_what_a_model_is() {
    let folder = merge_with("alpha_none.safetensors");
    let (code, _, stderr) = said(&loramill(folder.path(), &["check"]));
    assert_eq!((code, stderr.as_str()), (0, "note: `base` is Stable Diffusion 1.x\n"));
}

#[test]
fn check_says_what_a_model_predicts() {
    let folder = merge_with("alpha_none.safetensors");
    let file = ModelFile::open(&tiny_sd()).expect("it opens");
    let tensors: BTreeMap<_, _> = file.tensors().keys().map(|name| (name.clone(), file.read(name).expect("readable"))).collect();
    for (mark, told) in [("v_pred", "predicts velocity"), ("ztsnr", "predicts velocity, zero terminal SNR")] {
        let mut marked = tensors.clone();
        for mark in ["v_pred", mark] {
            marked.insert(mark.to_string(), TensorData::from_f32(&[0], &[]));
        }
        safetensors::write(&folder.path().join("base.safetensors"), &marked, &BTreeMap::new()).expect("written");
        let (code, _, stderr) = said(&loramill(folder.path(), &["check"]));
        assert_eq!((code, stderr), (0, format!("note: `base` is Stable Diffusion 1.x, {told}\n")));
    }
}

#[test]
fn what_is_no_lora_is_refused_before_anything_runs() {
    let folder = merge_with("peft_dora.safetensors");
    for arguments in [&["check"][..], &["plan"], &["run"], &["run", "--dry-run"]] {
        let (code, stdout, stderr) = said(&loramill(folder.path(), arguments));
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains("`star` cannot be the `lora[0]` of `merge`"), "{stderr}");
        assert!(stderr.contains("belongs to a DoRA, which is no LoRA"), "{stderr}");
        assert!(stderr.contains("pipeline.yaml:4:"), "the place is shown: {stderr}");
    }
    assert!(!folder.path().join("out").exists());
}

#[test]
fn a_model_that_is_none_is_refused_at_its_reference() {
    let folder = merge_with("alpha_none.safetensors");
    fs::write(folder.path().join("base.safetensors"), "x").expect("written");
    let (code, _, stderr) = said(&loramill(folder.path(), &["check"]));
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("`base` cannot be the `base` of `merge`"), "{stderr}");
    assert_eq!(stderr.matches("error:").count(), 1, "what follows from it is not told: {stderr}");
}

#[test]
fn a_missing_model_is_told_with_what_the_folder_holds() {
    let folder = project(
        "concept: star\ninputs: { base: model://sd-v1-5.ckpt, other: model://nothing.safetensors, star: star.safetensors }\nstages:\n  merge: { base: base, lora: star }\n  converted: { kind: convert, from: other }\n",
    );
    fs::copy(Path::new(LORA).join("alpha_none.safetensors"), folder.path().join("star.safetensors")).expect("copied");
    let models = folder.path().join("models");
    fs::create_dir_all(models.join("photo")).expect("made");
    for name in ["sd-v1-5.safetensors", "photo/analog.ckpt", "readme.txt"] {
        fs::write(models.join(name), "x").expect("written");
    }
    let checked = |models: &Path| {
        let output = command(folder.path(), &["check"]).env("LORAMILL_MODELS", models).output().expect("it starts");
        said(&output)
    };
    let (code, _, stderr) = checked(&models);
    assert_eq!(code, 0, "{stderr}");
    let there =
        format!("is not here yet: looked in `{}`: `photo/analog.ckpt`, `sd-v1-5.safetensors` are there", models.display());
    assert!(stderr.contains(&format!("{there}; did you mean `model://sd-v1-5.safetensors`?\n")), "{stderr}");
    assert!(stderr.contains(&format!("`other` (model://nothing.safetensors) {there}\n")), "{stderr}");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).expect("made");
    assert!(checked(&empty).2.contains("which holds no model"), "{}", checked(&empty).2);
}
