//! Attention in blocks of queries, one after the other, and never all scores (Rabe and Staats 2021). The scores are taken again for the derivative.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, TensorData};

use crate::sd::ops::arguments::{AttentionInputs, Mask};
use crate::sd::ops::generic::values::Values;

/// Bytes of the scores of a block: small beside the weights, large enough to keep a card at work.
const BUDGET: usize = 128 << 20;

/// Added to a score that a query may not look at. Not infinity, which not every driver carries on: its exponential is 0 as well.
const HIDDEN: f32 = -1e30;

pub(in crate::sd::ops) fn forward<B: Backend>(inputs: AttentionInputs<B>) -> FloatTensor<B> {
    Chunked::new(inputs).forward()
}

/// Gradients of `q`, `k` and `v`.
pub(in crate::sd::ops) fn gradients<B: Backend>(
    inputs: AttentionInputs<B>,
    output_gradient: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    Chunked::new(inputs).gradients(output_gradient)
}

struct Chunked<B: Backend> {
    /// `[batch, heads, tokens, width]`.
    q: Values<B>,
    /// `[batch, heads, context_tokens, width]`.
    k: Values<B>,
    v: Values<B>,
    mask: Mask,
    /// Queries of a block.
    rows: usize,
}

/// First query and number of queries.
type Block = (usize, usize);

impl<B: Backend> Chunked<B> {
    fn new(inputs: AttentionInputs<B>) -> Self {
        let AttentionInputs { q, k, v, heads, mask } = inputs;
        let [q, k, v] = [q, k, v].map(|x| by_head(Values::<B>(x), heads));
        let ([batch, _, tokens, _], [_, _, keys, _]) = (q.sizes(), k.sizes());
        // In f32, as the exponentials are.
        let rows = (BUDGET / (size_of::<f32>() * batch * heads * keys)).clamp(1, tokens);
        Self { q, k, v, mask, rows }
    }

    /// `softmax(q · kᵀ / √width) · v`.
    fn forward(&self) -> FloatTensor<B> {
        let dtype = self.q.dtype();
        let blocks = self.blocks().map(|block| self.weights(block).to(dtype).matmul(self.v.clone()));
        joined(Values::joined(blocks.collect(), 2)).0
    }

    fn gradients(&self, output_gradient: FloatTensor<B>) -> [FloatTensor<B>; 3] {
        let ([_, heads, _, _], dtype) = (self.q.sizes::<4>(), self.q.dtype());
        let upstream = by_head(Values(output_gradient), heads);
        // Sums over all blocks.
        let [mut of_k, mut of_v] = [None, None];
        let mut of_q = Vec::new();
        for block in self.blocks() {
            let (first, count) = block;
            let (q, upstream) = (self.q.clone().narrow(2, first, count), upstream.clone().narrow(2, first, count));
            let weights = self.weights(block);
            add(&mut of_v, weights.clone().to(dtype).transpose().matmul(upstream.clone()));
            // The derivative of a softmax: the weights times what each score's gradient is above their mean.
            let of_weights = upstream.matmul(self.v.clone().transpose()).wide();
            let mean = (of_weights.clone() * weights.clone()).sum(&[3]);
            let of_scores = ((of_weights - mean) * weights * self.scale()).to(dtype);
            add(&mut of_k, of_scores.clone().transpose().matmul(q));
            of_q.push(of_scores.matmul(self.k.clone()));
        }
        let sum = |total: Option<Values<B>>| total.expect("there is at least one query").to(dtype);
        [Values::joined(of_q, 2), sum(of_k), sum(of_v)].map(|gradient| joined(gradient).0)
    }

    fn blocks(&self) -> impl Iterator<Item = Block> + use<B> {
        let ([_, _, tokens, _], rows) = (self.q.sizes(), self.rows);
        (0..tokens).step_by(rows).map(move |first| (first, rows.min(tokens - first)))
    }

    /// What each query of a block takes of each value, in f32: `[batch, heads, queries, keys]`.
    fn weights(&self, block: Block) -> Values<B> {
        let (first, count) = block;
        // The scale goes in before the product, which might overflow in f16.
        let q = self.q.clone().narrow(2, first, count) * self.scale();
        let mut scores = q.matmul(self.k.clone().transpose()).wide();
        if self.mask.is_causal() {
            scores = scores + self.hidden(block);
        }
        let shares = (scores.clone() - scores.greatest()).exp();
        shares.clone() * shares.sum(&[3]).reciprocal()
    }

    /// What to add to the scores of a block: `[1, 1, queries, keys]`.
    fn hidden(&self, (first, count): Block) -> Values<B> {
        let [_, _, keys, _] = self.k.sizes();
        let of_query = |query| (0..keys).map(move |key| if key > query { HIDDEN } else { 0.0 });
        let values: Vec<f32> = (first..first + count).flat_map(of_query).collect();
        let mask = B::float_from_data(TensorData::new(values, [1, 1, count, keys]), &self.q.0.device());
        Values(mask).to(if self.q.dtype() == DType::F64 { DType::F64 } else { DType::F32 })
    }

    fn scale(&self) -> f64 {
        let [_, _, _, width] = self.q.sizes();
        1.0 / (width as f64).sqrt()
    }
}

fn add<B: Backend>(total: &mut Option<Values<B>>, part: Values<B>) {
    let part = part.wide();
    *total = Some(match total.take() {
        Some(total) => total + part,
        None => part,
    });
}

/// `[batch, tokens, heads · width]` as `[batch, heads, tokens, width]`.
fn by_head<B: Backend>(x: Values<B>, heads: usize) -> Values<B> {
    let [batch, tokens, channels] = x.sizes();
    x.reshape([batch, tokens, heads, channels / heads]).swap(1, 2)
}

fn joined<B: Backend>(x: Values<B>) -> Values<B> {
    let [batch, heads, tokens, width] = x.sizes();
    x.swap(1, 2).reshape([batch, tokens, heads * width])
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::sd::ops::generic::tests::{assert_near, wave};

    fn inputs(tokens: usize, keys: usize, mask: Mask) -> AttentionInputs<Flex> {
        AttentionInputs { q: wave(0, &[2, tokens, 24]), k: wave(1, &[2, keys, 24]), v: wave(2, &[2, keys, 24]), heads: 3, mask }
    }

    #[test]
    fn blocks_of_any_size_give_what_all_scores_at_once_give() {
        for (mask, keys) in [(Mask::Open, 7), (Mask::Causal, 11)] {
            let whole = Chunked::new(inputs(11, keys, mask));
            assert_eq!(whole.rows, 11);
            let upstream = wave(3, &[2, 11, 24]);
            for rows in [1, 4] {
                let chunked = Chunked { rows, ..Chunked::new(inputs(11, keys, mask)) };
                assert_near(&chunked.forward(), &whole.forward());
                let gradients = chunked.gradients(upstream.clone());
                for (found, expected) in gradients.iter().zip(&whole.gradients(upstream.clone())) {
                    assert_near(found, expected);
                }
            }
        }
    }

    #[test]
    fn a_block_keeps_to_its_budget() {
        let pixels = |tokens| Chunked::<Flex>::new(AttentionInputs { heads: 8, ..inputs_of(tokens) });
        assert_eq!(pixels(4096).rows, 1024);
        assert_eq!(pixels(64).rows, 64);
    }

    fn inputs_of(tokens: usize) -> AttentionInputs<Flex> {
        let x = wave(0, &[1, tokens, 8]);
        AttentionInputs { q: x.clone(), k: x.clone(), v: x, heads: 1, mask: Mask::Open }
    }
}
