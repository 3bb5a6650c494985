//! Convolution: by tiles where that is faster, else the patches of some rows of the output are laid out as a matrix and multiplied with the
//! kernel. The gradient of the input goes the same way back: the products of the output's gradient with the kernel are added up where their
//! patches lay.

use std::ops::Range;

use burn::backend::flex::{Flex, FlexTensor};

use crate::sd::ops::arguments::Placement;
use crate::sd::ops::conv2d::ConvolutionKernel;
use crate::sd::ops::flex::buffer::{
    View, dense, dims, from_values, into_values, matrix, product, product_transposed, values, view,
};
use crate::sd::ops::flex::linear::add_rows;
use crate::sd::ops::flex::simd::vectorized;
use crate::sd::ops::host::parallel::{collect, map};
use crate::sd::ops::host::winograd::{self, Extent, Taps};

/// Elements of the patches of one task: 2 MiB.
const PATCHES: usize = 1 << 19;
/// Fewest tasks that a large convolution is split into, where each has enough pixels.
const TASKS: usize = 4;
/// Fewest pixels of a task: each reads the whole kernel.
const PIXELS: usize = 64;
/// Multiply-adds below which a convolution is one task.
const WORTH_SPLITTING: usize = 1 << 19;
/// Fewest rows of the input whose gradient is one task: neighbours both multiply the rows of the output between them.
const ROWS: usize = 8;

/// Channels of the input and of the output of a block of a kernel that is laid out: 36 KiB for nine taps.
const INPUTS: usize = 16;
const OUTPUTS: usize = 64;

/// Where the patches of a convolution lie on its pictures.
struct Patches {
    height: usize,
    width: usize,
    channels: usize,
    placement: Placement,
    output_height: usize,
    output_width: usize,
}

impl ConvolutionKernel for Flex {
    /// `[size, size, in_channels, out_channels]`.
    fn lay_out(weight: FlexTensor) -> FlexTensor {
        taps_first(dense(weight))
    }

    fn forward(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, placement: Placement) -> FlexTensor {
        let (x, bias) = (dense(x), dense(bias));
        let [_, _, inputs, outputs] = sizes(&weight);
        if let Some(extent) = Extent::where_faster(sizes(&x), outputs, placement) {
            let taps = Taps { values: values(&weight), output: 1, tap: inputs * outputs, input: outputs, turned: false };
            return by_tiles(&x, taps, Some(values(&bias)), extent);
        }
        let [batch, height, width, channels] = sizes(&x);
        Patches::new([height, width], channels, placement).convolve(batch, values(&x), &weight, values(&bias))
    }

    fn gradient(output_gradient: FlexTensor, weight: FlexTensor, placement: Placement, input_size: [usize; 2]) -> FlexTensor {
        let output_gradient = dense(output_gradient);
        let [_, _, inputs, outputs] = sizes(&weight);
        if let Some(extent) = Extent::where_faster(sizes(&output_gradient), inputs, placement) {
            let taps = Taps { values: values(&weight), output: outputs, tap: inputs * outputs, input: 1, turned: true };
            return by_tiles(&output_gradient, taps, None, extent);
        }
        let [batch, ..] = sizes(&output_gradient);
        Patches::new(input_size, inputs, placement).gradient(batch, &output_gradient, &weight)
    }
}

/// `[out_channels, in_channels, size, size]` as `[size, size, in_channels, out_channels]`: by blocks that fit into a core's cache, since one
/// of the two is read or written with strides.
fn taps_first(weight: FlexTensor) -> FlexTensor {
    let [outputs, inputs, height, width] = sizes(&weight);
    let (taps, given) = (height * width, values(&weight));
    let mut laid_out = vec![0.0; given.len()];
    // Each block has its rows under every tap.
    let blocks = inputs.div_ceil(INPUTS);
    let mut rows: Vec<Vec<&mut [f32]>> = (0..blocks).map(|_| Vec::with_capacity(taps)).collect();
    for tap in laid_out.chunks_exact_mut(inputs * outputs) {
        for (block, rows_of_tap) in rows.iter_mut().zip(tap.chunks_mut(INPUTS * outputs)) {
            block.push(rows_of_tap);
        }
    }
    map(rows.into_iter().enumerate().collect(), given.len(), |(block, mut rows)| {
        let first = block * INPUTS;
        for start in (0..outputs).step_by(OUTPUTS) {
            let end = (start + OUTPUTS).min(outputs);
            for (tap, rows) in rows.iter_mut().enumerate() {
                for (input, row) in rows.chunks_exact_mut(outputs).enumerate() {
                    let from = &given[(first + input) * taps + tap..];
                    for (output, value) in (start..end).zip(&mut row[start..end]) {
                        *value = from[output * inputs * taps];
                    }
                }
            }
        }
    });
    from_values(laid_out, [height, width, inputs, outputs])
}

