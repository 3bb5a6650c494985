//! Tries every hostile file and project folder of `tests/hostile` under strace, and prints what came of them by family.
//!
//! ```text
//! cargo bench --no-default-features --bench hostile -- [--only TEXT] [--keep] [--seconds 5] [--list]
//! ```
//!
//! `--only` tries the cases whose name contains the text. `--keep` leaves their folders, prints what the command said, and how to run it
//! again there. Needs Linux with strace and git; most devices are made only by root, and links stand in for them elsewhere.

#[path = "../hostile/mod.rs"]
mod hostile;
#[path = "../hostile/syscalls.rs"]
mod syscalls;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hostile::attempt::{Attempt, Limits, MEMORY, attempt, set_environment};
use hostile::case::Case;
use hostile::ground::{Ground, Templates};
use rayon::prelude::*;
use rustix::process::{Signal, getpid, kill_process};

/// In bytes, and in seconds unless `--seconds` says otherwise.
const MOST_MEMORY: u64 = 500_000_000;
const MOST_SECONDS: u64 = 5;

/// A time that is too long is measured again: others may have had the machine.
const TRIES: usize = 3;

/// So many cases at once, and no more memory than this for any of them, in bytes.
const THREADS: usize = 2;
const ADDRESS_SPACE: u64 = 8 << 30;

/// How this program starts itself to measure another.
const MEASURE: &str = "--measure";

struct Arguments {
    only: Option<String>,
    keeps: bool,
    lists: bool,
    limits: Limits,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == MEASURE) {
        return measure();
    }
    let mut arguments = Arguments {
        only: None,
        keeps: false,
        lists: false,
        limits: Limits { time: Duration::from_secs(MOST_SECONDS), memory: MOST_MEMORY },
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--only" => arguments.only = words.next(),
            "--keep" => arguments.keeps = true,
            "--seconds" => {
                let seconds = words.next().and_then(|word| word.parse().ok()).expect("--seconds takes a number");
                arguments.limits.time = Duration::from_secs(seconds);
            }
            "--list" => arguments.lists = true,
            // cargo adds it.
            "--bench" => {}
            other => panic!("`{other}` is none of --only TEXT, --keep, --seconds N, --list"),
        }
    }
    let cases: Vec<Case> = hostile::all()
        .into_iter()
        .filter(|case| arguments.only.as_ref().is_none_or(|only| case.id().contains(only.as_str())))
        .collect();
    if arguments.lists {
        cases.iter().for_each(|case| println!("{}", case.id()));
        return ExitCode::SUCCESS;
    }
    // Of this process, and so of all that it starts.
    let limit = rustix::process::Rlimit { current: Some(ADDRESS_SPACE), maximum: Some(ADDRESS_SPACE) };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).expect("a limit may be lowered");
    rayon::ThreadPoolBuilder::new().num_threads(THREADS).build_global().expect("the first pool");

    let began = Instant::now();
    let templates = Arc::new(Templates::new());
    syscalls::try_the_judge(&Ground::new(&templates));
    let rows = Mutex::new(BTreeMap::<&str, Row>::new());
    cases.par_iter().with_max_len(1).for_each(|case| {
        let (mut row, found) = examine(case, &templates, &arguments);
        row.cases = 1;
        rows.lock().expect("no thread panics").entry(case.family).or_default().add(&row);
        found.iter().for_each(|failure| println!("{failure}"));
    });
    let rows = rows.into_inner().expect("no thread panics");
    print_table(&rows, began.elapsed());
    if rows.values().all(|row| row.failed == 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a command, says how much memory it took, and ends as it ended.
fn measure() -> ExitCode {
    let mut words = std::env::args_os().skip(2);
    let (file, program) = words.next().zip(words.next()).expect("a file and a program");
    let ended = Command::new(program).args(words).spawn().and_then(wait4::Wait4::wait4).expect("the program starts");
    std::fs::write(file, ended.rusage.maxrss.to_string()).expect("the ground can be written");
    if let Some(signal) = ended.status.signal().and_then(Signal::from_named_raw) {
        let _ = kill_process(getpid(), signal);
    }
    ExitCode::from(ended.status.code().map_or(u8::MAX, |code| code as u8))
}

/// All lines of a case.
fn examine(case: &Case, templates: &Arc<Templates>, arguments: &Arguments) -> (Row, Vec<String>) {
    let mut row = Row::default();
    let mut failures = Vec::new();
    for line in &case.lines {
        let mut tried = watched(case, line, templates, arguments);
        for _ in 1..TRIES {
            if tried.failures.len() == 1 && tried.failures[0].starts_with("took") && !arguments.keeps {
                tried = watched(case, line, templates, arguments);
            }
        }
        row.lines += 1;
        row.refused += usize::from(tried.is_refused());
        row.time = row.time.max(tried.time);
        row.memory = row.memory.max(tried.memory);
        row.failed += usize::from(!tried.failures.is_empty());
        failures.extend(tried.failures.iter().map(|failure| {
            let words = line.join(" ");
            format!(
                "{}: `loramill {words}`: {failure}\n    cargo bench --no-default-features --bench hostile -- --keep --only '{0}'",
                case.id()
            )
        }));
    }
    (row, failures)
}

fn watched(case: &Case, line: &[String], templates: &Arc<Templates>, arguments: &Arguments) -> Attempt {
    let program = Path::new(env!("CARGO_BIN_EXE_loramill"));
    let ground = Ground::new(templates);
    let logs = tempfile::tempdir().expect("a temporary folder");
    let starting = |ground: &Ground| {
        let mut command = Command::new(std::env::current_exe().expect("it runs"));
        command.arg(MEASURE).arg(ground.root().join("said").join(MEMORY)).args(syscalls::strace(program, logs.path()));
        set_environment(&mut command, &ground.project(), &ground.home(), &ground.tmp());
        command
    };
    let judge = |ground: &Ground| syscalls::harm(ground, logs.path(), program, case.may_read);
    let tried = attempt(case, &ground, line, arguments.limits, starting, judge);
    if arguments.keeps {
        println!("{}: `loramill {}`: {}\n{}{}", case.id(), line.join(" "), tried.status, tried.stdout, tried.stderr);
        let project = ground.project();
        ground.keep();
        // What it did may show only on a ground that it has not changed yet.
        println!("    its folder, as the command left it: cd {}", project.display());
    }
    tried
}

/// What came of a family.
#[derive(Default)]
struct Row {
    cases: usize,
    lines: usize,
    refused: usize,
    failed: usize,
    time: Duration,
    memory: u64,
}

impl Row {
    fn add(&mut self, other: &Self) {
        self.cases += other.cases;
        self.lines += other.lines;
        self.refused += other.refused;
        self.failed += other.failed;
        self.time = self.time.max(other.time);
        self.memory = self.memory.max(other.memory);
    }
}

/// As it stands in CONTRIBUTING.md.
fn print_table(rows: &BTreeMap<&str, Row>, took: Duration) {
    println!("| family | cases | command lines | refused | done | longest | most memory | failed |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut all = Row::default();
    for (family, row) in rows {
        print_row(family, row);
        all.add(row);
    }
    print_row("all", &all);
    println!("\nin {:.0} s, {THREADS} at a time", took.as_secs_f64());
}

fn print_row(family: &str, row: &Row) {
    let Row { cases, lines, refused, failed, time, memory } = row;
    let (time, memory) = (time.as_secs_f64(), memory / 1_000_000);
    println!("| {family} | {cases} | {lines} | {refused} | {} | {time:.2} s | {memory} MB | {failed} |", lines - refused);
}
