//! What a command wants networks opened for, and what it knows of a run that another process does.

use std::env;
use std::ffi::OsString;

use crate::cli::terminal::console::Console;
use crate::engine::cache::Cache;
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::graph::selection::Selection;
use crate::engine::run::control::StopRequests;

/// A command that opens networks.
pub struct Request<'a> {
    /// Its command line, without the program: what the worker is started with.
    pub arguments: Vec<OsString>,
    pub work: Work<'a>,
}

/// What the networks are opened for.
pub enum Work<'a> {
    /// Stages, as far as they are not fresh.
    Run(Passing<'a>),
    #[cfg_attr(not(feature = "nn"), allow(dead_code, reason = "a build without networks has no such command"))]
    Benchmark,
    /// The comparison that a device must pass before other work.
    #[cfg_attr(not(feature = "nn"), allow(dead_code, reason = "a build without networks has no such command"))]
    SelfTest,
}

/// What this program knows of a run that the worker may do.
pub struct Passing<'a> {
    pub pipeline: &'a Pipeline,
    pub cache: &'a Cache,
    pub selection: &'a Selection,
    pub console: &'a Console,
    pub requests: &'a StopRequests,
}

/// The command that this process was given.
pub fn this_command_line() -> Vec<OsString> {
    env::args_os().skip(1).collect()
}

impl<'a> Request<'a> {
    /// By the command line of this process.
    pub fn of_this_process(work: Work<'a>) -> Self {
        Self { arguments: this_command_line(), work }
    }

    /// The run that it is about, if any.
    pub const fn run(&self) -> Option<&Passing<'a>> {
        match &self.work {
            Work::Run(run) => Some(run),
            Work::Benchmark | Work::SelfTest => None,
        }
    }
}
