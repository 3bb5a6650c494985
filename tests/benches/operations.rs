//! Times each operation alone at the shapes that SD 1.5's UNet has for pictures of SIZE pixels: forward, and the way back to the input.
//!
//!     [DEVICE=cpu] cargo bench --bench operations -- [SIZE=512] [BATCH=1]
//!
//! The least of several times, and operations a second as sums and products would count: a convolution by tiles takes fewer. With
//! `--features libtorch` and DEVICE=libtorch:cpu also give GOMP_SPINCOUNT=10000, as `loramill` does, lest libtorch's threads take the cores.

use std::time::Instant;

use anyhow::Context;
use burn::tensor::{DType, Device, Distribution, Tensor};

use loramill::sd::device;
use loramill::sd::ops::arguments::{Groups, Mask, Placement, Then};
use loramill::sd::ops::attention::attention;
use loramill::sd::ops::conv2d::{Kernel, conv2d};
use loramill::sd::ops::geglu::geglu;
use loramill::sd::ops::group_norm::group_norm;
use loramill::sd::ops::linear::linear;

/// Text tokens that cross-attention sees.
const CONTEXT: usize = 77;
const HEADS: usize = 8;
/// A time is the least of runs that take so long together.
const SECONDS: f64 = 1.0;

struct Bench {
    device: Device,
    batch: usize,
}

fn main() -> anyhow::Result<()> {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let [size, batch] = [(0, 512), (1, 1)].map(|(place, default)| numbers.get(place).copied().unwrap_or(default));
    anyhow::ensure!(size >= 64 && size.is_multiple_of(64), "SIZE is a multiple of 64, not {size}");
    let name = std::env::var("DEVICE").unwrap_or_else(|_| "cpu".into());
    let bench = Bench { device: device::named(&name).context("DEVICE")?, batch };
    println!("{}, {size} pixels, batch {batch}", device::description(&name));
    println!("{:44} {:>12} {:>20} {:>12} {:>20}", "", "forward", "GFLOP/s", "back", "GFLOP/s");

    let levels = [(size / 8, 320), (size / 16, 640), (size / 32, 1280), (size / 64, 1280)];
    for (side, channels) in levels {
        bench.convolution(side, [channels, channels], 1);
    }
    bench.convolution(size / 8, [640, 320], 1);
    bench.convolution(size / 8, [320, 320], 2);
    for (side, channels) in &levels[..3] {
        bench.attention(side * side, side * side, *channels);
        bench.attention(side * side, CONTEXT, *channels);
    }
    for (side, channels) in &levels[..3] {
        bench.linear(side * side, [*channels, *channels]);
        bench.linear(side * side, [*channels, 8 * channels]);
    }
    bench.group_norm(size / 8, 320);
    bench.geglu(size * size / 64, 8 * 320);
    Ok(())
}

impl Bench {
    fn convolution(&self, side: usize, [inputs, outputs]: [usize; 2], stride: usize) {
        let x = self.random([self.batch, side, side, inputs]);
        let placement = Placement { stride, ..Placement::SAME_SIZE };
        let kernel = Kernel::new(self.random([outputs, inputs, 3, 3]), self.random([outputs]), placement);
        let work = 2 * self.batch * (side / stride).pow(2) * 9 * inputs * outputs;
        let stride = if stride == 1 { String::new() } else { format!(", stride {stride}") };
        print_row(
            &format!("convolution {side}x{side}, {inputs} to {outputs}{stride}"),
            self.forward(|| conv2d(x.clone(), &kernel)),
            (work, work),
            self.back([x.clone()], |[x]| conv2d(x, &kernel)),
        );
    }

    fn attention(&self, tokens: usize, context: usize, channels: usize) {
        let q = self.random([self.batch, tokens, channels]);
        let [k, v] = [(); 2].map(|()| self.random([self.batch, context, channels]));
        let product = 2 * self.batch * tokens * context * channels;
        let of = |[q, k, v]: [Tensor<3>; 3]| attention(q, k, v, HEADS, Mask::Open);
        print_row(
            &format!("attention {tokens} to {context}, width {}", channels / HEADS),
            self.forward(|| of([q.clone(), k.clone(), v.clone()])),
            (2 * product, 5 * product),
            self.back([q.clone(), k.clone(), v.clone()], of),
        );
    }

    fn linear(&self, rows: usize, [inputs, outputs]: [usize; 2]) {
        let x = self.random([self.batch, rows, inputs]);
        let (weight, bias) = (self.random([outputs, inputs]), self.random([outputs]));
        let work = 2 * self.batch * rows * inputs * outputs;
        print_row(
            &format!("linear {rows}, {inputs} to {outputs}"),
            self.forward(|| linear(x.clone(), &weight, Some(&bias))),
            (work, work),
            self.back([x.clone()], |[x]| linear(x, &weight, Some(&bias))),
        );
    }

    fn group_norm(&self, side: usize, channels: usize) {
        let x = self.random([self.batch, side, side, channels]);
        let (weight, bias) = (self.random([channels]), self.random([channels]));
        let of = |x: Tensor<4>| group_norm(x, &weight, &bias, Groups { count: 32, epsilon: 1e-5 }, Then::Silu);
        let name = format!("group norm and SiLU {side}x{side}, {channels}");
        print_row(&name, self.forward(|| of(x.clone())), (0, 0), self.back([x.clone()], |[x]| of(x)));
    }

    fn geglu(&self, rows: usize, width: usize) {
        let x = self.random([self.batch, rows, width]);
        print_row(
            &format!("GEGLU {rows}, {width}"),
            self.forward(|| geglu(x.clone())),
            (0, 0),
            self.back([x.clone()], |[x]| geglu(x)),
        );
    }

    fn random<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), (&self.device, DType::F32))
    }

    fn forward<const D: usize>(&self, run: impl Fn() -> Tensor<D>) -> f64 {
        least(|| {
            let started = Instant::now();
            finish(run());
            started.elapsed().as_secs_f64()
        })
    }

    /// Seconds from the gradient of the output to those of the inputs.
    fn back<const D: usize, const N: usize>(&self, inputs: [Tensor<D>; N], run: impl Fn([Tensor<D>; N]) -> Tensor<D>) -> f64 {
        least(|| {
            let tracked = inputs.clone().map(|input| Tensor::from_inner(input).require_grad());
            let output = run(tracked.clone());
            finish(output.clone().inner());
            let loss = output.sum();
            let started = Instant::now();
            let gradients = loss.backward();
            tracked.iter().for_each(|input| finish(input.grad(&gradients).expect("the output depends on every input")));
            started.elapsed().as_secs_f64()
        })
    }
}

/// Waits until a tensor's numbers are there.
fn finish<const D: usize>(x: Tensor<D>) {
    let count = x.shape().num_elements();
    let _ = x.reshape([count]).narrow(0, 0, 1).into_data();
}

fn least(time: impl Fn() -> f64) -> f64 {
    let started = Instant::now();
    let mut least = f64::INFINITY;
    while least.is_infinite() || started.elapsed().as_secs_f64() < SECONDS {
        least = least.min(time());
    }
    least
}

fn print_row(name: &str, forward: f64, work: (usize, usize), back: f64) {
    let rate = |work: usize, seconds: f64| if work == 0 { String::new() } else { format!("{:.0}", work as f64 / seconds / 1e9) };
    println!(
        "{name:44} {:>9.2} ms {:>20} {:>9.2} ms {:>20}",
        1e3 * forward,
        rate(work.0, forward),
        1e3 * back,
        rate(work.1, back)
    );
}
