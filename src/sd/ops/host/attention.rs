//! Attention, forward: blocks of queries against blocks of keys (Dao et al. 2022), never with all scores at once.
//!
//! A block of scores has a row for each key and a lane for each query, so that no sum and no maximum runs across a vector.

use std::ops::Range;

use pulp::bytemuck::{cast_slice, cast_slice_mut};
use pulp::{Arch, Simd, WithSimd};

use crate::sd::ops::arguments::Mask;
use crate::sd::ops::host::parallel::{each_chunk, map};
use crate::sd::ops::host::power::exp2;
use crate::sd::ops::host::product::{columns, rows};

/// Queries of a block: twelve vectors of AVX-512.
pub(super) const QUERIES: usize = 192;
/// Keys of a block. With its queries: 96 KiB of scores.
pub(super) const KEYS: usize = 128;

/// Floating-point operations for a number that is copied, about.
pub(super) const COPYING: usize = 4;

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub(in crate::sd::ops) struct Extent {
    pub(in crate::sd::ops) batch: usize,
    pub(in crate::sd::ops) tokens: usize,
    pub(in crate::sd::ops) context_tokens: usize,
    pub(in crate::sd::ops) heads: usize,
    /// Of one head.
    pub(in crate::sd::ops) width: usize,
    pub(in crate::sd::ops) mask: Mask,
}

impl Extent {
    /// - `q`: `[batch, tokens, heads · width]`
    /// - `k`: `[batch, context_tokens, heads · width]`
    pub(in crate::sd::ops) fn of([batch, tokens, channels]: [usize; 3], k: [usize; 3], heads: usize, mask: Mask) -> Self {
        Self { batch, tokens, context_tokens: k[1], heads, width: channels / heads, mask }
    }

    pub(super) fn channels(&self) -> usize {
        self.heads * self.width
    }

    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Exponentials are taken to base 2: from a product to such an exponent.
    pub(super) fn exponent_scale(&self) -> f32 {
        std::f32::consts::LOG2_E * self.scale()
    }

    /// Floating-point operations of attention with so many products of `width` numbers for each score, about.
    pub(super) fn work(&self, products: usize) -> usize {
        const EXPONENTIAL: usize = 24;
        self.batch * self.heads * self.tokens * self.context_tokens * (2 * products * self.width + EXPONENTIAL)
    }

    /// How many keys, from the first, any query of a block looks at.
    pub(super) fn keys(&self, block: &Range<usize>) -> usize {
        match self.mask {
            Mask::Open => self.context_tokens,
            Mask::Causal => block.end.min(self.context_tokens),
        }
    }

    /// Puts out of reach what a query may not look at, in scores of `span` lanes.
    #[inline(always)]
    pub(super) fn hide(&self, scores: &mut [f32], block: &Range<usize>, first_key: usize, span: usize) {
        if self.mask.is_causal() {
            for (key, row) in (first_key..).zip(scores.chunks_exact_mut(span)) {
                let hidden = key.saturating_sub(block.start).min(block.len());
                row[..hidden].fill(f32::NEG_INFINITY);
            }
        }
    }
}

/// The rows of each head of each picture together: `[batch, tokens, heads · width]` to `[batch, heads, tokens, width]`.
pub(super) fn by_head(x: &[f32], extent: &Extent, tokens: usize) -> Vec<f32> {
    let mut heads = vec![0.0; x.len()];
    each_chunk(&mut heads, tokens * extent.width, COPYING * x.len(), |of, rows| {
        let (batch, head) = (of / extent.heads, of % extent.heads);
        let picture = &x[batch * tokens * extent.channels()..][..tokens * extent.channels()];
        for (row, token) in rows.chunks_exact_mut(extent.width).zip(picture.chunks_exact(extent.channels())) {
            row.copy_from_slice(&token[head * extent.width..][..extent.width]);
        }
    });
    heads
}

/// `softmax(q · kᵀ / √width) · v` into `output`. Returns of each query the logarithm, to base 2, of the sum of its exponentials:
/// `[batch, heads, tokens]`.
///
/// - `q`, `output`: `[batch, tokens, heads · width]`
/// - `k`, `v`: `[batch, context_tokens, heads · width]`
pub(in crate::sd::ops) fn forward(q: &[f32], k: &[f32], v: &[f32], output: &mut [f32], extent: Extent) -> Vec<f32> {
    let (k, v) = (by_head(k, &extent, extent.context_tokens), by_head(v, &extent, extent.context_tokens));
    let of_picture = extent.tokens * extent.channels();
    let mut blocks = Vec::new();
    for (picture, output) in output.chunks_exact_mut(of_picture).enumerate() {
        for (block, output) in output.chunks_mut(QUERIES * extent.channels()).enumerate() {
            blocks.push((picture, block * QUERIES, output));
        }
    }
    let by_block = map(blocks, extent.work(2), |(picture, first, output)| {
        let queries = first..(first + QUERIES).min(extent.tokens);
        let q = &q[picture * of_picture + first * extent.channels()..][..output.len()];
        Arch::new().dispatch(Block { q, k: &k, v: &v, extent: &extent, picture, queries, output })
    });
    let mut sums = Vec::with_capacity(extent.batch * extent.heads * extent.tokens);
    for of_picture in by_block.chunks_exact(extent.tokens.div_ceil(QUERIES)) {
        for head in 0..extent.heads {
            for block in of_picture {
                let queries = block.len() / extent.heads;
                sums.extend_from_slice(&block[head * queries..][..queries]);
            }
        }
    }
    sums
}

