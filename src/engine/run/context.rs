//! What a running stage sees of the world: its artifacts, a scratch folder, the user's requests. Unaware of why the stage runs.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result, bail};

use crate::cache::Cache;
use crate::cache::batch::Batch;
use crate::cache::records::{Output, OutputName};
use crate::cache::regular_file::{self, Links};
use crate::decide::files::ArtifactFiles;
use crate::kind::item::{Artifact, Fields};
use crate::kind::stage::{Content, Context, Draft, Files, Progress, StopRequest};
use crate::run::control::StopRequests;
use crate::run::events::{Event, Observer};

/// Things kept in memory from stage to stage, by name.
#[derive(Default)]
pub struct Shared {
    kept: Mutex<BTreeMap<String, Arc<dyn Any + Send + Sync>>>,
    used: Mutex<BTreeSet<String>>,
}

impl Shared {
    fn get(&self, key: &str, make: &mut dyn FnMut() -> Result<Arc<dyn Any + Send + Sync>>) -> Result<Arc<dyn Any + Send + Sync>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_string());
        if let Some(kept) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Ok(Arc::clone(kept));
        }
        // Not under the lock: to make one thing may need another.
        let made = make()?;
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_string(), Arc::clone(&made));
        Ok(made)
    }

    /// Lets go of what the stage that has just ended did not use: the next would keep two models in memory for nothing.
    pub fn stage_ended(&self) {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| used.contains(key));
    }
}

/// What stages of one run have in common.
pub struct RunScope<'a> {
    pub cache: &'a Cache,
    pub device: &'a str,
    pub observer: &'a dyn Observer,
    pub requests: &'a StopRequests,
    pub shared: &'a Shared,
}

/// What a whole stage may do beyond an item stage.
pub struct Publishing<'a> {
    pub publish: &'a (dyn Fn(Draft) -> Result<()> + Sync),
    pub state: &'a Path,
}

/// The context of one piece of work, or of one whole stage.
pub struct StageContext<'a> {
    scope: &'a RunScope<'a>,
    files: &'a ArtifactFiles<'a>,
    stage: &'a str,
    publishing: Option<Publishing<'a>>,
    scratch: OnceLock<PathBuf>,
    scratch_failure: OnceLock<anyhow::Error>,
}

impl<'a> StageContext<'a> {
    /// Makes no scratch folder before one is asked for. `publishing`: `None` for a piece of work of an item stage.
    pub fn new(
        scope: &'a RunScope<'a>,
        files: &'a ArtifactFiles<'a>,
        stage: &'a str,
        publishing: Option<Publishing<'a>>,
    ) -> Self {
        let (scratch, scratch_failure) = (OnceLock::new(), OnceLock::new());
        Self { scope, files, stage, publishing, scratch, scratch_failure }
    }

    /// The outcome of what ran in this context. Where the scratch folder could not be made, that is the error to tell.
    pub fn settle<T>(&mut self, outcome: Result<T>) -> Result<T> {
        match self.scratch_failure.take() {
            Some(failure) => Err(failure),
            None => outcome,
        }
    }
}

impl Drop for StageContext<'_> {
    fn drop(&mut self) {
        if let Some(scratch) = self.scratch.get() {
            // What stays is removed with the workspace of the process.
            let _ = fs::remove_dir_all(scratch);
        }
    }
}

impl Files for StageContext<'_> {
    fn path(&self, artifact: &Artifact) -> Result<PathBuf> {
        self.files.path(artifact)
    }

    fn read(&self, artifact: &Artifact) -> Result<Vec<u8>> {
        self.files.read(artifact)
    }
}

