//! `training` against torch, diffusers and peft.

use loramill::sd::training::adamw::{AdamW, Moments, clip_norm};
use loramill::sd::training::learning_rate::{LearningRate, Schedule};

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

/// One step of tiny-sd from a LoRA whose `up` is not zero, as generate.py takes it.
#[cfg(feature = "nn")]
mod step {
    use std::path::Path;
    use std::sync::Mutex;

    use loramill::sd::checkpoint::model_file::ModelFile;
    use loramill::sd::lora::network::LoraNetwork;
    use loramill::sd::lora::network::Target;
    use loramill::sd::lora::targets;
    use loramill::sd::stable_diffusion::{Denoiser, Precisions};
    use loramill::sd::training::adamw::{AdamW, Moments, clip_norm};
    use loramill::sd::training::batches::{Batches, Draw};
    use loramill::sd::training::denoising::{Denoising, Example};
    use loramill::sd::training::instance_prompt::{Doubling, InstancePrompt};
    use loramill::sd::training::texts::Texts;

    use crate::parity::{Fixture, assert_close, draw};

    const SHAPE: [usize; 3] = [4, 16, 16];
    const RANK: usize = 4;
    const ALPHA: f64 = 8.0;

    fn tiny_sd() -> Mutex<Denoiser> {
        tiny_sd_in(Precisions::F32)
    }

