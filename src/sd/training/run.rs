//! The training loop. Unaware of the pipeline, of files and of what a network computes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rayon::prelude::*;

use crate::sd::lora::network::LoraNetwork;
use crate::sd::training::adamw::{Moments, clip_norm};
use crate::sd::training::batches::Draw;
use crate::sd::training::loss_scale::LossScale;
use crate::sd::training::observer::{Observer, Request, StepReport};
use crate::sd::training::saver::Saver;
use crate::sd::training::settings::{Checkpoint, Settings};
use crate::sd::training::state::{StateFolder, TrainingState};

/// What a kill may cost: this, ...
const LOST_AT_MOST: Duration = Duration::from_secs(30);
/// ... or this share of the time that the training has gone on, if that is more.
const LOST_SHARE: f64 = 0.02;
/// A state is begun so much before it must be there: steps do not all take the same.
const IN_TIME: f64 = 0.8;

/// Steps in a row with the same loss, bit for bit, that show a training to be broken: noise and timestep differ at every step.
const CONSTANT_STEPS: usize = 10;

/// Computes the loss of images and how it changes with the factors.
pub trait Objective {
    /// Mean squared errors of the images, in their order, and the gradient of `weight` times their sum by each of the network's factors.
    fn gradients(&mut self, network: &LoraNetwork, images: &[Draw], weight: f32) -> Result<(Vec<f32>, Vec<Vec<f32>>)>;

    /// Images for one call of [`Self::gradients`] after another, at most `limit` each: every image once.
    fn together(&self, images: &[Draw], limit: usize) -> Vec<Vec<Draw>> {
        images.chunks(limit).map(<[Draw]>::to_vec).collect()
    }

    /// An image and its timestep, in the words of an error message.
    fn describe(&self, image: Draw) -> String;
}

/// How a training came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Finished,
    /// On request, after that many epochs in full.
    Stopped {
        epoch: u64,
    },
    Interrupted,
}

/// A place in a training, for messages: `1880 (optimiser step 470)`. A step is an image seen, as for sd_dreambooth_extension.
struct Step {
    seen: u64,
    optimiser: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (optimiser step {})", self.seen, self.optimiser)
    }
}

/// Trains `network`, from the newest state in `states` that leads to the same result as a training from the start.
pub fn train(
    settings: &Settings,
    network: LoraNetwork,
    objective: &mut dyn Objective,
    states: &StateFolder,
    observer: &mut dyn Observer,
) -> Result<Ending> {
    let mut training = Training::start(settings, network, states, observer)?;
    let (total, per_epoch) = (settings.total(), settings.batches.images);
    let mut saver = Saver::new(states);
    let begun = training.saved;
    let mut recent = Vec::new();

    while training.state.seen < total {
        let started = observer.now();
        // 1. what is requested
        if let Some(ending) = training.answer(observer.request(), settings, &mut saver, observer)? {
            return Ok(ending);
        }

        // 2. one step
        let report = training.step(settings, objective)?;
        recent.push(report.loss);
        recent.drain(..recent.len().saturating_sub(CONSTANT_STEPS));
        if recent.len() == CONSTANT_STEPS && recent.iter().all(|loss| *loss == recent[0]) {
            bail!("the loss was {} for {CONSTANT_STEPS} optimiser steps in a row: the network does not see its input", recent[0]);
        }
        observer.step(&report);

        // 3. what it leaves behind
        let seen = training.state.seen;
        if seen.is_multiple_of(per_epoch) && settings.saves(seen / per_epoch) {
            training.check_learned(settings)?;
            training.publish(settings, &mut saver, observer)?;
        } else {
            let now = observer.now();
            let coming = now.saturating_sub(started) + saver.took();
            if is_due(now.saturating_sub(training.saved), now.saturating_sub(begun), coming) {
                saver.begin(training.snapshot())?;
                training.saved = now;
            }
        }
    }
    saver.finish()?;
    Ok(Ending::Finished)
}

