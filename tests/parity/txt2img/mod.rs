//! Whole pictures against k-diffusion and diffusers: tokenizer, text encoder, noise, sampler, UNet, guidance, LoRA and VAE in one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use loramill::sd::diffusion::prediction::Prediction;
use loramill::sd::diffusion::sampler::Sampler;
use loramill::sd::drawing::picture::Request;
use loramill::sd::drawing::studio::{LoraFile, Studio};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

use crate::parity::{Fixture, draw};

/// Out of 255. Both sides cut off to whole numbers, where the last bit of a float decides; guidance and twenty steps multiply it.
const TOLERANCE: f32 = 2.0;

on_each_device! {
fn pictures_of_each_sampler_are_those_of_k_diffusion_and_diffusers() {
    let scene = Scene::read();
    let mut studio = scene.studio();
    for sampler in Sampler::ALL {
        scene.assert_draws(&mut studio, &scene.request(sampler, "prompt"), &[], sampler.word());
    }
}
}

on_each_device! {
fn a_lora_changes_a_picture_as_its_sum_with_the_weights_does() {
    let scene = Scene::read();
    let mut studio = scene.studio();
    let folder = tempfile::tempdir().unwrap();
    let lora = LoraFile { path: scene.write_lora(folder.path()), config: None, strength: scene.number("strength") };
    for sampler in Sampler::ALL {
        let request = scene.request(sampler, "prompt");
        scene.assert_draws(&mut studio, &request, std::slice::from_ref(&lora), &format!("{}.lora", sampler.word()));
    }
    // The bare model comes back when the LoRA is taken off, and two halves of it are the whole.
    let euler = scene.request(Sampler::Euler, "prompt");
    scene.assert_draws(&mut studio, &euler, &[], "euler");
    let half = LoraFile { strength: lora.strength / 2.0, ..lora };
    scene.assert_draws(&mut studio, &euler, &[half.clone(), half], "euler.lora");
}
}

on_each_device! {
fn a_long_prompt_with_emphasis_is_drawn_as_webui_does() {
    let scene = Scene::read();
    scene.assert_draws(&mut scene.studio(), &scene.request(Sampler::Euler, "long"), &[], "long");
}
}

/// What the generating script drew, and with which settings.
struct Scene {
    fixture: Fixture,
    settings: Value,
}

impl Scene {
    fn read() -> Self {
        let fixture = Fixture::read("txt2img");
        let settings = serde_json::from_str(&fixture.metadata("settings")).unwrap();
        Self { fixture, settings }
    }

    fn studio(&self) -> Studio {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/models/tiny-sd.safetensors");
        Studio::open(&base, None, &crate::parity::device()).unwrap()
    }

    fn number(&self, name: &str) -> f64 {
        self.settings[name].as_f64().unwrap()
    }

    fn text(&self, name: &str) -> String {
        self.settings[name].as_str().unwrap().to_string()
    }

    fn request(&self, sampler: Sampler, prompt: &str) -> Request {
        Request {
            prompt: self.text(prompt),
            negative: self.text("negative"),
            sampler,
            steps: self.number("steps") as usize,
            guidance: self.number("guidance"),
            width: 64,
            height: 64,
            seed: self.number("seed") as u64,
            clip_skip: 1,
            prediction: Prediction::Epsilon,
        }
    }

    #[track_caller]
    fn assert_draws(&self, studio: &mut Studio, request: &Request, loras: &[LoraFile], name: &str) {
        let drawn = studio.draw(request, loras, None, &mut |_| Ok(())).unwrap();
        let expected = self.fixture.values(name);
        let found: Vec<f32> = drawn.picture.as_raw().iter().copied().map(f32::from).collect();
        assert_eq!(found.len(), expected.len(), "{name}");
        let worst = found.iter().zip(&expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max);
        assert!(worst <= TOLERANCE, "{name}: a pixel is {worst} of 255 off");
    }

    /// The LoRA that the script added to the weights, as kohya's file.
    fn write_lora(&self, folder: &Path) -> PathBuf {
        let rank = self.number("rank") as usize;
        let alpha = (self.number("alpha") as f32).to_le_bytes().to_vec();
        let mut tensors: HashMap<String, (Vec<usize>, Vec<u8>)> = HashMap::new();
        for module in self.settings["modules"].as_array().unwrap() {
            let name = module[0].as_str().unwrap();
            let [inputs, outputs] = [1, 2].map(|i| module[i].as_u64().unwrap() as usize);
            let ones = if module[3].as_bool().unwrap() { vec![1, 1] } else { Vec::new() };
            let mut add = |ending: &str, shape: [usize; 2], values: Vec<f32>| {
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                tensors.insert(format!("{name}.{ending}.weight"), ([&shape[..], &ones].concat(), bytes));
            };
            let down = draw(&format!("{name}.down"), &[rank, inputs], (inputs as f64).powf(-0.5) as f32);
            add("lora_down", [rank, inputs], down);
            add("lora_up", [outputs, rank], draw(&format!("{name}.up"), &[outputs, rank], 0.15));
            tensors.insert(format!("{name}.alpha"), (Vec::new(), alpha.clone()));
        }
        let views =
            tensors.iter().map(|(name, (shape, bytes))| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        let path = folder.join("lora.safetensors");
        safetensors::serialize_to_file(views, None, &path).unwrap();
        path
    }
}
