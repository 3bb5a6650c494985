//! The commands. The only part of the program that prints or decides an exit code: 0 done, 1 a stage failed, 2 the pipeline file or the
//! arguments are wrong.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

#[cfg(feature = "nn")]
use crate::cli::commands::{bench, self_test};
use crate::cli::commands::{
    check, completions, do_kind, doctor, edits, explain, fsck, gc, graph, init, libtorch, plan, restore, run, skip, stages,
    status, stop, watch,
};
use crate::cli::terminal::output::{Paint, Painted, errors_take_colours, escaped, tell, tell_painted};
use crate::cli::terminal::render;
use crate::cli::walls::Reach;
use crate::computer::machine::walls::Programs;
use crate::engine::graph::load::{self, load};
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::inputs::sources::{Surroundings, home_expanded};
use crate::engine::syntax::diagnostic::{Diagnostic, Diagnostics};
use crate::stages::KINDS;

pub mod commands;
pub mod terminal;

mod device;
#[cfg(feature = "nn")]
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
            Self::Plan(arguments) => arguments.reach(global),
            Self::Status(arguments) => arguments.reach(global),
            Self::Stop(arguments) => arguments.reach(global),
            Self::Explain(arguments) => arguments.reach(global),
            Self::Run(arguments) => arguments.reach(global),
            Self::Watch(arguments) => arguments.reach(global),
            Self::Edits(arguments) => arguments.reach(global),
            Self::Skip(arguments) => arguments.reach(global),
            Self::Restore(arguments) => arguments.reach(global),
            Self::Gc(arguments) => arguments.reach(global),
            Self::Fsck(arguments) => arguments.reach(global),
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
            Self::Completions(arguments) => completions::run(arguments, global),
            Self::Stages(arguments) => stages::run(arguments, global),
        }
    }
}

/// What every command takes.
#[derive(Args)]
pub struct Global {
    /// The folder of cached artifacts [env: LORAMILL_CACHE]
    #[arg(long, global = true, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Say only what went wrong
    #[arg(short, long, global = true)]
    quiet: bool,
    /// What this program does with networks; `None` if it leaves that to another.
    #[cfg(feature = "nn")]
    #[arg(skip)]
    networks: Option<&'static networks::Networks>,
}

impl Global {
    /// The cache that the user asks for, if any.
    pub fn cache(&self) -> Option<PathBuf> {
        let from_environment = || std::env::var_os("LORAMILL_CACHE").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let asked = self.cache.clone().or_else(from_environment)?;
        // A shell leaves the `~` of `--cache=~/x` as it is.
        let home = std::env::var("HOME").ok();
        Some(asked.to_str().map(|text| home_expanded(text, home.as_deref())).unwrap_or(asked))
    }

    /// As on a command line.
    #[cfg_attr(not(feature = "libtorch"), allow(dead_code, reason = "only a worker is given a command line"))]
    pub fn written(&self) -> Vec<std::ffi::OsString> {
        let cache = self.cache.iter().flat_map(|cache| ["--cache".into(), cache.clone().into()]);
        cache.chain(self.quiet.then(|| "--quiet".into())).collect()
    }

    /// What computes on a device, for people; nothing in a program that opens no networks.
    #[cfg(feature = "nn")]
    pub fn describe_device(&self, device: &str) -> Option<String> {
        self.networks.map(|networks| (networks.describe_device)(device))
    }

    #[cfg(not(feature = "nn"))]
    pub const fn describe_device(&self, _: &str) -> Option<String> {
        None
    }

    pub const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A line for the user, on stderr; kept back by `--quiet`.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            tell(&format!("{line}\n"));
        }
    }
}

/// What every command takes that reads a pipeline.
#[derive(Args, Clone, Debug)]
pub struct PipelineArguments {
    /// The pipeline: a folder or its file [default: pipeline.yaml here]
    #[arg(value_name = "PIPELINE")]
    pipeline: Option<PathBuf>,
    /// Another value for this time: `--set train.network.rank=16`
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<String>,
}

impl PipelineArguments {
    pub const fn new(pipeline: Option<PathBuf>, settings: Vec<String>) -> Self {
        Self { pipeline, settings }
    }

    /// The pipeline, if it was named.
    pub fn named(&self) -> Option<&Path> {
        self.pipeline.as_deref()
    }
}

