//! The loop with an objective that pulls every factor towards a number.

use super::*;
use crate::sd::lora::network::Target;
use crate::sd::training::adamw::AdamW;
use crate::sd::training::batches::Batches;
use crate::sd::training::learning_rate::{LearningRate, Schedule};

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
    republished: Vec<String>,
    lost: Vec<String>,
    /// After how many images what is requested.
    requests: Vec<(u64, Request)>,
    seen: u64,
    /// Steps so far, and the new scale.
    overflowed: Vec<(u64, f32)>,
    /// What a step takes, and the time at the end of each, with the images seen by then.
    step_takes: Duration,
    times: Vec<(u64, Duration)>,
}

impl Notebook {
    /// When so many images had been seen.
    fn time_at(&self, seen: u64) -> Duration {
        self.times.iter().find(|(at, _)| *at == seen).map_or(Duration::ZERO, |(_, time)| *time)
    }
}

impl Observer for Notebook {
    fn request(&mut self) -> Request {
        let due = self.requests.iter().position(|(seen, _)| *seen == self.seen);
        due.map_or(Request::GoOn, |place| self.requests.remove(place).1)
    }

    fn step(&mut self, report: &StepReport) {
        self.seen = report.seen;
        self.times.push((report.seen, self.now() + self.step_takes));
        self.overflowed.extend(report.overflowed.map(|scale| (report.steps, scale)));
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

    fn republish(&mut self, checkpoint: &Checkpoint, note: &str) -> Result<()> {
        self.republished.push(checkpoint.name.clone());
        self.checkpoints.push((checkpoint.name.clone(), note.to_string()));
        Ok(())
    }

    fn now(&self) -> Duration {
        self.times.last().map_or(Duration::ZERO, |(_, time)| *time)
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
        scales_loss: false,
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
        let mut first = Notebook { requests: vec![(at, Request::Interrupt)], ..Notebook::default() };
        assert_eq!(run(&settings(), &folder, &mut first).unwrap(), Ending::Interrupted, "at {at}");
        let mut second = Notebook { seen: at, ..Notebook::default() };
        assert_eq!(run(&settings(), &folder, &mut second).unwrap(), Ending::Finished, "at {at}");
        assert_eq!(second.checkpoints, whole, "at {at}");
        assert_eq!(second.republished.len() as u64, at / 20, "at {at}");
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
    let mut notebook = Notebook { requests: vec![(24, Request::Stop)], ..Notebook::default() };
    let ending = run(&settings(), &tempfile::tempdir().unwrap(), &mut notebook).unwrap();
    assert_eq!(ending, Ending::Stopped { epoch: 2 });
    assert_eq!(names(&notebook), ["e002", "s00000024"]);
}

#[test]
fn stopping_where_a_checkpoint_was_just_made_makes_no_second() {
    let mut notebook = Notebook { requests: vec![(20, Request::Stop)], ..Notebook::default() };
    run(&settings(), &tempfile::tempdir().unwrap(), &mut notebook).unwrap();
    assert_eq!(names(&notebook), ["e002"]);
}

#[test]
fn saving_now_disturbs_nothing() {
    let mut notebook = Notebook { requests: vec![(28, Request::SaveNow)], ..Notebook::default() };
    run(&settings(), &tempfile::tempdir().unwrap(), &mut notebook).unwrap();
    assert_eq!(names(&notebook), ["e002", "s00000028", "e004", "e006"]);
    notebook.checkpoints.remove(1);
    assert_eq!(notebook.checkpoints, undisturbed());
}

#[test]
fn a_state_whose_checkpoints_are_gone_is_not_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Notebook { requests: vec![(48, Request::Interrupt)], ..Notebook::default() };
    run(&settings(), &folder, &mut first).unwrap();
    let lost = vec![undisturbed()[0].1.clone()];
    let mut second = Notebook { lost, ..Notebook::default() };
    run(&settings(), &folder, &mut second).unwrap();
    assert!(second.republished.is_empty());
    assert_eq!(second.checkpoints, undisturbed());
}

#[test]
fn more_frequent_checkpoints_than_the_state_has_passed_start_anew() {
    let folder = tempfile::tempdir().unwrap();
    run(&settings(), &folder, &mut Notebook { requests: vec![(48, Request::Interrupt)], ..Notebook::default() }).unwrap();
    let every = Settings { save_every: 1, ..settings() };
    let mut second = Notebook::default();
    run(&every, &folder, &mut second).unwrap();
    assert!(second.republished.is_empty());
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
    run(&constant(4), &folder, &mut Notebook { requests: vec![(34, Request::Interrupt)], ..Notebook::default() }).unwrap();
    let (mut longer, mut whole) = (Notebook { seen: 34, ..Notebook::default() }, Notebook::default());
    run(&constant(6), &folder, &mut longer).unwrap();
    run(&constant(6), &tempfile::tempdir().unwrap(), &mut whole).unwrap();
    assert_eq!(longer.republished, ["e002"]);
    assert_eq!(longer.checkpoints, whole.checkpoints);
}

#[test]
fn a_kill_costs_half_a_minute_or_a_fiftieth_of_the_time() {
    let long = Settings {
        epochs: 600,
        save_every: 600,
        learning_rate: LearningRate { schedule: Schedule::Constant, warmup: 0, total: 6000 },
        ..settings()
    };
    for step_takes in [Duration::from_millis(200), Duration::from_secs(3), Duration::from_secs(11)] {
        for killed_at in (1..=12).chain([150, 700, 1933, 4500, 5999]) {
            let folder = tempfile::tempdir().unwrap();
            let mut pull = Pull { batches: long.batches, broken: Some((killed_at, f32::NAN)), constant: false };
            let mut notebook = Notebook { step_takes, ..Notebook::default() };
            train(&long, network(), &mut pull, &StateFolder::new(folder.path()), &mut notebook).unwrap_err();
            let reached = StateFolder::new(folder.path()).seen().unwrap().first().copied().unwrap_or(0);
            // The step that was under way is lost as well.
            let lost = notebook.now() + step_takes - notebook.time_at(reached);
            let may_be_lost = Duration::from_secs(30).max(notebook.now().mul_f64(0.02));
            assert!(lost <= may_be_lost, "{lost:?} of {:?} in steps of {step_takes:?}", notebook.now());
        }
    }
}

#[test]
fn a_state_is_begun_in_time_for_its_writing_and_no_sooner() {
    let seconds = Duration::from_secs;
    let (step, writing) = (seconds(1), seconds(4));
    assert!(!is_due(seconds(18), seconds(600), step + writing));
    assert!(is_due(seconds(19), seconds(600), step + writing));
    // After ten hours twelve minutes may be lost.
    assert!(!is_due(seconds(500), seconds(36_000), step));
    assert!(is_due(seconds(576), seconds(36_000), step));
}

#[test]
fn a_state_that_cannot_be_saved_ends_the_training() {
    struct Removing(Notebook, std::path::PathBuf);
    impl Observer for Removing {
        fn request(&mut self) -> Request {
            Request::GoOn
        }
        fn step(&mut self, report: &StepReport) {
            self.0.step(report);
        }
        fn checkpoint(&mut self, checkpoint: &Checkpoint, network: &LoraNetwork) -> Result<String> {
            std::fs::remove_dir_all(&self.1)?;
            self.0.checkpoint(checkpoint, network)
        }
        fn exists(&self, note: &str) -> bool {
            self.0.exists(note)
        }
        fn republish(&mut self, checkpoint: &Checkpoint, note: &str) -> Result<()> {
            self.0.republish(checkpoint, note)
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let states = folder.path().join("states");
    std::fs::create_dir(&states).unwrap();
    let mut pull = Pull { batches: settings().batches, broken: None, constant: false };
    let mut removing = Removing(Notebook::default(), states.clone());
    let only_at_the_end = Settings { save_every: 6, ..settings() };
    let error = train(&only_at_the_end, network(), &mut pull, &StateFolder::new(&states), &mut removing).unwrap_err();
    assert!(error.to_string().contains("saving the training's state"), "{error:#}");
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
    assert!(error.contains(&format!("the loss became NaN at step 10 (optimiser step 3), image number {image}")), "{error}");
}

#[test]
fn a_loss_that_never_changes_ends_the_training() {
    assert!(failure(None, true).contains("the loss was 1 for 10 optimiser steps in a row"));
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
        "every `up` of the text encoder is still zero after 6 optimiser steps: nothing reaches it"
    );
}

#[test]
fn a_frozen_network_may_stay_as_it_was() {
    let frozen = Settings { text_encoder_rate: 0.0, ..settings() };
    let mut notebook = Notebook::default();
    assert_eq!(run(&frozen, &tempfile::tempdir().unwrap(), &mut notebook).unwrap(), Ending::Finished);
}

/// As [`Pull`], with gradients that are no numbers from a limit on, as in fp16.
struct Narrow {
    pull: Pull,
    limit: f32,
}

impl Objective for Narrow {
    fn gradients(&mut self, network: &LoraNetwork, images: &[Draw], weight: f32) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
        let (losses, mut gradients) = self.pull.gradients(network, images, weight)?;
        gradients
            .iter_mut()
            .flatten()
            .filter(|gradient| gradient.abs() > self.limit)
            .for_each(|gradient| *gradient = f32::INFINITY);
        Ok((losses, gradients))
    }

    fn describe(&self, image: Draw) -> String {
        self.pull.describe(image)
    }
}

fn in_fp16(limit: f32, requests: Vec<(u64, Request)>, folder: &tempfile::TempDir) -> (Result<Ending>, Notebook) {
    let scaled = Settings { scales_loss: true, ..settings() };
    let mut narrow = Narrow { pull: Pull { batches: scaled.batches, broken: None, constant: false }, limit };
    let mut notebook = Notebook { requests, ..Notebook::default() };
    let ending = train(&scaled, network(), &mut narrow, &StateFolder::new(folder.path()), &mut notebook);
    (ending, notebook)
}

#[test]
fn a_scaled_loss_changes_no_bit_of_the_result() {
    let (ending, notebook) = in_fp16(f32::INFINITY, Vec::new(), &tempfile::tempdir().unwrap());
    assert_eq!(ending.unwrap(), Ending::Finished);
    assert_eq!(notebook.overflowed, []);
    assert_eq!(notebook.checkpoints, undisturbed());
}

#[test]
fn steps_whose_gradients_overflow_are_left_out_until_the_scale_fits() {
    let (ending, notebook) = in_fp16(65504.0, Vec::new(), &tempfile::tempdir().unwrap());
    assert_eq!(ending.unwrap(), Ending::Finished);
    // The third step pulls harder than the first.
    assert_eq!(notebook.overflowed, [(0, 32768.0), (0, 16384.0), (0, 8192.0), (2, 4096.0)]);
    assert_eq!(names(&notebook), ["e002", "e004", "e006"]);
    assert_ne!(notebook.checkpoints, undisturbed());
}

#[test]
fn an_interrupted_training_keeps_its_loss_scale() {
    let (_, whole) = in_fp16(65504.0, Vec::new(), &tempfile::tempdir().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (ending, _) = in_fp16(65504.0, vec![(28, Request::Interrupt)], &folder);
    assert_eq!(ending.unwrap(), Ending::Interrupted);
    let (_, second) = in_fp16(65504.0, Vec::new(), &folder);
    assert_eq!(second.overflowed, []);
    assert_eq!(second.checkpoints, whole.checkpoints);
}

#[test]
fn gradients_that_no_scale_brings_into_fp16_end_the_training() {
    let (ending, notebook) = in_fp16(1e-3, Vec::new(), &tempfile::tempdir().unwrap());
    let error = format!("{:#}", ending.unwrap_err());
    assert!(error.contains(" (optimiser step 1)") && error.contains("too large for fp16"), "{error}");
    assert_eq!(notebook.overflowed.len(), 16);
}
