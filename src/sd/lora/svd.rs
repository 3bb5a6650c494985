//! Singular value decompositions: in full, for small matrices; and of the leading part of a large one by random projection.
//!
//! The randomised form follows Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1: project on a few more random directions than
//! are wanted, sharpen them by power iterations, decompose what is left. It draws from a fixed stream, so that the same matrix always
//! gives the same bits.

use crate::sd::lora::matrix::Matrix;

/// `u · diag(s) · vt`, largest singular value first.
#[derive(Clone, Debug)]
pub struct Svd {
    /// `[rows, rank]`, orthonormal columns.
    pub u: Matrix,
    pub s: Vec<f32>,
    /// `[rank, columns]`, orthonormal rows.
    pub vt: Matrix,
}

/// Directions beyond the wanted rank. The share of error this leaves falls steeply up to about ten; see section 4.2 there.
const OVERSAMPLING: usize = 16;

/// Each squares the ratio between wanted and unwanted singular values: enough for the slowly falling ones of a finetuned model.
const POWER_ITERATIONS: usize = 4;

/// The cosine between two columns that counts as a right angle: what rounding in f64 leaves.
const ORTHOGONAL: f64 = 1e-15;

/// Sweeps of Jacobi rotations: convergence is quadratic, ten are plenty.
const MAX_SWEEPS: usize = 60;

/// The leading `rank` singular triples of `a`, at most as many as its shorter side.
pub fn leading(a: &Matrix, rank: usize) -> Svd {
    let shorter = a.rows.min(a.columns);
    let rank = rank.min(shorter);
    let sketch = rank + OVERSAMPLING;
    // A sketch of half the matrix saves nothing.
    if 2 * sketch >= shorter { truncated(full(a), rank) } else { truncated(randomised(a, sketch), rank) }
}

/// By random projection on `sketch` directions; as many singular triples.
pub fn randomised(a: &Matrix, sketch: usize) -> Svd {
    let mut range = Columns::of(&a.times(&random(a.columns, sketch)));
    range.orthonormalise();
    for _ in 0..POWER_ITERATIONS {
        let mut domain = Columns::of(&a.transposed_times(&range.matrix()));
        domain.orthonormalise();
        range = Columns::of(&a.times(&domain.matrix()));
        range.orthonormalise();
    }
    // a ≈ q·qᵀ·a, and the decomposition of (qᵀ·a)ᵀ = aᵀ·q gives that of a.
    let q = range.matrix();
    let inner = tall(Columns::of(&a.transposed_times(&q))); // [columns, sketch]
    let u = q.times(&inner.vt.transposed());
    Svd { u, s: inner.s, vt: inner.u.transposed() }
}

/// In full, in double precision: as many singular triples as the shorter side has.
pub fn full(a: &Matrix) -> Svd {
    if a.rows >= a.columns {
        return tall(Columns::of(a));
    }
    let svd = tall(Columns::of(&a.transposed()));
    Svd { u: svd.vt.transposed(), s: svd.s, vt: svd.u.transposed() }
}

fn truncated(svd: Svd, rank: usize) -> Svd {
    let rows = svd.u.rows;
    let u = (0..rows).flat_map(|row| svd.u.row(row)[..rank].iter().copied()).collect();
    let vt = svd.vt.values[..rank * svd.vt.columns].to_vec();
    Svd { u: Matrix::new(rows, rank, u), s: svd.s[..rank].to_vec(), vt: Matrix::new(rank, svd.vt.columns, vt) }
}

/// A tall matrix by its columns, in f64.
struct Columns {
    rows: usize,
    columns: Vec<Vec<f64>>,
}

impl Columns {
    fn of(a: &Matrix) -> Self {
        let column = |column: usize| (0..a.rows).map(|row| f64::from(a.values[row * a.columns + column])).collect();
        Self { rows: a.rows, columns: (0..a.columns).map(column).collect() }
    }

    fn matrix(&self) -> Matrix {
        let values = (0..self.rows).flat_map(|row| self.columns.iter().map(move |column| column[row] as f32)).collect();
        Matrix::new(self.rows, self.columns.len(), values)
    }

    /// Modified Gram and Schmidt, twice ("twice is enough": Giraud and others 2005). A column that the others span becomes zero.
    fn orthonormalise(&mut self) {
        for index in 0..self.columns.len() {
            let (done, rest) = self.columns.split_at_mut(index);
            let column = &mut rest[0];
            let before = norm(column);
            for _ in 0..2 {
                for other in done.iter() {
                    let share = dot(other, column);
                    column.iter_mut().zip(other).for_each(|(value, other)| *value -= share * other);
                }
            }
            let after = norm(column);
            // What is left of a spanned column is rounding error of the doubles, or of the f32 products behind them.
            let scale = if after > before * 1e-12 { 1.0 / after } else { 0.0 };
            column.iter_mut().for_each(|value| *value *= scale);
        }
    }
}

/// One-sided Jacobi (Hestenes 1958): rotates pairs of columns until all are orthogonal; their lengths are the singular values.
fn tall(mut a: Columns) -> Svd {
    let count = a.columns.len();
    let identity = |column: usize| (0..count).map(|row| if row == column { 1.0 } else { 0.0 }).collect();
    let mut v: Vec<Vec<f64>> = (0..count).map(identity).collect();
    for _ in 0..MAX_SWEEPS {
        let mut turned = false;
        for p in 0..count {
            for q in p + 1..count {
                let (alpha, beta) = (dot(&a.columns[p], &a.columns[p]), dot(&a.columns[q], &a.columns[q]));
                let gamma = dot(&a.columns[p], &a.columns[q]);
                if gamma.is_nan() || gamma.abs() <= ORTHOGONAL * (alpha * beta).sqrt() {
                    continue;
                }
                turned = true;
                let zeta = (beta - alpha) / (2.0 * gamma);
                let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
                rotate(&mut a.columns, p, q, cosine, cosine * tangent);
                rotate(&mut v, p, q, cosine, cosine * tangent);
            }
        }
        if !turned {
            break;
        }
    }
    let lengths: Vec<f64> = a.columns.iter().map(|column| norm(column)).collect();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|x, y| lengths[*y].total_cmp(&lengths[*x]));
    let mut u = Matrix::zeros(a.rows, count);
    let mut vt = Matrix::zeros(count, count);
    for (place, &column) in order.iter().enumerate() {
        let scale = if lengths[column] > 0.0 { 1.0 / lengths[column] } else { 0.0 };
        for (row, value) in a.columns[column].iter().enumerate() {
            u.values[row * count + place] = (value * scale) as f32;
        }
        for (row, value) in v[column].iter().enumerate() {
            vt.values[place * count + row] = *value as f32;
        }
    }
    Svd { u, s: order.iter().map(|column| lengths[*column] as f32).collect(), vt }
}

fn rotate(columns: &mut [Vec<f64>], p: usize, q: usize, cosine: f64, sine: f64) {
    let (left, right) = columns.split_at_mut(q);
    for (x, y) in left[p].iter_mut().zip(right[0].iter_mut()) {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// Numbers in (-1, 1) from SplitMix64 (Steele and others 2014): any distribution without a preferred direction will do, and this one
/// needs no logarithm that could differ from machine to machine.
fn random(rows: usize, columns: usize) -> Matrix {
    let mut state = 0x6c6f_7261_6d69_6c6c_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    Matrix::new(rows, columns, (0..rows * columns).map(|_| next()).collect())
}
