//! Whether a cache is sound, and what to do where it is not. Unaware of what the artifacts mean; forms that can be checked are
//! given.
//!
//! Nothing is ever made up: what is damaged is taken away, so that it is a miss and the next run makes it again.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rayon::prelude::*;
use rustix::fs::OFlags;
use smol_str::SmolStr;

use crate::cache::digest::Digest;
use crate::cache::objects::{LARGEST_LIST, is_unreadable};
use crate::cache::record_log::LogHealth;
use crate::cache::regular_file::{self, Refusal};
use crate::cache::stat_index::StatIndex;
use crate::cache::survey::StoredObject;
use crate::cache::trouble::disk_trouble;
use crate::cache::{Cache, file_digest};

/// Objects of which nothing tells the size are read even in a fast check, up to this size: trees and texts.
const SMALL: u64 = 1 << 20;

/// How much of each object `Cache::check` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Sizes, and what is small or must be read anyway.
    Fast,
    /// Every byte.
    Full,
}

/// A form of contents that can be checked, by the extension under which records name it.
pub type KnownForm = (&'static str, fn(&[u8]) -> Result<()>);

/// What was looked at, and what is wrong.
#[derive(Clone, Debug, Default)]
pub struct Checkup {
    pub objects: usize,
    /// In bytes.
    pub size: u64,
    pub records: usize,
    pub problems: Vec<Problem>,
    /// Things that are strange and do no harm.
    pub strays: Vec<PathBuf>,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub path: PathBuf,
    pub damage: Damage,
    /// It has been put right.
    pub repaired: bool,
}

/// What is wrong with a file of the cache. Messages put the path of the file before its text.
#[derive(Clone, Debug, PartialEq)]
pub enum Damage {
    /// Another size than the records say, both in bytes.
    Size {
        found: u64,
        expected: u64,
    },
    /// The contents are not those of the name. `linked`: the file has further names, in `out/` folders.
    Contents {
        linked: bool,
    },
    Unreadable(String),
    /// Something that is no file lies in the place of an object.
    NoFile,
    /// It is what its name says, and not what a record says it is.
    Form(String),
    /// A record names it, and it is not here.
    Missing,
    /// A part of the record log.
    Log(Range<u64>),
    /// The end of the record log, in bytes.
    Torn(u64),
    /// Records that this version cannot read.
    Records(usize),
    /// An index that is no index, or not of what it stands beside.
    Index,
    /// What runs or cleaning noted cannot be read.
    Notes(String),
}

impl Damage {
    /// For programs.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Size { .. } => "size",
            Self::Contents { .. } => "contents",
            Self::Unreadable(_) => "unreadable",
            Self::NoFile => "no_file",
            Self::Form(_) => "form",
            Self::Missing => "missing",
            Self::Log(_) => "log",
            Self::Torn(_) => "torn",
            Self::Records(_) => "records",
            Self::Index => "index",
            Self::Notes(_) => "notes",
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { found, expected } => write!(f, "has {found} bytes instead of {expected}"),
            Self::Contents { linked: false } => write!(f, "holds other bytes than were written"),
            Self::Contents { linked: true } => {
                write!(
                    f,
                    "holds other bytes than were written, and so does its hard link in an `out/` folder: delete that one too"
                )
            }
            Self::Unreadable(error) | Self::Notes(error) => write!(f, "cannot be read: {error}"),
            Self::NoFile => write!(f, "is no file"),
            Self::Form(error) => write!(f, "is not what its record says: {error}"),
            Self::Missing => write!(f, "is missing, though a record names it"),
            Self::Log(range) => write!(f, "is damaged at byte {}: {} bytes", range.start, range.end - range.start),
            Self::Torn(bytes) => write!(f, "ends within a record: {bytes} bytes"),
            Self::Records(count) => write!(f, "holds records that this version of loramill cannot read: {count}"),
            Self::Index => write!(f, "is damaged, or does not fit"),
        }
    }
}

