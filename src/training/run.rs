//! The training loop. Unaware of the pipeline, of files and of what a network computes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::lora::network::LoraNetwork;
use crate::training::adamw::{AdamW, Moments, clip_norm};
use crate::training::batches::{Batches, Draw};
use crate::training::learning_rate::LearningRate;
use crate::training::state::{StateFolder, TrainingState};

/// Between two saved states, so that a kill costs no more than this.
const SAVE_STATE_EVERY: Duration = Duration::from_secs(180);

/// Steps in a row with the same loss, bit for bit, that show a training to be broken: noise and timestep differ at every step.
const CONSTANT_STEPS: usize = 10;

/// What decides the result of a training, apart from networks and examples.
#[derive(Clone, Debug)]
pub struct Settings {
    pub batches: Batches,
    /// Images per forward pass; a step is as many of these as `batches.per_step` holds.
    pub batch_size: usize,
    /// Peak rates; 0 freezes that network.
    pub unet_rate: f64,
    pub text_encoder_rate: f64,
    pub learning_rate: LearningRate,
    pub optimizer: AdamW,
    /// Of all gradients together; 0 for no limit.
    pub max_grad_norm: f64,
    /// The training ends after this many epochs.
    pub epochs: u64,
    /// Epochs between two checkpoints; the last epoch is always one.
    pub save_every: u64,
}

/// Computes the loss of images and how it changes with the factors.
pub trait Objective {
    /// Mean squared errors of the images, in their order, and the gradient of `weight` times their sum by each of the network's factors.
    fn gradients(&mut self, network: &LoraNetwork, images: &[Draw], weight: f32) -> Result<(Vec<f32>, Vec<Vec<f32>>)>;

    /// An image and its timestep, in the words of an error message.
    fn describe(&self, image: Draw) -> String;
}

/// Whoever runs the training.
pub trait Observer {
    /// Asked between two steps.
    fn wish(&mut self) -> Wish;

    fn step(&mut self, report: &StepReport);

    /// Makes a checkpoint durable. The note comes back through `again` if the training is taken up later.
    fn checkpoint(&mut self, checkpoint: &Checkpoint, network: &LoraNetwork) -> Result<String>;

    /// Whether a checkpoint of an earlier run still exists.
    fn exists(&self, note: &str) -> bool;

    /// Makes known a checkpoint of an earlier run.
    fn again(&mut self, checkpoint: &Checkpoint, note: &str) -> Result<()>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    GoOn,
    SaveNow,
    /// End with what there is.
    Stop,
    /// End, to go on later.
    Interrupt,
}

/// How a training came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Finished,
    /// By wish, after that many epochs in full.
    Stopped {
        epoch: u64,
    },
    Interrupted,
}

/// A place in the training at which the factors are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// `e010` at the end of an epoch, `s00001880` elsewhere.
    pub name: String,
    /// `None` in the middle of an epoch.
    pub epoch: Option<u64>,
    /// Images seen.
    pub seen: u64,
}

impl Checkpoint {
    pub fn at(seen: u64, images: u64) -> Self {
        let epoch = seen.is_multiple_of(images).then_some(seen / images);
        let name = epoch.map_or_else(|| format!("s{seen:08}"), |epoch| format!("e{epoch:03}"));
        Self { name, epoch, seen }
    }
}

/// What a step was like.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Optimiser steps so far.
    pub steps: u64,
    /// Images seen so far, and in all.
    pub seen: u64,
    pub total: u64,
    /// Of this step.
    pub loss: f32,
    /// Of the gradients, before clipping.
    pub norm: f64,
    /// The UNet's rate; the text encoder's where the UNet is frozen.
    pub rate: f64,
}

