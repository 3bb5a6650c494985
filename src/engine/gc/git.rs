//! What git knows of lock files: those of any commit that can still be reached, of the index, and of other work trees. Asks the
//! program `git`; reads only. Unaware of what a lock says.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::cache::regular_file::{self, Links};
use crate::gc::git_program;

/// Every lock file, wherever in the repository.
const LOCKS: &str = ":(top,glob)**/pipeline.lock";
/// Bytes of a lock file in the history; a larger one is refused.
const LARGEST_LOCK: u64 = 64 << 20;
/// Bytes of what git says of a failure.
const LARGEST_COMPLAINT: u64 = 64 << 10;
/// Bytes of a file in which git keeps the names of commits.
const LARGEST_NOTE: u64 = 1 << 20;
/// Names of commits that git keeps apart from branches while an operation is under way, or after one.
const APART: &[&str] = &["ORIG_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "REBASE_HEAD", "MERGE_AUTOSTASH"];
/// Files of a work tree's own with names of commits, a line each: also what `--autostash` put aside, which is in no reflog.
const APART_IN_FILES: &[&str] = &[
    "MERGE_HEAD",
    "MERGE_AUTOSTASH",
    "rebase-merge/autostash",
    "rebase-merge/orig-head",
    "rebase-apply/autostash",
    "rebase-apply/orig-head",
];

/// Between two looks at what git waits for.
const GLANCE: Duration = Duration::from_millis(100);
/// So long git may wait for the other end of a pipe.
const PATIENCE: Duration = Duration::from_secs(3);

/// A folder in which a branch is checked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkTree {
    pub path: PathBuf,
    /// The folder does not say that it is one of this repository.
    pub is_gone: bool,
}

/// A repository by one of its work trees.
pub struct Repository<'a>(pub &'a Path);

