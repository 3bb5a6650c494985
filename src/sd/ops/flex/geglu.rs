//! GEGLU's gate and its derivative.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use crate::sd::ops::flex::activation::{gelu, gelu_slope};
use crate::sd::ops::flex::buffer::{dense, dims, from_values, rows_and_width, values};
use crate::sd::ops::flex::simd::vectorized;
use crate::sd::ops::geglu::GegluKernel;
use crate::sd::ops::host::parallel::each_chunk;

/// Elements of the wider side that one task takes.
const CHUNK: usize = 1 << 16;
/// Floating-point operations for one gated element, about.
const WORK: usize = 40;

impl GegluKernel for Flex {
    fn forward(x: FlexTensor) -> FlexTensor {
        let x = dense(x);
        let (rows, width) = rows_and_width(&x);
        let hidden = width / 2;
        let input = values(&x);
        let rows_a_task = (CHUNK / width).max(1);
        let mut output = vec![0.0; rows * hidden];
        each_chunk(&mut output, rows_a_task * hidden, rows * hidden * WORK, |index, chunk| {
            let input = &input[index * rows_a_task * width..];
            gate(chunk, input, hidden);
        });
        let mut shape = dims(&x).to_vec();
        *shape.last_mut().expect("rows and width were taken from it") = hidden;
        from_values(output, shape)
    }

    fn gradient(x: FlexTensor, output_gradient: FlexTensor) -> FlexTensor {
        let (x, output_gradient) = (dense(x), dense(output_gradient));
        let (rows, width) = rows_and_width(&x);
        let hidden = width / 2;
        let (input, upstream) = (values(&x), values(&output_gradient));
        let rows_a_task = (CHUNK / width).max(1);
        let mut output = vec![0.0; rows * width];
        each_chunk(&mut output, rows_a_task * width, rows * width * WORK, |index, chunk| {
            let input = &input[index * rows_a_task * width..];
            let upstream = &upstream[index * rows_a_task * hidden..];
            gate_gradient(chunk, input, upstream, hidden);
        });
        from_values(output, dims(&x).to_vec())
    }
}

vectorized! {
    fn gate<'a>(output: &'a mut [f32], input: &'a [f32], hidden: usize) {
        for (output, input) in output.chunks_exact_mut(hidden).zip(input.chunks_exact(2 * hidden)) {
            let (a, b) = input.split_at(hidden);
            for ((y, a), b) in output.iter_mut().zip(a).zip(b) {
                *y = a * gelu(*b);
            }
        }
    }
}

vectorized! {
    fn gate_gradient<'a>(output: &'a mut [f32], input: &'a [f32], upstream: &'a [f32], hidden: usize) {
        let inputs = input.chunks_exact(2 * hidden).zip(upstream.chunks_exact(hidden));
        for (output, (input, upstream)) in output.chunks_exact_mut(2 * hidden).zip(inputs) {
            let (a, b) = input.split_at(hidden);
            let (da, db) = output.split_at_mut(hidden);
            for i in 0..hidden {
                da[i] = upstream[i] * gelu(b[i]);
                db[i] = upstream[i] * a[i] * gelu_slope(b[i]);
            }
        }
    }
}
