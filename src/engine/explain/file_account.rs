//! What a file is: the output of a stage, a text, an object of the cache, or a copy of one that lies anywhere. Says what made it
//! and whether the pipeline at hand would make the same now. Unaware of how it is shown, and of what formats say of themselves.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::manifest::Covered;
use crate::decide::changes;
use crate::decide::intake::Intake;
use crate::decide::intake::read_inputs;
use crate::decide::outputs::{edited_item, items_of};
use crate::decide::plan::{PlannedState, walk};
use crate::decide::reason::{Reason, changed_params};
use crate::decide::texts;
use crate::decide::verdict::{Decision, Verdict, WorkState};
use crate::decide::view::View;
use crate::edits::Provenance;
use crate::explain::cause::Cause;
use crate::explain::causes::Causes;
use crate::explain::ledger::{Hint, Ledger, Place};
use crate::explain::origin::{KnownTexts, Maker, Origin, Tracer};
use crate::explain::stage_account::{difference, explain};
use crate::explain::text_status::text_status;
use crate::graph::pipeline::{LoadedStage, Pipeline};
use crate::graph::selection::Selection;
use crate::graph::stage_id::StageId;
use crate::inputs::listing::item_name;
use crate::kind::item::Item;
use crate::kind::item_set;
use crate::kind::stage::Form;
use crate::lock_file::LockFile;
use crate::out::materialise::shown_as;

/// What is known of a file.
#[derive(Clone, Debug)]
pub struct FileAccount {
    /// Of its contents; of a text that people may edit, of what it says.
    pub digest: Digest,
    /// The output that it is.
    pub output: Option<OutputName>,
    /// `None` without a pipeline at hand, and for what no stage makes.
    pub standing: Option<Standing>,
    /// Of the contents; where somebody changed them, of what lay there before.
    pub origin: Option<Origin>,
    /// When it came into the cache.
    pub stored: Option<SystemTime>,
}

/// An output of a stage of the pipeline at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputName {
    pub stage: String,
    pub item: String,
    pub field: String,
}

/// How a file stands to what its stage would give.
#[derive(Clone, Debug)]
pub enum Standing {
    /// It is what the stage gives now.
    Current,
    /// The stage would make it anew.
    Stale(Vec<Cause>),
    /// That depends on what other stages have yet to make.
    Undecided(Vec<Cause>),
    /// The stage gives something else under this name.
    Replaced,
    /// The stage has no such item any more.
    Gone,
    /// It was made by a stage of this kind with other settings, or of other things.
    Otherwise { stage: String, differences: Vec<Reason> },
    /// Somebody changed the file after it was written.
    Changed,
    /// A text of a person, which counts. `machine`: what the machine says, or said when the person wrote.
    Yours { is_stale: bool, machine: Option<String> },
    /// A text without an item: its photo is gone.
    Orphan,
    /// It cannot be used; says why.
    Unusable(String),
}

impl FileAccount {
    /// As `explain --json` prints it.
    pub fn to_json(&self) -> Value {
        let stored = self.stored.and_then(|stored| stored.duration_since(SystemTime::UNIX_EPOCH).ok());
        json!({
            "digest": self.digest.to_hex(),
            "output": self.output.as_ref().map(|output| json!({ "stage": output.stage, "item": output.item, "field": output.field })),
            "standing": self.standing.as_ref().map(Standing::to_json),
            "origin": self.origin.as_ref().map(Origin::to_json),
            "stored": stored.map(|stored| stored.as_secs()),
        })
    }
}

impl Standing {
    fn to_json(&self) -> Value {
        let causes = |state: &str, causes: &[Cause]| json!({ "state": state, "causes": causes.iter().map(Cause::to_json).collect::<Vec<_>>() });
        match self {
            Self::Current => json!({ "state": "current" }),
            Self::Stale(found) => causes("stale", found),
            Self::Undecided(found) => causes("undecided", found),
            Self::Replaced => json!({ "state": "replaced" }),
            Self::Gone => json!({ "state": "gone" }),
            Self::Otherwise { stage, differences } => {
                let differences: Vec<Value> = differences.iter().map(Reason::to_json).collect();
                json!({ "state": "otherwise", "stage": stage, "differences": differences })
            }
            Self::Changed => json!({ "state": "edited" }),
            Self::Yours { is_stale, machine } => json!({ "state": "yours", "stale": is_stale, "machine": machine }),
            Self::Orphan => json!({ "state": "orphan" }),
            Self::Unusable(problem) => json!({ "state": "unusable", "problem": problem }),
        }
    }
}

