//! The program that opens networks for `loramill`, which starts it.

use std::process::ExitCode;

fn main() -> ExitCode {
    loramill::cli::worker()
}