impl Settings {
    /// The checkpoints of an undisturbed training.
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        (1..=self.epochs).filter(|epoch| self.saves(*epoch)).map(|epoch| self.checkpoint(epoch * self.batches.images)).collect()
    }

    fn saves(&self, epoch: u64) -> bool {
        epoch.is_multiple_of(self.save_every) || epoch == self.epochs
    }

    fn checkpoint(&self, seen: u64) -> Checkpoint {
        Checkpoint::at(seen, self.batches.images)
    }

    fn total(&self) -> u64 {
        self.epochs * self.batches.images
    }

    /// The peak rate of the network that a factor belongs to.
    fn peak(&self, factor: &str) -> f64 {
        if factor.starts_with("lora_te") { self.text_encoder_rate } else { self.unet_rate }
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
    let mut saved = Instant::now();
    let mut recent = Vec::new();

    while training.state.seen < total {
        // 1. what the user wants
        let wish = observer.wish();
        match wish {
            Wish::Interrupt => {
                training.save(states)?;
                return Ok(Ending::Interrupted);
            }
            Wish::SaveNow | Wish::Stop if training.state.seen > 0 => training.publish(settings, states, observer)?,
            _ => {}
        }
        if wish == Wish::Stop {
            return training.stop(settings);
        }

        // 2. one step
        let report = training.step(settings, objective)?;
        recent.push(report.loss);
        recent.drain(..recent.len().saturating_sub(CONSTANT_STEPS));
        if recent.len() == CONSTANT_STEPS && recent.iter().all(|loss| *loss == recent[0]) {
            bail!("the loss was {} for {CONSTANT_STEPS} steps in a row: the network does not see its input", recent[0]);
        }
        observer.step(&report);

        // 3. what it leaves behind
        let seen = training.state.seen;
        if seen.is_multiple_of(per_epoch) && settings.saves(seen / per_epoch) {
            training.check_learned(settings)?;
            training.publish(settings, states, observer)?;
            saved = Instant::now();
        } else if saved.elapsed() > SAVE_STATE_EVERY {
            training.save(states)?;
            saved = Instant::now();
        }
    }
    Ok(Ending::Finished)
}

/// A network on its way.
struct Training {
    state: TrainingState,
    network: LoraNetwork,
}

impl Training {
    /// A new training, or one taken up where every checkpoint it has passed is still there.
    fn start(settings: &Settings, network: LoraNetwork, states: &StateFolder, observer: &mut dyn Observer) -> Result<Self> {
        let passed = |state: &TrainingState| -> Vec<Checkpoint> {
            settings.checkpoints().into_iter().take_while(|checkpoint| checkpoint.seen <= state.seen).collect()
        };
        let found = states.newest(|state| {
            let published = |checkpoint: &Checkpoint| state.notes.get(&checkpoint.name).is_some_and(|note| observer.exists(note));
            state.seen <= settings.total() && state.has_shapes_of(&network.factors) && passed(state).iter().all(published)
        })?;
        let Some(mut state) = found else {
            let moments = network.factors.iter().map(|factor| Moments::zeros(factor.values.len())).collect();
            let state = TrainingState { seen: 0, steps: 0, factors: Vec::new(), moments, notes: BTreeMap::new() };
            return Ok(Self { state, network });
        };
        for checkpoint in passed(&state) {
            observer.again(&checkpoint, &state.notes[&checkpoint.name])?;
        }
        let factors = std::mem::take(&mut state.factors);
        Ok(Self { state, network: LoraNetwork { factors, ..network } })
    }

