//! What strace saw of a command: programs started, files opened, made, moved and deleted, connections. Says which of these are harm.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::hostile::attempt::set_environment;
use crate::hostile::ground::Ground;

/// System calls that start, open, make, move, change or delete something by its path, or speak to another machine. An older strace does not
/// know the one with a question mark.
const WATCHED: &str = "execve,execveat,open,openat,openat2,creat,unlink,unlinkat,rmdir,rename,renameat,renameat2,mkdir,mkdirat,link,\
                       linkat,symlink,symlinkat,mknod,mknodat,truncate,chmod,fchmodat,?fchmodat2,chown,lchown,fchownat,utimensat,\
                       setxattr,mount,connect,chdir,fchdir";

/// The words of a command line that runs `program` under strace, which writes one log for each thread below `logs`.
pub fn strace(program: &Path, logs: &Path) -> Vec<OsString> {
    let watched = format!("trace={WATCHED}");
    let words = ["strace", "-ff", "--seccomp-bpf", "-qq", "-y", "-xx", "-s", "8192", "-e", &watched, "-o"];
    let mut words: Vec<OsString> = words.iter().map(OsString::from).collect();
    words.extend([logs.join("log").into(), "--".into(), program.into()]);
    words
}

/// Whether strace works here, and harm is seen: a shell does one of each kind.
///
/// # Panics
/// If it does not, and what was seen.
pub fn try_the_judge(ground: &Ground) {
    let logs = tempfile::tempdir().expect("a temporary folder");
    let shell = Path::new("/bin/sh");
    let script =
        "cat ../victim/secret.txt; touch ../made; rm -f ../victim/X.lock; mkdir ../victim/folder; mv ../victim/7 ../victim/8";
    let words = strace(shell, logs.path());
    let mut command = Command::new(&words[0]);
    set_environment(&mut command, &ground.project(), &ground.home(), &ground.tmp());
    let output = command.args(&words[1..]).args(["-c", script]).output().expect("strace is not there: install it");
    assert!(output.status.success(), "strace does not work here: {}", String::from_utf8_lossy(&output.stderr));
    let found = harm(ground, logs.path(), shell, false).join("\n");
    let [victim, root] = [ground.victim(), ground.root().to_path_buf()].map(|path| path.display().to_string());
    for expected in [
        "ran `/usr/bin/cat`".to_string(),
        format!("read `{victim}/secret.txt`"),
        format!("opened `{root}/made` for writing"),
        format!("unlinkat `{victim}/X.lock`"),
        format!("mkdir `{victim}/folder`"),
        format!("`{victim}/7`"),
    ] {
        assert!(found.replace("`/bin/", "`/usr/bin/").contains(&expected), "`{expected}` was not seen, only:\n{found}");
    }
}

/// The harm that the logs tell of.
pub fn harm(ground: &Ground, logs: &Path, program: &Path, may_read: bool) -> Vec<String> {
    let judge = Judge {
        own: [ground.project(), ground.tmp(), ground.root().join("said")],
        victim: ground.victim(),
        root: ground.root().to_path_buf(),
        project: ground.project(),
        program,
        may_read,
    };
    let mut found = Vec::new();
    let mut entries: Vec<PathBuf> =
        fs::read_dir(logs).expect("strace wrote there").map(|entry| entry.expect("readable").path()).collect();
    entries.sort();
    for log in entries {
        let text = fs::read_to_string(&log).expect("hexadecimal is text");
        let mut folder = judge.project.clone();
        found.extend(text.lines().filter_map(Call::parse).filter_map(|call| judge.look(&call, &mut folder)));
    }
    found.sort();
    found.dedup();
    found
}

struct Judge<'a> {
    /// Where the command may write.
    own: [PathBuf; 3],
    victim: PathBuf,
    root: PathBuf,
    project: PathBuf,
    program: &'a Path,
    may_read: bool,
}

