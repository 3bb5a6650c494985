//! How the kinds that make model files write them: container, type of the numbers, and what an output is called. Unaware of what
//! is in them.

use crate::engine::kind::stage::{Draft, Work};
use crate::sd::checkpoint::convert::Target;
use crate::sd::checkpoint::tensor::Dtype;

crate::choice! {
    /// How a model file is wrapped.
    pub enum Container {
        /// Loads fast and cannot carry code.
        Safetensors = "safetensors",
        /// PyTorch's, for programs that read nothing else.
        Ckpt = "ckpt",
        /// As `ckpt`, by its other name: what LoRAs and VAEs are called.
        Pt = "pt"
    }
}

impl Container {
    /// The format of the file. `ckpt` and `pt` are one format and differ only in the extension.
    pub fn target(self) -> Target {
        match self {
            Self::Safetensors => Target::Safetensors,
            Self::Ckpt | Self::Pt => Target::Torch,
        }
    }
}

crate::choice! {
    /// The type of the numbers in a model file.
    pub enum FileDtype {
        /// As in the file that is read.
        Auto = "auto",
        /// Twice the size of fp16, nothing lost.
        Fp32 = "fp32",
        /// What most programs expect.
        Fp16 = "fp16",
        /// As small as fp16, for larger and coarser numbers.
        Bf16 = "bf16"
    }
}

impl FileDtype {
    /// `None` keeps each tensor's own.
    pub fn dtype(self) -> Option<Dtype> {
        match self {
            Self::Auto => None,
            Self::Fp32 => Some(Dtype::F32),
            Self::Fp16 => Some(Dtype::F16),
            Self::Bf16 => Some(Dtype::Bf16),
        }
    }
}

/// An output that is named and described as its work is.
pub fn draft_of(work: &Work) -> Draft {
    Draft { origin: work.origin.clone(), attributes: work.attributes.clone(), ..Draft::new(&work.name) }
}
