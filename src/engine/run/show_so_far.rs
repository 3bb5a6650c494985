//! Shows in `out/` what a stage has made so far, the moment it is durable: from its first output on the folder is that of this
//! result, and holds nothing of the one before. What cannot be shown yet is said, and shown when the stage ends. Unaware of how
//! outputs are made.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::cache::records::Output;
use crate::decide::files::ArtifactFiles;
use crate::decide::outputs::{edited_item, items_of};
use crate::decide::verdict::{Basis, ItemPlan, WorkState};
use crate::graph::stage_id::StageId;
use crate::kind::item::{Item, ItemSet};
use crate::kind::item_tree::ItemTree;
use crate::out::folder::{is_stage_shown, out_folder, shown_fields};
use crate::out::materialise::shown_as;
use crate::run::commit::show_outputs;
use crate::run::events::Event;
use crate::run::finish::{check_names, finish};
use crate::run::run_context::RunContext;

/// Works of an item stage, and what they take.
#[derive(Clone, Copy)]
pub(crate) struct ItemWork<'a> {
    pub(crate) stage: StageId,
    pub(crate) plan: &'a ItemPlan<'a>,
    pub(crate) files: &'a ArtifactFiles<'a>,
}

/// Between two sheets of pictures that come one by one, ...
const SHEET_EVERY: Duration = Duration::from_secs(30);
/// ... and as many times what the last one took, so that they cost little of the time.
const SHEET_SHARE: u32 = 20;

/// Brings `out/` to what a stage that has not ended has made so far. Gives the files of `named`, where they are there.
pub(crate) fn show_so_far(ctx: &RunContext<'_>, id: StageId, items: ItemSet, named: &[String]) -> Vec<PathBuf> {
    let stage = &ctx.pipeline.stages[id];
    let fields = shown_fields(stage);
    if items.is_empty() || fields.is_empty() {
        return Vec::new();
    }
    let tree = ItemTree::of(items);
    match show_outputs(ctx, id, &tree) {
        Ok(0) => {}
        Ok(removed) => ctx.say(id, &words_for_removed(&stage.folder(), removed, stage.keep)),
        Err(error) => ctx.say(id, &format!("what there is so far could not be shown: {error:#}")),
    }
    let folder = out_folder(ctx.pipeline).join(stage.folder());
    let paths = |item: &Item| shown_as(item, &fields).into_iter().map(|(_, path)| folder.join(path)).collect::<Vec<_>>();
    let named = tree.items_at_hand().iter().filter(|item| named.contains(&item.name));
    named.flat_map(paths).filter(|path| path.exists()).collect()
}

/// Whether `out/` shows these items of a stage and no others.
pub(crate) fn shows(ctx: &RunContext<'_>, id: StageId, items: &ItemSet) -> bool {
    is_stage_shown(ctx.pipeline, ctx.cache, id, &ItemTree::of(items.clone()).digest)
}

fn words_for_removed(folder: &str, removed: usize, is_kept: bool) -> String {
    let remain = if is_kept { "stay in the cache" } else { "can be made again" };
    let files = if removed == 1 { "1 file".to_string() } else { format!("{removed} files") };
    format!("`out/{folder}` holds what this run makes from here on; {files} of an earlier result went from it and {remain}")
}

/// The items of works that are done: by an earlier run, by a person, or as `outputs` says by place.
pub(crate) fn items_done(works: &ItemPlan<'_>, outputs: &BTreeMap<usize, Vec<Output>>) -> ItemSet {
    let mut items = ItemSet::with_capacity(works.works.len());
    for (place, work) in works.works.iter().enumerate() {
        match (&work.state, outputs.get(&place)) {
            (_, Some(made)) => items.extend(items_of(&work.work, work.key, made)),
            (WorkState::Fresh(known), _) => items.extend(items_of(&work.work, work.key, known)),
            (WorkState::Edited(fields), _) => items.push(edited_item(&work.work, work.key, fields)),
            (WorkState::Dirty | WorkState::Unknown | WorkState::Broken(_), None) => {}
        }
    }
    items
}

/// An item stage of the device that is running, whose pictures come one by one.
pub(crate) struct Showing<'a, 'r> {
    ctx: &'a RunContext<'r>,
    work: ItemWork<'a>,
    basis: &'a Basis<'a>,
    sheet: Cell<Sheet>,
}

/// When what is made of all pictures together was made last.
#[derive(Clone, Copy)]
struct Sheet {
    made: Instant,
    took: Duration,
}

impl<'a, 'r> Showing<'a, 'r> {
    /// `None` for a stage whose pieces of work are done side by side: they are many and soon done.
    pub(crate) fn of(ctx: &'a RunContext<'r>, work: ItemWork<'a>, basis: &'a Basis<'a>) -> Option<Self> {
        let sheet = Cell::new(Sheet { made: Instant::now(), took: Duration::ZERO });
        let comes_one_by_one = ctx.pipeline.stages[work.stage].stage.uses_device();
        comes_one_by_one.then_some(Self { ctx, work, basis, sheet })
    }

    /// Shows what there is after one more picture.
    pub(crate) fn one_more(&self, outputs: &BTreeMap<usize, Vec<Output>>) {
        let items = items_done(self.work.plan, outputs);
        let last = self.ctx.sheets.lock().unwrap_or_else(PoisonError::into_inner).get(&self.work.stage).cloned();
        // Where pictures of before stay, a sheet of them may be there, and is not taken away for a new one that comes at the end.
        let is_first = last.is_none() && items.len() > outputs.values().map(Vec::len).sum();
        let Sheet { made, took } = self.sheet.get();
        if is_first || made.elapsed() > SHEET_EVERY.max(took * SHEET_SHARE) {
            self.with_sheet(items);
        } else {
            show_so_far(self.ctx, self.work.stage, [items, last.unwrap_or_default()].concat(), &[]);
        }
    }

    /// Shows all there is, with a sheet of it, and tells where that is.
    pub(crate) fn with_sheet(&self, mut items: ItemSet) {
        if items.is_empty() {
            return;
        }
        let ItemWork { stage: id, plan, files } = self.work;
        let stage = &self.ctx.pipeline.stages[id];
        let count = items.len();
        let started = Instant::now();
        let sheet = finish(self.ctx, id, plan.form, self.basis, &items, files);
        let mut names = Vec::new();
        match sheet {
            Ok(finished) => {
                names.extend(finished.items.iter().map(|item| item.name.clone()));
                items.extend(finished.items.iter().cloned());
                self.sheet.set(Sheet { made: Instant::now(), took: started.elapsed() });
                self.ctx.sheets.lock().unwrap_or_else(PoisonError::into_inner).insert(id, finished.items);
            }
            Err(error) => self.ctx.say(id, &format!("no sheet of what there is so far: {error:#}")),
        }
        // Two of a name are an error when the stage ends.
        if check_names(&stage.name, &items).is_err() || shows(self.ctx, id, &items) {
            return;
        }
        let files = show_so_far(self.ctx, id, items, &names);
        self.ctx.scope.observer.event(Event::Shown { stage: stage.name.clone(), items: count, files });
    }
}