impl Cache {
    /// Looks whether all is sound. Changes nothing.
    pub fn check(&self, depth: Depth, forms: &[KnownForm]) -> Result<Checkup> {
        // What is being cleaned would look like a loss.
        let _nobody_cleans = self.begin_collecting()?;
        let named = self.named_artifacts()?;
        let stored = self.stored_objects()?;
        let size = stored.objects.iter().map(|object| object.size).sum();
        let mut checkup = Checkup { objects: stored.objects.len(), size, records: named.records, ..Checkup::default() };

        let at_work = |object: &StoredObject| self.damage_of_object(object, named.by_digest.get(&object.digest), depth, forms);
        let damaged: Vec<_> = stored.objects.par_iter().filter_map(|object| Some((object.digest, at_work(object)?))).collect();
        checkup.problems.extend(damaged.into_iter().map(|(digest, damage)| Problem::of(self.path(&digest), damage)));
        for stray in stored.strays {
            if self.is_place_of_object(&stray) {
                checkup.problems.push(Problem::of(stray, Damage::NoFile));
            } else {
                checkup.strays.push(stray);
            }
        }
        for (place, most) in self.notes()? {
            let size = place.open(OFlags::RDONLY).and_then(|file| Ok(file.metadata()?.len()));
            let is_wrong = match size {
                Ok(size) if size > most => io::Error::from(Refusal::LargerThan(most)),
                Err(error) if error.kind() != ErrorKind::NotFound => error,
                _ => continue,
            };
            checkup.problems.push(Problem::of(place.to_path_buf(), Damage::Notes(is_wrong.to_string())));
        }
        // What cannot be read was reported.
        let evicted = self.evicted().unwrap_or_default();
        let mut missing: Vec<PathBuf> = named
            .by_digest
            .keys()
            .filter(|digest| !evicted.contains(digest) && !self.place_of(digest).is_there())
            .map(|digest| self.path(digest))
            .collect();
        missing.sort_unstable();
        checkup.problems.extend(missing.into_iter().map(|path| Problem::of(path, Damage::Missing)));

        let LogHealth { damaged, torn, unreadable, index_is_wrong } = self.records()?.inspect()?;
        let log = self.root().join("records");
        checkup.problems.extend(damaged.into_iter().map(|range| Problem::of(log.clone(), Damage::Log(range))));
        if torn > 0 {
            checkup.problems.push(Problem::of(log.clone(), Damage::Torn(torn)));
        }
        if unreadable > 0 {
            checkup.problems.push(Problem::of(log, Damage::Records(unreadable)));
        }
        if index_is_wrong {
            checkup.problems.push(Problem::of(self.root().join("record-index"), Damage::Index));
        }
        for index in self.stat_indices() {
            if index.is_there() && !StatIndex::is_sound(&index) {
                checkup.problems.push(Problem::of(index.to_path_buf(), Damage::Index));
            }
        }
        Ok(checkup)
    }

    /// The objects that are here and damaged.
    pub fn damaged_objects(&self, checkup: &Checkup) -> Vec<Digest> {
        let of_an_object = |damage: &Damage| {
            matches!(damage, Damage::Size { .. } | Damage::Contents { .. } | Damage::Unreadable(_) | Damage::Form(_))
        };
        let damaged = checkup.problems.iter().filter(|problem| of_an_object(&problem.damage));
        damaged.filter_map(|problem| self.object_named(&problem.path)).collect()
    }

    /// Takes away what is damaged, and puts logs and indices right. What is wrong with the result of a run is a miss from then
    /// on. Damage that runs met before is forgotten.
    pub fn repair(&self, checkup: &mut Checkup) -> Result<()> {
        let collector = self.begin_collecting()?;
        let exclusive = collector.exclusive()?;
        let mut log_is_wrong = false;
        for problem in &mut checkup.problems {
            match &problem.damage {
                Damage::Size { .. } | Damage::Contents { .. } | Damage::Unreadable(_) | Damage::Form(_) => {
                    problem.repaired = self.remove_if_still_damaged(problem)?;
                }
                Damage::NoFile | Damage::Notes(_) => {
                    let name = problem.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    self.displace(self.place(&problem.path), &name)?;
                    problem.repaired = true;
                }
                Damage::Index => {
                    self.place(&problem.path).remove().map_err(|error| disk_trouble(error, "removing", &problem.path))?;
                    problem.repaired = true;
                }
                Damage::Missing | Damage::Log(_) | Damage::Torn(_) | Damage::Records(_) => log_is_wrong = true,
            }
        }
        // A record without its outputs is no result.
        let evicted = self.evicted()?;
        let is_here = |digest: &Digest| evicted.contains(digest) || self.place_of(digest).is_there();
        let removed = checkup.problems.iter().any(|problem| problem.repaired && problem.damage != Damage::Index);
        if log_is_wrong || removed {
            exclusive.retain_records(&mut |_, record| record.artifacts().all(|artifact| is_here(&artifact.digest)))?;
            self.records()?.renew_index()?;
            for problem in &mut checkup.problems {
                problem.repaired |=
                    matches!(problem.damage, Damage::Missing | Damage::Log(_) | Damage::Torn(_) | Damage::Records(_));
            }
        }
        self.forget_met_damage()
    }

