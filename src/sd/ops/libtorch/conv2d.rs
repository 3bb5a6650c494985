//! Convolution and the gradient of its input, in the memory order of the networks: channels side by side. In main memory our own where it is
//! faster, else libtorch's, as a convolution or as a matrix product.

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;
use tch::Tensor;

use crate::sd::ops::arguments::Placement;
use crate::sd::ops::conv2d::ConvolutionKernel;
use crate::sd::ops::host::winograd::{self, Extent, Taps};
use crate::sd::ops::libtorch::memory::{self, values};
use crate::sd::ops::libtorch::patches;

impl ConvolutionKernel for LibTorch {
    /// `[out, in, size, size]` with the input's channels side by side.
    fn lay_out(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let ordered = weight.tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        TchTensor::new(ordered)
    }

    fn forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        placement: Placement,
    ) -> FloatTensor<Self> {
        if let Some((x, weight, extent)) = by_tiles(&x.tensor, &weight.tensor, placement, Side::Input) {
            let bias = bias.tensor.contiguous();
            let taps = Taps { values: values(&weight), output: 9 * extent.inputs, tap: extent.inputs, input: 1, turned: false };
            return convolved(&x, taps, Some(values(&bias)), extent);
        }
        if memory::is_host(&x.tensor) && patches::suits(&x.tensor, &weight.tensor, placement) {
            return TchTensor::new(patches::forward(&x.tensor, &weight.tensor, &bias.tensor));
        }
        let Placement { size: _, stride, before, after } = placement;
        let (stride, before, after) = (stride as i64, before as i64, after as i64);
        let x = x.tensor.permute([0, 3, 1, 2]);
        let bias = Some(&bias.tensor);
        let output = if before == after {
            x.conv2d(&weight.tensor, bias, [stride, stride], [before, before], [1, 1], 1)
        } else {
            x.constant_pad_nd([before, after, before, after]).conv2d(&weight.tensor, bias, [stride, stride], [0, 0], [1, 1], 1)
        };
        TchTensor::new(output.permute([0, 2, 3, 1]).contiguous())
    }

    fn gradient(
        output_gradient: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        placement: Placement,
        input_size: [usize; 2],
    ) -> FloatTensor<Self> {
        if let Some((x, weight, extent)) = by_tiles(&output_gradient.tensor, &weight.tensor, placement, Side::Output) {
            // The channels change places: those of the input lie side by side.
            let taps = Taps { values: values(&weight), output: 1, tap: extent.outputs, input: 9 * extent.outputs, turned: true };
            return convolved(&x, taps, None, extent);
        }
        if memory::is_host(&output_gradient.tensor) && patches::suits(&output_gradient.tensor, &weight.tensor, placement) {
            return TchTensor::new(patches::gradient(&output_gradient.tensor, &weight.tensor));
        }
        let Placement { size, stride, before, .. } = placement;
        let output_gradient = output_gradient.tensor.permute([0, 3, 1, 2]);
        let outputs = &output_gradient.size()[2..];
        // How far the kernel reached over the padded input, and what it left untouched at the end.
        let reached = |side: usize| (outputs[side] as usize - 1) * stride + size;
        let untouched = |side: usize| (before + input_size[side]) as i64 - reached(side) as i64;
        let (stride, before) = (stride as i64, before as i64);
        let left = [untouched(0), untouched(1)];
        let no_bias = None::<&Tensor>;
        let gradient = if left.iter().all(|left| (-before..stride - before).contains(left)) && before > 0 {
            // `padding` takes as much off the end as off the beginning.
            let more = left.map(|left| left + before);
            output_gradient.conv_transpose2d(&weight.tensor, no_bias, [stride, stride], [before, before], more, 1, [1, 1])
        } else {
            let whole = output_gradient.conv_transpose2d(&weight.tensor, no_bias, [stride, stride], [0, 0], [0, 0], 1, [1, 1]);
            let padded = whole.constant_pad_nd([0, left[1].max(0), 0, left[0].max(0)]);
            padded.narrow(2, before, input_size[0] as i64).narrow(3, before, input_size[1] as i64)
        };
        TchTensor::new(gradient.permute([0, 2, 3, 1]).contiguous())
    }
}

/// Which side of a convolution is given.
enum Side {
    Input,
    Output,
}

/// `x` and the kernel, `[out, 3, 3, in]`, dense, and the sizes of the convolution of `x`, where tiles are the faster way.
fn by_tiles(x: &Tensor, weight: &Tensor, placement: Placement, given: Side) -> Option<(Tensor, Tensor, Extent)> {
    if !memory::is_host(x) || !memory::is_host(weight) {
        return None;
    }
    let sizes = <[i64; 4]>::try_from(x.size()).expect("pictures have four dimensions").map(|size| size as usize);
    let others = match given {
        Side::Input => weight.size()[0],
        Side::Output => weight.size()[1],
    };
    let extent = Extent::where_faster(sizes, others as usize, placement)?;
    Some((x.contiguous(), weight.permute([0, 2, 3, 1]).contiguous(), extent))
}

fn convolved(x: &Tensor, taps: Taps, bias: Option<&[f32]>, extent: Extent) -> TchTensor {
    let size = [extent.batch, extent.height, extent.width, extent.outputs].map(|size| size as i64).to_vec();
    let [output] = memory::written([size], |[output]| winograd::convolve(values(x), taps, bias, output, extent));
    TchTensor::new(output)
}
