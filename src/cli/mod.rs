//! The commands. The only part of the program that prints or decides an exit code: 0 done, 1 a stage failed, 2 the pipeline file or the
//! arguments are wrong.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

mod stages;

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
    Stages(stages::Arguments),
}

impl Command {
    fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
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
}

impl Global {
    /// The cache that the user asks for, if any.
    pub fn cache(&self) -> Option<PathBuf> {
        let from_environment = || std::env::var_os("LORAMILL_CACHE").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        self.cache.clone().or_else(from_environment)
    }

    pub const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A line for the user, on stderr; kept back by `--quiet`.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            to_stderr(&format!("{line}\n"));
        }
    }
}

/// Arguments that make no sense together: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongArguments(pub String);

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.run(&cli.global) {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

fn report(error: &anyhow::Error) -> ExitCode {
    let label = if colours(&io::stderr()) { "\u{1b}[1;31merror\u{1b}[0m" } else { "error" };
    to_stderr(&format!("{label}: {error:#}\n"));
    ExitCode::from(if error.is::<WrongArguments>() { 2 } else { 1 })
}

/// Data for the user or another program, on stdout. A reader that has gone away (`| head`) ends the program quietly.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => Ok(written?),
    }
}

/// A message that is lost if stderr is closed: there is nowhere left to say so.
fn to_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Colours are for terminals, and not for users who declined them: <https://no-color.org>.
pub fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
