//! `out/<stage>/<item>.<extension>`: the outputs of a stage under friendly names. Unaware of how they came about.
//!
//! What was written is remembered in the cache, with what `stat` says of each file, so that a run that changes nothing reads no
//! contents, and a file that a person changed or removed is told from one that is merely old.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Result, ensure};
use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::faults;
use crate::cache::place::{Place, Root};
use crate::cache::renames::rename_new;
use crate::cache::stat_index::FileStat;
use crate::cache::trouble::user_disk_trouble;
use crate::kind::item::Item;
use crate::kind::names::is_plain_path;
use crate::out::manifest::{Entry, Manifest};

/// From this size on a file is a hard link of its read-only object, if it cannot be a reflink.
const LINKED_FROM: u64 = 64 << 20;
/// So many new files are made durable one by one; more, with all that the file system has to write.
const SYNCED_ALONE: usize = 16;
/// More files of a kind are counted, not listed.
const LISTED: usize = 20;

/// Where files are written before they get their place.
const SCRATCH: &str = ".loramill-tmp";

/// What was done to a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub written: usize,
    pub removed: usize,
    /// Sentences for the user: what they removed, and what they changed and where that is now.
    pub notes: Vec<String>,
}

/// Makes `<out>/<stage>/` show `fields` of `items`; `tree` is the digest of their tree. Files that an earlier call wrote and that
/// are no longer wanted go; files that a person changed go to `<out>/.yours/`; other files stay. For runs only, under the lock of
/// the pipeline.
pub fn materialise(cache: &Cache, out: &Path, stage: &str, tree: &Digest, items: &[Item], fields: &[&str]) -> Result<Report> {
    let folder = out.join(stage);
    let manifest_place = Manifest::place(cache, &folder);
    let covers = covers(tree, fields);
    let manifest = Manifest::read(&manifest_place);
    if shows(&manifest, &folder, &covers) {
        return Ok(Report::default());
    }
    let wanted = wanted(items, fields)?;
    fs::create_dir_all(out).map_err(|error| user_disk_trouble(error, "creating", out))?;
    let root = Root::open(out).map_err(|error| user_disk_trouble(error, "opening", out))?;
    let mut work = Work::new(cache, out, stage, &root);
    if !manifest.entries.is_empty() {
        // What is about to change is forgotten first: after a kill a file that is missing is not one that the user removed.
        let changes = |entry: &&Entry| wanted.get(&entry.path).is_none_or(|want| want.digest != entry.digest);
        Manifest::forget(&manifest_place, manifest.entries.iter().filter(changes).map(|entry| entry.path.as_str()))?;
    }
    let entries = work.bring_about(&manifest, &wanted)?;
    Manifest { covers: Some(covers), entries }.write(&manifest_place)?;
    Ok(work.report())
}

/// Takes away what an earlier call wrote into `<out>/<folder>/`, which no stage shows any more. What a person changed goes to
/// `<out>/.yours/`; what lies there alone, because its stage keeps nothing, stays. Under the lock of the pipeline.
pub(crate) fn withdraw(cache: &Cache, out: &Path, folder: &str) -> Result<Report> {
    let manifest_place = Manifest::place(cache, &out.join(folder));
    let manifest = Manifest::read(&manifest_place);
    let (going, alone): (Vec<Entry>, Vec<Entry>) =
        manifest.entries.into_iter().partition(|entry| cache.contains(&entry.digest, entry.stat.size));
    if going.is_empty() {
        return Ok(Report::default());
    }
    let root = Root::open(out).map_err(|error| user_disk_trouble(error, "opening", out))?;
    let mut work = Work::new(cache, out, folder, &root);
    Manifest::forget(&manifest_place, going.iter().map(|entry| entry.path.as_str()))?;
    for entry in &going {
        if work.clear(&entry.path, Some(entry), None)? == Cleared::Ours {
            work.removed += 1;
        }
        work.remove_empty_folders(&entry.path);
    }
    // With files of others in it, or folders of variants, it stays.
    let _ = work.folder.remove_empty_folder();
    Manifest { covers: None, entries: alone }.write(&manifest_place)?;
    Ok(work.report())
}

