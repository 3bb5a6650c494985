//! Attention, backward: the weights are taken again, block by block, from the sums that the forward pass kept.
//!
//! With `p` the weights of a query: the gradient of its scores is `p · (dp - Σ p · dp)`, where `dp = output gradient · vᵀ`, and
//! `Σ p · dp = output · output gradient`.

use std::ops::Range;

use pulp::bytemuck::{cast_slice, cast_slice_mut};
use pulp::{Arch, Simd, WithSimd};

use crate::sd::ops::host::attention::{COPYING, Extent, KEYS, QUERIES, by_head, turn};
use crate::sd::ops::host::parallel::{collect, each_chunk};
use crate::sd::ops::host::power::exp2;
use crate::sd::ops::host::product::{columns, rows};

/// Queries that one task takes, so that a head keeps several threads busy.
const TASK: usize = 11 * QUERIES;

/// What the gradients are taken from; shapes as in [`super::attention::forward`].
pub(in crate::sd::ops) struct Inputs<'a> {
    pub(in crate::sd::ops) q: &'a [f32],
    pub(in crate::sd::ops) k: &'a [f32],
    pub(in crate::sd::ops) v: &'a [f32],
    pub(in crate::sd::ops) output: &'a [f32],
    pub(in crate::sd::ops) sums: &'a [f32],
    pub(in crate::sd::ops) output_gradient: &'a [f32],
}

/// Gradients of q, k and v, into slices as long as these.
pub(in crate::sd::ops) fn backward(inputs: Inputs, extent: Extent, gradients: [&mut [f32]; 3]) {
    let (k, v) = (by_head(inputs.k, &extent, extent.context_tokens), by_head(inputs.v, &extent, extent.context_tokens));
    let chunks = extent.tokens.div_ceil(TASK);
    let mut parts = collect(extent.batch * extent.heads * chunks, extent.work(5), |task| {
        let (of, chunk) = (task / chunks, task % chunks);
        let queries = chunk * TASK..((chunk + 1) * TASK).min(extent.tokens);
        Arch::new().dispatch(Head { inputs: &inputs, k: &k, v: &v, extent: &extent, of, queries })
    });
    for parts in parts.chunks_exact_mut(chunks) {
        let (first, more) = parts.split_first_mut().expect("there is at least one query");
        for part in more {
            for which in [1, 2] {
                first[which].iter_mut().zip(&part[which]).for_each(|(sum, part)| *sum += part);
            }
        }
    }
    let [q_gradient, k_gradient, v_gradient] = gradients;
    let part = |of: usize, chunk: usize, which: usize| &parts[of * chunks + chunk][which];
    side_by_side(q_gradient, &extent, extent.tokens, |of, token| {
        &part(of, token / TASK, 0)[token % TASK * extent.width..][..extent.width]
    });
    for (gradient, which) in [(k_gradient, 1), (v_gradient, 2)] {
        side_by_side(gradient, &extent, extent.context_tokens, |of, token| {
            &part(of, 0, which)[token * extent.width..][..extent.width]
        });
    }
}

/// Puts the rows of all heads side by side: `row(head of a picture, token)`.
fn side_by_side<'a>(into: &mut [f32], extent: &Extent, tokens: usize, row: impl Fn(usize, usize) -> &'a [f32] + Sync) {
    let work = COPYING * into.len();
    each_chunk(into, QUERIES * extent.channels(), work, |block, into| {
        for (place, into) in (block * QUERIES..).zip(into.chunks_exact_mut(extent.channels())) {
            let (picture, token) = (place / tokens, place % tokens);
            for (head, into) in into.chunks_exact_mut(extent.width).enumerate() {
                into.copy_from_slice(row(picture * extent.heads + head, token));
            }
        }
    });
}

/// Some queries of one head of one picture.
struct Head<'a> {
    inputs: &'a Inputs<'a>,
    k: &'a [f32],
    v: &'a [f32],
    extent: &'a Extent,
    of: usize,
    queries: Range<usize>,
}

