//! `loramill doctor`: what works on this computer, what does not, and what to do.
//!
//! Exit code: 0 if all that matters here is OK, or only not proven; 1 if something works slower or with less; 2 if something does
//! not work, which may be one card of two.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::device::{probe, start};
use crate::cli::exit::WrongFile;
use crate::cli::global::Global;
use crate::cli::terminal::output::{Paint, Painted, output_takes_colours, print_json, print_painted};
use crate::cli::terminal::wording::counted;
use crate::cli::walls::programs;
use crate::computer::doctor::scrub::scrubbed;
use crate::computer::doctor::{Build, Check, Diagnosis, Patient, State, Verdict, examine, memory_size};
use crate::computer::machine::Machine;
use crate::computer::machine::walls;
use crate::engine::cache::Cache;
use crate::engine::inputs::sources::Surroundings;
use crate::engine::syntax::diagnostic::Diagnostics;

/// Show what works on this computer, what does not, and how to fix it; exit code 1 if something is degraded, 2 if blocked
#[derive(Args)]
pub struct Arguments {
    /// Also show checks that are OK, and those that do not matter here
    #[arg(long)]
    all: bool,
    /// Print a full report to share, without your name and home folder
    #[arg(long)]
    report: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Examines this computer. With libtorch it also computes on each card, in a process of its own. Exit codes are those of
/// `exit_code`.
///
/// # Errors
/// `WrongFile` if the user's `loramill/config.yaml` is wrong.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let mut diagnostics = Diagnostics::default();
    let models = Surroundings::of_process(&mut diagnostics).models;
    if !diagnostics.is_empty() {
        return Err(WrongFile(diagnostics.into_sorted()).into());
    }
    let host = start::host();
    let machine = Machine::read(&host);
    let cache = Cache::locate(Path::new("."), global.cache().as_deref());
    let cache = std::path::absolute(&cache).unwrap_or(cache);
    let self_tests = if BUILD.networks { probe::of_cards(&machine) } else { Vec::new() };
    let diagnosis = examine(&Patient {
        host: &host,
        machine: &machine,
        build: BUILD,
        models: &models,
        cache: &cache,
        self_tests: &self_tests,
        walls: &walls::trial(&programs()),
    });
    let diagnosis = if arguments.report { scrubbed(diagnosis, &machine) } else { diagnosis };
    if arguments.json {
        print_json(&to_json(&diagnosis))?;
    } else {
        let detail = match (arguments.report, arguments.all) {
            (true, _) => Detail::Report,
            (_, true) => Detail::All,
            _ => Detail::Problems,
        };
        print_painted(&text(&diagnosis, detail, output_takes_colours()))?;
    }
    Ok(ExitCode::from(exit_code(diagnosis.state())))
}

/// What this program can compute with.
const BUILD: Build = Build {
    networks: cfg!(feature = "nn"),
    libtorch: cfg!(feature = "libtorch"),
    rocm: cfg!(feature = "rocm"),
    vulkan: cfg!(feature = "vulkan"),
};

/// A card that was not tested counts as working: 0.
pub const fn exit_code(state: State) -> u8 {
    match state {
        State::Ok | State::Unverified => 0,
        State::Degraded => 1,
        State::Blocked => 2,
    }
}

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Devices, and checks that are not OK.
    Problems,
    /// All checks.
    All,
    /// All checks, and what the computer is.
    Report,
}

/// One line per device, then the checks from the worst state to the best, then how many are in each state.
pub fn text(diagnosis: &Diagnosis, detail: Detail, colours: bool) -> Painted {
    let mut text = Painted::new(colours);
    let width = diagnosis.devices.iter().map(|verdict| verdict.device.len()).max().unwrap_or(0);
    for verdict in &diagnosis.devices {
        text.add(&format!("{:width$}  ", verdict.device));
        line(&mut text, verdict);
    }
    let mut shown: Vec<&Check> = diagnosis.checks.iter().filter(|check| check.is_relevant).collect();
    if detail == Detail::Problems {
        shown.retain(|check| check.state != State::Ok);
    }
    // The worst first; among equals from cheap to costly.
    shown.sort_by_key(|check| std::cmp::Reverse(check.state));
    let mut before = None;
    for check in shown {
        let starts_group = check.state == State::Ok && before != Some(State::Ok);
        text.add(if starts_group { "\n" } else { "" });
        write_check(&mut text, check, Some(check.state));
        before = Some(check.state);
    }
    if detail != Detail::Problems {
        for check in diagnosis.checks.iter().filter(|check| !check.is_relevant) {
            write_check(&mut text, check, None);
        }
    }
    if detail == Detail::Report {
        text.add("\n");
        for (name, value) in &diagnosis.facts {
            text.add(&format!("{name}: {value}\n"));
        }
    }
    text.add(&format!("\n{}\n", summary(diagnosis, detail)));
    text
}

