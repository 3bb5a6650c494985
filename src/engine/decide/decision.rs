//! Decides what of a stage is there already and what must run. `plan` asks it without running anything, a run asks it for each
//! stage whose inputs are there: what a plan says is what a run does. Unaware of how stages are run.

use anyhow::{Context as _, Result, bail};

use crate::cache::digest::Digest;
use crate::cache::manifest::{KeyHash, Purpose};
use crate::cache::records::Output;
use crate::decide::changes::{keyed, since_last_run};
use crate::decide::keys::{StageIdentity, render_inputs, row_key};
use crate::decide::reason::Reason;
use crate::decide::recorded::{Row, find_row, published};
use crate::decide::taken::{Inputs, Taken, reads_unknown, resolve, take_all, waits_of};
use crate::decide::texts;
use crate::decide::verdict::{Basis, Decision, ItemPlan, KeyedWork, Verdict, WholePlan, WorkState};
use crate::decide::view::View;
use crate::decide::works::look_up;
use crate::graph::pipeline::{LoadedStage, Producer};
use crate::graph::selection::Ask;
use crate::graph::stage_id::StageId;
use crate::kind::item_tree::Given;
use crate::kind::stage::{Form, ItemStage, Reached, WholeStage};

/// What must run of the stage `id`, whose producers give what `given` says.
pub fn decide<'a>(view: &View<'a>, id: StageId, given: &dyn Fn(Producer) -> Given, ask: Ask<'_>) -> Result<Decision<'a>> {
    let stage = &view.pipeline.stages[id];
    let identity = StageIdentity::of(stage);
    let (taken, complete) = match take_all(view, stage, given)? {
        Inputs::There { taken, complete } => (taken, complete),
        Inputs::Awaited(reasons) => {
            let verdict = spare(view, stage, Verdict::Waits(reasons), ask)?;
            return Ok(Decision { basis: Basis { identity, taken: Vec::new() }, verdict });
        }
    };
    let verdict = match stage.stage.form() {
        Form::Items(form) => decide_items(view, stage, form, &identity, &taken, complete, ask)?,
        Form::Whole(form) => decide_whole(view, stage, form, &identity, &taken, complete, ask)?,
    };
    let verdict = spare(view, stage, verdict, ask)?;
    Ok(Decision { basis: Basis { identity, taken }, verdict })
}

/// A stage that is left out of the run gives what it gave last, if that is here.
fn spare<'a>(view: &View<'_>, stage: &LoadedStage, verdict: Verdict<'a>, ask: Ask<'_>) -> Result<Verdict<'a>> {
    let is_done = |work: &KeyedWork| matches!(work.state, WorkState::Fresh(_) | WorkState::Edited(_));
    let reasons = match verdict {
        Verdict::Items(ItemPlan { key: Some(_), ref works, .. }) if works.iter().all(is_done) => return Ok(verdict),
        verdict @ Verdict::Fresh { .. } => return Ok(verdict),
        verdict if !matches!(ask, Ask::LeaveOut) => return Ok(verdict),
        Verdict::Items(ItemPlan { reasons, .. }) | Verdict::Whole(WholePlan { reasons, .. }) | Verdict::Waits(reasons) => reasons,
        Verdict::Kept { reasons, .. } => reasons,
    };
    // What people wrote since the last run counts, and a result of before does not hold it.
    if stage.stage.editable().is_none()
        && let Some(key) = view.lock.stages.get(&stage.name).and_then(|rows| rows.last()).map(|row| row.key)
        && let Some(Row { lost, tree, .. }) = find_row(view, stage, &key)?
        && lost.is_empty()
    {
        return Ok(Verdict::Kept { tree, reasons });
    }
    Ok(Verdict::Waits([vec![Reason::LeftOut { stage: stage.name.clone() }], reasons].concat()))
}

