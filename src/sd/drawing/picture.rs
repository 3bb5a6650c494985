//! Text to picture: prompt to context, noise to latent, latent to pixels. Unaware of files and stages.
//!
//! With the same seed the picture is stable-diffusion-webui's, where that draws its noise on the CPU.

use anyhow::{Result, ensure};
use burn::tensor::{DType, Device, Tensor, TensorData};
use image::RgbImage;

use crate::sd::diffusion::prediction::{Prediction, guided};
use crate::sd::diffusion::sampler::Sampler;
use crate::sd::prompt::chunks::{self, Padding};
use crate::sd::prompt::emphasis;
use crate::sd::random::Generator;
use crate::sd::stable_diffusion::StableDiffusion;

/// Everything that decides a picture beside the networks.
#[derive(Clone, Debug)]
pub struct Request {
    /// In webui's grammar; see `prompt::emphasis`.
    pub prompt: String,
    pub negative: String,
    pub sampler: Sampler,
    pub steps: usize,
    /// 1 draws without the negative prompt.
    pub guidance: f64,
    /// Pixels; each side a multiple of what `side_unit` says.
    pub width: u32,
    pub height: u32,
    pub seed: u64,
    /// Which of the text encoder's layers is used, from the end; 1 is the last.
    pub clip_skip: usize,
    pub prediction: Prediction,
}

/// The sides of a picture are multiples of this many pixels: the VAE's factor, twice for each level of the UNet but the last.
pub fn side_unit(model: &StableDiffusion) -> usize {
    model.vae().factor() << (model.denoiser().unet().config().channels.len() - 1)
}

/// Draws one picture. `before_step` is called with the number of predictions made so far, and may end the drawing by an error.
///
/// # Errors
/// If the prompt or a setting is not possible with this model, or the networks give something that is not a number.
pub fn draw(model: &StableDiffusion, request: &Request, before_step: &mut dyn FnMut(usize) -> Result<()>) -> Result<RgbImage> {
    let (width, height, unit) = (request.width as usize, request.height as usize, side_unit(model));
    let fits = |side: usize| side > 0 && side.is_multiple_of(unit);
    ensure!(fits(width) && fits(height), "{width}x{height} pixels do not suit the model: each side must be a multiple of {unit}");
    if let Some(refusal) = request.sampler.refuses(request.steps) {
        anyhow::bail!(refusal);
    }
    let guide = Guide::new(model, request)?;
    let shape = [1, model.denoiser().unet().config().in_channels, height / model.vae().factor(), width / model.vae().factor()];
    let mut done = 0;
    let mut predict = |latent: &[f32], timestep: f64| {
        before_step(done)?;
        done += 1;
        let predicted = guide.predict(latent, shape, timestep as f32)?;
        ensure!(predicted.iter().all(|value| value.is_finite()), "the UNet gave a value that is not finite at step {done}");
        Ok(predicted)
    };
    let (schedule, mut noise) = (request.prediction.schedule(), Generator::new(request.seed));
    let count = shape.iter().product();
    let latent = request.sampler.sample(&schedule, request.prediction, request.steps, &mut noise, count, &mut predict)?;
    let decoded = to_vec(model.vae().decode(tensor(latent, shape, model.device())))?;
    ensure!(decoded.iter().all(|value| value.is_finite()), "the VAE gave a value that is not finite");
    Ok(picture(&decoded, request.width, request.height))
}

/// The UNet with the contexts of prompt and negative prompt.
struct Guide<'a> {
    model: &'a StableDiffusion,
    scale: f64,
    contexts: Contexts,
}

enum Contexts {
    /// `[1, tokens, width]`: no guidance.
    Prompt(Tensor<3>),
    /// `[2, tokens, width]`: negative prompt, prompt.
    Together(Tensor<3>),
    /// Negative prompt and prompt, each `[1, tokens, width]`: of different lengths, so webui asks for them one by one.
    Apart(Box<[Tensor<3>; 2]>),
}

