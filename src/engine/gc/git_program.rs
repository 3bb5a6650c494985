//! Starts `git` in a repository of somebody who is not trusted, so that nothing of its configuration starts another program.
//! Unaware of what git is asked.
//!
//! Ways of git to start a program that were considered, and what is done about them:
//!
//! | what names the program | why it does not start |
//! | --- | --- |
//! | `core.fsmonitor`, true or a program, whenever an index is read | emptied |
//! | hooks below `.git/hooks` or `core.hooksPath`, `hook.*.command` | none is where git looks; nothing is written that would call one |
//! | a missing object of a partial clone (`extensions.partialClone`, `remote.*.promisor`), which is fetched: `remote.*.uploadpack`, `ext::` and `remote.*.vcs`, `core.sshCommand`, `core.gitProxy`, `credential.helper`, `core.askPass` | nothing is fetched, and no protocol is allowed, for versions that fetch all the same |
//! | `core.pager`, `pager.*` | no pager, and no terminal |
//! | `alias.*` | each command that is asked for is git's own, which no alias replaces |
//! | `diff.external`, `diff.*.command`, `diff.*.textconv` | switched off; trees are compared, not contents |
//! | `filter.*` (`clean`, `smudge`, `process`) | no file of a work tree is read or written, and blobs are read as they are |
//! | `merge.*.driver`, `mergetool`, `difftool`, `interactive.diffFilter`, `trailer.*` | nothing is merged, shown or written |
//! | `core.editor`, `sequence.editor`, `gpg.program` and its like | nothing is edited, signed or verified |
//! | submodules: `submodule.*.update`, and `git status` in one, by its own configuration | not entered |
//! | `core.alternateRefsCommand`, `gc.recentObjectsHook`, `gc.auto`, `maintenance.auto` | asked for in fetching, pruning and writing alone |
//! | `include.path`, `includeIf.*`, `config.worktree` | what they bring stands behind what is given on the command line, as all of the above |
//! | `uploadpack.packObjectsHook`, `trace2.*` | git takes them from the user's own configuration alone |
//! | `GIT_DIR` and its like, as hooks set them | removed |
//! | a file `git` in the folder itself | only folders of `PATH` that begin with `/` are searched |

use std::env;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Result, anyhow};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

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
    "GIT_SHALLOW_FILE",
    "GIT_GRAFT_FILE",
    "GIT_EXTERNAL_DIFF",
];

/// Settings that a repository cannot override.
const SETTINGS: &[&str] = &[
    // Emptied, since old versions take `false` for the name of a program.
    "core.fsmonitor=",
    "core.hooksPath=/dev/null",
    "diff.external=",
    "submodule.recurse=false",
    "log.showSignature=false",
    "gc.auto=0",
    "maintenance.auto=false",
];

/// In bytes, packs and the index not counted, which are mapped. Git reads some files below `.git` to their end, which a device
/// has not.
pub(crate) const LARGEST_HEAP: u64 = 400 << 20;

/// Starts `git -C folder arguments…`, with pipes to its input, output and errors.
///
/// # Errors
/// If there is no `git`, or it cannot be started.
pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Result<Child> {
    let program =
        program().map_err(|_| anyhow!("the program `git` is not there: install it, its history names what must be kept"))?;
    let mut command = Command::new(program);
    command.args(["--no-pager", "--no-replace-objects"]);
    SETTINGS.iter().for_each(|setting| {
        command.args(["-c", setting]);
    });
    command.arg("-C").arg(folder).args(arguments);
    command.env("LC_ALL", "C").env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0");
    command.env("GIT_NO_LAZY_FETCH", "1").env("GIT_ALLOW_PROTOCOL", "");
    OF_ANOTHER_REPOSITORY.iter().for_each(|name| {
        command.env_remove(name);
    });
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| anyhow!("starting `git`: {error}"))?;
    let limit = Rlimit { current: Some(LARGEST_HEAP), maximum: Some(LARGEST_HEAP) };
    // Where it cannot be set, git ends by the memory of the computer.
    let _ = prlimit(Some(Pid::from_child(&child)), Resource::Data, limit);
    Ok(child)
}

