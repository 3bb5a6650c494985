//! What is run, and how: the arguments that `run` and `watch` share.

use std::ffi::OsString;

use clap::Args;

use crate::cli::target::targets::TargetArguments;
use crate::cli::terminal::console::{Console, Format};
use crate::engine::graph::selection::Selection;
use crate::engine::run::run_context::RunOptions;

#[derive(Args, Clone, Debug)]
pub struct RunArguments {
    #[command(flatten)]
    pub what: TargetArguments,
    /// Keep running whatever does not depend on a failed item or stage
    #[arg(short, long)]
    pub keep_going: bool,
    /// Threads for pictures and texts [default: one per core]
    #[arg(short, long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    jobs: usize,
    /// Device that runs the networks: `auto`, `cpu`, `libtorch:0`
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How to show progress [default: bars on a terminal, else plain lines]
    #[arg(long, value_name = "FORMAT")]
    progress: Option<Format>,
}

impl RunArguments {
    /// What shows the run.
    pub fn console(&self, is_quiet: bool) -> Console {
        Console::new(self.progress, is_quiet)
    }

    /// The same without what is forced: for further runs after one that has done it.
    pub fn without_force(&self) -> Self {
        Self { what: self.what.without_force(), ..self.clone() }
    }

    /// - `device`: what networks run on in this process
    pub fn options(&self, selection: Selection, device: String) -> RunOptions {
        RunOptions { selection, keep_going: self.keep_going, jobs: self.jobs, device }
    }

    /// As on a command line, names last, without the device: the worker knows its own.
    pub fn written(&self) -> Vec<OsString> {
        let mut written: Vec<OsString> = Vec::new();
        written.extend(self.keep_going.then(|| "--keep-going".into()));
        written.push(format!("--jobs={}", self.jobs).into());
        written.extend(self.progress.map(|format| format!("--progress={}", format.word()).into()));
        written.extend(self.what.written().into_iter().map(OsString::from));
        written
    }
}
