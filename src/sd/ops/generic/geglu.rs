//! GEGLU's gate and its derivative.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use crate::sd::ops::arguments::Activation;
use crate::sd::ops::generic::activation::{apply, slope};
use crate::sd::ops::generic::values::Values;

pub(in crate::sd::ops) fn forward<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let x = Values::<B>(x);
    let dtype = x.dtype();
    let [a, b] = halves(x);
    (a * apply(b, Activation::Gelu)).to(dtype).0
}

pub(in crate::sd::ops) fn gradient<B: Backend>(x: FloatTensor<B>, output_gradient: FloatTensor<B>) -> FloatTensor<B> {
    let (x, upstream) = (Values::<B>(x), Values::<B>(output_gradient).wide());
    let (dtype, last) = (x.dtype(), x.dims().len() - 1);
    let [a, b] = halves(x);
    let of_a = upstream.clone() * apply(b.clone(), Activation::Gelu);
    let of_b = upstream * a * slope(b, Activation::Gelu);
    Values::joined(vec![of_a.to(dtype), of_b.to(dtype)], last).0
}

fn halves<B: Backend>(x: Values<B>) -> [Values<B>; 2] {
    let (last, hidden) = (x.dims().len() - 1, x.width() / 2);
    [0, hidden].map(|first| x.clone().narrow(last, first, hidden).wide())
}
