//! What stages do with networks, for a program that links the libraries which compute them. Not a kind.
//!
//! A linker keeps a library that any code refers to, and a library of a device takes a quarter of a second to load. So nothing
//! that reads a pipeline refers to this work: a program that does it says so when it starts.

use std::sync::OnceLock;

use anyhow::{Context as _, Result};

use crate::engine::kind::stage::{Context, Draft, Ended, Resolved, Work};
use crate::stages::train::Train;

/// What is done with networks, by the stages that do it.
pub struct NetworkWork {
    /// `latents`: one picture.
    pub encode: fn(&Work, &dyn Context) -> Result<Vec<Draft>>,
    /// `sample`: one picture.
    pub draw: fn(&Work, &dyn Context) -> Result<Vec<Draft>>,
    /// `train`.
    pub train: fn(&Train, &Resolved, &dyn Context) -> Result<Ended>,
}

static LINKED: OnceLock<&'static NetworkWork> = OnceLock::new();

/// Says that this program does the work. Once, when it starts.
pub fn link(work: &'static NetworkWork) {
    LINKED.get_or_init(|| work);
}

/// # Errors
/// If this program does not do it.
pub(in crate::stages) fn linked() -> Result<&'static NetworkWork> {
    LINKED.get().copied().context("this program opens no networks: `loramill-worker` does, beside it")
}
