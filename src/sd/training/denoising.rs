//! What Stable Diffusion learns by: the noise in a noisy latent, or its velocity, told its timestep and its text. Unaware of steps and rates.
//!
//! Ho et al. 2020, eq. 14, in latents (Rombach et al. 2022), with the gradient taken by the factors of a LoRA alone.

use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::sd::diffusion::noise_schedule::{NoiseSchedule, TIMESTEPS};
use crate::sd::diffusion::prediction::Prediction;
use crate::sd::lora::network::{Factor, LoraNetwork};
use crate::sd::lora::targets::{Placed, detach};
use crate::sd::models::unet::Unet;
use crate::sd::stable_diffusion::Denoiser;
use crate::sd::training::batches::{Batches, Draw};
use crate::sd::training::checkpointing::{self, Question};
use crate::sd::training::run::Objective;

/// One image with its text.
#[derive(Clone, Debug)]
pub struct Example {
    /// For messages.
    pub name: String,
    /// Of its latent: channels, height and width.
    pub shape: [usize; 3],
    /// Scaled, row-major.
    pub latent: Vec<f32>,
    /// Rows of tokens, as many for every example.
    pub rows: Vec<Vec<u32>>,
}

/// Examples, of one size or several, and the networks that learn from them.
pub struct Denoising<'a> {
    /// Lent to others between two steps; carries adapters only within one.
    model: &'a Mutex<Denoiser>,
    device: Device,
    examples: &'a [Example],
    batches: Batches,
    clip_skip: usize,
    prediction: Prediction,
    schedule: NoiseSchedule,
    checkpointing: bool,
    /// Of each example, where the text encoder is frozen: `[1, tokens, width]`.
    contexts: Option<Vec<Tensor<3>>>,
}

impl<'a> Denoising<'a> {
    /// - `train_text_encoder`: otherwise the texts are encoded here, once, and the model gives its text encoder up
    pub fn new(
        model: &'a Mutex<Denoiser>,
        examples: &'a [Example],
        batches: Batches,
        clip_skip: usize,
        train_text_encoder: bool,
    ) -> Result<Self> {
        let mut lent = model.lock().ok().context("another stage broke down while it used the networks")?;
        let device = lent.device().clone();
        let contexts = (!train_text_encoder).then(|| {
            let mut known: Vec<(&[Vec<u32>], Tensor<3>)> = Vec::new();
            let encode = |example: &'a Example| -> Result<Tensor<3>> {
                if let Some((_, context)) = known.iter().find(|(rows, _)| *rows == example.rows) {
                    return Ok(context.clone());
                }
                let context = context(&lent, &[example], clip_skip)?;
                known.push((&example.rows, context.clone()));
                Ok(context)
            };
            examples.iter().map(encode).collect::<Result<Vec<_>>>()
        });
        let contexts = contexts.transpose()?;
        if !train_text_encoder {
            drop(lent.take_text_encoder());
        }
        drop(lent);
        let prediction = Prediction::Epsilon;
        let schedule = prediction.schedule();
        Ok(Self { model, device, examples, batches, clip_skip, prediction, schedule, checkpointing: false, contexts })
    }

    /// As [`Self::new`] with a frozen text encoder, whose outputs are given: `[tokens, width]` of each example.
    pub fn with_contexts(
        model: &'a Mutex<Denoiser>,
        examples: &'a [Example],
        batches: Batches,
        contexts: Vec<Vec<f32>>,
    ) -> Result<Self> {
        let lent = model.lock().ok().context("another stage broke down while it used the networks")?;
        let (device, width) = (lent.device().clone(), lent.unet().config().transformer.context_width);
        drop(lent);
        let place = |values: Vec<f32>| {
            let shape = [1, values.len() / width, width];
            Tensor::from_data(TensorData::new(values, shape), (&device, DType::F32))
        };
        let contexts = Some(contexts.into_iter().map(place).collect());
        let prediction = Prediction::Epsilon;
        let schedule = prediction.schedule();
        let device = device.clone();
        Ok(Self { model, device, examples, batches, clip_skip: 1, prediction, schedule, checkpointing: false, contexts })
    }

    /// For a model that predicts something else than the noise.
    pub fn predicting(self, prediction: Prediction) -> Self {
        Self { prediction, schedule: prediction.schedule(), ..self }
    }

    /// Keeps what goes into each segment of the UNet and runs it again on the way back: less memory, more time, the same
    /// gradients but for the order of a few sums.
    pub fn with_checkpointing(self, checkpointing: bool) -> Self {
        Self { checkpointing, ..self }
    }

    /// Means of the squared differences between the target and what the UNet takes for it: `[batch]`.
    ///
    /// - both: `[batch, 4, height / 8, width / 8]`
    fn losses(predicted: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
        let [batch, channels, height, width] = target.dims();
        let difference = predicted - target;
        (difference.clone() * difference).reshape([batch, channels * height * width]).mean_dim(1).reshape([batch])
    }

    /// What the UNet attends to for each image: `[batch, tokens, width]`.
    fn context(&self, model: &Denoiser, images: &[Draw]) -> Result<Tensor<3>> {
        match &self.contexts {
            Some(contexts) => Ok(Tensor::cat(images.iter().map(|image| contexts[image.image].clone()).collect(), 0)),
            None => {
                let examples: Vec<&Example> = images.iter().map(|image| &self.examples[image.image]).collect();
                context(model, &examples, self.clip_skip)
            }
        }
    }

    fn timestep(&self, image: Draw) -> u32 {
        self.batches.timestep(image, TIMESTEPS as u32)
    }
}