impl Judge<'_> {
    /// What is wrong with a call, if anything is. `folder` is the folder that the thread is in.
    fn look(&self, call: &Call, folder: &mut PathBuf) -> Option<String> {
        if let Some(here) = call.arguments.iter().find_map(Word::current_folder) {
            *folder = here.to_path_buf();
        }
        if !call.is_done {
            // Git looks for itself in each folder of PATH; nothing else is even looked for.
            return (call.name == "execve" && !self.may_start(&call.paths(folder)))
                .then(|| format!("tried to run {}", call.shown(folder)));
        }
        let paths = call.paths(folder);
        match call.name {
            "execve" | "execveat" => (!self.may_start(&paths)).then(|| format!("ran {}", call.shown(folder))),
            "chdir" => {
                *folder = paths.into_iter().next()?;
                None
            }
            "fchdir" => None,
            "connect" => call.text.contains("AF_INET").then(|| "spoke to the network".to_string()),
            "open" | "openat" | "openat2" | "creat" => self.opened(call, &paths),
            _ => {
                let outside = real(paths.iter().find(|path| !self.is_own(path))?);
                // A program that is refused a change of a standard stream's mode tries it by this name.
                (!outside.starts_with("/dev/") && !outside.starts_with("/proc/"))
                    .then(|| format!("{} `{}`", call.name, outside.display()))
            }
        }
    }

    fn may_start(&self, paths: &[PathBuf]) -> bool {
        let Some(path) = paths.first() else { return false };
        // What a project calls git is none.
        path == self.program || (path.file_name().is_some_and(|name| name == "git") && !path.starts_with(&self.root))
    }

    fn opened(&self, call: &Call, paths: &[PathBuf]) -> Option<String> {
        let path = call.result.as_deref().or(paths.first().map(PathBuf::as_path))?;
        let writes =
            call.name == "creat" || ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|flag| call.text.contains(flag));
        let is_special = path.starts_with("/dev") || path.starts_with("/proc");
        if writes && !self.is_own(path) && !is_special {
            return Some(format!("opened `{}` for writing", path.display()));
        }
        let reads = !call.text.contains("O_PATH") && !call.text.contains("O_DIRECTORY");
        (reads && path.starts_with(&self.victim) && !self.may_read).then(|| format!("read `{}`", path.display()))
    }

    fn is_own(&self, path: &Path) -> bool {
        let real = real(path);
        self.own.iter().any(|own| real.starts_with(own))
    }
}

/// Where the last part of a path really lies: links are followed as they stand now.
fn real(path: &Path) -> PathBuf {
    let Some((parent, name)) = path.parent().zip(path.file_name()) else { return path.to_path_buf() };
    if let Ok(parent) = fs::canonicalize(parent) {
        return parent.join(name);
    }
    // What was made and has gone again: by the text of its path.
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

/// One line of a log.
struct Call<'a> {
    name: &'a str,
    text: &'a str,
    is_done: bool,
    arguments: Vec<Word>,
    /// The real path of what was opened.
    result: Option<PathBuf>,
}

/// What of the arguments names a place.
#[derive(Debug)]
enum Word {
    /// An open folder, or where the process is.
    Folder {
        path: PathBuf,
        is_current: bool,
    },
    Text(PathBuf),
}

impl Word {
    fn current_folder(&self) -> Option<&Path> {
        match self {
            Self::Folder { path, is_current: true } => Some(path),
            _ => None,
        }
    }
}

impl<'a> Call<'a> {
    /// `openat(AT_FDCWD<\x2f>, "\x61", O_RDONLY) = 3<\x2f\x61>`; `None` of signals and ends.
    fn parse(line: &'a str) -> Option<Self> {
        let (name, rest) = line.split_once('(')?;
        let (text, result) = rest.rsplit_once(" = ")?;
        // The arguments of a program are no places, only its path is.
        let places = if name.starts_with("exec") { text.split_once(", [").map_or(text, |(place, _)| place) } else { text };
        Some(Self {
            name,
            text,
            is_done: !result.starts_with('-'),
            arguments: words(places),
            result: words(result).pop().map(Word::into_path),
        })
    }

    /// Each text below the folder in front of it.
    fn paths(&self, current: &Path) -> Vec<PathBuf> {
        let mut folder = current;
        let mut paths = Vec::new();
        for word in &self.arguments {
            match word {
                Word::Folder { path, .. } => folder = path,
                Word::Text(path) => paths.push(folder.join(path)),
            }
        }
        if matches!(self.name, "symlink" | "symlinkat") {
            // The text of the link itself.
            paths.remove(0);
        }
        paths
    }

    fn shown(&self, current: &Path) -> String {
        self.paths(current).first().map_or_else(|| "something".to_string(), |path| format!("`{}`", path.display()))
    }
}

impl Word {
    fn into_path(self) -> PathBuf {
        match self {
            Self::Folder { path, .. } | Self::Text(path) => path,
        }
    }
}

/// `AT_FDCWD<…>`, `3<…>` and `"…"` of a line, in their order.
fn words(text: &str) -> Vec<Word> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['<', '"']) {
        let is_folder = rest[at..].starts_with('<');
        let before = &rest[..at];
        let inside = &rest[at + 1..];
        let Some(end) = inside.find(if is_folder { '>' } else { '"' }) else { break };
        let path = PathBuf::from(OsString::from_vec(unescaped(&inside[..end])));
        found.push(if is_folder { Word::Folder { path, is_current: before.ends_with("AT_FDCWD") } } else { Word::Text(path) });
        rest = &inside[end + 1..];
    }
    found
}

/// `\x2f\x61` to `/a`.
fn unescaped(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).filter_map(|byte| u8::from_str_radix(byte.get(..2)?, 16).ok()).collect()
}
