//! What runs the networks: which device, and which process?

#[cfg(feature = "nn")]
pub(crate) mod admit;
#[cfg(feature = "libtorch")]
pub(crate) mod choose;
#[cfg(feature = "nn")]
pub(crate) mod compared;
pub(crate) mod launch;
#[cfg(feature = "libtorch")]
pub(crate) mod worker;
#[cfg(feature = "libtorch")]
pub(crate) mod worker_end;
