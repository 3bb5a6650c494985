//! Who changed what a stage is made of: the user, a stage before it, or the program. A reason says what differs; a cause says
//! whose doing that is, in which file, and what stands behind it. Unaware of how it is shown.

mod differences;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::manifest::{Component, ComponentList, Covered, Section};
use crate::cache::regular_file::{self, Links};
use crate::decide::changes;
use crate::decide::reason::{Reason, changed_params, is_text};
use crate::decide::taken::Taken;
use crate::decide::texts;
use crate::decide::verdict::Decision;
use crate::decide::view::View;
use crate::edits::text::{self, normalise};
use crate::explain::cause::{Cause, Change, Contents, Who, shown};
use crate::explain::causes::differences::Side;
use crate::explain::ledger::{Hint, Ledger};
use crate::graph::pipeline::{LoadedStage, Pipeline, Producer};
use crate::graph::resolve::is_skipped;
use crate::kind::input_use::InputShape;
use crate::kind::item::Item;
use crate::kind::item_set;
use crate::kind::reference::Selector;

/// Of more changes only the number is given.
const TOLD: usize = 20;

/// Finds causes while a plan is walked. The record log is read when it is first needed.
pub(crate) struct Causes<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) cache: &'a Cache,
    ledger: OnceCell<Ledger<'a>>,
    /// Of the stages that have been walked, by name.
    found: BTreeMap<String, Vec<Cause>>,
}

impl<'a> Causes<'a> {
    /// No stage has been walked yet, and no record read.
    pub(crate) fn new(pipeline: &'a Pipeline, cache: &'a Cache) -> Self {
        Self { pipeline, cache, ledger: OnceCell::new(), found: BTreeMap::new() }
    }

    /// Takes note of a stage that has been walked: those that read it ask for its causes.
    pub(crate) fn note(&mut self, stage: &LoadedStage, causes: Vec<Cause>) {
        self.found.insert(stage.name.clone(), causes);
    }

