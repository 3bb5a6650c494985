//! Whether a device computes what the embedded backend computes: each operation of the networks and its derivative, on shapes of theirs.
//!
//! Drivers and libraries have been wrong in one operation, in one shape, in one precision, in gradients alone, or only where nothing but the
//! factors of adapters gets gradients, without an error. Knows nothing of names of devices.

use anyhow::{Result, bail};
use burn::tensor::{DType, Device, Tensor, TensorData};
use half::{bf16, f16};

use crate::sd::device;
use crate::sd::ops::activation::activate;
use crate::sd::ops::arguments::{Activation, Groups, Mask, Placement, Then};
use crate::sd::ops::attention::attention;
use crate::sd::ops::conv2d::{Kernel, conv2d};
use crate::sd::ops::geglu::geglu;
use crate::sd::ops::group_norm::group_norm;
use crate::sd::ops::layer_norm::layer_norm;
use crate::sd::ops::linear::{adapted_linear, linear};
use crate::sd::ops::upsample::upsample;
use crate::sd::random::stream;

/// What networks compute in, where the device does, and how far from f32 on the reference a number may be, of the greatest one. What is broken is
/// off by much more.
const PRECISIONS: [Precision; 3] = [
    // Cards round the factors of matrix products to 10 or 11 bits (TF32) where they are faster so.
    Precision { name: "f32", dtype: DType::F32, tolerance: 5e-3, rounded: |value| value },
    // The others: up to 32 roundings, each of one part in 2048 and in 256, one after the other and in the same direction.
    Precision { name: "f16", dtype: DType::F16, tolerance: 32.0 / 2048.0, rounded: |value| f16::from_f32(value).to_f32() },
    Precision { name: "bf16", dtype: DType::BF16, tolerance: 32.0 / 256.0, rounded: |value| bf16::from_f32(value).to_f32() },
];

/// A type of floating-point numbers.
struct Precision {
    name: &'static str,
    dtype: DType,
    tolerance: f32,
    /// The nearest number that it has.
    rounded: fn(f32) -> f32,
}

/// An operation with a name, its inputs' shapes, and how it is computed from them.
struct Case {
    name: &'static str,
    shapes: &'static [&'static [usize]],
    output: fn(&[Input]) -> Tensor<4>,
}

/// An input, of any number of dimensions, seen with four.
struct Input(Tensor<4>);

impl Input {
    fn shaped<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        self.0.clone().reshape(shape)
    }

    /// As what enters a network: without gradients, though those of other inputs are recorded.
    fn untracked<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_inner(self.frozen(shape))
    }

    /// As a weight: without gradients.
    fn frozen<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let tensor = if self.0.is_autodiff() { self.0.clone().inner() } else { self.0.clone() };
        tensor.reshape(shape)
    }
}

