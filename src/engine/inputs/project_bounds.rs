//! Whether what loramill reads and writes beside a pipeline lies there. A link in its place would lead a run to files of others,
//! so one that leads out of the project is refused before anything is read. Unaware of what is written.
//!
//! The project is the repository around the pipeline, or its folder if there is none. What lies deeper is reached without
//! following links.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cache::locate::repository_around;

/// What a run, `init`, `skip` and `restore` write into the folder of a pipeline.
const WRITTEN: [&str; 5] = ["out", "pipeline.lock", "pipeline.yaml", "crops.yaml", ".gitattributes"];
/// Folders of texts are called so, or begin so.
const TEXTS: &str = "captions";

/// An error if a link in the folder of a pipeline leads what is written out of the project.
pub fn check(folder: &Path) -> Result<()> {
    let folder = if folder == Path::new("") { Path::new(".") } else { folder };
    let reading = || format!("reading `{}`", folder.display());
    let mut project = None;
    for entry in fs::read_dir(folder).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        if !entry.file_type().with_context(reading)?.is_symlink() {
            continue;
        }
        let is_ours = entry.file_name().to_str().is_some_and(|name| WRITTEN.contains(&name) || name.starts_with(TEXTS));
        if !is_ours {
            continue;
        }
        let project = match &project {
            Some(project) => project,
            None => project.insert(repository_around(folder)?),
        };
        let path = entry.path();
        let Ok(target) = fs::canonicalize(&path) else {
            bail!("`{}` is a link that leads nowhere: remove it", path.display());
        };
        if !target.starts_with(project) {
            bail!(
                "`{}` is a link to `{}`, which lies outside of the project `{}`, and loramill would read and write there: put a file or folder \
                 of the project in its place",
                path.display(),
                target.display(),
                project.display()
            );
        }
    }
    Ok(())
}

/// Folders in the place of those in which a run writes that links of the user lead to, within the project.
pub fn linked_folders(folder: &Path) -> Vec<PathBuf> {
    let Ok(project) = repository_around(folder) else { return Vec::new() };
    // What cannot be read is refused where it is to be used.
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let links = entries.filter(|entry| entry.file_type().is_ok_and(|found| found.is_symlink()));
    let ours = links.filter(|entry| entry.file_name().to_str().is_some_and(|name| name == "out" || name.starts_with(TEXTS)));
    let targets = ours.filter_map(|entry| fs::canonicalize(entry.path()).ok());
    targets.filter(|target| target.is_dir() && target.starts_with(&project)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_out_of_the_project_are_refused_and_links_within_it_are_the_users() {
        for name in ["out", "captions", "captions-anime", "crops.yaml", "pipeline.lock", "pipeline.yaml", ".gitattributes"] {
            let temp = tempfile::tempdir().unwrap();
            let pipeline = temp.path().join("repo/pipelines/cat");
            for folder in ["repo/pipelines/cat", "repo/.git", "repo/large", "victim"] {
                fs::create_dir_all(temp.path().join(folder)).unwrap();
            }
            symlink("../../large", pipeline.join(name)).unwrap();
            symlink("../../../victim", pipeline.join("images")).unwrap();
            check(&pipeline).unwrap();
            for target in ["../../../victim", "/etc", "../../../none"] {
                fs::remove_file(pipeline.join(name)).unwrap();
                symlink(target, pipeline.join(name)).unwrap();
                let error = check(&pipeline).unwrap_err().to_string();
                assert!(error.contains(name) && (error.contains("outside") || error.contains("nowhere")), "{error}");
            }
        }
    }
}
