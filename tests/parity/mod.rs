//! Numbers against the original implementations: PyTorch, transformers, diffusers, k-diffusion. Each module lies beside the script that
//! made its fixture.

#[cfg(feature = "nn")]
use std::cell::Cell;

use sha2::{Digest as _, Sha256};

use loramill::sd::random::Generator;

/// Makes of a function one test for each device that every machine has, or whose feature says that this one has it.
#[cfg(feature = "nn")]
macro_rules! on_each_device {
    (fn $name:ident() $body:block) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn test() $body

            #[test]
            fn cpu() {
                crate::parity::on("cpu", test);
            }

            #[cfg(feature = "libtorch")]
            #[test]
            fn libtorch_cpu() {
                crate::parity::on("libtorch:cpu", test);
            }

            #[cfg(feature = "vulkan")]
            #[test]
            fn vulkan() {
                crate::parity::on("vulkan:0", test);
            }
        }
    };
}

#[cfg(feature = "nn")]
mod clip;
#[cfg(feature = "nn")]
mod drawn;
#[cfg(feature = "nn")]
mod ops;
mod prompt;
mod random;
mod sampler;
mod training;
#[cfg(feature = "nn")]
mod txt2img;
#[cfg(feature = "nn")]
mod unet;
#[cfg(feature = "nn")]
mod vae;

#[cfg(feature = "nn")]
thread_local! {
    static DEVICE: Cell<&'static str> = const { Cell::new("cpu") };
}

/// Runs `test` with another [`device`].
#[cfg(feature = "nn")]
fn on(name: &'static str, test: fn()) {
    DEVICE.set(name);
    test();
}

/// The device of the running test.
#[cfg(feature = "nn")]
pub fn device() -> burn::tensor::Device {
    loramill::sd::device::named(DEVICE.get()).unwrap()
}

/// Random weights that fixtures need not store: the same numbers as `draw` in draw.py, keyed by the tensor's name.
///
/// Standard normal numbers times `scale`, in row-major order.
pub fn draw(name: &str, shape: &[usize], scale: f32) -> Vec<f32> {
    let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
    let [a, b, c, d, ..] = digest;
    let seed = u32::from_le_bytes([a, b, c, d]);
    let numbers = Generator::new(u64::from(seed)).normal(shape.iter().product());
    numbers.into_iter().map(|number| number * scale).collect()
}

/// A fixture's tensors, read from beside the test: `Fixture::read("random")` reads tests/parity/random/fixture.safetensors.
pub struct Fixture(Vec<u8>);

impl Fixture {
    pub fn read(name: &str) -> Self {
        let path = format!("{}/tests/parity/{name}/fixture.safetensors", env!("CARGO_MANIFEST_DIR"));
        Self(std::fs::read(&path).unwrap_or_else(|error| panic!("reading `{path}`: {error}")))
    }

    /// Shape and values of a float32 tensor.
    pub fn tensor(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = safetensors::SafeTensors::deserialize(&self.0).expect("fixtures are safetensors");
        let tensor = file.tensor(name).unwrap_or_else(|error| panic!("`{name}`: {error}"));
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "`{name}`");
        (tensor.shape().to_vec(), tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    pub fn values(&self, name: &str) -> Vec<f32> {
        self.tensor(name).1
    }

    /// An int64 tensor.
    pub fn integers(&self, name: &str) -> Vec<i64> {
        let file = safetensors::SafeTensors::deserialize(&self.0).expect("fixtures are safetensors");
        let tensor = file.tensor(name).unwrap_or_else(|error| panic!("`{name}`: {error}"));
        assert_eq!(tensor.dtype(), safetensors::Dtype::I64, "`{name}`");
        tensor.data().as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
    }

    /// What the generating script noted: versions, texts.
    pub fn metadata(&self, name: &str) -> String {
        let (_, header) = safetensors::SafeTensors::read_metadata(&self.0).expect("fixtures are safetensors");
        let notes = header.metadata().as_ref().expect("fixtures carry metadata");
        notes.get(name).unwrap_or_else(|| panic!("the fixture notes no `{name}`")).clone()
    }
}

/// Fails unless every value is within `absolute + relative · |expected|` of the expected one; names the worst.
#[track_caller]
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], absolute: f32, relative: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let excess = |i: usize| (found[i] - expected[i]).abs() - (absolute + relative * expected[i].abs());
    let worst = (0..found.len()).max_by(|a, b| excess(*a).total_cmp(&excess(*b)));
    if let Some(i) = worst {
        // A NaN anywhere is the maximum of `total_cmp` and fails here.
        assert!(excess(i) <= 0.0, "{what}: value {i} is {}, expected {}", found[i], expected[i]);
    }
}
