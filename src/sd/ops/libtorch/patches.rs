//! Convolution with kernels of 3×3 that keeps the size of its pictures, as one matrix product: the patches times the kernel. oneDNN puts a kernel in
//! another order at each call, which takes longer than the sums where the kernel is large and the pixels are few. Unaware of devices.

use tch::Tensor;

use crate::sd::ops::arguments::Placement;

/// Numbers of a kernel from which this is faster: about those of a last-level cache.
const WORTH_NUMBERS: usize = 1 << 23;
/// Pixels below which it is.
const WORTH_PIXELS: i64 = 256;

/// Taps on either side of a kernel.
const SIDE: i64 = 3;

/// Whether this is the faster way, and a way at all. `x` is the input or the gradient of the output.
pub(super) fn suits(x: &Tensor, weight: &Tensor, placement: Placement) -> bool {
    let [batch, height, width, _] = sizes(x);
    placement == Placement::SAME_SIZE && weight.numel() >= WORTH_NUMBERS && batch * height * width < WORTH_PIXELS
}

/// - `x`: `[batch, height, width, inputs]`
/// - `weight`: `[outputs, inputs, 3, 3]`, its input channels side by side
/// - the result: `[batch, height, width, outputs]`
pub(super) fn forward(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    let [batch, height, width, inputs] = sizes(x);
    let padded = x.constant_pad_nd([0, 0, 1, 1, 1, 1]);
    let taps: Vec<Tensor> = taps().map(|(down, right)| padded.narrow(1, down, height).narrow(2, right, width)).collect();
    let patches = Tensor::cat(&taps, 3).reshape([-1, SIDE * SIDE * inputs]);
    patches.linear(&matrix(weight), Some(bias)).reshape([batch, height, width, -1])
}

/// The gradient of the input of [`forward`]: `[batch, height, width, inputs]`.
pub(super) fn gradient(output_gradient: &Tensor, weight: &Tensor) -> Tensor {
    let [batch, height, width, outputs] = sizes(output_gradient);
    let inputs = weight.size()[1];
    let products =
        output_gradient.reshape([-1, outputs]).mm(&matrix(weight)).reshape([batch, height, width, SIDE * SIDE, inputs]);
    let padded = Tensor::zeros([batch, height + SIDE - 1, width + SIDE - 1, inputs], (products.kind(), products.device()));
    for (tap, (down, right)) in (0..).zip(taps()) {
        let _ = padded.narrow(1, down, height).narrow(2, right, width).g_add_(&products.select(3, tap));
    }
    padded.narrow(1, 1, height).narrow(2, 1, width).contiguous()
}

/// How far each tap lies from the first, down and to the right.
fn taps() -> impl Iterator<Item = (i64, i64)> {
    (0..SIDE).flat_map(|down| (0..SIDE).map(move |right| (down, right)))
}

/// The kernel as `[outputs, taps · inputs]`, where it lies.
fn matrix(weight: &Tensor) -> Tensor {
    weight.permute([0, 2, 3, 1]).reshape([weight.size()[0], -1])
}

fn sizes(x: &Tensor) -> [i64; 4] {
    x.size().try_into().expect("pictures have four dimensions")
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn patches_give_what_convolution_gives() {
        let wave = |sizes: &[i64], seed: f64| {
            let count: i64 = sizes.iter().product();
            (Tensor::arange(count, (Kind::Double, Device::Cpu)) * (0.37 + seed)).sin().reshape(sizes)
        };
        for size in [[2, 5, 3, 4], [1, 1, 1, 4], [1, 1, 6, 4]] {
            let [batch, height, width, inputs] = size;
            let weight = wave(&[6, 3, 3, inputs], 0.2).permute([0, 3, 1, 2]);
            let (x, bias) = (wave(&size, 0.1), wave(&[6], 0.3));
            let expected = x.permute([0, 3, 1, 2]).conv2d(&weight, Some(&bias), [1, 1], [1, 1], [1, 1], 1).permute([0, 2, 3, 1]);
            let near = |a: &Tensor, b: &Tensor| assert!(f64::try_from((a - b).abs().max()).unwrap() < 1e-12, "{size:?}");
            near(&forward(&x, &weight, &bias), &expected);
            let upstream = wave(&[batch, height, width, 6], 0.4);
            let back =
                upstream.permute([0, 3, 1, 2]).conv_transpose2d(&weight, None::<&Tensor>, [1, 1], [1, 1], [0, 0], 1, [1, 1]);
            near(&gradient(&upstream, &weight), &back.permute([0, 2, 3, 1]));
        }
    }

    #[test]
    fn large_kernels_on_few_pixels_are_worth_it() {
        let of = |sizes: &[i64]| Tensor::empty(sizes, (Kind::Float, Device::Cpu));
        let (large, small) = (of(&[1280, 1280, 3, 3]), of(&[640, 640, 3, 3]));
        let few = of(&[1, 8, 8, 1280]);
        assert!(suits(&few, &large, Placement::SAME_SIZE));
        assert!(!suits(&few, &small, Placement::SAME_SIZE));
        assert!(!suits(&of(&[1, 16, 16, 1280]), &large, Placement::SAME_SIZE));
        assert!(!suits(&few, &large, Placement { stride: 2, ..Placement::SAME_SIZE }));
    }
}