impl Repository<'_> {
    /// All work trees, also those that are gone.
    pub fn work_trees(&self) -> Result<Vec<WorkTree>> {
        let listed = self.output(&["worktree", "list", "--porcelain", "-z"])?;
        let lines = listed.split(|byte| *byte == 0);
        let mut trees: Vec<WorkTree> = Vec::new();
        for line in lines {
            if let Some(path) = line.strip_prefix(b"worktree ") {
                trees.push(WorkTree { path: PathBuf::from(OsStr::from_bytes(path)), is_gone: false });
            } else if line == b"bare" {
                // No files lie there.
                trees.pop();
            } else if line == b"prunable" || line.starts_with(b"prunable ") {
                // Another folder may be there by now, and it may be `/`.
                trees.last_mut().into_iter().for_each(|tree| tree.is_gone = true);
            }
        }
        Ok(trees)
    }

    /// Shows the text of every lock file that was committed and can be reached from a branch, a tag, the stash, a reflog, the
    /// `HEAD` of a work tree, or what an operation that is under way in one of `trees` keeps apart.
    pub fn each_committed_lock(&self, trees: &[PathBuf], see: &mut dyn FnMut(&[u8])) -> Result<()> {
        let mut apart = Vec::new();
        for tree in trees.iter().filter(|tree| tree.is_dir()) {
            apart.extend(Repository(tree).commits_apart()?);
        }
        // Without `--full-history`, commits of a branch whose locks a merge did not take would be left out.
        let mut arguments = vec!["rev-list", "--all", "--reflog", "--full-history"];
        arguments.extend(apart.iter().map(String::as_str));
        arguments.extend(["--", LOCKS]);
        let commits = self.output(&arguments)?;
        if commits.is_empty() {
            return Ok(());
        }
        // Against each parent, so that a merge shows what it took from neither.
        let mut arguments = vec!["diff-tree", "--stdin", "-r", "-m", "--root", "--raw", "--no-abbrev", "--no-commit-id", "-z"];
        arguments.extend(["--no-ext-diff", "--no-textconv", "--ignore-submodules=all", "--", LOCKS]);
        let changes = self.feed(&arguments, &commits)?;
        self.each_blob(&blobs_of(&changes), see)
    }

    /// Shows the text of every lock file that is staged in the work tree.
    pub fn each_staged_lock(&self, see: &mut dyn FnMut(&[u8])) -> Result<()> {
        let staged = self.output(&["ls-files", "--stage", "-z", "--", LOCKS])?;
        // `100644 <blob> <stage>\t<path>`
        let blobs = staged.split(|byte| *byte == 0).filter_map(|line| line.split(|byte| *byte == b' ').nth(1));
        self.each_blob(&blobs.filter_map(|blob| String::from_utf8(blob.to_vec()).ok()).collect(), see)
    }

    /// A file as a commit has it; the path is relative to the folder.
    pub fn show(&self, commit: &str, path: &str) -> Result<Vec<u8>> {
        ensure!(!commit.starts_with('-'), "`{commit}` is no commit");
        self.output(&["cat-file", "blob", &format!("{commit}:./{path}")])
    }

    /// The full name of a commit, a tag or a branch.
    pub fn commit(&self, name: &str) -> Result<String> {
        ensure!(!name.starts_with('-'), "`{name}` is no commit");
        let found = self.output(&["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{name}^{{commit}}")]);
        let found = found.map_err(|_| anyhow!("there is no commit `{name}` in the repository around `{}`", self.0.display()))?;
        Ok(String::from_utf8_lossy(&found).trim().to_string())
    }

    /// Commits of this work tree that neither a branch nor a reflog need lead to.
    fn commits_apart(&self) -> Result<BTreeSet<String>> {
        let own = self.output(&["rev-parse", "--absolute-git-dir"])?;
        let own = PathBuf::from(OsStr::from_bytes(own.strip_suffix(b"\n").unwrap_or(&own)));
        let mut named = BTreeSet::new();
        for file in APART_IN_FILES {
            named.extend(commits_in(&own.join(file))?);
        }
        let asked: Vec<&str> = APART.iter().copied().chain(named.iter().map(String::as_str)).collect();
        // `<commit> commit <size>`, or `<name> missing`: git may have cleared away what `ORIG_HEAD` and its like were.
        let found = self.feed(&["cat-file", "--batch-check"], format!("{}\n", asked.join("\n")).as_bytes())?;
        let found = String::from_utf8_lossy(&found);
        let commits = found.lines().filter_map(|line| line.split_once(" commit ").map(|(commit, _)| commit.to_string()));
        let commits: BTreeSet<String> = commits.collect();
        match named.difference(&commits).next() {
            Some(lost) => {
                bail!("`{}` names the commit {lost}, and it is not there: `git status` says how to go on", own.display())
            }
            None => Ok(commits),
        }
    }

    fn each_blob(&self, blobs: &BTreeSet<String>, see: &mut dyn FnMut(&[u8])) -> Result<()> {
        if blobs.is_empty() {
            return Ok(());
        }
        let wanted: String = blobs.iter().flat_map(|blob| [blob.as_str(), "\n"]).collect();
        self.ask(&["cat-file", "--batch"], wanted.as_bytes(), &mut |answer| {
            for _ in blobs {
                // `<blob> blob <size>\n<contents>\n`, or `<blob> missing\n`
                let mut header = String::new();
                answer.read_line(&mut header)?;
                let size: Option<u64> = header.trim_end().split(' ').nth(2).and_then(|size| size.parse().ok());
                let Some(size) = size else { bail!("it cannot give `{}`", header.trim_end()) };
                ensure!(size <= LARGEST_LOCK, "a lock file has {size} bytes, and at most {LARGEST_LOCK} are read");
                let mut contents = Vec::new();
                answer.take(size).read_to_end(&mut contents)?;
                ensure!(contents.len() as u64 == size, "it ended in the middle of a file");
                answer.read_exact(&mut [0])?;
                see(&contents);
            }
            Ok(())
        })
    }

    fn output(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        self.feed(arguments, &[])
    }

    fn feed(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let mut output = Vec::new();
        self.ask(arguments, input, &mut |answer| Ok(answer.read_to_end(&mut output).map(drop)?))?;
        Ok(output)
    }

    /// Asks git and reads what it answers, side by side: else git could wait for us to read, and we for it to.
    fn ask(&self, arguments: &[&str], input: &[u8], read: &mut dyn FnMut(&mut Answer) -> Result<()>) -> Result<()> {
        let mut child = git_program::start(self.0, arguments)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut answer = BufReader::new(stdout.context("git has a standard output")?);
        let process = Pid::from_child(&child);
        let (read, said, stood_still) = thread::scope(|scope| {
            // If git reads no more, it says why.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
            let said = scope.spawn(move || stderr.map(complaint).unwrap_or_default());
            let (over, is_over) = mpsc::channel();
            let watched = scope.spawn(move || end_if_still(process, &is_over));
            let outcome = read(&mut answer);
            // Whoever stops in the middle lets git go.
            drop(answer);
            let said = said.join().unwrap_or_default();
            drop(over);
            (outcome, said, watched.join().unwrap_or_default())
        });
        let status = child.wait().context("waiting for git")?;
        let place = || format!("`git {}` in `{}` failed", arguments[0], self.0.display());
        ensure!(
            !stood_still,
            "{}: it waits for something that never comes: a file below `.git`, or one that its configuration includes, is a pipe (FIFO): remove it",
            place()
        );
        let is_exhausted = String::from_utf8_lossy(&said).contains("ut of memory");
        ensure!(
            !is_exhausted,
            "{}: it needs more than {} MiB: a file below `.git` has no end, as a link to a device, or is larger than any that git writes: \
             remove it (`find .git -type l` finds links)",
            place(),
            git_program::LARGEST_HEAP >> 20
        );
        if !status.success() && (read.is_ok() || !said.is_empty()) {
            bail!("{}: {}", place(), String::from_utf8_lossy(&said).trim());
        }
        read.with_context(place)
    }
}

