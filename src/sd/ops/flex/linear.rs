//! Linear layers, plain and with an adapter, and the gradients of input and factors.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use crate::sd::ops::arguments::{Bias, Factors, RememberedAdapted};
use crate::sd::ops::flex::buffer::{
    dense, dims, from_values, into_values, matrix, product, product_transposed, transposed_product, values,
};
use crate::sd::ops::flex::simd::vectorized;
use crate::sd::ops::host::parallel::each_chunk;
use crate::sd::ops::linear::LinearKernel;

/// Elements that one task takes when sums are added up.
const CHUNK: usize = 1 << 16;
/// Floating-point operations for one such element, about.
const WORK: usize = 4;

impl LinearKernel for Flex {
    fn forward(x: FlexTensor, weight: FlexTensor, bias: Bias<Flex>) -> FlexTensor {
        let x = dense(x);
        let output = product_transposed(&matrix(&x), &weight);
        let shape = output_shape(&x, &weight);
        match bias {
            Bias::Absent => from_values(into_values(output), shape),
            Bias::Given(bias) => {
                let mut output = into_values(output);
                add_rows(&mut output, values(&dense(bias)));
                from_values(output, shape)
            }
        }
    }

    fn gradient(weight: FlexTensor, output_gradient: FlexTensor) -> FlexTensor {
        let output_gradient = dense(output_gradient);
        let mut shape = dims(&output_gradient).to_vec();
        *shape.last_mut().expect("a matrix product has two dimensions") = dims(&weight)[1];
        from_values(into_values(product(&matrix(&output_gradient), &weight)), shape)
    }

    fn adapted_forward(x: FlexTensor, weight: FlexTensor, bias: Bias<Flex>, factors: Factors<Flex>) -> (FlexTensor, FlexTensor) {
        let x = dense(x);
        let narrow = product_transposed(&matrix(&x), &factors.down);
        let addition = product_transposed(&narrow, &factors.up);
        let mut output = into_values(product_transposed(&matrix(&x), &weight));
        add_scaled(&mut output, values(&addition), factors.scale as f32);
        if let Bias::Given(bias) = bias {
            add_rows(&mut output, values(&dense(bias)));
        }
        (from_values(output, output_shape(&x, &weight)), narrow)
    }

    fn adapted_gradients(
        inputs: RememberedAdapted<Flex>,
        output_gradient: FlexTensor,
        wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let RememberedAdapted { x, weight, narrow, factors } = inputs;
        let (x, output_gradient) = (dense(x), dense(output_gradient));
        let upstream = matrix(&output_gradient);
        let scale = factors.scale as f32;
        // The gradient of `narrow`: [rows, rank].
        let mut narrow_gradient = into_values(product(&upstream, &factors.up));
        narrow_gradient.iter_mut().for_each(|value| *value *= scale);
        let narrow_gradient = from_values(narrow_gradient, dims(&narrow).to_vec());

        let [want_x, want_down, want_up] = wanted;
        let x_gradient = want_x.then(|| {
            let mut gradient = into_values(product(&upstream, &weight));
            add_scaled(&mut gradient, values(&product(&narrow_gradient, &factors.down)), 1.0);
            from_values(gradient, dims(&x).to_vec())
        });
        let down_gradient = want_down.then(|| transposed_product(&narrow_gradient, &matrix(&x)));
        let up_gradient = want_up.then(|| {
            let mut gradient = into_values(transposed_product(&upstream, &narrow));
            gradient.iter_mut().for_each(|value| *value *= scale);
            from_values(gradient, dims(&factors.up).to_vec())
        });
        [x_gradient, down_gradient, up_gradient]
    }
}

fn output_shape(x: &FlexTensor, weight: &FlexTensor) -> Vec<usize> {
    let mut shape = dims(x).to_vec();
    *shape.last_mut().expect("a linear layer gets at least one dimension") = dims(weight)[0];
    shape
}

/// Adds `row` to each row of `output`.
pub(super) fn add_rows(output: &mut [f32], row: &[f32]) {
    let rows_a_task = (CHUNK / row.len()).max(1);
    let work = output.len() * WORK;
    each_chunk(output, rows_a_task * row.len(), work, |_, chunk| {
        add_row(chunk, row);
    });
}

vectorized! {
    fn add_row<'a>(output: &'a mut [f32], row: &'a [f32]) {
        for output in output.chunks_exact_mut(row.len()) {
            for (y, b) in output.iter_mut().zip(row) {
                *y += b;
            }
        }
    }
}

fn add_scaled(output: &mut [f32], addition: &[f32], scale: f32) {
    let work = output.len() * WORK;
    each_chunk(output, CHUNK, work, |index, chunk| {
        let addition = &addition[index * CHUNK..][..chunk.len()];
        add_multiple(chunk, addition, scale);
    });
}

vectorized! {
    fn add_multiple<'a>(output: &'a mut [f32], addition: &'a [f32], scale: f32) {
        for (y, a) in output.iter_mut().zip(addition) {
            *y += scale * a;
        }
    }
}
