//! The polynomials of Winograd's F(4, 3): rows of 6 inputs, 3 taps and 4 outputs at six points, by Toom and Cook's rule. Knows one dimension
//! only; a picture is taken along its columns first and then along its rows.
//!
//! With `m(x) = x · (x² - a²) · (x² - b²)`, the product of the distances to the finite points 0, ±a and ±b: inputs meet the coefficients of
//! `m(x) / (x - p)` and at infinity those of `m`; taps are a polynomial's coefficients, taken at `p` and divided by `m'(p)`; output `i` is the sum
//! of `pⁱ` times what the two gave together.

use pulp::Simd;

/// Inputs that a row of a tile sees, and points.
pub(super) const PATCH: usize = 6;
/// Outputs of a row of a tile.
pub(super) const TILE: usize = 4;

/// The finite points beside 0, with ±. With Lavin and Gray's ±1 and ±2 errors are twice as large, which is more than the tests of
/// [`super::winograd`] allow.
const A: f32 = 0.625;
const B: f32 = 1.5;

const A2: f32 = A * A;
const B2: f32 = B * B;

/// Six inputs of a row at the points.
#[inline(always)]
pub(super) fn of_inputs<S: Simd>(simd: S, d: [S::f32s; PATCH]) -> [S::f32s; PATCH] {
    // (d4 - c² d2) and p (d3 - c² d1) serve +p and -p.
    let even_a = plus(simd, d[4], -B2, d[2]);
    let even_b = plus(simd, d[4], -A2, d[2]);
    let odd_a = times(simd, A, plus(simd, d[3], -B2, d[1]));
    let odd_b = times(simd, B, plus(simd, d[3], -A2, d[1]));
    [
        plus(simd, plus(simd, d[4], -(A2 + B2), d[2]), A2 * B2, d[0]),
        simd.add_f32s(even_a, odd_a),
        simd.sub_f32s(even_a, odd_a),
        simd.add_f32s(even_b, odd_b),
        simd.sub_f32s(even_b, odd_b),
        plus(simd, plus(simd, d[5], -(A2 + B2), d[3]), A2 * B2, d[1]),
    ]
}

/// Three taps of a row at the points.
#[inline(always)]
pub(super) fn of_taps<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; PATCH] {
    const AT_A: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
    const AT_B: f32 = 1.0 / (2.0 * B2 * (B2 - A2));
    let even_a = plus(simd, times(simd, AT_A, g[0]), A2 * AT_A, g[2]);
    let even_b = plus(simd, times(simd, AT_B, g[0]), B2 * AT_B, g[2]);
    let odd_a = times(simd, A * AT_A, g[1]);
    let odd_b = times(simd, B * AT_B, g[1]);
    [
        times(simd, 1.0 / (A2 * B2), g[0]),
        simd.add_f32s(even_a, odd_a),
        simd.sub_f32s(even_a, odd_a),
        simd.add_f32s(even_b, odd_b),
        simd.sub_f32s(even_b, odd_b),
        g[2],
    ]
}

/// Four outputs of a row from what the points gave.
#[inline(always)]
pub(super) fn outputs<S: Simd>(simd: S, m: [S::f32s; PATCH]) -> [S::f32s; TILE] {
    let (sum_a, sum_b) = (simd.add_f32s(m[1], m[2]), simd.add_f32s(m[3], m[4]));
    let (difference_a, difference_b) = (simd.sub_f32s(m[1], m[2]), simd.sub_f32s(m[3], m[4]));
    [
        simd.add_f32s(m[0], simd.add_f32s(sum_a, sum_b)),
        plus(simd, times(simd, B, difference_b), A, difference_a),
        plus(simd, times(simd, B2, sum_b), A2, sum_a),
        plus(simd, plus(simd, m[5], B * B2, difference_b), A * A2, difference_a),
    ]
}

// Functions and not closures: what is not inlined would be compiled for the oldest machines.

#[inline(always)]
fn times<S: Simd>(simd: S, factor: f32, x: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.splat_f32s(factor), x)
}

/// `sum + factor · x`.
#[inline(always)]
fn plus<S: Simd>(simd: S, sum: S::f32s, factor: f32, x: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.splat_f32s(factor), x, sum)
}

#[cfg(test)]
mod tests {
    use pulp::Scalar;

    use super::*;

    #[test]
    fn points_give_the_sums_of_a_sliding_row() {
        let (d, g) = ([0.5, -1.25, 2.0, 0.75, -0.5, 1.5], [0.25, -0.75, 1.25]);
        let simd = Scalar::new();
        let (at_inputs, at_taps) = (of_inputs(simd, d), of_taps(simd, g));
        let found = outputs(simd, std::array::from_fn(|point| at_inputs[point] * at_taps[point]));
        for (i, found) in found.into_iter().enumerate() {
            let expected: f32 = (0..3).map(|tap| d[i + tap] * g[tap]).sum();
            assert!((found - expected).abs() < 1e-6, "output {i} is {found}, not {expected}");
        }
    }
}
