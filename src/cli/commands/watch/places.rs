//! Where the things lie that a pipeline reads, and whether a path is one of them. Unaware of how changes are noticed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::engine::decide::texts;
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::inputs::input::Found;
use crate::engine::inputs::listing::{is_picture, is_visible_name};
use crate::engine::inputs::picture_files::PASSING;
use crate::engine::kind::endings::Endings;

/// What a pipeline reads from disk. Every path is absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// The pipeline file, and inputs that are one file; of links also what they lead to.
    files: Vec<PathBuf>,
    /// Folders of photos.
    photos: Vec<PathBuf>,
    /// Folders of texts that people edit, and the extension of these.
    texts: Vec<(PathBuf, &'static str)>,
    /// How the names of texts beside photos end.
    endings: Vec<String>,
    /// What runs write.
    ignored: Vec<PathBuf>,
}

impl Places {
    /// Of a pipeline of which no more is known than its file.
    pub(super) fn of_file(file: &Path) -> Self {
        let mut places = Self::default();
        places.add_file(file);
        places
    }

    pub(super) fn of(pipeline: &Pipeline, cache: &Path) -> Self {
        let mut places = Self::of_file(&pipeline.file);
        for input in &pipeline.inputs {
            match &input.found {
                Found::Photos { folder, .. } => places.photos.push(absolute(folder)),
                Found::File(file) => places.add_file(file),
                Found::Absent(looked_in) => looked_in.iter().for_each(|place| places.files.push(absolute(place))),
            }
        }
        for stage in pipeline.stages.values() {
            if let Some(editable) = stage.stage.editable() {
                places.texts.push((absolute(&texts::folder(pipeline, stage, &editable)), editable.extension));
            }
            places.endings.extend(stage.stage.sidecar_endings().into_iter().flat_map(Endings::list).cloned());
        }
        places.ignored = vec![absolute(&pipeline.out()), absolute(cache), absolute(&pipeline.lock_file())];
        places
    }

    fn add_file(&mut self, file: &Path) {
        let full = absolute(file);
        // A change of what a link leads to is none in the folder of the link.
        let target = fs::canonicalize(&full).ok().filter(|target| *target != full);
        self.files.push(full);
        self.files.extend(target);
    }

    /// The folders to listen to, and whether to all below them. In place of one that is not there stands the nearest above it: it
    /// will tell when the folder comes.
    pub(super) fn folders(&self) -> BTreeMap<PathBuf, bool> {
        let mut folders = BTreeMap::new();
        let deep = self.photos.iter().chain(self.texts.iter().map(|(folder, _)| folder));
        for folder in deep.clone().filter(|folder| folder.is_dir()) {
            folders.insert(folder.clone(), true);
        }
        let above = deep.chain(&self.files).filter_map(|path| path.ancestors().skip(1).find(|above| above.is_dir()));
        for folder in above {
            let is_covered = folders.iter().any(|(known, deep)| *deep && folder.starts_with(known));
            if !is_covered {
                folders.entry(folder.to_path_buf()).or_insert(false);
            }
        }
        folders
    }

    /// How many folders a user would say are watched.
    pub(super) fn count(&self) -> usize {
        self.folders().len()
    }

    /// Whether a change of `path` may change what a run does.
    pub(super) fn matter(&self, path: &Path) -> bool {
        if path.file_name().is_none_or(is_passing) || self.ignored.iter().any(|ignored| path.starts_with(ignored)) {
            return false;
        }
        if self.files.iter().any(|file| file == path) || self.is_above(path) {
            return true;
        }
        let is_shown = |folder: &Path| path.strip_prefix(folder).is_ok_and(|below| below.iter().all(is_visible_name));
        // What is gone, and what is no file, may be a folder of any name.
        let may_be_folder = !path.is_file();
        let has = |extension: &str| path.extension().is_some_and(|found| found == extension);
        self.photos.iter().any(|folder| is_shown(folder) && (may_be_folder || is_picture(path) || self.is_text(path)))
            || self.texts.iter().any(|(folder, extension)| is_shown(folder) && (may_be_folder || has(extension)))
    }

