//! The operations out of Burn's own, run on the embedded backend, beside that backend's kernels: outputs and gradients.

use burn::backend::Flex;
use burn::backend::TensorMetadata as _;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps as _;
use burn::tensor::{DType, TensorData};

use crate::sd::ops::activation::ActivationKernel;
use crate::sd::ops::arguments::{Activation, AttentionInputs, Bias, Factors, Groups, Mask, Placement, RememberedAdapted, Then};
use crate::sd::ops::attention::AttentionKernel;
use crate::sd::ops::conv2d::ConvolutionKernel;
use crate::sd::ops::geglu::GegluKernel;
use crate::sd::ops::generic;
use crate::sd::ops::generic::group_norm::Layer;
use crate::sd::ops::group_norm::GroupNormKernel;
use crate::sd::ops::layer_norm::LayerNormKernel;
use crate::sd::ops::linear::LinearKernel;
use crate::sd::ops::upsample::UpsampleKernel;
use crate::sd::random::stream;

/// Of the greatest value: both sides round sums of up to a few thousand products of f32, each to 6e-8.
const TOLERANCE: f32 = 5e-6;

/// Normal numbers, others for each `seed`.
pub(super) fn wave(seed: u64, shape: &[usize]) -> FlexTensor {
    let values = stream(seed, "generic", 0).normal(shape.iter().product());
    FlexTensor::from_data(TensorData::new(values, shape.to_vec()))
}

#[track_caller]
pub(super) fn assert_near(found: &FlexTensor, expected: &FlexTensor) {
    assert_within(TOLERANCE, found, expected);
}

#[track_caller]
fn assert_within(tolerance: f32, found: &FlexTensor, expected: &FlexTensor) {
    assert_eq!(found.shape(), expected.shape());
    let [found, expected] = [found, expected].map(|tensor| {
        let wide = Flex::float_cast(tensor.clone(), DType::F32.into());
        wide.into_data().try_into_vec::<f32>().unwrap()
    });
    let greatest = expected.iter().fold(0.0f32, |greatest, value| greatest.max(value.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= tolerance * greatest, "{found} instead of {expected}, the greatest is {greatest}");
    }
}

fn half(tensor: &FlexTensor) -> FlexTensor {
    Flex::float_cast(tensor.clone(), DType::F16.into())
}

#[test]
fn attention_is_what_the_embedded_backend_computes() {
    let shapes = [
        ([1, 77, 77, 2, 32], Mask::Causal),
        ([2, 30, 77, 2, 40], Mask::Open),
        ([1, 1, 2, 2, 8], Mask::Open),
        ([3, 5, 5, 2, 3], Mask::Causal),
        ([1, 257, 101, 1, 4], Mask::Open),
    ];
    for ([batch, tokens, keys, heads, width], mask) in shapes {
        let inputs = || AttentionInputs::<Flex> {
            q: wave(0, &[batch, tokens, heads * width]),
            k: wave(1, &[batch, keys, heads * width]),
            v: wave(2, &[batch, keys, heads * width]),
            heads,
            mask,
        };
        let (output, kept) = <Flex as AttentionKernel>::forward(inputs());
        assert_near(&generic::attention::forward(inputs()), &output);
        let upstream = wave(3, &[batch, tokens, heads * width]);
        let expected = <Flex as AttentionKernel>::gradients(inputs(), kept, upstream.clone());
        for (found, expected) in generic::attention::gradients(inputs(), upstream).iter().zip(&expected) {
            assert_near(found, expected);
        }
    }
}

/// Products of a query and a key go past 65504, the greatest number of f16, where they are scaled only afterwards.
#[test]
fn scores_too_great_for_f16_are_no_trouble() {
    let inputs = |cast: fn(&FlexTensor) -> FlexTensor| {
        let [q, k, v] = [0, 1, 2].map(|seed| Flex::float_mul_scalar(wave(seed, &[1, 9, 64]), 60.0.into()));
        AttentionInputs::<Flex> { q: cast(&q), k: cast(&k), v: cast(&v), heads: 1, mask: Mask::Open }
    };
    let found = generic::attention::forward(inputs(half));
    assert_eq!(found.dtype(), DType::F16);
    assert_within(2e-2, &found, &<Flex as AttentionKernel>::forward(inputs(FlexTensor::clone)).0);
}