type Answer = BufReader<ChildStdout>;

/// What git says of a failure, as far as a person would read it.
fn complaint(mut stderr: ChildStderr) -> Vec<u8> {
    let mut said = Vec::new();
    // What cannot be read was not said.
    let _ = stderr.by_ref().take(LARGEST_COMPLAINT).read_to_end(&mut said);
    let _ = io::copy(&mut stderr, &mut io::sink());
    said
}

/// Ends git if it waits for the other end of a pipe that is not ours, and says so: a repository may hold one where git expects a
/// file.
fn end_if_still(process: Pid, is_over: &Receiver<()>) -> bool {
    let place = PathBuf::from(format!("/proc/{}/wchan", process.as_raw_nonzero()));
    let mut still = Duration::ZERO;
    while still < PATIENCE {
        if is_over.recv_timeout(GLANCE) != Err(RecvTimeoutError::Timeout) {
            return false;
        }
        // The name of the kernel's function that it sleeps in. What it reads from us and writes to us goes on all the time.
        let waits = fs::read_to_string(&place).is_ok_and(|place| place.contains("pipe_read") || place == "wait_for_partner");
        still = if waits { still + GLANCE } else { Duration::ZERO };
    }
    // Until it is waited for, no other process has its number.
    kill_process(process, Signal::KILL).is_ok()
}

/// The names of commits in a file, a line each; none if there is no such file.
fn commits_in(file: &Path) -> Result<Vec<String>> {
    let text = match regular_file::read(file, Links::Refused, LARGEST_NOTE) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading `{}`", file.display())),
    };
    let text = String::from_utf8_lossy(&text);
    let is_name = |line: &&str| matches!(line.len(), 40 | 64) && line.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok(text.lines().filter(is_name).map(str::to_string).collect())
}

