//! Convolution: the patches of some rows of the output are laid out as a matrix and multiplied with the kernel.
//!
//! The gradient of the input is the same with the kernel turned by half a circle and its channels swapped; where the kernel moved by more than one
//! pixel, the gradient of the output is first spread out with zeros between.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Slice;

use crate::sd::ops::arguments::Placement;
use crate::sd::ops::generic::values::{Values, range, whole};

/// Elements of the patches that are laid out at a time: 128 MiB of f32, small beside the weights, large enough to keep a card at work.
const PATCHES: usize = 1 << 25;

/// `[size, size, in_channels, out_channels]`: a matrix whose rows are y, then x, then channel.
pub(in crate::sd::ops) fn lay_out<B: Backend>(weight: FloatTensor<B>) -> FloatTensor<B> {
    in_order(Values::<B>(weight).permute(&[2, 3, 1, 0])).0
}

/// Side by side in memory: as a list, which no other order makes, and back.
fn in_order<B: Backend>(values: Values<B>) -> Values<B> {
    let dims = values.dims();
    values.reshape([dims.iter().product::<usize>()]).reshape(dims)
}

pub(in crate::sd::ops) fn forward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    placement: Placement,
) -> FloatTensor<B> {
    let Placement { size: _, stride, before, after } = placement;
    let (x, bias) = (Values::<B>(x), Values(bias));
    let channels = bias.width();
    let [_, height, width, _] = x.sizes();
    let padded = placed(x, 1, before, [height, width].map(|side| side + before + after));
    (convolve(&padded, Values(weight), stride, PATCHES) + bias.reshape([1, 1, 1, channels])).0
}

pub(in crate::sd::ops) fn gradient<B: Backend>(
    output_gradient: FloatTensor<B>,
    weight: FloatTensor<B>,
    placement: Placement,
    input_size: [usize; 2],
) -> FloatTensor<B> {
    let Placement { size, stride, before, .. } = placement;
    let padded = placed(Values::<B>(output_gradient), stride, size - 1 - before, input_size.map(|side| side + size - 1));
    // Made anew each time: kept, the turned kernels would take as much memory as the kernels.
    let turned = in_order(Values::<B>(weight).flip(&[0, 1]).permute(&[0, 1, 3, 2]));
    convolve(&padded, turned, 1, PATCHES).0
}

/// Pictures `spread` pixels apart in zeros of `[height, width]`, the first `before` from the edges.
fn placed<B: Backend>(x: Values<B>, spread: usize, before: usize, [height, width]: [usize; 2]) -> Values<B> {
    let [batch, rows, columns, channels] = x.sizes();
    if [height, width] == [rows, columns] {
        return x;
    }
    let place = |count| range(before, count, spread);
    let ranges = [range(0, batch, 1), place(rows), place(columns), range(0, channels, 1)];
    x.zeros_like(vec![batch, height, width, channels]).with(&ranges, x)
}

/// Convolves without padding, `patches` elements laid out at a time.
///
/// - `x`: `[batch, height, width, in_channels]`
/// - `weight`: `[size, size, in_channels, out_channels]`
/// - the result: `[batch, (height - size) / stride + 1, .., out_channels]`
fn convolve<B: Backend>(x: &Values<B>, weight: Values<B>, stride: usize, patches: usize) -> Values<B> {
    let [batch, height, width, channels] = x.sizes();
    let [size, _, _, out_channels] = weight.sizes();
    let [rows, columns] = [height, width].map(|side| (side - size) / stride + 1);
    let patch = size * size * channels;
    let weight = weight.reshape([patch, out_channels]);
    let rows_at_a_time = (patches / (batch * columns * patch)).clamp(1, rows);
    let parts = (0..rows).step_by(rows_at_a_time).map(|first| {
        let count = rows_at_a_time.min(rows - first);
        // What lies under each tap of the kernel.
        let taps = (0..size * size).map(|tap| {
            let mut ranges: Vec<Slice> = whole(&[batch, height, width, channels]);
            ranges[1] = range(first * stride + tap / size, count, stride);
            ranges[2] = range(tap % size, columns, stride);
            x.clone().slice(&ranges)
        });
        let laid_out = Values::joined(taps.collect(), 3).reshape([batch * count * columns, patch]);
        laid_out.matmul(weight.clone()).reshape([batch, count, columns, out_channels])
    });
    Values::joined(parts.collect(), 1)
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::sd::ops::generic::tests::{assert_near, wave};

    #[test]
    fn rows_at_a_time_change_nothing() {
        let (x, weight) = (Values::<Flex>(wave(0, &[2, 9, 7, 3])), Values(wave(1, &[3, 3, 3, 4])));
        for stride in [1, 2] {
            let whole = convolve(&x, weight.clone(), stride, usize::MAX);
            for patches in [1, 2 * 2 * 5 * 27] {
                assert_near(&convolve(&x, weight.clone(), stride, patches).0, &whole.0);
            }
        }
    }
}