    /// Whether it may be the text of a photo.
    fn is_text(&self, path: &Path) -> bool {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        self.endings.iter().any(|ending| name.ends_with(&ending.to_lowercase()))
    }

    /// A folder that is watched, or one above it: what lies there may have come or gone as a whole.
    fn is_above(&self, path: &Path) -> bool {
        self.photos.iter().chain(self.texts.iter().map(|(folder, _)| folder)).any(|folder| folder.starts_with(path))
    }
}

/// Whether a file of this name is there for a moment only, or is a copy: vim's `4913` and `.a.txt.swp`, Emacs' `.#a` and `#a#`,
/// `a~`, and what loramill itself writes before it renames.
fn is_passing(name: &OsStr) -> bool {
    let text = name.to_string_lossy();
    let ending = Path::new(name).extension().map(|extension| extension.to_string_lossy().to_lowercase());
    text.starts_with(".#")
        || text.starts_with(".loramill-")
        || (text.starts_with('#') && text.ends_with('#'))
        || text.ends_with('~')
        || text == "4913"
        || ending.is_some_and(|ending| PASSING.contains(&ending.as_str()))
}

/// The path from the root of the file system, links not followed.
pub(super) fn absolute(path: &Path) -> PathBuf {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    // `.` in the middle is not told apart from nothing by the watcher, a slash at the end is.
    full.components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(folder: &Path) -> Places {
        Places {
            files: vec![folder.join("pipeline.yaml")],
            photos: vec![folder.join("images")],
            texts: vec![(folder.join("captions"), "txt")],
            endings: vec![".txt".to_string(), ".caption".to_string()],
            ignored: vec![folder.join("out"), folder.join("cache")],
        }
    }

    #[test]
    fn what_a_run_reads_matters_and_what_editors_and_runs_write_beside_it_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let places = places(folder.path());
        fs::create_dir_all(folder.path().join("images/day.2")).expect("made");
        for (name, matters) in [
            ("pipeline.yaml", true),
            ("images/a.jpg", true),
            ("images/day.2/a.PNG", true),
            ("images/day.2", true),
            ("images/a.txt", true),
            ("images/a.CAPTION", true),
            ("captions/a.txt", true),
            ("captions/day/a.txt", true),
            ("images", true),
            ("captions", true),
            ("images/a.heic", false),
            ("images/notes.md", false),
            ("images/.hidden.jpg", false),
            ("images/.git/a.jpg", false),
            ("images/@eaDir/a.jpg", false),
            ("images/a.jfif", true),
            ("captions/.a.txt.swp", false),
            ("captions/a.txt~", false),
            ("captions/4913", false),
            ("captions/.#a.txt", false),
            ("captions/#a.txt#", false),
            ("captions/.loramill-x.txt", false),
            ("images/a.jpg.part", false),
            ("pipeline.lock", false),
            ("README.md", false),
            ("out/resize/a.png", false),
            ("cache/objects/ab", false),
        ] {
            let path = folder.path().join(name);
            if path.extension().is_some() && !path.is_dir() {
                fs::create_dir_all(path.parent().expect("below")).expect("made");
                fs::write(&path, "x").expect("written");
            }
            assert_eq!(places.matter(&path), matters, "{name}");
        }
        assert!(places.matter(&folder.path().join("images/gone.folder")), "a folder that was moved away");
    }

    #[test]
    fn a_folder_that_is_not_there_is_awaited_in_the_nearest_above_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let places = places(folder.path());
        assert_eq!(places.folders(), BTreeMap::from([(folder.path().to_path_buf(), false)]));
        fs::create_dir(folder.path().join("images")).expect("made");
        let expected = BTreeMap::from([(folder.path().to_path_buf(), false), (folder.path().join("images"), true)]);
        assert_eq!(places.folders(), expected);
    }
}