/// Removes what a killed run left of files that it was about to show. Under the lock of the pipeline.
pub fn sweep(out: &Path) {
    // What cannot be removed now is emptied before it is used.
    let _ = Root::open(out).and_then(|root| root.place(SCRATCH).remove_all());
}

/// In bytes, of a name in most file systems.
const LONGEST_NAME: usize = 255;

/// Whether `<out>/<stage>/` shows `fields` of the items that `tree` lists, and nobody touched it: then there is nothing to do.
pub fn is_shown(cache: &Cache, out: &Path, stage: &str, tree: &Digest, fields: &[&str]) -> bool {
    let folder = out.join(stage);
    let (manifest, covers) = (Manifest::place(cache, &folder), covers(tree, fields));
    Manifest::claims(&manifest, &covers) && shows(&Manifest::read(&manifest), &folder, &covers)
}

fn shows(manifest: &Manifest, folder: &Path, covers: &Digest) -> bool {
    if manifest.covers.as_ref() != Some(covers) {
        return false;
    }
    let Ok(folder) = opened(folder) else { return manifest.entries.is_empty() };
    manifest.entries.par_iter().with_min_len(256).all(|entry| is_untouched(&folder, entry))
}

/// From an open folder the kernel finds a file without walking the way to it, and there may be many.
fn opened(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder, flags, Mode::empty())?)
}

/// Stands for what a folder is to show.
fn covers(tree: &Digest, fields: &[&str]) -> Digest {
    Digest::of(format!("{tree} {}", fields.join(" ")).as_bytes())
}

/// Whether the file is as it was when it was written.
fn is_untouched(folder: &OwnedFd, entry: &Entry) -> bool {
    // Links are not followed: a link was not put there by us.
    let found = rustix::fs::statat(folder, &entry.path, AtFlags::SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_file() && entry.is_as(&FileStat::from(&found)))
}

/// Contents that a file below `out/` is to have.
pub(crate) struct Wanted {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// The item to leave out if this is not wanted.
    item: String,
}

/// The files by their path below the folder.
pub(crate) fn wanted(items: &[Item], fields: &[&str]) -> Result<BTreeMap<String, Wanted>> {
    let mut wanted = BTreeMap::new();
    for item in items {
        let plain = item.name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        ensure!(plain, "`{}` cannot be the name of a file: a part of it is empty or made of dots", item.name);
        for (field, path) in shown_as(item, fields) {
            ensure!(is_plain_path(&path), "`{path}` cannot be the name of a file: it leads out of its folder");
            let artifact = &item.fields[&field];
            let item = item.origin.as_ref().unwrap_or(&item.name).clone();
            wanted.insert(path, Wanted { digest: artifact.digest, size: artifact.size, item });
        }
    }
    Ok(wanted)
}

/// Field and path below the folder of each file that shows an item.
pub(crate) fn shown_as(item: &Item, fields: &[&str]) -> Vec<(String, String)> {
    let mut extensions = BTreeSet::new();
    let mut shown = Vec::with_capacity(fields.len());
    for field in fields {
        let Some(artifact) = item.fields.get(*field) else { continue };
        let extension = artifact.extension.as_str();
        let stem = if extensions.insert(extension) { item.name.clone() } else { format!("{}.{field}", item.name) };
        let ending = if extension.is_empty() { String::new() } else { format!(".{extension}") };
        shown.push((field.to_string(), fitting(stem, &ending)));
    }
    shown
}