    /// `None` if all is well with it.
    fn damage_of_object(
        &self,
        object: &StoredObject,
        named: Option<&NamedArtifact>,
        depth: Depth,
        forms: &[KnownForm],
    ) -> Option<Damage> {
        if let Some(named) = named.filter(|named| named.size != object.size) {
            return Some(Damage::Size { found: object.size, expected: named.size });
        }
        if !object.is_readable {
            return Some(Damage::Unreadable("nobody may read it".to_string()));
        }
        let form = named.and_then(|named| forms.iter().find(|(extension, _)| *extension == named.extension));
        // A longer one is not read as such.
        let form = form.filter(|_| object.size <= LARGEST_LIST);
        let opened = self.place_of(&object.digest).open(OFlags::RDONLY);
        if let Some((_, check)) = form {
            let bytes = match opened.and_then(|file| regular_file::read_open(&file, LARGEST_LIST)) {
                Ok(bytes) => bytes,
                Err(error) => return damage_of(&error),
            };
            if Digest::of(&bytes) != object.digest {
                return Some(Damage::Contents { linked: object.links > 1 });
            }
            return check(&bytes).err().map(|error| Damage::Form(format!("{error:#}")));
        }
        if depth == Depth::Fast && (named.is_some() || object.size > SMALL) {
            return None;
        }
        match opened.and_then(file_digest::of_open) {
            Ok((digest, _)) if digest == object.digest => None,
            Ok(_) => Some(Damage::Contents { linked: object.links > 1 }),
            Err(error) => damage_of(&error),
        }
    }

    /// A run may have made an object anew since it was looked at: then it stays.
    fn remove_if_still_damaged(&self, problem: &Problem) -> Result<bool> {
        let path = self.place(&problem.path);
        let reading = || format!("reading `{}`", path.display());
        let removing = || format!("removing `{}`", path.display());
        let size = match path.stat() {
            Ok(found) => found.st_size as u64,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error).with_context(reading),
        };
        let is_still = match &problem.damage {
            Damage::Contents { .. } => {
                let read = path.open(OFlags::RDONLY).and_then(file_digest::of_open).with_context(reading)?;
                self.object_named(&path) != Some(read.0)
            }
            Damage::Size { expected, .. } => size != *expected,
            Damage::Unreadable(_)
            | Damage::NoFile
            | Damage::Form(_)
            | Damage::Missing
            | Damage::Log(_)
            | Damage::Torn(_)
            | Damage::Records(_)
            | Damage::Index
            | Damage::Notes(_) => true,
        };
        if is_still {
            path.remove().with_context(removing)?;
        }
        Ok(true)
    }

    fn is_place_of_object(&self, path: &Path) -> bool {
        self.object_named(path).is_some()
    }

    /// The digest whose object lies at `path`.
    fn object_named(&self, path: &Path) -> Option<Digest> {
        let start = path.parent()?.file_name()?.to_str()?;
        let digest: Digest = format!("{start}{}", path.file_name()?.to_str()?).parse().ok()?;
        (self.path(&digest) == path).then_some(digest)
    }

    /// All that records name.
    fn named_artifacts(&self) -> Result<Named> {
        let mut named = Named { records: 0, by_digest: HashMap::new() };
        self.each_record(&mut |_, record| {
            named.records += 1;
            for artifact in record.artifacts() {
                named
                    .by_digest
                    .entry(artifact.digest)
                    .or_insert_with(|| NamedArtifact { size: artifact.size, extension: artifact.extension.clone() });
            }
        })?;
        Ok(named)
    }
}

/// An error that says that the object is not sound; a process that is short of files has no such thing to say.
fn damage_of(error: &std::io::Error) -> Option<Damage> {
    is_unreadable(error).then(|| Damage::Unreadable(error.to_string()))
}

impl Problem {
    fn of(path: PathBuf, damage: Damage) -> Self {
        Self { path, damage, repaired: false }
    }
}

