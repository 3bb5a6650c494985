//! Shows a run as it goes on: bars on a terminal, plain lines in a pipe, JSON lines for another program. Unaware of how stages
//! are run.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::cli::terminal::output::{Paint, Painted, errors_take_colours, escaped, tell_json_line, tell_painted};
use crate::cli::terminal::progress_line::{ProgressLine, duration};
use crate::cli::terminal::wording::{counted, shown};
use crate::engine::decide::reason::worded;
use crate::engine::kind::stage::Progress;
use crate::engine::run::events::{Counts, Event, Observer, StageState};
use crate::engine::run::schedule::NOT_STARTED;

/// In a pipe a running stage says how far it is this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// JSON lines report the progress of a stage this often at most.
const JSON_INTERVAL: Duration = Duration::from_millis(200);

/// How progress is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One line per stage, and one every ten seconds.
    Plain,
    /// One object a line, on standard output.
    Json,
}

impl Format {
    /// As it is asked for.
    pub const fn word(self) -> &'static str {
        match self {
            Format::Plain => "plain",
            Format::Json => "json",
        }
    }
}

/// Several threads may use it at once. Bars and lines go to standard error, JSON lines to standard output. With `--quiet` there
/// are no bars, and of the lines only failures; JSON lines stay.
pub struct Console {
    form: Form,
    quiet: bool,
    /// When JSON lines last reported a stage's progress.
    told: Mutex<BTreeMap<String, Instant>>,
    running: Mutex<BTreeMap<String, Running>>,
    following: Mutex<Following>,
}

/// What only follows from an error that was printed.
#[derive(Default)]
struct Following {
    /// The errors of single items: `star-05: it is no picture`.
    errors: BTreeSet<String>,
    /// Stages that did not start because of another.
    blocked: Vec<String>,
}

enum Form {
    Terminal { bars: MultiProgress, colours: bool },
    Plain,
    Json,
}

struct Running {
    bar: Option<ProgressBar>,
    started: Instant,
    said: Instant,
    /// Where the count stood at the first report: an interrupted stage does not begin at zero, and the rate must not count that.
    from: Option<u64>,
}

impl Console {
    /// Bars if standard error is a terminal and no format is asked for.
    pub fn new(format: Option<Format>, quiet: bool) -> Self {
        let form = match format {
            Some(Format::Json) => Form::Json,
            None if io::stderr().is_terminal() && !quiet => Form::Terminal {
                bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
                colours: errors_take_colours(),
            },
            _ => Form::Plain,
        };
        Self { form, quiet, told: Mutex::default(), running: Mutex::default(), following: Mutex::default() }
    }

    /// True where keys can be read while bars are shown.
    pub const fn is_terminal(&self) -> bool {
        matches!(self.form, Form::Terminal { .. })
    }

    /// True where progress is written as JSON lines.
    pub const fn is_json(&self) -> bool {
        matches!(self.form, Form::Json)
    }

    /// A line such as `     Done train in 2m 10s`; the verb is right-aligned and, on a terminal, coloured.
    pub fn line(&self, verb: Verb, text: &str) {
        if self.quiet && !matches!(verb, Verb::Failed) {
            return;
        }
        match &self.form {
            Form::Json => {}
            Form::Plain => tell_painted(&line(verb, text, false)),
            Form::Terminal { bars, colours } => {
                // A terminal that has gone away cannot show an error.
                let _ = bars.println(line(verb, text, *colours).to_string().trim_end_matches('\n'));
            }
        }
    }

    /// Takes bars away that are still there, so that nothing overwrites what comes next.
    pub fn close(&self) {
        self.tell_blocked();
        for (_, running) in std::mem::take(&mut *self.running()) {
            if let Some(bar) = running.bar {
                bar.finish_and_clear();
            }
        }
    }