impl Context for StageContext<'_> {
    fn scratch(&self) -> &Path {
        self.scratch.get_or_init(|| match self.scope.cache.scratch_folder() {
            Ok(folder) => folder,
            Err(error) => {
                // Whatever is written there fails, and `settle` tells why.
                let _ = self.scratch_failure.set(error.context("making a scratch folder"));
                PathBuf::from("/nonexistent/scratch")
            }
        })
    }

    fn device(&self) -> &str {
        self.scope.device
    }

    fn publish(&self, draft: Draft) -> Result<()> {
        match &self.publishing {
            Some(publishing) => (publishing.publish)(draft),
            None => bail!("`{}` is an item stage: its outputs are what its worker returns", self.stage),
        }
    }

    fn state(&self) -> Result<&Path> {
        match &self.publishing {
            Some(publishing) => Ok(publishing.state),
            None => bail!("`{}` is an item stage: it has no state to go on from", self.stage),
        }
    }

    fn shared(
        &self,
        key: &str,
        make: &mut dyn FnMut() -> Result<Arc<dyn Any + Send + Sync>>,
    ) -> Result<Arc<dyn Any + Send + Sync>> {
        self.scope.shared.get(key, make)
    }

    fn progress(&self, progress: Progress) {
        self.scope.observer.event(Event::Progress { stage: self.stage.to_string(), progress });
    }

    fn say(&self, message: &str) {
        self.scope.observer.event(Event::Said { stage: Some(self.stage.to_string()), message: message.to_string() });
    }

    fn stop_request(&self) -> StopRequest {
        if self.publishing.is_some() {
            self.scope.requests.poll()
        } else if self.scope.requests.interrupted() {
            StopRequest::Interrupt
        } else {
            StopRequest::GoOn
        }
    }
}

/// Puts the contents of a draft into the store. `work` is the name that the output's name follows; `""` where it has its own.
pub fn store(draft: Draft, work: &str, batch: &Batch<'_>, files: &ArtifactFiles<'_>) -> Result<Output> {
    let own_or_following = |name: &str| {
        if work.is_empty() { OutputName::Own(name.to_string()) } else { OutputName::of(name, work) }
    };
    let mut fields = Fields::new();
    for (field, content) in draft.fields {
        let artifact = match content {
            Content::Bytes { bytes, extension } => batch.put_bytes(&bytes)?.artifact(extension),
            Content::File { path, extension, written } => {
                let stored = batch.put_file(&path, written).with_context(|| format!("taking over `{}`", path.display()))?;
                stored.artifact(extension)
            }
            Content::Same(artifact) => {
                keep(&artifact, batch, files)?;
                artifact
            }
        };
        fields.insert(field.into(), artifact);
    }
    let origin = draft.origin.as_deref().map(own_or_following);
    Ok(Output { name: own_or_following(&draft.name), origin, fields, attributes: draft.attributes })
}

/// Copies an input file that has become an output into the store: its path may be gone when the output is needed.
fn keep(artifact: &Artifact, batch: &Batch<'_>, files: &ArtifactFiles<'_>) -> Result<()> {
    if files.cache.holds(&artifact.digest, artifact.size)? {
        return Ok(());
    }
    let Some(path) = files.intake.places.get(&artifact.digest) else {
        return Err(files.lost(artifact));
    };
    let folder = files.cache.scratch_folder()?;
    let copy = folder.join("copy");
    let copied = regular_file::open(path, Links::Followed)
        // One byte more than there were tells that it grew.
        .and_then(|source| io::copy(&mut source.take(artifact.size.saturating_add(1)), &mut File::create_new(&copy)?));
    copied.with_context(|| format!("copying `{}` into the cache", path.display()))?;
    let stored = batch.put_file(&copy, None)?;
    if stored.digest != artifact.digest {
        bail!("`{}` was changed while the run was reading it: run again", path.display());
    }
    fs::remove_dir(&folder).with_context(|| format!("removing `{}`", folder.display()))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::cache::digest::Digest;
    use crate::decide::intake::Intake;

    #[test]
    fn an_input_that_becomes_an_output_is_copied_as_far_as_it_was_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        let path = folder.path().join("photo");
        let artifact = Artifact { digest: Digest::of(b"bytes"), size: 5, extension: "png".into() };
        let intake = Intake { places: [(artifact.digest, path.clone())].into(), ..Intake::default() };
        let files = ArtifactFiles::new(&cache, &intake);
        let store = || {
            let batch = cache.batch();
            let stored = keep(&artifact, &batch, &files).map_err(|error| format!("{error:#}"));
            stored.and_then(|()| batch.flush().map_err(|error| format!("{error:#}")))
        };
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(store().unwrap_err().contains("it is a named pipe"));
        fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(20 << 30).unwrap();
        assert!(store().unwrap_err().contains("was changed while the run was reading it"));
        fs::write(&path, "bytes").unwrap();
        store().unwrap();
        assert!(cache.holds(&artifact.digest, artifact.size).unwrap());
    }
}
