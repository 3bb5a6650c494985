//! Elementwise non-linearities and their slopes.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use crate::sd::ops::arguments::Activation;
use crate::sd::ops::generic::values::Values;

/// The slope inside OpenAI's approximation of GELU.
const QUICK: f64 = 1.702;

/// At it the logistic function is 2e-35, nothing beside what networks hold. Soon below its exponential would become infinite, which not every driver
/// carries on.
const FLOOR: f64 = -80.0;

pub(in crate::sd::ops) fn forward<B: Backend>(x: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    let x = Values::<B>(x);
    let dtype = x.dtype();
    apply(x.wide(), activation).to(dtype).0
}

pub(in crate::sd::ops) fn gradient<B: Backend>(
    x: FloatTensor<B>,
    activation: Activation,
    output_gradient: FloatTensor<B>,
) -> FloatTensor<B> {
    let (x, upstream) = (Values::<B>(x), Values::<B>(output_gradient));
    let dtype = x.dtype();
    (slope(x.wide(), activation) * upstream.wide()).to(dtype).0
}

pub(super) fn apply<B: Backend>(x: Values<B>, activation: Activation) -> Values<B> {
    match activation {
        Activation::Silu => x.clone() * logistic(x),
        Activation::Gelu => x.clone() * normal_share(x),
        Activation::QuickGelu => x.clone() * logistic(x * QUICK),
    }
}

/// The derivative of [`apply`].
pub(super) fn slope<B: Backend>(x: Values<B>, activation: Activation) -> Values<B> {
    match activation {
        Activation::Silu => logistic_slope(x, 1.0),
        Activation::Gelu => normal_share(x.clone()) + x.clone() * normal_density(x),
        Activation::QuickGelu => logistic_slope(x, QUICK),
    }
}

/// `1 / (1 + e^-x)`.
fn logistic<B: Backend>(x: Values<B>) -> Values<B> {
    ((x.at_least(FLOOR) * -1.0).exp() + 1.0).reciprocal()
}

/// The derivative of `x · s`, `s` the logistic function of `rate · x`: `s + rate · x · s · (1 - s)`.
fn logistic_slope<B: Backend>(x: Values<B>, rate: f64) -> Values<B> {
    let s = logistic(x.clone() * rate);
    s.clone() * ((x * rate) * (s * -1.0 + 1.0) + 1.0)
}

/// How much of the normal distribution lies below: `Φ(x)`.
fn normal_share<B: Backend>(x: Values<B>) -> Values<B> {
    (x * FRAC_1_SQRT_2).erf() * 0.5 + 0.5
}

/// `e^(-x²/2) / √(2π)`.
fn normal_density<B: Backend>(x: Values<B>) -> Values<B> {
    (x.clone() * x * -0.5).exp() * (2.0 * PI).sqrt().recip()
}
