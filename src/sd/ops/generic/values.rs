//! A backend's tensors with Burn's operations as methods and signs, so that a formula reads as one. Knows no operation of the networks.

use std::ops::{Add, Mul, Sub};

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Shape, Slice};

#[derive(Clone, Debug)]
pub(super) struct Values<B: Backend>(pub(super) FloatTensor<B>);

impl<B: Backend> Values<B> {
    pub(super) fn zeros_like(&self, shape: Vec<usize>) -> Self {
        Self(B::float_zeros(shape.into(), &self.0.device(), self.dtype().into()))
    }

    pub(super) fn dims(&self) -> Vec<usize> {
        self.0.shape().as_slice().to_vec()
    }

    /// The sizes of a tensor of a known number of dimensions.
    pub(super) fn sizes<const D: usize>(&self) -> [usize; D] {
        self.dims().try_into().expect("operations on tensors give each tensor the number of dimensions that it shall have")
    }

    /// The last size.
    pub(super) fn width(&self) -> usize {
        *self.0.shape().as_slice().last().expect("operations get no 0-dimensional tensor")
    }

    pub(super) fn dtype(&self) -> DType {
        self.0.dtype()
    }

    pub(super) fn to(self, dtype: DType) -> Self {
        if self.dtype() == dtype { self } else { Self(B::float_cast(self.0, dtype.into())) }
    }

    /// In what sums and exponentials are taken: f32 at least.
    pub(super) fn wide(self) -> Self {
        if self.dtype() == DType::F64 { self } else { self.to(DType::F32) }
    }

    pub(super) fn reshape(self, shape: impl Into<Shape>) -> Self {
        Self(B::float_reshape(self.0, shape.into()))
    }

    /// As a matrix, whatever the leading dimensions.
    pub(super) fn rows(self) -> Self {
        let (width, dims) = (self.width(), self.dims());
        let rows: usize = dims[..dims.len() - 1].iter().product();
        self.reshape([rows, width])
    }

    pub(super) fn swap(self, one: usize, other: usize) -> Self {
        Self(B::float_swap_dims(self.0, one, other))
    }

    /// Each matrix transposed.
    pub(super) fn transpose(self) -> Self {
        let dims = self.dims().len();
        self.swap(dims - 2, dims - 1)
    }

    pub(super) fn permute(self, axes: &[usize]) -> Self {
        Self(B::float_permute(self.0, axes))
    }

    pub(super) fn flip(self, axes: &[usize]) -> Self {
        Self(B::float_flip(self.0, axes))
    }

    pub(super) fn expand(self, shape: impl Into<Shape>) -> Self {
        Self(B::float_expand(self.0, shape.into()))
    }

    /// The elements of `ranges`, one for each dimension.
    pub(super) fn slice(self, ranges: &[Slice]) -> Self {
        Self(B::float_slice(self.0, ranges))
    }

    /// `count` elements along `dim` from `first` on.
    pub(super) fn narrow(self, dim: usize, first: usize, count: usize) -> Self {
        let mut ranges = whole(&self.dims());
        ranges[dim] = range(first, count, 1);
        self.slice(&ranges)
    }

    /// With `part` where `ranges` are.
    pub(super) fn with(self, ranges: &[Slice], part: Self) -> Self {
        Self(B::float_slice_assign(self.0, ranges, part.0))
    }

    /// Side by side along `dim`.
    pub(super) fn joined(mut parts: Vec<Self>, dim: usize) -> Self {
        if parts.len() == 1 {
            return parts.swap_remove(0);
        }
        Self(B::float_cat(parts.into_iter().map(|part| part.0).collect(), dim))
    }

    pub(super) fn matmul(self, other: Self) -> Self {
        Self(B::float_matmul(self.0, other.0))
    }

    /// Sums over `dims`, which stay with one element.
    pub(super) fn sum(self, dims: &[usize]) -> Self {
        Self(B::float_sum_dims(self.0, dims))
    }

    /// The greatest of each row, which stays a dimension of one element.
    pub(super) fn greatest(self) -> Self {
        let last = self.dims().len() - 1;
        Self(B::float_max_dim(self.0, last))
    }

    pub(super) fn exp(self) -> Self {
        Self(B::float_exp(self.0))
    }

    pub(super) fn erf(self) -> Self {
        Self(B::float_erf(self.0))
    }

    pub(super) fn sqrt(self) -> Self {
        Self(B::float_sqrt(self.0))
    }

    pub(super) fn reciprocal(self) -> Self {
        Self(B::float_recip(self.0))
    }

    pub(super) fn at_least(self, floor: f64) -> Self {
        Self(B::float_clamp_min(self.0, floor.into()))
    }
}

impl<B: Backend> Add for Values<B> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(B::float_add(self.0, other.0))
    }
}

impl<B: Backend> Sub for Values<B> {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(B::float_sub(self.0, other.0))
    }
}

impl<B: Backend> Mul for Values<B> {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Self(B::float_mul(self.0, other.0))
    }
}

impl<B: Backend> Add<f64> for Values<B> {
    type Output = Self;

    fn add(self, number: f64) -> Self {
        Self(B::float_add_scalar(self.0, number.into()))
    }
}

impl<B: Backend> Mul<f64> for Values<B> {
    type Output = Self;

    fn mul(self, number: f64) -> Self {
        Self(B::float_mul_scalar(self.0, number.into()))
    }
}

/// `count` elements from `first` on, `step` apart.
pub(super) fn range(first: usize, count: usize, step: usize) -> Slice {
    let end = first + (count - 1) * step + 1;
    Slice::new(first as isize, Some(end as isize), step as isize)
}

/// Every element of a tensor of that shape.
pub(super) fn whole(dims: &[usize]) -> Vec<Slice> {
    dims.iter().map(|size| range(0, *size, 1)).collect()
}
