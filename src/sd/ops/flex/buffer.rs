//! Slices in and out of the backend's tensors, and matrix products of parts of them.

use burn::backend::flex::{Flex, FlexTensor, Layout};
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{Shape, TensorData};

/// A part of a tensor's storage seen as a matrix.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) offset: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
}

/// The same tensor with its values side by side, in order.
pub(super) fn dense(tensor: FlexTensor) -> FlexTensor {
    if tensor.as_slice::<f32>().is_some() { tensor } else { tensor.to_contiguous() }
}

/// The values of a dense tensor.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("the tensor was made dense and networks compute in f32 on this backend")
}

/// The values of a dense tensor that nobody else holds, as matrix products return it.
pub(super) fn into_values(tensor: FlexTensor) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("networks compute in f32 on this backend")
}

pub(super) fn from_values(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The shape of a tensor as numbers.
pub(super) fn dims(tensor: &FlexTensor) -> &[usize] {
    tensor.layout().shape().as_slice()
}

/// The last size of a tensor and the product of all before it.
pub(super) fn rows_and_width(tensor: &FlexTensor) -> (usize, usize) {
    let (width, leading) = dims(tensor).split_last().expect("operations get no 0-dimensional tensor");
    (leading.iter().product(), *width)
}

/// Shares the storage of a dense tensor as a matrix.
pub(super) fn view(tensor: &FlexTensor, part: View) -> FlexTensor {
    let layout = Layout::new(
        Shape::from(vec![part.rows, part.columns]),
        vec![part.row_stride as isize, 1],
        tensor.layout().start_offset() + part.offset,
    );
    tensor.clone().with_layout(layout)
}

/// A dense tensor as `[rows, width]`, whatever its leading dimensions.
pub(super) fn matrix(tensor: &FlexTensor) -> FlexTensor {
    let (rows, columns) = rows_and_width(tensor);
    view(tensor, View { offset: 0, rows, columns, row_stride: columns })
}

/// `left · right`.
pub(super) fn product(left: &FlexTensor, right: &FlexTensor) -> FlexTensor {
    Flex::float_matmul(left.clone(), right.clone())
}

/// `left · rightᵀ`.
pub(super) fn product_transposed(left: &FlexTensor, right: &FlexTensor) -> FlexTensor {
    Flex::float_matmul(left.clone(), transposed(right))
}

/// `leftᵀ · right`.
pub(super) fn transposed_product(left: &FlexTensor, right: &FlexTensor) -> FlexTensor {
    Flex::float_matmul(transposed(left), right.clone())
}

fn transposed(matrix: &FlexTensor) -> FlexTensor {
    matrix.clone().with_layout(matrix.layout().transpose(0, 1))
}
