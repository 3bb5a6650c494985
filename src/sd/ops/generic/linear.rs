//! Linear layers, plain and with an adapter, and the gradients of input and factors.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use crate::sd::ops::arguments::{Bias, Factors, RememberedAdapted};
use crate::sd::ops::generic::values::Values;

pub(in crate::sd::ops) fn forward<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, bias: Bias<B>) -> FloatTensor<B> {
    let (x, weight) = (Values::<B>(x), Values(weight));
    let shape = with_width(x.dims(), weight.dims()[0]);
    with_bias(x.rows().matmul(weight.transpose()), bias).reshape(shape).0
}

pub(in crate::sd::ops) fn gradient<B: Backend>(weight: FloatTensor<B>, output_gradient: FloatTensor<B>) -> FloatTensor<B> {
    let (weight, upstream) = (Values::<B>(weight), Values(output_gradient));
    let shape = with_width(upstream.dims(), weight.width());
    upstream.rows().matmul(weight).reshape(shape).0
}

pub(in crate::sd::ops) fn adapted_forward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Bias<B>,
    factors: Factors<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (x, weight) = (Values::<B>(x), Values(weight));
    let (down, up) = (Values(factors.down), Values(factors.up));
    let shape = with_width(x.dims(), weight.dims()[0]);
    let x = x.rows();
    let narrow = x.clone().matmul(down.transpose());
    let addition = narrow.clone().matmul((up * factors.scale).transpose());
    let output = with_bias(x.matmul(weight.transpose()), bias) + addition;
    (output.reshape(shape).0, narrow.0)
}

pub(in crate::sd::ops) fn adapted_gradients<B: Backend>(
    inputs: RememberedAdapted<B>,
    output_gradient: FloatTensor<B>,
    wanted: [bool; 3],
) -> [Option<FloatTensor<B>>; 3] {
    let RememberedAdapted { x, weight, narrow, factors } = inputs;
    let (x, weight, narrow) = (Values::<B>(x), Values(weight), Values(narrow));
    let (down, up) = (Values(factors.down), Values(factors.up));
    let upstream = Values(output_gradient).rows();
    // The gradient of `narrow`: [rows, rank].
    let narrow_gradient = upstream.clone().matmul(up * factors.scale);

    let [want_x, want_down, want_up] = wanted;
    let shape = x.dims();
    let x_gradient = want_x.then(|| {
        let through_weight = upstream.clone().matmul(weight);
        (through_weight + narrow_gradient.clone().matmul(down)).reshape(shape)
    });
    let down_gradient = want_down.then(|| narrow_gradient.transpose().matmul(x.rows()));
    let up_gradient = want_up.then(|| upstream.transpose().matmul(narrow) * factors.scale);
    [x_gradient, down_gradient, up_gradient].map(|gradient| gradient.map(|values| values.0))
}

/// Adds the bias to each row.
fn with_bias<B: Backend>(rows: Values<B>, bias: Bias<B>) -> Values<B> {
    match bias {
        Bias::Absent => rows,
        Bias::Given(bias) => {
            let width = rows.width();
            rows + Values(bias).reshape([1, width])
        }
    }
}

fn with_width(mut shape: Vec<usize>, width: usize) -> Vec<usize> {
    *shape.last_mut().expect("a linear layer gets at least one dimension") = width;
    shape
}