    fn tiny_sd_in(numbers: Precisions) -> Mutex<Denoiser> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/models/tiny-sd.safetensors");
        let device = crate::parity::device();
        Mutex::new(Denoiser::load(&ModelFile::open(&path).unwrap(), numbers, &device).unwrap())
    }

    fn network(model: &Mutex<Denoiser>) -> LoraNetwork {
        let mut model = model.lock().unwrap();
        let (unet, text_encoder) = model.networks();
        drawn([targets::of_unet(unet), targets::of_text_encoder(text_encoder.unwrap())].concat())
    }

    /// With factors that are not zero.
    fn drawn(targets: Vec<Target>) -> LoraNetwork {
        let mut network = LoraNetwork::new(targets, RANK, ALPHA, 0);
        for factor in &mut network.factors {
            factor.values = draw(&factor.name, &factor.shape, 0.1);
        }
        network
    }

    fn examples(fixture: &Fixture) -> Vec<Example> {
        let texts = Texts { prompt: InstancePrompt::new("[filewords]", "", "", Doubling::Never), rows: 1 };
        let latents = draw("latents", &[2, 4, 16, 16], 1.0);
        let size: usize = SHAPE.iter().product();
        let captions = fixture.metadata("captions");
        let rows = captions.lines().map(|caption| texts.of(caption).rows);
        let latents = latents.chunks(size).map(<[f32]>::to_vec);
        latents.zip(rows).map(|(latent, rows)| Example { name: String::new(), shape: SHAPE, latent, rows }).collect()
    }

    fn norm(values: impl Iterator<Item = f32>) -> f64 {
        values.map(|value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
    }

    #[track_caller]
    fn assert_near_in_norm(what: &str, found: &[f32], expected: &[f32], relative: f64) {
        assert_eq!(found.len(), expected.len(), "{what}");
        let distance = norm(found.iter().zip(expected).map(|(found, expected)| found - expected));
        let length = norm(expected.iter().copied());
        assert!(distance <= relative * length, "{what}: off by {:e} of its norm {length:e}", distance / length);
    }

    on_each_device! {
    fn loss_gradients_and_update_are_pefts() {
        let fixture = Fixture::read("training");
        let model = tiny_sd();
        let mut network = network(&model);
        let examples = examples(&fixture);
        let tokens: Vec<i64> = examples.iter().flat_map(|e| e.rows.concat()).map(i64::from).collect();
        assert_eq!(tokens, fixture.integers("tokens"));

        let batches = Batches { seed: 0, images: 2, per_step: 2 };
        let mut denoising = Denoising::new(&model, &examples, batches, 1, true).unwrap();
        let images = [Draw { image: 0, seen: 0 }, Draw { image: 1, seen: 1 }];
        let noise = draw("noise", &[2, 4, 16, 16], 1.0);
        let noises: Vec<Vec<f32>> = noise.chunks(noise.len() / 2).map(<[f32]>::to_vec).collect();
        let (losses, mut gradients) = denoising.gradients_with(&network, &images, &[37, 811], &noises, 0.5).unwrap();

        let loss = (losses[0] + losses[1]) / 2.0;
        assert_close("loss", &[loss], &fixture.values("loss"), 0.0, 1e-5);
        let mut names: Vec<&str> = network.factors.iter().map(|factor| factor.name.as_str()).collect();
        let expected = fixture.metadata("factors");
        let mut expected: Vec<&str> = expected.lines().collect();
        names.sort();
        expected.sort();
        assert_eq!(names, expected);
        for (factor, gradient) in network.factors.iter().zip(&gradients) {
            assert_near_in_norm(&factor.name, gradient, &fixture.values(&format!("gradient.{}", factor.name)), 1e-4);
        }

        let before = clip_norm(gradients.iter_mut().map(Vec::as_mut_slice), 1.0);
        assert_close("norm", &[before as f32], &fixture.values("norm"), 0.0, 1e-5);
        for (factor, gradient) in network.factors.iter_mut().zip(&gradients) {
            let rate = if factor.name.starts_with("lora_te_") { 1e-3 } else { 2e-3 };
            let old = factor.values.clone();
            AdamW::default().update(1, rate, &mut factor.values, gradient, &mut Moments::zeros(gradient.len()));
            // The first step moves by the rate whatever the gradient's size: where that is nearly zero its sign is a matter of rounding.
            let moved = |new: &[f32]| new.iter().zip(&old).map(|(new, old)| new - old).collect::<Vec<f32>>();
            let expected = fixture.values(&format!("after.{}", factor.name));
            assert_near_in_norm(&format!("move of {}", factor.name), &moved(&factor.values), &moved(&expected), 0.02);
        }
    }
    }

    /// `up · down` of each module after ten steps.
    #[cfg(feature = "libtorch")]
    fn ten_steps(fixture: &Fixture) -> Vec<Vec<f32>> {
        use loramill::sd::training::run::Objective;

        let model = tiny_sd();
        let mut network = network(&model);
        let examples = examples(fixture);
        let batches = Batches { seed: 5, images: 2, per_step: 2 };
        let mut denoising = Denoising::new(&model, &examples, batches, 1, true).unwrap();
        let mut moments: Vec<Moments> = network.factors.iter().map(|factor| Moments::zeros(factor.values.len())).collect();
        for step in 0..10 {
            let images = batches.step(2 * step);
            let (_, mut gradients) = denoising.gradients(&network, &images, 0.5).unwrap();
            clip_norm(gradients.iter_mut().map(Vec::as_mut_slice), 1.0);
            for ((factor, gradient), moments) in network.factors.iter_mut().zip(&gradients).zip(&mut moments) {
                let rate = if factor.name.starts_with("lora_te_") { 1e-4 } else { 1e-3 };
                AdamW::default().update(step + 1, rate, &mut factor.values, gradient, moments);
            }
        }
        let product = |pair: &[loramill::sd::lora::network::Factor]| {
            let [down, up] = pair else { panic!("a module has two factors") };
            let inputs = down.values.len() / RANK;
            let rows = up.values.chunks_exact(RANK);
            let entry = |row: &[f32], i: usize| row.iter().enumerate().map(|(r, up)| up * down.values[r * inputs + i]).sum();
            rows.flat_map(|row| (0..inputs).map(move |i| entry(row, i)).collect::<Vec<f32>>()).collect()
        };
        network.factors.chunks_exact(2).map(product).collect()
    }

    #[cfg(feature = "libtorch")]
    #[test]
    fn ten_steps_from_one_state_stay_together_on_both_backends() {
        let fixture = Fixture::read("training");
        let embedded = ten_steps(&fixture);
        crate::parity::on("libtorch:cpu", || {});
        for (module, (libtorch, embedded)) in ten_steps(&fixture).iter().zip(&embedded).enumerate() {
            assert_near_in_norm(&format!("module {module}"), libtorch, embedded, 1e-3);
        }
    }

    on_each_device! {
    fn a_checkpointed_step_has_the_same_gradients() {
        let fixture = Fixture::read("training");
        let examples = examples(&fixture);
        let batches = Batches { seed: 3, images: 2, per_step: 2 };
        let images = batches.step(0);
        let step = |train_text_encoder, checkpointing| {
            use loramill::sd::training::run::Objective;
            let model = tiny_sd();
            let network = network(&model);
            let denoising = Denoising::new(&model, &examples, batches, 1, train_text_encoder).unwrap();
            denoising.with_checkpointing(checkpointing).gradients(&network, &images, 0.5).unwrap()
        };
        // Where an output is used twice the gradients of both uses are added in another order.
        for train_text_encoder in [false, true] {
            let (plain, checkpointed) = (step(train_text_encoder, false), step(train_text_encoder, true));
            assert_eq!(plain.0, checkpointed.0);
            assert!(plain.1.iter().flatten().any(|value| *value != 0.0));
            for (plain, checkpointed) in plain.1.iter().zip(&checkpointed.1) {
                assert_near_in_norm("a factor's gradient", checkpointed, plain, 1e-5);
            }
        }
    }
    }

    on_each_device! {
    fn a_text_encoder_that_learns_alone_has_the_same_gradients_checkpointed() {
        use loramill::sd::training::run::Objective;

        let examples = examples(&Fixture::read("training"));
        let batches = Batches { seed: 3, images: 2, per_step: 2 };
        let step = |checkpointing| {
            let model = tiny_sd();
            let network = drawn(targets::of_text_encoder(model.lock().unwrap().networks().1.unwrap()));
            let denoising = Denoising::new(&model, &examples, batches, 1, true).unwrap();
            denoising.with_checkpointing(checkpointing).gradients(&network, &batches.step(0), 0.5).unwrap()
        };
        let (plain, checkpointed) = (step(false), step(true));
        assert_eq!(plain.0, checkpointed.0);
        assert!(plain.1.iter().flatten().any(|value| *value != 0.0));
        for (plain, checkpointed) in plain.1.iter().zip(&checkpointed.1) {
            assert_near_in_norm("a factor's gradient", checkpointed, plain, 1e-5);
        }
    }
    }

    on_each_device! {
    fn pictures_of_two_sizes_are_learnt_as_each_would_be_alone() {
        use loramill::sd::training::run::Objective;

        let mut examples = examples(&Fixture::read("training"));
        let half: usize = SHAPE.iter().product::<usize>() / 2;
        examples[1].shape = [4, 8, 16];
        examples[1].latent.truncate(half);
        examples.push(examples[1].clone());
        let model = tiny_sd();
        let network = network(&model);
        let batches = Batches { seed: 3, images: 3, per_step: 3 };
        let mut denoising = Denoising::new(&model, &examples, batches, 1, true).unwrap();
        let images = [2, 0, 1].map(|image| Draw { image, seen: image as u64 });
        let passes = denoising.together(&images, 2);
        assert_eq!(passes, [vec![images[0], images[2]], vec![images[1]]]);
        assert_eq!(denoising.together(&images, 1), [[images[0]], [images[2]], [images[1]]]);

        let mut sum = |passes: &[Vec<Draw>]| {
            let mut sum: Vec<f32> = Vec::new();
            for pass in passes {
                let gradients = denoising.gradients(&network, pass, 1.0 / 3.0).unwrap().1.concat();
                sum.resize(gradients.len(), 0.0);
                sum.iter_mut().zip(gradients).for_each(|(sum, gradient)| *sum += gradient);
            }
            sum
        };
        assert_near_in_norm("the step", &sum(&passes), &sum(&images.map(|image| vec![image])), 1e-5);
        let error = denoising.gradients(&network, &images, 1.0).unwrap_err().to_string();
        assert!(error.starts_with("pictures of several sizes in one pass"), "{error}");
    }
    }

    /// What a card computes in; libtorch does it on the processor too. An operation that gets two types panics.
    #[cfg(feature = "libtorch")]
    #[test]
    fn a_step_in_16_bits_has_the_gradients_of_f32() {
        use burn::tensor::DType;
        use loramill::sd::checkpoint::tensor::Dtype;
        use loramill::sd::training::run::Objective;

        crate::parity::on("libtorch:cpu", || {});
        let fixture = Fixture::read("training");
        let examples = examples(&fixture);
        let batches = Batches { seed: 3, images: 2, per_step: 2 };
        let images = batches.step(0);
        let step = |numbers, scale: f32, checkpointing| {
            let model = tiny_sd_in(numbers);
            let network = network(&model);
            let denoising = Denoising::new(&model, &examples, batches, 1, true).unwrap();
            denoising.with_checkpointing(checkpointing).gradients(&network, &images, 0.5 * scale).unwrap()
        };
        // Some ten layers deep, each of which rounds to 11 and to 8 bits.
        for (weights, arithmetic, scale, tolerance) in
            [(Dtype::F16, DType::F16, 1024.0, 0.01), (Dtype::Bf16, DType::BF16, 1.0, 0.06)]
        {
            let (losses, exact) = step(Precisions { weights, arithmetic: DType::F32 }, 1.0, false);
            for checkpointing in [false, true] {
                let (half_losses, half) = step(Precisions { weights, arithmetic }, scale, checkpointing);
                assert_close("losses", &half_losses, &losses, 0.0, tolerance as f32);
                let unscaled = |values: &[Vec<f32>]| values.iter().flatten().map(|value| value / scale).collect::<Vec<f32>>();
                assert_near_in_norm(&format!("{arithmetic:?}"), &unscaled(&half), &exact.concat(), tolerance);
            }
        }
    }

    on_each_device! {
    fn a_frozen_text_encoder_gives_the_unet_the_same_gradients() {
        let fixture = Fixture::read("training");
        let model = tiny_sd();
        let mut network = network(&model);
        // Without adapters in the text encoder its training and its cached output must agree.
        for factor in network.factors.iter_mut().filter(|factor| factor.name.starts_with("lora_te_")) {
            factor.values.fill(0.0);
        }
        let examples = examples(&fixture);
        let batches = Batches { seed: 3, images: 2, per_step: 2 };
        let images = batches.step(0);
        let gradients = |train_text_encoder| {
            use loramill::sd::training::run::Objective;
            Denoising::new(&model, &examples, batches, 1, train_text_encoder)
                .unwrap()
                .gradients(&network, &images, 0.5)
                .unwrap()
        };
        let ((trained_losses, trained), (frozen_losses, frozen)) = (gradients(true), gradients(false));
        assert_close("losses", &frozen_losses, &trained_losses, 0.0, 1e-6);
        for ((factor, trained), frozen) in network.factors.iter().zip(&trained).zip(&frozen) {
            if factor.name.starts_with("lora_unet_") {
                assert_near_in_norm(&factor.name, frozen, trained, 1e-5);
            }
        }
    }
    }
}
