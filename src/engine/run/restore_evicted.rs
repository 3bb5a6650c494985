//! Brings outputs back that their stages did not keep, for a stage that must run: from `out/`, or made again. Lock file, records of stages
//! and `out/` stay as they are, because nothing new is made. Unaware of which stages keep nothing.

use std::collections::HashSet;
use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::engine::cache::digest::Digest;
use crate::engine::cache::records::Output;
use crate::engine::decide::decision::{Decision, Works};
use crate::engine::decide::files::ArtifactFiles;
use crate::engine::decide::recall::Recall;
use crate::engine::graph::pipeline::{LoadedStage, Producer};
use crate::engine::graph::selection::Ask;
use crate::engine::kind::item::{Artifact, Item};
use crate::engine::kind::item_tree::{Given, ItemTree};
use crate::engine::kind::stage::{Draft, Ended, Form, WholeStage};
use crate::engine::out::shown;
use crate::engine::run::context::{Publishing, StageContext, store};
use crate::engine::run::events::{Counts, Event, StageState};
use crate::engine::run::guard::guarded;
use crate::engine::run::items::Pieces;
use crate::engine::run::run_record::StageReport;
use crate::engine::run::schedule::Run;
use crate::engine::run::whole::keep_only_what_is_read;

/// What became of the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Brought {
    /// All that a stage made which does not keep its outputs is here.
    Back,
    /// The user wants an end.
    Interrupted,
}