/// Whether a state must be begun now, where the last one was begun `since` ago, the training has gone on for `trained`, and it takes `coming`
/// until the next one could be there: a step, and the writing.
fn is_due(since: Duration, trained: Duration, coming: Duration) -> bool {
    let may_be_lost = LOST_AT_MOST.max(trained.mul_f64(LOST_SHARE));
    since + coming >= may_be_lost.mul_f64(IN_TIME)
}

/// A network on its way.
struct Training {
    state: TrainingState,
    network: LoraNetwork,
    /// When the saving of a state was last begun; at first when the training began.
    saved: Duration,
}

impl Training {
    /// A new training, or one taken up where every checkpoint it has passed is still there.
    fn start(settings: &Settings, network: LoraNetwork, states: &StateFolder, observer: &mut dyn Observer) -> Result<Self> {
        let passed = |state: &TrainingState| -> Vec<Checkpoint> {
            settings.checkpoints().into_iter().take_while(|checkpoint| checkpoint.seen <= state.seen).collect()
        };
        let found = states.newest(&network.factors, |state| {
            let published = |checkpoint: &Checkpoint| state.notes.get(&checkpoint.name).is_some_and(|note| observer.exists(note));
            state.seen <= settings.total() && state.has_shapes_of(&network.factors) && passed(state).iter().all(published)
        })?;
        let Some(mut state) = found else {
            let moments = network.factors.iter().map(|factor| Moments::zeros(factor.values.len())).collect();
            let loss_scale = settings.scales_loss.then(LossScale::default);
            let state = TrainingState { seen: 0, steps: 0, factors: Vec::new(), moments, loss_scale, notes: BTreeMap::new() };
            return Ok(Self { state, network, saved: observer.now() });
        };
        // A state may come from a device that computes in another type.
        state.loss_scale = settings.scales_loss.then(|| state.loss_scale.unwrap_or_default());
        for checkpoint in passed(&state) {
            observer.republish(&checkpoint, &state.notes[&checkpoint.name])?;
        }
        let factors = std::mem::take(&mut state.factors);
        Ok(Self { state, network: LoraNetwork { factors, ..network }, saved: observer.now() })
    }

    /// Forward, backward, update.
    fn step(&mut self, settings: &Settings, objective: &mut dyn Objective) -> Result<StepReport> {
        let images = settings.batches.step(self.state.seen);
        let (loss, mut gradients) = self.loss_and_gradients(settings, objective, &images)?;
        let norm = clip_norm(gradients.iter_mut().map(Vec::as_mut_slice), settings.max_grad_norm);
        let peak = if settings.unet_rate > 0.0 { settings.unet_rate } else { settings.text_encoder_rate };
        let mut report = StepReport {
            steps: self.state.steps,
            seen: self.state.seen + images.len() as u64,
            total: settings.total(),
            loss,
            norm,
            rate: settings.learning_rate.at(peak, self.state.seen),
            overflowed: None,
        };
        let step = Step { seen: report.seen, optimiser: self.state.steps + 1 };
        if let Some(scale) = &mut self.state.loss_scale {
            if norm.is_finite() {
                scale.went_well();
            } else {
                scale.overflowed().with_context(|| format!("at step {step}"))?;
                self.state.seen = report.seen;
                report.overflowed = Some(scale.factor());
                return Ok(report);
            }
        }
        if !norm.is_finite() {
            let images: Vec<String> = images.iter().map(|image| objective.describe(*image)).collect();
            bail!("the gradients became {norm} at step {step}: {}", images.join("; "));
        }

        self.state.steps += 1;
        let (step, seen) = (self.state.steps, self.state.seen);
        let factors = self.network.factors.par_iter_mut();
        factors.zip(&gradients).zip(&mut self.state.moments).for_each(|((factor, gradient), moments)| {
            let rate = settings.learning_rate.at(settings.peak(&factor.name), seen);
            settings.optimizer.update(step, rate, &mut factor.values, gradient, moments);
        });
        self.state.seen = report.seen;
        report.steps = self.state.steps;
        Ok(report)
    }

