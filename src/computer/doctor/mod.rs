//! Judges a computer: what works on it, what does not, how that was seen, how to mend it and how to see that it is mended. Reads the facts from
//! `machine`; prints nothing.
//!
//! Checks, from cheap to costly:
//!
//! | check | asks | is not OK when |
//! | --- | --- | --- |
//! | `build` | what the program was built with | networks are left out |
//! | `system` | kernel, container, Windows | Windows hides the GPU |
//! | `driver` | PCI bus, kernel module, blacklists | a card has no driver, or another one |
//! | `access` | opening `/dev/kfd` and the render file, groups now and at the next login | one of them does not open |
//! | `gpu` | target, memory, compute units | the memory is small |
//! | `visibility` | masks, a processor's GPU beside a card | a mask hides all cards, or is empty |
//! | `override` | `HSA_OVERRIDE_GFX_VERSION` | it is malformed, empty, not needed, or of another generation |
//! | `nvidia-driver` | module, version | nouveau drives the card, or it is too old for the CUDA of libtorch |
//! | `nvidia-access` | `/dev/nvidia*` | one is missing or does not open |
//! | `rocm` | installations, `LD_LIBRARY_PATH` | none has the runtime, or two are mixed |
//! | `libtorch` | version, ROCm or CUDA, what is loaded | it is missing, of another version, or for another vendor |
//! | `code` | targets that rocBLAS is compiled for | there is none that the card can run |
//! | `blas` | hipBLASLt's targets | the user wants it where it has no code |
//! | `miopen` | folders of compiled kernels | they cannot be written, or lie on another computer |
//! | `compiler` | `hipconfig`, hiprtc (the `rocm` backend) | one is missing |
//! | `vulkan` | loader, drivers (the `vulkan` backend) | one is missing, or two speak for one card |
//! | `processor` | vector units, half precision | it has no AVX2 |
//! | `memory` | of the computer or its container, swap | it has less than a training of SD 1.5 takes |
//! | `disk` | room for the cache | it is full or cannot be written |
//! | `limits` | open files, locked memory | few files may be open |
//! | `in-use` | graphics memory in use, screens | more than a tenth is taken |
//! | `bus` | lanes, IOMMU, resizable BAR | the card has a quarter of its lanes; several cards without `iommu=pt` |
//! | `models` | folders of `model://` | a file is empty or stands for another |
//! | `walls` | Landlock, tried | what it must keep back goes through |
//! | `self-test` | what a child process computed, beside the processor | numbers differ; `Unverified` where none was run |

mod amd;
mod cards;
mod computer;
mod facts;
mod libraries;
mod libtorch;
mod models;
mod nvidia;
mod overrides;
pub mod scrub;
mod self_test;
mod verdict;

use std::path::{Path, PathBuf};

use crate::computer::machine::gfx::Support;
use crate::computer::machine::host::Host;
use crate::computer::machine::kfd::{self, AmdGpu};
use crate::computer::machine::visibility::visible;
use crate::computer::machine::walls::Trial;
use crate::computer::machine::{Machine, pci};
use crate::engine::cache::bytes::size;

/// How well something works, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Ok,
    /// Nothing speaks against it, and nothing proves it.
    Unverified,
    /// It works, slower or with less.
    Degraded,
    /// It does not work.
    Blocked,
}

impl State {
    /// As the report prints it and as its JSON has it.
    pub const fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Unverified => "unverified",
            State::Degraded => "degraded",
            State::Blocked => "blocked",
        }
    }
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// As in the table above; other programs know it by this.
    pub name: &'static str,
    pub concerns: Concerns,
    /// The device that it is about, if about one.
    pub device: Option<String>,
    pub state: State,
    /// The answer in a line.
    pub summary: String,
    /// What was seen.
    pub evidence: Vec<String>,
    /// What to do.
    pub fix: Option<String>,
    /// What shows that it is done.
    pub verify: Option<String>,
    /// False where it does not matter to this computer and this build; then it counts for nothing.
    pub is_relevant: bool,
}

/// Which devices a check speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concerns {
    Amd,
    Nvidia,
    Processor,
    /// All of the computer; of no device alone.
    Computer,
}

impl Check {
    fn new(name: &'static str, concerns: Concerns, state: State, summary: impl Into<String>) -> Self {
        Self {
            name,
            concerns,
            device: None,
            state,
            summary: summary.into(),
            evidence: Vec::new(),
            fix: None,
            verify: None,
            is_relevant: true,
        }
    }

