//! Attention for cards that have no kernel for it, as RDNA 2: blocks of queries one after the other, and never all scores (Rabe and Staats 2021).
//! Computes on any device of libtorch's. Unaware of who has which kernel.

use tch::{Kind, Tensor};

use crate::sd::ops::arguments::Mask;

/// Bytes of the scores of a block: small beside the weights, large enough to keep a card at work.
const BUDGET: i64 = 128 << 20;

/// The inputs, `[batch, heads, tokens, width]`, and which keys a query looks at.
pub(super) struct Chunked<'a> {
    q: &'a Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    mask: Mask,
    /// Queries of a block.
    rows: i64,
}

impl<'a> Chunked<'a> {
    pub(super) fn new([q, k, v]: [&'a Tensor; 3], mask: Mask) -> Self {
        let (size, keys) = (q.size(), k.size()[2]);
        // In f32, as the exponentials are.
        let rows = BUDGET / (4 * size[0] * size[1] * keys);
        Self { q, k, v, mask, rows: rows.clamp(1, size[2]) }
    }

    /// `softmax(q · kᵀ / √width) · v`.
    pub(super) fn forward(&self) -> Tensor {
        let blocks: Vec<Tensor> = self.blocks().map(|block| self.weights(block).matmul(self.v)).collect();
        Tensor::cat(&blocks, 2)
    }

    /// Gradients of `q`, `k` and `v`.
    pub(super) fn gradients(&self, output_gradient: &Tensor) -> [Tensor; 3] {
        let kind = self.q.kind();
        // Sums over all blocks: in f32.
        let zeros = |x: &Tensor| x.zeros_like().to_kind(wide(kind));
        let (mut of_k, mut of_v) = (zeros(self.k), zeros(self.v));
        let of_q: Vec<Tensor> = self
            .blocks()
            .map(|block| {
                let (first, count) = block;
                let (q, upstream) = (self.q.narrow(2, first, count), output_gradient.narrow(2, first, count));
                let weights = self.weights(block);
                of_v += weights.transpose(-2, -1).matmul(&upstream);
                // The derivative of a softmax: the weights times what each score's gradient is above their mean.
                let of_weights = upstream.matmul(&self.v.transpose(-2, -1)).to_kind(wide(kind));
                let weights = weights.to_kind(wide(kind));
                let mean = (&of_weights * &weights).sum_dim_intlist([-1i64].as_slice(), true, None);
                let of_scores = ((of_weights - mean) * weights * self.scale()).to_kind(kind);
                of_k += of_scores.transpose(-2, -1).matmul(&q);
                of_scores.matmul(self.k)
            })
            .collect();
        [Tensor::cat(&of_q, 2), of_k.to_kind(kind), of_v.to_kind(kind)]
    }

    /// First query and number of queries of each block.
    fn blocks(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let (rows, tokens) = (self.rows, self.q.size()[2]);
        (0..tokens).step_by(rows as usize).map(move |first| (first, rows.min(tokens - first)))
    }

    /// What each query of a block takes of each value: `[batch, heads, queries, keys]`.
    fn weights(&self, (first, count): (i64, i64)) -> Tensor {
        let kind = self.q.kind();
        // The scale goes in before the product, which might overflow in f16.
        let q = self.q.narrow(2, first, count) * self.scale();
        let mut scores = q.matmul(&self.k.transpose(-2, -1));
        if self.mask.is_causal() {
            let hidden = scores.ones_like().to_kind(Kind::Bool).triu(first + 1);
            scores = scores.masked_fill(&hidden, f64::NEG_INFINITY);
        }
        scores.softmax(-1, wide(kind)).to_kind(kind)
    }

    fn scale(&self) -> f64 {
        1.0 / (self.q.size()[3] as f64).sqrt()
    }
}

/// What exponentials and sums are taken in.
fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { kind } else { Kind::Float }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::sd::ops::libtorch::recorded::Recorded;

    fn wave(seed: f64, tokens: i64) -> Tensor {
        (Tensor::arange(2 * 3 * tokens * 8, (Kind::Double, Device::Cpu)) * (0.37 + seed)).sin().reshape([2, 3, tokens, 8]) * 3.0
    }

    fn far(a: &Tensor, b: &Tensor) -> f64 {
        f64::try_from((a - b).abs().max()).unwrap()
    }

    #[test]
    fn blocks_of_any_size_give_what_all_scores_at_once_give() {
        for (mask, keys) in [(Mask::Open, 7), (Mask::Causal, 11)] {
            let (q, k, v, upstream) = (wave(0.0, 11), wave(1.0, keys), wave(2.0, keys), wave(3.0, 11));
            let whole = |[q, k, v]: &[Tensor; 3]| {
                Tensor::scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, mask.is_causal(), None, false)
            };
            let recorded = Recorded::new([&q, &k, &v], whole);
            let expected = recorded.output();
            let gradients = recorded.gradients(&upstream);
            for rows in [1, 4, 11] {
                let chunked = Chunked { rows, ..Chunked::new([&q, &k, &v], mask) };
                assert!(far(&chunked.forward(), &expected) < 1e-6, "{mask:?}, {rows} rows");
                for (found, expected) in chunked.gradients(&upstream).iter().zip(&gradients) {
                    assert!(far(found, expected) < 1e-6, "{mask:?}, {rows} rows");
                }
            }
        }
    }

    #[test]
    fn a_block_keeps_to_its_budget() {
        let pixels = Tensor::zeros([1, 8, 4096, 1], (Kind::Half, Device::Cpu));
        assert_eq!(Chunked::new([&pixels; 3], Mask::Open).rows, 1024);
        let pixels = Tensor::zeros([1, 8, 64, 1], (Kind::Half, Device::Cpu));
        assert_eq!(Chunked::new([&pixels; 3], Mask::Open).rows, 64);
    }
}