impl Run<'_> {
    /// Those of `artifacts` that are neither in the cache nor inputs.
    pub(crate) fn missing(&self, artifacts: impl IntoIterator<Item = Artifact>) -> Vec<Artifact> {
        let is_here = |artifact: &Artifact| {
            self.intake.places.contains_key(&artifact.digest) || self.cache.contains(&artifact.digest, artifact.size)
        };
        artifacts.into_iter().filter(|artifact| !is_here(artifact)).collect()
    }

    /// Brings back all that the stage at `reader` may read. True if anything was missing.
    pub(crate) fn bring_back_all(&self, reader: usize, files: &ArtifactFiles<'_>) -> Result<bool> {
        let recalls = self.grounds(files).recall_all(reader, &self.give())?;
        let from_out = recalls.iter().flat_map(|recall| recall.from_out.iter().map(|(artifact, _)| artifact.clone()));
        let made = recalls.iter().flat_map(|recall| recall.items.iter().flat_map(|item| item.fields.values().cloned()));
        let needed: Vec<Artifact> = from_out.chain(made).collect();
        Ok(!needed.is_empty() && self.bring_back(reader, needed)? == Brought::Back)
    }

    /// Brings back what the stage at `reader` needs, as far as stages made it that do not keep their outputs.
    ///
    /// # Errors
    /// It cannot be made again, or comes out different.
    pub(crate) fn bring_back(&self, reader: usize, needed: impl IntoIterator<Item = Artifact>) -> Result<Brought> {
        let missing = self.missing(needed);
        if missing.is_empty() {
            return Ok(Brought::Back);
        }
        let stages = &self.pipeline.stages;
        let may_use_device =
            || self.pipeline.needed([reader]).into_iter().any(|index| !stages[index].keep && stages[index].stage.uses_device());
        // A stage of the device holds it already.
        let device = (!stages[reader].stage.uses_device() && may_use_device())
            .then(|| self.device.lock().unwrap_or_else(PoisonError::into_inner));
        let one_at_a_time = self.bringing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut distrusted: HashSet<Digest> = HashSet::new();
        loop {
            let files = ArtifactFiles::new(self.cache, self.intake);
            let recalls = self.grounds(&files).recall(reader, missing.iter().cloned(), &self.give(), &distrusted)?;
            let before = distrusted.len();
            for recall in &recalls {
                for (artifact, file) in &recall.from_out {
                    if !file.take(self.cache, &artifact.digest)? {
                        distrusted.insert(artifact.digest);
                    }
                }
            }
            if distrusted.len() > before {
                continue;
            }
            for recall in recalls.iter().filter(|recall| !recall.items.is_empty()) {
                if self.make_again(recall, &files)? == Brought::Interrupted {
                    return Ok(Brought::Interrupted);
                }
            }
            break;
        }
        drop(one_at_a_time);
        drop(device);
        Ok(Brought::Back)
    }

    /// Takes what `out/` shows of a stage into the cache. Returns what is not there.
    pub(crate) fn take_from_out(&self, index: usize, missing: Vec<Artifact>) -> Result<Vec<Artifact>> {
        if missing.is_empty() {
            return Ok(missing);
        }
        let shown = shown::of_stage(self.pipeline, self.cache, index);
        let mut left = Vec::new();
        for artifact in missing {
            let mut files = shown.iter().filter(|file| file.digest == artifact.digest);
            let mut is_taken = false;
            while let (false, Some(file)) = (is_taken, files.next()) {
                is_taken = file.take(self.cache, &artifact.digest)?;
            }
            if !is_taken {
                left.push(artifact);
            }
        }
        Ok(left)
    }

    /// What producers give: those of this run, and for others what the lock names.
    fn give(&self) -> impl Fn(Producer) -> Given + '_ {
        |producer| match (self.given(producer), producer) {
            (Given::Nothing, Producer::Stage(index)) => self.last_row_of(&self.pipeline.stages[index]),
            (given, _) => given,
        }
    }

    fn last_row_of(&self, stage: &LoadedStage) -> Given {
        let row = self.lock.stages.get(&stage.name).and_then(|rows| rows.last());
        let here = row.filter(|row| self.cache.path(&row.out).exists());
        here.map_or(Given::Nothing, |row| Given::Whole(ItemTree::in_cache(row.out, row.items as usize)))
    }

    /// Makes outputs of a stage again, and says so.
    fn make_again(&self, recall: &Recall, files: &ArtifactFiles<'_>) -> Result<Brought> {
        let stage = &self.pipeline.stages[recall.stage];
        let reader = &self.pipeline.stages[recall.reader].name;
        let grounds = self.grounds(files);
        let decision = grounds.decide(recall.stage, &self.give(), Ask::Complete)?;
        let started = Instant::now();
        let made = guarded(|| match stage.stage.form() {
            Form::Items(form) => {
                let works = grounds.works_of(stage, &decision, &recall.items)?;
                let works = Works { key: None, works, reasons: vec![recall.reason(&self.pipeline.stages)] };
                let done = self.run_works_on_what_is_here(Pieces { index: recall.stage, form, works: &works, files }, None)?;
                match done.failed.into_iter().next() {
                    Some(first) => Err(anyhow!("{first}")),
                    None if done.interrupted => Ok(None),
                    None => Ok(Some(works.works.len())),
                }
            }
            Form::Whole(form) => self.make_whole_again(recall, form, &decision, files),
        });
        let outcome = made.and_then(|made| {
            if made.is_some() {
                self.check_made(stage, &recall.items)?;
            }
            Ok(made)
        });
        let ran = outcome.as_ref().ok().copied().flatten().unwrap_or(0);
        let total = recall.items.len().max(ran);
        let (state, note) = match &outcome {
            Ok(Some(_)) => (StageState::Ran, Some(format!("made again for `{reader}`"))),
            Ok(None) => (StageState::Interrupted, None),
            Err(error) => (StageState::Failed, Some(format!("{error:#}"))),
        };
        let failed = usize::from(state == StageState::Failed);
        self.scope.observer.event(Event::StageFinished {
            stage: stage.name.clone(),
            state,
            counts: Counts { total, ran, failed, cached: 0 },
            seconds: started.elapsed().as_secs_f64(),
            note,
            came_out_the_same: state == StageState::Ran,
        });
        let why = || format!("it needs outputs of `{}` that were not kept", stage.name);
        match outcome.with_context(why)? {
            None => Ok(Brought::Interrupted),
            Some(_) => {
                *self.remade.lock().unwrap_or_else(PoisonError::into_inner).entry(recall.stage).or_default() += ran;
                Ok(Brought::Back)
            }
        }
    }

    /// Runs a whole stage once more for the sake of its outputs. How many there are; `None` if the user wants an end.
    fn make_whole_again(
        &self,
        recall: &Recall,
        form: &dyn WholeStage,
        decision: &Decision<'_>,
        files: &ArtifactFiles<'_>,
    ) -> Result<Option<usize>> {
        let stage = &self.pipeline.stages[recall.stage];
        let mut resolved = self.grounds(files).resolve(&decision.taken, true)?;
        keep_only_what_is_read(&mut resolved, decision);
        self.scope.observer.event(Event::StageStarted {
            stage: stage.name.clone(),
            kind: stage.kind.name.to_string(),
            reasons: vec![recall.reason(&self.pipeline.stages)],
            counts: Counts { total: form.forecast(&resolved).len().max(1), ..Counts::default() },
        });
        // What an earlier run left would be gone on from, and its checkpoints are not here.
        let state = self.cache.scratch_folder()?;
        let published: Mutex<Vec<Output>> = Mutex::default();
        let publish = |draft: Draft| {
            let batch = self.batch();
            let output = store(draft, "", &batch, files)?;
            batch.flush()?;
            published.lock().unwrap_or_else(PoisonError::into_inner).push(output);
            Ok(())
        };
        let publishing = Publishing { publish: &publish, state: &state };
        let mut context = StageContext::new(&self.scope, files, &stage.name, Some(publishing));
        let ended = self.attempts(recall.stage, None, || guarded(|| form.run(&resolved, &context)));
        let ended = context.settle(ended);
        drop(context);
        fs::remove_dir_all(&state).with_context(|| format!("removing `{}`", state.display()))?;
        files.check_unchanged()?;
        match ended {
            Ok(Ended::Interrupted) => Ok(None),
            Err(_) if self.scope.wishes.interrupted() => Ok(None),
            Err(error) => Err(error),
            Ok(Ended::Done | Ended::Stopped(_)) => Ok(Some(published.into_inner().unwrap_or_else(PoisonError::into_inner).len())),
        }
    }

    /// An error if what was made again is not what it was.
    fn check_made(&self, stage: &LoadedStage, items: &[Item]) -> Result<()> {
        for item in items {
            let artifacts = stage.kind.writes.iter().filter_map(|field| item.fields.get(*field));
            if artifacts.into_iter().any(|artifact| !self.cache.contains(&artifact.digest, artifact.size)) {
                bail!(
                    "`{}` of `{}` did not come out as it was, because it was made in another way then (on another device): run again \
                     with `--force {}`",
                    item.name,
                    stage.name,
                    stage.name
                );
            }
        }
        Ok(())
    }

    /// Counts what was made again after the turn of its stage.
    pub(crate) fn count_remade(&self, reports: &mut [StageReport]) {
        for (&index, &ran) in self.remade.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let name = &self.pipeline.stages[index].name;
            for report in reports.iter_mut().filter(|report| report.name == *name && report.state == StageState::Cached) {
                report.state = StageState::Ran;
                report.counts.ran += ran;
                report.counts.cached = report.counts.cached.saturating_sub(ran);
            }
        }
    }
}
