//! What git knows of lock files: those of any commit that can still be reached, of the index, and of other work trees. Asks the program
//! `git`; reads only. Unaware of what a lock says.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

/// Every lock file, wherever in the repository.
const LOCKS: &str = ":(top,glob)**/pipeline.lock";
/// What git hooks set: it would lead to another repository than the one that is meant.
const OF_ANOTHER_REPOSITORY: &[&str] = &[
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_CEILING_DIRECTORIES",
];

/// A repository by one of its work trees.
pub struct Repository<'a>(pub &'a Path);

impl Repository<'_> {
    /// The folders of all work trees, also of those that are gone.
    pub fn work_trees(&self) -> Result<Vec<PathBuf>> {
        let listed = self.output(&["worktree", "list", "--porcelain", "-z"])?;
        let lines = listed.split(|byte| *byte == 0);
        let mut trees: Vec<PathBuf> = Vec::new();
        for line in lines {
            if let Some(path) = line.strip_prefix(b"worktree ") {
                trees.push(PathBuf::from(OsStr::from_bytes(path)));
            } else if line == b"bare" {
                // No files lie there.
                trees.pop();
            }
        }
        Ok(trees)
    }

    /// Shows the text of every lock file that was committed and can be reached from a branch, a tag, the stash, a reflog, or the `HEAD` of
    /// a work tree.
    pub fn each_committed_lock(&self, see: &mut dyn FnMut(&[u8])) -> Result<()> {
        // Without this, commits of a branch whose locks a merge did not take would be left out.
        let commits = self.output(&["rev-list", "--all", "--reflog", "--full-history", "--", LOCKS])?;
        if commits.is_empty() {
            return Ok(());
        }
        // Against each parent, so that a merge shows what it took from neither.
        let arguments =
            ["diff-tree", "--stdin", "-r", "-m", "--root", "--raw", "--no-abbrev", "--no-commit-id", "-z", "--", LOCKS];
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
        let mut child = self.start(arguments)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut answer = BufReader::new(stdout.context("git has a standard output")?);
        let (read, said) = thread::scope(|scope| {
            // If git reads no more, it says why.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
            let said = scope.spawn(move || {
                let mut said = Vec::new();
                stderr.map(|mut stderr| stderr.read_to_end(&mut said));
                said
            });
            let outcome = read(&mut answer);
            // Whoever stops in the middle lets git go.
            drop(answer);
            (outcome, said.join().unwrap_or_default())
        });
        let status = child.wait().context("waiting for git")?;
        let place = || format!("`git {}` in `{}` failed", arguments[0], self.0.display());
        if !status.success() && (read.is_ok() || !said.is_empty()) {
            bail!("{}: {}", place(), String::from_utf8_lossy(&said).trim());
        }
        read.with_context(place)
    }

    fn start(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = Command::new("git");
        command.arg("--no-replace-objects").arg("-C").arg(self.0).args(arguments);
        command.env("LC_ALL", "C").env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0");
        OF_ANOTHER_REPOSITORY.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => anyhow!("the program `git` is not there: install it, its history names what must be kept"),
            _ => anyhow!("starting `git`: {error}"),
        })
    }
}

type Answer = BufReader<ChildStdout>;

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
    use super::*;

    fn git(folder: &Path, arguments: &[&str]) {
        let mut command = Command::new("git");
        command.arg("-C").arg(folder).args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]);
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn locks(folder: &Path) -> Vec<String> {
        let mut texts = Vec::new();
        Repository(folder).each_committed_lock(&mut |text| texts.push(String::from_utf8(text.to_vec()).unwrap())).unwrap();
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
        let trees = Repository(&repository).work_trees().unwrap();
        assert_eq!(trees, [repository.canonicalize().unwrap(), elsewhere.canonicalize().unwrap()]);
        assert_eq!(Repository(&repository.join("deep")).show("HEAD~1", "er/pipeline.lock").unwrap(), b"main");
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
        let error = Repository(temp.path()).each_committed_lock(&mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("failed: ") && error.contains(temp.path().to_str().unwrap()), "{error}");
        let error = Repository(temp.path()).commit("--all").unwrap_err().to_string();
        assert!(error.contains("no commit"), "{error}");
    }
}
