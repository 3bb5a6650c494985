//! Attention in blocks: our own on the CPU, libtorch's flash attention elsewhere.

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;
use tch::Tensor;

use crate::ops::attention::{AttentionKernel, AttentionRoute, Inputs, Mask};
use crate::ops::host::attention::{self, Extent};
use crate::ops::host::attention_gradient;
use crate::ops::libtorch::memory::{self, values};

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
        if let Some((output, sums)) = forward_on_host(&inputs) {
            let output = TchTensor::new(output);
            return (output.clone(), Kept::Host { output, sums });
        }
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
        (joined.clone(), Kept::Flash { output: joined, sums: TchTensor::new(sums) })
    }

    fn gradients(inputs: Inputs<Self>, kept: Kept, output_gradient: FloatTensor<Self>) -> [FloatTensor<Self>; 3] {
        let (output, sums) = match kept {
            Kept::Host { output, sums } => return gradients_on_host(&inputs, &output, &sums, &output_gradient),
            Kept::Flash { output, sums } => (output, sums),
        };
        let Inputs { q, k, v, heads, mask } = inputs;
        let [q, k, v, output, output_gradient] = [q, k, v, output, output_gradient].map(|x| by_head(&x.tensor, heads));
        let (q, k, v) = Tensor::internal_scaled_dot_product_flash_attention_for_cpu_backward(
            &output_gradient,
            &q,
            &k,
            &v,
            &output,
            &sums.tensor,
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
pub(crate) enum Kept {
    /// The output, and logarithms to base 2 of the sums of exponentials: `[batch, heads, tokens]`.
    Host { output: TchTensor, sums: Vec<f32> },
    /// The same, with natural logarithms.
    Flash { output: TchTensor, sums: TchTensor },
}

/// `None` if the tensors are not f32 in main memory.
fn forward_on_host(inputs: &Inputs<LibTorch>) -> Option<(Tensor, Vec<f32>)> {
    let Inputs { q, k, v, .. } = inputs;
    let [q, k, v] = dense([q, k, v])?;
    let mut sums = Vec::new();
    let output = memory::written(&q.size(), |output| {
        sums = attention::forward(values(&q), values(&k), values(&v), output, extent(inputs));
    });
    Some((output, sums))
}

fn gradients_on_host(inputs: &Inputs<LibTorch>, output: &TchTensor, sums: &[f32], output_gradient: &TchTensor) -> [TchTensor; 3] {
    let Inputs { q, k, v, .. } = inputs;
    let [q, k, v, output, output_gradient] =
        dense([q, k, v, output, output_gradient]).expect("the forward pass took the same tensors");
    let of = attention_gradient::Inputs {
        q: values(&q),
        k: values(&k),
        v: values(&v),
        output: values(&output),
        sums,
        output_gradient: values(&output_gradient),
    };
    let [mut k_gradient, mut v_gradient] = [k.shallow_clone(), v.shallow_clone()];
    let q_gradient = memory::written(&q.size(), |q_gradient| {
        k_gradient = memory::written(&k.size(), |k_gradient| {
            v_gradient = memory::written(&v.size(), |v_gradient| {
                attention_gradient::backward(of, extent(inputs), [q_gradient, k_gradient, v_gradient]);
            });
        });
    });
    [q_gradient, k_gradient, v_gradient].map(TchTensor::new)
}

fn dense<const N: usize>(tensors: [&TchTensor; N]) -> Option<[Tensor; N]> {
    tensors.iter().all(|x| memory::is_host(&x.tensor)).then(|| tensors.map(|x| x.tensor.contiguous()))
}

fn extent(inputs: &Inputs<LibTorch>) -> Extent {
    let [batch, tokens, channels] = inputs.q.tensor.size().try_into().expect("attention gets three dimensions");
    Extent {
        batch: batch as usize,
        tokens: tokens as usize,
        context_tokens: inputs.k.tensor.size()[1] as usize,
        heads: inputs.heads,
        width: channels as usize / inputs.heads,
        mask: inputs.mask,
    }
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