/// The path of a file, its name cut and told apart by a digest where it would be too long for a disk.
fn fitting(stem: String, ending: &str) -> String {
    let start = stem.rfind('/').map_or(0, |slash| slash + 1);
    let name = &stem[start..];
    if name.len() + ending.len() <= LONGEST_NAME {
        return stem + ending;
    }
    let mark = format!("~{}", Digest::of(name.as_bytes()).short());
    let room = LONGEST_NAME.saturating_sub(ending.len() + mark.len());
    let end = (0..=room.min(name.len())).rev().find(|&end| name.is_char_boundary(end)).unwrap_or_default();
    format!("{}{mark}{ending}", &stem[..start + end])
}

/// A folder that is being brought up to date.
struct Work<'a> {
    cache: &'a Cache,
    /// As the user calls the folder: `out/resize`.
    shown: String,
    folder: Place,
    yours: Place,
    scratch: Place,
    next: AtomicU64,
    can_reflink: AtomicBool,
    written: usize,
    removed: usize,
    removed_by_user: Vec<String>,
    changed_by_user: Vec<String>,
}

impl<'a> Work<'a> {
    fn new(cache: &'a Cache, out: &Path, stage: &str, root: &Root) -> Self {
        let out_name = out.file_name().unwrap_or_default().to_string_lossy();
        Self {
            cache,
            shown: format!("{out_name}/{stage}"),
            folder: root.place(stage),
            yours: root.place(".yours").inside(stage),
            scratch: root.place(SCRATCH),
            next: AtomicU64::new(0),
            can_reflink: AtomicBool::new(true),
            written: 0,
            removed: 0,
            removed_by_user: Vec::new(),
            changed_by_user: Vec::new(),
        }
    }

