//! What a command asks of the process that runs the networks, and what it knows of a run that another process does.

use std::env;
use std::ffi::OsString;

use crate::cli::terminal::console::Console;
use crate::engine::cache::Cache;
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::run::control::Wishes;

/// What the worker is asked for.
pub struct Request<'a> {
    /// Its command line, without the program.
    pub arguments: Vec<OsString>,
    /// The run that it is about.
    pub run: Option<Passing<'a>>,
}

/// What this program knows of a run that the worker does.
pub struct Passing<'a> {
    pub pipeline: &'a Pipeline,
    pub cache: &'a Cache,
    pub console: &'a Console,
    pub wishes: &'a Wishes,
}

impl Request<'_> {
    /// The command that this program was given.
    pub fn this_command() -> Vec<OsString> {
        env::args_os().skip(1).collect()
    }
}