/// What is known of `file` by the records of the cache and the pipeline at hand; `None` if that is nothing.
///
/// # Errors
/// If the file, the cache or an input cannot be read.
pub fn file_account(cache: &Cache, pipeline: Option<&Pipeline>, file: &Path) -> Result<Option<FileAccount>> {
    let Some(pipeline) = pipeline else {
        let ledger = Ledger::read(cache, &LockFile::default(), &[])?;
        let desk = FileExplainer { cache, ledger: &ledger, at_hand: None, texts: &KnownTexts::default() };
        return desk.of_contents(cache.digest_file(file)?.0);
    };
    let lock = LockFile::read(&pipeline.lock_file())?;
    let all: Vec<StageId> = pipeline.stages.ids().collect();
    let intake = read_inputs(pipeline, &all, cache, &lock)?;
    let names: Vec<&str> = pipeline.stages.values().map(|stage| stage.name.as_str()).collect();
    let ledger = Ledger::read(cache, &lock, &names)?;
    let texts = known_texts(pipeline, cache, &lock)?;
    let desk = FileExplainer { cache, ledger: &ledger, at_hand: Some(AtHand { pipeline, intake: &intake }), texts: &texts };
    if let Some(account) = desk.of_text(pipeline, file)? {
        return Ok(Some(account));
    }
    let digest = cache.digest_file(file)?.0;
    match desk.shown_at(pipeline, &lock, file) {
        Some((output, written)) => desk.of_output(pipeline, output, written, digest).map(Some),
        None => desk.of_contents(digest),
    }
}

fn known_texts(pipeline: &Pipeline, cache: &Cache, lock: &LockFile) -> Result<KnownTexts> {
    let mut known = KnownTexts::default();
    for stage in pipeline.stages.values() {
        let Some(editable) = stage.stage.editable() else { continue };
        known.by_machine.extend(lock.edit_rows(&stage.name).values().flatten().filter_map(|row| row.text));
        let editing = texts::read(pipeline, cache, lock, stage, &editable)?;
        let files: HashMap<Digest, &Path> = editing.files_by_text();
        known.files.extend(files.into_iter().map(|(digest, path)| (digest, path.to_path_buf())));
    }
    Ok(known)
}

#[derive(Clone, Copy)]
struct AtHand<'a> {
    pipeline: &'a Pipeline,
    intake: &'a Intake,
}

/// All that an account is drawn up from.
struct FileExplainer<'a> {
    cache: &'a Cache,
    ledger: &'a Ledger<'a>,
    at_hand: Option<AtHand<'a>>,
    texts: &'a KnownTexts,
}

