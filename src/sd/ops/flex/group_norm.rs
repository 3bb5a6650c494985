//! Group normalisation, SiLU on top, and the derivative of both.
//!
//! Channels lie side by side, so every loop runs along them. A picture is taken in blocks of rows that fit a cache; sums of
//! blocks are joined in f64 and in order.

use burn::backend::flex::{Flex, FlexTensor};

use crate::sd::ops::arguments::{Groups, Then};
use crate::sd::ops::flex::activation::{silu, silu_slope};
use crate::sd::ops::flex::buffer::{dense, dims, from_values, rows_and_width, values};
use crate::sd::ops::flex::simd::vectorized;
use crate::sd::ops::group_norm::{GroupNormKernel, Remembered};
use crate::sd::ops::host::parallel::{collect, each_chunk, each_pair};

/// Elements of a block: a quarter of a usual L2 cache.
const BLOCK: usize = 1 << 16;
/// Floating-point operations for one element, about.
const WORK: usize = 6;
const SILU_WORK: usize = 30;

/// `pictures` of `pixels` rows of `channels`, taken `block_rows` rows at a time.
struct Extent {
    pictures: usize,
    pixels: usize,
    channels: usize,
    block_rows: usize,
}

impl Extent {
    fn of(x: &FlexTensor) -> Self {
        let (rows, channels) = rows_and_width(x);
        let pictures = dims(x)[0];
        let pixels = rows / pictures;
        Self { pictures, pixels, channels, block_rows: (BLOCK / channels).clamp(1, pixels) }
    }

    fn blocks(&self) -> usize {
        self.pixels.div_ceil(self.block_rows)
    }

    /// The part of `values` that is one block of one picture.
    fn block<'a>(&self, values: &'a [f32], picture: usize, block: usize) -> &'a [f32] {
        let first = block * self.block_rows;
        let rows = self.block_rows.min(self.pixels - first);
        &values[(picture * self.pixels + first) * self.channels..][..rows * self.channels]
    }

    fn work(&self, then: Then) -> usize {
        let each = match then {
            Then::Nothing => WORK,
            Then::Silu => SILU_WORK,
        };
        self.pictures * self.pixels * self.channels * each
    }
}

impl GroupNormKernel for Flex {
    /// `[batch, 2, groups]`: means and inverse deviations.
    type Statistics = FlexTensor;

    fn forward(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        groups: Groups,
        then: Then,
    ) -> (FlexTensor, Option<FlexTensor>) {
        let (x, weight, bias) = (dense(x), dense(weight), dense(bias));
        let extent = Extent::of(&x);
        let (input, weight, bias) = (values(&x), values(&weight), values(&bias));
        let blocks = extent.blocks();
        let moments = collect(extent.pictures * blocks, extent.work(Then::Nothing), |task| {
            moments(extent.block(input, task / blocks, task % blocks), extent.channels)
        });
        let mut statistics = Vec::with_capacity(extent.pictures * 2 * groups.count);
        for moments in moments.chunks(blocks) {
            statistics.extend(join(&extent, groups, moments));
        }
        let by_picture: Vec<Channels> =
            statistics.chunks(2 * groups.count).map(|statistics| Channels::of(statistics, weight, extent.channels)).collect();

        let mut output = vec![0.0; input.len()];
        let apply = |picture: usize, input: &[f32], output: &mut [f32]| {
            normalise_rows(output, input, &by_picture[picture], bias, then);
        };
        let picture_size = extent.pixels * extent.channels;
        if extent.pictures == 1 {
            each_chunk(&mut output, extent.block_rows * extent.channels, extent.work(then), |block, output| {
                apply(0, extent.block(input, 0, block), output);
            });
        } else {
            each_chunk(&mut output, picture_size, extent.work(then), |picture, output| {
                apply(picture, &input[picture * picture_size..][..picture_size], output);
            });
        }
        (from_values(output, dims(&x).to_vec()), Some(from_values(statistics, [extent.pictures, 2, groups.count])))
    }