/// Columns of the first word of a line.
const COLUMN: usize = 11;

/// `AMD Radeon RX 6700 XT, gfx1031, 12 GB: blocked: amdgpu is not loaded`
fn line(text: &mut Painted, verdict: &Verdict) {
    let mut parts = vec![verdict.name.clone()];
    parts.extend(verdict.target.clone());
    parts.extend(verdict.facts.iter().cloned());
    parts.extend(verdict.memory.map(memory_size));
    let because = verdict.because.as_ref().map(|because| format!(": {because}")).unwrap_or_default();
    text.add(&format!("{}: ", parts.join(", ")));
    text.paint(paint_of(verdict.state), verdict.state.word());
    text.add(&format!("{because}\n"));
}

const fn paint_of(state: State) -> Paint {
    match state {
        State::Ok => Paint::Green,
        State::Unverified => Paint::Cyan,
        State::Degraded => Paint::Yellow,
        State::Blocked => Paint::Red,
    }
}

/// `state`: nothing for what does not matter here.
fn write_check(text: &mut Painted, check: &Check, state: Option<State>) {
    let device = check.device.as_ref().map(|device| format!(" of {device}")).unwrap_or_default();
    // What is well stands close together.
    let gap = if check.state == State::Ok || !check.is_relevant { "" } else { "\n" };
    text.add(gap);
    match state {
        Some(state) => text.paint(paint_of(state), &format!("{:COLUMN$}", state.word())),
        None => text.add(&format!("{:COLUMN$}", "not needed")),
    }
    text.add(&format!(" {}{device}: {}\n", check.name, check.summary));
    let seen = check.evidence.iter().map(|seen| ("seen", seen));
    let rest = check.fix.iter().map(|fix| ("fix", fix)).chain(check.verify.iter().map(|verify| ("verify", verify)));
    for (word, line) in seen.chain(rest.filter(|_| check.state != State::Ok && check.is_relevant)) {
        text.add(&format!("{:COLUMN$} {word:6}  {line}\n", ""));
    }
}

fn summary(diagnosis: &Diagnosis, detail: Detail) -> String {
    let count = |state| diagnosis.checks.iter().filter(|check| check.is_relevant && check.state == state).count();
    let mut parts = vec![format!("{} ok", counted(count(State::Ok), "check"))];
    for state in [State::Unverified, State::Degraded, State::Blocked] {
        parts.extend((count(state) > 0).then(|| format!("{} {}", count(state), state.word())));
    }
    let more = if detail == Detail::Problems { "; `--all` shows them all" } else { "" };
    let advice = diagnosis.advice.as_ref().map(|advice| format!("{advice}\n")).unwrap_or_default();
    format!("{advice}{}{more}", parts.join(", "))
}

/// The contract of `doctor --json`: names in it stay.
pub fn to_json(diagnosis: &Diagnosis) -> Value {
    let devices = diagnosis.devices.iter().map(|verdict| {
        json!({
            "device": verdict.device,
            "name": verdict.name,
            "target": verdict.target,
            "memory_bytes": verdict.memory,
            "facts": verdict.facts,
            "support": verdict.support.map(|support| support.word()),
            "state": verdict.state.word(),
            "because": verdict.because,
        })
    });
    let checks = diagnosis.checks.iter().map(|check| {
        json!({
            "check": check.name,
            "device": check.device,
            "relevant": check.is_relevant,
            "state": check.state.word(),
            "summary": check.summary,
            "evidence": check.evidence,
            "fix": check.fix,
            "verify": check.verify,
        })
    });
    let facts = diagnosis.facts.iter().map(|(name, value)| json!({ "name": name, "value": value }));
    json!({
        "state": diagnosis.state().word(),
        "devices": devices.collect::<Vec<_>>(),
        "checks": checks.collect::<Vec<_>>(),
        "facts": facts.collect::<Vec<_>>(),
        "advice": diagnosis.advice,
    })
}