#[test]
fn norms_are_what_the_embedded_backend_computes() {
    let shapes = [([2, 5, 7, 64], 32), ([3, 4, 4, 96], 32), ([1, 1, 1, 64], 4), ([2, 3, 3, 6], 1)];
    for (shape, count) in shapes {
        let channels = shape[3];
        let x = Flex::float_add_scalar(wave(0, &shape), 3.0.into());
        let (weight, bias, upstream) = (wave(1, &[channels]), wave(2, &[channels]), wave(3, &shape));
        for then in [Then::Nothing, Then::Silu] {
            let groups = Groups { count, epsilon: 1e-5 };
            let layer = || Layer::<Flex> { weight: weight.clone(), bias: bias.clone(), groups, then };
            let (expected, statistics) =
                <Flex as GroupNormKernel>::forward(x.clone(), weight.clone(), bias.clone(), groups, then);
            assert_near(&layer().forward(x.clone()), &expected);
            let remembered = crate::sd::ops::group_norm::Remembered {
                x: x.clone(),
                weight: weight.clone(),
                bias: bias.clone(),
                statistics,
                groups,
                then,
            };
            let expected = <Flex as GroupNormKernel>::gradient(remembered, upstream.clone());
            assert_near(&layer().gradient(x.clone(), upstream.clone()), &expected);
        }
        let found = generic::layer_norm::forward::<Flex>(x.clone(), weight.clone(), bias.clone(), 1e-5);
        assert_near(&found, &<Flex as LayerNormKernel>::forward(x.clone(), weight.clone(), bias.clone(), 1e-5));
        let found = generic::layer_norm::gradient::<Flex>(x.clone(), weight.clone(), 1e-5, upstream.clone());
        assert_near(&found, &<Flex as LayerNormKernel>::gradient(x, weight, 1e-5, upstream));
    }
}

/// The variance of numbers near 100 is lost where sums have the 11 bits of f16: 100 and its neighbour are 0.06 apart.
#[test]
fn statistics_of_16_bits_are_taken_in_32() {
    let x = half(&Flex::float_add_scalar(wave(0, &[2, 16, 16, 32]), 100.0.into()));
    let layer = |cast: fn(&FlexTensor) -> FlexTensor| Layer::<Flex> {
        weight: cast(&wave(1, &[32])),
        bias: cast(&wave(2, &[32])),
        groups: Groups { count: 4, epsilon: 1e-5 },
        then: Then::Silu,
    };
    let wide = Flex::float_cast(x.clone(), DType::F32.into());
    let found = layer(half).forward(x.clone());
    assert_eq!(found.dtype(), DType::F16);
    assert_within(2e-3, &found, &layer(FlexTensor::clone).forward(wide));
}

#[test]
fn gates_and_activations_are_what_the_embedded_backend_computes() {
    for shape in [[2, 3, 74], [1, 5, 1280]] {
        let x = Flex::float_mul_scalar(wave(0, &shape), 4.0.into());
        let upstream = wave(1, &shape);
        for activation in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
            let found = generic::activation::forward::<Flex>(x.clone(), activation);
            assert_near(&found, &<Flex as ActivationKernel>::forward(x.clone(), activation));
            let found = generic::activation::gradient::<Flex>(x.clone(), activation, upstream.clone());
            assert_near(&found, &<Flex as ActivationKernel>::gradient(x.clone(), activation, upstream.clone()));
        }
        assert_near(&generic::geglu::forward::<Flex>(x.clone()), &<Flex as GegluKernel>::forward(x.clone()));
        let upstream = wave(1, &[shape[0], shape[1], shape[2] / 2]);
        let found = generic::geglu::gradient::<Flex>(x.clone(), upstream.clone());
        assert_near(&found, &<Flex as GegluKernel>::gradient(x, upstream));
    }
}

#[test]
fn activations_of_great_numbers_stay_numbers() {
    let x = || FlexTensor::from_data(TensorData::new(vec![-1e30f32, -1e4, -89.0, 89.0, 1e4, 1e30], [6]));
    for activation in [Activation::Silu, Activation::Gelu, Activation::QuickGelu] {
        let found = generic::activation::forward::<Flex>(x(), activation).into_data().try_into_vec::<f32>().unwrap();
        assert_eq!(found[3..], [89.0, 1e4, 1e30], "{activation:?}");
        assert!(found[1..3].iter().all(|value| value.abs() < 1e-20), "{activation:?}: {found:?}");
        let slope = generic::activation::gradient::<Flex>(
            x(),
            activation,
            Flex::float_ones([6].into(), &Default::default(), DType::F32.into()),
        );
        let slope = slope.into_data().try_into_vec::<f32>().unwrap();
        assert!(slope[1..5].iter().all(|value| value.is_finite()), "{activation:?}: {slope:?}");
    }
}

