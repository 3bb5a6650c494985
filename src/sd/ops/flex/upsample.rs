//! Pixels repeated two by two, and their gradients added up again.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use crate::sd::ops::flex::buffer::{dense, dims, from_values, values};
use crate::sd::ops::flex::simd::vectorized;
use crate::sd::ops::upsample::UpsampleKernel;

impl UpsampleKernel for Flex {
    fn forward(x: FlexTensor) -> FlexTensor {
        let x = dense(x);
        let [batch, height, width, channels] = dimensions(&x);
        let mut output = Vec::with_capacity(4 * batch * height * width * channels);
        for row in values(&x).chunks_exact(width * channels) {
            let start = output.len();
            for pixel in row.chunks_exact(channels) {
                output.extend_from_slice(pixel);
                output.extend_from_slice(pixel);
            }
            output.extend_from_within(start..);
        }
        from_values(output, [batch, 2 * height, 2 * width, channels])
    }

    fn gradient(output_gradient: FlexTensor) -> FlexTensor {
        let output_gradient = dense(output_gradient);
        let [batch, height, width, channels] = dimensions(&output_gradient);
        let mut input = vec![0.0; batch * height * width * channels / 4];
        add_pixels(&mut input, values(&output_gradient), width, channels);
        from_values(input, [batch, height / 2, width / 2, channels])
    }
}

vectorized! {
    /// Adds up two by two pixels of rows of `width`.
    fn add_pixels<'a>(sums: &'a mut [f32], pixels: &'a [f32], width: usize, channels: usize) {
        let rows = pixels.chunks_exact(2 * width * channels);
        for (sums, rows) in sums.chunks_exact_mut(width / 2 * channels).zip(rows) {
            let (upper, lower) = rows.split_at(width * channels);
            let pairs = upper.chunks_exact(2 * channels).zip(lower.chunks_exact(2 * channels));
            for (sum, (upper, lower)) in sums.chunks_exact_mut(channels).zip(pairs) {
                for c in 0..channels {
                    sum[c] = (upper[c] + upper[channels + c]) + (lower[c] + lower[channels + c]);
                }
            }
        }
    }
}

fn dimensions(x: &FlexTensor) -> [usize; 4] {
    dims(x).try_into().expect("pictures have four dimensions")
}
