//! What happens while stages run, as data. Unaware of who watches.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::decide::lints::Lints;
use crate::decide::reason::Reason;
use crate::kind::stage::Progress;

/// How a stage came out of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageState {
    /// Nothing had to run.
    Cached,
    Ran,
    Failed,
    /// Something it needs failed, or waits for the user.
    Blocked,
    Interrupted,
}

impl StageState {
    /// As the JSON lines write it.
    pub fn word(self) -> &'static str {
        match self {
            StageState::Cached => "cached",
            StageState::Ran => "ran",
            StageState::Failed => "failed",
            StageState::Blocked => "blocked",
            StageState::Interrupted => "interrupted",
        }
    }
}

/// Pieces of work of an item stage, or the one piece of a whole stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub total: usize,
    pub ran: usize,
    pub cached: usize,
    pub failed: usize,
}

/// What an observer gets. Stages have their full names; times are in seconds.
#[derive(Clone, Debug)]
pub enum Event {
    RunStarted {
        pipeline: String,
        stages: Vec<String>,
    },
    /// Something of the stage must run.
    StageStarted {
        stage: String,
        kind: String,
        reasons: Vec<Reason>,
        counts: Counts,
    },
    /// A piece of work of an item stage has ended.
    ItemFinished {
        stage: String,
        item: String,
        counts: Counts,
        error: Option<String>,
    },
    /// Within one stage that runs as a whole, or within one long piece of work.
    Progress {
        stage: String,
        progress: Progress,
    },
    /// A whole stage made an output durable.
    Checkpoint {
        stage: String,
        item: String,
        attributes: BTreeMap<String, String>,
        /// Where it stands in `out/`.
        files: Vec<PathBuf>,
    },
    /// Items that a stage has made so far stand in `out/`.
    Shown {
        stage: String,
        items: usize,
        /// What is made of all of them together: the sheet.
        files: Vec<PathBuf>,
    },
    /// What a stage remarks on its inputs before it works on them.
    Linted {
        stage: String,
        lints: Lints,
    },
    /// A line for the user.
    Said {
        stage: Option<String>,
        message: String,
    },
    StageFinished {
        stage: String,
        state: StageState,
        counts: Counts,
        seconds: f64,
        /// What failed, what it waits for, or "stopped at epoch 43 of 100".
        note: Option<String>,
        /// It ran and its outputs are those that were there before.
        came_out_the_same: bool,
    },
    RunFinished {
        ok: bool,
        seconds: f64,
    },
}

/// Gets events as they happen, from several threads.
pub trait Observer: Sync {
    fn event(&self, event: Event);
}

/// Watches nothing.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: Event) {}
}