#[test]
fn convolutions_are_what_the_embedded_backend_computes() {
    let same = Placement::SAME_SIZE;
    let cases = [
        ([2, 5, 7, 3], 4, same),
        ([1, 1, 1, 5], 3, same),
        ([2, 8, 6, 4], 5, Placement { stride: 2, ..same }),
        ([1, 9, 5, 4], 5, Placement { stride: 2, ..same }),
        ([1, 8, 6, 4], 5, Placement { stride: 2, before: 0, ..same }),
        ([2, 3, 3, 4], 5, Placement { size: 1, stride: 1, before: 0, after: 0 }),
        ([1, 4, 4, 320], 64, same),
        // By tiles, and so high that its gradient is several tasks.
        ([2, 12, 9, 40], 36, same),
        ([1, 60, 64, 16], 4, same),
        ([1, 231, 64, 16], 2, Placement { stride: 2, ..same }),
    ];
    for (shape, outputs, placement) in cases {
        let (x, bias) = (wave(0, &shape), wave(1, &[outputs]));
        let weight = wave(2, &[outputs, shape[3], placement.size, placement.size]);
        let (ours, theirs) = (generic::conv2d::lay_out::<Flex>(weight.clone()), <Flex as ConvolutionKernel>::lay_out(weight));
        let found = generic::conv2d::forward::<Flex>(x.clone(), ours.clone(), bias.clone(), placement);
        assert_near(&found, &<Flex as ConvolutionKernel>::forward(x, theirs.clone(), bias, placement));
        let upstream = wave(3, found.shape().as_slice());
        let size = [shape[1], shape[2]];
        let found = generic::conv2d::gradient::<Flex>(upstream.clone(), ours, placement, size);
        assert_near(&found, &<Flex as ConvolutionKernel>::gradient(upstream, theirs, placement, size));
    }
}

#[test]
fn linear_layers_are_what_the_embedded_backend_computes() {
    for (shape, outputs, rank, with_bias) in [([2, 20, 64], 40, 8, true), ([3, 5, 7], 11, 1, false), ([1, 1, 9], 6, 4, true)] {
        let (x, weight) = (wave(0, &shape), wave(1, &[outputs, shape[2]]));
        let upstream = wave(3, &[shape[0], shape[1], outputs]);
        let bias = || if with_bias { Bias::Given(wave(2, &[outputs])) } else { Bias::Absent };
        let found = generic::linear::forward::<Flex>(x.clone(), weight.clone(), bias());
        assert_near(&found, &<Flex as LinearKernel>::forward(x.clone(), weight.clone(), bias()));
        let found = generic::linear::gradient::<Flex>(weight.clone(), upstream.clone());
        assert_near(&found, &<Flex as LinearKernel>::gradient(weight.clone(), upstream.clone()));

        let factors = || Factors::<Flex> { down: wave(4, &[rank, shape[2]]), up: wave(5, &[outputs, rank]), scale: 0.5 };
        let (found, narrow) = generic::linear::adapted_forward(x.clone(), weight.clone(), bias(), factors());
        let (expected, expected_narrow) = <Flex as LinearKernel>::adapted_forward(x.clone(), weight.clone(), bias(), factors());
        assert_near(&found, &expected);
        assert_near(&narrow, &expected_narrow);
        let inputs = || RememberedAdapted { x: x.clone(), weight: weight.clone(), narrow: narrow.clone(), factors: factors() };
        for wanted in [[true; 3], [false, true, true], [true, false, false]] {
            let found = generic::linear::adapted_gradients(inputs(), upstream.clone(), wanted);
            let expected = <Flex as LinearKernel>::adapted_gradients(inputs(), upstream.clone(), wanted);
            assert_eq!(found.each_ref().map(Option::is_some), wanted);
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert_near(found, expected);
            }
        }
    }
}

#[test]
fn doubled_pictures_are_what_the_embedded_backend_computes() {
    let (x, upstream) = (wave(0, &[2, 3, 5, 4]), wave(1, &[2, 6, 10, 4]));
    assert_near(&generic::upsample::forward::<Flex>(x.clone()), &<Flex as UpsampleKernel>::forward(x));
    assert_near(&generic::upsample::gradient::<Flex>(upstream.clone()), &<Flex as UpsampleKernel>::gradient(upstream));
}
