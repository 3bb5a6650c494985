//! Keeps a note of how far a run is, for `loramill status` in another terminal, and takes the request of `loramill stop`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::cli::terminal::console::{Console, Verb};
use crate::engine::cache::Cache;
use crate::engine::run::control::StopRequests;
use crate::engine::run::events::{Event, Observer};

/// How often the note is written at most, and the request looked for.
const INTERVAL: Duration = Duration::from_millis(500);

/// Passes events on and notes what they say.
pub struct RunStatus<'a> {
    cache: &'a Cache,
    folder: &'a Path,
    next: &'a dyn Observer,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    lines: BTreeMap<String, String>,
    written: Option<Instant>,
}

impl<'a> RunStatus<'a> {
    /// Starts without a note: the first is written when a stage starts. `folder` is that of the pipeline; events go on to `next`.
    pub fn new(cache: &'a Cache, folder: &'a Path, next: &'a dyn Observer) -> Self {
        Self { cache, folder, next, noted: Mutex::default() }
    }

    fn note(&self, event: &Event) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at_once = true;
        match event {
            Event::StageStarted { stage, .. } => drop(noted.lines.insert(stage.clone(), "started".to_string())),
            Event::ItemFinished { stage, counts, .. } => {
                at_once = false;
                let text = format!("{} of {} items", counts.ran + counts.cached + counts.failed, counts.total);
                noted.lines.insert(stage.clone(), text);
            }
            Event::Progress { stage, progress } => {
                at_once = false;
                let text = format!("{} of {} {}", progress.done, progress.total, progress.unit);
                noted.lines.insert(stage.clone(), text);
            }
            Event::StageFinished { stage, .. } if noted.lines.contains_key(stage) => drop(noted.lines.remove(stage)),
            _ => return,
        }
        if !at_once && noted.written.is_some_and(|written| written.elapsed() < INTERVAL) {
            return;
        }
        noted.written = Some(Instant::now());
        let mut text = String::new();
        for (stage, line) in &noted.lines {
            let _ = writeln!(text, "{stage}: {line}");
        }
        // The run matters more than the note about it.
        let _ = self.cache.write_run_status(self.folder, &text);
    }
}

impl Observer for RunStatus<'_> {
    fn event(&self, event: Event) {
        self.note(&event);
        self.next.event(event);
    }
}

impl Drop for RunStatus<'_> {
    fn drop(&mut self) {
        let written = self.noted.lock().unwrap_or_else(PoisonError::into_inner).written.is_some();
        if written {
            let _ = self.cache.remove_run_status(self.folder);
        }
    }
}

/// Hands the request of `loramill stop` on while `work` goes on.
pub fn hearing_stop<T>(
    cache: &Cache,
    folder: &Path,
    console: &Console,
    requests: &StopRequests,
    work: impl FnOnce() -> T,
) -> anyhow::Result<T> {
    // A request that came too late for the run before is none of this one's.
    cache.take_stop_request(folder)?;
    let ended = AtomicBool::new(false);
    Ok(thread::scope(|scope| {
        let listener = scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                if cache.take_stop_request(folder).unwrap_or(false) && !requests.stop() {
                    console.line(Verb::Note, "asked to stop, but no training is running; Ctrl-C stops the run");
                }
                thread::park_timeout(INTERVAL);
            }
        });
        let outcome = work();
        ended.store(true, Ordering::SeqCst);
        listener.thread().unpark();
        outcome
    }))
}
