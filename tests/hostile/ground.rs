//! Where a case is tried: a project, and beside it what must stay untouched. Unaware of what is hostile.
//!
//! ```text
//! project/   the folder that a command is run in; it may write here
//! victim/    files that look as loramill would like them to; nothing of it may be read, written or deleted
//! home/      HOME, empty
//! tmp/       TMPDIR; it may write here
//! ```

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode};
use walkdir::WalkDir;

use crate::hostile::attempt;

pub const PIPELINE: &str = "\
concept: star
inputs: { photos: images/ }
stages:
  crop: { images: photos }
  resize: { images: crop, size: 32 }
  caption: { images: resize, model: sidecar }
  flip: { images: caption }
";

/// As loramill writes it.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55
# This folder holds artifacts that loramill makes again when they are missing; backup programs may skip it.
";

/// Projects that many cases begin with, made once.
pub struct Templates {
    folder: tempfile::TempDir,
}

impl Templates {
    /// # Panics
    /// If the program cannot run a harmless project.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let templates = Self { folder };
        let finished = templates.folder.path().join("finished");
        write(&finished.join("pipeline.yaml"), PIPELINE.as_bytes());
        write(&finished.join(".gitignore"), b"/cache\nout/\n");
        copy_photos(&finished.join("images"));
        run_there(&finished);
        // A text of a person's, so that there is something to lose.
        write(&finished.join("captions/star-01.txt"), b"a star that somebody described");
        run_there(&finished);

        let repository = templates.folder.path().join("repository");
        copy_tree(&finished, &repository);
        git(&repository, &["init", "-q", "-b", "main"]);
        git(&repository, &["add", "-A"]);
        git(&repository, &["commit", "-qm", "first"]);
        write(&repository.join("pipeline.yaml"), PIPELINE.replace("32", "48").as_bytes());
        run_there(&repository);
        git(&repository, &["commit", "-qam", "second"]);
        templates
    }
}

fn run_there(folder: &Path) {
    let output = attempt::command(folder, folder, folder).args(["run", "-q"]).output().expect("the program starts");
    assert!(output.status.success(), "a harmless project fails: {}", String::from_utf8_lossy(&output.stderr));
}

/// The folder of one try.
pub struct Ground {
    #[allow(dead_code, reason = "held, and given up by the bench")]
    folder: tempfile::TempDir,
    root: PathBuf,
    templates: Arc<Templates>,
}

impl Ground {
    pub fn new(templates: &Arc<Templates>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = fs::canonicalize(folder.path()).expect("it was just made");
        let ground = Self { folder, root, templates: templates.clone() };
        for name in ["project", "home", "tmp"] {
            fs::create_dir(ground.root.join(name)).expect("made");
        }
        ground.plant();
        ground
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn project(&self) -> PathBuf {
        self.root.join("project")
    }

    pub fn victim(&self) -> PathBuf {
        self.root.join("victim")
    }

    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Leaves the folder where it is.
    #[allow(dead_code, reason = "only the bench is asked for it")]
    pub fn keep(self) {
        let _ = self.folder.keep();
    }

    /// Files of somebody's who did nothing wrong, under every name that loramill deletes, replaces or appends to in its own folders.
    fn plant(&self) {
        let hex = "ab".repeat(31);
        let files = [
            "secret.txt",
            "X.lock",
            "X/keep.txt",
            "7.lock",
            "7/0",
            "objects/ab/keep.txt",
            "claim-0",
            "claims",
            "tmp/7.lock",
            "tmp/7/keep.txt",
            "1000000000.000000001.0.letter.txt",
            "captions/star-00.txt",
            "captions/star-01.txt",
            "resize/star-00.png",
            "records",
            "record-index",
            "stat-index",
            "evicted",
            "pipeline.lock",
            "crops.yaml",
            ".loramill-pipeline.lock",
        ];
        for name in files {
            write(&self.victim().join(name), format!("planted: {name}\n").as_bytes());
        }
        write(&self.victim().join(&hex), b"planted: an object\n");
        write(&self.victim().join(format!("ab{hex}/keep.txt")), b"planted: a state\n");
        fs::copy(examples().join("star-02.png"), self.victim().join("photo.png")).expect("copied");
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.project().join(path)
    }

    /// A file of the project.
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        write(&self.path(path), bytes.as_ref());
    }

    /// A file of the project that claims `length` bytes and takes none.
    pub fn sparse(&self, path: &str, start: &[u8], length: u64) {
        self.write(path, start);
        fs::File::options().write(true).open(self.path(path)).and_then(|file| file.set_len(length)).expect("made");
    }

    /// A symbolic link in the project, in the place of whatever lies there.
    pub fn link(&self, path: &str, target: impl AsRef<Path>) {
        self.clear(path);
        symlink(target, self.path(path)).expect("linked");
    }

    /// A pipe that nobody writes to, in the place of whatever lies there.
    pub fn fifo(&self, path: &str) {
        self.clear(path);
        rustix::fs::mknodat(CWD, self.path(path), FileType::Fifo, Mode::from_raw_mode(0o644), 0).expect("a pipe");
    }

    /// Room for a thing at `path`.
    pub fn clear(&self, path: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("it lies in the project")).expect("made");
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path).expect("removed"),
            Ok(_) => fs::remove_file(&path).expect("removed"),
            Err(_) => {}
        }
    }

    /// Two photos with texts beside them.
    pub fn photos(&self) {
        copy_photos(&self.path("images"));
    }

    /// Photos and a pipeline that reads them, never run.
    pub fn fresh(&self) {
        self.photos();
        self.write("pipeline.yaml", PIPELINE);
    }

    /// A project of which everything was made.
    pub fn finished(&self) {
        copy_tree(&self.templates.folder.path().join("finished"), &self.project());
    }

    /// The same in git, with two commits.
    pub fn repository(&self) {
        copy_tree(&self.templates.folder.path().join("repository"), &self.project());
    }

    /// The tag that makes a folder a cache.
    pub fn tag(&self, folder: &str) {
        self.write(&format!("{folder}/CACHEDIR.TAG"), TAG);
    }

    pub fn git(&self, arguments: &[&str]) {
        git(&self.project(), arguments);
    }
}

pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images")
}

fn copy_photos(to: &Path) {
    fs::create_dir_all(to).expect("made");
    for name in ["star-00.jpg", "star-00.txt", "star-01.png", "star-01.txt"] {
        fs::copy(examples().join(name), to.join(name)).expect("copied");
    }
}

/// Writes a file and the folders around it.
pub fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in WalkDir::new(from) {
        let entry = entry.expect("the template can be read");
        let target = to.join(entry.path().strip_prefix(from).expect("below it"));
        if entry.file_type().is_dir() {
            fs::create_dir_all(target).expect("made");
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

fn git(folder: &Path, arguments: &[&str]) {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]);
    let output = command.args(arguments).env("HOME", folder).output().expect("git starts");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
