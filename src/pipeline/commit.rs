//! What a stage that ended leaves behind, in this order: its tree and record in the cache, its outputs in `out/`, its row in the lock.
//! Unaware of how it came to its end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::PoisonError;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::records::{Output, OutputName, Record};
use crate::pipeline::context::ArtifactFiles;
use crate::pipeline::decide::Decision;
use crate::pipeline::estimate::effort_fact;
use crate::pipeline::execute::Run;
use crate::pipeline::graph::{LoadedStage, Pipeline, Producer};
use crate::pipeline::item::Fields;
use crate::pipeline::item_set;
use crate::pipeline::item_tree::ItemTree;
use crate::pipeline::lock_file::{EditRows, InputRow, StageRow};
use crate::pipeline::materialise::{is_shown, materialise};
use crate::pipeline::progress::{Event, StageState};
use crate::pipeline::recorded::{COUNT_ATTRIBUTE, TREE_FIELD};
use crate::pipeline::run_record::StageReport;
use crate::pipeline::shown;
use crate::pipeline::stage::Effort;

/// Where the outputs lie under friendly names.
pub fn out_folder(pipeline: &Pipeline) -> PathBuf {
    if pipeline.settings.is_empty() {
        return pipeline.out();
    }
    let mut settings = pipeline.settings.clone();
    settings.sort_unstable();
    pipeline.out().join(format!("@{}", Digest::of(settings.join("\n").as_bytes()).short()))
}

/// The fields of a stage that lie in `out/`. What people may edit lies in a folder of its own.
pub(crate) fn shown_fields(stage: &LoadedStage) -> Vec<&'static str> {
    if stage.owner.is_some() {
        return Vec::new();
    }
    let edited = stage.stage.editable().map(|editable| editable.field);
    stage.kind.writes().iter().copied().filter(|field| Some(*field) != edited).collect()
}

/// Whether the folder of a stage below `out/` shows the outputs that `tree` lists, and nobody touched it.
pub(crate) fn is_stage_shown(pipeline: &Pipeline, cache: &Cache, index: usize, tree: &Digest) -> bool {
    let stage = &pipeline.stages[index];
    let fields = shown_fields(stage);
    fields.is_empty() || is_shown(cache, &out_folder(pipeline), &stage.folder(), tree, &fields)
}

/// What the folder of a stage below `out/` is to show of `tree`: all of it, or, of a stage that does not keep its outputs, what is in the
/// cache or in the folder.
pub(crate) fn tree_to_show(pipeline: &Pipeline, cache: &Cache, index: usize, tree: &ItemTree) -> Result<ItemTree> {
    let stage = &pipeline.stages[index];
    if stage.keep || is_stage_shown(pipeline, cache, index, &tree.digest) {
        return Ok(tree.clone());
    }
    let folder = out_folder(pipeline).join(stage.folder());
    let (there, missing) = shown::at_hand(cache, &folder, tree.items(cache)?, &shown_fields(stage))?;
    Ok(if missing.is_empty() { tree.clone() } else { ItemTree::of(there) })
}

/// How long something took, and how much work it was.
pub(crate) struct Took {
    pub(crate) seconds: f64,
    pub(crate) effort: Option<Effort>,
}

