//! Texts of people that no longer count although nobody decided so: their folder is gone, or their stage has another name. The
//! engine puts no machine's text in their place before a person has said so. Unaware of how that is said.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache::Cache;
use crate::decide::reason::{FormerStage, Reason};
use crate::decide::texts;
use crate::edits::lost::{LostText, are_gone_at_once, count_in, texts_in};
use crate::edits::{EditableItem, Editing};
use crate::graph::pipeline::{LoadedStage, Pipeline};
use crate::inputs::input::Found;
use crate::kind::stage::Editable;
use crate::lock_file::{EditRows, LockFile};

/// Of one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostTexts {
    /// Where they would count.
    pub folder: PathBuf,
    /// The stage that had them, if the file has it no more, and its folder.
    pub former: Option<(String, PathBuf)>,
    pub texts: Vec<LostText>,
}

impl LostTexts {
    /// Why the stage cannot run.
    pub fn reason(&self) -> Reason {
        let former = self.former.as_ref().map(|(stage, folder)| FormerStage { stage: stage.clone(), folder: shown(folder) });
        Reason::TextsLost {
            items: self.texts.iter().map(|text| text.name.clone()).collect(),
            folder: shown(&self.folder),
            former,
        }
    }
}

fn shown(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What is lost of the texts of a stage. `own`: those that lie in its folder; `items` is asked only if something may be.
pub fn find(
    (pipeline, cache, lock): (&Pipeline, &Cache, &LockFile),
    stage: &LoadedStage,
    editable: &Editable,
    own: &Editing<'_>,
    items: &dyn Fn() -> Vec<EditableItem>,
) -> Result<Option<LostTexts>> {
    let folder = texts::folder(pipeline, stage, editable);
    let lost = |former, texts: Vec<LostText>| (!texts.is_empty()).then_some(LostTexts { folder: folder.clone(), former, texts });
    if !lock.edit_rows(&stage.name).is_empty() {
        return Ok(if own.lacks_any() { lost(None, own.lost(&items())) } else { None });
    }
    for former in former_stages(pipeline, lock) {
        let (there, editing) = read_former(pipeline, cache, lock, stage, editable, former)?;
        let items = items();
        let mut texts = editing.of_people(&items);
        texts.extend(editing.lost(&items));
        texts.retain(|text| !own.has_text(&text.name));
        if let Some(lost) = lost(Some((former.to_string(), there)), texts) {
            return Ok(Some(lost));
        }
    }
    Ok(None)
}

/// The texts of a stage that is no more, as a stage of the kind of `stage`.
pub(crate) fn read_former<'c>(
    pipeline: &Pipeline,
    cache: &'c Cache,
    lock: &'c LockFile,
    stage: &LoadedStage,
    editable: &Editable,
    former: &str,
) -> Result<(PathBuf, Editing<'c>)> {
    let folder = pipeline.folder.join(texts::folder_name(former, stage.kind.name, editable));
    let editing = Editing::read(cache, &folder, editable.field, editable.extension, &lock.edits[former])?;
    Ok((folder, editing.setting_aside(pipeline.skipped_photos())))
}

/// Stages that the lock knows texts of and the file does not have.
fn former_stages<'l>(pipeline: &Pipeline, lock: &'l LockFile) -> impl Iterator<Item = &'l str> {
    let is_gone = |name: &&String| pipeline.stage(name).is_none();
    let names: Vec<&String> =
        lock.edits.iter().filter(|(_, rows)| !rows.is_empty()).map(|(name, _)| name).filter(is_gone).collect();
    names.into_iter().map(String::as_str)
}

