//! Runs single pieces of work of an item stage because somebody asks for them. Their results are recorded in the cache; lock
//! file, `out/` and folders of texts stay as they are. Unaware of what they are asked for.

use std::collections::{BTreeSet, HashSet};

use anyhow::{Result, bail};

use crate::decide::reason::Reason;
use crate::decide::verdict::{ItemPlan, KeyedWork, WorkState};
use crate::decide::view::View;
use crate::graph::stage_id::StageId;
use crate::kind::stage::Form;
use crate::run::context::{RunScope, Shared};
use crate::run::control::StopRequests;
use crate::run::events::Observer;
use crate::run::run_context::{RunContext, RunOptions};
use crate::run::stage::StageRunner;

/// Those who watch and direct what is run.
#[derive(Clone, Copy)]
pub struct Directed<'a> {
    pub options: &'a RunOptions,
    pub observer: &'a dyn Observer,
    pub requests: &'a StopRequests,
}

/// Runs those of `works` whose names are asked for and that have no result, and gives every work the state that it has then.
pub(crate) fn make(
    view: &View<'_>,
    id: StageId,
    works: &mut [KeyedWork],
    names: &BTreeSet<&str>,
    directed: Directed<'_>,
) -> Result<()> {
    let stage = &view.pipeline.stages[id];
    let Form::Items(form) = stage.stage.form() else { bail!("`{}` has no items to run", stage.name) };
    let asked: Vec<usize> = (0..works.len()).filter(|&at| names.contains(works[at].work.name.as_str())).collect();
    if let Some(&unknown) = asked.iter().find(|&&at| works[at].state == WorkState::Unknown) {
        let before: Vec<String> =
            view.pipeline.producers(id).map(|producer| format!("`{}`", view.pipeline.stages[producer].name)).collect();
        bail!(
            "what `{}` reads of `{}` is not made yet: run {} first",
            stage.name,
            works[unknown].work.name,
            before.join(" and ")
        );
    }
    let missing: Vec<usize> = asked.into_iter().filter(|&at| works[at].state == WorkState::Dirty).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let again = |at: &usize| KeyedWork { work: works[*at].work.clone(), key: works[*at].key, state: WorkState::Dirty };
    let items = missing.iter().map(|&at| works[at].work.name.clone()).collect();
    let reasons = vec![Reason::NoResult { items, total: works.len() }];
    let to_do = ItemPlan { form, key: None, works: missing.iter().map(again).collect(), reasons };

    let Directed { options, observer, requests } = directed;
    let shared = Shared::default();
    let scope = RunScope { cache: view.cache, device: &options.device, observer, requests, shared: &shared };
    let unknown: HashSet<_> = view.unknown.clone();
    let ctx = RunContext::new(view.pipeline, options, scope, view.files.intake(), view.lock, &unknown, vec![id]);
    let done = StageRunner::new(&ctx).run_pieces(id, &to_do, view.files)?;
    if done.interrupted {
        bail!("interrupted");
    }
    if let Some(first) = done.failed.first() {
        bail!("stage `{}` failed: {first}", stage.name);
    }
    for (place, outputs) in done.outputs {
        works[missing[place]].state = WorkState::Fresh(outputs);
    }
    Ok(())
}
