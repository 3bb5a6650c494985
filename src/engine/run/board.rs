//! How far each stage of a run is, and what it gives so far. Only the scheduler and the runner of a stage know it. Unaware of
//! what a stage does.
//!
//! ```text
//! waiting ──start──► running ──end──► ended
//!    ▲                  │ publish: consumers that wait run on what is there
//!    └── add_inline ────┘
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::graph::pipeline::{LoadedStage, Producer};
use crate::graph::selection::Ask;
use crate::graph::stage_id::{StageId, StageVec};
use crate::kind::item_tree::Given;
use crate::kind::stage::Form;
use crate::run::ending::Inline;
use crate::run::run_context::RunContext;

/// One place for each stage of the pipeline.
pub(crate) struct Board {
    places: Mutex<StageVec<Place>>,
}

/// How far a stage is.
#[derive(Clone, Debug)]
struct Place {
    phase: Phase,
    given: Given,
    inline: Inline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Running,
    Ended,
}

impl Board {
    /// All stages wait.
    pub(crate) fn new(stages: &StageVec<LoadedStage>) -> Self {
        let place = Place { phase: Phase::Waiting, given: Given::Nothing, inline: Inline::default() };
        Self { places: Mutex::new(stages.filled_with(place)) }
    }

    fn places(&self) -> MutexGuard<'_, StageVec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a stage waits and all that it reads has ended.
    pub(crate) fn is_ready(&self, ctx: &RunContext<'_>, id: StageId) -> bool {
        let places = self.places();
        places[id].phase == Phase::Waiting && ctx.pipeline.producers(id).all(|producer| places[producer].phase == Phase::Ended)
    }

    /// Marks the stage as running, so that it does not start twice.
    pub(crate) fn start(&self, id: StageId) {
        self.places()[id].phase = Phase::Running;
    }

    /// From here on stages that read `id` may start.
    pub(crate) fn end(&self, id: StageId, given: Given) {
        let place = &mut self.places()[id];
        place.phase = Phase::Ended;
        place.given = given;
    }

    /// What a stage that has not ended gives so far.
    pub(crate) fn publish(&self, id: StageId, given: Given) {
        self.places()[id].given = given;
    }

    /// What a producer gives, as far as it is known.
    pub(crate) fn given(&self, ctx: &RunContext<'_>, producer: Producer) -> Given {
        match producer {
            Producer::Input(input) => ctx.intake.given.get(&input).cloned().unwrap_or(Given::Nothing),
            Producer::Stage(id) => self.places()[id].given.clone(),
        }
    }

    /// What the stage has done before its own turn, which the report of the stage adds.
    pub(crate) fn inline(&self, id: StageId) -> Inline {
        self.places()[id].inline
    }

    /// Adds what the stage did on outputs that were published. It goes on waiting for its own turn.
    pub(crate) fn add_inline(&self, id: StageId, more: Inline) {
        let inline = &mut self.places()[id].inline;
        inline.ran += more.ran;
        inline.seconds += more.seconds;
    }

    /// Stages that read `id`, are asked for and still wait, though all else that they read is there.
    pub(crate) fn waiting_consumers(&self, ctx: &RunContext<'_>, id: StageId) -> Vec<StageId> {
        let places = self.places();
        let is_there =
            |producer: StageId| places[producer].phase == Phase::Ended && matches!(places[producer].given, Given::Whole(_));
        ctx.needed
            .iter()
            .copied()
            .filter(|&consumer| matches!(ctx.pipeline.stages[consumer].stage.form(), Form::Items(_)))
            .filter(|&consumer| places[consumer].phase == Phase::Waiting)
            // One that is forced runs once, in its own turn.
            .filter(|&consumer| matches!(ctx.options.selection.ask(consumer), Ask::Complete))
            .filter(|&consumer| ctx.pipeline.producers(consumer).any(|producer| producer == id))
            .filter(|&consumer| ctx.pipeline.producers(consumer).all(|producer| producer == id || is_there(producer)))
            .collect()
    }
}
