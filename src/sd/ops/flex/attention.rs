//! Attention by the arithmetic on slices: tensors of the backend in and out.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use crate::sd::ops::arguments::AttentionInputs;
use crate::sd::ops::attention::AttentionKernel;
use crate::sd::ops::flex::buffer::{dense, dims, from_values, values};
use crate::sd::ops::host::attention::{self, Extent};
use crate::sd::ops::host::attention_gradient;

/// The output, and logarithms to base 2 of the sums of exponentials: `[batch, heads, tokens]`.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    output: FlexTensor,
    sums: Vec<f32>,
}

impl AttentionKernel for Flex {
    type Kept = Kept;

    fn forward(inputs: AttentionInputs<Flex>) -> (FlexTensor, Option<Kept>) {
        let extent = extent(&inputs);
        let AttentionInputs { q, k, v, .. } = inputs;
        let (q, k, v) = (dense(q), dense(k), dense(v));
        let mut output = vec![0.0; values(&q).len()];
        let sums = attention::forward(values(&q), values(&k), values(&v), &mut output, extent);
        let output = from_values(output, dims(&q).to_vec());
        (output.clone(), Some(Kept { output, sums }))
    }

    fn gradients(inputs: AttentionInputs<Flex>, kept: Option<Kept>, output_gradient: FlexTensor) -> [FlexTensor; 3] {
        let kept = kept.expect("the forward pass keeps output and sums");
        let extent = extent(&inputs);
        let AttentionInputs { q, k, v, .. } = inputs;
        let (q, k, v, output_gradient) = (dense(q), dense(k), dense(v), dense(output_gradient));
        let of = attention_gradient::Inputs {
            q: values(&q),
            k: values(&k),
            v: values(&v),
            output: values(&kept.output),
            sums: &kept.sums,
            output_gradient: values(&output_gradient),
        };
        let [mut q_gradient, mut k_gradient, mut v_gradient] = [&q, &k, &v].map(|x| vec![0.0; values(x).len()]);
        attention_gradient::backward(of, extent, [&mut q_gradient, &mut k_gradient, &mut v_gradient]);
        [(q_gradient, q), (k_gradient, k), (v_gradient, v)].map(|(gradient, of)| from_values(gradient, dims(&of).to_vec()))
    }
}

fn extent(inputs: &AttentionInputs<Flex>) -> Extent {
    let sizes = |x: &FlexTensor| dims(x).try_into().expect("attention gets three dimensions");
    Extent::of(sizes(&inputs.q), sizes(&inputs.k), inputs.heads, inputs.mask)
}