impl Objective for Denoising<'_> {
    fn gradients(&mut self, network: &LoraNetwork, images: &[Draw], weight: f32) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        let timesteps: Vec<u32> = images.iter().map(|image| self.timestep(*image)).collect();
        let noise = |image: &Draw| self.batches.noise(*image, self.examples[image.image].latent.len());
        let noises: Vec<Vec<f32>> = images.iter().map(noise).collect();
        self.gradients_with(network, images, &timesteps, &noises, weight)
    }

    fn together(&self, images: &[Draw], limit: usize) -> Vec<Vec<Draw>> {
        // Sizes in the order in which they come up.
        let mut by_size: Vec<([usize; 3], Vec<Draw>)> = Vec::new();
        for image in images {
            let shape = self.examples[image.image].shape;
            match by_size.iter_mut().find(|(known, _)| *known == shape) {
                Some((_, images)) => images.push(*image),
                None => by_size.push((shape, vec![*image])),
            }
        }
        by_size.iter().flat_map(|(_, images)| images.chunks(limit)).map(<[Draw]>::to_vec).collect()
    }

    fn describe(&self, image: Draw) -> String {
        format!("image `{}`, timestep {}", self.examples[image.image].name, self.timestep(image))
    }
}

impl Denoising<'_> {
    /// As [`Objective::gradients`], with timesteps and noise of the caller's.
    pub fn gradients_with(
        &mut self,
        network: &LoraNetwork,
        images: &[Draw],
        timesteps: &[u32],
        noises: &[Vec<f32>],
        weight: f32,
    ) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        let shape = self.examples[images.first().context("a pass over no images")?.image].shape;
        ensure!(
            images.iter().all(|image| self.examples[image.image].shape == shape),
            "pictures of several sizes in one pass: {}",
            images.iter().map(|image| self.describe(*image)).collect::<Vec<_>>().join("; ")
        );

        // 1. noise, on the host
        let (noisy, target) = self.noised(images, timesteps, noises);
        let [channels, height, width] = shape;
        let device = self.device.clone().autodiff();
        let place = |values: Vec<f32>| -> Tensor<4> {
            Tensor::from_data(TensorData::new(values, [images.len(), channels, height, width]), (&device, DType::F32))
        };
        let (noisy, target) = (place(noisy), place(target));

        // 2. forward and backward
        let mut lent = self.model.lock().ok().context("another stage broke down while it used the networks")?;
        let placed = Placed::new(network, &device);
        let (unet, text_encoder) = lent.networks();
        placed.beside_unet(unet);
        if let Some(text_encoder) = text_encoder {
            placed.beside_text_encoder(text_encoder);
        }
        let timesteps: Vec<f32> = timesteps.iter().map(|timestep| *timestep as f32).collect();
        let context = self.context(&lent, images)?;
        let (losses, gradients) = if self.checkpointing {
            self.checkpointed(lent.networks().0, &placed, (noisy, target), &timesteps, context, weight)?
        } else {
            let losses = Self::losses(lent.predict(noisy, &timesteps, &context), target);
            let gradients = (losses.clone().sum() * weight).backward();
            (losses, placed.factors().iter().map(|factor| factor.grad(&gradients)).collect())
        };
        let (unet, text_encoder) = lent.networks();
        detach(unet, text_encoder);
        drop(lent);

        // 3. back to the host
        let gradients = to_host(&gradients, &network.factors)?;
        Ok((values(losses.into_data())?, gradients))
    }

    /// The latents with their noise, and what is to be predicted of them, one image after the other.
    fn noised(&self, images: &[Draw], timesteps: &[u32], noises: &[Vec<f32>]) -> (Vec<f32>, Vec<f32>) {
        let (mut noisy, mut target) = (Vec::new(), Vec::new());
        for ((image, timestep), noise) in images.iter().zip(timesteps).zip(noises) {
            let kept = self.schedule.alphas_cumprod()[*timestep as usize];
            let (signal, noise_share) = (kept.sqrt() as f32, (1.0 - kept).sqrt() as f32);
            let latent = &self.examples[image.image].latent;
            noisy.extend(latent.iter().zip(noise).map(|(z, n)| signal * z + noise_share * n));
            target.extend(self.prediction.target(latent, noise, kept));
        }
        (noisy, target)
    }

    /// Losses and gradients of the factors, with the UNet's segments run again on the way back.
    ///
    /// - `noisy`, `target`: `[batch, channels, height, width]`
    fn checkpointed(
        &self,
        unet: &mut Unet,
        placed: &Placed,
        (noisy, target): (Tensor<4>, Tensor<4>),
        timesteps: &[f32],
        context: Tensor<3>,
        weight: f32,
    ) -> Result<(Tensor<1>, Vec<Option<Tensor<2>>>)> {
        let context_learns = self.contexts.is_none();
        let question = Question {
            latents: noisy.inner(),
            timesteps,
            context: if context_learns { context.clone().inner() } else { context.clone() },
            context_learns,
        };
        let mut losses = None;
        let of_loss = |predicted: Tensor<4>| {
            let of_images = losses.insert(Self::losses(predicted, target));
            Ok((of_images.clone().sum() * weight).backward())
        };
        let mut found = checkpointing::gradients(unet, placed, question, of_loss)?;
        if let Some(of_context) = found.context {
            // The text encoder's own activations are few: it is one segment.
            let of_text = (context * Tensor::from_inner(of_context)).sum().backward();
            for (gradient, factor) in found.factors.iter_mut().zip(placed.factors()) {
                *gradient = gradient.take().or_else(|| factor.grad(&of_text));
            }
        }
        Ok((losses.context("no loss was taken")?, found.factors))
    }
}