    fn bring_about(&mut self, manifest: &Manifest, wanted: &BTreeMap<String, Wanted>) -> Result<Vec<Entry>> {
        // A folder that is gone as a whole was cleared away, not picked over.
        let picked_over = self.folder.is_folder();
        let known: BTreeMap<&str, &Entry> = manifest.entries.iter().map(|entry| (entry.path.as_str(), entry)).collect();

        // 1. what is no longer wanted
        for entry in manifest.entries.iter().filter(|entry| !wanted.contains_key(&entry.path)) {
            if self.clear(&entry.path, Some(entry), None)? == Cleared::Ours {
                self.removed += 1;
                self.remove_empty_folders(&entry.path);
            }
        }

        // 2. what lies there already
        let mut entries = Vec::with_capacity(wanted.len());
        let mut missing = Vec::new();
        let unchanged = self.unchanged(&known, wanted);
        for ((path, want), unchanged) in wanted.iter().zip(unchanged) {
            let entry = known.get(path.as_str()).copied();
            if let (Some(entry), true) = (entry, unchanged) {
                entries.push(entry.clone());
                continue;
            }
            match self.clear(path, entry, Some(want))? {
                Cleared::AsWanted(entry) => entries.push(entry),
                Cleared::Nothing => {
                    if let (Some(entry), true) = (entry, picked_over) {
                        let was = format!("{}/{}", self.shown, entry.path);
                        self.removed_by_user.push(format!("you removed {was}: `loramill skip {}`, or it comes back", want.item));
                    }
                    missing.push((path, want));
                }
                Cleared::Ours | Cleared::Theirs => missing.push((path, want)),
            }
        }

        // 3. what is missing
        if !missing.is_empty() {
            let written = self.write_all(&missing);
            if !faults::is_dead() {
                // Also when the disk is full: nothing half-written is left for the user to find.
                let _ = self.scratch.remove_all();
            }
            let written = written?;
            self.written = written.len();
            entries.extend(written);
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// Writes the files that are missing and makes them durable.
    fn write_all(&mut self, missing: &[(&String, &Wanted)]) -> Result<Vec<Entry>> {
        self.empty_scratch()?;
        let folders: BTreeSet<&Path> = missing.iter().filter_map(|(path, _)| Path::new(path).parent()).collect();
        for folder in folders {
            let folder = self.folder.inside(folder);
            folder.make_folder().map_err(|error| user_disk_trouble(error, "creating", &folder))?;
        }
        // Where many files are written, the folder is not looked for each time.
        for folder in [&mut self.folder, &mut self.scratch] {
            *folder = folder.held().map_err(|error| user_disk_trouble(error, "opening", folder))?;
        }
        let this = &*self;
        // Each is looked at before the first failure is reported: all that is damaged is found at once.
        let written: Vec<Result<Entry>> = missing.par_iter().map(|(path, want)| this.write(path, want)).collect();
        let written: Vec<Entry> = written.into_iter().collect::<Result<_>>()?;
        self.make_durable(missing)?;
        Ok(written)
    }

    /// What the manifest says must still be true after a power cut.
    fn make_durable(&self, written: &[(&String, &Wanted)]) -> Result<()> {
        if written.len() > SYNCED_ALONE {
            let open = self.folder.open_folder().map_err(|error| user_disk_trouble(error, "opening", &self.folder))?;
            let synced = rustix::fs::syncfs(open).map_err(io::Error::from);
            return synced.map_err(|error| user_disk_trouble(error, "making durable", &self.folder));
        }
        // A folder may be new itself.
        let mut folders = BTreeSet::from([Path::new("")]);
        for (path, _) in written {
            folders.extend(Path::new(path).ancestors().skip(1));
            let place = self.folder.inside(path);
            let synced = place.open(OFlags::RDONLY).and_then(|open| open.sync_all());
            synced.map_err(|error| user_disk_trouble(error, "making durable", &place))?;
        }
        for folder in folders {
            let place = if folder == Path::new("") { self.folder.clone() } else { self.folder.inside(folder) };
            let synced = place.open_folder().and_then(|open| open.sync_all());
            synced.map_err(|error| user_disk_trouble(error, "making durable", &place))?;
        }
        Ok(())
    }

    /// For each of what is wanted, whether it lies there since an earlier call wrote it.
    fn unchanged(&self, known: &BTreeMap<&str, &Entry>, wanted: &BTreeMap<String, Wanted>) -> Vec<bool> {
        let Ok(folder) = opened(&self.folder) else { return vec![false; wanted.len()] };
        let wanted: Vec<(&String, &Wanted)> = wanted.iter().collect();
        let is_there = |(path, want): &(&String, &Wanted)| {
            let entry = known.get(path.as_str()).filter(|entry| entry.digest == want.digest);
            entry.is_some_and(|entry| is_untouched(&folder, entry))
        };
        wanted.par_iter().with_min_len(256).map(is_there).collect()
    }

    /// Makes room at `path`, unless what is wanted lies there.
    fn clear(&mut self, path: &str, known: Option<&Entry>, want: Option<&Wanted>) -> Result<Cleared> {
        let full = self.folder.inside(path);
        let stat = match full.stat() {
            Ok(stat) => stat,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Cleared::Nothing),
            Err(error) => return Err(user_disk_trouble(error, "reading", &full)),
        };
        let found = FileStat::from(&stat);
        let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
        let untouched = known.filter(|entry| is_file && entry.is_as(&found));
        let digest = match untouched {
            Some(entry) => Some(entry.digest),
            // One that is larger than what is wanted, and larger than pictures, is no output that an interrupted run left.
            None if is_file && (found.size <= LINKED_FROM || want.is_some_and(|want| want.size == found.size)) => {
                Some(self.cache.digest_file(&full)?.0)
            }
            None => None,
        };
        if let Some(digest) = digest.filter(|digest| want.is_some_and(|want| want.digest == *digest)) {
            let linked = stat.st_nlink > 1;
            return Ok(Cleared::AsWanted(Entry { path: path.to_string(), digest, stat: found, linked }));
        }
        // Contents that the store has are nobody's work: an earlier run was killed before it noted what it wrote.
        if untouched.is_some() || digest.is_some_and(|digest| self.cache.contains(&digest, found.size)) {
            full.remove().map_err(|error| user_disk_trouble(error, "removing", &full))?;
            return Ok(Cleared::Ours);
        }
        let moved = self.move_to_yours(path, &full)?;
        self.changed_by_user.push(format!("you changed {}/{path}: your version is now `{}`", self.shown, moved.display()));
        Ok(Cleared::Theirs)
    }

    fn move_to_yours(&self, path: &str, full: &Place) -> Result<PathBuf> {
        for number in 1u32.. {
            let target = match number {
                1 => self.yours.inside(path),
                _ => self.yours.inside(format!("{number}")).inside(path),
            };
            let trouble = |error| user_disk_trouble(error, &format!("moving `{}` to", full.display()), &target);
            target.folder().make_folder().map_err(trouble)?;
            match rename_new(full, &target) {
                Ok(()) => return Ok(target.to_path_buf()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(trouble(error)),
            }
        }
        unreachable!("there is always another number")
    }

    fn write(&self, path: &str, want: &Wanted) -> Result<Entry> {
        let full = self.folder.inside(path);
        let scratch = self.scratch.inside(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let place = || -> Result<bool> {
            let linked = self.copy(want, &scratch)?;
            faults::pass("out.place").and_then(|()| rename_new(&scratch, &full))?;
            Ok(linked)
        };
        let linked = place().map_err(|error| {
            if !faults::is_dead() {
                let _ = scratch.remove();
            }
            match error.downcast::<io::Error>() {
                Ok(error) => user_disk_trouble(error, "writing", &full),
                Err(error) => error.context(format!("writing `{}`", full.display())),
            }
        })?;
        let stat = full.stat().map_err(|error| user_disk_trouble(error, "reading", &full))?;
        Ok(Entry { path: path.to_string(), digest: want.digest, stat: FileStat::from(&stat), linked })
    }

    /// A reflink, else a hard link of a large object, else a copy; whichever it is, all its bytes are looked at. True if it is a
    /// hard link.
    fn copy(&self, want: &Wanted, target: &Place) -> Result<bool> {
        let source = self.cache.open_object(&want.digest).map_err(|error| match error.kind() {
            ErrorKind::NotFound => io::Error::other("its object is missing in the cache: run again to make it anew"),
            _ => error,
        })?;
        if source.metadata()?.len() != want.size {
            return Err(io::Error::other("the object in the cache is damaged: run again to make it anew").into());
        }
        let mut file = target.create_new(0o666)?;
        if self.can_reflink.load(Ordering::Relaxed) {
            if rustix::fs::ioctl_ficlone(&file, &source).is_ok() {
                self.cache.check_object(&want.digest)?;
                return Ok(false);
            }
            self.can_reflink.store(false, Ordering::Relaxed);
        }
        if want.size >= LINKED_FROM {
            self.cache.check_object(&want.digest)?;
            target.remove()?;
            if self.cache.place_of(&want.digest).link(target).is_ok() {
                return Ok(true);
            }
            file = target.create_new(0o666)?;
        }
        faults::pass("out.copy")?;
        self.cache.copy_open_object(&want.digest, source, &mut file)?;
        Ok(false)
    }

    fn empty_scratch(&self) -> Result<()> {
        match self.scratch.remove_all() {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(user_disk_trouble(error, "emptying", &self.scratch)),
            _ => {}
        }
        self.scratch.make_folder().map_err(|error| user_disk_trouble(error, "creating", &self.scratch))
    }

    fn remove_empty_folders(&self, path: &str) {
        // A folder with something in it does not go, and that is well.
        let above = Path::new(path).ancestors().skip(1).filter(|above| *above != Path::new(""));
        for above in above {
            if self.folder.inside(above).remove_empty_folder().is_err() {
                break;
            }
        }
    }

    fn report(self) -> Report {
        let mut notes = shortened(self.removed_by_user, "more files that you removed come back");
        notes.extend(shortened(self.changed_by_user, "more files that you changed are there too"));
        Report { written: self.written, removed: self.removed, notes }
    }
}

fn shortened(mut notes: Vec<String>, rest: &str) -> Vec<String> {
    if notes.len() > LISTED {
        let more = notes.len() - LISTED;
        notes.truncate(LISTED);
        notes.push(format!("{more} {rest}"));
    }
    notes
}

#[derive(Debug, PartialEq)]
enum Cleared {
    Nothing,
    AsWanted(Entry),
    /// A file of ours was removed.
    Ours,
    /// A file of the user's was moved to `.yours/`.
    Theirs,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::cache::faults::{Fault, arm, disarm};
    use crate::kind::item::Fields;
    use crate::kind::item_set;

    #[test]
    fn a_name_too_long_for_a_disk_is_cut_between_letters_and_told_from_its_like() {
        assert_eq!(fitting(format!("day/{}", "x".repeat(251)), ".png"), format!("day/{}.png", "x".repeat(251)));
        let cut = |end: &str| fitting(format!("day/{}{end}", "\u{e9}".repeat(126)), ".png");
        let (one, other) = (cut("1"), cut("2"));
        for path in [&one, &other] {
            let name = path.strip_prefix("day/\u{e9}").unwrap();
            assert!(path.len() - 4 <= LONGEST_NAME && path.len() - 4 > LONGEST_NAME - 2 && name.ends_with(".png"), "{path}");
        }
        assert_ne!(one, other);
    }

    struct Place {
        temp: tempfile::TempDir,
        cache: Cache,
    }

    impl Place {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let cache = Cache::open(&temp.path().join("cache")).unwrap();
            Self { temp, cache }
        }

        fn out(&self) -> PathBuf {
            self.temp.path().join("out")
        }

        fn item(&self, name: &str, contents: &[u8]) -> Item {
            let batch = self.cache.batch();
            let image = batch.put_bytes(contents).unwrap().artifact("png");
            batch.flush().unwrap();
            Item {
                name: name.to_string(),
                origin: None,
                fields: Fields::from([("image", image)]),
                attributes: BTreeMap::new(),
                key: Digest::of(name.as_bytes()),
            }
        }

        fn show(&self, items: &[Item]) -> Result<Report> {
            let tree = Digest::of(&item_set::encode(items));
            materialise(&self.cache, &self.out(), "resize", &tree, items, &["image"])
        }

        /// The files below `out/resize` and what they hold.
        fn files(&self) -> BTreeMap<String, String> {
            below(&self.out().join("resize"))
        }
    }

    fn below(folder: &Path) -> BTreeMap<String, String> {
        walkdir::WalkDir::new(folder)
            .into_iter()
            .filter_map(std::result::Result::ok)
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| {
                let name = entry.path().strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                (name, fs::read_to_string(entry.path()).unwrap())
            })
            .collect()
    }

    fn map(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(name, contents)| (name.to_string(), contents.to_string())).collect()
    }

