//! Matrices of f32 on the CPU and the few products that merging and extracting need. Every sum runs in a fixed order: the bits do not depend
//! on the number of threads.

use rayon::prelude::*;

/// Columns of the large matrix that are in work at once: their part of the result stays in the first-level cache.
const COLUMNS: usize = 64;

/// Row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    pub columns: usize,
    pub values: Vec<f32>,
}

impl Matrix {
    /// # Panics
    /// If `values` has another length than `rows · columns`.
    pub fn new(rows: usize, columns: usize, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), rows * columns, "a matrix of {rows}×{columns}");
        Self { rows, columns, values }
    }

    /// Every value begins at 0.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self::new(rows, columns, vec![0.0; rows * columns])
    }

    /// The `columns` values of a row.
    ///
    /// # Panics
    /// If there are not that many rows.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.columns]
    }

    /// A copy with rows and columns exchanged: `[columns, rows]`.
    pub fn transposed(&self) -> Self {
        let mut values = Vec::with_capacity(self.values.len());
        for column in 0..self.columns {
            values.extend((0..self.rows).map(|row| self.values[row * self.columns + column]));
        }
        Self::new(self.columns, self.rows, values)
    }

    /// `self · other`.
    pub fn times(&self, other: &Self) -> Self {
        assert_eq!(self.columns, other.rows, "inner sides of a product");
        let mut product = Self::zeros(self.rows, other.columns);
        let width = other.columns.max(1);
        product.values.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
            for (factor, values) in self.row(row).iter().zip(other.values.chunks_exact(width)) {
                add_scaled(out, *factor, values);
            }
        });
        product
    }

    /// `selfᵀ · other`, without transposing the large `self`.
    pub fn transposed_times(&self, other: &Self) -> Self {
        assert_eq!(self.rows, other.rows, "inner sides of a product");
        let mut product = Self::zeros(self.columns, other.columns);
        let width = other.columns.max(1);
        product.values.par_chunks_mut(COLUMNS * width).enumerate().for_each(|(block, out)| {
            let begin = block * COLUMNS;
            let end = (begin + COLUMNS).min(self.columns);
            for row in 0..self.rows {
                let values = other.row(row);
                for (factor, out) in self.row(row)[begin..end].iter().zip(out.chunks_exact_mut(width)) {
                    add_scaled(out, *factor, values);
                }
            }
        });
        product
    }

    /// The largest absolute value: 0 for an empty matrix; NaN does not count.
    pub fn largest(&self) -> f32 {
        self.values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
    }
}

fn add_scaled(out: &mut [f32], factor: f32, values: &[f32]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out += factor * value;
    }
}