/// The gradients in main memory, in one piece: each reading waits for the device.
fn to_host(gradients: &[Option<Tensor<2>>], factors: &[Factor]) -> Result<Vec<Vec<f32>>> {
    let flat = gradients.iter().flatten().map(|gradient| gradient.clone().reshape([-1])).collect();
    let all = values(Tensor::<1>::cat(flat, 0).into_data())?;
    let mut rest = all.as_slice();
    let on_host = |(gradient, factor): (&Option<Tensor<2>>, &Factor)| {
        // A layer that the loss does not see: one that clip skip leaves out.
        let Some(_) = gradient else { return vec![0.0; factor.values.len()] };
        let (own, others) = rest.split_at(factor.values.len());
        rest = others;
        own.to_vec()
    };
    Ok(gradients.iter().zip(factors).map(on_host).collect())
}

/// The context of each example, its rows one after the other: `[batch, rows · tokens, width]`.
fn context(model: &Denoiser, examples: &[&Example], clip_skip: usize) -> Result<Tensor<3>> {
    let rows: Vec<Vec<u32>> = examples.iter().flat_map(|example| example.rows.clone()).collect();
    let context = model.encode_text(&rows, clip_skip)?;
    let [rows, tokens, width] = context.dims();
    Ok(context.reshape([examples.len(), rows / examples.len() * tokens, width]))
}

fn values(data: TensorData) -> Result<Vec<f32>> {
    data.try_into_vec().map_err(|error| anyhow::anyhow!("reading a gradient: {error:?}"))
}
