//! Brings the folder of a stage's texts and its items together: what people wrote goes into the items, what the machine wrote
//! into the folder. Unaware of how texts are kept; that is `edits`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Result, bail};

use crate::cache::digest::Digest;
use crate::cache::records::Output;
use crate::decide::texts;
use crate::decide::verdict::{ItemPlan, WorkState};
use crate::graph::stage_id::StageId;
use crate::kind::item::ItemSet;
use crate::kind::stage::Editable;
use crate::run::commit::take_edit_rows;
use crate::run::run_context::RunContext;

/// Brings the folder of texts and the items together: what people wrote goes into the items, what the machine wrote into the
/// folder. Returns what stands for the folder then, if it was touched.
pub(crate) fn write_texts(
    ctx: &RunContext<'_>,
    id: StageId,
    editable: &Editable,
    works: &ItemPlan<'_>,
    outputs: &BTreeMap<usize, Vec<Output>>,
    items: &mut ItemSet,
    failed: &mut Vec<String>,
) -> Result<Option<Digest>> {
    let stage = &ctx.pipeline.stages[id];
    if !ctx.pipeline.settings.is_empty() {
        // The folder belongs to the file as it stands; only texts that are known already can be used.
        if !outputs.is_empty() {
            bail!("with `--set` texts of `{}` would have to be written: run without it first", stage.name);
        }
        let mut missing = BTreeSet::new();
        for text in items.iter().flat_map(|item| item.fields.values()) {
            if !ctx.cache.holds(&text.digest, text.size)? {
                missing.insert(text.digest);
            }
        }
        if !missing.is_empty() {
            let batch = ctx.batch();
            texts::read(ctx.pipeline, ctx.cache, ctx.lock, stage, editable)?.keep(&missing, &batch)?;
            batch.flush()?;
        }
        return Ok(None);
    }
    let known = texts::items(&works.works, |place, keyed| match outputs.get(&place) {
        Some(made) => texts::text_of(editable, made).cloned(),
        None => texts::made(editable, keyed),
    });
    let batch = ctx.batch();
    let editing = texts::read(ctx.pipeline, ctx.cache, ctx.lock, stage, editable)?;
    let applied = editing.apply(&known, &batch)?;
    batch.flush()?;
    let orphans = orphans_message(&applied.orphans, &texts::folder(ctx.pipeline, stage, editable));
    for message in applied.notes.into_iter().chain(orphans) {
        ctx.say(id, &message);
    }
    let places: HashMap<String, usize> = items.iter().enumerate().map(|(place, item)| (item.name.clone(), place)).collect();
    for (work, told) in works.works.iter().zip(applied.items) {
        if let Some(failure) = told.failure
            && !matches!(work.state, WorkState::Broken(_))
        {
            failed.push(format!("{}: {failure}", work.work.name));
        }
        if let Some(&place) = places.get(&work.work.name) {
            items[place].fields.extend(told.fields);
        }
    }
    take_edit_rows(ctx, id, applied.rows);
    Ok(Some(applied.contents))
}

/// A sentence about texts that belong to no photo.
fn orphans_message(orphans: &[String], folder: &Path) -> Option<String> {
    const TOLD: usize = 5;
    let names: Vec<String> = orphans.iter().take(TOLD).map(|name| format!("`{name}`")).collect();
    let more = if orphans.len() > TOLD { format!(" and {} more", orphans.len() - TOLD) } else { String::new() };
    let texts = if orphans.len() == 1 { "1 text".to_string() } else { format!("{} texts", orphans.len()) };
    let folder = folder.file_name().unwrap_or_default().to_string_lossy();
    (!orphans.is_empty()).then(|| {
        let names = names.join(", ");
        format!("{texts} in `{folder}/` without a photo: {names}{more}; `loramill edits prune` puts such away")
    })
}