/// Both sides of each line of `git diff-tree --raw -z`: `:100644 100644 <old> <new> M`, and the path after a zero byte.
fn blobs_of(changes: &[u8]) -> BTreeSet<String> {
    let mut blobs = BTreeSet::new();
    for line in changes.split(|byte| *byte == 0).filter_map(|line| line.strip_prefix(b":")) {
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let [old_mode, new_mode, old, new, ..] = words[..] else { continue };
        // A side that is missing has mode 0; 160000 is another repository.
        for (mode, blob) in [(old_mode, old), (new_mode, new)] {
            if mode.starts_with(b"1") && mode != b"160000" {
                blobs.insert(String::from_utf8_lossy(blob).into_owned());
            }
        }
    }
    blobs
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn git(folder: &Path, arguments: &[&str]) {
        let mut command = Command::new("git");
        command.arg("-C").arg(folder).args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]);
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn locks(folder: &Path) -> Vec<String> {
        let mut texts = Vec::new();
        Repository(folder)
            .each_committed_lock(&[folder.to_path_buf()], &mut |text| texts.push(String::from_utf8(text.to_vec()).unwrap()))
            .unwrap();
        texts.sort();
        texts
    }

    #[test]
    fn locks_of_branches_merges_stashes_reflogs_and_other_work_trees_are_found() {
        let temp = tempfile::tempdir().unwrap();
        let repository = temp.path().join("repository");
        std::fs::create_dir_all(repository.join("deep/er")).unwrap();
        let write = |text: &str| std::fs::write(repository.join("deep/er/pipeline.lock"), text).unwrap();
        let commit = |text: &str| {
            write(text);
            git(&repository, &["add", "-A"]);
            git(&repository, &["commit", "-qm", text]);
        };
        git(&repository, &["init", "-q", "-b", "main"]);
        assert!(locks(&repository).is_empty(), "a repository without a commit");
        std::fs::write(repository.join("pipeline.lock.old"), "no lock").unwrap();
        commit("first");
        git(&repository, &["checkout", "-qb", "side"]);
        commit("side");
        git(&repository, &["checkout", "-q", "main"]);
        commit("main");
        // A merge that takes nothing of the side, then one that is like neither.
        git(&repository, &["merge", "-q", "-s", "ours", "side", "-m", "m"]);
        git(&repository, &["branch", "-qD", "side"]);
        git(&repository, &["reflog", "expire", "--expire=now", "--all"]);
        git(&repository, &["checkout", "-qb", "other"]);
        commit("other");
        git(&repository, &["checkout", "-q", "main"]);
        git(&repository, &["merge", "-q", "--no-commit", "--no-ff", "other"]);
        commit("by hand");
        commit("undone");
        git(&repository, &["reset", "-q", "--hard", "HEAD^"]);
        for text in ["stashed first", "stashed last"] {
            write(text);
            git(&repository, &["stash", "-q"]);
        }
        let elsewhere = temp.path().join("elsewhere");
        git(&repository, &["worktree", "add", "-q", "--detach", elsewhere.to_str().unwrap()]);
        std::fs::write(elsewhere.join("deep/er/pipeline.lock"), "detached").unwrap();
        git(&elsewhere, &["commit", "-qam", "detached"]);
        write("staged");
        git(&repository, &["add", "-A"]);

        let expected = ["by hand", "detached", "first", "main", "other", "side", "stashed first", "stashed last", "undone"];
        assert_eq!(locks(&repository), expected);
        assert_eq!(locks(&elsewhere), expected);
        let mut staged = Vec::new();
        Repository(&repository).each_staged_lock(&mut |text| staged.push(text.to_vec())).unwrap();
        assert_eq!(staged, [b"staged"]);
        let trees: Vec<PathBuf> = Repository(&repository).work_trees().unwrap().into_iter().map(|tree| tree.path).collect();
        assert_eq!(trees, [repository.canonicalize().unwrap(), elsewhere.canonicalize().unwrap()]);
        assert_eq!(Repository(&repository.join("deep")).show("HEAD~1", "er/pipeline.lock").unwrap(), b"main");
    }

    /// A repository whose branches `main` and `side` have other locks, and a lock in the work tree that was never committed.
    fn diverged() -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(temp.path().join("pipeline.lock"), text).unwrap();
        git(temp.path(), &["init", "-q", "-b", "main"]);
        for (branch, texts) in [("main", ["root", "photo"]), ("side", ["side", "side photo"])] {
            if branch == "side" {
                git(temp.path(), &["checkout", "-qb", "side", "HEAD^"]);
            }
            write(texts[0]);
            std::fs::write(temp.path().join("photo"), texts[1]).unwrap();
            git(temp.path(), &["add", "-A"]);
            git(temp.path(), &["commit", "-qm", branch]);
            if branch == "main" {
                std::fs::write(temp.path().join("photo"), "of main").unwrap();
                git(temp.path(), &["commit", "-qam", "on"]);
            }
        }
        write("never committed");
        temp
    }

    #[test]
    fn what_autostash_put_aside_is_found_while_a_rebase_or_a_merge_is_stopped() {
        for operation in [
            &["rebase", "--autostash", "main"],
            &["rebase", "--apply", "--autostash", "main"][..],
            &["merge", "--autostash", "main"],
        ] {
            let temp = diverged();
            let mut command = Command::new("git");
            command.arg("-C").arg(temp.path()).args(["-c", "user.name=a", "-c", "user.email=a@b"]);
            let output = command.args(operation).output().unwrap();
            assert!(!output.status.success(), "{operation:?}: `photo` conflicts");
            let found = locks(temp.path());
            assert!(found.contains(&"never committed".to_string()), "{operation:?}: {found:?}");
            // What nobody could read must not go by as nothing.
            let own = temp.path().join(".git");
            let notes: Vec<PathBuf> = APART_IN_FILES.iter().map(|file| own.join(file)).filter(|file| file.exists()).collect();
            std::fs::write(&notes[0], format!("{}\n", "1".repeat(40))).unwrap();
            let error = Repository(temp.path()).each_committed_lock(&[temp.path().to_path_buf()], &mut |_| ()).unwrap_err();
            assert!(error.to_string().contains(&"1".repeat(40)), "{error:#}");
        }
    }

    #[test]
    fn a_pipe_where_git_expects_a_file_ends_in_an_error() {
        let temp = tempfile::tempdir().unwrap();
        git(temp.path(), &["init", "-q"]);
        let pipe = temp.path().join(".git/packed-refs");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let error = Repository(temp.path()).each_committed_lock(&[], &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("is a pipe") && error.contains("remove it"), "{error}");
    }

    #[test]
    fn a_work_tree_that_another_folder_took_the_place_of_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let repository = temp.path().join("repository");
        git(temp.path(), &["init", "-q", "repository"]);
        git(&repository, &["commit", "-q", "--allow-empty", "-m", "x"]);
        git(&repository, &["worktree", "add", "-q", "../other"]);
        let strange = temp.path().canonicalize().unwrap().join("strange");
        std::fs::create_dir(&strange).unwrap();
        std::fs::write(repository.join(".git/worktrees/other/gitdir"), format!("{}/.git\n", strange.display())).unwrap();
        let trees = Repository(&repository).work_trees().unwrap();
        assert!(!trees[0].is_gone && trees[1] == WorkTree { path: strange, is_gone: true }, "{trees:?}");
    }

    #[test]
    fn what_git_cannot_read_is_an_error_with_what_it_says() {
        let temp = tempfile::tempdir().unwrap();
        git(temp.path(), &["init", "-q"]);
        std::fs::write(temp.path().join("pipeline.lock"), "text").unwrap();
        git(temp.path(), &["add", "-A"]);
        git(temp.path(), &["commit", "-qm", "x"]);
        let objects = temp.path().join(".git/objects");
        std::fs::rename(&objects, temp.path().join("away")).unwrap();
        std::fs::create_dir(&objects).unwrap();
        let error = Repository(temp.path()).each_committed_lock(&[], &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("failed: ") && error.contains(temp.path().to_str().unwrap()), "{error}");
        let error = Repository(temp.path()).commit("--all").unwrap_err().to_string();
        assert!(error.contains("no commit"), "{error}");
    }
}
