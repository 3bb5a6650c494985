//! That an operation gets numbers of one type. libtorch would turn a sum of two types into the wider one and say nothing: a network in f16 would
//! go on in f32.

use burn::tensor::{DType, Tensor};

/// # Panics
/// If `other`, a weight or a second input, is of another type than `x`.
#[track_caller]
pub(super) fn same<const D: usize, const E: usize>(x: &Tensor<D>, other: &Tensor<E>) {
    let (x, other): (DType, DType) = (x.dtype(), other.dtype());
    assert!(x == other, "an operation on {x:?} got a weight or a second input of {other:?}");
}