    #[test]
    fn outputs_appear_change_and_go_and_nothing_is_done_twice() {
        let place = Place::new();
        let first = [place.item("a", b"one"), place.item("beach/b", b"two")];
        assert_eq!(place.show(&first).unwrap(), Report { written: 2, ..Report::default() });
        assert_eq!(place.files(), map(&[("a.png", "one"), ("beach/b.png", "two")]));
        assert_eq!(place.show(&first).unwrap(), Report::default());
        let second = [place.item("a", b"three")];
        assert_eq!(place.show(&second).unwrap(), Report { written: 1, removed: 1, ..Report::default() });
        assert_eq!(place.files(), map(&[("a.png", "three")]));
        assert!(!place.out().join("resize/beach").exists());
        assert!(!place.out().join(".loramill-tmp").exists());
        let writable = fs::metadata(place.out().join("resize/a.png")).unwrap().permissions().mode() & 0o200;
        assert_ne!(writable, 0, "a copy is the user's to change");
    }

    #[test]
    fn a_removed_file_comes_back_and_the_user_is_told_how_to_leave_it_out() {
        let place = Place::new();
        let items = [place.item("a", b"one"), place.item("b", b"two")];
        place.show(&items).unwrap();
        fs::remove_file(place.out().join("resize/a.png")).unwrap();
        let report = place.show(&items).unwrap();
        assert_eq!(report.notes, ["you removed out/resize/a.png: `loramill skip a`, or it comes back"]);
        assert_eq!(place.files(), map(&[("a.png", "one"), ("b.png", "two")]));
        fs::remove_dir_all(place.out()).unwrap();
        assert_eq!(place.show(&items).unwrap(), Report { written: 2, ..Report::default() }, "all of it was cleared away");
    }

