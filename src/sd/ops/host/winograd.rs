//! Convolution with kernels of 3×3 by minimal filtering, F(4×4, 3×3) (Winograd 1980; Lavin and Gray 2015): a tile of 4×4 outputs takes 36
//! products for a pair of channels instead of 144.
//!
//! Tiles and kernels are taken at 6×6 points; at each of them the channels of all tiles are one matrix product, whose results become outputs. A
//! kernel at its points is four times as large as the kernel, so it is made anew at each call, for some channels at a time, and never leaves a
//! cache.

use std::ops::Range;

use pulp::bytemuck::cast_slice_mut;
use pulp::{Arch, Simd, WithSimd};

use crate::sd::ops::arguments::Placement;
use crate::sd::ops::host::parallel::{each_chunk, map};
use crate::sd::ops::host::product::rows;
use crate::sd::ops::host::winograd_points::{PATCH, TILE, of_inputs, of_taps, outputs};

/// Points of a tile.
const POINTS: usize = PATCH * PATCH;
/// Tiles whose numbers at one point lie together: the rows of a block of a matrix product.
const BLOCK: usize = 8;
/// Tiles that are at their points at one time: enough to pay for a kernel at its points, few enough for a last-level cache.
const BAND: usize = 128;
/// Output channels of a task, at most, and input channels of a step of it. A kernel's points for both: 0.9 MiB, in a usual L2 cache.
const CHUNK: usize = 80;
const DEPTH: usize = 80;
/// The numbers of different points are this much further apart than their count, lest all fall on one line of an L1 cache.
const STAGGER: usize = 16;

/// Fewest tiles for which this is faster than plain sums: with fewer, a kernel at its points is used too seldom.
const WORTH_TILES: usize = 16;
/// Fewest channels of either side, below which the products are too small.
const WORTH_CHANNELS: usize = 32;

/// The sizes of a convolution that keeps the size of its pictures: one zero on each side.
#[derive(Clone, Copy, Debug)]
pub(in crate::sd::ops) struct Extent {
    pub(in crate::sd::ops) batch: usize,
    pub(in crate::sd::ops) height: usize,
    pub(in crate::sd::ops) width: usize,
    pub(in crate::sd::ops) inputs: usize,
    pub(in crate::sd::ops) outputs: usize,
}

impl Extent {
    /// Of `[batch, height, width, inputs]`, if [`convolve`] can do it and is faster than plain sums.
    pub(in crate::sd::ops) fn where_faster(x: [usize; 4], outputs: usize, placement: Placement) -> Option<Self> {
        let [batch, height, width, inputs] = x;
        let tiles = batch * height.div_ceil(TILE) * width.div_ceil(TILE);
        let faster = placement == Placement::SAME_SIZE && tiles >= WORTH_TILES && inputs.min(outputs) >= WORTH_CHANNELS;
        faster.then_some(Self { batch, height, width, inputs, outputs })
    }

    /// Floating-point operations, about.
    fn work(&self) -> usize {
        self.batch * self.height * self.width * self.inputs * self.outputs * 2 * POINTS / (TILE * TILE)
    }

    /// Tiles side by side.
    fn across(&self) -> usize {
        self.width.div_ceil(TILE)
    }

    /// Where a row of tiles lies: its picture, and its first row of pixels there.
    fn place(&self, row: usize) -> (usize, usize) {
        let down = self.height.div_ceil(TILE);
        (row / down, row % down * TILE)
    }

    fn rows_of_pixels(&self, row: usize) -> usize {
        TILE.min(self.height - self.place(row).1)
    }
}

/// The numbers of a kernel, wherever they lie: `values[output · o + tap · t + input · i]`.
#[derive(Clone, Copy)]
pub(in crate::sd::ops) struct Taps<'a> {
    pub(in crate::sd::ops) values: &'a [f32],
    pub(in crate::sd::ops) output: usize,
    pub(in crate::sd::ops) tap: usize,
    pub(in crate::sd::ops) input: usize,
    /// Whether the taps are meant in reverse order, as they are for the gradient of the input.
    pub(in crate::sd::ops) turned: bool,
}

