//! The text encoder against transformers: tiny-sd's, and small ones with random weights.

use burn::tensor::{DType, Int, Tensor, TensorData};

use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::models::clip::{ClipTextConfig, ClipTextModel};
use loramill::sd::models::weights::Source;
use loramill::sd::ops::arguments::Activation;
use loramill::sd::stable_diffusion::load_text_encoder;

use crate::parity::device;
use crate::parity::drawn::{Drawn, assert_agrees, tiny_sd};
use crate::parity::{Fixture, assert_close};

/// Two or three layers of f32, each rounding to 6e-8 sums of up to 512 products.
const TOLERANCE: f32 = 5e-6;

fn check(name: &str, model: &ClipTextModel) {
    let fixture = Fixture::read("clip");
    let tokens: Vec<i32> = fixture.integers(&format!("{name}.tokens")).into_iter().map(|token| token as i32).collect();
    let tokens = TensorData::new(tokens.clone(), [tokens.len() / 77, 77]);
    let tokens = Tensor::<2, Int>::from_data(tokens, (&device(), DType::I32));
    assert_agrees(&fixture, &format!("{name}.skip_1"), model.forward(tokens.clone(), 1), TOLERANCE);
    assert_agrees(&fixture, &format!("{name}.skip_2"), model.forward(tokens, 2), TOLERANCE);
}

fn small(activation: Activation) -> ClipTextModel {
    let config = ClipTextConfig { width: 128, layers: 3, heads: 2, hidden: 512, vocabulary: 300, positions: 77, activation };
    ClipTextModel::init(&config, Source::new(&mut Drawn("clip"), &device())).unwrap()
}

on_each_device! {
fn the_text_encoder_of_tiny_sd_agrees_with_transformers() {
    check("tiny", &load_text_encoder(&tiny_sd(), &device()).unwrap());
}
}

on_each_device! {
fn a_small_text_encoder_agrees_with_transformers() {
    check("quick", &small(Activation::QuickGelu));
    check("exact", &small(Activation::Gelu));
}
}

on_each_device! {
fn fewer_tokens_than_positions_agree_too() {
    let tokens = Tensor::<2, Int>::from_data(TensorData::from([[298i32, 5, 299]]), (&device(), DType::I32));
    let found = small(Activation::Gelu).forward(tokens, 1);
    assert_agrees(&Fixture::read("clip"), "short", found, TOLERANCE);
}
}

on_each_device! {
fn tokens_are_checked_before_they_are_looked_up() {
    let file: ModelFile = tiny_sd();
    let model = loramill::sd::stable_diffusion::Denoiser::load(&file, loramill::sd::stable_diffusion::Precisions::F32, &device()).unwrap();
    let error = |rows: &[Vec<u32>], clip_skip| model.encode_text(rows, clip_skip).unwrap_err().to_string();
    assert_eq!(error(&[vec![0; 78]], 1), "78 tokens for the 77 positions of the text encoder");
    assert_eq!(error(&[vec![0; 3], vec![0; 4]], 1), "rows of tokens differ in length");
    assert_eq!(error(&[vec![49408]], 1), "token 49408 is beyond the vocabulary of 49408");
    assert_eq!(error(&[vec![0]], 3), "clip skip 3: the text encoder has 2 layers");

    let rows = Fixture::read("clip").integers("tiny.tokens");
    let rows: Vec<Vec<u32>> = rows.chunks(77).map(|row| row.iter().map(|token| *token as u32).collect()).collect();
    let context: Vec<f32> = model.encode_text(&rows, 1).unwrap().into_data().try_into_vec().unwrap();
    let expected = Fixture::read("clip").values("tiny.skip_1");
    assert_close("context", &context, &expected, 1e-4, 0.0);
}
}
