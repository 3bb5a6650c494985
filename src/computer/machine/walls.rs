//! Walls around this process, kept by the kernel's Landlock: from then on it writes below some folders alone and starts some programs alone,
//! whatever else goes wrong in it. They bind the thread that raises them and all that it starts, for good. Unaware of what a command needs.
//!
//! A program that may be started is one file; the loader that the kernel starts in front of it may be started too, and can start any other:
//! Landlock does not ask what a loader maps. So only where no program may be started, none can be. What a file is read for is not
//! restricted.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    path_beneath_rules,
};

/// With this version (Linux 5.19) a file may be renamed from one folder to another; without, no cache could be written.
const NEEDED: ABI = ABI::V2;
/// The last version with further rights to write to files and folders (Linux 6.2); they are taken where the kernel knows them.
const WANTED: ABI = ABI::V3;

/// Written to whatever a program does: what is written there is gone, or on the user's screen.
const DEVICES: &[&str] = &["/dev/null", "/dev/tty"];

/// Why there are no walls.
#[derive(Debug, thiserror::Error)]
pub enum NoWalls {
    #[error("this kernel has no Landlock, or one of before Linux 5.19: {0}")]
    Kernel(RulesetError),
    #[error("{0}")]
    Broken(String),
}

/// Which programs may be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programs {
    /// These files. One that is not there is none.
    These(Vec<PathBuf>),
    /// Any, because one of those that are needed is a script, and nobody knows what it starts.
    Any { script: PathBuf },
}

impl Programs {
    /// With the loaders of the files.
    pub fn these(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut all = Vec::new();
        for file in files {
            match loader_of(&file) {
                // What cannot be read cannot be started either.
                Err(_) => continue,
                Ok(Loader::Script) => return Self::Any { script: file },
                Ok(Loader::File(loader)) => all.push(loader),
                Ok(Loader::None) => {}
            }
            all.push(file);
        }
        Self::These(all)
    }
}

/// Raises the walls, before another thread is started: this one writes below `writable` alone, as far as that is there, and starts
/// `programs` alone.
///
/// # Errors
/// If the kernel has no such walls. Then nothing is changed.
pub fn raise(writable: &[PathBuf], programs: &Programs) -> Result<(), NoWalls> {
    let starts = match programs {
        Programs::These(_) => AccessFs::Execute.into(),
        Programs::Any { .. } => landlock::BitFlags::EMPTY,
    };
    let handled = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_write(NEEDED) | starts)
        .and_then(|ruleset| ruleset.set_compatibility(CompatLevel::BestEffort).handle_access(AccessFs::from_write(WANTED)))
        .and_then(Ruleset::create)
        .map_err(NoWalls::Kernel)?;
    let raised = handled
        .add_rules(path_beneath_rules(writable, AccessFs::from_write(WANTED)))
        .and_then(|ruleset| ruleset.add_rules(path_beneath_rules(DEVICES, AccessFs::WriteFile | AccessFs::Truncate)))
        .and_then(|ruleset| match programs {
            Programs::These(files) => ruleset.add_rules(path_beneath_rules(files, AccessFs::Execute)),
            Programs::Any { .. } => Ok(ruleset),
        })
        .and_then(|ruleset| ruleset.restrict_self());
    // The kernel has walls, as `create` has just shown.
    raised.map(drop).map_err(|error| NoWalls::Broken(format!("they were not raised: {error}")))
}

enum Loader {
    None,
    File(PathBuf),
    Script,
}