    /// Who made what, by the records of the cache. Reads them on the first call; an error if they cannot be read.
    pub(crate) fn ledger(&self, view: &View<'_>) -> Result<&Ledger<'a>> {
        if let Some(ledger) = self.ledger.get() {
            return Ok(ledger);
        }
        let names: Vec<&str> = self.pipeline.stages.values().map(|stage| stage.name.as_str()).collect();
        let ledger = Ledger::read(self.cache, view.lock, &names)?;
        Ok(self.ledger.get_or_init(|| ledger))
    }

    /// The causes behind the reasons that a plan gives for a stage.
    pub(crate) fn of_stage(
        &self,
        stage: &LoadedStage,
        decision: &Decision<'_>,
        reasons: &[Reason],
        view: &View<'_>,
    ) -> Result<Vec<Cause>> {
        let mut causes = Vec::with_capacity(reasons.len());
        for reason in reasons {
            let input = match reason {
                Reason::InputChanged { input }
                | Reason::FieldChanged { input, .. }
                | Reason::ItemsAdded { input, .. }
                | Reason::ItemsRemoved { input, .. } => input,
                reason => {
                    causes.push(self.by_itself(stage, reason));
                    continue;
                }
            };
            let taken = decision.basis.taken.iter().find(|taken| taken.producer() == input);
            causes.push(match taken {
                Some(taken) => self.of_input(stage, taken, reason, view)?,
                None => self.by_itself(stage, reason),
            });
        }
        Ok(causes)
    }

    /// The causes behind reasons of a stage of whose inputs nothing is known.
    pub(crate) fn of_undecided(&self, stage: &LoadedStage, reasons: &[Reason]) -> Vec<Cause> {
        reasons.iter().map(|reason| self.by_itself(stage, reason)).collect()
    }

    /// A reason that needs no look at what was read.
    pub(crate) fn by_itself(&self, stage: &LoadedStage, reason: &Reason) -> Cause {
        let because = |name: &str| self.found.get(name).cloned().unwrap_or_default();
        match reason {
            Reason::KindChanged { .. } => self.yours(stage, reason, None),
            Reason::ParamChanged { name, .. } => self.yours(stage, reason, Some(name)),
            Reason::VersionRaised { .. } => Cause::of(Some(Who::Program), reason.clone()),
            Reason::Forced => Cause::of(Some(Who::You), reason.clone()),
            Reason::NothingPicked { .. } => self.yours(stage, reason, None),
            Reason::OutputsLost { .. } | Reason::NotInThisCache => Cause::of(Some(Who::Cache), reason.clone()),
            Reason::WaitsFor { stage: producer } => {
                let who = Some(Who::Upstream { stage: producer.clone() });
                Cause { because: because(producer), ..Cause::of(who, reason.clone()) }
            }
            Reason::LeftOut { stage: producer } => Cause { because: because(producer), ..Cause::of(None, reason.clone()) },
            Reason::NeverRan
            | Reason::InputChanged { .. }
            | Reason::FieldChanged { .. }
            | Reason::ItemsAdded { .. }
            | Reason::ItemsRemoved { .. }
            | Reason::NoResult { .. }
            | Reason::MadeAgain { .. }
            | Reason::GoesOn { .. }
            | Reason::InputAbsent { .. }
            | Reason::TextsLost { .. } => Cause::of(None, reason.clone()),
        }
    }

    /// Something in the pipeline file, or on the command line.
    fn yours(&self, stage: &LoadedStage, reason: &Reason, param: Option<&str>) -> Cause {
        let is_set = |setting: &String| {
            let path = setting.split('=').next().unwrap_or_default();
            param.is_some_and(|param| path.strip_suffix(param).is_some_and(|before| before.ends_with('.')))
        };
        let place = match self.pipeline.settings.iter().find(|setting| is_set(setting)) {
            Some(setting) => format!("--set {setting}"),
            None => self.place_of(stage),
        };
        Cause { place: Some(place), ..Cause::of(Some(Who::You), reason.clone()) }
    }

    /// `pipeline.yaml:14`, where the stage begins.
    fn place_of(&self, stage: &LoadedStage) -> String {
        let (line, _) = stage.span.line_column();
        format!("{}:{line}", shown(&self.pipeline.file))
    }

    /// Where photos are left out.
    fn place_of_skip(&self) -> String {
        format!("{}, `skip:`", shown(&self.pipeline.file))
    }

    fn of_input(&self, stage: &LoadedStage, taken: &Taken<'_>, reason: &Reason, view: &View<'_>) -> Result<Cause> {
        let before = self.before(stage, &taken.edge.reads.param, view)?;
        let now = taken.tree.items(self.cache)?;
        let before_of = |name: &str| before.iter().find(|item| item.name == name);
        let now_of = |name: &str| now.iter().find(|item| item.name == name);
        let reads = taken.edge.reads.reads;
        let (names, fields): (Vec<String>, Vec<&str>) = match reason {
            Reason::FieldChanged { field, items, .. } => (items.clone(), vec![field.as_str()]),
            Reason::ItemsAdded { items, .. } | Reason::ItemsRemoved { items, .. } => (items.clone(), reads[..1].to_vec()),
            _ => (now.iter().map(|item| item.name.clone()).collect(), reads.to_vec()),
        };
        let mut changes = Vec::new();
        for name in &names {
            for field in &fields {
                let digest = |item: Option<&Item>| item.and_then(|item| item.fields.get(*field)).map(|artifact| artifact.digest);
                let (old, new) = (digest(before_of(name)), digest(now_of(name)));
                if old != new && changes.len() < TOLD {
                    changes.push(self.change(name, field, old, new, view));
                }
            }
        }
        let producer = match taken.edge.from {
            Producer::Input(_) => {
                let skipped = self.pipeline.skipped_photos();
                let is_skip =
                    matches!(reason, Reason::ItemsRemoved { .. }) && names.iter().all(|name| skipped.contains(name.as_str()));
                let place = is_skip.then(|| self.place_of_skip());
                return Ok(Cause { place, changes, ..Cause::of(Some(Who::You), reason.clone()) });
            }
            Producer::Stage(producer) => &self.pipeline.stages[producer],
        };
        match reason {
            Reason::ItemsRemoved { .. } => {
                if let Some(place) = self.left_out_at(stage, taken, &names, &before, view) {
                    return Ok(Cause { place: Some(place), changes, ..Cause::of(Some(Who::You), reason.clone()) });
                }
            }
            // They may have been left out before, or not been there: that is not written down.
            Reason::ItemsAdded { .. } if selects(taken) && self.was_known(&changes, view)? => {
                return Ok(Cause { changes, ..Cause::of(None, reason.clone()) });
            }
            _ => {}
        }
        let because = match (self.found.get(&producer.name), changes.first()) {
            // It would run in this very plan.
            (Some(causes), _) if !causes.is_empty() => causes.clone(),
            (_, Some(change)) => {
                let old = Side::of(before_of(&change.item), &change.field);
                let new = Side::of(now_of(&change.item), &change.field);
                self.between(&old, &new, &change.field, view, 0)?
            }
            (_, None) => Vec::new(),
        };
        // A text that somebody wrote is theirs, whatever stages it passed through.
        if changes.iter().all(|change| change.file.is_some()) && !changes.is_empty() {
            return Ok(Cause { changes, ..Cause::of(Some(Who::You), reason.clone()) });
        }
        let who = Some(Who::Upstream { stage: taken.producer().to_string() });
        Ok(Cause { changes, because, ..Cause::of(who, reason.clone()) })
    }

    /// What of one item differs: `old` is what its record holds, `new` what its key covers now.
    pub(crate) fn of_item(
        &self,
        stage: &LoadedStage,
        item: &str,
        old: &ComponentList,
        new: &ComponentList,
        decision: &Decision<'_>,
        view: &View<'_>,
    ) -> Result<Vec<Cause>> {
        let mut causes: Vec<Cause> = changed_params(old, new).iter().map(|reason| self.by_itself(stage, reason)).collect();
        for Component { name, covered, .. } in new.section(Section::Input) {
            let before = old.get(Section::Input, name);
            let (Covered::Artifact(now), Some(Covered::Artifact(before))) = (covered, before) else { continue };
            if now != before {
                causes.push(self.of_artifact(item, name, *before, *now, decision, view)?);
            }
        }
        Ok(causes)
    }

    /// One artifact that an item reads is another than before.
    fn of_artifact(
        &self,
        item: &str,
        name: &str,
        old: Digest,
        new: Digest,
        decision: &Decision<'_>,
        view: &View<'_>,
    ) -> Result<Cause> {
        let mut found = None;
        for taken in &decision.basis.taken {
            for read in taken.tree.items(self.cache)? {
                if let Some((field, _)) = read.fields.iter().find(|(_, artifact)| artifact.digest == new)
                    && (found.is_none() || read.name == item)
                {
                    found = Some((taken, read, field));
                }
            }
        }
        let Some((taken, read, field)) = found else {
            return Ok(Cause::of(None, Reason::InputChanged { input: name.to_string() }));
        };
        let is_known = !view.unknown.contains(&new);
        let changes = vec![self.change(&read.name, field, Some(old), is_known.then_some(new), view)];
        let reason = Reason::InputChanged { input: taken.producer().to_string() };
        let producer = match taken.edge.from {
            Producer::Input(_) => return Ok(Cause { changes, ..Cause::of(Some(Who::You), reason) }),
            Producer::Stage(producer) => &self.pipeline.stages[producer].name,
        };
        let because = match self.found.get(producer) {
            Some(causes) if !causes.is_empty() => causes.clone(),
            _ if is_known => {
                let old = Side { digest: Some(old), hint: Hint::default() };
                self.between(&old, &Side::of(Some(read), field), field, view, 0)?
            }
            _ => Vec::new(),
        };
        Ok(Cause { changes, because, ..Cause::of(Some(Who::Upstream { stage: taken.producer().to_string() }), reason) })
    }

    /// The place in the pipeline file that leaves items out which the producer still gives.
    fn left_out_at(
        &self,
        stage: &LoadedStage,
        taken: &Taken<'_>,
        names: &[String],
        before: &[Item],
        view: &View<'_>,
    ) -> Option<String> {
        let gone = before.iter().filter(|item| names.contains(&item.name));
        if taken.edge.reads.shape == InputShape::Training && gone.clone().all(|item| is_skipped(item, &self.pipeline.skip)) {
            return Some(self.place_of_skip());
        }
        let Producer::Stage(producer) = taken.edge.from else { return None };
        let row = view.lock.stages.get(&self.pipeline.stages[producer].name).and_then(|rows| rows.last())?;
        let given = item_set::decode(&self.cache.read_list(&row.out).ok()?).ok()?;
        let gives_all = names.iter().all(|name| given.iter().any(|item| item.name == *name));
        (taken.edge.reads.reference.selector != Selector::All && gives_all).then(|| self.place_of(stage))
    }

    /// Whether any of the new contents stood somewhere before the present rows of the lock.
    fn was_known(&self, changes: &[Change], view: &View<'_>) -> Result<bool> {
        let ledger = self.ledger(view)?;
        let rows: Vec<Digest> = view.lock.stages.values().flatten().map(|row| row.key).collect();
        let is_older = |contents: &Contents| ledger.rows_of(&contents.digest).any(|row| !rows.contains(&row));
        Ok(changes.iter().filter_map(|change| change.new.as_ref()).any(is_older))
    }

    /// What the stage took under a param when it last ended.
    fn before(&self, stage: &LoadedStage, param: &str, view: &View<'_>) -> Result<Vec<Item>> {
        let tree = match changes::last_components(view, stage)?.as_ref().and_then(|old| old.get(Section::Input, param)) {
            Some(Covered::Set { tree: Some(tree), .. }) => *tree,
            _ => return Ok(Vec::new()),
        };
        Ok(self.cache.read_list(&tree).ok().and_then(|tree| item_set::decode(&tree).ok()).unwrap_or_default())
    }

    /// One field of one item, from `old` to `new`; `None` where there was, or is, no such contents. Texts of captions are given
    /// as far as they are at hand.
    pub(crate) fn change(&self, item: &str, field: &str, old: Option<Digest>, new: Option<Digest>, view: &View<'_>) -> Change {
        let file = new.and_then(|new| self.file_of(&new, item, field, view));
        let contents = |digest: Digest, file: Option<&PathBuf>| Contents { digest, text: self.text_of(&digest, field, file) };
        Change {
            item: item.to_string(),
            field: field.to_string(),
            old: old.map(|digest| contents(digest, None)),
            new: new.map(|digest| contents(digest, file.as_ref())),
            file,
        }
    }

    /// Where somebody put these contents: among the inputs, or in a folder of texts over what the machine wrote.
    fn file_of(&self, digest: &Digest, item: &str, field: &str, view: &View<'_>) -> Option<PathBuf> {
        if let Some(path) = view.files.intake().place(self.pipeline, digest, Some(item)) {
            return Some(path);
        }
        for stage in self.pipeline.stages.values() {
            let Some(editable) = stage.stage.editable().filter(|editable| field.starts_with(editable.field)) else { continue };
            let by_machine = view.lock.edit_rows(&stage.name).values().flatten().any(|row| row.text == Some(*digest));
            let editing = texts::read(self.pipeline, self.cache, view.lock, stage, &editable).ok()?;
            if let (false, Some(path)) = (by_machine, editing.files_by_text().get(digest)) {
                return Some(path.to_path_buf());
            }
        }
        None
    }

    fn text_of(&self, digest: &Digest, field: &str, file: Option<&PathBuf>) -> Option<String> {
        if !is_text(field) {
            return None;
        }
        let bytes = match file {
            Some(file) => regular_file::read(file, Links::Followed, text::LARGEST).ok()?,
            None => self.cache.peek(digest)?,
        };
        normalise(&bytes).ok()
    }
}

/// Whether a reference, or `skip:`, may leave out items that its producer gives.
fn selects(taken: &Taken<'_>) -> bool {
    let reads = &taken.edge.reads;
    reads.shape == InputShape::Training || reads.reference.selector != Selector::All
}
