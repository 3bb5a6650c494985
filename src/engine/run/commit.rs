//! What a stage that ended leaves behind, in this order: its tree and record in the cache, its outputs in `out/`, its row in the lock.
//! Unaware of how it came to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use anyhow::Result;

use crate::engine::cache::digest::Digest;
use crate::engine::cache::records::{Output, OutputName, Record};
use crate::engine::decide::changes;
use crate::engine::decide::estimate::effort_fact;
use crate::engine::decide::files::ArtifactFiles;
use crate::engine::decide::recorded::{COUNT_ATTRIBUTE, TREE_FIELD};
use crate::engine::decide::verdict::Decision;
use crate::engine::graph::pipeline::Producer;
use crate::engine::kind::item::Fields;
use crate::engine::kind::item_set;
use crate::engine::kind::item_tree::ItemTree;
use crate::engine::kind::stage::Effort;
use crate::engine::lock_file::{EditRows, InputRow, StageRow};
use crate::engine::out::earlier_shapes::earlier_shapes;
use crate::engine::out::folder::{is_stage_shown, out_folder, shown_fields, tree_to_show};
use crate::engine::out::materialise::{materialise, withdraw};
use crate::engine::out::shown;
use crate::engine::run::events::{Event, StageState};
use crate::engine::run::run_record::StageReport;
use crate::engine::run::schedule::Run;

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
        let view = &self.view(&files);
        let batch = self.cache.batch();
        // Inputs are kept with their names: the next run says what changed in them.
        for taken in &decision.basis.taken {
            batch.put_bytes(&item_set::encode(taken.tree.items(self.cache)?))?;
        }
        let stored = batch.put_bytes(&item_set::encode(tree.items(self.cache)?))?;
        let output = Output {
            name: OutputName::Own(TREE_FIELD.to_string()),
            origin: None,
            fields: Fields::from([(TREE_FIELD, stored.artifact(TREE_FIELD))]),
            attributes: BTreeMap::from([(COUNT_ATTRIBUTE.to_string(), tree.count.to_string())]),
        };
        let components = changes::components(view, stage, &decision.basis.identity, &decision.basis.taken)?.to_record();
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

impl Run<'_> {
    /// Takes earlier shapes away of each stage of which all variants are shown now.
    pub(crate) fn withdraw_earlier_shapes(&self, reports: &[StageReport]) -> Result<()> {
        let out = out_folder(self.pipeline);
        let bases: BTreeSet<&str> =
            self.pipeline.stages.iter().filter(|stage| stage.owner.is_none()).map(|stage| stage.base_name.as_str()).collect();
        for base in bases {
            let variants = || self.pipeline.stages.iter().filter(|stage| stage.base_name == base && stage.owner.is_none());
            let is_shown = |name: &String| {
                let report = reports.iter().find(|report| report.name == *name);
                report.is_some_and(|report| matches!(report.state, StageState::Cached | StageState::Ran))
            };
            if !variants().all(|stage| is_shown(&stage.name)) {
                continue;
            }
            let current = variants().map(|stage| stage.folder()).collect();
            for folder in earlier_shapes(self.cache, &out, base, &current)? {
                let report = withdraw(self.cache, &out, &folder)?;
                let files = if report.removed == 1 { "1 file".to_string() } else { format!("{} files", report.removed) };
                let gone = (report.removed > 0)
                    .then(|| format!("took {files} out of out/{folder}, which `{base}` does not show any more"));
                for message in gone.into_iter().chain(report.notes) {
                    self.scope.observer.event(Event::Said { stage: Some(base.to_string()), message });
                }
            }
        }
        Ok(())
    }
}