    #[test]
    fn a_changed_file_is_kept_and_a_touched_one_stays() {
        let place = Place::new();
        let items = [place.item("a", b"one"), place.item("b", b"two")];
        place.show(&items).unwrap();
        for round in ["mine", "mine again"] {
            fs::write(place.out().join("resize/a.png"), round).unwrap();
            fs::write(place.out().join("resize/b.png"), "two").unwrap();
            let report = place.show(&items).unwrap();
            assert_eq!((report.written, report.notes.len()), (1, 1));
            assert!(report.notes[0].starts_with("you changed out/resize/a.png: "), "{}", report.notes[0]);
            assert_eq!(place.files(), map(&[("a.png", "one"), ("b.png", "two")]));
        }
        assert_eq!(below(&place.out().join(".yours/resize")), map(&[("a.png", "mine"), ("2/a.png", "mine again")]));
        // Also when the item goes away.
        fs::write(place.out().join("resize/b.png"), "mine too").unwrap();
        assert_eq!(place.show(&items[..1]).unwrap().notes.len(), 1);
        assert_eq!(below(&place.out().join(".yours/resize"))["b.png"], "mine too");
    }

    #[test]
    fn files_of_others_stay_unless_they_are_in_the_way() {
        let place = Place::new();
        fs::create_dir_all(place.out().join("resize")).unwrap();
        fs::write(place.out().join("resize/notes.txt"), "mine").unwrap();
        fs::write(place.out().join("resize/a.png"), "mine").unwrap();
        place.show(&[place.item("a", b"one")]).unwrap();
        assert_eq!(place.files(), map(&[("a.png", "one"), ("notes.txt", "mine")]));
        assert_eq!(below(&place.out().join(".yours/resize")), map(&[("a.png", "mine")]));
    }