fn decide_items<'a>(
    view: &View<'_>,
    stage: &'a LoadedStage,
    form: &'a dyn ItemStage,
    identity: &StageIdentity,
    taken: &[Taken<'_>],
    complete: bool,
    ask: Ask<'_>,
) -> Result<Verdict<'a>> {
    let editable = stage.stage.editable();
    let editing = match &editable {
        Some(editable) => Some(texts::read(view.pipeline, view.cache, view.lock, stage, editable)?),
        None => None,
    };
    let texts = editing.as_ref().map(|editing| editing.contents_digest());
    let key = if complete { Some(row_key(stage, identity, taken, texts)) } else { None };
    // What the machine wrote is told from what a person wrote by the rows of the lock. A kill, a damaged lock or a merge may have
    // taken some or put others beside them: they are written with the works, though none of these may have to run.
    let rows_must_be_written = editable.is_some() && view.pipeline.settings.is_empty();
    let mut lost = Vec::new();
    if let Some(key) = key
        && !ask.is_forced()
    {
        match find_row(view, stage, &key)? {
            Some(Row { recorded, ref tree, .. })
                if rows_must_be_written && (!recorded || view.lock.edit_rows(&stage.name).len() < tree.count) => {}
            Some(Row { lost: row_lost, tree, recorded, ended }) if row_lost.is_empty() => {
                return Ok(Verdict::Fresh { key, tree, recorded, ended });
            }
            Some(row) => lost = row.lost,
            None => {}
        }
    }
    let resolved = resolve(view, taken, complete)?;
    let works = form.expand(&resolved, view.files)?;
    // Whose text a file is can only be told from what the machine wrote, so a forced stage looks that up all the same.
    let mut works = look_up(view, stage, identity, works, false)?;
    if let (Some(editing), Some(editable)) = (&editing, &editable) {
        if let Some(lost) = texts::lost(view, stage, editable, editing, &works)? {
            return Ok(Verdict::Items(ItemPlan::withheld(form, works, lost.reason())));
        }
        // The texts of a run with settings are not written, so there is nothing to tell apart.
        texts::judge(editing, editable, &mut works, ask, view.pipeline.settings.is_empty());
    } else {
        let forced = works.iter_mut().filter(|keyed| ask.forces(&keyed.work.name));
        forced.filter(|keyed| keyed.state != WorkState::Unknown).for_each(|keyed| keyed.state = WorkState::Dirty);
    }
    if complete && let Some(message) = ask.matches_none(works.iter().map(|keyed| keyed.work.name.as_str())) {
        bail!("`--force`: {message}");
    }
    let must_run = |work: &&KeyedWork| matches!(work.state, WorkState::Dirty | WorkState::Broken(_));
    let dirty: Vec<&str> = works.iter().filter(must_run).map(|w| w.work.name.as_str()).collect();
    let reasons = if dirty.is_empty() {
        waits_of(view, taken)
    } else if dirty.iter().all(|name| ask.forces(name)) {
        vec![Reason::Forced]
    } else {
        let changed = since_last_run(view, stage, identity, taken)?;
        reasons_to_run(changed, lost, &dirty, works.len())
    };
    Ok(Verdict::Items(ItemPlan { form, key, works, reasons }))
}

/// Why the works called `dirty` must run: what changed since the last run, outputs that are lost, or that they never had a
/// result.
fn reasons_to_run(mut changed: Vec<Reason>, lost: Vec<String>, dirty: &[&str], total: usize) -> Vec<Reason> {
    if !lost.is_empty() {
        changed.push(Reason::OutputsLost { total, items: lost });
    }
    if changed.is_empty() {
        changed.push(Reason::NoResult { items: dirty.iter().map(ToString::to_string).collect(), total });
    }
    changed
}

fn decide_whole<'a>(
    view: &View<'_>,
    stage: &'a LoadedStage,
    form: &'a dyn WholeStage,
    identity: &StageIdentity,
    taken: &[Taken<'_>],
    complete: bool,
    ask: Ask<'_>,
) -> Result<Verdict<'a>> {
    if !complete || reads_unknown(view, taken)? {
        let reasons = waits_of(view, taken);
        return Ok(Verdict::Whole(WholePlan::from_the_start(form, None, None, reasons)));
    }
    let mut hash = KeyHash::new(Purpose::Stage);
    let mut state_hash = KeyHash::new(Purpose::State);
    identity.render(&mut hash);
    identity.render_without(form.horizon_components(), &mut state_hash);
    let keyed = keyed(view, taken)?;
    render_inputs(&keyed, &mut hash);
    render_inputs(&keyed, &mut state_hash);
    let (key, state_key) = (hash.key(), state_hash.key());

    let mut reasons = Vec::new();
    if ask.is_forced() {
        reasons.push(Reason::Forced);
        let whole = WholePlan::from_the_start(form, Some(key), Some(state_key), reasons);
        return Ok(Verdict::Whole(WholePlan { start_over: true, ..whole }));
    }
    match find_row(view, stage, &key)? {
        Some(Row { lost, tree, recorded, ended }) if lost.is_empty() => {
            return Ok(Verdict::Fresh { key, tree, recorded, ended });
        }
        Some(row) => reasons.push(Reason::OutputsLost { total: row.tree.count, items: row.lost }),
        None => {}
    }
    let (published, start_over) = published(view, form, taken, &key, &state_key)?;
    reasons.extend(since_last_run(view, stage, identity, taken)?);
    let reached = if start_over { Reached::Start } else { reached(view, form, taken, &state_key, &published)? };
    let (goes_on, done, words) = match reached {
        Reached::Part { share, words } => (true, share.clamp(0.0, 1.0), Some(words)),
        Reached::Untold => (!published.is_empty(), 0.0, None),
        Reached::Start => (false, 0.0, None),
    };
    if goes_on {
        reasons = vec![Reason::GoesOn { published: published.len(), reached: words }];
    }
    Ok(Verdict::Whole(WholePlan { form, key: Some(key), state_key: Some(state_key), reasons, published, start_over, done }))
}

/// How far an interrupted run of a whole stage came.
fn reached(
    view: &View<'_>,
    form: &dyn WholeStage,
    taken: &[Taken<'_>],
    state_key: &Digest,
    published: &[Output],
) -> Result<Reached> {
    let state = view.cache.state_path(state_key);
    if !state.is_dir() {
        return Ok(if published.is_empty() { Reached::Start } else { Reached::Untold });
    }
    let is_published = |name: &str| published.iter().any(|output| output.name.resolve("") == name);
    Ok(form.reached(&resolve(view, taken, true)?, &state, &is_published))
}

/// An error that names the stage.
pub fn in_stage<T>(stage: &LoadedStage, outcome: Result<T>) -> Result<T> {
    outcome.with_context(|| format!("stage `{}`", stage.name))
}
