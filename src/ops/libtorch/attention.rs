//! Attention in blocks, by libtorch's flash attention.

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;
use tch::Tensor;

use crate::ops::attention::{AttentionKernel, AttentionRoute, Inputs, Mask};

impl AttentionRoute for LibTorch {
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
        mask: Mask,
    ) -> FloatTensor<Self> {
        Self::forward(Inputs { q, k, v, heads, mask }).0
    }
}

impl AttentionKernel for LibTorch {
    type Kept = Kept;

    fn forward(inputs: Inputs<Self>) -> (FloatTensor<Self>, Kept) {
        let Inputs { q, k, v, heads, mask } = inputs;
        let [q, k, v] = [q, k, v].map(|x| by_head(&x.tensor, heads));
        let (output, sums) = Tensor::internal_scaled_dot_product_flash_attention_for_cpu(
            &q,
            &k,
            &v,
            0.0,
            mask == Mask::Causal,
            None::<&Tensor>,
            None,
        );
        let joined = TchTensor::new(joined(&output));
        (joined.clone(), Kept { output: joined, sums: TchTensor::new(sums) })
    }

    fn gradients(inputs: Inputs<Self>, kept: Kept, output_gradient: FloatTensor<Self>) -> [FloatTensor<Self>; 3] {
        let Inputs { q, k, v, heads, mask } = inputs;
        let [q, k, v, output, output_gradient] = [q, k, v, kept.output, output_gradient].map(|x| by_head(&x.tensor, heads));
        let (q, k, v) = Tensor::internal_scaled_dot_product_flash_attention_for_cpu_backward(
            &output_gradient,
            &q,
            &k,
            &v,
            &output,
            &kept.sums.tensor,
            0.0,
            mask == Mask::Causal,
            None::<&Tensor>,
            None,
        );
        [q, k, v].map(|gradient| TchTensor::new(joined(&gradient)))
    }
}

/// What the backward pass takes from the forward one.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    output: TchTensor,
    /// Logarithms of the sums of exponentials: `[batch, heads, tokens]`.
    sums: TchTensor,
}

/// `[batch, tokens, heads · width]` as `[batch, heads, tokens, width]`.
fn by_head(x: &Tensor, heads: usize) -> Tensor {
    let [batch, tokens, channels] = x.size().try_into().expect("attention gets three dimensions");
    let heads = heads as i64;
    x.reshape([batch, tokens, heads, channels / heads]).transpose(1, 2)
}

fn joined(x: &Tensor) -> Tensor {
    let [batch, heads, tokens, width] = x.size().try_into().expect("heads make a fourth dimension");
    x.transpose(1, 2).reshape([batch, tokens, heads * width])
}
