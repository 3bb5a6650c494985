//! Layer normalisation and its derivative. The statistics are taken again for the derivative.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use crate::sd::ops::generic::normed::Normed;
use crate::sd::ops::generic::values::Values;

pub(in crate::sd::ops) fn forward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    epsilon: f64,
) -> FloatTensor<B> {
    let x = Values::<B>(x);
    let (dtype, dims) = (x.dtype(), x.dims());
    let [weight, bias] = [weight, bias].map(|values| beside(Values(values), &dims));
    let normed = Normed::new(x.wide(), &[dims.len() - 1], epsilon);
    (normed.values * weight + bias).to(dtype).0
}

pub(in crate::sd::ops) fn gradient<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    epsilon: f64,
    output_gradient: FloatTensor<B>,
) -> FloatTensor<B> {
    let x = Values::<B>(x);
    let (dtype, dims) = (x.dtype(), x.dims());
    let upstream = Values(output_gradient).wide() * beside(Values(weight), &dims);
    let row = [dims.len() - 1];
    Normed::new(x.wide(), &row, epsilon).gradient(upstream, &row).to(dtype).0
}

/// `[width]` as `[1, .., 1, width]`, to go with a tensor of as many dimensions as `dims`.
fn beside<B: Backend>(values: Values<B>, dims: &[usize]) -> Values<B> {
    let mut shape = vec![1; dims.len()];
    shape[dims.len() - 1] = values.width();
    values.wide().reshape(shape)
}