    /// Steps come by the hundred a second; the last of a stage is always printed.
    fn is_too_soon(&self, event: &Event) -> bool {
        let Event::Progress { stage, progress } = event else { return false };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = told.get(stage).is_none_or(|last| last.elapsed() >= JSON_INTERVAL) || progress.done == progress.total;
        if is_new {
            told.insert(stage.clone(), Instant::now());
        }
        !is_new
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, stage: &str, total: u64) {
        let mut running = self.running();
        if running.contains_key(stage) {
            return;
        }
        let bar = match &self.form {
            Form::Terminal { bars, .. } => {
                let bar = bars.add(ProgressBar::new(total.max(1)));
                bar.set_style(ProgressStyle::with_template("{wide_msg}").expect("the template is fixed"));
                bar.set_message(format!("          {} starting", escaped(stage)));
                Some(bar)
            }
            _ => None,
        };
        let now = Instant::now();
        running.insert(stage.to_string(), Running { bar, started: now, said: now, from: None });
    }

    fn advance(&self, stage: &str, progress: &Progress) {
        let line = {
            let mut running = self.running();
            let Some(running) = running.get_mut(stage) else { return };
            let from = *running.from.get_or_insert_with(|| {
                running.started = Instant::now();
                progress.done
            });
            let line = ProgressLine::of(progress, from, running.started.elapsed());
            if let Some(bar) = &running.bar {
                bar.set_message(escaped(&line.fitted(stage, columns())).into_owned());
                return;
            }
            if running.said.elapsed() < PLAIN_INTERVAL {
                return;
            }
            running.said = Instant::now();
            line.whole()
        };
        if matches!(self.form, Form::Plain) {
            self.line(Verb::Running, &format!("{stage}: {line}"));
        }
    }

    fn finish(&self, stage: &str) {
        if let Some(Running { bar: Some(bar), .. }) = self.running().remove(stage) {
            bar.finish_and_clear();
        }
    }

    fn following(&self) -> MutexGuard<'_, Following> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an event only follows from an error that was printed: stages that did not start are named together.
    fn follows(&self, event: &Event) -> bool {
        if let Event::StageFinished { stage, state: StageState::Blocked, note: Some(note), .. } = event
            && note == NOT_STARTED
        {
            self.following().blocked.push(stage.clone());
            return true;
        }
        self.tell_blocked();
        false
    }

    fn tell_blocked(&self) {
        let blocked = std::mem::take(&mut self.following().blocked);
        if !blocked.is_empty() {
            self.line(Verb::Blocked, &format!("{}: {NOT_STARTED}", blocked.join(", ")));
        }
    }

    fn show(&self, event: Event) {
        if self.follows(&event) {
            return;
        }
        match event {
            Event::RunStarted { .. } | Event::RunFinished { .. } => {}
            Event::StageStarted { stage, reasons, counts, .. } => {
                self.line(Verb::Running, &format!("{stage}: {}", worded(&reasons)));
                self.start(&stage, (counts.total - counts.cached) as u64);
            }
            Event::ItemFinished { stage, item, counts, error } => {
                if let Some(error) = error {
                    self.line(Verb::Failed, &format!("{stage}/{item}: {error}"));
                    self.following().errors.insert(format!("{item}: {error}"));
                }
                let done = (counts.ran + counts.failed) as u64;
                let total = (counts.total - counts.cached) as u64;
                self.advance(&stage, &Progress { done, total, unit: "items", values: Vec::new() });
            }
            Event::Progress { stage, progress } => self.advance(&stage, &progress),
            Event::Checkpoint { stage, item, attributes, files } => {
                self.line(Verb::Saved, &saved(&stage, &item, &attributes, &files));
            }
            Event::Shown { stage, items, files } => {
                self.line(Verb::Saved, &shown_so_far(&stage, items, &files));
            }
            Event::Linted { stage, lints } => {
                for line in lints.messages() {
                    self.line(Verb::Note, &format!("{stage}: {line}"));
                }
            }
            Event::Said { stage: Some(stage), message } => self.line(Verb::Note, &format!("{stage}: {message}")),
            Event::Said { stage: None, message } => self.line(Verb::Note, &message),
            Event::StageFinished { stage, state, counts, seconds, note, came_out_the_same } => {
                self.finish(&stage);
                let note = note.filter(|note| state != StageState::Failed || !self.following().errors.contains(note));
                let (verb, text) = finished(&stage, state, counts, seconds, note.as_deref(), came_out_the_same);
                self.line(verb, &text);
            }
        }
    }
}