/// Convolves `x` into `output`, every value of which is written.
///
/// - `x`: `[batch, height, width, inputs]`
/// - `bias`: `[outputs]`
/// - `output`: `[batch, height, width, outputs]`
pub(in crate::sd::ops) fn convolve(x: &[f32], taps: Taps, bias: Option<&[f32]>, output: &mut [f32], extent: Extent) {
    let all = extent.batch * extent.height.div_ceil(TILE);
    let rows_of_band = (BAND / extent.across()).clamp(1, all);
    let chunk = even_chunk(extent.outputs);
    let of_block = POINTS * (BLOCK * extent.inputs + STAGGER);
    let blocks = (rows_of_band * extent.across()).div_ceil(BLOCK);
    let mut at_points = vec![0.0; blocks * of_block];
    let mut left = output;
    for first in (0..all).step_by(rows_of_band) {
        let band = Band { first, rows: rows_of_band.min(all - first), extent };
        let at_points = &mut at_points[..band.tiles().div_ceil(BLOCK) * of_block];
        each_chunk(at_points, of_block, extent.work(), |block, at_points| {
            Arch::new().dispatch(Inputs { x, band, block, at_points });
        });
        let at_points = &*at_points;
        let (pixels, rest) = left.split_at_mut(band.pixels() * extent.outputs);
        left = rest;
        let mut of_chunks: Vec<Vec<&mut [f32]>> =
            (0..extent.outputs.div_ceil(chunk)).map(|_| Vec::with_capacity(band.pixels())).collect();
        for pixel in pixels.chunks_exact_mut(extent.outputs) {
            for (of_chunk, part) in of_chunks.iter_mut().zip(pixel.chunks_mut(chunk)) {
                of_chunk.push(part);
            }
        }
        let of_chunks = of_chunks.into_iter().enumerate().collect();
        map(of_chunks, extent.work(), |(index, pixels)| {
            let channels = index * chunk..((index + 1) * chunk).min(extent.outputs);
            Arch::new().dispatch(Chunk { at_points, taps, bias, band, channels, pixels });
        });
    }
}

/// Channels of a task: at most [`CHUNK`], about the same for all, and whole vectors.
fn even_chunk(outputs: usize) -> usize {
    const LANES: usize = 16;
    outputs.div_ceil(outputs.div_ceil(CHUNK)).next_multiple_of(LANES)
}

/// Some rows of tiles, of one picture or of several.
#[derive(Clone, Copy)]
struct Band {
    first: usize,
    rows: usize,
    extent: Extent,
}

impl Band {
    fn tiles(&self) -> usize {
        self.rows * self.extent.across()
    }

    fn pixels(&self) -> usize {
        self.rows_of_pixels(self.rows) * self.extent.width
    }

    /// Rows of pixels in the first rows of tiles.
    fn rows_of_pixels(&self, rows: usize) -> usize {
        (self.first..self.first + rows).map(|row| self.extent.rows_of_pixels(row)).sum()
    }
}

/// A block of tiles, taken to the points.
struct Inputs<'a> {
    x: &'a [f32],
    band: Band,
    block: usize,
    /// `[points, tiles, inputs]`.
    at_points: &'a mut [f32],
}

impl WithSimd for Inputs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, band, block, at_points } = self;
        let Extent { height, width, inputs, .. } = band.extent;
        let outside = vec![0.0; inputs];
        let of_point = BLOCK * inputs + STAGGER;
        let tiles = block * BLOCK..((block + 1) * BLOCK).min(band.tiles());
        for (place, tile) in tiles.enumerate() {
            let (picture, top) = band.extent.place(band.first + tile / band.extent.across());
            let start = tile % band.extent.across() * TILE;
            // One zero lies before the picture, so that a tile's patch begins a pixel earlier.
            let pixel = |i: usize, j: usize| match ((top + i).checked_sub(1), (start + j).checked_sub(1)) {
                (Some(row), Some(column)) if row < height && column < width => {
                    &x[((picture * height + row) * width + column) * inputs..][..inputs]
                }
                _ => &outside,
            };
            let patch: [[&[f32]; PATCH]; PATCH] = std::array::from_fn(|i| std::array::from_fn(|j| pixel(i, j)));
            let mut columns = [[simd.splat_f32s(0.0); PATCH]; PATCH];
            for channel in (0..inputs).step_by(S::F32_LANES) {
                let lanes = channel..(channel + S::F32_LANES).min(inputs);
                for j in 0..PATCH {
                    let column = std::array::from_fn(|i| simd.partial_load_f32s(&patch[i][j][lanes.clone()]));
                    columns[j] = of_inputs(simd, column);
                }
                for i in 0..PATCH {
                    let row = of_inputs(simd, std::array::from_fn(|j| columns[j][i]));
                    for (j, value) in row.into_iter().enumerate() {
                        let of_tile = &mut at_points[(i * PATCH + j) * of_point + place * inputs..][..inputs];
                        simd.partial_store_f32s(&mut of_tile[lanes.clone()], value);
                    }
                }
            }
        }
    }
}

