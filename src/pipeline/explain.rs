//! What the key of a stage, or of one of its items, covers, and how that differs from what the last run recorded. Unaware of how it is
//! shown.

use anyhow::{Result, bail};

use crate::cache::Cache;
use crate::cache::manifest::{Component, ComponentList, Covered, Section};
use crate::pipeline::decide::{Decision, Grounds, Verdict};
use crate::pipeline::freshness::Reason;
use crate::pipeline::graph::{LoadedStage, Pipeline};
use crate::pipeline::item_set;
use crate::pipeline::keys::render_work;
use crate::pipeline::plan::{PlannedStage, PlannedState, walk};
use crate::pipeline::selection::Selection;
use crate::pipeline::stage::Form;

/// A key laid open.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// `resize` or `resize/IMG_1`.
    pub name: String,
    pub state: PlannedState,
    pub reasons: Vec<Reason>,
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

/// Explains the stage at `index`, or one item of it.
pub fn explain(pipeline: &Pipeline, cache: &Cache, index: usize, item: Option<&str>) -> Result<Explanation> {
    let mut explanation = None;
    walk(pipeline, cache, &Selection::of([index]), &mut |at, decision, planned, grounds| {
        if at == index {
            let stage = &pipeline.stages[index];
            explanation = Some(match item {
                None => of_stage(stage, decision, planned, grounds)?,
                Some(item) => of_item(stage, item, decision, grounds)?,
            });
        }
        Ok(())
    })?;
    match explanation {
        Some(explanation) => Ok(explanation),
        None => bail!("`{}` reads what other stages still have to make: run these first", pipeline.stages[index].name),
    }
}

fn of_stage(stage: &LoadedStage, decision: &Decision<'_>, planned: &PlannedStage, grounds: &Grounds<'_>) -> Result<Explanation> {
    let new = match decision.verdict {
        Verdict::Waits(_) => None,
        _ => Some(grounds.components(stage, &decision.identity, &decision.taken)?),
    };
    let old = grounds.last_components(stage)?;
    let rows = difference(old.as_ref(), new.as_ref());
    Ok(Explanation { name: stage.name.clone(), state: planned.state, reasons: planned.reasons.clone(), rows })
}

fn of_item(stage: &LoadedStage, item: &str, decision: &Decision<'_>, grounds: &Grounds<'_>) -> Result<Explanation> {
    let Form::Items(form) = stage.stage.form() else {
        bail!("`{}` runs as a whole: explain it without an item", stage.name);
    };
    let works = match &decision.verdict {
        Verdict::Waits(_) => bail!("the items of `{}` are not known yet", stage.name),
        Verdict::Works(works) => works.works.iter().map(|work| work.work.clone()).collect(),
        _ => form.expand(&grounds.resolve(&decision.taken, true)?, grounds.files())?,
    };
    let keyed = grounds.look_up(stage, &decision.identity, works, false)?;
    let names = || keyed.iter().map(|work| work.work.name.as_str());
    let Some(work) = keyed.iter().find(|work| work.work.name == item) else {
        let near = crate::pipeline::diagnostic::nearest(item, names());
        let hint = near.map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
        bail!("`{}` has no item `{item}`{hint}", stage.name);
    };
    let mut new = ComponentList::default();
    decision.identity.render(&mut new);
    render_work(&work.work, &mut new);

    // What the last run recorded: params in the row of the stage, the rest in the record of the item's key.
    let mut old = None;
    if let Some(row) = grounds.lock.stages.get(&stage.name).and_then(|rows| rows.last()) {
        let before = grounds.cache.read(&row.out).ok().and_then(|tree| item_set::decode(&tree).ok()).unwrap_or_default();
        let key = before.iter().find(|before| before.name == item).map(|before| before.key);
        if let Some(record) = key.map(|key| grounds.cache.lookup(&key)).transpose()?.flatten() {
            let mut list = grounds.last_components(stage)?.unwrap_or_default();
            list.0.retain(|component| matches!(component.section, Section::Kind | Section::Param));
            let own = ComponentList::from_record(&record.components);
            list.0.extend(own.0.into_iter().filter(|component| !matches!(component.section, Section::Kind | Section::Param)));
            old = Some(list);
        }
    }
    use crate::pipeline::decide::WorkState;
    let (state, reasons) = match (&work.state, &old) {
        (WorkState::Fresh(_) | WorkState::Edited(_), _) => (PlannedState::Fresh, Vec::new()),
        (WorkState::Unknown, _) => (PlannedState::Unknown, grounds.waits_of(&decision.taken)),
        (_, None) => (PlannedState::Dirty, vec![Reason::NeverRan]),
        (_, Some(_)) => (PlannedState::Dirty, Vec::new()),
    };
    let rows = difference(old.as_ref(), Some(&new));
    Ok(Explanation { name: format!("{}/{item}", stage.name), state, reasons, rows })
}

/// Both lists side by side, in the order of the new one, then what is gone.
fn difference(old: Option<&ComponentList>, new: Option<&ComponentList>) -> Vec<ExplainedRow> {
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
