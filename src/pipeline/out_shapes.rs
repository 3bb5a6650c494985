//! Folders below `out/` that show a stage in a shape that it has no more: `out/train/` of before it had variants, `out/train/rank=4/` of a value
//! that was taken out of the matrix. Unaware of what is in them.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::trouble::disk_trouble;
use crate::pipeline::commit::out_folder;
use crate::pipeline::execute::Run;
use crate::pipeline::materialise::withdraw;
use crate::pipeline::out_manifest::Manifest;
use crate::pipeline::progress::{Event, StageState};
use crate::pipeline::run_record::StageReport;

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

impl Run<'_> {
    /// Takes earlier shapes away of each stage of which all variants are shown now.
    pub(crate) fn withdraw_earlier_shapes(&self, reports: &[StageReport]) -> Result<()> {
        let out = out_folder(self.pipeline);
        let bases: BTreeSet<&str> =
            self.pipeline.stages.iter().filter(|stage| stage.owner.is_none()).map(|stage| stage.base_name.as_str()).collect();
        for base in bases {
            let variants = || self.pipeline.stages.iter().filter(|stage| stage.base_name == base && stage.owner.is_none());
            let is_shown = |name: &String| {
                let report = reports.iter().find(|report| report.name == *name);
                report.is_some_and(|report| matches!(report.state, StageState::Cached | StageState::Ran))
            };
            if !variants().all(|stage| is_shown(&stage.name)) {
                continue;
            }
            let current = variants().map(|stage| stage.folder()).collect();
            for folder in earlier_shapes(self.cache, &out, base, &current)? {
                let report = withdraw(self.cache, &out, &folder)?;
                let files = if report.removed == 1 { "1 file".to_string() } else { format!("{} files", report.removed) };
                let gone = (report.removed > 0)
                    .then(|| format!("took {files} out of out/{folder}, which `{base}` does not show any more"));
                for message in gone.into_iter().chain(report.notes) {
                    self.scope.observer.event(Event::Said { stage: Some(base.to_string()), message });
                }
            }
        }
        Ok(())
    }
}