/// The file of `git`, if there is one on the `PATH`.
pub fn program() -> io::Result<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let files = env::split_paths(&folders).filter(|folder| folder.is_absolute()).map(|folder| folder.join("git"));
    let is_program =
        |file: &PathBuf| file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    files.into_iter().find(is_program).ok_or_else(|| ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::io::Write as _;

    use super::*;
    use crate::gc::git::Repository;

    /// A repository with each way to start a program set to one that notes that it was started.
    struct Trapped {
        temp: tempfile::TempDir,
        lost: String,
    }

    /// Settings that name the program `{note} WAY`, by way.
    const TRAPS: &[(&str, &[&str])] = &[
        ("fsmonitor", &["core.fsmonitor"]),
        ("editor", &["core.editor", "sequence.editor"]),
        ("pager", &["core.pager", "pager.rev-list", "pager.ls-files", "pager.worktree"]),
        ("alias", &["alias.trap", "alias.rev-list", "alias.cat-file"]),
        ("textconv", &["diff.told.textconv"]),
        ("diff", &["diff.external", "diff.compared.command"]),
        ("filter", &["filter.filtered.clean", "filter.filtered.smudge"]),
        ("process", &["filter.processed.process"]),
        ("merge", &["merge.merged.driver"]),
        ("difftool", &["difftool.trap.cmd", "mergetool.trap.cmd"]),
        ("gpg", &["gpg.program", "gpg.ssh.program", "gpg.x509.program"]),
        ("alternates", &["core.alternateRefsCommand"]),
        ("trailer", &["trailer.trap.command"]),
        ("recent", &["gc.recentObjectsHook"]),
        ("credential", &["credential.helper"]),
        ("askpass", &["core.askPass"]),
        ("ssh", &["core.sshCommand"]),
        ("proxy", &["core.gitProxy"]),
        ("partial", &["remote.lazy.uploadpack"]),
    ];

    impl Trapped {
        fn new() -> Self {
            let trapped = Self { temp: tempfile::tempdir().unwrap(), lost: String::new() };
            let repository = trapped.repository();
            fs::create_dir_all(repository.join("deep")).unwrap();
            fs::create_dir(trapped.fired_folder()).unwrap();
            trapped.git(&["init", "-q", "-b", "main"]);
            fs::write(repository.join("deep/pipeline.lock"), "first\n").unwrap();
            fs::write(repository.join("file.lost"), "lost\n").unwrap();
            let drivers = [
                ("told", "diff=told"),
                ("compared", "diff=compared"),
                ("filtered", "filter=filtered"),
                ("processed", "filter=processed"),
            ];
            let mut attributes = "pipeline.lock diff=told\nfile.merged merge=merged\n".to_string();
            for (file, driver) in drivers {
                attributes.push_str(&format!("file.{file} {driver}\n"));
                fs::write(repository.join(format!("file.{file}")), "first\n").unwrap();
            }
            fs::write(repository.join("file.merged"), "first\n").unwrap();
            fs::write(repository.join(".gitattributes"), attributes).unwrap();
            trapped.commit("first");
            trapped.git(&["checkout", "-qb", "side"]);
            fs::write(repository.join("file.merged"), "side\n").unwrap();
            trapped.commit("side");
            trapped.git(&["checkout", "-q", "main"]);
            fs::write(repository.join("file.merged"), "main\n").unwrap();
            fs::write(repository.join("deep/pipeline.lock"), "second\n").unwrap();
            trapped.commit("second");
            trapped.git(&["worktree", "add", "-q", "--detach", "../other"]);
            let lost = trapped.git(&["rev-parse", "HEAD:file.lost"]);
            let trapped = Self { lost, ..trapped };
            trapped.arm();
            trapped
        }

        fn arm(&self) {
            let repository = self.repository();
            let hooks = repository.join("hooks");
            fs::create_dir(&hooks).unwrap();
            for hook in ["post-index-change", "reference-transaction", "pre-commit", "post-checkout"] {
                for folder in [&hooks, &repository.join(".git/hooks")] {
                    fs::create_dir_all(folder).unwrap();
                    fs::write(folder.join(hook), format!("#!/bin/sh\n{}\n", self.note("hooks"))).unwrap();
                    fs::set_permissions(folder.join(hook), fs::Permissions::from_mode(0o755)).unwrap();
                }
            }
            let mut set = vec![("core.hooksPath".to_string(), hooks.display().to_string())];
            for (way, names) in TRAPS {
                let begins = if *way == "alias" || *way == "credential" { "!" } else { "" };
                set.extend(names.iter().map(|name| (name.to_string(), format!("{begins}{}", self.note(way)))));
            }
            let other = repository.display().to_string();
            for (name, value) in [
                ("core.repositoryFormatVersion", "1"),
                ("extensions.partialClone", "lazy"),
                ("remote.lazy.url", &other),
                ("remote.lazy.promisor", "true"),
                ("remote.ext.url", &format!("ext::{}", self.note("ext"))),
                ("protocol.ext.allow", "always"),
                ("remote.ssh.url", "ssh://nowhere/x"),
                ("remote.proxy.url", "git://nowhere.invalid/x"),
                ("diff.tool", "trap"),
                ("difftool.prompt", "false"),
                ("log.showSignature", "true"),
                ("gc.auto", "1"),
            ] {
                set.push((name.to_string(), value.to_string()));
            }
            for (name, value) in set {
                self.git(&["config", &name, &value]);
            }
            self.git(&["init", "-q", "--bare", "../bare"]);
            let alternates = self.temp.path().join("bare/objects").display().to_string();
            fs::write(repository.join(".git/objects/info/alternates"), format!("{alternates}\n")).unwrap();
        }

        fn repository(&self) -> PathBuf {
            self.temp.path().join("repository")
        }

        fn fired_folder(&self) -> PathBuf {
            self.temp.path().join("fired")
        }

        /// A program that notes that a way was taken: a file, since git starts some without a shell.
        fn note(&self, way: &str) -> String {
            let script = self.temp.path().join(format!("note-{way}"));
            fs::write(&script, format!("#!/bin/sh\ntouch {}/{way}\n", self.fired_folder().display())).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            script.display().to_string()
        }

        fn fired(&self) -> BTreeSet<String> {
            let fired = fs::read_dir(self.fired_folder()).unwrap();
            fired.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }

        /// As a person would type it; whether it ends well is the trap's.
        fn git(&self, arguments: &[&str]) -> String {
            self.git_told(arguments, "")
        }

        fn git_told(&self, arguments: &[&str], input: &str) -> String {
            let mut command = Command::new("git");
            command.arg("-C").arg(self.repository()).args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(arguments);
            if arguments == ["init", "-q", "-b", "main"] {
                command = Command::new("git");
                command.args(arguments).arg(self.repository());
            }
            command.env("GIT_TERMINAL_PROMPT", "0").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            // Who does not read it is told nothing.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            let output = child.wait_with_output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim().to_string()
        }

        fn commit(&self, text: &str) {
            self.git(&["add", "-A"]);
            self.git(&["commit", "-qm", text]);
        }

        fn lose_a_blob(&self) {
            let (folder, name) = self.lost.split_at(2);
            fs::remove_file(self.repository().join(".git/objects").join(folder).join(name)).unwrap();
        }
    }

    #[test]
    fn each_trap_of_a_repository_starts_its_program_when_a_person_calls_git() {
        let trapped = Trapped::new();
        fs::write(trapped.repository().join("file.compared"), "second\n").unwrap();
        trapped.git(&["hash-object", "--path", "file.processed", "file.processed"]);
        assert!(trapped.fired().contains("process"), "{:?}", trapped.fired());
        // What it stands in the way of comes after it.
        trapped.git(&["config", "--unset", "filter.processed.process"]);
        for (way, arguments) in [
            ("fsmonitor", &["status"][..]),
            ("hooks", &["update-ref", "refs/heads/further", "HEAD"]),
            ("editor", &["commit", "--allow-empty"]),
            ("pager", &["grep", "-O", "first"]),
            ("alias", &["trap"]),
            ("textconv", &["log", "-p", "--no-ext-diff"]),
            ("diff", &["diff", "--ext-diff"]),
            ("filter", &["hash-object", "--path", "file.filtered", "file.filtered"]),
            ("merge", &["merge-tree", "--write-tree", "main", "side"]),
            ("difftool", &["difftool", "HEAD^", "--", "file.merged"]),
            ("gpg", &["commit", "--allow-empty", "-S", "-m", "x", "--no-verify"]),
            ("alternates", &["rev-list", "--alternate-refs"]),
            ("trailer", &["interpret-trailers", "--trailer", "trap=x"]),
            ("ssh", &["fetch", "ssh"]),
            ("proxy", &["fetch", "proxy"]),
            ("ext", &["fetch", "ext"]),
        ] {
            trapped.git(arguments);
            assert!(trapped.fired().contains(way), "{way}: {:?}", trapped.fired());
        }
        trapped.git_told(&["credential", "fill"], "protocol=https\nhost=nowhere\n\n");
        trapped.lose_a_blob();
        trapped.git(&["cat-file", "blob", &trapped.lost]);
        for way in ["credential", "askpass", "partial"] {
            assert!(trapped.fired().contains(way), "{way}: {:?}", trapped.fired());
        }
    }

    #[test]
    fn no_trap_of_a_repository_starts_its_program_when_we_call_git() {
        let trapped = Trapped::new();
        fs::remove_dir_all(trapped.fired_folder()).unwrap();
        fs::create_dir(trapped.fired_folder()).unwrap();
        for is_whole in [true, false] {
            if !is_whole {
                trapped.lose_a_blob();
            }
            for folder in [trapped.repository(), trapped.repository().join("deep"), trapped.temp.path().join("other")] {
                let repository = Repository(&folder);
                let mut texts = BTreeSet::new();
                let mut see = |text: &[u8]| texts.extend([String::from_utf8(text.to_vec()).unwrap()]);
                assert_eq!(repository.work_trees().unwrap().len(), 2);
                repository.each_committed_lock(std::slice::from_ref(&folder), &mut see).unwrap();
                repository.each_staged_lock(&mut see).unwrap();
                assert!(texts.contains("first\n") && texts.contains("second\n"), "{texts:?}");
                assert!(repository.commit("side").is_ok());
                assert_eq!(Repository(&trapped.repository()).show("HEAD", "file.lost").is_ok(), is_whole);
            }
        }
        assert_eq!(trapped.fired(), BTreeSet::new());
    }

    #[test]
    fn a_program_called_git_in_the_folder_is_not_taken_for_git() {
        let found = program().unwrap();
        assert!(found.is_absolute() && found.ends_with("git"), "{found:?}");
    }
}
