//! What does this program do with networks?
//!
//! Its `main` says whether it does it at all: a program that never refers to [`opened_here`] links no library of a device.

use anyhow::Result;

#[cfg(feature = "nn")]
use crate::cli::networks::measurement::{Measured, Measurement};

#[cfg(feature = "nn")]
pub(crate) mod measurement;

/// All that needs the library of a device.
#[cfg_attr(not(feature = "nn"), allow(dead_code, reason = "a build without networks has none of it"))]
pub struct Networks {
    /// Has the stages open networks in this process.
    pub link: fn(),
    /// What `loramill bench` measures.
    #[cfg(feature = "nn")]
    pub measure: fn(&Measurement) -> Result<Measured>,
    /// Compares the device of that name with the embedded backend, and reports how near it is; an error if it is off.
    #[cfg(feature = "nn")]
    pub self_test: fn(&str) -> Result<String>,
    /// An error if this machine lacks the device of that name.
    pub find_device: fn(&str) -> Result<()>,
    /// What computes on the device of that name, for people.
    pub describe_device: fn(&str) -> String,
}

/// All that this build has. Whatever refers to it links what it takes.
#[cfg(feature = "nn")]
pub fn opened_here() -> Option<&'static Networks> {
    use crate::sd::{device, self_test};
    use crate::stages::network_work::NETWORK_WORK;
    use crate::stages::shared::linked::link;

    static NETWORKS: Networks = Networks {
        link: || link(&NETWORK_WORK),
        measure: measurement::measure,
        self_test: |name| self_test::compare(&device::named(name)?, &device::named("cpu")?),
        find_device: |name| device::named(name).map(drop),
        describe_device: device::description,
    };
    Some(&NETWORKS)
}

/// `None`: this build has no networks.
#[cfg(not(feature = "nn"))]
pub const fn opened_here() -> Option<&'static Networks> {
    None
}
