//! `loramill self-test`: compares a device with the embedded backend. `doctor` and `auto` start it for each card, by
//! `device::probe`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use crate::cli::device::launch::{Ready, prepare};
use crate::cli::device::request::{Request, Work};
use crate::cli::global::Global;
use crate::cli::terminal::output::print;

/// Compute every operation of the networks on a device and on the embedded backend, and compare
#[derive(Args)]
pub struct Arguments {
    /// As `libtorch:0` or `vulkan:0`
    #[arg(value_name = "DEVICE")]
    device: String,
}

/// Prints how far the device and the embedded backend are apart at most. Where a worker opens the networks, its exit code is
/// returned.
///
/// # Errors
/// If an operation differs; the message names it.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let device = match prepare(&arguments.device, &Request::of_this_process(Work::SelfTest), global)? {
        Ready::Here(device) => device,
        Ready::Done(code) => return Ok(code),
    };
    let networks = global.networks().context("this program opens no networks")?;
    let report = (networks.self_test)(&device)?;
    print(&format!("{report}\n"))?;
    Ok(ExitCode::SUCCESS)
}
