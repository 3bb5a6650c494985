//! What each command may write, and the walls that are raised around it before it reads anything of a project: a project may be a
//! stranger's, and a mistake in what reads it must not reach further than the project. Unaware of how the kernel keeps them.
//!
//! Commands that compute on a card have none: drivers write and start what they need.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::device::names::needs_card;
use crate::cli::device::orders::HAS_WORKER;
use crate::cli::device::start;
use crate::cli::global::Global;
use crate::cli::target::cache_folder;
use crate::cli::target::pipeline::folder_of;
use crate::computer::machine::walls::{self, Programs};
use crate::engine::gc::git_program;
use crate::engine::inputs::project_bounds;

/// What a command may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It reads no project, or needs a card, or raises walls itself.
    Everything,
    /// It writes below these.
    Below(Vec<PathBuf>),
}

impl Reach {
    /// Writes nothing.
    pub const NOTHING: Self = Self::Below(Vec::new());

    /// The cache of a pipeline, which is made if there is none.
    pub fn cache_of(pipeline: Option<&Path>, global: &Global) -> Self {
        // Without a pipeline the command fails, and says so.
        let Some(folder) = folder_of(pipeline) else { return Self::NOTHING };
        Self::Below(vec![made(cache_folder::locate(&folder, global))])
    }

    /// The folder of a pipeline, with what links of its user lead to within the project, and its cache.
    pub fn project(pipeline: Option<&Path>, global: &Global) -> Self {
        let Some(folder) = folder_of(pipeline) else { return Self::NOTHING };
        let cache = made(cache_folder::locate(&folder, global));
        let linked = project_bounds::linked_folders(&folder);
        Self::Below(vec![folder, cache]).and(linked)
    }

    /// The same, unless a network may run on a card.
    pub fn unless_on_card(self, device: &str) -> Self {
        match (needs_card(device), cfg!(feature = "libtorch")) {
            (true, _) => Self::Everything,
            // Some builds of OpenMP, which libtorch computes with, end the process if they cannot leave a note there.
            (false, true) => self.and([PathBuf::from("/dev/shm")]),
            (false, false) => self,
        }
    }

    /// An existing cache around a folder or a file.
    pub fn cache_around(place: &Path, global: &Global) -> Self {
        let folder = if place.is_dir() { place } else { place.parent().unwrap_or(Path::new(".")) };
        Self::Below(vec![cache_folder::locate(folder, global)])
    }

    /// The command may also write below these. `Everything` stays as it is.
    pub fn and(self, further: impl IntoIterator<Item = PathBuf>) -> Self {
        match self {
            Self::Everything => Self::Everything,
            Self::Below(mut folders) => {
                folders.extend(further);
                Self::Below(folders)
            }
        }
    }

    /// Raises the walls. A kernel without them is no reason not to work; `doctor` says so.
    pub fn raise(&self, programs: &Programs) {
        if let (Self::Below(writable), false) = (self, is_without_walls()) {
            let _ = walls::raise(writable, programs);
        }
    }
}

/// What a test of a bug is compared with.
#[cfg(test)]
fn is_without_walls() -> bool {
    std::env::var_os("LORAMILL_TEST_NO_WALLS").is_some()
}

#[cfg(not(test))]
const fn is_without_walls() -> bool {
    false
}

/// A folder that must be there before walls are raised around it. If it cannot be made, whoever needs it says why.
pub fn made(folder: PathBuf) -> PathBuf {
    let _ = fs::create_dir_all(&folder);
    folder
}

/// The programs that commands may start behind walls which run stages or ask git what must be kept.
pub fn programs() -> Programs {
    Programs::these(worker().into_iter().chain(git_program::program()))
}

/// Those of commands that only look at a project.
pub fn programs_to_look() -> Programs {
    Programs::these(worker())
}

/// What runs networks, where that is another program.
fn worker() -> Option<PathBuf> {
    if HAS_WORKER { start::program().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::process::Command;

    use super::*;
    use crate::engine::cache::faults;

    const PROJECT: &str = "LORAMILL_TEST_PROJECT_WITHIN_WALLS";
    const NO_WALLS: &str = "LORAMILL_TEST_NO_WALLS";

    /// A mistake in what runs: it writes, deletes and starts wherever it can, and notes in the project what came of it.
    fn plant_a_bug(project: &Path) {
        let outside = project.with_file_name("victim");
        let project = project.to_path_buf();
        faults::when("records.append", move || {
            if project.join("done").exists() {
                return;
            }
            let outcomes = [
                ("wrote outside", fs::write(outside.join("new"), "x").is_ok()),
                ("wrote over a file", fs::write(outside.join("file"), "x").is_ok()),
                ("deleted", fs::remove_file(outside.join("other")).is_ok()),
                ("moved in", fs::rename(outside.join("third"), project.join("third")).is_ok()),
                ("linked", std::os::unix::fs::symlink("x", outside.join("link")).is_ok()),
                ("started a shell", Command::new("/bin/sh").args(["-c", "true"]).status().is_ok()),
                ("started git", Command::new(git_program::program().unwrap()).arg("version").output().is_ok()),
            ];
            let done: Vec<&str> = outcomes.iter().filter(|(_, is_done)| *is_done).map(|(what, _)| *what).collect();
            fs::write(project.join("done"), done.join(", ")).unwrap();
        });
    }

    /// In a child: a run of the pipeline in the folder, with a bug.
    fn run_with_a_bug(project: &Path) {
        plant_a_bug(project);
        let arguments: [OsString; 4] = ["loramill".into(), "run".into(), project.into(), "--progress=plain".into()];
        let _ = crate::cli::obey(arguments, None);
    }

    fn project(above: &Path) -> PathBuf {
        let project = above.join("project");
        fs::create_dir_all(project.join("images")).unwrap();
        image::RgbImage::new(64, 64).save(project.join("images/a.png")).unwrap();
        let text = "concept: a\ninputs: { photos: images/ }\nstages: { crop: { images: photos } }\n";
        fs::write(project.join("pipeline.yaml"), text).unwrap();
        fs::create_dir(above.join("victim")).unwrap();
        for name in ["file", "other", "third"] {
            fs::write(above.join("victim").join(name), name).unwrap();
        }
        project
    }

    #[test]
    fn a_bug_in_what_runs_reaches_no_further_than_the_project() {
        if let Some(project) = std::env::var_os(PROJECT) {
            return run_with_a_bug(Path::new(&project));
        }
        let done = |is_free: bool| {
            let temp = tempfile::tempdir().unwrap();
            let project = project(temp.path());
            let mut child = Command::new(std::env::current_exe().unwrap());
            let name = "cli::walls::tests::a_bug_in_what_runs_reaches_no_further_than_the_project";
            child.args(["--exact", name, "--test-threads=1"]).env(PROJECT, &project).env_remove("LORAMILL_CACHE");
            if is_free {
                child.env(NO_WALLS, "1");
            }
            let output = child.output().unwrap();
            assert!(output.status.success() && project.join("out/crop/a.png").is_file(), "{output:?}");
            fs::read_to_string(project.join("done")).unwrap()
        };
        let all = "wrote outside, wrote over a file, deleted, moved in, linked, started a shell, started git";
        assert_eq!(done(true), all, "without walls the bug does what it likes");
        match walls::trial(&programs()) {
            walls::Trial::None(_) => assert_eq!(done(false), all, "the kernel has none: a run works all the same"),
            _ => assert_eq!(done(false), "started git"),
        }
    }
}
