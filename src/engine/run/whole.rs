//! Runs a stage as a whole. What it publishes is durable and shown at once; then a callback gets it, before the stage continues.
//! Unaware of when the stage's turn comes and of who reads it.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::cache::digest::Digest;
use crate::cache::records::{Output, Record};
use crate::cache::trouble::error_message;
use crate::decide::estimate::item_size;
use crate::decide::files::ArtifactFiles;
use crate::decide::outputs::items_of_stage;
use crate::decide::recorded::STAGE_FACT;
use crate::decide::taken;
use crate::decide::verdict::{Basis, WholePlan};
use crate::graph::stage_id::StageId;
use crate::kind::item::ItemSet;
use crate::kind::item_tree::{Given, ItemTree};
use crate::kind::stage::{Draft, Effort, Ended, Resolved};
use crate::run::commit::{Took, record_row};
use crate::run::context::{Publishing, StageContext, store};
use crate::run::ending::Ending;
use crate::run::events::{Counts, Event, StageState};
use crate::run::finish::check_names;
use crate::run::guard::guarded;
use crate::run::run_context::RunContext;
use crate::run::show_so_far::show_so_far;

/// What a whole stage has published.
struct Published {
    outputs: Vec<Output>,
    /// The time that went by in showing it, and in stages that run on it meanwhile.
    aside: Duration,
}

/// Takes what a running stage publishes.
struct Publisher<'a, 'r> {
    ctx: &'a RunContext<'r>,
    stage: StageId,
    key: Digest,
    state_key: Digest,
    files: &'a ArtifactFiles<'a>,
    on_publish: &'a (dyn Fn(ItemSet) + Sync),
    published: Mutex<Published>,
}

/// Runs the stage `id`, whose key is locked and whose inputs are here. `on_publish` gets all that is published so far.
pub(crate) fn run(
    ctx: &RunContext<'_>,
    id: StageId,
    whole: &WholePlan<'_>,
    basis: &Basis<'_>,
    key: Digest,
    files: &ArtifactFiles<'_>,
    on_publish: &(dyn Fn(ItemSet) + Sync),
) -> Result<Ending> {
    let started = Instant::now();
    let stage = &ctx.pipeline.stages[id];
    let form = whole.form;
    let state_key = whole.state_key.expect("known where the key is");
    let state = ctx.cache.state_folder(&state_key)?;
    if whole.start_over {
        empty(&state)?;
    }
    let mut resolved = taken::resolve(&ctx.view(files), &basis.taken, true)?;
    keep_only_what_is_read(&mut resolved, basis);

    let foreseen = form.forecast(&resolved).len();
    let counts = Counts { total: foreseen.max(1), cached: whole.published.len(), ..Counts::default() };
    ctx.tell_start(id, &whole.reasons, counts);
    if !whole.published.is_empty() {
        // A kill may have come between an output and its place in `out/`.
        show_so_far(ctx, id, items_of_stage(&whole.published, state_key), &[]);
    }
    let published = Mutex::new(Published { outputs: whole.published.clone(), aside: Duration::ZERO });
    let publisher = Publisher { ctx, stage: id, key, state_key, files, on_publish, published };
    let publish = |draft: Draft| publisher.publish(draft);
    let publishing = Publishing { publish: &publish, state: &state };
    let mut context = StageContext::new(&ctx.scope, files, &stage.name, Some(publishing));
    ctx.scope.requests.stage_asks();
    let ended = ctx.attempts(id, None, || guarded(|| form.run(&resolved, &context)));
    let ended = context.settle(ended);
    drop(context);
    ctx.scope.requests.stage_ended();

    let Published { outputs: published, aside } = publisher.published.into_inner().unwrap_or_else(PoisonError::into_inner);
    let ran = published.len().saturating_sub(whole.published.len());
    let counts = Counts { total: published.len(), ran, cached: published.len() - ran, failed: 0 };
    let ended = ended.and_then(|ended| files.check_unchanged().map(|()| ended));
    let note = match ended {
        Ok(Ended::Interrupted) => return Ok(Ending::new(StageState::Interrupted, Given::Nothing, counts)),
        Err(_) if ctx.scope.requests.interrupted() => {
            return Ok(Ending::new(StageState::Interrupted, Given::Nothing, counts));
        }
        Err(error) => {
            let items = items_of_stage(&published, state_key);
            let given = if ctx.options.keep_going { Given::Part(items.into()) } else { Given::Nothing };
            let counts = Counts { total: foreseen.max(1), failed: 1, ..counts };
            return Ok(Ending::new(StageState::Failed, given, counts).note(error_message(&error)));
        }
        Ok(Ended::Stopped(words)) => Some(words),
        Ok(Ended::Done) => None,
    };
    let took = took(started.elapsed().saturating_sub(aside), whole.done, form.effort(&resolved, item_size(ctx.pipeline, id)));
    let (tree, same) = commit(ctx, id, basis, key, items_of_stage(&published, state_key), took, note.clone())?;
    if form.horizon_components().is_empty() {
        fs::remove_dir_all(&state).with_context(|| format!("removing `{}`", state.display()))?;
    }
    let ending = Ending::new(StageState::Ran, Given::Whole(tree), counts);
    Ok(Ending { note, came_out_the_same: same, ..ending })
}

