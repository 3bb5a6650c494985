//! The VAE against diffusers: tiny-sd's, and a small one with SD 1.5's structure and random weights.

use burn::tensor::Tensor;

use loramill::sd::models::vae::{AutoencoderKl, VaeConfig};
use loramill::sd::models::weights::Source;
use loramill::sd::stable_diffusion::{LATENT_SCALE, Vae};

use crate::parity::Fixture;
use crate::parity::device;
use crate::parity::drawn::{Drawn, assert_agrees, drawn, tiny_sd};

/// Some fifty operations in f32, each rounding to 6e-8 sums of up to 900 products.
const TOLERANCE: f32 = 1e-5;

on_each_device! {
fn the_vae_of_tiny_sd_agrees_with_diffusers() {
    let fixture = Fixture::read("vae");
    let vae = Vae::load(&tiny_sd(), &device()).unwrap();
    assert_eq!(vae.factor(), 4);
    let picture: Tensor<4> = drawn("vae.tiny.picture", [2, 3, 64, 64]);
    assert_agrees(&fixture, "tiny.latents", vae.encode(picture.tanh()) / LATENT_SCALE, TOLERANCE);
    let latents: Tensor<4> = drawn("vae.tiny.latents", [1, 4, 16, 16]);
    // Large activations before the last norm: PyTorch's own f32 is 4e-6 of the greatest value away from its f64 here, and convolution by tiles,
    // whose numbers at their points are larger, 1.7e-5.
    assert_agrees(&fixture, "tiny.picture", vae.decode(latents * LATENT_SCALE), 2.0 * TOLERANCE);
}
}

on_each_device! {
fn a_small_vae_agrees_with_diffusers() {
    let fixture = Fixture::read("vae");
    let config = VaeConfig { channels: vec![32, 64, 96, 96], resnets: 2, latent_channels: 4, groups: 32 };
    let vae = AutoencoderKl::init(&config, Source::new(&mut Drawn("vae"), &device())).unwrap();
    assert_eq!(vae.factor(), 8);
    let picture: Tensor<4> = drawn("vae.small.picture", [1, 3, 48, 32]);
    assert_agrees(&fixture, "small.latents", vae.encode(picture.tanh()), TOLERANCE);
    assert_agrees(&fixture, "small.picture", vae.decode(drawn("vae.small.latents", [2, 4, 5, 3])), TOLERANCE);
}
}
