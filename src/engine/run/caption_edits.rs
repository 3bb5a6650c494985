//! What people decide about the texts of an editable stage, carried out under the lock of the pipeline: folder first, lock file
//! after it. Unaware of how they say so and of how texts are kept; that is `edits`.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::locks::PipelineLock;
use crate::decide::lost_texts::{self, LostTexts};
use crate::decide::plan::walk;
use crate::decide::texts;
use crate::decide::verdict::KeyedWork;
use crate::decide::view::View;
use crate::edits::lost::LostText;
use crate::edits::{Decision, Provenance, Settled, SettledText};
use crate::graph::pipeline::Pipeline;
use crate::graph::selection::Selection;
use crate::graph::stage_id::StageId;
use crate::kind::item::Artifact;
use crate::kind::stage::Editable;
use crate::lock_file::LockFile;
use crate::run::events::Event;
use crate::run::on_demand::{self, Directed};
use crate::run::waiting::wait_for_pipeline;

/// Where decisions about the texts of a pipeline are taken.
#[derive(Clone, Copy)]
pub struct CaptionEdits<'a> {
    pub pipeline: &'a Pipeline,
    pub cache: &'a Cache,
    pub directed: Directed<'a>,
}

impl CaptionEdits<'_> {
    /// Decides about the texts that are named of the stage `id`. To merge a stale one, the machine is asked first where it
    /// has not been yet.
    ///
    /// # Errors
    /// What concerns all of them: a cache or a folder that cannot be written, a stage that fails. What concerns one text is in
    /// the answer.
    pub fn settle(&self, id: StageId, names: &[String], decision: Decision) -> Result<Settled> {
        let (_held, mut lock) = self.begin(id)?;
        let stage = &self.pipeline.stages[id];
        let settled = self.with_works(id, &mut |view, editable, works| {
            let stage = &view.pipeline.stages[id];
            let read = || texts::read(view.pipeline, view.cache, view.lock, stage, editable);
            if matches!(decision, Decision::Merge(_)) {
                let items = texts::items(&*works, |_, work| texts::made(editable, work));
                let survey = read()?.survey(&items);
                let is_asked = |name: &str| names.iter().any(|asked| asked == name);
                let stale = survey.iter().filter(|text| text.provenance == Provenance::Stale).map(|text| text.name.as_str());
                on_demand::make(view, id, works, &stale.filter(|name| is_asked(name)).collect(), self.directed)?;
            }
            let items = texts::items(&*works, |_, work| texts::made(editable, work));
            read()?.settle(&items, names, decision)
        })?;
        settled.notes.iter().cloned().for_each(|message| self.say(id, message));
        lock.edits.insert(stage.name.clone(), settled.rows.clone());
        lock.write(&self.pipeline.lock_file())?;
        self.cache.end_uses(false)?;
        Ok(settled)
    }

    /// Restores the texts of people that no longer count although nobody decided so: those of a stage that had another name from
    /// its folder, those that are gone as runs used them. What became of each; nothing if none is lost.
    ///
    /// # Errors
    /// What concerns all of them: a cache or a folder that cannot be written.
    pub fn restore(&self, id: StageId) -> Result<Vec<(String, SettledText)>> {
        let (_held, mut lock) = self.begin(id)?;
        let stage = &self.pipeline.stages[id];
        let (restored, former) = self.with_works(id, &mut |view, editable, works| {
            let stage = &view.pipeline.stages[id];
            let own = texts::read(view.pipeline, view.cache, view.lock, stage, editable)?;
            let Some(lost) = texts::lost(view, stage, editable, &own, works)? else { return Ok((Vec::new(), None)) };
            let Some((former, _)) = lost.former else { return Ok((own.write_again(&lost.texts)?, None)) };
            let (_, there) = lost_texts::read_former(view.pipeline, view.cache, view.lock, stage, editable, &former)?;
            let mut restored = own.take_over(&there)?;
            let is_told = |name: &str| restored.iter().any(|(told, _)| told == name);
            let gone: Vec<LostText> = lost.texts.iter().filter(|text| !is_told(&text.name)).cloned().collect();
            restored.extend(own.write_again(&gone)?);
            Ok((restored, Some(former)))
        })?;
        if let Some(rows) = former.and_then(|former| lock.edits.remove(&former)) {
            lock.edits.insert(stage.name.clone(), rows);
        }
        lock.write(&self.pipeline.lock_file())?;
        self.cache.end_uses(false)?;
        Ok(restored)
    }

    /// The machine's texts may take the place of those of people that count no more. No file is touched. Returns what was given
    /// up.
    ///
    /// # Errors
    /// If the lock file cannot be written.
    pub fn give_up(&self, id: StageId) -> Result<Option<LostTexts>> {
        let (_held, mut lock) = self.begin(id)?;
        let stage = &self.pipeline.stages[id];
        let lost = self.with_works(id, &mut |view, editable, works| {
            let stage = &view.pipeline.stages[id];
            let own = texts::read(view.pipeline, view.cache, view.lock, stage, editable)?;
            texts::lost(view, stage, editable, &own, works)
        })?;
        match &lost {
            Some(LostTexts { former: Some((former, _)), .. }) => drop(lock.edits.remove(former)),
            Some(lost) => {
                let texts: BTreeSet<Option<Digest>> = lost.texts.iter().map(|text| text.text).collect();
                let rows = lock.edits.get_mut(&stage.name).into_iter().flat_map(|rows| rows.values_mut()).flatten();
                for row in rows {
                    row.person = row.person.filter(|text| !texts.contains(&Some(*text)));
                    row.mirror = row.mirror.filter(|text| !texts.contains(&Some(*text)));
                }
            }
            None => {}
        }
        lock.write(&self.pipeline.lock_file())?;
        self.cache.end_uses(false)?;
        Ok(lost)
    }

    /// Takes the lock of the pipeline, puts right what a killed run left behind, and reads the lock file.
    fn begin(&self, id: StageId) -> Result<(PipelineLock, LockFile)> {
        let Directed { observer, requests, .. } = self.directed;
        let Some(held) = wait_for_pipeline(self.pipeline, self.cache, observer, requests)? else { bail!("interrupted") };
        self.cache.register_root(&self.pipeline.folder)?;
        // What is stored from here on is not deleted before the lock file names it.
        self.cache.begin_uses(&self.pipeline.folder)?;
        let lock = LockFile::read(&self.pipeline.lock_file())?;
        let recovered = texts::recover(self.pipeline, self.cache, &lock, &self.pipeline.stages[id])?;
        recovered.into_iter().for_each(|message| self.say(id, message));
        Ok((held, lock))
    }

    fn say(&self, id: StageId, message: String) {
        let stage = Some(self.pipeline.stages[id].name.clone());
        self.directed.observer.event(Event::Said { stage, message });
    }

    /// What the machine says now of one item of the stage `id`; it is asked where it has not been yet. Neither the folder
    /// of texts nor the lock file changes.
    pub fn ask_machine(&self, id: StageId, name: &str) -> Result<Artifact> {
        let Directed { observer, requests, .. } = self.directed;
        let Some(_lock) = wait_for_pipeline(self.pipeline, self.cache, observer, requests)? else { bail!("interrupted") };
        let said = self.with_works(id, &mut |view, editable, works| {
            on_demand::make(view, id, works, &BTreeSet::from([name]), self.directed)?;
            Ok(works.iter().find(|work| work.work.name == name).and_then(|work| texts::made(editable, work)))
        })?;
        match said {
            Some(said) => Ok(said),
            None => bail!("`{}` has no item `{name}`", self.pipeline.stages[id].name),
        }
    }

    /// Does something with the pieces of work of an editable stage, as the machine alone would see them.
    fn with_works<T>(&self, id: StageId, work_on: &mut WorkOn<'_, T>) -> Result<T> {
        let stage = &self.pipeline.stages[id];
        let Some(editable) = stage.stage.editable() else { bail!("people edit no texts of `{}`", stage.name) };
        let mut outcome = None;
        walk(self.pipeline, self.cache, &Selection::of([id]), &mut |at, decided, _, view| {
            if at == id
                && let Some(mut works) = texts::machine_works(stage, decided, view)?
            {
                outcome = Some(work_on(view, &editable, &mut works)?);
            }
            Ok(())
        })?;
        match outcome {
            Some(outcome) => Ok(outcome),
            None => bail!("the items of `{}` are not known before the stages that it reads have run", stage.name),
        }
    }
}

type WorkOn<'w, T> = dyn FnMut(&View<'_>, &Editable, &mut [KeyedWork]) -> Result<T> + 'w;