impl FileExplainer<'_> {
    fn trace(&self, digest: Digest, hint: Hint, field: Option<&str>) -> Result<Origin> {
        let known = self.at_hand.map(|at_hand| (at_hand.pipeline, at_hand.intake));
        Tracer { cache: self.cache, ledger: self.ledger, known, texts: self.texts }.trace(digest, hint, field)
    }

    fn stored(&self, digest: &Digest) -> Option<SystemTime> {
        fs::metadata(self.cache.path(digest)).and_then(|object| object.modified()).ok()
    }

    /// A file that lies anywhere.
    fn of_contents(&self, digest: Digest) -> Result<Option<FileAccount>> {
        let here = self.ledger.current(&digest).iter().filter(|place| place.row.is_some());
        let place = here.clone().find(|place| self.ledger.is_own(&place.key, &digest)).or_else(|| here.clone().next()).cloned();
        let origin = self.trace(digest, place.as_ref().map(Hint::of).unwrap_or_default(), None)?;
        if matches!(origin.maker, Maker::Unknown) {
            return Ok(None);
        }
        let output = place.filter(|_| matches!(origin.maker, Maker::Stage(_))).and_then(|place| output_name(&place));
        let standing = match (&output, self.at_hand) {
            (Some(output), Some(at_hand)) => self.standing(at_hand.pipeline, output, &digest)?,
            (None, Some(at_hand)) => self.otherwise(at_hand, &digest)?,
            (_, None) => None,
        };
        Ok(Some(FileAccount { digest, output, standing, origin: Some(origin), stored: self.stored(&digest) }))
    }

    /// The output as which a file below `out/` is shown, and what was written there.
    fn shown_at(&self, pipeline: &Pipeline, lock: &LockFile, file: &Path) -> Option<(OutputName, Digest)> {
        let below = below(&pipeline.out(), file)?;
        for stage in pipeline.stages.values().filter(|stage| stage.owner.is_none()) {
            let Ok(path) = below.strip_prefix(stage.folder()) else { continue };
            for row in lock.stages.get(&stage.name).into_iter().flatten() {
                let tree = self.cache.read_list(&row.out).ok().and_then(|tree| item_set::decode(&tree).ok()).unwrap_or_default();
                for item in &tree {
                    for (field, shown) in shown_as(item, stage.kind.writes) {
                        if Path::new(&shown) == path {
                            let output = OutputName { stage: stage.name.clone(), item: item.name.clone(), field: field.clone() };
                            return Some((output, item.fields[&field].digest));
                        }
                    }
                }
            }
        }
        None
    }

    /// A file below `out/`. `written`: what the last run put there.
    fn of_output(&self, pipeline: &Pipeline, output: OutputName, written: Digest, digest: Digest) -> Result<FileAccount> {
        let hint = Hint { item: Some(output.item.clone()), ..Hint::default() };
        let hint = self.ledger.current(&written).iter().find(|place| place.item == output.item).map_or(hint, Hint::of);
        // Contents that a record names are those of another run.
        let (standing, contents) = match digest != written && !self.ledger.is_made(&digest) {
            true => (Some(Standing::Changed), written),
            false => (self.standing(pipeline, &output, &digest)?, digest),
        };
        let origin = self.trace(contents, hint, Some(&output.field))?;
        let stored = self.stored(&contents);
        Ok(FileAccount { digest, output: Some(output), standing, origin: Some(origin), stored })
    }

    /// A file in a folder of texts that people may edit.
    fn of_text(&self, pipeline: &Pipeline, file: &Path) -> Result<Option<FileAccount>> {
        let mut found = None;
        for stage in pipeline.stages.values() {
            let Some(editable) = stage.stage.editable() else { continue };
            let folder = texts::folder(pipeline, stage, &editable);
            let is_text = file.extension().is_some_and(|extension| extension == editable.extension);
            if let (true, Some(path)) = (is_text, below(&folder, file)) {
                found = item_name(Path::new(""), &path).map(|name| (stage, editable, name));
            }
        }
        let Some((stage, editable, name)) = found else { return Ok(None) };
        let status = text_status(pipeline, self.cache)?;
        let is_it = |path: &Path| absolute(path) == absolute(file);
        let texts = status.iter().filter(|known| known.stage == stage.name).flat_map(|known| &known.texts);
        let mut texts = texts.filter(|text| text.file.as_deref().is_some_and(is_it));
        let Some(text) = texts.next() else { return Ok(None) };
        let output = OutputName { stage: stage.name.clone(), item: name, field: editable.field.to_string() };
        if let Some(problem) = &text.unusable {
            let (digest, standing) = (self.cache.digest_file(file)?.0, Some(Standing::Unusable(problem.clone())));
            return Ok(Some(FileAccount { digest, output: Some(output), standing, origin: None, stored: None }));
        }
        let digest = Digest::of(text.read()?.unwrap_or_default().as_bytes());
        let machine = || text.machine_now(self.cache).or_else(|| text.machine_before(self.cache));
        let now = text.now.as_ref().map(|now| now.digest);
        let (standing, contents) = match text.provenance {
            Provenance::Machine => (self.standing(pipeline, &output, &digest)?, Some(digest)),
            Provenance::Orphan => (Some(Standing::Orphan), text.before),
            Provenance::Edited => (Some(Standing::Yours { is_stale: false, machine: machine() }), text.before.or(now)),
            Provenance::Stale => (Some(Standing::Yours { is_stale: true, machine: machine() }), text.before.or(now)),
        };
        let hint = Hint { item: Some(output.item.clone()), ..Hint::default() };
        let origin = match contents {
            Some(contents) => Some(self.trace(contents, hint, Some(editable.field))?),
            None => None,
        };
        let origin = origin.filter(|origin| matches!(origin.maker, Maker::Stage(_)));
        let stored = contents.and_then(|contents| self.stored(&contents));
        Ok(Some(FileAccount { digest, output: Some(output), standing, origin, stored }))
    }

    /// How contents stand to what a stage would give under their name.
    fn standing(&self, pipeline: &Pipeline, output: &OutputName, digest: &Digest) -> Result<Option<Standing>> {
        let Some(id) = pipeline.id_of(&output.stage) else { return Ok(Some(Standing::Gone)) };
        let mut causes = Causes::new(pipeline, self.cache);
        let mut seen = None;
        let mut undecided = walk(pipeline, self.cache, &Selection::of([id]), &mut |at, decision, planned, view| {
            let stage = &pipeline.stages[at];
            let reasons = if planned.state == PlannedState::Fresh { &[][..] } else { &planned.reasons };
            let found = causes.of_stage(stage, decision, reasons, view)?;
            if at == id {
                seen = Some(stands(stage, output, digest, decision, found, view)?);
            } else {
                causes.note(stage, found);
            }
            Ok(())
        })?;
        Ok(Some(match (seen, undecided.stage(&output.stage)) {
            (Some(Stands::As(standing)), _) => standing,
            (Some(Stands::AsItem(work)), _) => {
                let explained = explain(pipeline, self.cache, id, Some(&work))?;
                match explained.state {
                    PlannedState::Unknown => Standing::Undecided(explained.causes),
                    PlannedState::Fresh | PlannedState::Dirty => Standing::Stale(explained.causes),
                }
            }
            (None, Some((_, planned))) => Standing::Undecided(causes.of_undecided(&pipeline.stages[id], &planned.reasons)),
            (None, None) => return Ok(None),
        }))
    }

    /// What the lock does not name: how it differs from what the one stage of its kind would make.
    fn otherwise(&self, at_hand: AtHand<'_>, digest: &Digest) -> Result<Option<Standing>> {
        let Some(making) = self.ledger.making(digest, &Hint::default(), &|_| false)? else { return Ok(None) };
        let Some((kind, _)) = making.kind().filter(|_| making.are_params_known) else { return Ok(None) };
        let mut alike = at_hand.pipeline.stages.iter().filter(|(_, stage)| stage.kind.name == kind);
        let (Some((id, stage)), None) = (alike.next(), alike.next()) else { return Ok(None) };
        let mut differences = Vec::new();
        walk(at_hand.pipeline, self.cache, &Selection::of([id]), &mut |at, decision, _, view| {
            if at != id || matches!(decision.verdict, Verdict::Waits(_)) {
                return Ok(());
            }
            let now = changes::components(view, stage, &decision.basis.identity, &decision.basis.taken)?;
            differences = changed_params(&making.components, &now);
            if matches!(stage.stage.form(), Form::Whole(_)) {
                let rows = difference(Some(&making.components), Some(&now)).into_iter();
                let sets = rows.filter(|row| row.is_changed() && matches!(row.new, Some(Covered::Set { .. })));
                differences.extend(sets.map(|row| Reason::InputChanged { input: row.name }));
            }
            // The values of a piece of work are not those of the stage.
            differences.retain(|reason| {
                !matches!(reason, Reason::ParamChanged { old: None, .. } | Reason::ParamChanged { new: None, .. })
            });
            Ok(())
        })?;
        Ok(Some(Standing::Otherwise { stage: stage.name.clone(), differences }))
    }
}

