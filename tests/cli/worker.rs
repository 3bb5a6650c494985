//! The program that people start and the one that opens networks for it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{command, loramill, said};
use crate::example::example;

/// The libraries that a program asks the loader for: `DT_NEEDED` of a 64-bit little-endian ELF file (`elf.h`).
fn needed_libraries(program: &Path) -> BTreeSet<String> {
    let file = fs::read(program).expect("a program");
    let number = |at: usize, bytes: usize| (0..bytes).rev().fold(0, |sum, byte| sum << 8 | usize::from(file[at + byte]));
    assert_eq!(&file[..6], b"\x7fELF\x02\x01");
    let (sections, size, count) = (number(40, 8), number(58, 2), number(60, 2));
    let section = |index: usize| sections + index * size;
    let dynamic = (0..count).map(section).find(|at| number(at + 4, 4) == 6).expect("a program of shared libraries");
    let (entries, length, strings) = (number(dynamic + 24, 8), number(dynamic + 32, 8), section(number(dynamic + 40, 4)));
    let strings = number(strings + 24, 8);
    let entries = (entries..entries + length).step_by(16);
    let names = entries.filter(|entry| number(*entry, 8) == 1).map(|entry| {
        let name = file[strings + number(entry + 8, 8)..].split(|byte| *byte == 0).next().expect("a text ends");
        String::from_utf8(name.to_vec()).expect("a name")
    });
    names.collect()
}

#[test]
fn only_the_worker_needs_libtorch() {
    let of_torch = |program| needed_libraries(Path::new(program)).into_iter().filter(|name| name.contains("torch")).count();
    assert_eq!(of_torch(env!("CARGO_BIN_EXE_loramill")), 0);
    assert!(of_torch(env!("CARGO_BIN_EXE_loramill-worker")) > 0);
    assert!(needed_libraries(Path::new(env!("CARGO_BIN_EXE_loramill"))).contains("libc.so.6"), "it is read right");
}

/// A training that goes on until it is stopped, and its lines of JSON.
struct Training {
    folder: tempfile::TempDir,
    program: Child,
    lines: BufReader<ChildStdout>,
}

impl Training {
    /// Returns when the training has done some steps.
    fn begin() -> Self {
        let folder = example();
        let mut command = command(folder.path(), &["run", ".", "train", "--progress", "json"]);
        let mut program = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let lines = BufReader::new(program.stdout.take().expect("piped"));
        let mut training = Self { folder, program, lines };
        while !training.next().expect("it trains").contains(r#""event":"progress","stage":"train""#) {}
        training
    }

    fn next(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.lines.read_line(&mut line).expect("UTF-8") > 0).then_some(line)
    }

    /// The process that runs the stages, as `loramill status` tells it.
    fn runner(&self) -> u32 {
        let (_, stdout, _) = said(&loramill(self.folder.path(), &["status", ".", "--json"]));
        let status: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
        status["run"]["process"].as_u64().expect("it runs") as u32
    }

    fn kill(&self, process: u32, signal: Signal) {
        kill_process(Pid::from_raw(process as i32).expect("a process"), signal).expect("killed");
    }

    /// Exit code, the rest of stdout, and stderr.
    fn end(mut self) -> (i32, String, String) {
        let mut rest = String::new();
        while let Some(line) = self.next() {
            rest.push_str(&line);
        }
        let (code, _, stderr) = said(&self.program.wait_with_output().expect("it ends"));
        (code, rest, stderr)
    }
}

fn has_libtorch(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/maps")).expect("it runs").contains("/libtorch_cpu.so")
}

#[test]
fn networks_run_in_the_worker_and_its_death_is_an_error_that_says_what_ran() {
    let training = Training::begin();
    let (program, worker) = (training.program.id(), training.runner());
    assert_ne!(program, worker);
    assert!(has_libtorch(worker) && !has_libtorch(program));

    training.kill(worker, Signal::KILL);
    let (code, rest, stderr) = training.end();
    assert_eq!(code, 1, "{stderr}");
    for words in ["`train` (", "was killed (SIGKILL) with ", "`checkpointing: true`", "a smaller `batch_size`"] {
        assert!(stderr.contains(words), "no {words} in {stderr}");
    }
    let last: Vec<serde_json::Value> = rest.lines().rev().take(2).map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&last[0]["event"], &last[0]["ok"]), (&"run_finished".into(), &false.into()));
    assert_eq!((&last[1]["stage"], &last[1]["state"]), (&"train".into(), &"failed".into()));
}

#[test]
fn a_stop_request_reaches_the_worker_once_and_it_saves() {
    for signal in [Signal::INT, Signal::TERM] {
        let training = Training::begin();
        let (program, worker) = (training.program.id(), training.runner());
        training.kill(program, signal);
        let (code, rest, stderr) = training.end();
        assert_eq!(code, 130, "{stderr}");
        assert!(rest.contains(r#""stage":"train","state":"interrupted""#), "{rest}");
        assert!(!Path::new(&format!("/proc/{worker}")).exists(), "it went before");
    }
}

#[test]
fn without_its_parent_the_worker_saves_and_ends() {
    let training = Training::begin();
    training.kill(training.program.id(), Signal::KILL);
    let mut training = training;
    let mut rest = String::new();
    // Its end of the pipe is closed when it ends.
    while let Some(line) = training.next() {
        rest.push_str(&line);
    }
    training.program.wait().expect("it was killed");
    assert!(rest.contains(r#""stage":"train","state":"interrupted""#), "{rest}");
}

#[test]
fn a_worker_is_not_started_by_hand_and_its_absence_is_told() {
    let folder = example();
    let worker = Command::new(env!("CARGO_BIN_EXE_loramill-worker")).arg("status").output().expect("it starts");
    let (code, _, stderr) = said(&worker);
    assert!(code == 2 && stderr.contains("is started by `loramill`"), "{stderr}");

    // Beside the original, so that a link is possible.
    let original = Path::new(env!("CARGO_BIN_EXE_loramill"));
    let elsewhere = tempfile::tempdir_in(original.parent().expect("a folder")).expect("a folder");
    let alone = elsewhere.path().join("loramill");
    fs::hard_link(original, &alone).expect("linked");
    let run = Command::new(&alone).args(["run", ".", "train"]).current_dir(folder.path()).output().expect("it starts");
    let (code, _, stderr) = said(&run);
    assert!(code == 1 && stderr.contains("/loramill-worker`, which runs the networks: build both programs"), "{stderr}");
    let plan = Command::new(&alone).args(["plan", "."]).current_dir(folder.path()).output().expect("it starts");
    assert!(plan.status.success(), "it reads pipelines alone");
}
