//! What the key of a stage, or of one of its items, covers, and how that differs from what the last run recorded. Unaware of how
//! it is shown.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::cache::manifest::{Component, ComponentList, Covered, Section};
use crate::decide::changes;
use crate::decide::keys::render_work;
use crate::decide::plan::{PlannedStage, PlannedState, walk};
use crate::decide::reason::Reason;
use crate::decide::taken;
use crate::decide::texts;
use crate::decide::verdict::{Decision, Verdict, WorkState};
use crate::decide::view::View;
use crate::decide::works;
use crate::explain::cause::Cause;
use crate::explain::causes::Causes;
use crate::graph::pipeline::{LoadedStage, Pipeline};
use crate::graph::selection::{Ask, Selection};
use crate::graph::stage_id::StageId;
use crate::kind::item_set;
use crate::kind::stage::Form;

/// A key laid open.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// `resize` or `resize/IMG_1`.
    pub name: String,
    pub state: PlannedState,
    pub reasons: Vec<Reason>,
    /// Who changed each thing.
    pub causes: Vec<Cause>,
    /// The file of a text that somebody wrote in the place of what the machine says.
    pub yours: Option<PathBuf>,
    pub rows: Vec<ExplainedRow>,
}

/// One entry of the manifest, as it was and as it is. One side is missing where the entry is new or gone.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedRow {
    pub section: Section,
    pub name: String,
    pub old: Option<Covered>,
    pub new: Option<Covered>,
}

impl ExplainedRow {
    /// Whether the two sides mean another key. The tree of a set is not in it.
    pub fn is_changed(&self) -> bool {
        match (&self.old, &self.new) {
            (
                Some(Covered::Set { members: old, count: old_count, .. }),
                Some(Covered::Set { members: new, count: new_count, .. }),
            ) => (old, old_count) != (new, new_count),
            (old, new) => old != new,
        }
    }
}

