//! Each pixel four times, and the sum of the four.

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;

use crate::sd::ops::upsample::UpsampleKernel;

impl UpsampleKernel for LibTorch {
    fn forward(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let [batch, height, width, channels] = sizes(&x);
        let repeated =
            x.tensor.reshape([batch, height, 1, width, 1, channels]).expand([batch, height, 2, width, 2, channels], false);
        TchTensor::new(repeated.reshape([batch, 2 * height, 2 * width, channels]))
    }

    fn gradient(output_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        let [batch, height, width, channels] = sizes(&output_gradient);
        let fours = output_gradient.tensor.reshape([batch, height / 2, 2, width / 2, 2, channels]);
        TchTensor::new(fours.sum_dim_intlist([2i64, 4].as_slice(), false, None))
    }
}

fn sizes(x: &TchTensor) -> [i64; 4] {
    x.tensor.size().try_into().expect("pictures have four dimensions")
}