/// Widths of Stable Diffusion's levels, on pictures small enough for any card and any patience.
const CASES: &[Case] = &[
    Case { name: "attention over pixels", shapes: &[&[1, 256, 320], &[1, 256, 320], &[1, 256, 320]], output: attend },
    Case { name: "attention over a text", shapes: &[&[1, 256, 640], &[1, 77, 640], &[1, 77, 640]], output: attend },
    Case {
        name: "3×3 convolution, 320 channels",
        shapes: &[&[1, 16, 16, 320], &[320, 320, 3, 3], &[320]],
        output: |inputs| convolve(inputs, [320, 320, 3, 3], Placement::SAME_SIZE),
    },
    Case {
        name: "3×3 convolution, 640 channels",
        shapes: &[&[1, 8, 8, 640], &[640, 640, 3, 3], &[640]],
        output: |inputs| convolve(inputs, [640, 640, 3, 3], Placement::SAME_SIZE),
    },
    Case {
        name: "3×3 convolution by twos",
        shapes: &[&[1, 16, 16, 320], &[320, 320, 3, 3], &[320]],
        output: |inputs| convolve(inputs, [320, 320, 3, 3], Placement { stride: 2, ..Placement::SAME_SIZE }),
    },
    Case {
        name: "linear layer",
        shapes: &[&[1, 256, 320], &[1280, 320], &[1280]],
        output: |inputs| {
            let (weight, bias) = (inputs[1].frozen([1280, 320]), inputs[2].frozen([1280]));
            linear(inputs[0].shaped([1, 1, 256, 320]), &weight, Some(&bias))
        },
    },
    Case {
        name: "linear layer with an adapter",
        shapes: &[&[1, 256, 320], &[640, 320], &[8, 320], &[640, 8]],
        output: |inputs| {
            let (down, up) = (inputs[2].shaped([8, 320]), inputs[3].shaped([640, 8]));
            adapted_linear(inputs[0].shaped([1, 1, 256, 320]), &inputs[1].frozen([640, 320]), None, &down, &up, 0.5)
        },
    },
    Case {
        name: "adapters alone",
        shapes: &[&[1, 64, 320], &[320], &[320], &[320, 320], &[8, 320], &[320, 8], &[640, 320], &[8, 320], &[640, 8]],
        output: two_adapted_layers,
    },
    Case {
        name: "group norm with SiLU",
        shapes: &[&[2, 16, 16, 320], &[320], &[320]],
        output: |inputs| {
            let groups = Groups { count: 32, epsilon: 1e-5 };
            group_norm(inputs[0].0.clone(), &inputs[1].frozen([320]), &inputs[2].frozen([320]), groups, Then::Silu)
        },
    },
    Case {
        name: "layer norm",
        shapes: &[&[1, 77, 768], &[768], &[768]],
        output: |inputs| layer_norm(inputs[0].0.clone(), &inputs[1].frozen([768]), &inputs[2].frozen([768]), 1e-5),
    },
    Case { name: "GEGLU", shapes: &[&[1, 64, 2560]], output: |inputs| geglu(inputs[0].0.clone()) },
    Case { name: "SiLU", shapes: &[&[1, 1280]], output: |inputs| activate(inputs[0].0.clone(), Activation::Silu) },
    Case { name: "quick GELU", shapes: &[&[77, 3072]], output: |inputs| activate(inputs[0].0.clone(), Activation::QuickGelu) },
    Case { name: "doubled pictures", shapes: &[&[1, 8, 8, 64]], output: |inputs| upsample(inputs[0].0.clone()) },
];

fn attend(inputs: &[Input]) -> Tensor<4> {
    let [q, k, v] = [0, 1, 2].map(|i| {
        let [_, batch, tokens, channels] = inputs[i].0.dims();
        inputs[i].shaped([batch, tokens, channels])
    });
    let [batch, tokens, channels] = q.dims();
    attention(q, k, v, 8, Mask::Open).reshape([1, batch, tokens, channels])
}

/// A network in small, of which nothing gets gradients but the factors of two adapters; what enters it gets none.
fn two_adapted_layers(inputs: &[Input]) -> Tensor<4> {
    // Weights of a size at which numbers stay as large as they are.
    const SIZE: f32 = 0.05;
    let x = layer_norm(inputs[0].untracked([1, 64, 320]), &inputs[1].frozen([320]), &inputs[2].frozen([320]), 1e-5);
    let adapted = |x: Tensor<3>, first: usize, outputs: usize| {
        let (down, up) = (inputs[first + 1].shaped([8, 320]) * SIZE, inputs[first + 2].shaped([outputs, 8]) * SIZE);
        adapted_linear(x, &(inputs[first].frozen([outputs, 320]) * SIZE), None, &down, &up, 2.0)
    };
    let x = adapted(x, 3, 320);
    let x = attention(x.clone(), x.clone(), x, 8, Mask::Open);
    geglu(adapted(x, 6, 640)).reshape([1, 1, 64, 320])
}

fn convolve(inputs: &[Input], shape: [usize; 4], placement: Placement) -> Tensor<4> {
    conv2d(inputs[0].0.clone(), &Kernel::new(inputs[1].frozen(shape), inputs[2].frozen([shape[0]]), placement))
}

