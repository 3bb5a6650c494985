//! Models that predict velocity, and models that `sample` and `train` cannot use.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use burn::tensor::{DType, Tensor, TensorData as Numbers};
use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::checkpoint::safetensors;
use loramill::sd::checkpoint::tensor::TensorData;
use loramill::sd::device;
use loramill::sd::diffusion::prediction::Prediction;
use loramill::sd::diffusion::sampler::Sampler;
use loramill::sd::drawing::picture::Request;
use loramill::sd::drawing::studio::{LoraFile, Studio, lora_hash};
use loramill::sd::lora::network::LoraNetwork;
use loramill::sd::lora::targets;
use loramill::sd::stable_diffusion::{self, Denoiser};
use loramill::sd::training::batches::{Batches, Draw};
use loramill::sd::training::denoising::{Denoising, Example};
use loramill::stages::train::latents;
use loramill::stages::{sample, train};
use sha2::{Digest as _, Sha256};

use crate::formats::{odd_models, tiny_sd};
use crate::parity::{assert_close, draw};
use crate::stages::load;

/// The example's model with empty tensors and metadata of these names.
pub fn marked(folder: &Path, marks: &[&str], metadata: &[(&str, &str)]) -> PathBuf {
    let base = ModelFile::open(&tiny_sd()).unwrap();
    let mut tensors: BTreeMap<String, TensorData> =
        base.tensors().keys().map(|name| (name.clone(), base.read(name).unwrap())).collect();
    tensors.extend(marks.iter().map(|mark| (mark.to_string(), TensorData::from_f32(&[0], &[]))));
    let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let path = folder.join("base.safetensors");
    safetensors::write(&path, &tensors, &metadata).unwrap();
    path
}

fn request(prediction: Prediction) -> Request {
    Request {
        prompt: "a red star".into(),
        negative: String::new(),
        sampler: Sampler::Euler,
        steps: 4,
        guidance: 1.0,
        width: 64,
        height: 64,
        seed: 1,
        clip_skip: 1,
        prediction,
    }
}

#[test]
fn a_model_that_says_that_it_predicts_velocity_is_drawn_so() {
    let device = device::named("cpu").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let drawn = |base: &Path| {
        let mut studio = Studio::open(base, None, &device).unwrap();
        studio.draw(&request(Prediction::Epsilon), &[], None, &mut |_| Ok(())).unwrap().picture
    };
    let model =
        loramill::sd::stable_diffusion::StableDiffusion::load(&ModelFile::open(&tiny_sd()).unwrap(), None, &device).unwrap();
    let expected = |prediction| loramill::sd::drawing::picture::draw(&model, &request(prediction), &mut |_| Ok(())).unwrap();
    let (epsilon, velocity, at_zero) =
        (expected(Prediction::Epsilon), expected(Prediction::Velocity), expected(Prediction::VelocityAtZeroSnr));
    assert!(epsilon != velocity && velocity != at_zero);
    assert!(drawn(&tiny_sd()) == epsilon);
    assert!(drawn(&marked(folder.path(), &["v_pred"], &[])) == velocity);
    assert!(drawn(&marked(folder.path(), &[], &[("modelspec.prediction_type", "v")])) == velocity);
    assert!(drawn(&marked(folder.path(), &["v_pred", "ztsnr"], &[])) == at_zero);
    assert!(drawn(&marked(folder.path(), &[], &[("modelspec.prediction_type", "epsilon")])) == epsilon);
}

