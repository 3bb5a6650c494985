//! `loramill self-test`: compares a device with the embedded backend. `doctor` and `auto` start it for each card, by `device::probe`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use crate::cli::device::check::check_device;
use crate::cli::device::launch::done_elsewhere;
use crate::cli::device::names::device_for;
use crate::cli::device::request::Request;
use crate::cli::global::Global;
use crate::cli::terminal::output::print;

/// Compute every operation of the networks on a device and on the embedded backend, and compare
#[derive(Args)]
pub struct Arguments {
    /// As `libtorch:0` or `vulkan:0`
    #[arg(value_name = "DEVICE")]
    device: String,
}

pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let Some(networks) = global.networks() else {
        let request = Request { arguments: Request::this_command(), run: None };
        return done_elsewhere(&arguments.device, &request, global)?.context("this program opens no networks");
    };
    check_device(&arguments.device, global)?;
    let report = (networks.self_test)(&device_for(&arguments.device))?;
    print(&format!("{report}\n"))?;
    Ok(ExitCode::SUCCESS)
}
