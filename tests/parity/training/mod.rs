//! `training` against torch, diffusers and peft.

use loramill::training::adamw::{AdamW, Moments, clip_norm};
use loramill::training::learning_rate::{LearningRate, Schedule};

use crate::parity::{Fixture, assert_close, draw};

#[test]
fn twenty_steps_of_adamw_are_torchs() {
    let fixture = Fixture::read("training");
    let shapes: [(&str, &[usize]); 3] = [("a", &[4, 8]), ("b", &[16]), ("c", &[3, 5, 2])];
    let mut values: Vec<Vec<f32>> = shapes.iter().map(|(name, shape)| draw(&format!("adamw.{name}"), shape, 1.0)).collect();
    let mut moments: Vec<Moments> = values.iter().map(|values| Moments::zeros(values.len())).collect();
    for step in 0..20 {
        let scale = |name: &str| if name == "b" && (5..10).contains(&step) { 0.0 } else { (0.02 * f64::from(step + 1)) as f32 };
        let mut gradients: Vec<Vec<f32>> =
            shapes.iter().map(|(name, shape)| draw(&format!("adamw.gradient.{step}.{name}"), shape, scale(name))).collect();
        clip_norm(gradients.iter_mut().map(Vec::as_mut_slice), 1.0);
        let rate = 1e-2 * (1.0 - f64::from(step) / 20.0);
        for (i, (name, _)) in shapes.iter().enumerate() {
            AdamW::default().update(step as u64 + 1, rate, &mut values[i], &gradients[i], &mut moments[i]);
            // Both sides round to f32 after each of a dozen operations.
            assert_close(
                &format!("`{name}` after step {step}"),
                &values[i],
                &fixture.values(&format!("adamw.{step}.{name}")),
                1e-6,
                1e-5,
            );
        }
    }
}

#[test]
fn learning_rates_are_those_of_diffusers() {
    let fixture = Fixture::read("training");
    let polynomial = Schedule::Polynomial { power: 2.0, end: 1e-7 };
    let schedules = [
        ("constant_with_warmup", Schedule::Constant),
        ("linear", Schedule::Linear),
        ("cosine", Schedule::Cosine),
        ("polynomial", polynomial),
    ];
    for (name, schedule) in schedules {
        for warmup in [0, 10] {
            let rate = LearningRate { schedule, warmup, total: 100 };
            let mut expected = fixture.values(&format!("rate.{name}.{warmup}"));
            if name == "cosine" {
                // Past its end diffusers' cosine rises again; ours stays at zero.
                expected[101..].fill(0.0);
            }
            let found: Vec<f32> = (0..expected.len()).map(|seen| rate.at(1e-4, seen as u64) as f32).collect();
            // The fixture is rounded to f32.
            assert_close(&format!("{name} with warmup {warmup}"), &found, &expected, 1e-13, 1e-6);
        }
    }
}
