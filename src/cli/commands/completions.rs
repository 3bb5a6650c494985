//! `loramill completions`: what a shell needs to complete commands and options.

use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::cli::terminal::output::print;

/// Print completions for a shell
#[derive(Args)]
pub struct Arguments {
    #[arg(value_enum)]
    shell: Shell,
}

/// `command`: the program's own.
pub fn run(arguments: &Arguments, command: &mut Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, command, "loramill", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