impl<'a> Guide<'a> {
    fn new(model: &'a StableDiffusion, request: &Request) -> Result<Self> {
        let prompt = context(model, &request.prompt, request.clip_skip)?;
        let contexts = if request.guidance == 1.0 {
            Contexts::Prompt(prompt)
        } else {
            let negative = context(model, &request.negative, request.clip_skip)?;
            if negative.dims() == prompt.dims() {
                Contexts::Together(Tensor::cat(vec![negative, prompt], 0))
            } else {
                Contexts::Apart(Box::new([negative, prompt]))
            }
        };
        Ok(Self { model, scale: request.guidance, contexts })
    }

    /// The guided prediction for a latent of `shape`, `[1, channels, height, width]`.
    fn predict(&self, latent: &[f32], shape: [usize; 4], timestep: f32) -> Result<Vec<f32>> {
        let latent = tensor(latent.to_vec(), shape, self.model.device());
        let one = |context| to_vec(self.model.denoiser().predict(latent.clone(), &[timestep], context));
        match &self.contexts {
            Contexts::Prompt(prompt) => one(prompt),
            Contexts::Apart(both) => Ok(guided(&one(&both[0])?, &one(&both[1])?, self.scale)),
            Contexts::Together(both) => {
                let twice = Tensor::cat(vec![latent.clone(), latent.clone()], 0);
                let predicted = to_vec(self.model.denoiser().predict(twice, &[timestep; 2], both))?;
                let (without, with) = predicted.split_at(predicted.len() / 2);
                Ok(guided(without, with, self.scale))
            }
        }
    }
}

/// What the UNet attends to for `text`: `[1, 77 · rows, width]`.
fn context(model: &StableDiffusion, text: &str, clip_skip: usize) -> Result<Tensor<3>> {
    let rows = chunks::weighted(&emphasis::parse(text)?, Padding::End);
    let encoded: Result<Vec<Tensor<3>>> = rows
        .into_iter()
        .map(|row| {
            let encoded = model.denoiser().encode_text(&[row.tokens], clip_skip)?;
            if row.weights.iter().all(|weight| *weight == 1.0) { Ok(encoded) } else { emphasised(encoded, &row.weights) }
        })
        .collect();
    Ok(Tensor::cat(encoded?, 1))
}

/// Each token's vector times its weight, and all scaled back to the mean they had: webui's emphasis "Original".
fn emphasised(encoded: Tensor<3>, weights: &[f32]) -> Result<Tensor<3>> {
    let (shape, device) = (encoded.dims(), encoded.device());
    let mut values = to_vec(encoded)?;
    let mean = |values: &[f32]| values.iter().copied().map(f64::from).sum::<f64>() / values.len() as f64;
    let before = mean(&values);
    for (vector, weight) in values.chunks_mut(shape[2]).zip(weights) {
        vector.iter_mut().for_each(|value| *value *= weight);
    }
    let back = (before / mean(&values)) as f32;
    ensure!(back.is_finite(), "the weights of the prompt cancel each other out");
    values.iter_mut().for_each(|value| *value *= back);
    Ok(tensor(values, shape, &device))
}

/// `[1, 3, height, width]`, about -1 to 1, as bytes; cut off to whole numbers as webui does, not rounded.
fn picture(values: &[f32], width: u32, height: u32) -> RgbImage {
    let plane = (width * height) as usize;
    let byte = |value: f32| (255.0 * ((value + 1.0) / 2.0).clamp(0.0, 1.0)) as u8;
    RgbImage::from_fn(width, height, |x, y| {
        let at = (y * width + x) as usize;
        image::Rgb([values[at], values[plane + at], values[2 * plane + at]].map(byte))
    })
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

fn to_vec<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    tensor.into_data().try_into_vec().map_err(|error| anyhow::anyhow!("reading numbers back from the device: {error:?}"))
}
