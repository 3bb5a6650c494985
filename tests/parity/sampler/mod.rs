//! Samplers against k-diffusion and diffusers, with a toy in place of the UNet.

use loramill::sd::diffusion::noise_schedule::NoiseSchedule;
use loramill::sd::diffusion::prediction::Prediction;
use loramill::sd::diffusion::sampler::Sampler;
use loramill::sd::random::Generator;

use crate::parity::{Fixture, assert_close};

const STEPS: usize = 10;

#[test]
fn euler_walks_as_in_k_diffusion() {
    assert_walks_as("euler", Sampler::Euler, Prediction::Epsilon);
}

#[test]
fn euler_a_walks_as_in_k_diffusion_with_torchs_noise() {
    assert_walks_as("euler_a", Sampler::EulerAncestral, Prediction::Epsilon);
}

#[test]
fn ddim_walks_as_in_compvis() {
    assert_walks_as("ddim", Sampler::Ddim, Prediction::Epsilon);
    assert_walks_as("ddim_velocity", Sampler::Ddim, Prediction::Velocity);
}

#[test]
fn sigmas_are_those_of_k_diffusion() {
    let levels = NoiseSchedule::stable_diffusion().linspace(STEPS);
    let sigmas: Vec<f32> = levels.iter().map(|level| level.sigma as f32).collect();
    // k-diffusion takes 1 − ᾱ in f32, which costs the smallest sigma 2e-5 of itself.
    assert_close("sigmas", &sigmas, &Fixture::read("sampler").values("sigmas"), 0.0, 2e-5);
}

#[track_caller]
fn assert_walks_as(name: &str, sampler: Sampler, prediction: Prediction) {
    let fixture = Fixture::read("sampler");
    for seed in [1, 420_420] {
        let mut predictions = 0;
        let mut toy = |x: &[f32], timestep: f64| {
            predictions += 1;
            Ok(x.iter().map(|x| x / (1.0 + x.abs()) * (0.3 + timestep as f32 / 1000.0)).collect())
        };
        let schedule = NoiseSchedule::stable_diffusion();
        let found = sampler.sample(&schedule, prediction, STEPS, &mut Generator::new(seed), 4 * 8 * 8, &mut toy).unwrap();
        // f32 sums of ten steps from values of about 50, in another order and with sigmas of other precision.
        assert_close(name, &found, &fixture.values(&format!("{name}.{seed}")), 1e-5, 1e-5);
        assert_eq!(predictions, sampler.predictions(STEPS));
    }
}
