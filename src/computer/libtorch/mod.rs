//! libtorch without Python: takes the parts of PyTorch's wheels that are libtorch and checks every byte of them. Unaware of Burn, of cargo,
//! of devices and of the console.
//!
//! A folder that it made is laid out as Python's `site-packages`, for every flavour alike:
//!
//! ```text
//! DIR/torch/include, DIR/torch/lib     LIBTORCH=DIR/torch
//! DIR/nvidia/cublas/lib, …             where the RPATH of the libraries in torch/lib looks for those of NVIDIA
//! DIR/torch.libs                       the same for what the ARM wheel brings
//! DIR/<wheel>.dist-info/RECORD         what a wheel says of its own files: names, sizes, SHA-256
//! DIR/loramill-libtorch.json           written last: what the folder is
//! ```
//!
//! What is trusted: `pins` holds the SHA-256 of each wheel and of its RECORD, and the RECORD holds that of each member. So a member can be
//! fetched alone out of a wheel of 900 MB and is still known to be the published one.
//!
//! There is no `build-version` in `torch/`, on purpose: torch-sys 0.22 compares it with 2.9.0, to the last digit, and refuses 2.9.1 unless
//! `LIBTORCH_BYPASS_VERSION_CHECK` is set; without the file it does not ask. The version is pinned here instead.

pub mod sha256;

pub mod pins;
pub mod record;
pub mod wheel;

pub mod client;
pub mod index;
pub mod remote_file;

mod archive;

pub mod folder;
pub mod plan;

pub mod fetch;
