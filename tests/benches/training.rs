//! Trains the example's star without the engine, prints seconds per step, loss and where the LoRA is, then draws with it and counts what
//! came out right: 16 stars, ROUNDS times with other seeds, and 40 of the shapes that the base knows. With EPOCHS=0 it draws with the LoRA
//! that is there.
//!
//!     [DEVICE=cpu] cargo bench --bench training -- [EPOCHS=40] [RANK=8] [RATE=2e-3] [TEXT_RATE=RATE] [BATCH=4] [SEED=7] [ROUNDS=1] [OUT=target/star.safetensors]
//!
//! The counterpart of examples/tiny/reference/star_test.py.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use burn::tensor::Device;
use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::checkpoint::tensor::Dtype;
use loramill::sd::data::{decode, resize};
use loramill::sd::device;
use loramill::sd::drawing::studio::{LoraFile, Studio};
use loramill::sd::lora::network::LoraNetwork;
use loramill::sd::lora::targets;
use loramill::sd::stable_diffusion::{Denoiser, Precisions, Vae};
use loramill::sd::training::adamw::AdamW;
use loramill::sd::training::batches::Batches;
use loramill::sd::training::denoising::{Denoising, Example};
use loramill::sd::training::instance_prompt::{Doubling, InstancePrompt};
use loramill::sd::training::latent;
use loramill::sd::training::learning_rate::{LearningRate, Schedule};
use loramill::sd::training::observer::{Observer, Request, StepReport};
use loramill::sd::training::run::train;
use loramill::sd::training::settings::{Checkpoint, Settings};
use loramill::sd::training::state::StateFolder;
use loramill::sd::training::texts::Texts;

#[path = "../measure/mod.rs"]
mod measure;

struct Printer {
    out: PathBuf,
    started: Instant,
    losses: Vec<f32>,
}

impl Observer for Printer {
    fn request(&mut self) -> Request {
        Request::GoOn
    }

    fn step(&mut self, report: &StepReport) {
        self.losses.push(report.loss);
        if report.steps.is_multiple_of(48) {
            let recent = &self.losses[self.losses.len() - 48..];
            let loss = recent.iter().sum::<f32>() / recent.len() as f32;
            let seconds = self.started.elapsed().as_secs_f64() / report.steps as f64;
            println!(
                "step {:4}  {seconds:.3} s each  loss {loss:.4}  rate {:.2e}  norm {:.3}",
                report.steps, report.rate, report.norm
            );
        }
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint, network: &LoraNetwork) -> anyhow::Result<String> {
        fs::write(&self.out, network.to_file(Dtype::F32, &BTreeMap::new())?)?;
        println!("{} written to {}", checkpoint.name, self.out.display());
        Ok(String::new())
    }

    fn exists(&self, _: &str) -> bool {
        true
    }

    fn republish(&mut self, _: &Checkpoint, _: &str) -> anyhow::Result<()> {
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let given: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number =
        |place: usize, default: f64| given.get(place).map_or(default, |text| text.parse().expect("arguments are numbers"));
    let (epochs, rank, rate) = (number(0, 40.0) as u64, number(1, 8.0) as usize, number(2, 2e-3));
    let (text_rate, batch, seed) = (number(3, rate), number(4, 4.0) as usize, number(5, 7.0) as u64);
    let rounds = number(6, 1.0) as u64;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = given.get(7).map_or_else(|| root.join("target/star.safetensors"), PathBuf::from);

    let device = device::named(&std::env::var("DEVICE").unwrap_or_else(|_| "cpu".into()))?;
    let base = root.join("examples/tiny/models/tiny-sd.safetensors");
    if epochs == 0 {
        return count(&base, &out, rounds, &device);
    }
    let file = ModelFile::open(&base)?;
    let examples = examples(&root.join("examples/tiny/images"), &Vae::load(&file, &device)?, &device)?;
    let mut model = Denoiser::load(&file, Precisions::F32, &device)?;
    let (unet, text_encoder) = model.networks();
    let text_encoder = text_encoder.expect("it was just read");
    let targets = [targets::of_unet(unet), targets::of_text_encoder(text_encoder)].concat();
    let network = LoraNetwork::new(targets, rank, rank as f64, seed);
    println!("{} images, {} modules, {} parameters", examples.len(), network.targets.len(), network.parameter_count());

    let model = Mutex::new(model);
    let images = examples.len() as u64;
    let batches = Batches { seed, images, per_step: batch as u64 };
    let settings = Settings {
        batches,
        batch_size: batch,
        unet_rate: rate,
        text_encoder_rate: text_rate,
        learning_rate: LearningRate {
            schedule: Schedule::Polynomial { power: 1.0, end: 1e-7 },
            warmup: 0,
            total: epochs * images,
        },
        optimizer: AdamW::default(),
        max_grad_norm: 1.0,
        scales_loss: false,
        epochs,
        save_every: epochs,
    };
    let mut denoising = Denoising::new(&model, &examples, batches, 1, text_rate > 0.0)?;
    let folder = tempfile::tempdir()?;
    let mut printer = Printer { out: out.clone(), started: Instant::now(), losses: Vec::new() };
    train(&settings, network, &mut denoising, &StateFolder::new(folder.path()), &mut printer)?;
    println!("{:.1} s in all", printer.started.elapsed().as_secs_f64());
    if rounds > 0 { count(&base, &out, rounds, &device) } else { Ok(()) }
}

/// Prints how many stars and shapes come out right.
fn count(base: &Path, lora: &Path, rounds: u64, device: &Device) -> anyhow::Result<()> {
    let mut studio = Studio::open(base, None, device)?;
    let lora = [LoraFile { path: lora.to_path_buf(), config: None, strength: 1.0 }];
    let mut right = 0;
    for round in 0..rounds {
        let stars = measure::draw::stars(&mut studio, &lora, 1 + 16 * round);
        println!("{} of 16 are stars, colours right {}, grounds {}", stars.shape, stars.colour, stars.ground);
        right += stars.shape;
    }
    let shapes = measure::draw::shapes(&mut studio, &lora);
    println!(
        "{:.2} stars of 16 on average; shapes right {}, colours {}, grounds {} of 40",
        right as f64 / rounds as f64,
        shapes.shape,
        shapes.colour,
        shapes.ground
    );
    Ok(())
}

/// Each photo and its mirror, cut to a centred square of 64 pixels, with its caption.
fn examples(folder: &Path, vae: &Vae, device: &Device) -> anyhow::Result<Vec<Example>> {
    let texts = Texts { prompt: InstancePrompt::new("star, [filewords]", "star", "", Doubling::Never), rows: 1 };
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension != "txt"));
    paths.sort();
    let mut examples = Vec::new();
    for path in paths {
        let picture = decode::decode(&fs::read(&path)?)?.picture;
        let picture = resize::crop(&picture, 64, 64);
        let rows = texts.of(fs::read_to_string(path.with_extension("txt"))?.trim()).rows;
        for picture in [picture.clone(), image::imageops::flip_horizontal(&picture)] {
            let (shape, latent) = latent::encode(vae, &picture, device)?;
            examples.push(Example { name: path.display().to_string(), shape, latent, rows: rows.clone() });
        }
    }
    Ok(examples)
}