    #[test]
    fn a_kill_or_a_full_disk_in_between_is_made_good_by_the_next_run() {
        for (place_name, fault) in [("out.copy", Fault::Killed), ("out.place", Fault::Killed), ("out.copy", Fault::DiskFull)] {
            let place = Place::new();
            let old: Vec<Item> = (0..4).map(|n| place.item(&n.to_string(), format!("old {n}").as_bytes())).collect();
            place.show(&old).unwrap();
            let new: Vec<Item> = (0..4).map(|n| place.item(&n.to_string(), format!("new {n}").as_bytes())).collect();
            // Files are written by several threads; the fault is armed for one.
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            pool.install(|| {
                arm(place_name, 2, fault);
                place.show(&new).unwrap_err();
                assert!(disarm());
            });
            assert_eq!(place.out().join(".loramill-tmp").exists(), fault == Fault::Killed, "{place_name}");
            let report = place.show(&new).unwrap();
            assert_eq!(report.notes, Vec::<String>::new(), "{place_name}: files of ours are not the user's");
            let expected: BTreeMap<_, _> = (0..4).map(|n| (format!("{n}.png"), format!("new {n}"))).collect();
            assert_eq!(place.files(), expected);
            assert!(!place.out().join(".loramill-tmp").exists());
        }
    }