    /// The mean loss of the images of a step, and its gradient by each factor.
    fn loss_and_gradients(
        &self,
        settings: &Settings,
        objective: &mut dyn Objective,
        images: &[Draw],
    ) -> Result<(f32, Vec<Vec<f32>>)> {
        // Each image counts the same, however the step is cut into batches.
        let weight = 1.0 / images.len() as f32;
        let scale = self.state.loss_scale.map_or(1.0, |scale| scale.factor());
        let mut loss = 0.0;
        let mut gradients: Vec<Vec<f32>> = Vec::new();
        for batch in objective.together(images, settings.batch_size) {
            let (losses, batch_gradients) = objective.gradients(&self.network, &batch, weight * scale)?;
            for (image, image_loss) in batch.iter().zip(&losses) {
                let step = Step { seen: image.seen + 1, optimiser: self.state.steps + 1 };
                ensure!(
                    image_loss.is_finite(),
                    "the loss became {image_loss} at step {step}, {}: try a lower learning rate or `precision: fp32`",
                    objective.describe(*image)
                );
                loss += image_loss * weight;
            }
            if gradients.is_empty() {
                gradients = batch_gradients;
            } else {
                for (sum, part) in gradients.iter_mut().flatten().zip(batch_gradients.iter().flatten()) {
                    *sum += part;
                }
            }
        }
        if scale != 1.0 {
            gradients.iter_mut().flatten().for_each(|gradient| *gradient /= scale);
        }
        Ok((loss, gradients))
    }

    /// Publishes the factors as they stand, unless that is done, and begins to save the state.
    fn publish(&mut self, settings: &Settings, saver: &mut Saver, observer: &mut dyn Observer) -> Result<()> {
        let checkpoint = settings.checkpoint(self.state.seen);
        if !self.state.notes.contains_key(&checkpoint.name) {
            let note = observer.checkpoint(&checkpoint, &self.network)?;
            self.state.notes.insert(checkpoint.name, note);
        }
        saver.begin(self.snapshot())?;
        self.saved = observer.now();
        Ok(())
    }

    /// Does what is requested; how the training ends by that, if it does.
    fn answer(
        &mut self,
        request: Request,
        settings: &Settings,
        saver: &mut Saver,
        observer: &mut dyn Observer,
    ) -> Result<Option<Ending>> {
        match request {
            Request::GoOn => Ok(None),
            Request::SaveNow => {
                if self.state.seen > 0 {
                    self.publish(settings, saver, observer)?;
                }
                Ok(None)
            }
            Request::Stop => {
                if self.state.seen > 0 {
                    self.publish(settings, saver, observer)?;
                }
                saver.finish()?;
                self.stop(settings).map(Some)
            }
            Request::Interrupt => {
                saver.begin(self.snapshot())?;
                saver.finish()?;
                Ok(Some(Ending::Interrupted))
            }
        }
    }

    fn snapshot(&self) -> TrainingState {
        TrainingState { factors: self.network.factors.clone(), ..self.state.clone() }
    }

    fn stop(&self, settings: &Settings) -> Result<Ending> {
        ensure!(self.state.seen > 0, "stopped before the first step: there is nothing to keep");
        Ok(Ending::Stopped { epoch: self.state.seen / settings.batches.images })
    }

    /// That what is trained has left zero. A single module may stay: those of a layer that clip skip leaves out.
    fn check_learned(&self, settings: &Settings) -> Result<()> {
        if self.state.steps == 0 {
            // Every gradient so far overflowed, which was said.
            return Ok(());
        }
        let networks = [("UNet", "lora_unet", settings.unet_rate), ("text encoder", "lora_te", settings.text_encoder_rate)];
        for (network, prefix, rate) in networks {
            let mut ups =
                self.network.factors.iter().filter(|f| f.name.starts_with(prefix) && f.name.ends_with("lora_up.weight"));
            if rate > 0.0 && ups.all(|up| up.values.iter().all(|value| *value == 0.0)) {
                bail!("every `up` of the {network} is still zero after {} optimiser steps: nothing reaches it", self.state.steps);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
