//! Each operation and its derivative against PyTorch, over shapes of the networks and odd ones.

use burn::tensor::{Device, Tensor, TensorData};

use loramill::ops::activation::{Activation, activate};
use loramill::ops::attention::{Mask, attention};
use loramill::ops::conv2d::{Kernel, Placement, conv2d};
use loramill::ops::geglu::geglu;
use loramill::ops::group_norm::{Groups, Then, group_norm};
use loramill::ops::layer_norm::layer_norm;
use loramill::ops::linear::{adapted_linear, linear};
use loramill::ops::upsample::upsample;

use crate::parity::{Fixture, assert_close, device, draw};

/// Of the greatest value of a tensor: both sides round sums of up to a few hundred products of f32, each to 6e-8.
const TOLERANCE: f32 = 5e-6;

struct Case {
    name: &'static str,
    fixture: Fixture,
    device: Device,
}

impl Case {
    fn new(name: &'static str) -> Self {
        Self { name, fixture: Fixture::read("ops"), device: device() }
    }

    /// A frozen tensor.
    fn frozen<const D: usize>(&self, input: &str, shape: [usize; D]) -> Tensor<D> {
        let values = draw(&format!("ops.{}.{input}", self.name), &shape, 1.0);
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// A tensor that gets a gradient.
    fn tracked<const D: usize>(&self, input: &str, shape: [usize; D]) -> Tensor<D> {
        let values = draw(&format!("ops.{}.{input}", self.name), &shape, 1.0);
        Tensor::from_data(TensorData::new(values, shape), &self.device.clone().autodiff()).require_grad()
    }

    /// Compares `output` and the gradients that it leaves in `inputs`.
    fn check<const D: usize, const I: usize>(&self, output: Tensor<D>, inputs: &[(&str, &Tensor<I>)]) {
        let gradient = self.frozen("gradient", output.dims());
        self.compare("output", output.clone().inner());
        let gradients = (output * Tensor::from_inner(gradient)).sum().backward();
        for (input, tensor) in inputs {
            let gradient = tensor.grad(&gradients).unwrap_or_else(|| panic!("`{input}` got no gradient"));
            self.compare(&format!("gradient.{input}"), gradient);
        }
    }

    fn compare<const D: usize>(&self, what: &str, found: Tensor<D>) {
        let name = format!("{}.{what}", self.name);
        let (shape, expected) = self.fixture.tensor(&name);
        assert_eq!(found.dims().as_slice(), shape, "{name}");
        let found: Vec<f32> = found.into_data().try_into_vec().unwrap();
        let greatest = expected.iter().fold(0.0f32, |greatest, value| greatest.max(value.abs()));
        assert_close(&name, &found, &expected, TOLERANCE * greatest, 0.0);
    }
}

fn check_attention(name: &'static str, [batch, tokens, context, heads, width]: [usize; 5], mask: Mask) {
    let case = Case::new(name);
    let q = case.tracked("q", [batch, tokens, heads * width]);
    let k = case.tracked("k", [batch, context, heads * width]);
    let v = case.tracked("v", [batch, context, heads * width]);
    let output = attention(q.clone(), k.clone(), v.clone(), heads, mask);
    case.check(output, &[("q", &q), ("k", &k), ("v", &v)]);
}

on_each_device! {
fn attention_agrees_with_pytorch() {
    check_attention("attention.text", [1, 77, 77, 1, 64], Mask::Causal);
    check_attention("attention.cross", [2, 30, 77, 2, 40], Mask::Open);
    check_attention("attention.one_pixel", [1, 1, 2, 2, 8], Mask::Open);
    check_attention("attention.narrow", [2, 64, 64, 8, 4], Mask::Open);
    check_attention("attention.many_blocks", [1, 700, 500, 1, 4], Mask::Open);
    check_attention("attention.two_heads", [3, 5, 5, 2, 3], Mask::Causal);
}
}

fn check_group_norm(name: &'static str, shape: [usize; 4], count: usize, then: Then) {
    let case = Case::new(name);
    let x = case.tracked("x", shape);
    let (weight, bias) = (case.frozen("weight", [shape[3]]), case.frozen("bias", [shape[3]]));
    case.check(group_norm(x.clone() + 3.0, &weight, &bias, Groups { count, epsilon: 1e-5 }, then), &[("x", &x)]);
}

on_each_device! {
fn group_norm_agrees_with_pytorch() {
    check_group_norm("group_norm.silu", [2, 5, 7, 64], 32, Then::Silu);
    check_group_norm("group_norm.plain", [3, 4, 4, 96], 32, Then::Nothing);
    check_group_norm("group_norm.one_pixel", [1, 1, 1, 64], 4, Then::Silu);
    check_group_norm("group_norm.one_group", [2, 3, 3, 6], 1, Then::Nothing);
}
}

on_each_device! {
fn layer_norm_agrees_with_pytorch() {
    for (name, shape) in [("layer_norm.text", [2, 20, 64]), ("layer_norm.odd", [1, 3, 37]), ("layer_norm.one", [1, 1, 320])] {
        let case = Case::new(name);
        let x = case.tracked("x", shape);
        let (weight, bias) = (case.frozen("weight", [shape[2]]), case.frozen("bias", [shape[2]]));
        case.check(layer_norm(x.clone() + 3.0, &weight, &bias, 1e-5), &[("x", &x)]);
    }
}
}

on_each_device! {
fn geglu_agrees_with_pytorch() {
    for (name, shape) in [("geglu.odd", [2, 3, 74]), ("geglu.wide", [1, 5, 1280])] {
        let case = Case::new(name);
        let x = case.tracked("x", shape);
        case.check(geglu(x.clone() * 2.0), &[("x", &x)]);
    }
}
}

on_each_device! {
fn activations_agree_with_pytorch() {
    for (name, activation) in [
        ("activation.silu", Activation::Silu),
        ("activation.gelu", Activation::Gelu),
        ("activation.quick_gelu", Activation::QuickGelu),
    ] {
        let case = Case::new(name);
        let x = case.tracked("x", [5, 101]);
        case.check(activate(x.clone() * 4.0, activation), &[("x", &x)]);
    }
}
}

fn check_conv2d(name: &'static str, shape: [usize; 4], outputs: usize, placement: Placement) {
    let case = Case::new(name);
    let x = case.tracked("x", shape);
    let weight = case.frozen("weight", [outputs, shape[3], placement.size, placement.size]);
    let kernel = Kernel::new(weight, case.frozen("bias", [outputs]), placement);
    case.check(conv2d(x.clone(), &kernel), &[("x", &x)]);
}

on_each_device! {
fn conv2d_agrees_with_pytorch() {
    let same = Placement { size: 3, stride: 1, before: 1, after: 1 };
    check_conv2d("conv2d.same", [2, 5, 7, 3], 4, same);
    check_conv2d("conv2d.split", [3, 16, 9, 16], 20, same);
    check_conv2d("conv2d.one_pixel", [1, 1, 1, 5], 3, same);
    check_conv2d("conv2d.down", [2, 8, 6, 4], 5, Placement { stride: 2, ..same });
    check_conv2d("conv2d.down_odd", [1, 9, 5, 4], 5, Placement { stride: 2, ..same });
    check_conv2d("conv2d.down_after", [1, 8, 6, 4], 5, Placement { stride: 2, before: 0, ..same });
    check_conv2d("conv2d.pixels", [2, 3, 3, 4], 5, Placement { size: 1, stride: 1, before: 0, after: 0 });
}
}

on_each_device! {
fn linear_agrees_with_pytorch() {
    for (name, shape, outputs, with_bias) in
        [("linear.bias", [2, 20, 64], 40, true), ("linear.plain", [3, 5, 7], 11, false), ("linear.one_row", [1, 1, 9], 6, true)]
    {
        let case = Case::new(name);
        let x = case.tracked("x", shape);
        let bias = with_bias.then(|| case.frozen("bias", [outputs]));
        case.check(linear(x.clone(), &case.frozen("weight", [outputs, shape[2]]), bias.as_ref()), &[("x", &x)]);
    }
}
}

on_each_device! {
fn a_linear_layer_with_an_adapter_agrees_with_pytorch() {
    for (name, shape, outputs, with_bias, rank) in [
        ("adapted.bias", [2, 20, 64], 40, true, 8),
        ("adapted.plain", [3, 5, 7], 11, false, 1),
        ("adapted.one_row", [1, 1, 9], 6, true, 4),
    ] {
        let case = Case::new(name);
        let x = case.tracked("x", shape);
        let (down, up) = (case.tracked("down", [rank, shape[2]]), case.tracked("up", [outputs, rank]));
        let weight = case.frozen("weight", [outputs, shape[2]]);
        let bias = with_bias.then(|| case.frozen("bias", [outputs]));
        let output = || adapted_linear(x.clone(), &weight, bias.as_ref(), &down, &up, 0.5);
        case.check(output(), &[("x", &x)]);
        case.check(output(), &[("down", &down), ("up", &up)]);
    }
}
}

on_each_device! {
fn upsample_agrees_with_pytorch() {
    let case = Case::new("upsample");
    let x = case.tracked("x", [2, 3, 5, 4]);
    case.check(upsample(x.clone()), &[("x", &x)]);
}
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let case = Case::new("threads");
            let x = case.tracked("x", [2, 32, 32, 64]);
            let (weight, bias) = (case.frozen("weight", [64]), case.frozen("bias", [64]));
            let kernel = Kernel::new(
                case.frozen("kernel", [64, 64, 3, 3]),
                bias.clone(),
                Placement { size: 3, stride: 1, before: 1, after: 1 },
            );
            let normed = group_norm(x.clone(), &weight, &bias, Groups { count: 32, epsilon: 1e-5 }, Then::Silu);
            let tokens = conv2d(normed, &kernel).reshape([2, 1024, 64]);
            let wide = linear(layer_norm(tokens, &weight, &bias, 1e-5), &case.frozen("wide", [512, 64]), None);
            let narrow = linear(geglu(wide), &case.frozen("narrow", [64, 256]), Some(&bias));
            let output = attention(narrow.clone(), narrow.clone(), narrow, 8, Mask::Open);
            let gradients = (output.clone() * output.clone()).mean().backward();
            let gradient: Vec<f32> = x.grad(&gradients).unwrap().into_data().try_into_vec().unwrap();
            let output: Vec<f32> = output.into_data().try_into_vec().unwrap();
            (output, gradient)
        })
    };
    let (one, three) = (run(1), run(3));
    assert!(one == three, "the bits differ");
    assert!(one.1.iter().any(|value| *value != 0.0));
}
