//! What this computer has: GPUs and their drivers, the processor, the system, libraries for GPUs. Judges nothing; see `doctor`.
//!
//! Everything is read below an injectable root and asked of an injectable kernel, so that recorded computers can be looked at too.

pub mod gfx;
pub mod host;
pub mod kfd;
pub mod libtorch;
pub mod nvidia;
pub mod pci;
pub mod process;
pub mod processor;
pub mod rocm;
pub mod system;
pub mod visibility;
pub mod vulkan;
pub mod walls;
pub mod worker_environment;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::computer::machine::gfx::Gfx;
use crate::computer::machine::host::Host;
use crate::computer::machine::kfd::AmdGpu;
use crate::computer::machine::libtorch::{Flavour, Libtorch};
use crate::computer::machine::nvidia::Nvidia;
use crate::computer::machine::pci::DisplayController;
use crate::computer::machine::processor::{Memory, Processor};
use crate::computer::machine::rocm::Rocm;
use crate::computer::machine::system::System;
use crate::computer::machine::vulkan::Vulkan;

/// A computer.
#[derive(Clone, Debug)]
pub struct Machine {
    pub system: System,
    pub processor: Processor,
    pub memory: Memory,
    pub controllers: Vec<DisplayController>,
    /// GPUs of AMD's compute driver, by node.
    pub amd: Vec<AmdGpu>,
    pub nvidia: Option<Nvidia>,
    pub rocm: Vec<Rocm>,
    /// The one that would be used first.
    pub libtorch: Vec<Libtorch>,
    pub vulkan: Vulkan,
    pub environment: BTreeMap<String, String>,
    /// The user's folder for caches, `~/.cache`.
    pub cache_home: Option<PathBuf>,
}

impl Machine {
    /// Reads all of it now. What cannot be read is missing or empty; nothing is an error.
    pub fn read(host: &Host) -> Self {
        let controllers = pci::display_controllers(host);
        let rocm = rocm::installs(host);
        let cache_home = host.filled_variable("XDG_CACHE_HOME").map(PathBuf::from);
        Self {
            system: System::read(host),
            processor: Processor::read(host),
            memory: Memory::read(host),
            amd: kfd::gpus(host, &controllers),
            nvidia: Nvidia::read(host),
            libtorch: libtorch::installs(host, &rocm),
            vulkan: Vulkan::read(host),
            environment: host.variables().clone(),
            cache_home: cache_home.or_else(|| host.filled_variable("HOME").map(|home| Path::new(home).join(".cache"))),
            controllers,
            rocm,
        }
    }

    /// What the libtorch that would be used is built for.
    pub fn torch_flavour(&self) -> Option<Flavour> {
        self.libtorch.first().map(|libtorch| libtorch.flavour)
    }

    /// Targets that the libtorch that would be used has code for; `None` if that cannot be seen, or there is none for ROCm.
    pub fn torch_targets(&self) -> Option<&BTreeSet<Gfx>> {
        self.libtorch.first().filter(|libtorch| libtorch.flavour == Flavour::Hip)?.compiled_for.rocblas.as_ref()
    }

    /// Graphics cards of a vendor that are plugged in, whether or not a driver has them.
    pub fn controllers_of(&self, vendor: u64) -> impl Iterator<Item = &DisplayController> {
        self.controllers.iter().filter(move |controller| controller.vendor == vendor)
    }
}
