//! Attention in blocks: our own on the CPU, libtorch's elsewhere.

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;
use tch::{Device, Kind, Tensor};

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
        if q.device() != Device::Cpu {
            return (TchTensor::new(joined(&attend(&q, &k, &v, mask))), Kept::Nothing);
        }
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
            Kept::Nothing => return gradients_again(inputs, &output_gradient),
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
    /// Everything is computed again.
    Nothing,
}

/// By whichever of libtorch's kernels the device has.
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, mask: Mask) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, mask == Mask::Causal, None, false)
}

/// Gradients by running the same kernel again under libtorch's own automatic differentiation.
fn gradients_again(inputs: Inputs<LibTorch>, output_gradient: &TchTensor) -> [TchTensor; 3] {
    let Inputs { q, k, v, heads, mask } = inputs;
    let leaves = [q, k, v].map(|x| x.tensor.detach().set_requires_grad(true));
    let product = tch::with_grad(|| {
        let [q, k, v] = leaves.each_ref().map(|x| by_head(x, heads));
        (joined(&attend(&q, &k, &v, mask)) * &output_gradient.tensor).sum(Kind::Float)
    });
    let gradients = Tensor::run_backward(&[product], &leaves, false, false);
    <[Tensor; 3]>::try_from(gradients).expect("three inputs, three gradients").map(TchTensor::new)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cards_compute_is_what_the_processor_computes() {
        let random = |seed: i64, tokens: i64| {
            let numbers = Tensor::arange(2 * tokens * 24, (Kind::Float, Device::Cpu)) * (0.37 + seed as f64);
            TchTensor::new(numbers.sin().reshape([2, tokens, 24]))
        };
        let inputs = || Inputs { q: random(1, 7), k: random(2, 5), v: random(3, 5), heads: 3, mask: Mask::Open };
        let (output, kept) = LibTorch::forward(inputs());
        let [q, k, v] = [inputs().q, inputs().k, inputs().v].map(|x| by_head(&x.tensor, 3));
        let near = |a: &Tensor, b: &Tensor| assert!(f64::try_from((a - b).abs().max()).unwrap() < 1e-5);
        near(&output.tensor, &joined(&attend(&q, &k, &v, Mask::Open)));
        let found = gradients_again(inputs(), &random(4, 7));
        for (found, expected) in found.iter().zip(LibTorch::gradients(inputs(), kept, random(4, 7))) {
            near(&found.tensor, &expected.tensor);
        }
    }
}