fn sizes(x: &FlexTensor) -> [usize; 4] {
    dims(x).try_into().expect("pictures and kernels have four dimensions")
}

fn by_tiles(x: &FlexTensor, taps: Taps, bias: Option<&[f32]>, extent: Extent) -> FlexTensor {
    let shape = [extent.batch, extent.height, extent.width, extent.outputs];
    let mut output = vec![0.0; shape.iter().product()];
    winograd::convolve(values(x), taps, bias, &mut output, extent);
    from_values(output, shape)
}

impl Patches {
    fn new([height, width]: [usize; 2], channels: usize, placement: Placement) -> Self {
        let Placement { size, stride, before, after } = placement;
        let output = |input: usize| (input + before + after - size) / stride + 1;
        Self { height, width, channels, placement, output_height: output(height), output_width: output(width) }
    }

    /// Elements of the taps side by side.
    fn tap_row(&self) -> usize {
        self.placement.size * self.channels
    }

    fn patch(&self) -> usize {
        self.placement.size * self.tap_row()
    }

    /// Elements of the patches of a row of the output.
    fn row(&self) -> usize {
        self.output_width * self.patch()
    }

    fn convolve(&self, batch: usize, input: &[f32], weight: &FlexTensor, bias: &[f32]) -> FlexTensor {
        let out_channels = bias.len();
        let weight = matrix(weight);
        let rows = batch * self.output_height;
        let multiply_adds = rows * self.row() * out_channels;
        let split = if multiply_adds < WORTH_SPLITTING { 1 } else { TASKS };
        let worth = PIXELS.div_ceil(self.output_width);
        let rows_a_task = (PATCHES / self.row()).min(rows.div_ceil(split)).max(worth).min(rows);
        let parts = collect(rows.div_ceil(rows_a_task), 2 * multiply_adds, |task| {
            let first = task * rows_a_task;
            let last = (first + rows_a_task).min(rows);
            let mut patches = vec![0.0; (last - first) * self.row()];
            for (row, patches) in (first..last).zip(patches.chunks_exact_mut(self.row())) {
                self.lay_out(input, row / self.output_height, row % self.output_height, patches);
            }
            let patches = from_values(patches, [(last - first) * self.output_width, self.patch()]);
            let mut output = into_values(product(&patches, &weight));
            add_rows(&mut output, bias);
            output
        });
        from_values(joined(parts), [batch, self.output_height, self.output_width, out_channels])
    }

    /// The patches of one row of the output, into zeros.
    fn lay_out(&self, input: &[f32], picture: usize, y: usize, patches: &mut [f32]) {
        let Placement { size, stride, before, .. } = self.placement;
        let (row_size, channels) = (self.width * self.channels, self.channels);
        for tap_y in 0..size {
            let below = (y * stride + tap_y).checked_sub(before).filter(|input_y| *input_y < self.height);
            let Some(input_y) = below else { continue };
            let row = &input[(picture * self.height + input_y) * row_size..][..row_size];
            for (x, patch) in patches.chunks_exact_mut(self.patch()).enumerate() {
                let (tap, pixels) = self.under(x);
                let taps = &mut patch[tap_y * self.tap_row() + tap * channels..][..pixels.len() * channels];
                taps.copy_from_slice(&row[pixels.start * channels..pixels.end * channels]);
            }
        }
    }