/// Records what a stage has published as its result. Gives it, and whether it is that of before.
fn commit(
    ctx: &RunContext<'_>,
    id: StageId,
    basis: &Basis<'_>,
    key: Digest,
    items: ItemSet,
    took: Took,
    ended: Option<String>,
) -> Result<(ItemTree, bool)> {
    let stage = &ctx.pipeline.stages[id].name;
    ensure!(!items.is_empty(), "`{stage}` ended without any output");
    check_names(stage, &items)?;
    let tree = ItemTree::of(items);
    let same = record_row(ctx, id, basis, key, &tree, took, ended)?;
    Ok((tree, same))
}

impl Publisher<'_, '_> {
    /// Makes an output durable and shows it, then runs what waits for it.
    fn publish(&self, draft: Draft) -> Result<()> {
        let Publisher { ctx, stage: id, files, published, .. } = self;
        let id = *id;
        let stage = &ctx.pipeline.stages[id];
        let batch = ctx.batch();
        let (item, attributes) = (draft.name.clone(), draft.attributes.clone());
        let output = store(draft, "", &batch, files)?;
        let mut facts = ctx.facts(id);
        facts.insert(STAGE_FACT.to_string(), self.key.to_hex());
        let outputs = vec![output.clone()];
        batch.partial(Record { key: self.state_key, components: Vec::new(), outputs, seconds: 0.0, ended: None, facts })?;
        batch.flush()?;
        let items = {
            let mut published = published.lock().unwrap_or_else(PoisonError::into_inner);
            published.outputs.retain(|known| known.name != output.name);
            published.outputs.push(output);
            items_of_stage(&published.outputs, self.state_key)
        };
        let set_aside = Instant::now();
        let shown = show_so_far(ctx, id, items.clone(), std::slice::from_ref(&item));
        ctx.scope.observer.event(Event::Checkpoint { stage: stage.name.clone(), item, attributes, files: shown });
        (self.on_publish)(items);
        published.lock().unwrap_or_else(PoisonError::into_inner).aside += set_aside.elapsed();
        Ok(())
    }
}

/// A whole stage sees the fields that its key covers and no others.
pub(crate) fn keep_only_what_is_read(resolved: &mut Resolved, basis: &Basis<'_>) {
    for taken in &basis.taken {
        let reads = &taken.edge.reads;
        let items = resolved.inputs.get_mut(&reads.param).map(Arc::make_mut);
        for item in items.into_iter().flatten() {
            item.fields.retain(|field, _| reads.reads.contains(&field.as_str()));
        }
    }
}

/// What all of a whole stage takes, by a run that went on where an interrupted one had done so much of it.
fn took(elapsed: Duration, done: f64, effort: Option<Effort>) -> Took {
    let seconds = elapsed.as_secs_f64();
    // Too small a remainder shows only that it took at least this.
    if done > 0.9 { Took { seconds, effort: None } } else { Took { seconds: seconds / (1.0 - done), effort } }
}

/// Removes what a state folder holds, and keeps the folder.
fn empty(folder: &Path) -> Result<()> {
    let removing = || format!("removing `{}`", folder.display());
    fs::remove_dir_all(folder).with_context(removing)?;
    fs::create_dir(folder).with_context(removing)
}