/// Some output channels of a band.
struct Chunk<'a> {
    /// `[blocks, points, tiles, inputs]`.
    at_points: &'a [f32],
    taps: Taps<'a>,
    bias: Option<&'a [f32]>,
    band: Band,
    channels: Range<usize>,
    /// Of each pixel the channels.
    pixels: Vec<&'a mut [f32]>,
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { at_points, taps, bias, band, channels, mut pixels } = self;
        let (inputs, tiles) = (band.extent.inputs, band.tiles());
        let vectors = channels.len().div_ceil(S::F32_LANES);
        let zero = simd.splat_f32s(0.0);
        // 1. Products at the points: [points, tiles, channels].
        let mut kernel = vec![zero; POINTS * DEPTH.min(inputs) * vectors];
        let mut sums = vec![zero; POINTS * tiles * vectors];
        let of_point = BLOCK * inputs + STAGGER;
        for from in (0..inputs).step_by(DEPTH) {
            let depth = DEPTH.min(inputs - from);
            let kernel = &mut kernel[..POINTS * depth * vectors];
            take_kernel(simd, kernel, taps, &channels, from..from + depth);
            for (point, (kernel, sums)) in
                kernel.chunks_exact(depth * vectors).zip(sums.chunks_exact_mut(tiles * vectors)).enumerate()
            {
                for (block, sums) in sums.chunks_mut(BLOCK * vectors).enumerate() {
                    let a = &at_points[(block * POINTS + point) * of_point + from..];
                    rows::<S, true>(simd, sums, a, inputs, kernel, vectors, depth);
                }
            }
        }
        // 2. Outputs.
        let mut bias_vectors = vec![zero; vectors];
        if let Some(bias) = bias {
            cast_slice_mut::<_, f32>(&mut bias_vectors)[..channels.len()].copy_from_slice(&bias[channels.clone()]);
        }
        let (across, width) = (band.extent.across(), band.extent.width);
        for row in 0..band.rows {
            let above = band.rows_of_pixels(row);
            let high = band.extent.rows_of_pixels(band.first + row);
            for column in 0..across {
                let tile = row * across + column;
                let wide = TILE.min(width - column * TILE);
                for (vector, bias) in bias_vectors.iter().enumerate() {
                    let at = |i: usize, j: usize| sums[((i * PATCH + j) * tiles + tile) * vectors + vector];
                    let mut columns = [[zero; TILE]; PATCH];
                    for (j, column) in columns.iter_mut().enumerate() {
                        *column = outputs(simd, std::array::from_fn(|i| at(i, j)));
                    }
                    let lanes = vector * S::F32_LANES..((vector + 1) * S::F32_LANES).min(channels.len());
                    for i in 0..high {
                        let row = outputs(simd, std::array::from_fn(|j| columns[j][i]));
                        for (j, value) in row.into_iter().take(wide).enumerate() {
                            let pixel = &mut pixels[(above + i) * width + column * TILE + j];
                            simd.partial_store_f32s(&mut pixel[lanes.clone()], simd.add_f32s(value, *bias));
                        }
                    }
                }
            }
        }
    }
}

