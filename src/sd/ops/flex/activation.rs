//! Elementwise non-linearities and their derivatives.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use crate::sd::ops::activation::ActivationKernel;
use crate::sd::ops::arguments::Activation;
use crate::sd::ops::flex::buffer::{dense, dims, from_values, values};
use crate::sd::ops::flex::simd::{erf, exp, sigmoid, vectorized};
use crate::sd::ops::host::parallel::each_chunk;

/// Elements that one task takes: half of a usual L2 cache, read and written.
const CHUNK: usize = 1 << 16;
/// Floating-point operations for one element, about.
const WORK: usize = 30;
/// The slope inside CLIP's approximation of GELU.
const QUICK_GELU: f32 = 1.702;

impl ActivationKernel for Flex {
    fn forward(x: FlexTensor, activation: Activation) -> FlexTensor {
        let x = dense(x);
        let input = values(&x);
        let mut output = vec![0.0; input.len()];
        each_chunk(&mut output, CHUNK, input.len() * WORK, |index, chunk| {
            apply(chunk, &input[index * CHUNK..][..chunk.len()], activation);
        });
        from_values(output, dims(&x).to_vec())
    }

    fn gradient(x: FlexTensor, activation: Activation, output_gradient: FlexTensor) -> FlexTensor {
        let (x, output_gradient) = (dense(x), dense(output_gradient));
        let (input, upstream) = (values(&x), values(&output_gradient));
        let mut output = vec![0.0; input.len()];
        each_chunk(&mut output, CHUNK, input.len() * WORK, |index, chunk| {
            let part = index * CHUNK..index * CHUNK + chunk.len();
            apply_slope(chunk, &input[part.clone()], &upstream[part], activation);
        });
        from_values(output, dims(&x).to_vec())
    }
}

vectorized! {
    fn apply<'a>(output: &'a mut [f32], input: &'a [f32], activation: Activation) {
        for (y, x) in output.iter_mut().zip(input) {
            *y = match activation {
                Activation::Silu => silu(*x),
                Activation::Gelu => gelu(*x),
                Activation::QuickGelu => quick_gelu(*x),
            };
        }
    }
}

vectorized! {
    /// The slope at each input times what flows back.
    fn apply_slope<'a>(output: &'a mut [f32], input: &'a [f32], upstream: &'a [f32], activation: Activation) {
        for ((y, x), g) in output.iter_mut().zip(input).zip(upstream) {
            *y = g * match activation {
                Activation::Silu => silu_slope(*x),
                Activation::Gelu => gelu_slope(*x),
                Activation::QuickGelu => quick_gelu_slope(*x),
            };
        }
    }
}

#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

#[inline(always)]
pub(super) fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s + x * s * (1.0 - s)
}

#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
pub(super) fn gelu_slope(x: f32) -> f32 {
    // Φ(x) + x φ(x), with the density φ(x) = e^(-x²/2) / √(2π).
    const DENSITY: f32 = 0.398_942_3;
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * DENSITY * exp(-0.5 * x * x)
}

#[inline(always)]
fn quick_gelu(x: f32) -> f32 {
    x * sigmoid(QUICK_GELU * x)
}

#[inline(always)]
fn quick_gelu_slope(x: f32) -> f32 {
    let s = sigmoid(QUICK_GELU * x);
    s + QUICK_GELU * x * s * (1.0 - s)
}
