//! What does a command do, and how is it said? The only wing that prints or exits.
//!
//! Each room answers one question. A room imports those below it in this list, never one above it; `tests/tidy.rs` holds the
//! table.
//!
//! ```text
//! commands  what does each command do?
//! walls     what may a command write, and which programs may it start?
//! device    which device and which process run the networks?
//! target    which pipeline, stages and cache is a command about?
//! global    which options does every command take?
//! networks  what does this program do with networks?
//! exit      with which exit code does a command end?
//! terminal  how is it printed?
//! ```
//!
//! This file is the command line, and the way from it to a command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

#[cfg(feature = "nn")]
use crate::cli::commands::{bench, self_test};
use crate::cli::commands::{
    check, completions, do_kind, doctor, edits, explain, fsck, gc, graph, init, libtorch, plan, restore, run, skip, stages,
    status, stop, watch,
};
use crate::cli::exit::{WRONG, report};
use crate::cli::global::Global;
use crate::cli::networks::Networks;
use crate::cli::terminal::output::{escaped, tell};
use crate::cli::walls::Reach;
use crate::computer::machine::walls::Programs;

pub mod commands;
pub mod terminal;

mod device;
mod exit;
mod global;
mod networks;
mod target;
mod walls;

/// Teaches Stable Diffusion a new concept: one file, one command, from photos to a usable LoRA.
#[derive(Parser)]
#[command(name = "loramill", version, propagate_version = true, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Arguments),
    Check(check::Arguments),
    Plan(plan::Arguments),
    Run(run::Arguments),
    Watch(watch::Arguments),
    Stop(stop::Arguments),
    Status(status::Arguments),
    Explain(explain::Arguments),
    Edits(edits::Arguments),
    Skip(skip::Arguments),
    Do(do_kind::Arguments),
    Graph(graph::Arguments),
    Stages(stages::Arguments),
    Restore(restore::Arguments),
    Gc(gc::Arguments),
    Fsck(fsck::Arguments),
    #[cfg(feature = "nn")]
    Bench(bench::Arguments),
    #[cfg(feature = "nn")]
    SelfTest(self_test::Arguments),
    Libtorch(libtorch::Arguments),
    Doctor(doctor::Arguments),
    Completions(completions::Arguments),
}

impl Command {
    /// What it may write. Whoever adds a command decides it here.
    fn reach(&self, global: &Global) -> Reach {
        match self {
            // Below the current folder: a pipeline may be new.
            Self::Init(_) => Reach::Below(vec![PathBuf::from(".")]),
            Self::Check(_) | Self::Graph(_) | Self::Stages(_) | Self::Completions(_) => Reach::NOTHING,
            Self::Plan(plan::Arguments { what, .. }) => Reach::cache_of(what.pipeline().as_deref(), global),
            Self::Status(status::Arguments { pipeline, .. }) | Self::Stop(stop::Arguments { pipeline, .. }) => {
                Reach::cache_of(pipeline.named(), global)
            }
            Self::Run(run::Arguments { run, .. }) | Self::Watch(watch::Arguments { run, .. }) => {
                Reach::project(run.what.pipeline().as_deref(), global).unless_on_card(&run.device)
            }
            Self::Gc(gc::Arguments { cache, .. }) | Self::Fsck(fsck::Arguments { cache, .. }) => {
                Reach::cache_around(cache.folder(), global)
            }
            Self::Explain(arguments) => arguments.reach(global),
            Self::Edits(arguments) => arguments.reach(global),
            Self::Skip(arguments) => arguments.reach(global),
            Self::Restore(arguments) => arguments.reach(global),
            // It makes a folder first.
            Self::Do(_) => Reach::Everything,
            Self::Libtorch(_) | Self::Doctor(_) => Reach::Everything,
            #[cfg(feature = "nn")]
            Self::Bench(_) | Self::SelfTest(_) => Reach::Everything,
        }
    }

    /// What it may start.
    fn programs(&self) -> Programs {
        match self {
            Self::Run(_) | Self::Watch(_) | Self::Restore(_) | Self::Gc(_) | Self::Fsck(_) => walls::programs(),
            _ => walls::programs_to_look(),
        }
    }

    fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            Self::Init(arguments) => init::run(arguments, global),
            Self::Check(arguments) => check::run(arguments, global),
            Self::Plan(arguments) => plan::run(arguments, global),
            Self::Run(arguments) => run::run(arguments, global),
            Self::Watch(arguments) => watch::run(arguments, global),
            Self::Stop(arguments) => stop::run(arguments, global),
            Self::Status(arguments) => status::run(arguments, global),
            Self::Explain(arguments) => explain::run(arguments, global),
            Self::Edits(arguments) => edits::run(arguments, global),
            Self::Skip(arguments) => skip::run(arguments, global),
            Self::Do(arguments) => do_kind::run(arguments, global),
            Self::Restore(arguments) => restore::run(arguments, global),
            Self::Gc(arguments) => gc::run(arguments, global),
            Self::Fsck(arguments) => fsck::run(arguments, global),
            Self::Libtorch(arguments) => libtorch::run(arguments, global),
            Self::Doctor(arguments) => doctor::run(arguments, global),
            Self::Graph(arguments) => graph::run(arguments, global),
            #[cfg(feature = "nn")]
            Self::Bench(arguments) => bench::run(arguments, global),
            #[cfg(feature = "nn")]
            Self::SelfTest(arguments) => self_test::run(arguments, global),
            Self::Completions(arguments) => completions::run(arguments, &mut Cli::command()),
            Self::Stages(arguments) => stages::run(arguments, global),
        }
    }
}

/// The program that people start. Where a library of a device takes long to load, it leaves networks to the worker.
pub fn main() -> ExitCode {
    #[cfg(not(feature = "libtorch"))]
    let networks = networks::opened_here();
    // Not to refer to it keeps the library out of this program.
    #[cfg(feature = "libtorch")]
    let networks = None;
    obey(std::env::args_os(), networks)
}

/// The worker.
pub fn worker() -> ExitCode {
    match device::orders::take() {
        Ok(()) => obey(std::env::args_os(), networks::opened_here()),
        Err(error) => report(&error),
    }
}

fn obey(arguments: impl IntoIterator<Item = OsString>, networks: Option<&'static Networks>) -> ExitCode {
    let mut cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let text = error.render().to_string();
            if escaped(&text) == text {
                error.exit();
            }
            // It quotes the arguments, which a shell may have made of the names of files.
            tell(&text);
            return ExitCode::from(WRONG);
        }
    };
    if let Some(networks) = networks {
        (networks.link)();
    }
    cli.global.set_networks(networks);
    cli.command.reach(&cli.global).raise(&cli.command.programs());
    match cli.command.run(&cli.global) {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_command_that_reads_a_project_and_needs_no_card_writes_within_walls() {
        let temp = tempfile::tempdir().unwrap();
        let project = temp.path().join("star");
        std::fs::create_dir(&project).unwrap();
        std::fs::write(project.join("pipeline.yaml"), "concept: star\ninputs: {}\nstages: {}\n").unwrap();
        let (at, cache) = (project.to_str().unwrap(), project.join("cache"));
        let reach = |arguments: &[&str]| {
            let cli = Cli::try_parse_from([&["loramill"], arguments].concat()).unwrap_or_else(|error| panic!("{error}"));
            cli.command.reach(&cli.global)
        };
        for nothing in [&["check", at][..], &["graph", at], &["stages"], &["completions", "bash"]] {
            assert_eq!(reach(nothing), Reach::NOTHING, "{nothing:?}");
        }
        for arguments in [
            &["plan", at][..],
            &["status", at],
            &["stop", at],
            &["explain", at],
            &["run", at, "--device", "cpu"],
            &["watch", at, "--device", "cpu"],
            &["edits", "list", at],
            &["edits", "accept", at, "--all"],
            &["skip", at, "a"],
            &["restore", at],
            &["gc", at],
            &["fsck", at],
        ] {
            let Reach::Below(folders) = reach(arguments) else { panic!("{arguments:?} may write everywhere") };
            let is_allowed = |folder: &PathBuf| [&project, &cache].contains(&folder) || folder == Path::new("/dev/shm");
            assert!(!folders.is_empty() && folders.iter().all(is_allowed), "{arguments:?}: {folders:?}");
        }
    }
}
