//! Does what a plan says: gathers the members beside the folder, checks each against its hash, and puts the folder in its place when all of
//! it is there. What is checked already stays for the next attempt. Unaware of the console.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::computer::libtorch::archive::WheelFile;
use crate::computer::libtorch::client::Client;
use crate::computer::libtorch::folder::{self, Depth, Extent, MANIFEST, Manifest, Origin, Standing, WHEELS, partial_of};
use crate::computer::libtorch::index::Place;
use crate::computer::libtorch::pins::TORCH;
use crate::computer::libtorch::plan::{Opened, Plan, Way, open};
use crate::computer::libtorch::record::Member;
use crate::computer::libtorch::remote_file::{Probe, Travelled, download};
use crate::computer::libtorch::sha256::{Hasher, Sha256};
use crate::computer::libtorch::wheel::Wheel;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have travelled.
    pub travelled: u64,
    /// Bytes that were unpacked and checked.
    pub unpacked: u64,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes that have travelled.
    pub travelled: u64,
    /// What the folder has now.
    pub extent: Extent,
}

/// Free bytes where a folder is, or would be made; `None` if the system does not say.
pub fn free_space(folder: &Path) -> Option<u64> {
    let absolute = std::path::absolute(folder).ok()?;
    let there = absolute.ancestors().find(|ancestor| ancestor.exists())?;
    let found = rustix::fs::statvfs(there).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Does what the plan says; `watch` is called often.
///
/// # Errors
/// A file is not what was published, `NetworkTrouble`, a full disk, another process at the same folder. What was checked stays in
/// `DIR.partial`.
pub fn fetch(plan: Plan, watch: &mut dyn FnMut(Progress)) -> Result<Fetched> {
    let partial = partial_of(&plan.into);
    if let Some(parent) = plan.into.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making `{}`", parent.display()))?;
    }
    if plan.damage.is_some() {
        take_up_damaged(&plan.into, &partial)?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("making `{}`", partial.display()))?;
    let _lock = lock(&partial)?;
    // Another process may have finished between the plan and the lock.
    if let Standing::Complete(extent) = folder::standing(&plan.into, &plan.release, Depth::Sizes)? {
        remove_folder(&partial)?;
        return Ok(Fetched { travelled: plan.travelled.get(), extent });
    }
    check_space(&partial, plan.disk())?;
    let mut work = Work { partial: &partial, buffer: vec![0; 256 << 10], unpacked: 0, travelled: &plan.travelled, watch };
    let mut origins = Vec::with_capacity(plan.steps.len());
    for step in plan.steps {
        let from = step.place.to_string();
        let (file, record, pinned) = (step.wheel.file.clone(), step.wheel.record_path(), step.wheel.pin.is_some());
        let mut opened = match step.way {
            Way::Members(opened) => opened,
            Way::Whole { probe, sha256, .. } => work.whole(&plan.client, &step.wheel, &step.place, probe, sha256)?,
        };
        work.take(&mut opened, &from)?;
        work.write(&record, &opened.record)?;
        origins.push(Origin { file, from, record_sha256: Sha256::of(&opened.record).to_string(), pinned });
    }
    for (path, text) in &plan.release.written {
        work.write(path, text.as_bytes())?;
    }
    remove_folder(&partial.join(WHEELS))?;
    let manifest = Manifest { flavour: plan.release.flavour.word().to_string(), torch: TORCH.to_string(), wheels: origins };
    work.write(MANIFEST, &serde_json::to_vec_pretty(&manifest)?)?;
    let extent = match folder::standing(&partial, &plan.release, Depth::Sizes)? {
        Standing::Complete(extent) => extent,
        Standing::Absent => bail!("`{}` was taken away while it was filled: run again", partial.display()),
        Standing::Damaged(what) => bail!("{what} in `{}`, which was changed while it was filled: run again", partial.display()),
    };
    fs::rename(&partial, &plan.into).with_context(|| format!("renaming `{}` to `{}`", partial.display(), plan.into.display()))?;
    Ok(Fetched { travelled: plan.travelled.get(), extent })
}

/// A damaged folder is an unfinished one.
fn take_up_damaged(into: &Path, partial: &Path) -> Result<()> {
    if partial.exists() {
        let _lock = lock(partial)?;
        remove_folder(partial)?;
    }
    let taking = || format!("renaming `{}` to `{}`", into.display(), partial.display());
    fs::rename(into, partial).with_context(taking)?;
    fs::remove_file(partial.join(MANIFEST)).with_context(taking)
}

/// The kernel releases it when the process ends, however it ends.
fn lock(partial: &Path) -> Result<File> {
    let folder = File::open(partial).with_context(|| format!("opening `{}`", partial.display()))?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => bail!("another `loramill libtorch` is filling `{}`: wait for it", partial.display()),
        // There are file systems without locks, and hardly anybody who fetches twice at once.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(folder),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking `{}`", partial.display())),
    }
}

