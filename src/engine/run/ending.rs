//! How a stage of a run ended, and what it did before its own turn. Unaware of how it ran.

use crate::kind::item_tree::Given;
use crate::run::events::{Counts, StageState};

/// How a stage ended.
pub(crate) struct Ending {
    pub(crate) state: StageState,
    pub(crate) given: Given,
    pub(crate) counts: Counts,
    pub(crate) note: Option<String>,
    pub(crate) waits_for_user: bool,
    pub(crate) came_out_the_same: bool,
}

impl Ending {
    /// Without a note. It neither waits for the user nor came out the same.
    pub(crate) fn new(state: StageState, given: Given, counts: Counts) -> Self {
        Self { state, given, counts, note: None, waits_for_user: false, came_out_the_same: false }
    }

    /// Adds what failed, what the stage waits for, or how it was stopped.
    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..self }
    }
}

/// What a stage did while one that it reads was still publishing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inline {
    pub(crate) ran: usize,
    pub(crate) seconds: f64,
}
