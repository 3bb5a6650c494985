//! One command line tried on one ground: what it said, how it ended, what it took, and whether any of that is a failure. Unaware of system
//! calls.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use wait4::Wait4 as _;
use walkdir::WalkDir;

use crate::hostile::case::{Case, Expected};
use crate::hostile::ground::Ground;
use crate::hostile::snapshot::Snapshot;

/// What every attempt is held to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub time: Duration,
    /// In bytes of resident memory, of the program or of what it starts.
    pub memory: u64,
}

/// Where a command between this process and the program says how much memory that took, in bytes.
pub const MEMORY: &str = "memory";

/// No pipeline of the cases needs more than this on the disk, in bytes.
const MOST_WRITTEN: u64 = 500_000_000;

/// Letters that move the cursor, change colours, or turn the direction of a line round: none may reach a terminal.
const BIDI: &[char] = &[
    '\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}',
    '\u{2068}', '\u{2069}',
];

/// What came of a line.
#[derive(Debug)]
#[allow(dead_code, reason = "the bench prints all of it, the tests what is wrong")]
pub struct Attempt {
    pub status: ExitStatus,
    pub time: Duration,
    /// In bytes.
    pub memory: u64,
    pub stdout: String,
    pub stderr: String,
    /// What is wrong with it, one line each.
    pub failures: Vec<String>,
}

impl Attempt {
    #[allow(dead_code, reason = "the bench counts them")]
    pub fn is_refused(&self) -> bool {
        !self.status.success()
    }
}

/// `loramill` in an environment without anything of the person's who runs this.
pub fn command(project: &Path, home: &Path, tmp: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loramill"));
    set_environment(&mut command, project, home, tmp);
    command
}

/// Also for a program that starts loramill.
pub fn set_environment(command: &mut Command, project: &Path, home: &Path, tmp: &Path) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", home).env("TMPDIR", tmp).env("LC_ALL", "C.UTF-8");
    command.current_dir(project).stdin(Stdio::null());
}

/// Tries `line` of `case` on a fresh ground that `prepare` may still look at. `starting` gives the command that runs the line, and `judge`
/// adds what else is wrong.
pub fn attempt(
    case: &Case,
    ground: &Ground,
    line: &[String],
    limits: Limits,
    starting: impl FnOnce(&Ground) -> Command,
    judge: impl FnOnce(&Ground) -> Vec<String>,
) -> Attempt {
    case.build(ground);
    let own = [ground.project(), ground.tmp(), ground.root().join("said")];
    let before = Snapshot::of(ground.root(), &own);
    let mut attempt = start(ground, starting(ground), line, limits);
    attempt.failures.extend(before.differences(&Snapshot::of(ground.root(), &own)));
    attempt.failures.extend(ending(&attempt, case.expected_of(line)));
    attempt.failures.extend(raw_letters("stdout", &attempt.stdout));
    attempt.failures.extend(raw_letters("stderr", &attempt.stderr));
    let written = on_disk(&ground.project());
    if written > MOST_WRITTEN {
        attempt.failures.push(format!("left {} MB on the disk", written / 1_000_000));
    }
    attempt.failures.extend(judge(ground));
    attempt
}

fn start(ground: &Ground, mut command: Command, line: &[String], limits: Limits) -> Attempt {
    let said = ground.root().join("said");
    fs::create_dir_all(&said).expect("made");
    let [stdout, stderr] = ["stdout", "stderr"].map(|name| said.join(name));
    command.args(line).stdout(File::create(&stdout).expect("made")).stderr(File::create(&stderr).expect("made"));
    let began = Instant::now();
    // A group of its own, so that all of it can be ended.
    let mut child = command.process_group(0).spawn().expect("the program starts");
    let group = Pid::from_raw(child.id().cast_signed()).expect("a process has a number");
    let mut failures = Vec::new();
    let ended = loop {
        if let Some(ended) = child.try_wait4().expect("it is our child") {
            break ended;
        }
        if began.elapsed() > limits.time * 2 && failures.is_empty() {
            failures.push(format!("ended after {:.1} s, because it went on", began.elapsed().as_secs_f64()));
            let _ = kill_process_group(group, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(if began.elapsed() < Duration::from_millis(50) { 1 } else { 5 }));
    };
    let time = began.elapsed();
    if time > limits.time && failures.is_empty() {
        failures.push(format!("took {:.1} s", time.as_secs_f64()));
    }
    // A process counts the memory of the one that started it too, which here is this one, until it runs another program.
    let measured = fs::read_to_string(said.join(MEMORY)).ok().and_then(|bytes| bytes.parse().ok());
    let memory = measured.unwrap_or(ended.rusage.maxrss);
    if memory > limits.memory {
        failures.push(format!("took {} MB", memory / 1_000_000));
    }
    let text = |path| String::from_utf8_lossy(&fs::read(path).expect("it was just written")).into_owned();
    Attempt { status: ended.status, time, memory, stdout: text(&stdout), stderr: text(&stderr), failures }
}

/// What is wrong with how it ended.
fn ending(attempt: &Attempt, expected: &Expected) -> Vec<String> {
    let mut failures = Vec::new();
    match (attempt.status.code(), attempt.status.signal()) {
        (Some(0..=2), _) => {}
        (Some(code), _) => failures.push(format!("exit code {code}")),
        // Said already.
        (None, Some(9)) if !attempt.failures.is_empty() => {}
        (None, signal) => failures.push(format!("killed by signal {}", signal.unwrap_or_default())),
    }
    for text in [&attempt.stdout, &attempt.stderr] {
        for word in ["panicked", "has a bug"] {
            if let Some(line) = text.lines().find(|line| line.contains(word)) {
                failures.push(format!("said: {line}"));
            }
        }
    }
    match expected {
        Expected::Either => {}
        Expected::Refused(_) | Expected::RefusedByAll if attempt.status.success() => {
            failures.push("was to be refused, and was done".to_string())
        }
        Expected::Refused(text) if !attempt.stderr.contains(text) => {
            failures.push(format!("was to be refused with `{text}`, and said: {}", attempt.stderr.trim()));
        }
        Expected::Refused(_) | Expected::RefusedByAll => {}
    }
    failures
}

fn raw_letters(stream: &str, said: &str) -> Option<String> {
    let found =
        said.chars().find(|letter| (letter.is_control() && *letter != '\n' && *letter != '\t') || BIDI.contains(letter))?;
    let line = said.lines().find(|line| line.contains(found)).unwrap_or_default();
    Some(format!("wrote a raw {} to {stream}: {line:?}", found.escape_unicode()))
}

/// In bytes, of all below a folder.
fn on_disk(folder: &Path) -> u64 {
    let entries = WalkDir::new(folder).into_iter().filter_map(Result::ok);
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}