/// The kernel at its points for some channels of both sides, as `[points, inputs, outputs]`. Lanes beyond the outputs stay zero.
#[inline(always)]
fn take_kernel<S: Simd>(simd: S, into: &mut [S::f32s], taps: Taps, channels: &Range<usize>, inputs: Range<usize>) {
    let zero = simd.splat_f32s(0.0);
    let (vectors, depth) = (channels.len().div_ceil(S::F32_LANES), inputs.len());
    let mut of_input = vec![zero; 9 * vectors];
    for (place, input) in inputs.enumerate() {
        for (tap, row) in cast_slice_mut::<_, f32>(&mut of_input).chunks_exact_mut(vectors * S::F32_LANES).enumerate() {
            let tap = if taps.turned { 8 - tap } else { tap };
            let from = &taps.values[channels.start * taps.output + tap * taps.tap + input * taps.input..];
            match taps.output {
                1 => row[..channels.len()].copy_from_slice(&from[..channels.len()]),
                stride => row[..channels.len()].iter_mut().zip(from.iter().step_by(stride)).for_each(|(into, tap)| *into = *tap),
            }
        }
        for vector in 0..vectors {
            let tap = |i: usize, j: usize| of_input[(i * 3 + j) * vectors + vector];
            let columns = [
                of_taps(simd, [tap(0, 0), tap(1, 0), tap(2, 0)]),
                of_taps(simd, [tap(0, 1), tap(1, 1), tap(2, 1)]),
                of_taps(simd, [tap(0, 2), tap(1, 2), tap(2, 2)]),
            ];
            for i in 0..PATCH {
                let row = of_taps(simd, [columns[0][i], columns[1][i], columns[2][i]]);
                for (j, value) in row.into_iter().enumerate() {
                    into[((i * PATCH + j) * depth + place) * vectors + vector] = value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * (0.37 + seed)).sin()).collect()
    }

    /// Plain sums in f64, from a kernel `[outputs, taps, inputs]`, and the greatest sum of what they add without its signs.
    fn plain(x: &[f32], kernel: &[f32], bias: &[f32], extent: Extent) -> (Vec<f64>, f64) {
        let Extent { batch, height, width, inputs, outputs } = extent;
        let (mut all, mut greatest) = (Vec::new(), 0.0f64);
        for place in 0..batch * height * width * outputs {
            let (pixel, output) = (place / outputs, place % outputs);
            let (picture, row, column) = (pixel / (height * width), pixel / width % height, pixel % width);
            let mut sum = f64::from(bias[output]);
            let mut absolute = sum.abs();
            for tap in 0..9 {
                let (row, column) = ((row + tap / 3).wrapping_sub(1), (column + tap % 3).wrapping_sub(1));
                if row < height && column < width {
                    let x = &x[((picture * height + row) * width + column) * inputs..][..inputs];
                    let kernel = &kernel[(output * 9 + tap) * inputs..][..inputs];
                    for (x, w) in x.iter().zip(kernel) {
                        let product = f64::from(*x) * f64::from(*w);
                        sum += product;
                        absolute += product.abs();
                    }
                }
            }
            all.push(sum);
            greatest = greatest.max(absolute);
        }
        (all, greatest)
    }

    #[test]
    fn tiles_give_what_plain_sums_give() {
        // Odd sizes and channels, several pictures in a band, several bands, and more inputs than a step takes.
        let sizes = [(2, 9, 7, 5, 3), (3, 4, 4, 37, 20), (1, 6, 525, 3, 2), (1, 45, 50, 2, 17), (1, 5, 8, 170, 161)];
        for (batch, height, width, inputs, outputs) in sizes {
            let extent = Extent { batch, height, width, inputs, outputs };
            let x = numbers(batch * height * width * inputs, 0.0);
            let (kernel, bias) = (numbers(outputs * 9 * inputs, 0.21), numbers(outputs, 0.4));
            let (expected, greatest) = plain(&x, &kernel, &bias, extent);
            // The same kernel in both orders, in one of them turned.
            let mut other = vec![0.0; kernel.len()];
            for (place, value) in kernel.iter().enumerate() {
                let (output, tap, input) = (place / (9 * inputs), place / inputs % 9, place % inputs);
                other[(input * 9 + 8 - tap) * outputs + output] = *value;
            }
            let one = Taps { values: &kernel, output: 9 * inputs, tap: inputs, input: 1, turned: false };
            let other = Taps { values: &other, output: 1, tap: outputs, input: 9 * outputs, turned: true };
            for taps in [one, other] {
                let mut found = vec![f32::NAN; expected.len()];
                convolve(&x, taps, Some(&bias), &mut found, extent);
                // At the points numbers are up to twenty times as large.
                let tolerance = 32.0 * f64::from(f32::EPSILON / 2.0) * greatest;
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((f64::from(*found) - expected).abs() < tolerance, "{found} is not {expected}, {extent:?}");
                }
            }
        }
    }

    #[test]
    fn channels_are_dealt_out_evenly_in_whole_vectors() {
        assert_eq!([320, 640, 1280, 256, 512, 4].map(even_chunk), [80, 80, 80, 64, 80, 16]);
    }
}
