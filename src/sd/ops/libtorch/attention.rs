//! Attention in blocks: our own on the CPU, a card's kernel where it has one, and where it has none block by block.

use burn::backend::LibTorch;
use burn::backend::tensor::FloatTensor;
use burn_tch::TchTensor;
use tch::Tensor;

use crate::sd::ops::arguments::{AttentionInputs, Mask};
use crate::sd::ops::attention::AttentionKernel;
use crate::sd::ops::host::attention::{self, Extent};
use crate::sd::ops::host::attention_gradient;
use crate::sd::ops::libtorch::chunked_attention::Chunked;
use crate::sd::ops::libtorch::memory::{self, values};
use crate::sd::ops::libtorch::recorded::Recorded;

impl AttentionKernel for LibTorch {
    type Kept = Kept;

    fn forward(inputs: AttentionInputs<Self>) -> (FloatTensor<Self>, Option<Kept>) {
        let AttentionInputs { q, k, v, .. } = &inputs;
        let Some([q, k, v]) = dense([q, k, v]) else {
            return attend([q, k, v], inputs.heads, inputs.mask);
        };
        let mut sums = Vec::new();
        let [output] = memory::written([q.size()], |[output]| {
            sums = attention::forward(values(&q), values(&k), values(&v), output, extent(&inputs));
        });
        let output = TchTensor::new(output);
        (output.clone(), Some(Kept::Sums { output, sums }))
    }

    fn gradients(
        inputs: AttentionInputs<Self>,
        kept: Option<Kept>,
        output_gradient: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        let AttentionInputs { q, k, v, heads, mask } = &inputs;
        match kept {
            Some(Kept::Sums { output, sums }) => {
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
                memory::written(sizes, |gradients| attention_gradient::backward(of, extent(&inputs), gradients))
                    .map(TchTensor::new)
            }
            Some(Kept::Recorded { recorded, output }) => {
                let gradients = recorded.gradients(&by_head(&output_gradient, *heads));
                drop(output);
                gradients.map(|gradient| joined(&gradient))
            }
            None => {
                let inputs = [q, k, v].map(|x| by_head(x, *heads));
                let gradients = Chunked::new(inputs.each_ref(), *mask).gradients(&by_head(&output_gradient, *heads));
                gradients.map(|gradient| joined(&gradient))
            }
        }
    }
}

/// What the backward pass takes from the forward one, but for attention in blocks.
#[derive(Clone, Debug)]
pub(crate) enum Kept {
    /// Of our own: the output, and logarithms to base 2 of the sums of exponentials, `[batch, heads, tokens]`.
    Sums { output: TchTensor, sums: Vec<f32> },
    /// Of a kernel of libtorch's: what it wants to know again, and the output, lest what holds it alone write into it.
    Recorded { recorded: Recorded<3>, output: TchTensor },
}

/// By whichever of libtorch's kernels the device has, else in blocks.
fn attend(inputs: [&TchTensor; 3], heads: usize, mask: Mask) -> (TchTensor, Option<Kept>) {
    let inputs = inputs.map(|x| by_head(x, heads));
    if !has_kernel(&inputs, mask) {
        return (joined(&Chunked::new(inputs.each_ref(), mask).forward()), None);
    }
    let recorded = Recorded::new(inputs.each_ref(), |inputs| by_kernel(inputs, mask));
    let output = joined(&recorded.output());
    (output.clone(), Some(Kept::Recorded { recorded, output }))
}

/// What libtorch calls the way with all scores at once, which every device has (`SDPBackend` in ATen/SDPBackend.h).
const ALL_SCORES: i64 = 0;

fn has_kernel(inputs: &[Tensor; 3], mask: Mask) -> bool {
    // Some kernels have no backward pass for some widths, and say so only to who wants gradients.
    let [q, k, v] = inputs.each_ref().map(|x| x.detach().set_requires_grad(true));
    Tensor::internal_fused_sdp_choice(&q, &k, &v, None::<&Tensor>, 0.0, mask.is_causal(), None, false) != ALL_SCORES
}

fn by_kernel([q, k, v]: &[Tensor; 3], mask: Mask) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, mask.is_causal(), None, false)
}

/// `None` if the tensors are not f32 in main memory.
fn dense<const N: usize>(tensors: [&TchTensor; N]) -> Option<[Tensor; N]> {
    tensors.iter().all(|x| memory::is_host(&x.tensor)).then(|| tensors.map(|x| x.tensor.contiguous()))
}

fn extent(inputs: &AttentionInputs<LibTorch>) -> Extent {
    let sizes =
        |x: &TchTensor| <[i64; 3]>::try_from(x.tensor.size()).expect("attention gets three dimensions").map(|size| size as usize);
    Extent::of(sizes(&inputs.q), sizes(&inputs.k), inputs.heads, inputs.mask)
}

/// `[batch, tokens, heads · width]` as `[batch, heads, tokens, width]`.
fn by_head(x: &TchTensor, heads: usize) -> Tensor {
    let [batch, tokens, channels] = x.tensor.size().try_into().expect("attention gets three dimensions");
    let heads = heads as i64;
    x.tensor.reshape([batch, tokens, heads, channels / heads]).transpose(1, 2)
}

fn joined(x: &Tensor) -> TchTensor {
    let [batch, heads, tokens, width] = x.size().try_into().expect("heads make a fourth dimension");
    TchTensor::new(x.transpose(1, 2).reshape([batch, tokens, heads * width]))
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
        let near = |a: &TchTensor, b: &TchTensor| assert!(f64::try_from((&a.tensor - &b.tensor).abs().max()).unwrap() < 1e-5);
        for mask in [Mask::Open, Mask::Causal] {
            let inputs = || AttentionInputs { q: random(1, 7), k: random(2, 7), v: random(3, 7), heads: 3, mask };
            let (output, kept) = LibTorch::forward(inputs());
            assert!(matches!(kept, Some(Kept::Sums { .. })));
            let gradients = LibTorch::gradients(inputs(), kept, random(4, 7));
            let AttentionInputs { q, k, v, heads, mask } = inputs();
            let (by_kernel, recorded) = attend([&q, &k, &v], heads, mask);
            assert!(matches!(recorded, Some(Kept::Recorded { .. })), "libtorch has a kernel for the processor");
            near(&output, &by_kernel);
            for kept in [recorded, None] {
                for (found, expected) in LibTorch::gradients(inputs(), kept, random(4, 7)).iter().zip(&gradients) {
                    near(found, expected);
                }
            }
        }
    }

    #[test]
    fn nobody_writes_into_an_output_that_gradients_are_taken_from() {
        let x = TchTensor::new(Tensor::ones([1, 4, 6], (Kind::Float, Device::Cpu)));
        let (output, kept) = attend([&x, &x, &x], 2, Mask::Open);
        assert!(!output.can_mut());
        drop(kept);
        assert!(output.can_mut());
    }
}