impl Observer for Console {
    fn event(&self, event: Event) {
        match self.form {
            Form::Json if self.is_too_soon(&event) => {}
            Form::Json => tell_json_line(&to_json(&event)),
            _ => self.show(event),
        }
    }
}

/// What a line begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Cached,
    Running,
    Saved,
    Note,
    Done,
    Failed,
    Blocked,
    Stopped,
    Waiting,
    Watching,
    Changed,
}

impl Verb {
    const fn word(self) -> &'static str {
        match self {
            Verb::Cached => "Cached",
            Verb::Running => "Running",
            Verb::Saved => "Saved",
            Verb::Note => "Note",
            Verb::Done => "Done",
            Verb::Failed => "Failed",
            Verb::Blocked => "Blocked",
            Verb::Stopped => "Stopped",
            Verb::Waiting => "Waiting",
            Verb::Watching => "Watching",
            Verb::Changed => "Changed",
        }
    }

    /// Green for what is there, cyan for what goes on, yellow for what the user should know, red for what failed.
    const fn paint(self) -> Paint {
        match self {
            Verb::Cached | Verb::Done | Verb::Saved => Paint::BoldGreen,
            Verb::Running | Verb::Watching | Verb::Changed => Paint::BoldCyan,
            Verb::Note | Verb::Blocked | Verb::Stopped | Verb::Waiting => Paint::BoldYellow,
            Verb::Failed => Paint::BoldRed,
        }
    }
}

/// `     Done train in 2m 10s`. Of several lines only the first stands at the margin: a name with a line feed in it begins no line
/// of ours.
fn line(verb: Verb, text: &str, colours: bool) -> Painted {
    let mut line = Painted::new(colours);
    line.paint(verb.paint(), &format!("{:>9}", verb.word()));
    line.add(&format!(" {}\n", text.replace('\n', "\n          ")));
    line
}

fn finished(
    stage: &str,
    state: StageState,
    counts: Counts,
    seconds: f64,
    note: Option<&str>,
    came_out_the_same: bool,
) -> (Verb, String) {
    let note = note.map(|note| format!(": {note}")).unwrap_or_default();
    let items = |count: usize| if count == 1 { "1 item".to_string() } else { format!("{count} items") };
    match state {
        StageState::Cached => (Verb::Cached, format!("{stage} ({}){note}", items(counts.total))),
        StageState::Ran => {
            let share = if counts.cached > 0 { format!(" ({} of {})", counts.ran, items(counts.total)) } else { String::new() };
            let same = if came_out_the_same { "; output unchanged" } else { "" };
            (Verb::Done, format!("{stage}{share} in {}{note}{same}", duration(seconds)))
        }
        StageState::Failed if counts.total > 1 => {
            (Verb::Failed, format!("{stage}: {} of {} failed{note}", counts.failed, items(counts.total)))
        }
        StageState::Failed => (Verb::Failed, format!("{stage}{note}")),
        StageState::Blocked => (Verb::Blocked, format!("{stage}{note}")),
        StageState::Interrupted => (Verb::Stopped, format!("{stage}{note}")),
    }
}

/// Of the terminal that standard error is; it may change at any time.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(80)
}

fn saved(stage: &str, item: &str, attributes: &BTreeMap<String, String>, files: &[PathBuf]) -> String {
    let facts: Vec<String> = attributes.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    format!("{stage}/{item}{facts}{}", places(files))
}

fn shown_so_far(stage: &str, items: usize, files: &[PathBuf]) -> String {
    format!("{stage}: {} so far{}", counted(items, "item"), places(files))
}

/// `: `out/train/e010.safetensors``; nothing where there is no file to name.
fn places(files: &[PathBuf]) -> String {
    let named: Vec<String> = files.iter().map(|file| format!("`{}`", shown(file))).collect();
    if named.is_empty() { String::new() } else { format!(": {}", named.join(", ")) }
}

fn files_json(files: &[PathBuf]) -> serde_json::Value {
    files.iter().map(|file| file.to_string_lossy()).collect::<Vec<_>>().into()
}

fn counts_json(counts: Counts) -> serde_json::Value {
    json!({ "total": counts.total, "ran": counts.ran, "cached": counts.cached, "failed": counts.failed })
}

