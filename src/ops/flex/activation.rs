//! Elementwise non-linearities and their derivatives.

use burn::backend::flex::FlexTensor;

use crate::ops::activation::Activation;
use crate::ops::flex::buffer::{dense, dims, from_values, values};
use crate::ops::flex::parallel::each_chunk;
use crate::ops::flex::simd::{erf, exp, sigmoid, vectorized};

/// Elements that one task takes: half of a usual L2 cache, read and written.
const CHUNK: usize = 1 << 16;
/// Floating-point operations for one element, about.
const WORK: usize = 30;
/// The slope inside CLIP's approximation of GELU.
const QUICK_GELU: f32 = 1.702;

pub(in crate::ops) fn forward(x: FlexTensor, activation: Activation) -> FlexTensor {
    match activation {
        Activation::Silu => map(x, silu),
        Activation::Gelu => map(x, gelu),
        Activation::QuickGelu => map(x, |x| x * sigmoid(QUICK_GELU * x)),
    }
}

pub(in crate::ops) fn gradient(x: FlexTensor, activation: Activation, output_gradient: FlexTensor) -> FlexTensor {
    match activation {
        Activation::Silu => scale(x, output_gradient, silu_slope),
        Activation::Gelu => scale(x, output_gradient, gelu_slope),
        Activation::QuickGelu => scale(x, output_gradient, |x| {
            let s = sigmoid(QUICK_GELU * x);
            s + QUICK_GELU * x * s * (1.0 - s)
        }),
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

fn map(x: FlexTensor, function: impl Fn(f32) -> f32 + Sync + Send + Copy) -> FlexTensor {
    let x = dense(x);
    let input = values(&x);
    let mut output = vec![0.0; input.len()];
    each_chunk(&mut output, CHUNK, input.len() * WORK, |index, chunk| {
        let input = &input[index * CHUNK..][..chunk.len()];
        vectorized(|| {
            for (y, x) in chunk.iter_mut().zip(input) {
                *y = function(*x);
            }
        });
    });
    from_values(output, dims(&x).to_vec())
}

fn scale(x: FlexTensor, output_gradient: FlexTensor, slope: impl Fn(f32) -> f32 + Sync + Send + Copy) -> FlexTensor {
    let (x, output_gradient) = (dense(x), dense(output_gradient));
    let (input, upstream) = (values(&x), values(&output_gradient));
    let mut output = vec![0.0; input.len()];
    each_chunk(&mut output, CHUNK, input.len() * WORK, |index, chunk| {
        let input = &input[index * CHUNK..][..chunk.len()];
        let upstream = &upstream[index * CHUNK..][..chunk.len()];
        vectorized(|| {
            for ((y, x), g) in chunk.iter_mut().zip(input).zip(upstream) {
                *y = g * slope(*x);
            }
        });
    });
    from_values(output, dims(&x).to_vec())
}