    /// Forward, backward, update.
    fn step(&mut self, settings: &Settings, objective: &mut dyn Objective) -> Result<StepReport> {
        let images = settings.batches.step(self.state.seen);
        // Each image counts the same, however the step is cut into batches.
        let weight = 1.0 / images.len() as f32;
        let mut loss = 0.0;
        let mut gradients: Vec<Vec<f32>> = Vec::new();
        for batch in images.chunks(settings.batch_size) {
            let (losses, batch_gradients) = objective.gradients(&self.network, batch, weight)?;
            for (image, image_loss) in batch.iter().zip(&losses) {
                let step = self.state.steps + 1;
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
        let norm = clip_norm(gradients.iter_mut().map(Vec::as_mut_slice), settings.max_grad_norm);
        if !norm.is_finite() {
            let images: Vec<String> = images.iter().map(|image| objective.describe(*image)).collect();
            bail!("the gradients became {norm} at step {}: {}", self.state.steps + 1, images.join("; "));
        }

        self.state.steps += 1;
        let rate = |peak: f64| settings.learning_rate.at(peak, self.state.seen);
        for ((factor, gradient), moments) in self.network.factors.iter_mut().zip(&gradients).zip(&mut self.state.moments) {
            let rate = rate(settings.peak(&factor.name));
            settings.optimizer.update(self.state.steps, rate, &mut factor.values, gradient, moments);
        }
        let rate = rate(if settings.unet_rate > 0.0 { settings.unet_rate } else { settings.text_encoder_rate });
        self.state.seen += images.len() as u64;
        Ok(StepReport { steps: self.state.steps, seen: self.state.seen, total: settings.total(), loss, norm, rate })
    }

    /// Publishes the factors as they stand, unless that is done, and saves the state.
    fn publish(&mut self, settings: &Settings, states: &StateFolder, observer: &mut dyn Observer) -> Result<()> {
        let checkpoint = settings.checkpoint(self.state.seen);
        if !self.state.notes.contains_key(&checkpoint.name) {
            let note = observer.checkpoint(&checkpoint, &self.network)?;
            self.state.notes.insert(checkpoint.name, note);
        }
        self.save(states)
    }

    fn save(&mut self, states: &StateFolder) -> Result<()> {
        // Lent to the state for as long as it takes to write it.
        self.state.factors = std::mem::take(&mut self.network.factors);
        let result = states.save(&self.state);
        self.network.factors = std::mem::take(&mut self.state.factors);
        result
    }

    fn stop(&self, settings: &Settings) -> Result<Ending> {
        ensure!(self.state.seen > 0, "stopped before the first step: there is nothing to keep");
        Ok(Ending::Stopped { epoch: self.state.seen / settings.batches.images })
    }

    /// That what is trained has left zero. A single module may stay: those of a layer that clip skip leaves out.
    fn check_learned(&self, settings: &Settings) -> Result<()> {
        let networks = [("UNet", "lora_unet", settings.unet_rate), ("text encoder", "lora_te", settings.text_encoder_rate)];
        for (network, prefix, rate) in networks {
            let mut ups =
                self.network.factors.iter().filter(|f| f.name.starts_with(prefix) && f.name.ends_with("lora_up.weight"));
            if rate > 0.0 && ups.all(|up| up.values.iter().all(|value| *value == 0.0)) {
                bail!("every `up` of the {network} is still zero after {} steps: nothing reaches it", self.state.steps);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::network::Target;
    use crate::training::learning_rate::Schedule;

    /// Pulls every factor towards numbers that depend on the image; draws noise like the real one.
    struct Pull {
        batches: Batches,
        /// What the loss of this image seen becomes.
        broken: Option<(u64, f32)>,
        constant: bool,
    }

    impl Objective for Pull {
        fn gradients(&mut self, network: &LoraNetwork, images: &[Draw], weight: f32) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
            let mut losses = Vec::new();
            let mut gradients: Vec<Vec<f32>> = network.factors.iter().map(|f| vec![0.0; f.values.len()]).collect();
            for image in images {
                let target = image.image as f32 + self.batches.noise(*image, 16)[3];
                let mut loss = 0.0;
                for (factor, gradient) in network.factors.iter().zip(&mut gradients) {
                    for (value, gradient) in factor.values.iter().zip(gradient) {
                        loss += (value - target) * (value - target);
                        *gradient += weight * 2.0 * (value - target);
                    }
                }
                losses.push(match self.broken {
                    Some((seen, value)) if seen == image.seen => value,
                    _ if self.constant => 1.0,
                    _ => loss,
                });
            }
            Ok((losses, gradients))
        }

        fn describe(&self, image: Draw) -> String {
            format!("image number {}", image.image)
        }
    }

    #[derive(Default)]
    struct Notebook {
        /// Name, and the factors as a note.
        checkpoints: Vec<(String, String)>,
        again: Vec<String>,
        lost: Vec<String>,
        /// After how many images to wish for what.
        wishes: Vec<(u64, Wish)>,
        seen: u64,
    }

    impl Observer for Notebook {
        fn wish(&mut self) -> Wish {
            let due = self.wishes.iter().position(|(seen, _)| *seen == self.seen);
            due.map_or(Wish::GoOn, |place| self.wishes.remove(place).1)
        }

        fn step(&mut self, report: &StepReport) {
            self.seen = report.seen;
        }

        fn checkpoint(&mut self, checkpoint: &Checkpoint, network: &LoraNetwork) -> Result<String> {
            let bits: Vec<u32> = network.factors.iter().flat_map(|f| &f.values).map(|value| value.to_bits()).collect();
            let note = format!("{bits:x?}");
            self.checkpoints.push((checkpoint.name.clone(), note.clone()));
            Ok(note)
        }

        fn exists(&self, note: &str) -> bool {
            !self.lost.iter().any(|lost| lost == note)
        }

        fn again(&mut self, checkpoint: &Checkpoint, note: &str) -> Result<()> {
            self.again.push(checkpoint.name.clone());
            self.checkpoints.push((checkpoint.name.clone(), note.to_string()));
            Ok(())
        }
    }

    fn settings() -> Settings {
        Settings {
            batches: Batches { seed: 7, images: 10, per_step: 4 },
            batch_size: 2,
            unet_rate: 1e-2,
            text_encoder_rate: 5e-3,
            learning_rate: LearningRate { schedule: Schedule::Linear, warmup: 3, total: 60 },
            optimizer: AdamW::default(),
            max_grad_norm: 1.0,
            epochs: 6,
            save_every: 2,
        }
    }

    fn network() -> LoraNetwork {
        let target = |name: &str| Target { name: name.into(), inputs: 3, outputs: 2, convolution: false };
        LoraNetwork::new(vec![target("lora_unet_a"), target("lora_te_b")], 2, 2.0, 7)
    }

    fn run(settings: &Settings, folder: &tempfile::TempDir, notebook: &mut Notebook) -> Result<Ending> {
        let mut pull = Pull { batches: settings.batches, broken: None, constant: false };
        train(settings, network(), &mut pull, &StateFolder::new(folder.path()), notebook)
    }

    fn undisturbed() -> Vec<(String, String)> {
        let mut notebook = Notebook::default();
        assert_eq!(run(&settings(), &tempfile::tempdir().unwrap(), &mut notebook).unwrap(), Ending::Finished);
        notebook.checkpoints
    }

    fn names(notebook: &Notebook) -> Vec<&str> {
        notebook.checkpoints.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn a_checkpoint_is_kept_every_so_many_epochs_and_at_the_end() {
        let checkpoints = settings().checkpoints();
        assert_eq!(
            checkpoints.iter().map(|c| (c.name.as_str(), c.seen)).collect::<Vec<_>>(),
            [("e002", 20), ("e004", 40), ("e006", 60)]
        );
        let uneven = Settings { epochs: 5, ..settings() }.checkpoints();
        assert_eq!(uneven.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["e002", "e004", "e005"]);
        assert_eq!(undisturbed().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["e002", "e004", "e006"]);
    }

    #[test]
    fn an_interrupted_training_ends_with_the_same_bits_wherever_it_was() {
        let whole = undisturbed();
        for at in [0, 4, 8, 10, 18, 20, 24, 50, 58] {
            let folder = tempfile::tempdir().unwrap();
            let mut first = Notebook { wishes: vec![(at, Wish::Interrupt)], ..Notebook::default() };
            assert_eq!(run(&settings(), &folder, &mut first).unwrap(), Ending::Interrupted, "at {at}");
            let mut second = Notebook { seen: at, ..Notebook::default() };
            assert_eq!(run(&settings(), &folder, &mut second).unwrap(), Ending::Finished, "at {at}");
            assert_eq!(second.checkpoints, whole, "at {at}");
            assert_eq!(second.again.len() as u64, at / 20, "at {at}");
        }
    }

    #[test]
    fn batch_size_within_a_step_changes_no_more_than_rounding() {
        let last = |batch_size| {
            let mut pull = Pull { batches: settings().batches, broken: None, constant: false };
            let folder = tempfile::tempdir().unwrap();
            let mut training = Training::start(
                &Settings { batch_size, ..settings() },
                network(),
                &StateFolder::new(folder.path()),
                &mut Notebook::default(),
            )
            .unwrap();
            for _ in 0..6 {
                training.step(&Settings { batch_size, ..settings() }, &mut pull).unwrap();
            }
            training.network.factors.into_iter().flat_map(|factor| factor.values).collect::<Vec<f32>>()
        };
        for (one, other) in last(1).iter().zip(last(4)) {
            assert!((one - other).abs() < 1e-5, "{one} {other}");
        }
    }

    #[test]
    fn stopping_keeps_what_there_is() {
        let mut notebook = Notebook { wishes: vec![(24, Wish::Stop)], ..Notebook::default() };
        let ending = run(&settings(), &tempfile::tempdir().unwrap(), &mut notebook).unwrap();
        assert_eq!(ending, Ending::Stopped { epoch: 2 });
        assert_eq!(names(&notebook), ["e002", "s00000024"]);
    }

    #[test]
    fn stopping_where_a_checkpoint_was_just_made_makes_no_second() {
        let mut notebook = Notebook { wishes: vec![(20, Wish::Stop)], ..Notebook::default() };
        run(&settings(), &tempfile::tempdir().unwrap(), &mut notebook).unwrap();
        assert_eq!(names(&notebook), ["e002"]);
    }

    #[test]
    fn saving_now_disturbs_nothing() {
        let mut notebook = Notebook { wishes: vec![(28, Wish::SaveNow)], ..Notebook::default() };
        run(&settings(), &tempfile::tempdir().unwrap(), &mut notebook).unwrap();
        assert_eq!(names(&notebook), ["e002", "s00000028", "e004", "e006"]);
        notebook.checkpoints.remove(1);
        assert_eq!(notebook.checkpoints, undisturbed());
    }

    #[test]
    fn a_state_whose_checkpoints_are_gone_is_not_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Notebook { wishes: vec![(48, Wish::Interrupt)], ..Notebook::default() };
        run(&settings(), &folder, &mut first).unwrap();
        let lost = vec![undisturbed()[0].1.clone()];
        let mut second = Notebook { lost, ..Notebook::default() };
        run(&settings(), &folder, &mut second).unwrap();
        assert!(second.again.is_empty());
        assert_eq!(second.checkpoints, undisturbed());
    }

    #[test]
    fn more_frequent_checkpoints_than_the_state_has_passed_start_anew() {
        let folder = tempfile::tempdir().unwrap();
        run(&settings(), &folder, &mut Notebook { wishes: vec![(48, Wish::Interrupt)], ..Notebook::default() }).unwrap();
        let every = Settings { save_every: 1, ..settings() };
        let mut second = Notebook::default();
        run(&every, &folder, &mut second).unwrap();
        assert!(second.again.is_empty());
        assert_eq!(names(&second), ["e001", "e002", "e003", "e004", "e005", "e006"]);
    }

    #[test]
    fn a_longer_training_goes_on_from_a_shorter_one() {
        let constant = |epochs| Settings {
            epochs,
            learning_rate: LearningRate { schedule: Schedule::Constant, warmup: 0, total: epochs * 10 },
            ..settings()
        };
        let folder = tempfile::tempdir().unwrap();
        run(&constant(4), &folder, &mut Notebook { wishes: vec![(34, Wish::Interrupt)], ..Notebook::default() }).unwrap();
        let (mut longer, mut whole) = (Notebook { seen: 34, ..Notebook::default() }, Notebook::default());
        run(&constant(6), &folder, &mut longer).unwrap();
        run(&constant(6), &tempfile::tempdir().unwrap(), &mut whole).unwrap();
        assert_eq!(longer.again, ["e002"]);
        assert_eq!(longer.checkpoints, whole.checkpoints);
    }

    fn failure(broken: Option<(u64, f32)>, constant: bool) -> String {
        let mut pull = Pull { batches: settings().batches, broken, constant };
        let folder = tempfile::tempdir().unwrap();
        let result = train(&settings(), network(), &mut pull, &StateFolder::new(folder.path()), &mut Notebook::default());
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_loss_that_is_no_number_names_step_and_image() {
        let image = settings().batches.step(8)[1].image;
        let error = failure(Some((9, f32::NAN)), false);
        assert!(error.contains(&format!("the loss became NaN at step 3, image number {image}")), "{error}");
    }

    #[test]
    fn a_loss_that_never_changes_ends_the_training() {
        assert!(failure(None, true).contains("the loss was 1 for 10 steps in a row"));
    }

    #[test]
    fn a_network_that_learns_nothing_is_not_a_result() {
        struct Deaf(Pull);
        impl Objective for Deaf {
            fn gradients(&mut self, network: &LoraNetwork, images: &[Draw], weight: f32) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
                let (losses, mut gradients) = self.0.gradients(network, images, weight)?;
                gradients[3].fill(0.0);
                Ok((losses, gradients))
            }

            fn describe(&self, image: Draw) -> String {
                self.0.describe(image)
            }
        }
        let mut deaf = Deaf(Pull { batches: settings().batches, broken: None, constant: false });
        let folder = tempfile::tempdir().unwrap();
        let result = train(&settings(), network(), &mut deaf, &StateFolder::new(folder.path()), &mut Notebook::default());
        assert_eq!(
            result.unwrap_err().to_string(),
            "every `up` of the text encoder is still zero after 6 steps: nothing reaches it"
        );
    }

    #[test]
    fn a_frozen_network_may_stay_as_it_was() {
        let frozen = Settings { text_encoder_rate: 0.0, ..settings() };
        let mut notebook = Notebook::default();
        assert_eq!(run(&frozen, &tempfile::tempdir().unwrap(), &mut notebook).unwrap(), Ending::Finished);
    }
}
