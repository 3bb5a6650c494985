//! Derivatives by running a function again, so that nothing of it is kept until then.

use tch::Tensor;

use crate::sd::ops::libtorch::recorded::Recorded;

/// The gradient of `x`, where `function(x)` has `output_gradient`. Both stay as they are.
pub(super) fn gradient(x: &Tensor, output_gradient: &Tensor, function: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
    let [gradient] = Recorded::new([x], |[x]| function(x)).gradients(output_gradient);
    gradient
}