    fn of(mut self, device: &str) -> Self {
        self.device = Some(device.to_string());
        self
    }

    fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    fn fix(mut self, fix: impl Into<String>, verify: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self.verify = Some(verify.into());
        self
    }

    const fn relevant(mut self, is_relevant: bool) -> Self {
        self.is_relevant = is_relevant;
        self
    }
}

/// What may be said of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `libtorch:0`; of a card that no driver numbers its place on the PCI bus.
    pub device: String,
    /// `AMD Radeon RX 6700 XT`
    pub name: String,
    /// `gfx1031`, of AMD's.
    pub target: Option<String>,
    /// Bytes of its own memory, where known.
    pub memory: Option<u64>,
    /// Further facts in a few words each.
    pub facts: Vec<String>,
    pub support: Option<Support>,
    pub state: State,
    /// Why it is not OK: the answer of the first check that is as bad.
    pub because: Option<String>,
}

/// All that was found.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// Cards first, the processor last.
    pub devices: Vec<Verdict>,
    pub checks: Vec<Check>,
    /// What the computer is: name and value.
    pub facts: Vec<(String, String)>,
    /// A way to be faster although nothing is wrong.
    pub advice: Option<String>,
}

impl Diagnosis {
    /// The worst of the checks that matter here.
    pub fn state(&self) -> State {
        self.checks.iter().filter(|check| check.is_relevant).map(|check| check.state).max().unwrap_or(State::Ok)
    }
}

/// What the program can compute with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Build {
    pub networks: bool,
    pub libtorch: bool,
    pub rocm: bool,
    pub vulkan: bool,
}

/// What a child process found that computed on a device what the processor had computed too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfTest {
    /// `libtorch:0`
    pub device: String,
    pub passed: bool,
    /// What was compared, or what came out wrong.
    pub report: String,
}

/// What the doctor is told.
pub struct Patient<'a> {
    pub host: &'a Host,
    pub machine: &'a Machine,
    pub build: Build,
    /// Folders in which `model://` is looked for.
    pub models: &'a [PathBuf],
    /// The folder of the cache, which need not exist.
    pub cache: &'a Path,
    pub self_tests: &'a [SelfTest],
    /// What came of walls around a command.
    pub walls: &'a Trial,
}

/// Examines a computer.
pub fn examine(patient: &Patient<'_>) -> Diagnosis {
    let mut checks = Vec::new();
    checks.push(computer::build(patient));
    checks.push(computer::system(patient));
    checks.extend(amd::checks(patient));
    checks.extend(nvidia::checks(patient));
    checks.extend(libraries::checks(patient));
    checks.extend(computer::checks(patient));
    checks.extend(cards::checks(patient));
    checks.extend(models::check(patient));
    checks.extend(self_test::checks(patient, &checks));
    let devices = verdict::devices(patient, &checks);
    Diagnosis { advice: verdict::advice(patient, &devices), devices, checks, facts: facts::of(patient) }
}

/// AMD's GPUs that are worth computing on, as a user names them: number and card.
fn numbered(machine: &Machine) -> Vec<(String, &AmdGpu)> {
    let shown = visible(&machine.amd, &machine.environment).gpus;
    let named = shown.into_iter().enumerate().map(|(number, gpu)| (format!("libtorch:{number}"), gpu));
    named.filter(|(_, gpu)| !gpu.is_for_display_only()).collect()
}

/// Whether there is a GPU of AMD's that is worth computing on, or may be.
fn has_amd(machine: &Machine) -> bool {
    machine.amd.iter().any(|gpu| !gpu.is_for_display_only()) || !kfd::unlisted(&machine.controllers, &machine.amd).is_empty()
}

fn has_nvidia(machine: &Machine) -> bool {
    machine.nvidia.as_ref().is_some_and(|nvidia| !nvidia.gpus.is_empty()) || machine.controllers_of(pci::NVIDIA).next().is_some()
}

/// Memory as it is sold: in whole GB of 2^30 bytes.
pub fn memory_size(bytes: u64) -> String {
    const GIB: u64 = 1 << 30;
    if bytes < GIB { size(bytes) } else { format!("{} GB", (bytes + GIB / 2) / GIB) }
}