    /// With `n` the normalised values, `z` what SiLU is applied to and `h = weight · slope(z) · output gradient`, over each group:
    /// `(h - mean(h) - n · mean(h · n)) / deviation`.
    fn gradient(inputs: Remembered<Flex>, output_gradient: FlexTensor) -> FlexTensor {
        let (x, weight, bias) = (dense(inputs.x), dense(inputs.weight), dense(inputs.bias));
        let statistics = inputs.statistics.expect("the forward pass keeps the statistics");
        let (statistics, output_gradient) = (dense(statistics), dense(output_gradient));
        let groups = inputs.groups.count;
        let extent = Extent::of(&x);
        let (channels, blocks, picture_size) = (extent.channels, extent.blocks(), extent.pixels * extent.channels);
        let (input, weight, bias) = (values(&x), values(&weight), values(&bias));
        let (statistics, upstream) = (values(&statistics), values(&output_gradient));
        let statistics: Vec<&[f32]> = statistics.chunks(2 * groups).collect();
        let by_picture: Vec<_> = statistics.iter().map(|of_picture| Channels::of(of_picture, weight, channels)).collect();

        // 1. slope(z) · output gradient, into the place of the result, and by channel its sum and its sum times the centred x
        let mut output = vec![0.0; input.len()];
        let mut sums = vec![0.0; extent.pictures * blocks * 2 * channels];
        let sum_up = |picture: usize, output: &mut [f32], sums: &mut [f32]| {
            for (block, sums) in sums.chunks_exact_mut(2 * channels).enumerate() {
                let (input, upstream) = (extent.block(input, picture, block), extent.block(upstream, picture, block));
                let output = &mut output[block * extent.block_rows * channels..][..input.len()];
                slope_and_sums(output, sums, input, upstream, &by_picture[picture], bias, inputs.then);
            }
        };
        each_pair((&mut output, picture_size), (&mut sums, blocks * 2 * channels), extent.work(inputs.then), sum_up);

        // 2. joined by group; the result is a · (1.) + b · (x - mean) + c
        let coefficients: Vec<[Vec<f32>; 3]> = (sums.chunks(blocks * 2 * channels).zip(&statistics))
            .map(|(sums, statistics)| {
                let width = channels / groups;
                let [mut a, mut b, mut c] = [vec![0.0; channels], vec![0.0; channels], vec![0.0; channels]];
                for group in 0..groups {
                    let members = group * width..(group + 1) * width;
                    let (mut plain, mut along) = (0.0, 0.0);
                    for block in sums.chunks(2 * channels) {
                        for channel in members.clone() {
                            plain += f64::from(block[channel]) * f64::from(weight[channel]);
                            along += f64::from(block[channels + channel]) * f64::from(weight[channel]);
                        }
                    }
                    let count = (width * extent.pixels) as f64;
                    let inverse_deviation = f64::from(statistics[groups + group]);
                    a[members.clone()].copy_from_slice(&weight[members.clone()]);
                    a[members.clone()].iter_mut().for_each(|a| *a *= statistics[groups + group]);
                    b[members.clone()].fill((-along / count * inverse_deviation.powi(3)) as f32);
                    c[members].fill((-plain / count * inverse_deviation) as f32);
                }
                [a, b, c]
            })
            .collect();
        each_chunk(&mut output, picture_size, extent.work(Then::Nothing), |picture, output| {
            let input = &input[picture * picture_size..][..picture_size];
            combine(output, input, &coefficients[picture], &by_picture[picture].mean[..]);
        });
        from_values(output, dims(&x).to_vec())
    }
}

vectorized! {
    fn normalise_rows<'a>(output: &'a mut [f32], input: &'a [f32], of: &'a Channels, bias: &'a [f32], then: Then) {
        let channels = bias.len();
        let (mean, scale) = (&of.mean[..channels], &of.scale[..channels]);
        for (output, input) in output.chunks_exact_mut(channels).zip(input.chunks_exact(channels)) {
            match then {
                Then::Nothing => {
                    for c in 0..channels {
                        output[c] = (input[c] - mean[c]) * scale[c] + bias[c];
                    }
                }
                Then::Silu => {
                    for c in 0..channels {
                        output[c] = silu((input[c] - mean[c]) * scale[c] + bias[c]);
                    }
                }
            }
        }
    }
}

