//! Teaching: captions become prompts, pictures become batches, and a LoRA learns to take the noise out of them. Unaware of the pipeline.

pub mod instance_prompt;
pub mod texts;

pub mod batches;
#[cfg(feature = "nn")]
pub mod checkpointing;

pub mod learning_rate;
pub mod loss_scale;
#[cfg(feature = "nn")]
pub mod memory_plan;

pub mod adamw;

pub mod saver;
pub mod state;

pub mod observer;
pub mod run;
pub mod settings;

#[cfg(feature = "nn")]
pub mod denoising;
#[cfg(feature = "nn")]
pub mod latent;