    #[test]
    fn a_lost_manifest_costs_hashing_only() {
        let place = Place::new();
        let items = [place.item("a", b"one")];
        place.show(&items).unwrap();
        fs::remove_dir_all(place.cache.root().join("outputs")).unwrap();
        assert_eq!(place.show(&items).unwrap(), Report::default());
        assert_eq!(place.show(&items).unwrap(), Report::default());
    }

    #[test]
    fn large_files_are_links_and_a_second_link_is_no_change() {
        let place = Place::new();
        let items = [place.item("model", &vec![7; LINKED_FROM as usize])];
        place.show(&items).unwrap();
        let object = place.cache.path(&items[0].fields["image"].digest);
        let second = place.temp.path().join("second");
        fs::hard_link(&object, &second).unwrap();
        assert_eq!(place.show(&items).unwrap(), Report::default());
    }

    #[test]
    fn a_large_file_is_shown_only_if_each_of_its_bytes_is_right() {
        let place = Place::new();
        let items = [place.item("model", &vec![7; LINKED_FROM as usize])];
        let object = place.cache.path(&items[0].fields["image"].digest);
        let mut damaged = fs::read(&object).unwrap();
        damaged[LINKED_FROM as usize / 2] ^= 1;
        fs::remove_file(&object).unwrap();
        fs::write(&object, damaged).unwrap();
        let error = format!("{:#}", place.show(&items).unwrap_err());
        assert!(error.contains("is damaged and was removed"), "{error}");
        assert_eq!((place.files(), object.exists()), (map(&[]), false));
    }

    #[test]
    fn damage_done_after_the_first_look_at_a_large_file_is_seen_by_the_next() {
        let place = Place::new();
        let items = [place.item("model", &vec![7; LINKED_FROM as usize])];
        let digest = &items[0].fields["image"].digest;
        place.cache.check_object(digest).unwrap();
        place.cache.check_object(digest).unwrap();
        let object = place.cache.path(digest);
        let was = fs::metadata(&object).unwrap();
        fs::set_permissions(&object, fs::Permissions::from_mode(0o644)).unwrap();
        let file = fs::File::options().write(true).open(&object).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, b"8", 1 << 20).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(was.modified().unwrap())).unwrap();
        let error = format!("{:#}", place.cache.check_object(digest).unwrap_err());
        assert!(error.contains("is damaged and was removed"), "{error}");
    }

    #[test]
    fn names_longer_than_a_disk_takes_are_cut_and_told_apart() {
        let place = Place::new();
        let long = "\u{e9}".repeat(130);
        let names = [format!("beach/{long}a"), format!("beach/{long}b"), "\u{e9}".repeat(125)];
        let items: Vec<Item> = names.iter().map(|name| place.item(name, name.as_bytes())).collect();
        assert_eq!(place.show(&items).unwrap().written, 3);
        let files = place.files();
        let shown: Vec<&String> = names.iter().map(|name| files.iter().find(|(_, says)| *says == name).unwrap().0).collect();
        assert_eq!(shown[2], &format!("{}.png", names[2]), "one that fits keeps its name");
        let beginning = format!("beach/{}", "\u{e9}".repeat(110));
        for path in &shown[..2] {
            assert!(path.starts_with(&beginning) && path.ends_with(".png"), "{path}");
        }
        assert_ne!(shown[0], shown[1]);
        assert_eq!(place.show(&items).unwrap(), Report::default());
    }

    #[test]
    fn fields_with_one_extension_get_names_of_their_own() {
        let place = Place::new();
        let mut item = place.item("a", b"one");
        item.fields.insert("mask".into(), place.item("x", b"two").fields["image"].clone());
        let paths = wanted(&[item], &["image", "mask"]).unwrap();
        assert_eq!(paths.into_keys().collect::<Vec<_>>(), ["a.mask.png", "a.png"]);
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_folder() {
        let place = Place::new();
        for name in ["../a", "a//b", "/a", "a/.."] {
            assert!(place.show(&[place.item(name, b"one")]).is_err(), "{name}");
        }
    }
}