vectorized! {
    /// Of one block: what flows back through SiLU into `output`, and its sums by channel, plain and along the centred input, into `sums`.
    fn slope_and_sums<'a>(output: &'a mut [f32], sums: &'a mut [f32], input: &'a [f32], upstream: &'a [f32], of: &'a Channels, bias: &'a [f32], then: Then) {
        let channels = bias.len();
        let (mean, scale) = (&of.mean[..channels], &of.scale[..channels]);
        let (plain, along) = sums.split_at_mut(channels);
        let (plain, along) = (&mut plain[..channels], &mut along[..channels]);
        let rows = input.chunks_exact(channels).zip(upstream.chunks_exact(channels));
        for (output, (input, upstream)) in output.chunks_exact_mut(channels).zip(rows) {
            match then {
                Then::Nothing => output.copy_from_slice(upstream),
                Then::Silu => {
                    for c in 0..channels {
                        output[c] = upstream[c] * silu_slope((input[c] - mean[c]) * scale[c] + bias[c]);
                    }
                }
            }
            for c in 0..channels {
                plain[c] += output[c];
                along[c] += output[c] * (input[c] - mean[c]);
            }
        }
    }
}

vectorized! {
    /// `a · output + b · (input - mean) + c`, by channel; the coefficients are a, b and c.
    fn combine<'a>(output: &'a mut [f32], input: &'a [f32], coefficients: &'a [Vec<f32>; 3], mean: &'a [f32]) {
        let channels = mean.len();
        let [a, b, c] = coefficients;
        let (a, b, c) = (&a[..channels], &b[..channels], &c[..channels]);
        for (output, input) in output.chunks_exact_mut(channels).zip(input.chunks_exact(channels)) {
            for i in 0..channels {
                output[i] = output[i] * a[i] + (input[i] - mean[i]) * b[i] + c[i];
            }
        }
    }
}

/// Of one block, by channel: the means, then the sums of squares about them.
fn moments(block: &[f32], channels: usize) -> Vec<f32> {
    let mut moments = vec![0.0; 2 * channels];
    let (means, squares) = moments.split_at_mut(channels);
    sum_moments(means, squares, block);
    moments
}

vectorized! {
    fn sum_moments<'a>(means: &'a mut [f32], squares: &'a mut [f32], block: &'a [f32]) {
        let channels = means.len();
        for row in block.chunks_exact(channels) {
            for (mean, x) in means.iter_mut().zip(row) {
                *mean += x;
            }
        }
        let count = (block.len() / channels) as f32;
        means.iter_mut().for_each(|mean| *mean /= count);
        for row in block.chunks_exact(channels) {
            for ((square, mean), x) in squares.iter_mut().zip(&*means).zip(row) {
                *square += (x - mean) * (x - mean);
            }
        }
    }
}

/// Of one picture: the mean of each group, then one over its deviation, from the moments of its blocks (Chan et al. 1979).
fn join(extent: &Extent, groups: Groups, blocks: &[Vec<f32>]) -> Vec<f32> {
    let width = extent.channels / groups.count;
    let rows = |block: usize| extent.block_rows.min(extent.pixels - block * extent.block_rows) as f64;
    let count = (width * extent.pixels) as f64;
    let mut statistics = vec![0.0; 2 * groups.count];
    for group in 0..groups.count {
        let members = group * width..(group + 1) * width;
        let mut mean = 0.0;
        for (block, moments) in blocks.iter().enumerate() {
            mean += rows(block) / count * members.clone().map(|channel| f64::from(moments[channel])).sum::<f64>();
        }
        let mut squares = 0.0;
        for (block, moments) in blocks.iter().enumerate() {
            for channel in members.clone() {
                let distance = f64::from(moments[channel]) - mean;
                squares += f64::from(moments[extent.channels + channel]) + rows(block) * distance * distance;
            }
        }
        statistics[group] = mean as f32;
        statistics[groups.count + group] = (1.0 / (squares / count + groups.epsilon).sqrt()) as f32;
    }
    statistics
}

/// What each channel of one picture is normalised with. The mean is taken off first: scaled and joined with the bias it would
/// cost digits where it is large beside the deviation.
struct Channels {
    mean: Vec<f32>,
    /// The weight over the deviation.
    scale: Vec<f32>,
}

impl Channels {
    fn of(statistics: &[f32], weight: &[f32], channels: usize) -> Self {
        let (means, inverse_deviations) = statistics.split_at(statistics.len() / 2);
        let width = channels / means.len();
        let mean = means.iter().flat_map(|mean| std::iter::repeat_n(*mean, width)).collect();
        let scale = weight.iter().enumerate().map(|(channel, weight)| weight * inverse_deviations[channel / width]).collect();
        Self { mean, scale }
    }
}
