//! Each pixel four times, and the sum of the four.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

use crate::sd::ops::generic::values::Values;

pub(in crate::sd::ops) fn forward<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let x = Values::<B>(x);
    let [batch, height, width, channels] = x.sizes();
    let repeated = x.reshape([batch, height, 1, width, 1, channels]).expand([batch, height, 2, width, 2, channels]);
    repeated.reshape([batch, 2 * height, 2 * width, channels]).0
}

pub(in crate::sd::ops) fn gradient<B: Backend>(output_gradient: FloatTensor<B>) -> FloatTensor<B> {
    let upstream = Values::<B>(output_gradient);
    let (dtype, [batch, height, width, channels]) = (upstream.dtype(), upstream.sizes());
    let fours = upstream.wide().reshape([batch, height / 2, 2, width / 2, 2, channels]);
    fours.sum(&[2, 4]).reshape([batch, height / 2, width / 2, channels]).to(dtype).0
}