/// What can be seen of lost texts without a cache and without running anything: by the lock, the folders and the names of the
/// photos.
///
/// # Errors
/// If the lock or a folder cannot be read.
pub fn glance(pipeline: &Pipeline) -> Result<Vec<Reason>> {
    let lock = LockFile::read(&pipeline.lock_file())?;
    let mut reasons = Vec::new();
    for stage in pipeline.stages.values() {
        let Some(editable) = stage.stage.editable() else { continue };
        let folder = texts::folder(pipeline, stage, &editable);
        let own = texts_in(&folder, editable.extension)?;
        let rows = lock.edit_rows(&stage.name);
        let mut found: Option<(Option<&str>, Vec<String>)> = None;
        if !rows.is_empty() {
            found = Some((None, missing_of_people(pipeline, &folder, rows, &own.into_keys().collect())));
        } else if let Some(former) = former_stages(pipeline, &lock).next() {
            let rows = &lock.edits[former];
            let there = pipeline.folder.join(texts::folder_name(former, stage.kind.name, &editable));
            let lying = texts_in(&there, editable.extension)?;
            let is_machines = |name: &str, text| rows.get(name).into_iter().flatten().any(|row| row.text == text);
            let people = lying.iter().filter(|(name, text)| text.is_none() || !is_machines(name, **text));
            let mut names: Vec<String> = people.map(|(name, _)| name.clone()).collect();
            names.extend(missing_of_people(pipeline, &there, rows, &lying.keys().cloned().collect()));
            names.retain(|name| !own.contains_key(name));
            found = Some((Some(former), names));
        }
        let Some((former, names)) = found.filter(|(_, names)| !names.is_empty()) else { continue };
        let former_folder = |former: &str| pipeline.folder.join(texts::folder_name(former, stage.kind.name, &editable));
        let texts = names.into_iter().map(|name| LostText { name, text: None }).collect();
        let former = former.map(|former| (former.to_string(), former_folder(former)));
        reasons.push(LostTexts { folder, former, texts }.reason());
    }
    Ok(reasons)
}

/// Names of texts of people that are gone all at once, as far as the photos' names tell.
fn missing_of_people(pipeline: &Pipeline, folder: &Path, rows: &EditRows, lying: &BTreeSet<String>) -> Vec<String> {
    let photos = pipeline.inputs.iter().filter_map(|input| match &input.found {
        Found::Photos { files, skipped, .. } => {
            Some(files.iter().map(|file| file.name.as_str()).chain(skipped.iter().map(String::as_str)))
        }
        _ => None,
    });
    let photos: BTreeSet<&str> = photos.flatten().collect();
    let is_here = |name: &str| photos.contains(name) || photos.iter().any(|photo| name.starts_with(photo));
    let known: Vec<(&String, _)> = rows.iter().filter(|(name, _)| photos.is_empty() || is_here(name)).collect();
    let missing: Vec<_> = known.iter().filter(|(name, _)| !lying.contains(*name)).collect();
    if !are_gone_at_once(folder, known.len(), missing.len()) {
        return Vec::new();
    }
    let of_people = missing.into_iter().filter(|(_, rows)| rows.iter().any(|row| row.person.is_some() || row.mirror.is_some()));
    of_people.map(|(name, _)| name.to_string()).collect()
}

/// Sentences about folders of texts that belong to no stage: what is in them counts for nothing.
///
/// # Errors
/// If a folder cannot be read.
pub fn unread_folders(pipeline: &Pipeline) -> Result<Vec<String>> {
    let mut owned = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for stage in pipeline.stages.values() {
        if let Some(editable) = stage.stage.editable() {
            owned.insert(texts::folder_name(&stage.name, stage.kind.name, &editable));
            kinds.insert((editable.folder, editable.extension));
        }
    }
    let mut sentences = Vec::new();
    if kinds.is_empty() {
        return Ok(sentences);
    }
    let mut names: Vec<String> = fs::read_dir(&pipeline.folder)?
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    for name in names.into_iter().filter(|name| !owned.contains(name)) {
        for (folder, extension) in &kinds {
            let rest = name.strip_prefix(folder);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
                let count = count_in(&pipeline.folder.join(&name), extension)?;
                let owned: Vec<String> = owned.iter().map(|owned| format!("`{owned}/`")).collect();
                let texts = if count == 1 { "text" } else { "texts" };
                if count > 0 {
                    let reads = owned.join(", ");
                    sentences.push(format!(
                        "`{name}/` holds {count} {texts} that no stage reads, and texts count in {reads}: move them there, or name the \
                         stage after the folder"
                    ));
                }
            }
        }
    }
    Ok(sentences)
}
