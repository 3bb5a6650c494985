//! With which exit code does a command end, and what does it say when it fails? 0 done, 1 a stage failed or something is wrong on
//! this computer, 2 the pipeline file or the arguments are wrong, 130 interrupted.
//!
//! Unaware of the commands; `plan --exit-code` and `doctor` have codes of their own beside these.

use std::process::ExitCode;

use crate::cli::terminal::output::{complain, errors_take_colours, tell_painted};
use crate::cli::terminal::render;
use crate::engine::syntax::diagnostic::Diagnostic;

/// The pipeline file or the arguments are wrong.
pub const WRONG: u8 = 2;

/// What a shell reports of a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

/// A file of the user's that is wrong: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{}", render::problems(.0, false).to_string().trim_end())]
pub struct WrongFile(pub Vec<Diagnostic>);

/// Arguments that make no sense together: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongArguments(pub String);

/// Says what went wrong, and gives the exit code for it.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(WrongFile(problems)) = error.downcast_ref() {
        tell_painted(&render::problems(problems, errors_take_colours()));
        return ExitCode::from(WRONG);
    }
    complain(&format!("{error:#}"));
    ExitCode::from(if error.is::<WrongArguments>() { WRONG } else { 1 })
}