/// Computes every operation and its derivative on both devices, in each type that `device` computes in; the reference does in f32. Returns what was
/// compared, and how far apart they were at most.
///
/// # Errors
/// If one differs; the message names the operation and what came out.
pub fn compare(device: &Device, reference: &Device) -> Result<String> {
    let mut worst = Vec::new();
    for precision in PRECISIONS.iter().filter(|precision| device::arithmetic(device, precision.dtype) == precision.dtype) {
        let mut most = 0.0f32;
        for case in CASES {
            most = most.max(distance(case, precision, device, reference)?);
        }
        worst.push(format!("{most:.0e} apart in {}", precision.name));
    }
    Ok(format!("{} operations and their gradients, at most {}", CASES.len(), worst.join(" and ")))
}

/// How far apart the output and the gradients are at most, of the greatest value of each.
fn distance(case: &Case, precision: &Precision, device: &Device, reference: &Device) -> Result<f32> {
    let (found, expected) =
        (results(case, precision, device, precision.dtype)?, results(case, precision, reference, DType::F32)?);
    let mut worst = 0.0f32;
    for ((what, found), (_, expected)) in found.iter().zip(&expected) {
        let greatest = expected.iter().fold(0.0f32, |greatest, value| greatest.max(value.abs()));
        let far = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
        let off = far.fold(0.0f32, |most, far| if far.is_nan() || far > most { far } else { most }) / greatest;
        if found.len() != expected.len() || off.is_nan() || off > precision.tolerance {
            bail!("{} in {}: {what} is off by {off:.1e} of its greatest value", case.name, precision.name);
        }
        worst = worst.max(off);
    }
    Ok(worst)
}

/// The output, and the gradient of each input that gets one, from inputs rounded to `precision`, computed in `dtype`.
fn results(case: &Case, precision: &Precision, device: &Device, dtype: DType) -> Result<Vec<(String, Vec<f32>)>> {
    let read = |tensor: Tensor<4>| {
        let data = tensor.cast(DType::F32).into_data();
        data.try_into_vec().map_err(|error| anyhow::anyhow!("{}: reading numbers back: {error:?}", case.name))
    };
    let autodiff = device.clone().autodiff();
    let inputs: Vec<Input> = (0..)
        .zip(case.shapes)
        .map(|(index, shape)| {
            let values = stream(0, case.name, index).normal(shape.iter().product());
            let mut four = [1; 4];
            four[4 - shape.len()..].copy_from_slice(shape);
            let scale = if shape.len() == 4 && shape[2] == 3 { 0.02 } else { 1.0 };
            let values = values.into_iter().map(|value| (precision.rounded)(value * scale)).collect();
            Input(Tensor::from_data(TensorData::new(values, four), (&autodiff, dtype)).require_grad())
        })
        .collect();
    let output = (case.output)(&inputs);
    let mut results = vec![("the output".into(), read(output.clone().inner())?)];
    let slope = stream(1, case.name, 0).normal(output.dims().iter().product());
    let slope = slope.into_iter().map(precision.rounded).collect();
    let slope = Tensor::from_data(TensorData::new(slope, output.dims()), (&autodiff, DType::F32));
    let gradients = (output.cast(DType::F32) * slope).sum().backward();
    for (index, input) in inputs.iter().enumerate() {
        if let Some(gradient) = input.0.grad(&gradients) {
            results.push((format!("the gradient of input {index}"), read(gradient)?));
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_agrees_with_itself_about_every_gradient() {
        let device = crate::sd::device::named("cpu").unwrap();
        let report = compare(&device, &device).unwrap();
        assert!(report.ends_with("at most 0e0 apart in f32"), "{report}");
        let gradients = |case| results(case, &PRECISIONS[0], &device, DType::F32).unwrap().len() - 1;
        // Three of each attention, three of the adapted layer, the factors of two adapters alone, one of each other.
        assert_eq!(CASES.iter().map(gradients).sum::<usize>(), 2 * 3 + 3 + 4 + 10);
    }

    #[cfg(feature = "libtorch")]
    #[test]
    fn libtorch_on_the_processor_passes() {
        let [libtorch, embedded] = ["libtorch:cpu", "cpu"].map(|name| crate::sd::device::named(name).unwrap());
        compare(&libtorch, &embedded).unwrap();
    }
}
