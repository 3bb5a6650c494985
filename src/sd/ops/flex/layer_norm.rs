//! Layer normalisation and its derivative. The derivative takes the statistics again: a pass over a row in cache is cheap.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use crate::sd::ops::flex::buffer::{dense, dims, from_values, rows_and_width, values};
use crate::sd::ops::flex::simd::{sum, vectorized};
use crate::sd::ops::host::parallel::each_chunk;
use crate::sd::ops::layer_norm::LayerNormKernel;

/// Elements that one task takes.
const CHUNK: usize = 1 << 16;
/// Floating-point operations for one element, about.
const WORK: usize = 8;

impl LayerNormKernel for Flex {
    fn forward(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, epsilon: f64) -> FlexTensor {
        let (x, weight, bias) = (dense(x), dense(weight), dense(bias));
        let (rows, width) = rows_and_width(&x);
        let (input, weight, bias) = (values(&x), values(&weight), values(&bias));
        let rows_a_task = (CHUNK / width).max(1);
        let mut output = vec![0.0; rows * width];
        each_chunk(&mut output, rows_a_task * width, rows * width * WORK, |index, chunk| {
            let input = &input[index * rows_a_task * width..];
            normalise_rows(chunk, input, weight, bias, epsilon);
        });
        from_values(output, dims(&x).to_vec())
    }

    /// With `n` the normalised row and `h = weight · output gradient`: `(h - mean(h) - n · mean(h · n)) / deviation`.
    fn gradient(x: FlexTensor, weight: FlexTensor, epsilon: f64, output_gradient: FlexTensor) -> FlexTensor {
        let (x, weight, output_gradient) = (dense(x), dense(weight), dense(output_gradient));
        let (rows, width) = rows_and_width(&x);
        let (input, weight, upstream) = (values(&x), values(&weight), values(&output_gradient));
        let rows_a_task = (CHUNK / width).max(1);
        let mut output = vec![0.0; rows * width];
        each_chunk(&mut output, rows_a_task * width, rows * width * 2 * WORK, |index, chunk| {
            let input = &input[index * rows_a_task * width..];
            let upstream = &upstream[index * rows_a_task * width..];
            gradient_of_rows(chunk, input, upstream, weight, epsilon);
        });
        from_values(output, dims(&x).to_vec())
    }
}

vectorized! {
    fn normalise_rows<'a>(output: &'a mut [f32], input: &'a [f32], weight: &'a [f32], bias: &'a [f32], epsilon: f64) {
        let width = weight.len();
        let bias = &bias[..width];
        for (output, input) in output.chunks_exact_mut(width).zip(input.chunks_exact(width)) {
            let (mean, inverse_deviation) = statistics(input, epsilon);
            for i in 0..width {
                output[i] = (input[i] - mean) * inverse_deviation * weight[i] + bias[i];
            }
        }
    }
}

vectorized! {
    fn gradient_of_rows<'a>(output: &'a mut [f32], input: &'a [f32], upstream: &'a [f32], weight: &'a [f32], epsilon: f64) {
        let width = weight.len();
        let inputs = input.chunks_exact(width).zip(upstream.chunks_exact(width));
        for (output, (input, upstream)) in output.chunks_exact_mut(width).zip(inputs) {
            let (mean, inverse_deviation) = statistics(input, epsilon);
            let plain = sum(width, |i| upstream[i] * weight[i]) / width as f32;
            let along = sum(width, |i| upstream[i] * weight[i] * (input[i] - mean)) * inverse_deviation / width as f32;
            for i in 0..width {
                let normalised = (input[i] - mean) * inverse_deviation;
                output[i] = (upstream[i] * weight[i] - plain - normalised * along) * inverse_deviation;
            }
        }
    }
}

/// The mean of a row and one over its deviation.
#[inline(always)]
fn statistics(row: &[f32], epsilon: f64) -> (f32, f32) {
    let mean = sum(row.len(), |i| row[i]) / row.len() as f32;
    let variance = sum(row.len(), |i| (row[i] - mean) * (row[i] - mean)) / row.len() as f32;
    (mean, 1.0 / (variance + epsilon as f32).sqrt())
}
