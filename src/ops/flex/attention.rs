//! Attention in blocks of queries: the scores of a block against all keys fit a cache and are gone after it.
//!
//! One task is one head of one picture. Its blocks follow one another, so that the gradients of keys and values add up in a
//! fixed order.

use std::ops::Range;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;

use crate::ops::attention::{Inputs, Mask};
use crate::ops::flex::buffer::{
    View, dense, dims, from_values, into_values, product, product_transposed, transposed_product, values, view,
};
use crate::ops::flex::parallel::collect;
use crate::ops::flex::simd::{exp, max, sum, vectorized};

/// Scores of one block: 1 MiB, in a usual L2 cache.
const BLOCK: usize = 1 << 18;
/// Floating-point operations for the softmax of one score, about.
const SOFTMAX_WORK: usize = 24;

struct Extent {
    batch: usize,
    tokens: usize,
    context_tokens: usize,
    heads: usize,
    /// Of one head.
    width: usize,
    mask: Mask,
}

impl Extent {
    fn of(q: &FlexTensor, k: &FlexTensor, heads: usize, mask: Mask) -> Self {
        let [batch, tokens, channels] = [dims(q)[0], dims(q)[1], dims(q)[2]];
        Self { batch, tokens, context_tokens: dims(k)[1], heads, width: channels / heads, mask }
    }

    fn tasks(&self) -> usize {
        self.batch * self.heads
    }

    fn work(&self, products: usize) -> usize {
        let scores = self.tasks() * self.tokens * self.context_tokens;
        scores * (2 * products * self.width + SOFTMAX_WORK)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// The queries of each block.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (tokens, rows) = (self.tokens, (BLOCK / self.context_tokens).clamp(1, self.tokens));
        (0..tokens).step_by(rows).map(move |first| first..(first + rows).min(tokens))
    }

    /// The part of a `[batch, tokens, heads · width]` tensor that a task works on.
    fn head(&self, task: usize, tokens: usize, rows: Range<usize>) -> View {
        let (batch, head) = (task / self.heads, task % self.heads);
        let channels = self.heads * self.width;
        View {
            offset: (batch * tokens + rows.start) * channels + head * self.width,
            rows: rows.len(),
            columns: self.width,
            row_stride: channels,
        }
    }

    /// How many keys, from the first, a query looks at.
    fn visible(&self, query: usize) -> usize {
        match self.mask {
            Mask::Open => self.context_tokens,
            Mask::Causal => (query + 1).min(self.context_tokens),
        }
    }

    /// Puts the results of all tasks side by side again: `[batch, tokens, heads · width]`.
    fn gather(&self, parts: &[Vec<f32>], tokens: usize) -> FlexTensor {
        let mut joined = Vec::with_capacity(self.batch * tokens * self.heads * self.width);
        for heads in parts.chunks(self.heads) {
            for token in 0..tokens {
                for part in heads {
                    joined.extend_from_slice(&part[token * self.width..][..self.width]);
                }
            }
        }
        from_values(joined, [self.batch, tokens, self.heads * self.width])
    }
}

pub(in crate::ops) fn forward(inputs: Inputs<Flex>) -> FlexTensor {
    let Inputs { q, k, v, heads, mask } = inputs;
    let (q, k, v) = (dense(q), dense(k), dense(v));
    let extent = Extent::of(&q, &k, heads, mask);
    let outputs = collect(extent.tasks(), extent.work(2), |task| {
        let k = view(&k, extent.head(task, extent.context_tokens, 0..extent.context_tokens));
        let v = view(&v, extent.head(task, extent.context_tokens, 0..extent.context_tokens));
        let mut output = Vec::with_capacity(extent.tokens * extent.width);
        for block in extent.blocks() {
            let q = view(&q, extent.head(task, extent.tokens, block.clone()));
            let mut weights = into_values(product_transposed(&q, &k));
            softmax(&mut weights, &extent, block.clone());
            let weights = from_values(weights, [block.len(), extent.context_tokens]);
            output.extend_from_slice(values(&product(&weights, &v)));
        }
        output
    });
    extent.gather(&outputs, extent.tokens)
}

