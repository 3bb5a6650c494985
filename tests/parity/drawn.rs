//! Networks with random weights, the same as in tiny_sd.py.

use std::path::Path;

use anyhow::Result;
use burn::tensor::{DType, Tensor, TensorData};

use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::models::weights::Weights;

use crate::parity::{Fixture, assert_close, device, draw};

/// Draws each tensor by its name, of a size that keeps activations near 1.
pub struct Drawn(pub &'static str);

impl Weights for Drawn {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let full = format!("{}.{name}", self.0);
        let (offset, scale) = match shape {
            [_] if name.ends_with(".weight") => (1.0, 0.1),
            [_] => (0.0, 0.1),
            [_, rest @ ..] => (0.0, 1.0 / (rest.iter().product::<usize>() as f32).sqrt()),
            [] => panic!("`{full}` has no dimensions"),
        };
        Ok(draw(&full, shape, 1.0).into_iter().map(|number| offset + scale * number).collect())
    }
}

pub fn drawn<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(draw(name, &shape, 1.0), shape), (&device(), DType::F32))
}

/// Compares with the fixture's tensor of that name, within `tolerance` of its greatest value.
#[track_caller]
pub fn assert_agrees<const D: usize>(fixture: &Fixture, name: &str, found: Tensor<D>, tolerance: f32) {
    let (shape, expected) = fixture.tensor(name);
    assert_eq!(found.dims().as_slice(), shape, "{name}");
    let found: Vec<f32> = found.into_data().try_into_vec().unwrap();
    let greatest = expected.iter().fold(0.0f32, |greatest, value| greatest.max(value.abs()));
    assert_close(name, &found, &expected, tolerance * greatest, 0.0);
}

/// The base model of the example.
pub fn tiny_sd() -> ModelFile {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tiny/models/tiny-sd.safetensors");
    ModelFile::open(Path::new(path)).unwrap()
}