struct Named {
    records: usize,
    by_digest: HashMap<Digest, NamedArtifact>,
}

struct NamedArtifact {
    size: u64,
    extension: SmolStr,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::cache::artifact::Fields;
    use crate::cache::records::{Output, OutputName, Record};

    /// A cache with three results, one of them a list that a form checks; the artifacts are called `one`, `two` and `list`.
    struct Bed {
        temp: tempfile::TempDir,
        cache: Cache,
    }

    fn listed(bytes: &[u8]) -> Result<()> {
        anyhow::ensure!(bytes.starts_with(b"list"), "it is no list");
        Ok(())
    }

    const FORMS: &[KnownForm] = &[("list", listed)];

    impl Bed {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let cache = Cache::open(temp.path()).unwrap();
            let bed = Self { temp, cache };
            bed.make("one", "png", b"contents of one");
            bed.make("two", "png", b"contents of two");
            bed.make("list", "list", b"list of all");
            bed
        }

        fn make(&self, name: &str, extension: &str, bytes: &[u8]) {
            let batch = self.cache.batch();
            let artifact = batch.put_bytes(bytes).unwrap().artifact(extension);
            let fields = Fields::from([("x", artifact)]);
            let name = OutputName::Own(name.to_string());
            let outputs = vec![Output { name: name.clone(), origin: None, fields, attributes: BTreeMap::new() }];
            let key = Self::key(&name);
            batch
                .record(Record { key, components: Vec::new(), outputs, seconds: 1.0, ended: None, facts: BTreeMap::new() })
                .unwrap();
            batch.flush().unwrap();
        }

        fn key(name: &OutputName) -> Digest {
            Digest::of(name.resolve("").as_bytes())
        }

        fn object(&self, name: &str) -> PathBuf {
            let record = self.cache.lookup(&Digest::of(name.as_bytes())).unwrap().unwrap();
            self.cache.path(&record.artifacts().next().unwrap().digest)
        }

        fn overwrite(&self, path: &Path, bytes: &[u8]) {
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(path, bytes).unwrap();
        }

