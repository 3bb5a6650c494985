//! The numbers of libtorch's tensors in main memory, as slices: the one place where the program trusts a pointer.

#![allow(unsafe_code, reason = "libtorch hands out pointers only")]

use tch::{Device, Kind, Tensor};

/// Whether a tensor's numbers are f32 in main memory.
pub(super) fn is_host(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == Kind::Float
}

/// The values in order, of a tensor for which [`is_host`] holds and whose values lie side by side.
///
/// # Panics
/// If they do not.
pub(super) fn values(tensor: &Tensor) -> &[f32] {
    check(tensor);
    // SAFETY: `check` has seen that as many f32 lie there side by side, and the tensor, which keeps them, is borrowed as long as they are.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), tensor.numel()) }
}

/// Tensors of these sizes that `fill` writes. Their values are zero before.
pub(super) fn written<const N: usize>(sizes: [Vec<i64>; N], fill: impl FnOnce([&mut [f32]; N])) -> [Tensor; N] {
    let tensors = sizes.map(|sizes| Tensor::zeros(sizes, (Kind::Float, Device::Cpu)));
    tensors.iter().for_each(check);
    // SAFETY: as above; the tensors were made here, so nothing else sees their values, and each has memory of its own.
    fill(tensors.each_ref().map(|tensor| unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), tensor.numel()) }));
    tensors
}

fn check(tensor: &Tensor) {
    assert!(
        is_host(tensor) && tensor.is_contiguous() && tensor.numel() > 0,
        "only dense f32 in main memory can be seen as a slice"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_tensor() {
        let [one, other] = written([vec![2, 3], vec![1]], |[one, other]| {
            one.copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
            other[0] = 7.0;
        });
        assert_eq!(values(&one.tr().contiguous()), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(values(&other), [7.0]);
    }

    #[test]
    #[should_panic(expected = "dense f32")]
    fn a_transposed_tensor_has_no_slice() {
        values(&Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)).tr());
    }
}
