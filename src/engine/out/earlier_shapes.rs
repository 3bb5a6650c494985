//! Folders below `out/` that show a stage in a shape that it has no more: `out/train/` of before it had variants,
//! `out/train/rank=4/` of a value that was taken out of the matrix. Unaware of what is in them.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::trouble::disk_trouble;
use crate::out::manifest::Manifest;

/// The folders below `out` that a run or `restore` filled for `stage`, and that are none of `current`.
pub(crate) fn earlier_shapes(cache: &Cache, out: &Path, stage: &str, current: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut found = vec![stage.to_string()];
    found.extend(folders_in(&out.join(stage))?.into_iter().map(|name| format!("{stage}/{name}")));
    // As `restore` of version 0.1.0 called the folder of a variant.
    found.extend(folders_in(out)?.into_iter().filter(|name| name.split_once('[').is_some_and(|(base, _)| base == stage)));
    found.retain(|folder| !current.contains(folder) && Manifest::place(cache, &out.join(folder)).is_there());
    // What is inside goes first.
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

/// The names of the folders in a folder; none if that is not there.
fn folders_in(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(disk_trouble(error, "reading", folder)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| disk_trouble(error, "reading", folder))?;
        // Nobody but a person gave a folder a name that is no text, or put a link there.
        if let (true, Ok(name)) = (entry.file_type().is_ok_and(|kind| kind.is_dir()), entry.file_name().into_string()) {
            names.push(name);
        }
    }
    Ok(names)
}
