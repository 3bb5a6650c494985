//! Predictions of the UNet and whole pictures, as the `sample` stage makes them.

use std::time::Instant;

use anyhow::Result;
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::sd::benchmark::preset::{LATENT_CHANNELS, Preset, TOKENS};
use crate::sd::benchmark::seconds;
use crate::sd::diffusion::prediction::Prediction;
use crate::sd::diffusion::sampler::Sampler;
use crate::sd::drawing::picture::{Request, draw};
use crate::sd::random::stream;
use crate::sd::stable_diffusion::{Denoiser, StableDiffusion};

/// Seconds of each of `repeats` predictions for one latent of `size` pixels a side, after one to warm up. The UNet computes in `dtype`.
pub fn prediction(preset: &Preset, device: &Device, dtype: DType, size: usize, repeats: usize) -> Result<Vec<f64>> {
    let unet = preset.unet(device, dtype)?;
    let side = size / preset.factor();
    let mut noise = stream(0, "latents of a benchmark", 0);
    let mut place = |shape: &[usize]| TensorData::new(noise.normal(shape.iter().product()), shape.to_vec());
    let latent = Tensor::<4>::from_data(place(&[1, LATENT_CHANNELS, side, side]), (device, DType::F32));
    let context = Tensor::<3>::from_data(place(&[1, TOKENS, preset.text_width()]), (device, DType::F32));
    seconds(repeats, || {
        // Read back: a device may still be at work when it returns.
        let _ = unet.forward(latent.clone(), &[500.0], &context).into_data();
        Ok(())
    })
}

/// Seconds of one picture of `size` pixels a side, with guidance, by Euler's method, from the texts to the pixels; one prediction before
/// it to warm up. UNet and text encoder compute in `dtype`, the VAE in f32.
pub fn picture(preset: &Preset, device: &Device, dtype: DType, size: usize, steps: usize) -> Result<f64> {
    let mut denoiser = Denoiser::of_unet(preset.unet(device, dtype)?, device);
    denoiser.put_text_encoder(preset.text_encoder(device, dtype)?);
    let model = StableDiffusion::new(denoiser, preset.vae(device)?);
    let request = |steps| Request {
        prompt: "a photo of a man shrugging".into(),
        negative: "blurry".into(),
        sampler: Sampler::Euler,
        steps,
        guidance: 7.5,
        width: size as u32,
        height: size as u32,
        seed: 1,
        clip_skip: 1,
        prediction: Prediction::Epsilon,
    };
    draw(&model, &request(1), &mut |_| Ok(()))?;
    let started = Instant::now();
    draw(&model, &request(steps), &mut |_| Ok(()))?;
    Ok(started.elapsed().as_secs_f64())
}
