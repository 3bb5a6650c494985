//! What decides the result of a training, and at which places it keeps the factors. Unaware of how it is computed.

use crate::sd::training::adamw::AdamW;
use crate::sd::training::batches::Batches;
use crate::sd::training::learning_rate::LearningRate;

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
    /// Whether gradients are computed in fp16, where small ones vanish unless the loss is scaled.
    pub scales_loss: bool,
    /// The training ends after this many epochs.
    pub epochs: u64,
    /// Epochs between two checkpoints; the last epoch is always one.
    pub save_every: u64,
}

impl Settings {
    /// The checkpoints of an undisturbed training.
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        (1..=self.epochs).filter(|epoch| self.saves(*epoch)).map(|epoch| self.checkpoint(epoch * self.batches.images)).collect()
    }

    /// Whether there is a checkpoint at the end of an epoch.
    pub(crate) fn saves(&self, epoch: u64) -> bool {
        epoch.is_multiple_of(self.save_every) || epoch == self.epochs
    }

    /// The checkpoint after `seen` images.
    pub(crate) fn checkpoint(&self, seen: u64) -> Checkpoint {
        Checkpoint::at(seen, self.batches.images)
    }

    /// Images seen in all.
    pub fn total(&self) -> u64 {
        self.epochs * self.batches.images
    }

    /// The peak rate of the network that a factor belongs to.
    pub(crate) fn peak(&self, factor: &str) -> f64 {
        if factor.starts_with("lora_te") { self.text_encoder_rate } else { self.unet_rate }
    }
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
    /// The checkpoint after `seen` images, where an epoch has `images` of them.
    pub fn at(seen: u64, images: u64) -> Self {
        let epoch = seen.is_multiple_of(images).then_some(seen / images);
        let name = epoch.map_or_else(|| format!("s{seen:08}"), |epoch| format!("e{epoch:03}"));
        Self { name, epoch, seen }
    }
}
