//! Attention in blocks: our own on the CPU, a card's kernel where it has one, and where it has none block by block.

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;
use tch::Tensor;

use crate::ops::attention::{AttentionKernel, Inputs, Mask};
use crate::ops::host::attention::{self, Extent};
use crate::ops::host::attention_gradient;
use crate::ops::libtorch::chunked_attention::Chunked;
use crate::ops::libtorch::memory::{self, values};
use crate::ops::libtorch::recompute;

impl AttentionKernel for LibTorch {
    /// What our own backward pass takes from the forward one; libtorch's kernels run again.
    type Kept = Option<Kept>;

    fn forward(inputs: Inputs<Self>) -> (FloatTensor<Self>, Option<Kept>) {
        let Inputs { q, k, v, .. } = &inputs;
        let Some([q, k, v]) = dense([q, k, v]) else {
            return (TchTensor::new(attend([&q.tensor, &k.tensor, &v.tensor], inputs.heads, inputs.mask)), None);
        };
        let mut sums = Vec::new();
        let [output] = memory::written([q.size()], |[output]| {
            sums = attention::forward(values(&q), values(&k), values(&v), output, extent(&inputs));
        });
        let output = TchTensor::new(output);
        (output.clone(), Some(Kept { output, sums }))
    }

    fn gradients(inputs: Inputs<Self>, kept: Option<Kept>, output_gradient: FloatTensor<Self>) -> [FloatTensor<Self>; 3] {
        let Inputs { q, k, v, heads, mask } = &inputs;
        let Some(Kept { output, sums }) = kept else {
            return attend_gradients([&q.tensor, &k.tensor, &v.tensor], *heads, *mask, &output_gradient.tensor)
                .map(TchTensor::new);
        };
        let [q, k, v, output, output_gradient] =
            dense([q, k, v, &output, &output_gradient]).expect("the forward pass took the same tensors");
        let of = attention_gradient::Inputs {
            q: values(&q),
            k: values(&k),
            v: values(&v),
            output: values(&output),
            sums: &sums,
            output_gradient: values(&output_gradient),
        };
        let sizes = [q.size(), k.size(), v.size()];
        memory::written(sizes, |gradients| attention_gradient::backward(of, extent(&inputs), gradients)).map(TchTensor::new)
    }
}

/// The output, and logarithms to base 2 of the sums of exponentials: `[batch, heads, tokens]`.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    output: TchTensor,
    sums: Vec<f32>,
}

/// By whichever of libtorch's kernels the device has, else in blocks.
fn attend(inputs: [&Tensor; 3], heads: usize, mask: Mask) -> Tensor {
    let inputs = inputs.map(|x| by_head(x, heads));
    joined(&if has_kernel(&inputs, mask) { by_kernel(&inputs, mask) } else { Chunked::new(inputs.each_ref(), mask).forward() })
}

fn attend_gradients(inputs: [&Tensor; 3], heads: usize, mask: Mask, output_gradient: &Tensor) -> [Tensor; 3] {
    let (inputs, output_gradient) = (inputs.map(|x| by_head(x, heads)), by_head(output_gradient, heads));
    let gradients = match has_kernel(&inputs, mask) {
        true => recompute::gradients(inputs.each_ref(), &output_gradient, |inputs| by_kernel(inputs, mask)),
        false => Chunked::new(inputs.each_ref(), mask).gradients(&output_gradient),
    };
    gradients.map(|gradient| joined(&gradient))
}

/// What libtorch calls the way with all scores at once, which every device has (`SDPBackend` in ATen/SDPBackend.h).
const ALL_SCORES: i64 = 0;

fn has_kernel([q, k, v]: &[Tensor; 3], mask: Mask) -> bool {
    Tensor::internal_fused_sdp_choice(q, k, v, None::<&Tensor>, 0.0, mask == Mask::Causal, None, false) != ALL_SCORES
}

fn by_kernel([q, k, v]: &[Tensor; 3], mask: Mask) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, mask == Mask::Causal, None, false)
}

/// `None` if the tensors are not f32 in main memory.
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
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn what_cards_compute_is_what_the_processor_computes() {
        let random = |seed: i64, tokens: i64| {
            let numbers = Tensor::arange(2 * tokens * 24, (Kind::Float, Device::Cpu)) * (0.37 + seed as f64);
            TchTensor::new(numbers.sin().reshape([2, tokens, 24]))
        };
        let inputs = || Inputs { q: random(1, 7), k: random(2, 5), v: random(3, 5), heads: 3, mask: Mask::Open };
        let (output, kept) = LibTorch::forward(inputs());
        assert!(kept.is_some());
        let near = |a: &Tensor, b: &Tensor| assert!(f64::try_from((a - b).abs().max()).unwrap() < 1e-5);
        let Inputs { q, k, v, heads, mask } = inputs();
        near(&output.tensor, &attend([&q.tensor, &k.tensor, &v.tensor], heads, mask));
        let found = LibTorch::gradients(inputs(), None, random(4, 7));
        for (found, expected) in found.iter().zip(LibTorch::gradients(inputs(), kept, random(4, 7))) {
            near(&found.tensor, &expected.tensor);
        }
    }
}