/// The contract of `--progress json`.
fn to_json(event: &Event) -> serde_json::Value {
    match event {
        Event::RunStarted { pipeline, stages } => json!({ "event": "run_started", "pipeline": pipeline, "stages": stages }),
        Event::StageStarted { stage, kind, reasons, counts } => json!({
            "event": "stage_started",
            "stage": stage,
            "kind": kind,
            "reasons": reasons.iter().map(|reason| reason.to_json()).collect::<Vec<_>>(),
            "items": counts_json(*counts),
        }),
        Event::ItemFinished { stage, item, counts, error } => json!({
            "event": "item_finished", "stage": stage, "item": item, "items": counts_json(*counts), "error": error,
        }),
        Event::Progress { stage, progress } => {
            let values: serde_json::Map<String, serde_json::Value> =
                progress.values.iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
            json!({
                "event": "progress", "stage": stage,
                "done": progress.done, "total": progress.total, "unit": progress.unit, "values": values,
            })
        }
        Event::Checkpoint { stage, item, attributes, files } => {
            json!({ "event": "checkpoint", "stage": stage, "item": item, "attributes": attributes, "files": files_json(files) })
        }
        Event::Shown { stage, items, files } => {
            json!({ "event": "shown", "stage": stage, "items": items, "files": files_json(files) })
        }
        Event::Linted { stage, lints } => json!({ "event": "lint", "stage": stage, "lints": lints.to_json() }),
        Event::Said { stage, message } => json!({ "event": "message", "stage": stage, "text": message }),
        Event::StageFinished { stage, state, counts, seconds, note, came_out_the_same } => json!({
            "event": "stage_finished",
            "stage": stage,
            "state": state.word(),
            "items": counts_json(*counts),
            "seconds": seconds,
            "note": note,
            "came_out_the_same": came_out_the_same,
        }),
        Event::RunFinished { ok, seconds } => json!({ "event": "run_finished", "ok": ok, "seconds": seconds }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_stage_says_what_ran() {
        let counts = Counts { total: 24, ran: 1, cached: 23, failed: 0 };
        assert_eq!(
            finished("resize", StageState::Ran, counts, 0.31, None, false),
            (Verb::Done, "resize (1 of 24 items) in 0.3s".to_string())
        );
        let cached = Counts { total: 24, ran: 0, cached: 24, failed: 0 };
        assert_eq!(
            finished("resize", StageState::Cached, cached, 0.0, None, false),
            (Verb::Cached, "resize (24 items)".to_string())
        );
    }

    #[test]
    fn what_is_shown_at_once_is_told_with_its_place() {
        let attributes = BTreeMap::from([("epoch", "20"), ("step", "480")].map(|(name, value)| (name.into(), value.into())));
        let lora = [PathBuf::from("out/train/e020.safetensors")];
        assert_eq!(saved("train", "e020", &attributes, &lora), "train/e020 (epoch 20, step 480): `out/train/e020.safetensors`");
        assert_eq!(saved("train", "e020", &BTreeMap::new(), &[]), "train/e020");
        let sheet = [PathBuf::from("out/sample/grid.png")];
        assert_eq!(shown_so_far("sample", 4, &sheet), "sample: 4 items so far: `out/sample/grid.png`");
        let json = to_json(&Event::Shown { stage: "sample".into(), items: 4, files: sheet.into() });
        assert_eq!(json, json!({ "event": "shown", "stage": "sample", "items": 4, "files": ["out/sample/grid.png"] }));
    }

    #[test]
    fn the_json_of_a_finished_stage_has_the_names_of_the_contract() {
        let event = Event::StageFinished {
            stage: "crop".into(),
            state: StageState::Ran,
            counts: Counts { total: 3, ran: 1, cached: 2, failed: 0 },
            seconds: 1.5,
            note: None,
            came_out_the_same: false,
        };
        let json = to_json(&event);
        assert_eq!(json["event"], "stage_finished");
        assert_eq!(json["stage"], "crop");
        assert_eq!(json["state"], "ran");
        assert_eq!(json["items"], json!({ "total": 3, "ran": 1, "cached": 2, "failed": 0 }));
        assert_eq!(json["seconds"], 1.5);
    }
}
