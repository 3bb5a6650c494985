//! The operations on CubeCL's backend, which is one whatever runtime a device has: CUDA, ROCm and Vulkan alike. All of them are the generic
//! ones; a kernel of our own would take the place of one here. Knows no runtime.

use burn::backend::Cube;

use crate::sd::ops::activation::ActivationKernel;
use crate::sd::ops::attention::AttentionKernel;
use crate::sd::ops::conv2d::ConvolutionKernel;
use crate::sd::ops::geglu::GegluKernel;
use crate::sd::ops::group_norm::GroupNormKernel;
use crate::sd::ops::layer_norm::LayerNormKernel;
use crate::sd::ops::linear::LinearKernel;
use crate::sd::ops::upsample::UpsampleKernel;

impl ActivationKernel for Cube {}

impl AttentionKernel for Cube {
    /// Nothing is kept.
    type Kept = ();
}

impl ConvolutionKernel for Cube {}

impl GegluKernel for Cube {}

impl GroupNormKernel for Cube {
    /// None are kept.
    type Statistics = ();
}

impl LayerNormKernel for Cube {}

impl LinearKernel for Cube {}

impl UpsampleKernel for Cube {}