        fn problems(&self, depth: Depth) -> Vec<&'static str> {
            let cache = Cache::open(self.temp.path()).unwrap();
            let mut words: Vec<_> = cache.check(depth, FORMS).unwrap().problems.iter().map(|p| p.damage.word()).collect();
            words.sort_unstable();
            words
        }

        /// Repairs, and expects that all is well afterwards and that `lost` is a miss, and nothing else is.
        fn repair(&self, depth: Depth, lost: &[&str]) {
            let cache = Cache::open(self.temp.path()).unwrap();
            let mut checkup = cache.check(depth, FORMS).unwrap();
            cache.repair(&mut checkup).unwrap();
            assert!(checkup.problems.iter().all(|problem| problem.repaired), "{:?}", checkup.problems);
            assert!(self.problems(Depth::Full).is_empty(), "{:?}", self.problems(Depth::Full));
            let cache = Cache::open(self.temp.path()).unwrap();
            for name in ["one", "two", "list"] {
                let found = cache.lookup(&Digest::of(name.as_bytes())).unwrap();
                assert_eq!(found.is_none(), lost.contains(&name), "{name}");
            }
        }
    }

    #[test]
    fn a_sound_cache_has_no_problem() {
        let bed = Bed::new();
        assert!(bed.problems(Depth::Fast).is_empty() && bed.problems(Depth::Full).is_empty());
        bed.repair(Depth::Full, &[]);
    }

    #[test]
    fn objects_of_another_size_are_found_at_once_and_flipped_bits_by_a_full_check() {
        for bytes in [&b""[..], b"contents", b"contents of one and more"] {
            let bed = Bed::new();
            bed.overwrite(&bed.object("one"), bytes);
            assert_eq!(bed.problems(Depth::Fast), ["size"]);
            bed.repair(Depth::Fast, &["one"]);
        }
        let bed = Bed::new();
        bed.overwrite(&bed.object("one"), b"contents of 0ne");
        assert!(bed.problems(Depth::Fast).is_empty());
        assert_eq!(bed.problems(Depth::Full), ["contents"]);
        bed.repair(Depth::Full, &["one"]);
    }

    #[test]
    fn a_damaged_list_is_found_at_once() {
        let bed = Bed::new();
        bed.overwrite(&bed.object("list"), b"list 0f all");
        assert_eq!(bed.problems(Depth::Fast), ["contents"]);
        bed.repair(Depth::Fast, &["list"]);
        bed.make("other", "list", b"none");
        assert_eq!(bed.problems(Depth::Fast), ["form"]);
        bed.repair(Depth::Fast, &["list"]);
    }

    #[test]
    fn an_object_that_nobody_may_read_and_a_folder_in_its_place_are_found() {
        let bed = Bed::new();
        fs::set_permissions(bed.object("one"), fs::Permissions::from_mode(0o0)).unwrap();
        let two = bed.object("two");
        fs::remove_file(&two).unwrap();
        fs::create_dir(&two).unwrap();
        fs::write(two.join("precious"), "of a person").unwrap();
        assert_eq!(bed.problems(Depth::Fast), ["no_file", "unreadable"]);
        bed.repair(Depth::Fast, &["one", "two"]);
        let displaced: Vec<_> = fs::read_dir(bed.temp.path().join("displaced")).unwrap().collect();
        assert_eq!(displaced.len(), 1, "what is not ours is moved, not deleted");
    }

    #[test]
    fn notes_that_are_too_long_or_no_files_are_found_and_moved_away() {
        let bed = Bed::new();
        bed.cache.place("runs").make_folder().unwrap();
        for name in ["runs/x.uses", "runs/y.used"] {
            fs::File::create(bed.temp.path().join(name)).unwrap().set_len(4 << 30).unwrap();
        }
        bed.cache.place("roots").make_folder().unwrap();
        fs::write(bed.temp.path().join("roots/x"), vec![b'a'; 1 << 20]).unwrap();
        for name in ["evicted", "damaged"] {
            fs::create_dir(bed.temp.path().join(name)).unwrap();
        }
        let error = format!("{:#}", bed.cache.noted().unwrap_err());
        assert!(error.contains("x.uses") && error.ends_with("`loramill fsck --repair` moves it away"), "{error}");
        assert!(format!("{:#}", bed.cache.evicted().unwrap_err()).contains("fsck --repair"));
        assert!(format!("{:#}", bed.cache.roots().unwrap_err()).contains("fsck --repair"));
        // What was put aside goes without being read.
        assert_eq!(bed.problems(Depth::Fast), ["notes"; 4]);
        bed.repair(Depth::Fast, &[]);
        assert_eq!(fs::read_dir(bed.temp.path().join("displaced")).unwrap().count(), 4);
        assert!(bed.cache.noted().unwrap().is_empty() && bed.cache.evicted().unwrap().is_empty());
    }

    #[test]
    fn what_is_missing_is_said_unless_it_was_let_go_on_purpose() {
        let bed = Bed::new();
        let evicted = Digest::of(b"contents of two");
        let exclusive = bed.cache.begin_collecting().unwrap().exclusive().unwrap();
        exclusive.write_evicted(&[evicted].into()).unwrap();
        exclusive.remove_object(&evicted).unwrap();
        drop(exclusive);
        assert!(bed.problems(Depth::Full).is_empty());
        fs::remove_file(bed.object("one")).unwrap();
        assert_eq!(bed.problems(Depth::Fast), ["missing"]);
        bed.repair(Depth::Fast, &["one"]);
    }

    #[test]
    fn a_log_and_indices_that_are_damaged_are_put_right() {
        let bed = Bed::new();
        bed.cache.records().unwrap().renew_index().unwrap();
        let log = bed.temp.path().join("records");
        let mut bytes = fs::read(&log).unwrap();
        bytes[90] ^= 1;
        bytes.extend_from_slice(b"torn");
        fs::write(&log, bytes).unwrap();
        for index in ["record-index", "stat-index", "text-index"] {
            fs::write(bed.temp.path().join(index), "no index").unwrap();
        }
        assert_eq!(bed.problems(Depth::Fast), ["index", "index", "index", "log", "torn"]);
        bed.repair(Depth::Fast, &["one"]);
    }

    #[test]
    fn an_object_that_was_made_anew_since_it_was_looked_at_stays() {
        let bed = Bed::new();
        let path = bed.object("one");
        bed.overwrite(&path, b"contents of 0ne");
        let mut checkup = bed.cache.check(Depth::Full, FORMS).unwrap();
        fs::write(&path, b"contents of one").unwrap();
        bed.cache.repair(&mut checkup).unwrap();
        assert!(path.exists() && bed.problems(Depth::Full).is_empty());
    }
}