impl Explanation {
    /// As `explain --json` prints it.
    pub fn to_json(&self) -> Value {
        let covered = |covered: &Option<Covered>| match covered {
            None => Value::Null,
            Some(Covered::Value(value)) => json!({ "value": value }),
            Some(Covered::Artifact(digest)) => json!({ "digest": digest.to_hex() }),
            Some(Covered::Set { members, count, .. }) => json!({ "digest": members.to_hex(), "items": count }),
        };
        let row = |row: &ExplainedRow| {
            json!({
                "section": row.section.word(), "name": row.name, "changed": row.is_changed(),
                "old": covered(&row.old), "new": covered(&row.new),
            })
        };
        json!({
            "name": self.name,
            "state": self.state.word(),
            "reasons": self.reasons.iter().map(Reason::to_json).collect::<Vec<_>>(),
            "causes": self.causes.iter().map(Cause::to_json).collect::<Vec<_>>(),
            "yours": self.yours,
            "key": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// Explains the stage `id`, or one item of it.
pub fn explain(pipeline: &Pipeline, cache: &Cache, id: StageId, item: Option<&str>) -> Result<Explanation> {
    let mut explanation = None;
    let mut causes = Causes::new(pipeline, cache);
    let mut undecided = walk(pipeline, cache, &Selection::of([id]), &mut |at, decision, planned, view| {
        let stage = &pipeline.stages[at];
        // What waits for others may turn out to need nothing of them.
        let reasons = if planned.state == PlannedState::Fresh { &[][..] } else { &planned.reasons };
        let of_stage_here = causes.of_stage(stage, decision, reasons, view)?;
        if at == id {
            explanation = Some(match item {
                None => of_stage(stage, decision, planned, of_stage_here, view)?,
                Some(item) => of_item(pipeline, stage, item, decision, &causes, view)?,
            });
        } else {
            causes.note(stage, of_stage_here);
        }
        Ok(())
    })?;
    let name = &pipeline.stages[id].name;
    match (explanation, item, undecided.stage(name)) {
        (Some(explanation), ..) => Ok(explanation),
        (None, None, Some((_, planned))) => {
            let causes = causes.of_undecided(&pipeline.stages[id], &planned.reasons);
            let (state, reasons) = (planned.state, planned.reasons);
            Ok(Explanation { name: planned.name, state, reasons, causes, yours: None, rows: Vec::new() })
        }
        _ => bail!("`{name}` reads what other stages still have to make: run these first"),
    }
}

fn of_stage(
    stage: &LoadedStage,
    decision: &Decision<'_>,
    planned: &PlannedStage,
    causes: Vec<Cause>,
    view: &View<'_>,
) -> Result<Explanation> {
    let new = match decision.verdict {
        Verdict::Waits(_) => None,
        Verdict::Fresh { .. } | Verdict::Items(_) | Verdict::Whole(_) | Verdict::Kept { .. } => {
            Some(changes::components(view, stage, &decision.basis.identity, &decision.basis.taken)?)
        }
    };
    let old = changes::last_components(view, stage)?;
    let rows = difference(old.as_ref(), new.as_ref());
    let (name, reasons) = (stage.name.clone(), planned.reasons.clone());
    Ok(Explanation { name, state: planned.state, reasons, causes, yours: None, rows })
}

fn of_item(
    pipeline: &Pipeline,
    stage: &LoadedStage,
    item: &str,
    decision: &Decision<'_>,
    causes: &Causes<'_>,
    view: &View<'_>,
) -> Result<Explanation> {
    let Form::Items(form) = stage.stage.form() else {
        bail!("`{}` runs as a whole: explain it without an item", stage.name);
    };
    let works = match &decision.verdict {
        Verdict::Waits(_) => bail!("the items of `{}` are not known yet", stage.name),
        Verdict::Items(works) => works.works.iter().map(|work| work.work.clone()).collect(),
        Verdict::Fresh { .. } | Verdict::Whole(_) | Verdict::Kept { .. } => {
            form.expand(&taken::resolve(view, &decision.basis.taken, true)?, view.files)?
        }
    };
    let mut keyed = works::look_up(view, stage, &decision.basis.identity, works, false)?;
    let editing = match stage.stage.editable() {
        Some(editable) => {
            let editing = texts::read(pipeline, view.cache, view.lock, stage, &editable)?;
            texts::judge(&editing, &editable, &mut keyed, Ask::Complete, true);
            Some((editing, editable))
        }
        None => None,
    };
    let names = || keyed.iter().map(|work| work.work.name.as_str());
    let Some(work) = keyed.iter().find(|work| work.work.name == item) else {
        let near = crate::syntax::diagnostic::nearest(item, names());
        let hint = near.map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
        bail!("`{}` has no item `{item}`{hint}", stage.name);
    };
    let mut new = ComponentList::default();
    decision.basis.identity.render(&mut new);
    render_work(&work.work, &mut new);

    let old = recorded_of_item(view, stage, item)?;
    let rows = difference(old.as_ref(), Some(&new));
    let mut yours = None;
    let (state, reasons, causes) = match (&work.state, &old) {
        (WorkState::Edited(fields), _) => {
            let text = editing.as_ref().and_then(|(editing, editable)| {
                let files = editing.files_by_text();
                Some(files.get(&fields.get(editable.field)?.digest)?.to_path_buf())
            });
            yours = text;
            (PlannedState::Fresh, Vec::new(), Vec::new())
        }
        (WorkState::Fresh(_), _) => (PlannedState::Fresh, Vec::new(), Vec::new()),
        (WorkState::Broken(message), _) => bail!("{message}"),
        (state, old) => {
            let planned = if *state == WorkState::Unknown { PlannedState::Unknown } else { PlannedState::Dirty };
            let mut found = match old {
                Some(old) => causes.of_item(stage, item, old, &new, decision, view)?,
                None => Vec::new(),
            };
            if found.is_empty() {
                let reasons = match (state, old) {
                    (WorkState::Unknown, _) => taken::waits_of(view, &decision.basis.taken),
                    (_, None) => vec![Reason::NeverRan],
                    // Its key is that of its record, and what that names is gone.
                    (_, Some(_)) => vec![Reason::OutputsLost { items: vec![item.to_string()], total: 1 }],
                };
                found = causes.of_undecided(stage, &reasons);
            }
            let reasons = found.iter().map(|cause| cause.reason.clone()).collect();
            (planned, reasons, found)
        }
    };
    Ok(Explanation { name: format!("{}/{item}", stage.name), state, reasons, causes, yours, rows })
}

/// What the last run recorded of an item: params in the row of the stage, the rest in the record of the item's key. `None` if
/// there is no record.
fn recorded_of_item(view: &View<'_>, stage: &LoadedStage, item: &str) -> Result<Option<ComponentList>> {
    let Some(row) = view.lock.stages.get(&stage.name).and_then(|rows| rows.last()) else { return Ok(None) };
    let before = view.cache.read_list(&row.out).ok().and_then(|tree| item_set::decode(&tree).ok()).unwrap_or_default();
    let Some(key) = before.iter().find(|before| before.name == item).map(|before| before.key) else { return Ok(None) };
    let Some(record) = view.cache.lookup(&key)? else { return Ok(None) };
    let mut list = changes::last_components(view, stage)?.unwrap_or_default();
    list.0.retain(|component| matches!(component.section, Section::Kind | Section::Param));
    let own = ComponentList::from_record(&record.components);
    list.0.extend(own.0.into_iter().filter(|component| !matches!(component.section, Section::Kind | Section::Param)));
    Ok(Some(list))
}

/// Both lists side by side, in the order of the new one, then what is gone.
pub(crate) fn difference(old: Option<&ComponentList>, new: Option<&ComponentList>) -> Vec<ExplainedRow> {
    let row = |component: &Component, old: Option<Covered>, new: Option<Covered>| ExplainedRow {
        section: component.section,
        name: component.name.clone(),
        old,
        new,
    };
    let mut rows = Vec::new();
    for component in new.iter().flat_map(|list| &list.0) {
        // Without anything recorded there is nothing to differ from.
        let before = match old {
            Some(old) => old.get(component.section, &component.name).cloned(),
            None => Some(component.covered.clone()),
        };
        rows.push(row(component, before, Some(component.covered.clone())));
    }
    if let Some(new) = new {
        let gone = old.iter().flat_map(|list| &list.0).filter(|c| new.get(c.section, &c.name).is_none());
        rows.extend(gone.map(|component| row(component, Some(component.covered.clone()), None)));
    }
    rows
}