/// What a walk sees of an output.
enum Stands {
    As(Standing),
    /// Its piece of work must run, or may have to: the explanation of that says why.
    AsItem(String),
}

fn stands(
    stage: &LoadedStage,
    output: &OutputName,
    digest: &Digest,
    decision: &Decision<'_>,
    causes: Vec<Cause>,
    view: &View<'_>,
) -> Result<Stands> {
    let compare = |items: &[Item]| {
        items.iter().find(|item| item.name == output.item).map(|item| {
            let is_same = item.fields.get(output.field.as_str()).is_some_and(|artifact| artifact.digest == *digest);
            Stands::As(if is_same { Standing::Current } else { Standing::Replaced })
        })
    };
    let works = match &decision.verdict {
        Verdict::Fresh { tree, .. } | Verdict::Kept { tree, .. } => {
            return Ok(compare(tree.items(view.cache)?).unwrap_or(Stands::As(Standing::Gone)));
        }
        Verdict::Whole(whole) if whole.key.is_some() => return Ok(Stands::As(Standing::Stale(causes))),
        Verdict::Whole(_) | Verdict::Waits(_) => return Ok(Stands::As(Standing::Undecided(causes))),
        Verdict::Items(works) => &works.works,
    };
    let Form::Items(form) = stage.stage.form() else { unreachable!("an item stage has works") };
    for work in works {
        let items = match &work.state {
            WorkState::Fresh(outputs) => items_of(&work.work, work.key, outputs),
            WorkState::Edited(fields) => vec![edited_item(&work.work, work.key, fields)],
            WorkState::Dirty | WorkState::Unknown | WorkState::Broken(_) => {
                if form.outputs(&work.work).contains(&output.item) {
                    return Ok(Stands::AsItem(work.work.name.clone()));
                }
                continue;
            }
        };
        if let Some(stands) = compare(&items) {
            return Ok(stands);
        }
    }
    // Made of all outputs together, or of an item that is no more.
    Ok(Stands::As(if causes.is_empty() { Standing::Gone } else { Standing::Stale(causes) }))
}

fn output_name(place: &Place) -> Option<OutputName> {
    let stage = place.stage.as_ref()?.to_string();
    Some(OutputName { stage, item: place.item.clone(), field: place.field.clone() })
}

/// Links are not followed: what lies in `out/` may be one.
fn absolute(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (fs::canonicalize(folder), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()),
    }
}

/// The path of `file` below `folder`.
fn below(folder: &Path, file: &Path) -> Option<PathBuf> {
    let folder = fs::canonicalize(folder).ok()?;
    absolute(file).strip_prefix(folder).ok().map(Path::to_path_buf)
}