fn check_space(folder: &Path, needed: u64) -> Result<()> {
    if let Some(free) = free_space(folder) {
        ensure!(
            free >= needed,
            "`{}` has {free} bytes free, and {needed} are needed: free space there, or name another folder with `--into`",
            folder.display()
        );
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing `{}`", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Filling a folder.
struct Work<'a> {
    partial: &'a Path,
    buffer: Vec<u8>,
    unpacked: u64,
    travelled: &'a Travelled,
    watch: &'a mut dyn FnMut(Progress),
}

impl Work<'_> {
    /// Fetches a whole wheel, checks it and opens it.
    fn whole(&mut self, client: &Client, wheel: &Wheel, place: &Place, probe: Probe, sha256: Sha256) -> Result<Opened> {
        let Place::Url(url) = place else { bail!("`{place}` is here already") };
        let folder = self.partial.join(WHEELS);
        fs::create_dir_all(&folder).with_context(|| format!("making `{}`", folder.display()))?;
        let path = folder.join(&wheel.file);
        let reading = || format!("reading `{}`", path.display());
        let is_there = path.metadata().is_ok_and(|found| Some(found.len()) == probe.size);
        if !is_there || Sha256::of_file(&path).with_context(reading)? != sha256 {
            let (travelled, unpacked, watch) = (self.travelled, self.unpacked, &mut *self.watch);
            download(client, url, probe, &path, travelled, &mut || watch(Progress { travelled: travelled.get(), unpacked }))?;
            let found = Sha256::of_file(&path).with_context(reading)?;
            if found != sha256 {
                fs::remove_file(&path).with_context(|| format!("removing `{}`", path.display()))?;
                bail!(
                    "`{}` from `{place}` is not what was published: its SHA-256 is {found}, expected is {sha256}; run again, or name \
                     another place with `--from`",
                    wheel.file
                );
            }
        }
        let file = File::open(&path).with_context(reading)?;
        let opened = open(WheelFile::Local(file), wheel, place, self.partial)?;
        check_space(self.partial, opened.missing().bytes)?;
        Ok(opened)
    }

    /// Takes what is missing out of a wheel.
    fn take(&mut self, opened: &mut Opened, from: &str) -> Result<()> {
        let mut spans = opened.spans().into_iter();
        let mut announced = 0..0;
        for (member, packed) in std::mem::take(&mut opened.missing) {
            if !announced.contains(&packed.span.start) {
                announced = spans.next().unwrap_or_else(|| packed.span.clone());
                opened.archive.announce(announced.clone());
            }
            let place = || format!("taking `{}` from `{from}`", member.path);
            let mut bytes = opened.archive.read(&packed).with_context(place)?;
            self.unpack(&mut *bytes, &member, from)?;
        }
        Ok(())
    }

    /// Writes a member and checks it on the way; one that is wrong does not stay.
    fn unpack(&mut self, bytes: &mut dyn Read, member: &Member, from: &str) -> Result<()> {
        let path = self.partial.join(&member.path);
        let writing = || format!("writing `{}`", path.display());
        let mut file = create(&path).with_context(writing)?;
        let (mut hasher, mut left) = (Hasher::default(), member.size);
        loop {
            let count = bytes.read(&mut self.buffer).with_context(|| format!("taking `{}` from `{from}`", member.path))?;
            if count == 0 || count as u64 > left {
                left = if count == 0 { left } else { u64::MAX };
                break;
            }
            hasher.update(&self.buffer[..count]);
            file.write_all(&self.buffer[..count]).with_context(writing)?;
            left -= count as u64;
            self.unpacked += count as u64;
            (self.watch)(Progress { travelled: self.travelled.get(), unpacked: self.unpacked });
        }
        let found = hasher.finish();
        if left == 0 && found == member.sha256 {
            return Ok(());
        }
        fs::remove_file(&path).with_context(|| format!("removing `{}`", path.display()))?;
        let what = match left {
            0 => format!("its SHA-256 is {found}, by RECORD {}", member.sha256),
            u64::MAX => format!("it has more than the {} bytes of RECORD", member.size),
            left => format!("it ends {left} bytes before the {} of RECORD", member.size),
        };
        bail!("`{}` from `{from}` is not what was published: {what}; run again, or name another place with `--from`", member.path)
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let path = self.partial.join(path);
        create(&path).and_then(|mut file| file.write_all(bytes)).with_context(|| format!("writing `{}`", path.display()))
    }
}

/// A new file, in place of one that may lie there: never through a link.
fn create(path: &PathBuf) -> std::io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new().write(true).create_new(true).open(path)
}