#[test]
fn training_on_it_learns_the_velocity() {
    let device = device::named("cpu").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let base = ModelFile::open(&marked(folder.path(), &["v_pred"], &[])).unwrap();
    let prediction = stable_diffusion::prediction(&base).unwrap().unwrap();
    let mut model = Denoiser::load(&base, stable_diffusion::Numbers::F32, &device).unwrap();
    let network = LoraNetwork::new(targets::of_unet(model.networks().0), 2, 2.0, 1);
    let shape = [4, 16, 16];
    let (latent, noise) = (draw("latent", &shape, 1.0), draw("noise", &shape, 1.0));
    let rows = vec![[vec![49406_u32, 320, 320], vec![49407; 74]].concat()];
    // Nothing is learned yet: the network predicts as the bare model does.
    let timestep = 500_usize;
    let kept = prediction.schedule().alphas_cumprod()[timestep];
    let (signal, share) = (kept.sqrt() as f32, (1.0 - kept).sqrt() as f32);
    let noisy: Vec<f32> = latent.iter().zip(&noise).map(|(image, noise)| signal * image + share * noise).collect();
    let context = model.encode_text(&rows, 1).unwrap();
    let input = Tensor::<4>::from_data(Numbers::new(noisy, [1, 4, 16, 16]), (&device, DType::F32));
    let predicted: Vec<f32> = model.predict(input, &[timestep as f32], &context).into_data().try_into_vec().unwrap();
    let loss = |target: &dyn Fn(f32, f32) -> f32| {
        let squares = predicted.iter().zip(latent.iter().zip(&noise)).map(|(p, (x, n))| f64::from(p - target(*x, *n)).powi(2));
        (squares.sum::<f64>() / latent.len() as f64) as f32
    };
    // Salimans and Ho 2022: v = √ᾱ · noise − √(1 − ᾱ) · image.
    let expected = [(Prediction::Velocity, loss(&|x, n| signal * n - share * x)), (Prediction::Epsilon, loss(&|_, n| n))];

    let examples = [Example { name: "star".into(), shape, latent: latent.clone(), rows }];
    let model = Mutex::new(model);
    let batches = Batches { seed: 1, images: 1, per_step: 1 };
    for (prediction, expected) in expected {
        let mut denoising = Denoising::new(&model, &examples, batches, 1, true).unwrap().predicting(prediction);
        let images = [Draw { image: 0, seen: 0 }];
        let (losses, _) =
            denoising.gradients_with(&network, &images, &[timestep as u32], std::slice::from_ref(&noise), 1.0).unwrap();
        assert_close(&format!("{prediction:?}"), &losses, &[expected], 0.0, 1e-4);
    }
    assert_eq!(prediction, Prediction::Velocity);
}

#[test]
fn models_that_cannot_be_used_are_found_before_anything_runs() {
    let sample = load(&sample::KIND, "{ base: base, prompts: [a cat] }").expect("sound");
    let train = load(&train::KIND, "{ base: base, images: flip }").expect("sound");
    let latents = load(&latents::KIND, "{ base: base, images: flip }").expect("sound");
    let files = |path: PathBuf| BTreeMap::from([("base".to_string(), path)]);
    for stage in [&sample, &train, &latents] {
        assert!(stage.examine(&files(tiny_sd())).is_empty());
    }
    let device = device::named("cpu").unwrap();
    for (number, (folder, path)) in odd_models().into_iter().enumerate() {
        let found = sample.examine(&files(path.clone()));
        assert_eq!((found.len(), found[0].param.as_str()), (1, "base"), "model {number}");
        // A run finds the same, as an error and no panic.
        let error = format!("{:#}", Studio::open(&path, None, &device).err().unwrap_or_else(|| panic!("model {number}")));
        assert!(error.contains(&found[0].problem), "{error}\nand {}", found[0].problem);
        let of_train = [train.examine(&files(path.clone())), latents.examine(&files(path))].concat();
        assert!(!of_train.is_empty(), "model {number}");
        drop(folder);
    }
}

#[test]
fn webui_knows_a_lora_by_the_bytes_behind_its_header() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/lora/files/ldm_names.safetensors");
    let bytes = fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let expected: String = Sha256::digest(&bytes[8 + header..]).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(lora_hash(&ModelFile::open(&file).unwrap()).unwrap(), expected);
    // Of a pickle it is the whole file, and a hash that sd-scripts noted counts for itself.
    let pickle = file.with_file_name("simo.pt");
    let expected: String = Sha256::digest(fs::read(&pickle).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(lora_hash(&ModelFile::open(&pickle).unwrap()).unwrap(), expected);
    let mut studio = Studio::open(&tiny_sd(), None, &device::named("cpu").unwrap()).unwrap();
    let lora = LoraFile { path: file.clone(), config: None, strength: 1.0 };
    let drawn = studio.draw(&request(Prediction::Epsilon), &[lora], None, &mut |_| Ok(())).unwrap();
    assert!(drawn.remarks.is_empty());
    // The picture names it, and webui finds it by the hash beside the name.
    let text = drawn.infotext.to_string();
    let hashes = text.split("Lora hashes: \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
    let (name, hash) = hashes.split_once(": ").unwrap_or_else(|| panic!("{text}"));
    assert!(text.starts_with(&format!("a red star <lora:{name}:1>\n")), "{text}");
    assert_eq!(hash, &lora_hash(&ModelFile::open(&file).unwrap()).unwrap()[..12], "{text}");
}
