//! Says once in a run which device runs its networks, when the first stage that opens one must run. Unaware of how the device was
//! chosen.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::graph::pipeline::Pipeline;
use crate::engine::run::events::{Event, Observer};

/// Passes events on, and the line before the first that it is about.
pub struct DeviceLine<'a> {
    pipeline: &'a Pipeline,
    line: String,
    is_told: AtomicBool,
    next: &'a dyn Observer,
}

impl<'a> DeviceLine<'a> {
    /// - `device`: as a run is given it
    /// - `by`: what computes on it, for people
    pub fn new(pipeline: &'a Pipeline, device: &str, by: Option<&str>, next: &'a dyn Observer) -> Self {
        let by = by.map(|by| format!(": {by}")).unwrap_or_default();
        Self { pipeline, line: format!("networks run on `{device}`{by}"), is_told: AtomicBool::new(false), next }
    }
}

impl Observer for DeviceLine<'_> {
    fn event(&self, event: Event) {
        if let Event::StageStarted { stage, .. } = &event
            && self.pipeline.stage(stage).is_some_and(|stage| stage.stage.uses_device())
            && !self.is_told.swap(true, Ordering::SeqCst)
        {
            self.next.event(Event::Said { stage: None, message: self.line.clone() });
        }
        self.next.event(event);
    }
}