impl Run<'_> {
    /// Records that `key` gave `tree`, then what the user sees of it. True if the outputs are those that the lock names already.
    pub(crate) fn record_row(
        &self,
        index: usize,
        decision: &Decision<'_>,
        key: Digest,
        tree: &ItemTree,
        took: Took,
        ended: Option<String>,
    ) -> Result<bool> {
        let stage = &self.pipeline.stages[index];
        let files = ArtifactFiles::new(self.cache, self.intake);
        let grounds = self.grounds(&files);
        let batch = self.cache.batch();
        // Inputs are kept with their names: the next run says what changed in them.
        for taken in &decision.taken {
            batch.put_bytes(&item_set::encode(taken.tree.items(self.cache)?))?;
        }
        let stored = batch.put_bytes(&item_set::encode(tree.items(self.cache)?))?;
        let output = Output {
            name: OutputName::Own(TREE_FIELD.to_string()),
            origin: None,
            fields: Fields::from([(TREE_FIELD, stored.artifact(TREE_FIELD))]),
            attributes: BTreeMap::from([(COUNT_ATTRIBUTE.to_string(), tree.count.to_string())]),
        };
        let components = grounds.components(stage, &decision.identity, &decision.taken)?.to_record();
        let mut facts = self.facts(index);
        facts.extend(took.effort.as_ref().map(effort_fact));
        batch.record(Record { key, components, outputs: vec![output], seconds: took.seconds, ended, facts })?;
        batch.flush()?;
        let same = self.came_out_the_same(index, tree);
        self.show_outputs(index, tree)?;
        self.write_row(index, key, tree)?;
        Ok(same)
    }

    /// What may explain a result and does not decide it.
    pub(crate) fn facts(&self, index: usize) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        if self.pipeline.stages[index].stage.uses_device() {
            facts.insert("device".to_string(), self.options.device.clone());
        }
        facts
    }

    fn came_out_the_same(&self, index: usize, tree: &ItemTree) -> bool {
        let rows = self.lock.stages.get(&self.pipeline.stages[index].name);
        let Some(row) = rows.and_then(|rows| rows.last()) else { return false };
        if row.out == tree.digest {
            return true;
        }
        let (Ok(before), Ok(now)) = (self.cache.read_list(&row.out), tree.items(self.cache)) else { return false };
        row.items == now.len() as u64 && item_set::shows(&before, now).unwrap_or(false)
    }

    /// Shows the outputs under friendly names: in `out/`, with `--set` in a folder of its own. Gives how many files of others went.
    pub(crate) fn show_outputs(&self, index: usize, whole: &ItemTree) -> Result<usize> {
        if is_stage_shown(self.pipeline, self.cache, index, &whole.digest) {
            return Ok(0);
        }
        let stage = &self.pipeline.stages[index];
        let (out, folder, fields) = (out_folder(self.pipeline), stage.folder(), shown_fields(stage));
        // One stage at a time: they share the folder for what is being written.
        let _turn = self.showing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tree = tree_to_show(self.pipeline, self.cache, index, whole)?;
        if tree.digest != whole.digest {
            // What is not there may be there under a name that the item had before.
            let (_, missing) = shown::at_hand(self.cache, &out.join(&folder), whole.items(self.cache)?, &fields)?;
            let artifacts = missing.iter().flat_map(|item| fields.iter().filter_map(|field| item.fields.get(*field)));
            let artifacts = self.missing(artifacts.cloned());
            self.take_from_out(index, artifacts)?;
            tree = tree_to_show(self.pipeline, self.cache, index, whole)?;
        }
        let report = materialise(self.cache, &out, &folder, &tree.digest, tree.items(self.cache)?, &fields)?;
        for message in report.notes {
            self.scope.observer.event(Event::Said { stage: Some(stage.name.clone()), message });
        }
        Ok(report.removed)
    }

    /// Writes the lock, if this run is of the file as it stands.
    pub(crate) fn write_row(&self, index: usize, key: Digest, tree: &ItemTree) -> Result<()> {
        if !self.pipeline.settings.is_empty() {
            return Ok(());
        }
        let stage = &self.pipeline.stages[index];
        let mut lock = self.lock_now();
        lock.stages.insert(stage.name.clone(), vec![StageRow { key, out: tree.digest, items: tree.count as u64 }]);
        for edge in &stage.edges {
            if let Producer::Input(input) = edge.from {
                let name = &self.pipeline.inputs[input].name;
                if let Some((digest, size)) = self.intake.rows.get(name) {
                    lock.inputs.insert(name.clone(), vec![InputRow { digest: *digest, size: *size }]);
                }
            }
        }
        lock.write(&self.pipeline.lock_file())?;
        Ok(())
    }

    /// After a run of everything: rows of stages and inputs that the file no longer has go, and those of inputs say what was read, whatever
    /// a merge or a damaged lock says.
    pub(crate) fn settle_rows(&self, reports: &[StageReport]) -> Result<()> {
        let all_ended = reports.len() == self.needed.len()
            && reports.iter().all(|report| matches!(report.state, StageState::Cached | StageState::Ran));
        if !all_ended || !self.pipeline.settings.is_empty() {
            return Ok(());
        }
        let mut lock = self.lock_now();
        lock.stages.retain(|name, _| self.pipeline.stage(name).is_some());
        lock.inputs.retain(|name, _| self.pipeline.input(name).is_some());
        let is_absent = |name: &String| self.intake.absent.values().any(|absent| absent.name == *name);
        for (name, (digest, size)) in self.intake.rows.iter().filter(|(name, _)| !is_absent(name)) {
            lock.inputs.insert(name.clone(), vec![InputRow { digest: *digest, size: *size }]);
        }
        lock.write(&self.pipeline.lock_file())?;
        Ok(())
    }

    /// Whether the lock says of the inputs of a stage what this run has read.
    pub(crate) fn has_input_rows(&self, index: usize) -> bool {
        self.pipeline.stages[index].edges.iter().all(|edge| {
            let Producer::Input(input) = edge.from else { return true };
            let name = &self.pipeline.inputs[input].name;
            let read = self.intake.rows.get(name).map(|&(digest, size)| InputRow { digest, size });
            read.is_none_or(|read| self.lock.inputs.get(name).is_some_and(|rows| *rows == [read]))
        })
    }

    /// Writes the rows of texts, of stages that have not ended too.
    pub(crate) fn write_edit_rows(&self) -> Result<()> {
        self.lock_now().write(&self.pipeline.lock_file())?;
        Ok(())
    }

    /// Rows of texts; they are written with the row of the stage.
    pub(crate) fn take_edit_rows(&self, index: usize, rows: EditRows) {
        self.lock_now().edits.insert(self.pipeline.stages[index].name.clone(), rows);
    }
}
