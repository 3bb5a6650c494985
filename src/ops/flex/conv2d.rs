//! Convolution: the patches of some rows of the output are laid out as a matrix and multiplied with the kernel.
//!
//! The gradient of the input is the same with the flipped kernel; where the kernel moved by more than one pixel, the
//! gradient of the output is first spread out with zeros between, which the patches do as they are laid out.

use burn::backend::flex::{Flex, FlexTensor};
use burn::backend::ops::FloatTensorOps;

use crate::ops::conv2d::Placement;
use crate::ops::flex::buffer::{dense, dims, from_values, into_values, matrix, product, values};
use crate::ops::flex::linear::add_rows;
use crate::ops::flex::parallel::collect;

/// Elements of the patches of one task: 2 MiB.
const PATCHES: usize = 1 << 19;
/// Fewest tasks that a large convolution is split into.
const TASKS: usize = 4;
/// Multiply-adds below which a convolution is one task.
const WORTH_SPLITTING: usize = 1 << 19;

/// Where the patches are taken from.
struct Window<'a> {
    input: &'a [f32],
    height: usize,
    width: usize,
    channels: usize,
    /// Pixels of the spread-out input for one of the input: 1 if it is not spread out.
    spread: usize,
    size: usize,
    stride: usize,
    before: usize,
    output_height: usize,
    output_width: usize,
}

pub(in crate::ops) fn lay_out(weight: FlexTensor) -> FlexTensor {
    dense(Flex::float_permute(weight, &[2, 3, 1, 0]))
}

pub(in crate::ops) fn lay_out_gradient(weight: FlexTensor) -> FlexTensor {
    dense(Flex::float_permute(Flex::float_flip(weight, &[0, 1]), &[0, 1, 3, 2]))
}

pub(in crate::ops) fn forward(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, placement: Placement) -> FlexTensor {
    let (x, bias) = (dense(x), dense(bias));
    let [batch, height, width, channels] = dimensions(&x);
    let Placement { size, stride, before, after } = placement;
    let output = |input: usize| (input + before + after - size) / stride + 1;
    let window = Window {
        input: values(&x),
        height,
        width,
        channels,
        spread: 1,
        size,
        stride,
        before,
        output_height: output(height),
        output_width: output(width),
    };
    window.convolve(batch, &weight, Some(values(&bias)))
}

pub(in crate::ops) fn gradient(
    output_gradient: FlexTensor,
    for_gradient: FlexTensor,
    placement: Placement,
    input_size: [usize; 2],
) -> FlexTensor {
    let output_gradient = dense(output_gradient);
    let [batch, height, width, channels] = dimensions(&output_gradient);
    let window = Window {
        input: values(&output_gradient),
        height,
        width,
        channels,
        spread: placement.stride,
        size: placement.size,
        stride: 1,
        before: placement.size - 1 - placement.before,
        output_height: input_size[0],
        output_width: input_size[1],
    };
    window.convolve(batch, &for_gradient, None)
}

fn dimensions(x: &FlexTensor) -> [usize; 4] {
    dims(x).try_into().expect("pictures have four dimensions")
}

impl Window<'_> {
    fn patch(&self) -> usize {
        self.size * self.size * self.channels
    }

    fn convolve(&self, batch: usize, weight: &FlexTensor, bias: Option<&[f32]>) -> FlexTensor {
        let out_channels = dims(weight)[3];
        let weight = matrix(weight);
        let rows = batch * self.output_height;
        let row_patches = self.output_width * self.patch();
        let multiply_adds = rows * row_patches * out_channels;
        let split = if multiply_adds < WORTH_SPLITTING { 1 } else { TASKS };
        let rows_a_task = (PATCHES / row_patches).clamp(1, rows.div_ceil(split));
        let parts = collect(rows.div_ceil(rows_a_task), 2 * multiply_adds, |task| {
            let first = task * rows_a_task;
            let last = (first + rows_a_task).min(rows);
            let mut patches = vec![0.0; (last - first) * row_patches];
            for (row, patches) in (first..last).zip(patches.chunks_exact_mut(row_patches)) {
                self.lay_out(row / self.output_height, row % self.output_height, patches);
            }
            let patches = from_values(patches, [(last - first) * self.output_width, self.patch()]);
            let mut output = into_values(product(&patches, &weight));
            if let Some(bias) = bias {
                add_rows(&mut output, bias);
            }
            output
        });
        from_values(joined(parts), [batch, self.output_height, self.output_width, out_channels])
    }

    /// The patches of one row of the output, into zeros.
    fn lay_out(&self, picture: usize, y: usize, patches: &mut [f32]) {
        let (row_size, tap_row) = (self.width * self.channels, self.size * self.channels);
        for tap_y in 0..self.size {
            let Some(input_y) = self.source(y, tap_y, self.height) else { continue };
            let row = &self.input[(picture * self.height + input_y) * row_size..][..row_size];
            for (x, patch) in patches.chunks_exact_mut(self.patch()).enumerate() {
                let taps = &mut patch[tap_y * tap_row..][..tap_row];
                let inside = (x * self.stride).checked_sub(self.before).filter(|first| first + self.size <= self.width);
                match inside {
                    Some(first) if self.spread == 1 => taps.copy_from_slice(&row[first * self.channels..][..tap_row]),
                    _ => {
                        for (tap_x, tap) in taps.chunks_exact_mut(self.channels).enumerate() {
                            if let Some(input_x) = self.source(x, tap_x, self.width) {
                                tap.copy_from_slice(&row[input_x * self.channels..][..self.channels]);
                            }
                        }
                    }
                }
            }
        }
    }

    /// The input's row (or column) under a tap of the kernel, unless zeros lie there.
    fn source(&self, output: usize, tap: usize, length: usize) -> Option<usize> {
        let spread_out = (output * self.stride + tap).checked_sub(self.before)?;
        let input = spread_out / self.spread;
        (spread_out % self.spread == 0 && input < length).then_some(input)
    }
}

fn joined(mut parts: Vec<Vec<f32>>) -> Vec<f32> {
    if parts.len() == 1 { parts.swap_remove(0) } else { parts.concat() }
}
