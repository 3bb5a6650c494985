//! What a training asks of whoever runs it, and what it reports. Unaware of what a step computes.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::sd::lora::network::LoraNetwork;
use crate::sd::training::settings::Checkpoint;

/// Whoever runs the training.
pub trait Observer {
    /// Asked between two steps.
    fn request(&mut self) -> Request;

    fn step(&mut self, report: &StepReport);

    /// Makes a checkpoint durable. [`Self::republish`] is called with the note when the training resumes.
    fn checkpoint(&mut self, checkpoint: &Checkpoint, network: &LoraNetwork) -> Result<String>;

    /// Whether a checkpoint of an earlier run still exists.
    fn exists(&self, note: &str) -> bool;

    /// Makes a checkpoint of an earlier run known to this one.
    fn republish(&mut self, checkpoint: &Checkpoint, note: &str) -> Result<()>;

    /// The time, from any moment on that stays the same.
    fn now(&self) -> Duration {
        static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
        BEGINNING.elapsed()
    }
}

/// What the user requests of a running training. The engine has the same four words of its own (`engine/kind/stage`): training knows no pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    GoOn,
    SaveNow,
    /// End with what there is.
    Stop,
    /// End, to go on later.
    Interrupt,
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
    /// If the scaled gradients overflowed: the smaller scale from now on. The factors were left as they are.
    pub overflowed: Option<f32>,
}
