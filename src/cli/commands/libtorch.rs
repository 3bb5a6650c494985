//! `loramill libtorch`: fetches PyTorch's C++ library, without Python.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::cli::terminal::console::{Console, Verb};
use crate::cli::terminal::output::{print, print_json};
use crate::cli::terminal::progress_line::duration;
use crate::cli::terminal::wording::counted;
use crate::computer::libtorch::client::{Client, Patience, Route};
use crate::computer::libtorch::fetch::{Progress, fetch, free_space};
use crate::computer::libtorch::folder::{Depth, Extent};
use crate::computer::libtorch::index::Source;
use crate::computer::libtorch::pins::{PYPI, TORCH, release};
use crate::computer::libtorch::plan::{Outlook, Plan, Step, Trust, Way, plan};
use crate::computer::libtorch::wheel::{Flavour, Release};
use crate::engine::cache::bytes::size;

/// In a pipe it says how far it is this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Fetch PyTorch's C++ library for a build with `--features libtorch`; needs no Python
///
/// Downloads only the parts that are needed, and checks each file against a hash built into this program. After an interruption the same
/// command resumes the download.
#[derive(Args)]
pub struct Arguments {
    /// Hardware to compute on
    #[arg(value_enum)]
    flavour: Processor,
    /// Target folder [default: ~/.local/share/loramill/libtorch-2.9.1-FLAVOUR]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Another package index (`https://…/simple`) or a folder with the wheels [env: PIP_INDEX_URL for `cpu` and `cuda`]
    #[arg(long, value_name = "URL|DIR")]
    from: Option<String>,
    /// Accept a wheel that this program has no hash of, by the hash of the index: needed for `rocm`
    #[arg(long)]
    trust_index: bool,
    /// Verify every byte of what is already there
    #[arg(long)]
    verify: bool,
    /// Show what would be fetched, without writing anything
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Processor {
    /// The processor: 130 MB to fetch, 0.5 GB on the disk
    Cpu,
    /// An NVIDIA card: CUDA 12.8, 3.8 GB to fetch, 6.2 GB on the disk
    Cuda,
    /// An AMD card: ROCm 6.4, more than 4 GB to fetch
    Rocm,
}

impl From<Processor> for Flavour {
    fn from(processor: Processor) -> Self {
        match processor {
            Processor::Cpu => Self::Cpu,
            Processor::Cuda => Self::Cuda,
            Processor::Rocm => Self::Rocm,
        }
    }
}

/// Prints the commands to run next, or with `--json` the state of the folder. A folder that is complete is left as it is and
/// gives exit code 0.
pub fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let release = release(arguments.flavour.into(), std::env::consts::ARCH)?;
    let flavour = release.flavour.word();
    let into = match &arguments.into {
        Some(into) => std::path::absolute(into).with_context(|| format!("looking for `{}`", into.display()))?,
        None => default_folder(flavour)?,
    };
    let trust = trust(arguments, &release)?;
    let mut client = Client::new(Patience::default(), Route::Environment);
    let (source, chosen_by) = source(arguments, &release, &mut client);
    let depth = if arguments.verify { Depth::Bytes } else { Depth::Sizes };
    let console = Console::new(None, global.is_quiet());
    let planned = match plan(release, &source, client, &into, trust, depth)? {
        Outlook::Complete(extent) => {
            let looked = if arguments.verify { "every byte is as it was published" } else { "`--verify` reads every byte" };
            console.line(Verb::Done, &format!("libtorch {TORCH} for {flavour} is there: {}; {looked}", extent_text(extent)));
            return end(arguments, &into, "complete", &[], extent, 0);
        }
        Outlook::Needed(planned) => planned,
    };
    let text = text(&planned, &source, chosen_by);
    if arguments.dry_run {
        if arguments.json {
            let steps: Vec<Value> = planned.steps.iter().map(step_json).collect();
            return print_state(&into, flavour, "planned", &steps, planned.disk(), planned.download());
        }
        print(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    global.say(text.trim_end());
    if planned.steps.iter().any(|step| step.wheel.pin.is_none()) {
        console
            .line(Verb::Note, "this program has no hash of the wheel: the hash of the index is trusted, as `--trust-index` asks");
    }
    let steps: Vec<Value> = planned.steps.iter().map(step_json).collect();
    let started = Instant::now();
    let mut bar = Bar::new(&planned, global.is_quiet());
    let fetched = fetch(*planned, &mut |progress| bar.show(progress, &console));
    bar.close();
    let fetched = fetched?;
    let took = duration(started.elapsed().as_secs_f64());
    let checked = if trust == Trust::Index { "each as the wheel's own list says" } else { "each as it was published" };
    let text = format!("libtorch in {took}: {} fetched, {}, {checked}", size(fetched.travelled), extent_text(fetched.extent));
    console.line(Verb::Done, &text);
    end(arguments, &into, "fetched", &steps, fetched.extent, fetched.travelled)
}

/// `$XDG_DATA_HOME/loramill/libtorch-2.9.1-cpu`
fn default_folder(flavour: &str) -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The XDG Base Directory Specification: a relative path in the variable does not count.
    let data = variable("XDG_DATA_HOME").filter(|folder| folder.is_absolute());
    let data = data.or_else(|| variable("HOME").map(|home| home.join(".local").join("share")));
    let Some(data) = data else {
        return Err(WrongArguments("there is no HOME: say where it goes with `--into DIR`".to_string()).into());
    };
    Ok(data.join("loramill").join(format!("libtorch-{TORCH}-{flavour}")))
}

fn trust(arguments: &Arguments, release: &Release) -> Result<Trust> {
    match release.wheels.iter().find(|wheel| wheel.pin.is_none()) {
        None => Ok(Trust::Pins),
        Some(_) if arguments.trust_index => Ok(Trust::Index),
        Some(wheel) => Err(WrongArguments(format!(
            "this program has no hash of `{}`: with `--trust-index` the one that `{}` gives is trusted",
            wheel.file,
            arguments.from.as_deref().unwrap_or(release.index)
        ))
        .into()),
    }
}

/// Where to look, and who said so.
fn source(arguments: &Arguments, release: &Release, client: &mut Client) -> (Source, &'static str) {
    // It stands for PyPI, where there are no wheels for ROCm.
    let from_pip = std::env::var("PIP_INDEX_URL").ok().filter(|url| !url.is_empty() && release.index == PYPI);
    let (text, chosen_by) = match (&arguments.from, from_pip) {
        (Some(from), _) => (from.clone(), ""),
        (None, Some(url)) => (url, " (PIP_INDEX_URL)"),
        (None, None) => (release.index.to_string(), ""),
    };
    let source = match Source::parse(&text) {
        Source::Index(url) => Source::Index(client.log_in(&url)),
        folder => folder,
    };
    (source, chosen_by)
}

fn extent_text(extent: Extent) -> String {
    format!("{} of {}", counted(extent.files, "file"), size(extent.bytes))
}

/// What will be fetched, wheel by wheel.
fn text(plan: &Plan, source: &Source, chosen_by: &str) -> String {
    let into = plan.into.display();
    let mut text = format!("libtorch {TORCH} for {} into `{into}`\nfrom `{source}`{chosen_by}\n", plan.release.flavour.word());
    if let Some(damage) = &plan.damage {
        let _ = writeln!(text, "it is there, and {damage}: what is wrong is fetched again");
    }
    for step in &plan.steps {
        let travels = step.download().map_or_else(|| "?".to_string(), size);
        let of =
            step.size.filter(|size| Some(*size) != step.download()).map(|all| format!(" of {}", size(all))).unwrap_or_default();
        let what = match &step.way {
            Way::Members(opened) if opened.missing() == opened.extent => extent_text(opened.extent),
            Way::Members(opened) => format!("{} of {}", opened.missing().files, extent_text(opened.extent)),
            Way::Whole { .. } => "all of it, then what is needed is unpacked".to_string(),
        };
        let _ = writeln!(text, "  {travels:>6}{of:<10}  {}: {what}", step.wheel.file);
    }
    let free = free_space(&plan.into).map(|free| format!("; {} are free", size(free))).unwrap_or_default();
    // What a whole wheel holds is known when it is here.
    let more = if plan.steps.iter().any(|step| matches!(step.way, Way::Whole { .. })) {
        "and more when unpacked"
    } else {
        "on the disk"
    };
    let _ = writeln!(text, "{} to fetch, {} {more}{free}", size(plan.download()), size(plan.disk()));
    text
}

fn step_json(step: &Step) -> Value {
    let files = match &step.way {
        Way::Members(opened) => json!(opened.missing().files),
        Way::Whole { .. } => Value::Null,
    };
    json!({
        "file": step.wheel.file,
        "from": step.place.to_string(),
        "bytes": step.size,
        "download_bytes": step.download(),
        "files": files,
        "sha256": step.wheel.pin.map(|pin| pin.sha256.to_string()),
        "record_sha256": step.wheel.pin.map(|pin| pin.record.to_string()),
    })
}

/// The contract of `libtorch --json`. Sizes are bytes.
fn print_state(into: &Path, flavour: &str, state: &str, steps: &[Value], disk: u64, download: u64) -> Result<ExitCode> {
    let value = json!({
        "state": state,
        "flavour": flavour,
        "torch": TORCH,
        "folder": into.display().to_string(),
        "libtorch": into.join("torch").display().to_string(),
        "download_bytes": download,
        "disk_bytes": disk,
        "wheels": steps,
    });
    print_json(&value)?;
    Ok(ExitCode::SUCCESS)
}

/// Says what to do next.
fn end(arguments: &Arguments, into: &Path, state: &str, steps: &[Value], extent: Extent, travelled: u64) -> Result<ExitCode> {
    if arguments.json {
        return print_state(into, Flavour::from(arguments.flavour).word(), state, steps, extent.bytes, travelled);
    }
    let libtorch = in_shell(&into.join("torch"));
    print(&format!("next: LIBTORCH={libtorch} cargo build --release --features libtorch\nthen: loramill doctor\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// A path as a POSIX shell takes it for one word.
fn in_shell(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+".contains(letter);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// How far it is: a bar on a terminal, else a line now and then.
struct Bar {
    bar: Option<ProgressBar>,
    download: u64,
    disk: u64,
    started: Instant,
    said: Instant,
}

impl Bar {
    fn new(plan: &Plan, quiet: bool) -> Self {
        let bar = (io::stderr().is_terminal() && !quiet).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("          libtorch [{bar:24}] {wide_msg}").expect("the template is fixed");
            bar.set_style(style.progress_chars("=> "));
            bar
        });
        let now = Instant::now();
        Self { bar, download: plan.download(), disk: plan.disk(), started: now, said: now }
    }

    fn show(&mut self, progress: Progress, console: &Console) {
        // From a folder nothing travels.
        let (done, total, verb) = match self.download {
            0 => (progress.unpacked, self.disk, "unpacked"),
            download => (progress.travelled, download, "fetched"),
        };
        let is_time = match &self.bar {
            Some(_) => true,
            None => self.said.elapsed() >= PLAIN_INTERVAL,
        };
        if !is_time {
            return;
        }
        let text = describe(done, total, verb, self.started.elapsed());
        match &self.bar {
            Some(bar) => {
                bar.set_length(total.max(1));
                bar.set_position(done.min(total));
                bar.set_message(text);
            }
            None => {
                self.said = Instant::now();
                console.line(Verb::Running, &format!("libtorch: {text}"));
            }
        }
    }

    fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `62 MB of 137 MB fetched, 12 MB/s, 6.3s left`
fn describe(done: u64, total: u64, verb: &str, elapsed: Duration) -> String {
    let mut text = format!("{} of {} {verb}", size(done), size(total));
    let seconds = elapsed.as_secs_f64();
    if done > 0 && seconds > 0.5 {
        let rate = done as f64 / seconds;
        let left = duration(total.saturating_sub(done) as f64 / rate);
        let _ = write!(text, ", {}/s, {left} left", size(rate as u64));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_bytes_rate_and_time_left() {
        let text = describe(62_000_000, 137_000_000, "fetched", Duration::from_secs(5));
        assert_eq!(text, "62 MB of 137 MB fetched, 12 MB/s, 6.0s left");
        assert_eq!(describe(0, 137_000_000, "fetched", Duration::ZERO), "0 B of 137 MB fetched");
    }

    #[test]
    fn the_next_command_can_be_pasted() {
        assert_eq!(in_shell(Path::new("/home/me/libtorch-2.9.1-cpu")), "/home/me/libtorch-2.9.1-cpu");
        assert_eq!(in_shell(Path::new("/home/m e/it's")), r"'/home/m e/it'\''s'");
    }
}
