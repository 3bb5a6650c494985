//! Saves the states of a training while it goes on: the training waits for a copy in memory, and a thread of its own for the disk. Unaware of when a
//! state is due.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::sd::training::state::{StateFolder, TrainingState};

/// At most one state on its way.
pub struct Saver {
    folder: StateFolder,
    writing: Option<JoinHandle<Result<Duration>>>,
    took: Duration,
}

impl Saver {
    /// Begins with no state on its way and [`Self::took`] at zero.
    pub fn new(folder: &StateFolder) -> Self {
        Self { folder: folder.clone(), writing: None, took: Duration::ZERO }
    }

    /// Begins to save a state, when the one before is durable.
    ///
    /// # Errors
    /// What befell the one before.
    pub fn begin(&mut self, state: TrainingState) -> Result<()> {
        self.finish()?;
        let folder = self.folder.clone();
        let write = move || {
            let started = Instant::now();
            folder.save(&state)?;
            Ok(started.elapsed())
        };
        self.writing = Some(thread::Builder::new().name("state".to_string()).spawn(write)?);
        Ok(())
    }

    /// Waits until the last state is durable.
    ///
    /// # Errors
    /// It could not be saved.
    pub fn finish(&mut self) -> Result<()> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        self.took = writing.join().map_err(|_| anyhow!("the thread that saves the training's state broke down"))??;
        Ok(())
    }

    /// How long it took to make the last state durable of which that is known.
    pub const fn took(&self) -> Duration {
        self.took
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        // Who ends without waiting has another error to tell.
        let _ = self.finish();
    }
}
