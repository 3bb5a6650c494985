//! The networks of Stable Diffusion 1.x: text encoder, UNet, VAE.
//!
//! Each is built from its configuration and a source of weights, and is frozen from then on; only adapters beside its linear
//! layers learn. Names are those of diffusers and transformers, which are also those that LoRA files speak of. Knows Burn and
//! `ops`; nothing of files, prompts, noise and training.

pub mod weights;

pub mod layers;

pub mod clip;
pub mod resnet;
pub mod segment;
pub mod transformer;
pub mod unet;
pub mod vae;