    /// The first tap of a row of the kernel that lies on the picture, and the pixels under it and the others there.
    #[inline(always)]
    fn under(&self, output_x: usize) -> (usize, Range<usize>) {
        let Placement { size, stride, before, .. } = self.placement;
        let first = output_x * stride;
        let start = first.saturating_sub(before);
        (before.saturating_sub(first), start..(first + size - before).min(self.width).max(start))
    }

    fn gradient(&self, batch: usize, output_gradient: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
        let weight = matrix(weight);
        let rows_a_task = (self.placement.stride * PATCHES / self.row()).max(ROWS).min(self.height);
        let tasks = self.height.div_ceil(rows_a_task);
        let out_channels = dims(output_gradient)[3];
        let work = 2 * batch * self.output_height * self.row() * out_channels;
        let parts = collect(batch * tasks, work, |task| {
            let (picture, first) = (task / tasks, task % tasks * rows_a_task);
            let rows = first..(first + rows_a_task).min(self.height);
            let reached = self.reached(&rows);
            let mut gradient = vec![0.0; rows.len() * self.width * self.channels];
            if reached.is_empty() {
                return gradient;
            }
            let upstream = View {
                offset: (picture * self.output_height + reached.start) * self.output_width * out_channels,
                rows: reached.len() * self.output_width,
                columns: out_channels,
                row_stride: out_channels,
            };
            let products = into_values(product_transposed(&view(output_gradient, upstream), &weight));
            add_up(&mut gradient, &products, self, rows, reached);
            gradient
        });
        from_values(joined(parts), [batch, self.height, self.width, self.channels])
    }

    /// The rows of the output that see any of some rows of the input.
    fn reached(&self, rows: &Range<usize>) -> Range<usize> {
        let Placement { size, stride, before, .. } = self.placement;
        let first = (rows.start + before + 1).saturating_sub(size).div_ceil(stride);
        let end = ((rows.end + before - 1) / stride + 1).min(self.output_height);
        first.min(end)..end
    }
}

vectorized! {
    /// Adds what belongs to the patches of the rows `reached` of the output to the rows `rows` of the input that they lie on.
    fn add_up<'a>(into: &'a mut [f32], patches: &'a [f32], of: &'a Patches, rows: Range<usize>, reached: Range<usize>) {
        let Placement { size, stride, before, .. } = of.placement;
        for (y, row) in rows.zip(into.chunks_exact_mut(of.width * of.channels)) {
            for tap_y in 0..size {
                let Some(above) = (y + before).checked_sub(tap_y) else { continue };
                if above % stride != 0 || !reached.contains(&(above / stride)) {
                    continue;
                }
                let patches = &patches[(above / stride - reached.start) * of.row()..][..of.row()];
                for (x, patch) in patches.chunks_exact(of.patch()).enumerate() {
                    let (tap, pixels) = of.under(x);
                    let taps = &patch[tap_y * of.tap_row() + tap * of.channels..];
                    for (sum, tap) in row[pixels.start * of.channels..pixels.end * of.channels].iter_mut().zip(taps) {
                        *sum += tap;
                    }
                }
            }
        }
    }
}

fn joined(mut parts: Vec<Vec<f32>>) -> Vec<f32> {
    if parts.len() == 1 { parts.swap_remove(0) } else { parts.concat() }
}

#[cfg(test)]
mod tests {
    use burn::backend::ops::FloatTensorOps;

    use super::*;

    #[test]
    fn kernels_of_any_size_are_laid_out_as_a_permutation_lays_them_out() {
        for shape in [[2 * OUTPUTS + 3, INPUTS + 5, 3, 3], [4, 3, 1, 1], [1, INPUTS, 3, 3], [OUTPUTS, 1, 2, 3]] {
            let count: usize = shape.iter().product();
            let weight = from_values((0..count).map(|value| value as f32).collect(), shape);
            let expected = dense(Flex::float_permute(weight.clone(), &[2, 3, 1, 0]));
            let laid_out = taps_first(weight);
            assert_eq!((dims(&laid_out), values(&laid_out)), (dims(&expected), values(&expected)), "{shape:?}");
        }
    }
}