/// Reads and checks the pipeline that the user means.
///
/// # Errors
/// `WrongFile` with all that is wrong in it, `WrongArguments` if there is none.
pub fn open(arguments: &PipelineArguments) -> anyhow::Result<Pipeline> {
    let file = pipeline_file(arguments.pipeline.as_deref())?;
    let mut diagnostics = Diagnostics::default();
    let surroundings = Surroundings::of_process(&mut diagnostics);
    let problems = match load(&file, &arguments.settings, &surroundings, KINDS) {
        Ok(pipeline) if diagnostics.is_empty() => return Ok(pipeline),
        Ok(_) => Vec::new(),
        Err(problems) => problems,
    };
    Err(WrongFile(diagnostics.into_sorted().into_iter().chain(problems).collect()).into())
}

/// The pipeline that the user means, without a look at its photos; `None` if anything is wrong with it.
pub fn glance(arguments: &PipelineArguments) -> Option<Pipeline> {
    let file = pipeline_file(arguments.pipeline.as_deref()).ok()?;
    let mut diagnostics = Diagnostics::default();
    let surroundings = Surroundings::of_process(&mut diagnostics);
    let pipeline = load::glance(&file, &arguments.settings, &surroundings, KINDS).ok()?;
    diagnostics.is_empty().then_some(pipeline)
}

fn pipeline_file(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    const NAME: &str = "pipeline.yaml";
    let wrong = |message: String| Err(WrongArguments(message).into());
    let Some(given) = given else {
        let here = PathBuf::from(NAME);
        if here.exists() {
            return Ok(here);
        }
        return wrong(format!("there is no `{NAME}` here: name a pipeline, or make one with `loramill init NAME`"));
    };
    if given.is_dir() {
        let inside = given.join(NAME);
        if inside.exists() {
            return Ok(inside);
        }
        return wrong(format!("there is no `{NAME}` in `{}`", given.display()));
    }
    if given.exists() {
        return Ok(given.to_path_buf());
    }
    let among_pipelines = Path::new("pipelines").join(given);
    if among_pipelines.join(NAME).exists() {
        return wrong(format!("there is no `{}`: did you mean `{}`?", given.display(), among_pipelines.display()));
    }
    wrong(format!("there is no `{}`", given.display()))
}

/// The exit code where the pipeline file or the arguments are wrong.
pub const WRONG: u8 = 2;

/// A file of the user's that is wrong: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{}", render::problems(.0, false).to_string().trim_end())]
pub struct WrongFile(pub Vec<Diagnostic>);

/// Arguments that make no sense together: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongArguments(pub String);

/// The program that people start. Where a library of a device takes long to load, it leaves networks to the worker.
pub fn main() -> ExitCode {
    #[cfg(all(feature = "nn", not(feature = "libtorch")))]
    return obey(std::env::args_os(), Some(&networks::NETWORKS));
    #[cfg(feature = "libtorch")]
    return obey(std::env::args_os(), None);
    #[cfg(not(feature = "nn"))]
    return obey(std::env::args_os());
}

/// The worker.
#[cfg(feature = "libtorch")]
pub fn worker() -> ExitCode {
    match device::worker::take_orders() {
        Ok(()) => obey(std::env::args_os(), Some(&networks::NETWORKS)),
        Err(error) => report(&error),
    }
}

fn obey(
    arguments: impl IntoIterator<Item = OsString>,
    #[cfg(feature = "nn")] networks: Option<&'static networks::Networks>,
) -> ExitCode {
    #[allow(unused_mut, reason = "a build without networks sets nothing")]
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
    #[cfg(feature = "nn")]
    if let Some(networks) = networks {
        crate::stages::linked::link(networks.stages);
        cli.global.networks = Some(networks);
    }
    cli.command.reach(&cli.global).raise(&cli.command.programs());
    match cli.command.run(&cli.global) {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

/// Says what went wrong, and gives the exit code for it.
fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(WrongFile(problems)) = error.downcast_ref() {
        tell_painted(&render::problems(problems, errors_take_colours()));
        return ExitCode::from(WRONG);
    }
    complain(&format!("{error:#}"));
    ExitCode::from(if error.is::<WrongArguments>() { WRONG } else { 1 })
}

/// Something went wrong that does not end the command; also told with `--quiet`.
pub fn complain(problem: &str) {
    let mut line = Painted::new(errors_take_colours());
    line.paint(Paint::BoldRed, "error");
    line.add(&format!(": {problem}\n"));
    tell_painted(&line);
}

/// A path as the user would write it: without the `./` of a pipeline that lies here.
pub fn shown(path: &Path) -> std::path::Display<'_> {
    path.strip_prefix(".").unwrap_or(path).display()
}

/// `1 photo`, `24 photos`.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
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
