//! Small matrix products inside a cache, as blocks that stay in registers: the sums that attention is made of.
//!
//! All have the form `c[row][lane] += Σ a(row, k) · b[k][lane]`: a number of `a` against a vector of `b`.

use pulp::Simd;

/// `c += a · b`, or `c = a · b` without `ADD`, with `a` as `[rows, k]`, its rows `a_stride` apart.
///
/// - `b`: `[k, width]`, `c`: `[rows, width]`, in vectors
#[inline(always)]
pub(in crate::sd::ops) fn rows<S: Simd, const ADD: bool>(
    simd: S,
    c: &mut [S::f32s],
    a: &[f32],
    a_stride: usize,
    b: &[S::f32s],
    width: usize,
    k: usize,
) {
    let count = c.len() / width;
    let mut row = 0;
    while row < count {
        let (c, a) = (&mut c[row * width..], &a[row * a_stride..]);
        let left = count - row;
        row += match (S::F32_LANES >= 16 && left >= 8, left >= 4) {
            (true, _) => row_block::<S, 8, ADD>(simd, c, a, a_stride, b, width, k),
            (_, true) => row_block::<S, 4, ADD>(simd, c, a, a_stride, b, width, k),
            _ => row_block::<S, 1, ADD>(simd, c, a, a_stride, b, width, k),
        };
    }
}

/// `c += aᵀ · b` with `a` as `[k, rows]`, its rows `a_stride` apart.
///
/// - `b`: `[k, width]`, `c`: `[rows, width]`, in vectors
#[inline(always)]
pub(in crate::sd::ops) fn columns<S: Simd>(
    simd: S,
    c: &mut [S::f32s],
    a: &[f32],
    a_stride: usize,
    b: &[S::f32s],
    width: usize,
    k: usize,
) {
    let count = c.len() / width;
    let mut row = 0;
    while row < count {
        let (c, a) = (&mut c[row * width..], &a[row..]);
        let left = count - row;
        row += match (S::F32_LANES >= 16 && left >= 8, left >= 4) {
            (true, _) => column_block::<S, 8>(simd, c, a, a_stride, b, width, k),
            (_, true) => column_block::<S, 4>(simd, c, a, a_stride, b, width, k),
            _ => column_block::<S, 1>(simd, c, a, a_stride, b, width, k),
        };
    }
}

#[inline(always)]
fn row_block<S: Simd, const R: usize, const ADD: bool>(
    simd: S,
    c: &mut [S::f32s],
    a: &[f32],
    a_stride: usize,
    b: &[S::f32s],
    width: usize,
    k: usize,
) -> usize {
    let a: [&[f32]; R] = std::array::from_fn(|r| &a[r * a_stride..][..k]);
    let mut v = 0;
    while v < width {
        v += match width - v {
            2 | 4 => row_tile::<S, R, 2, ADD>(simd, &mut c[v..], &a, &b[v..], width, k),
            3 | 5.. => row_tile::<S, R, 3, ADD>(simd, &mut c[v..], &a, &b[v..], width, k),
            _ => row_tile::<S, R, 1, ADD>(simd, &mut c[v..], &a, &b[v..], width, k),
        };
    }
    R
}

#[inline(always)]
fn row_tile<S: Simd, const R: usize, const V: usize, const ADD: bool>(
    simd: S,
    c: &mut [S::f32s],
    a: &[&[f32]; R],
    b: &[S::f32s],
    width: usize,
    k: usize,
) -> usize {
    let a: [&[f32]; R] = std::array::from_fn(|r| &a[r][..k]);
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    if ADD {
        take(&mut sums, c, width);
    }
    for i in 0..k {
        let b: &[S::f32s; V] = b[i * width..][..V].try_into().expect("V vectors");
        for r in 0..R {
            let a = simd.splat_f32s(a[r][i]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(a, b[v], sums[r][v]);
            }
        }
    }
    put(c, width, &sums);
    V
}

#[inline(always)]
fn column_block<S: Simd, const R: usize>(
    simd: S,
    c: &mut [S::f32s],
    a: &[f32],
    a_stride: usize,
    b: &[S::f32s],
    width: usize,
    k: usize,
) -> usize {
    let mut v = 0;
    while v < width {
        v += match width - v {
            2 | 4 => column_tile::<S, R, 2>(simd, &mut c[v..], a, a_stride, &b[v..], width, k),
            3 | 5.. => column_tile::<S, R, 3>(simd, &mut c[v..], a, a_stride, &b[v..], width, k),
            _ => column_tile::<S, R, 1>(simd, &mut c[v..], a, a_stride, &b[v..], width, k),
        };
    }
    R
}

#[inline(always)]
fn column_tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    c: &mut [S::f32s],
    a: &[f32],
    a_stride: usize,
    b: &[S::f32s],
    width: usize,
    k: usize,
) -> usize {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    take(&mut sums, c, width);
    for i in 0..k {
        let a: &[f32; R] = a[i * a_stride..][..R].try_into().expect("R numbers");
        let b: &[S::f32s; V] = b[i * width..][..V].try_into().expect("V vectors");
        for r in 0..R {
            let a = simd.splat_f32s(a[r]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(a, b[v], sums[r][v]);
            }
        }
    }
    put(c, width, &sums);
    V
}

// Vectors go between memory and registers one by one: as slices they would be copied by a call.

#[inline(always)]
fn take<T: Copy, const R: usize, const V: usize>(sums: &mut [[T; V]; R], c: &[T], width: usize) {
    for r in 0..R {
        for v in 0..V {
            sums[r][v] = c[r * width + v];
        }
    }
}

#[inline(always)]
fn put<T: Copy, const R: usize, const V: usize>(c: &mut [T], width: usize, sums: &[[T; V]; R]) {
    for r in 0..R {
        for v in 0..V {
            c[r * width + v] = sums[r][v];
        }
    }
}