/// Some queries of a picture, all heads.
struct Block<'a> {
    /// `[queries, heads · width]`.
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    extent: &'a Extent,
    picture: usize,
    queries: Range<usize>,
    /// `[queries, heads · width]`.
    output: &'a mut [f32],
}

impl WithSimd for Block<'_> {
    /// Of each head, of each query: the logarithm of the sum.
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { q, k, v, extent, picture, queries, output } = self;
        let (width, vectors) = (extent.width, queries.len().div_ceil(S::F32_LANES));
        let span = vectors * S::F32_LANES;
        let zero = simd.splat_f32s(0.0);
        let [mut turned, mut values] = [(); 2].map(|()| vec![zero; width * vectors]);
        let mut scores = vec![zero; KEYS.min(extent.context_tokens) * vectors];
        let [mut greatest, mut totals, mut shrink] = [(); 3].map(|()| vec![0.0f32; span]);
        let mut sums = Vec::with_capacity(extent.heads * queries.len());
        for head in 0..extent.heads {
            let of = (picture * extent.heads + head) * extent.context_tokens * width;
            let (k, v) = (&k[of..][..extent.context_tokens * width], &v[of..][..extent.context_tokens * width]);
            turn(cast_slice_mut(&mut turned), q, extent, head, extent.exponent_scale());
            values.fill(zero);
            greatest.fill(f32::NEG_INFINITY);
            totals.fill(0.0);
            let keys = extent.keys(&queries);
            for key in (0..keys).step_by(KEYS) {
                let count = KEYS.min(keys - key);
                let scores = &mut scores[..count * vectors];
                rows::<S, false>(simd, scores, &k[key * width..], width, &turned, vectors, width);
                let plain: &mut [f32] = cast_slice_mut(scores);
                extent.hide(plain, &queries, key, span);
                weigh(plain, &mut greatest, &mut totals, &mut shrink);
                for row in cast_slice_mut::<_, f32>(&mut values[..]).chunks_exact_mut(span) {
                    for (value, shrink) in row.iter_mut().zip(&shrink) {
                        *value *= *shrink;
                    }
                }
                columns(simd, &mut values, &v[key * width..], width, scores, vectors, count);
            }
            let values: &[f32] = cast_slice(&values);
            for (i, row) in output.chunks_exact_mut(extent.channels()).enumerate() {
                let inverse = 1.0 / totals[i];
                for (d, value) in row[head * width..][..width].iter_mut().enumerate() {
                    *value = values[d * span + i] * inverse;
                }
            }
            sums.extend(greatest.iter().zip(&totals).take(queries.len()).map(|(greatest, total)| greatest + total.log2()));
        }
        sums
    }
}

/// Turns scores into weights relative to the greatest score so far, and adds them to the totals; `shrink` is what earlier ones are worth
/// beside them.
#[inline(always)]
fn weigh(scores: &mut [f32], greatest: &mut [f32], totals: &mut [f32], shrink: &mut [f32]) {
    let span = greatest.len();
    shrink.copy_from_slice(greatest);
    for row in scores.chunks_exact(span) {
        for (greatest, score) in greatest.iter_mut().zip(row) {
            *greatest = if *score > *greatest { *score } else { *greatest };
        }
    }
    for ((shrink, greatest), total) in shrink.iter_mut().zip(&*greatest).zip(&mut *totals) {
        *shrink = exp2(*shrink - *greatest);
        *total *= *shrink;
    }
    for row in scores.chunks_exact_mut(span) {
        for ((score, greatest), total) in row.iter_mut().zip(&*greatest).zip(&mut *totals) {
            *score = exp2(*score - *greatest);
            *total += *score;
        }
    }
}

/// One head of some rows as columns, times `scale`: `[rows, heads · width]` to `[width, span]`. Lanes beyond the rows stay as they are.
#[inline(always)]
pub(super) fn turn(into: &mut [f32], x: &[f32], extent: &Extent, head: usize, scale: f32) {
    let span = into.len() / extent.width;
    for (i, row) in x.chunks_exact(extent.channels()).enumerate() {
        for (d, value) in row[head * extent.width..][..extent.width].iter().enumerate() {
            into[d * span + i] = value * scale;
        }
    }
}