impl WithSimd for Head<'_> {
    /// `[queries, width]`, and twice `[keys, width]`.
    type Output = [Vec<f32>; 3];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [Vec<f32>; 3] {
        let Self { inputs, k, v, extent, of, queries } = self;
        let (width, channels, head) = (extent.width, extent.channels(), of % extent.heads);
        let (picture, keys) = (of / extent.heads, extent.context_tokens);
        let (k, v) = (&k[of * keys * width..][..keys * width], &v[of * keys * width..][..keys * width]);
        let zero = simd.splat_f32s(0.0);
        // Rows of a head, with zeros behind so that they end with a vector.
        let depth = width.div_ceil(S::F32_LANES);
        let padded = depth * S::F32_LANES;
        let mut q_gradient = vec![0.0; queries.len() * width];
        let [mut k_gradient, mut v_gradient] = [(); 2].map(|()| vec![zero; keys * depth]);
        let scores = KEYS.min(keys) * QUERIES.min(queries.len()).div_ceil(S::F32_LANES);
        let [mut weights, mut slopes] = [(); 2].map(|()| vec![zero; scores]);
        for start in queries.clone().step_by(QUERIES) {
            let block = start..(start + QUERIES).min(queries.end);
            let vectors = block.len().div_ceil(S::F32_LANES);
            let span = vectors * S::F32_LANES;
            let of_block = (picture * extent.tokens + start) * channels..(picture * extent.tokens + block.end) * channels;
            let (q, upstream) = (&inputs.q[of_block.clone()], &inputs.output_gradient[of_block.clone()]);
            let [mut q_turned, mut upstream_turned, mut q_block_gradient] = [(); 3].map(|()| vec![zero; width * vectors]);
            turn(cast_slice_mut(&mut q_turned), q, extent, head, extent.exponent_scale());
            turn(cast_slice_mut(&mut upstream_turned), upstream, extent, head, 1.0);
            let [mut q_rows, mut upstream_rows] = [(); 2].map(|()| vec![zero; span * depth]);
            pad(cast_slice_mut(&mut q_rows), q, extent, head, padded);
            pad(cast_slice_mut(&mut upstream_rows), upstream, extent, head, padded);
            // Lanes beyond the block get weights of zero.
            let (mut sums, mut means) = (vec![f32::INFINITY; span], vec![0.0f32; span]);
            sums[..block.len()].copy_from_slice(&inputs.sums[of * extent.tokens..][block.clone()]);
            let both = inputs.output[of_block].chunks_exact(channels).zip(upstream.chunks_exact(channels));
            for (mean, (output, upstream)) in means.iter_mut().zip(both) {
                let both = output[head * width..][..width].iter().zip(&upstream[head * width..]);
                *mean = both.map(|(output, upstream)| output * upstream).sum();
            }
            let seen = extent.keys(&block);
            for key in (0..seen).step_by(KEYS) {
                let count = KEYS.min(seen - key);
                let (weights, slopes) = (&mut weights[..count * vectors], &mut slopes[..count * vectors]);
                rows::<S, false>(simd, weights, &k[key * width..], width, &q_turned, vectors, width);
                rows::<S, false>(simd, slopes, &v[key * width..], width, &upstream_turned, vectors, width);
                let plain: &mut [f32] = cast_slice_mut(weights);
                extent.hide(plain, &block, key, span);
                weigh(plain, cast_slice_mut(slopes), &sums, &means);
                columns(simd, &mut q_block_gradient, &k[key * width..], width, slopes, vectors, count);
                let part = key * depth..(key + count) * depth;
                rows::<S, true>(simd, &mut v_gradient[part.clone()], cast_slice(weights), span, &upstream_rows, depth, span);
                rows::<S, true>(simd, &mut k_gradient[part], cast_slice(slopes), span, &q_rows, depth, span);
            }
            let block_gradient: &[f32] = cast_slice(&q_block_gradient);
            for (i, row) in q_gradient[(start - queries.start) * width..].chunks_exact_mut(width).take(block.len()).enumerate() {
                for (d, value) in row.iter_mut().enumerate() {
                    *value = block_gradient[d * span + i] * extent.scale();
                }
            }
        }
        let dense = |rows: &[S::f32s], scale: f32| {
            let rows = cast_slice::<_, f32>(rows).chunks_exact(padded);
            rows.flat_map(|row| &row[..width]).map(|value| value * scale).collect()
        };
        [q_gradient, dense(&k_gradient, extent.scale()), dense(&v_gradient, 1.0)]
    }
}

/// Turns scores into weights, and gradients of the weights into gradients of the scores, but for their scale.
#[inline(always)]
fn weigh(weights: &mut [f32], slopes: &mut [f32], sums: &[f32], means: &[f32]) {
    let span = sums.len();
    for (weights, slopes) in weights.chunks_exact_mut(span).zip(slopes.chunks_exact_mut(span)) {
        for (((weight, slope), sum), mean) in weights.iter_mut().zip(slopes).zip(sums).zip(means) {
            *weight = exp2(*weight - *sum);
            *slope = *weight * (*slope - *mean);
        }
    }
}

/// One head of some rows: `[rows, heads · width]` to `[rows, padded]`; what is beyond the width stays as it is.
#[inline(always)]
fn pad(into: &mut [f32], x: &[f32], extent: &Extent, head: usize, padded: usize) {
    for (into, row) in into.chunks_exact_mut(padded).zip(x.chunks_exact(extent.channels())) {
        into[..extent.width].copy_from_slice(&row[head * extent.width..][..extent.width]);
    }
}
