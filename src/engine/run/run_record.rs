//! What a run did. Unaware of how it is printed.

use crate::run::events::{Counts, StageState};

/// What became of each stage of a run.
#[derive(Clone, Debug)]
pub struct RunRecord {
    /// In the order of the pipeline; stages that were not asked for or never had their turn are missing.
    pub stages: Vec<StageReport>,
    pub seconds: f64,
    pub interrupted: bool,
}

/// How one stage ended; `seconds` include what it did before its own turn.
#[derive(Clone, Debug)]
pub struct StageReport {
    pub name: String,
    pub state: StageState,
    pub counts: Counts,
    pub seconds: f64,
    /// What failed, what it waits for, or how it was stopped.
    pub note: Option<String>,
    /// It waits for the user, not for something that failed.
    pub waits_for_user: bool,
}

impl RunRecord {
    /// False if a stage failed, or could not run because another had.
    pub fn is_ok(&self) -> bool {
        let bad = |stage: &StageReport| match stage.state {
            StageState::Failed => true,
            StageState::Blocked => !stage.waits_for_user,
            StageState::Cached | StageState::Ran | StageState::Interrupted => false,
        };
        !self.interrupted && !self.stages.iter().any(bad)
    }

    /// True if nothing had to run.
    pub fn did_nothing(&self) -> bool {
        self.stages.iter().all(|stage| stage.state == StageState::Cached)
    }

    /// Finds a stage by its full name; `None` if the run did not come to it.
    pub fn stage(&self, name: &str) -> Option<&StageReport> {
        self.stages.iter().find(|stage| stage.name == name)
    }
}
