//! What a program does with networks. Its `main` says whether it does it at all: a program that never refers to this links no library for it.

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::commands::bench;
use crate::cli::commands::self_test;
use crate::sd::device;
use crate::stages::linked::{NETWORK_WORK, NetworkWork};

/// All that needs the library of a device.
pub struct Networks {
    pub stages: &'static NetworkWork,
    pub bench: fn(&bench::Arguments) -> Result<ExitCode>,
    pub self_test: fn(&self_test::Arguments) -> Result<ExitCode>,
    /// An error if this machine lacks the device of that name.
    pub find_device: fn(&str) -> Result<()>,
    /// What computes on the device of that name, for people.
    pub describe_device: fn(&str) -> String,
}

pub static NETWORKS: Networks = Networks {
    stages: &NETWORK_WORK,
    bench: bench::measure,
    self_test: self_test::compare_with_embedded,
    find_device: |name| device::named(name).map(drop),
    describe_device: device::description,
};