/// With `p` the softmax of a row: the gradient of its scores is `p · (dp - Σ p · dp)`, where `dp = output gradient · vᵀ`.
pub(in crate::ops) fn gradients(inputs: Inputs<Flex>, output_gradient: FlexTensor) -> [FlexTensor; 3] {
    let Inputs { q, k, v, heads, mask } = inputs;
    let (q, k, v, output_gradient) = (dense(q), dense(k), dense(v), dense(output_gradient));
    let extent = Extent::of(&q, &k, heads, mask);
    let gradients = collect(extent.tasks(), extent.work(5), |task| {
        let k = view(&k, extent.head(task, extent.context_tokens, 0..extent.context_tokens));
        let v = view(&v, extent.head(task, extent.context_tokens, 0..extent.context_tokens));
        let mut q_gradient = Vec::with_capacity(extent.tokens * extent.width);
        let mut k_gradient = vec![0.0; extent.context_tokens * extent.width];
        let mut v_gradient = vec![0.0; extent.context_tokens * extent.width];
        for block in extent.blocks() {
            let q = view(&q, extent.head(task, extent.tokens, block.clone()));
            let upstream = view(&output_gradient, extent.head(task, extent.tokens, block.clone()));
            let mut weights = into_values(product_transposed(&q, &k));
            softmax(&mut weights, &extent, block.clone());
            let mut scores_gradient = into_values(product_transposed(&upstream, &v));
            softmax_gradient(&weights, &mut scores_gradient, &extent);
            let shape = [block.len(), extent.context_tokens];
            let (weights, scores_gradient) = (from_values(weights, shape), from_values(scores_gradient, shape));
            q_gradient.extend_from_slice(values(&product(&scores_gradient, &k)));
            add(&mut k_gradient, values(&transposed_product(&scores_gradient, &q)));
            add(&mut v_gradient, values(&transposed_product(&weights, &upstream)));
        }
        [q_gradient, k_gradient, v_gradient]
    });
    let [mut q_parts, mut k_parts, mut v_parts] = [Vec::new(), Vec::new(), Vec::new()];
    for [q, k, v] in gradients {
        q_parts.push(q);
        k_parts.push(k);
        v_parts.push(v);
    }
    [
        extent.gather(&q_parts, extent.tokens),
        extent.gather(&k_parts, extent.context_tokens),
        extent.gather(&v_parts, extent.context_tokens),
    ]
}

vectorized! {
    /// Turns rows of unscaled scores into weights that sum to 1.
    fn softmax<'a>(scores: &'a mut [f32], extent: &'a Extent, block: Range<usize>) {
        let scale = extent.scale();
        for (row, query) in scores.chunks_exact_mut(extent.context_tokens).zip(block) {
            let (row, hidden) = row.split_at_mut(extent.visible(query));
            hidden.fill(0.0);
            let greatest = max(row);
            for score in &mut *row {
                *score = exp((*score - greatest) * scale);
            }
            let inverse = 1.0 / sum(row.len(), |i| row[i]);
            for weight in row {
                *weight *= inverse;
            }
        }
    }
}

vectorized! {
    /// Turns rows of gradients of the weights into gradients of the unscaled scores.
    fn softmax_gradient<'a>(weights: &'a [f32], gradients: &'a mut [f32], extent: &'a Extent) {
        let (scale, width) = (extent.scale(), extent.context_tokens);
        for (weights, gradients) in weights.chunks_exact(width).zip(gradients.chunks_exact_mut(width)) {
            let mean = sum(width, |i| weights[i] * gradients[i]);
            for (gradient, weight) in gradients.iter_mut().zip(weights) {
                *gradient = weight * (*gradient - mean) * scale;
            }
        }
    }
}

vectorized! {
    fn add<'a>(total: &'a mut [f32], part: &'a [f32]) {
        for (total, part) in total.iter_mut().zip(part) {
            *total += part;
        }
    }
}
