//! Disturbs the example and compares what comes of it, byte for byte, with an undisturbed run.
//!
//! ```text
//! cargo bench --bench interruptions -- kills [TIMES=20] [SEED=1]   kill -9 at random moments, each time the same command again
//! cargo bench --bench interruptions -- disk                        a disk that is full again and again (root: mounts a tmpfs)
//! ```
//!
//! Prints what happened and ends with exit code 1 if a file differs or an error does not say what is wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use loramill::engine::cache::digest::Digest;
use loramill::sd::random::Generator;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tiny");
const MEBIBYTE: u64 = 1 << 20;

fn main() -> Result<()> {
    let given: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |place: usize, default: u64| given.get(place).map_or(Ok(default), |text| text.parse());
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let undisturbed = Concept::in_folder(tempfile::tempdir_in(target)?.keep())?;
    let began = Instant::now();
    let output = undisturbed.command().output()?;
    ensure!(output.status.success(), "the undisturbed run failed: {}", said(&output));
    let length = began.elapsed();
    println!("undisturbed: {:.0} s", length.as_secs_f64());
    let expected = undisturbed.files()?;
    fs::remove_dir_all(&undisturbed.folder)?;
    match given.first().map(String::as_str) {
        Some("kills") => kills(target, &expected, length, number(1, 20)?, number(2, 1)?),
        Some("disk") => full_disk(target, &expected),
        _ => bail!("say `kills` or `disk`"),
    }
}

/// A copy of the example with a cache of its own.
struct Concept {
    folder: PathBuf,
}

impl Concept {
    fn in_folder(folder: PathBuf) -> Result<Self> {
        let status = Command::new("cp")
            .args(["-r", "--"])
            .args(["images", "models", "pipeline.yaml"].map(|name| format!("{EXAMPLE}/{name}")))
            .arg(&folder)
            .status()?;
        ensure!(status.success(), "the example could not be copied to `{}`", folder.display());
        Ok(Self { folder })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loramill"));
        command.args(["run", "--cache", "cache", "."]).current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    /// What a run leaves for the user: the digest of each file.
    fn files(&self) -> Result<BTreeMap<PathBuf, Digest>> {
        let mut files = BTreeMap::new();
        for part in ["pipeline.lock", "captions", "out"] {
            for entry in walkdir::WalkDir::new(self.folder.join(part)) {
                let entry = entry?;
                if entry.file_type().is_file() {
                    files.insert(entry.path().strip_prefix(&self.folder)?.to_path_buf(), Digest::of(&fs::read(entry.path())?));
                }
            }
        }
        Ok(files)
    }

    fn compare(&self, expected: &BTreeMap<PathBuf, Digest>) -> Result<()> {
        let found = self.files()?;
        let names = expected.keys().chain(found.keys());
        if let Some(name) = names.into_iter().find(|name| expected.get(*name) != found.get(*name)) {
            bail!("`{}` is not as after an undisturbed run; all is kept in `{}`", name.display(), self.folder.display());
        }
        println!("{} files, all as after an undisturbed run", found.len());
        Ok(())
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn kills(target: &Path, expected: &BTreeMap<PathBuf, Digest>, length: Duration, times: u64, seed: u64) -> Result<()> {
    let mut chance = Generator::new(seed);
    let mut killed = 0;
    while killed < times {
        let concept = Concept::in_folder(tempfile::tempdir_in(target)?.keep())?;
        loop {
            // Up to a quarter of a run, so that several kills fall into one and it still gets on.
            let moment = if killed < times { Some(length.mul_f64(f64::from(chance.uniform(1)[0]) / 4.0)) } else { None };
            let mut child = concept.command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
            if let Some(moment) = moment {
                thread::sleep(moment);
                if child.try_wait()?.is_none() {
                    child.kill()?;
                    child.wait()?;
                    killed += 1;
                    println!("killed after {:.1} s ({killed} of {times})", moment.as_secs_f64());
                    continue;
                }
            }
            let output = child.wait_with_output()?;
            ensure!(output.status.success(), "a run after {killed} kills failed: {}", said(&output));
            break;
        }
        concept.compare(expected)?;
        fs::remove_dir_all(&concept.folder)?;
    }
    Ok(())
}

fn full_disk(target: &Path, expected: &BTreeMap<PathBuf, Digest>) -> Result<()> {
    let folder = tempfile::tempdir_in(target)?;
    // The example's own files take 15 MiB.
    let mut size = 16 * MEBIBYTE;
    let disk = Disk::mount(folder.path(), size)?;
    let concept = Concept::in_folder(folder.path().to_path_buf())?;
    let mut failures = 0;
    loop {
        let output = concept.command().output()?;
        if output.status.success() {
            break;
        }
        let message = said(&output);
        let error = message.lines().rev().find(|line| line.contains("No space left on device")).unwrap_or_default().trim();
        ensure!(
            output.status.code() == Some(1) && error.contains('`'),
            "{size} bytes: the error does not say where the disk is full:\n{message}"
        );
        failures += 1;
        println!("{:3} MiB: {error}", size / MEBIBYTE);
        size += size / 16;
        disk.resize(size)?;
    }
    println!("{failures} runs met a full disk; {} MiB were enough", size / MEBIBYTE);
    concept.compare(expected)
}

/// A file system in memory, unmounted at the end.
struct Disk<'a> {
    folder: &'a Path,
}

impl<'a> Disk<'a> {
    fn mount(folder: &'a Path, size: u64) -> Result<Self> {
        mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "none"], folder)?;
        Ok(Self { folder })
    }

    fn resize(&self, size: u64) -> Result<()> {
        mount(&["-o", &format!("remount,size={size}")], self.folder)
    }
}

fn mount(arguments: &[&str], folder: &Path) -> Result<()> {
    let status = Command::new("mount").args(arguments).arg(folder).status().context("starting `mount`")?;
    ensure!(status.success(), "`mount` failed: this needs root");
    Ok(())
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.folder).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            println!("`{}` is still mounted: unmount it", self.folder.display());
        }
    }
}