/// What the kernel starts in front of a program: the ELF header's PT_INTERP, or what follows `#!`.
fn loader_of(program: &Path) -> io::Result<Loader> {
    const ELF64_LITTLE: &[u8] = b"\x7fELF\x02\x01";
    const PT_INTERP: u32 = 3;
    let file = File::open(program)?;
    let mut header = [0; 64];
    let length = (&file).take(64).read(&mut header)?;
    if header[..length].starts_with(b"#!") {
        return Ok(Loader::Script);
    }
    if length < 64 || !header.starts_with(ELF64_LITTLE) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes were taken"));
    let short = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    // Where the program headers begin, their size and their number.
    let (begin, size, count) = (number(&header, 32), short(54), short(56));
    for index in 0..count {
        let mut entry = [0; 56];
        file.read_exact_at(&mut entry, begin + index * size)?;
        if entry[..4] == PT_INTERP.to_le_bytes() {
            let mut name = vec![0; usize::try_from(number(&entry, 32)).unwrap_or(usize::MAX).min(4096)];
            file.read_exact_at(&mut name, number(&entry, 8))?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            return Ok(Loader::File(PathBuf::from(std::ffi::OsStr::from_bytes(name))));
        }
    }
    Ok(Loader::None)
}

/// What was found when walls were raised and run against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// They hold.
    Held,
    /// They hold what is written; any program can be started, because this one is a script.
    HeldForFiles { script: PathBuf },
    /// The kernel has none. Why.
    None(String),
    /// They were raised and do not hold. What went through, or what they keep back that they must not.
    Broken(String),
}

/// Raises walls around a thread of its own and runs against them.
pub fn trial(programs: &Programs) -> Trial {
    let programs = programs.clone();
    let tried = thread::spawn(move || try_walls(&programs)).join();
    match tried {
        Ok(Ok(trial)) => trial,
        Ok(Err(NoWalls::Kernel(error))) => Trial::None(error.to_string()),
        Ok(Err(NoWalls::Broken(what))) => Trial::Broken(what),
        Err(_) => Trial::Broken("the trial broke down".to_string()),
    }
}

fn try_walls(programs: &Programs) -> Result<Trial, NoWalls> {
    let broken = |error: io::Error| NoWalls::Broken(format!("no place to try them: {error}"));
    let folder = tempfile::tempdir().map_err(broken)?;
    let [inside, outside] = ["inside", "outside"].map(|name| folder.path().join(name));
    for place in [&inside, &outside] {
        fs::create_dir(place).map_err(broken)?;
    }
    // The folder is taken away by the thread that made it, which has no walls: this one hands it back by ending.
    let (inside_file, outside_file) = (inside.join("file"), outside.join("file"));
    let programs = programs.clone();
    thread::spawn(move || {
        raise(&[inside], &programs)?;
        let starts = |program: &Path| {
            let mut command = Command::new(program);
            command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok()
        };
        fs::write(inside_file, "x").map_err(|error| NoWalls::Broken(format!("writing where it is allowed: {error}")))?;
        if fs::write(outside_file, "x").is_ok() {
            return Err(NoWalls::Broken("a file was written outside".to_string()));
        }
        let Programs::These(files) = &programs else {
            let Programs::Any { script } = programs else { unreachable!("it is one of two") };
            return Ok(Trial::HeldForFiles { script });
        };
        if starts(Path::new("/bin/sh")) {
            return Err(NoWalls::Broken("a shell was started".to_string()));
        }
        match files.last().filter(|program| !starts(program)) {
            Some(program) => Err(NoWalls::Broken(format!("`{}` does not start", program.display()))),
            None => Ok(Trial::Held),
        }
    })
    .join()
    .unwrap_or_else(|_| Err(NoWalls::Broken("the trial broke down".to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walls_hold_here_or_the_kernel_has_none() {
        let git = Programs::these([PathBuf::from("/usr/bin/env")]);
        for programs in [git, Programs::These(Vec::new())] {
            let trial = trial(&programs);
            assert!(matches!(trial, Trial::Held | Trial::None(_)), "{programs:?}: {trial:?}");
        }
    }

    #[test]
    fn a_script_may_start_anything_and_what_is_no_program_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name)
        };
        let script = at("script", "#!/bin/sh\n");
        assert_eq!(Programs::these([script.clone()]), Programs::Any { script });
        assert_eq!(Programs::these([at("text", "text"), folder.path().join("none")]), Programs::These(Vec::new()));
        let Programs::These(files) = Programs::these([std::env::current_exe().unwrap()]) else { panic!("it is no script") };
        assert!(files.len() == 2 && files[0].is_file(), "{files:?}");
    }
}
