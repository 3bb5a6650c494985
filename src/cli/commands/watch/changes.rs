//! What changed since the last run, and whether all of it is written to its end: nobody writes any more, and it has been quiet
//! for a moment. Unaware of where events come from and of what a run reads.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, Flag, ModifyKind, RenameMode};

/// Editors write, rename and set times in quick succession.
const QUIET: Duration = Duration::from_millis(300);
/// Who looks once a second knows of no close: two looks without news.
const QUIET_WHEN_POLLED: Duration = Duration::from_millis(2200);
/// A file that was made and never written to may have been linked there, and nobody will close it.
const UNWRITTEN: Duration = Duration::from_secs(2);
/// After this time a line says what is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Changes {
    /// By path, with the time of the last news.
    changed: BTreeMap<PathBuf, Instant>,
    open: BTreeMap<PathBuf, Open>,
    /// Files that were open when they were renamed, by the number that joins the two halves of a rename.
    renamed: HashMap<Option<usize>, Open>,
    /// Events were lost: anything may have changed.
    lost: Option<Instant>,
    is_polled: bool,
}

/// A file that somebody has open for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    since: Instant,
    is_written: bool,
    is_told: bool,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing has changed.
    Rest,
    /// Look again after this time, or when there is news.
    Wait(Duration),
    /// A file is open for writing for so long that the user should know. Told once.
    Tell(PathBuf),
    /// All is quiet.
    Ready,
}

impl Changes {
    pub(super) fn new(is_polled: bool) -> Self {
        Self { changed: BTreeMap::new(), open: BTreeMap::new(), renamed: HashMap::new(), lost: None, is_polled }
    }

    /// From now on nobody tells of files that are opened and closed.
    pub(super) fn poll(&mut self) {
        self.is_polled = true;
        self.open.clear();
    }

    /// Something that is to be looked at though no event tells of it.
    pub(super) fn suspect(&mut self, path: PathBuf, now: Instant) {
        self.changed.insert(path, now);
    }

    /// Takes an event that came at `now`. `matters` says which paths count.
    pub(super) fn hear(&mut self, event: &notify::Event, now: Instant, matters: &dyn Fn(&Path) -> bool) {
        if event.attrs.flag() == Some(Flag::Rescan) {
            // Whether a file was closed is not known any more.
            self.open.clear();
            self.lost = Some(now);
            return;
        }
        for path in event.paths.iter().filter(|path| matters(path)) {
            self.hear_of(path, event, now);
        }
    }

    fn hear_of(&mut self, path: &Path, event: &notify::Event, now: Instant) {
        let opened = |is_written| Open { since: now, is_written, is_told: false };
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => drop(self.open.remove(path)),
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return,
            // Links that are made and removed count as such news; times alone are news only to who looks at nothing else.
            EventKind::Modify(ModifyKind::Metadata(_)) if !self.is_polled => return,
            EventKind::Create(CreateKind::File) if !self.is_polled && may_be_open(path) => {
                self.open.entry(path.to_path_buf()).or_insert(opened(false));
            }
            EventKind::Modify(ModifyKind::Data(_)) if !self.is_polled => {
                self.open.entry(path.to_path_buf()).or_insert(opened(true)).is_written = true;
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                if let Some(open) = self.open.remove(path) {
                    self.renamed.insert(event.attrs.tracker(), open);
                }
                // Below a folder that went elsewhere nothing is heard any more.
                self.open.retain(|open, _| !open.starts_with(path));
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => match self.renamed.remove(&event.attrs.tracker()) {
                Some(open) => drop(self.open.insert(path.to_path_buf(), open)),
                // What was there before has been replaced as a whole.
                None => drop(self.open.remove(path)),
            },
            EventKind::Remove(_) => self.open.retain(|open, _| !open.starts_with(path)),
            _ => {}
        }
        self.changed.insert(path.to_path_buf(), now);
    }

    /// What to do at `now`.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        let Some(last) = self.changed.values().copied().chain(self.lost).max() else { return Next::Rest };
        self.open.retain(|_, open| open.is_written || now.duration_since(open.since) < UNWRITTEN);
        if let Some((path, open)) = self.open.iter_mut().next() {
            let waited = now.duration_since(open.since);
            return match open.is_told {
                false if waited >= PATIENCE => {
                    open.is_told = true;
                    Next::Tell(path.clone())
                }
                false if open.is_written => Next::Wait(PATIENCE - waited),
                false => Next::Wait(UNWRITTEN - waited),
                // Its close is news.
                true => Next::Wait(Duration::from_secs(3600)),
            };
        }
        let quiet = if self.is_polled { QUIET_WHEN_POLLED } else { QUIET };
        match quiet.checked_sub(now.duration_since(last)) {
            Some(rest) if rest > Duration::ZERO => Next::Wait(rest),
            _ => Next::Ready,
        }
    }

    /// Takes what has changed, with nothing left; events of before that were lost count as a change of nothing in particular.
    pub(super) fn take(&mut self) -> (Vec<PathBuf>, bool) {
        let lost = self.lost.take().is_some();
        self.renamed.clear();
        (std::mem::take(&mut self.changed).into_keys().collect(), lost)
    }
}

/// A link, and a second name of a file, were never opened here.
fn may_be_open(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1)
}

#[cfg(test)]
mod tests {
    use notify::Event;
    use notify::event::{DataChange, MetadataKind, RemoveKind};

    use super::*;

    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

    struct Bench {
        changes: Changes,
        start: Instant,
    }

    impl Bench {
        fn new(is_polled: bool) -> Self {
            Self { changes: Changes::new(is_polled), start: Instant::now() }
        }

        fn at(&self, milliseconds: u64) -> Instant {
            self.start + Duration::from_millis(milliseconds)
        }

        fn hear(&mut self, milliseconds: u64, kind: EventKind, path: &str) {
            self.hear_event(milliseconds, Event::new(kind).add_path(path.into()));
        }

        fn hear_event(&mut self, milliseconds: u64, event: Event) {
            let at = self.at(milliseconds);
            self.changes.hear(&event, at, &|path| path.extension().is_some_and(|extension| extension == "txt"));
        }

        fn next(&mut self, milliseconds: u64) -> Next {
            let at = self.at(milliseconds);
            self.changes.next(at)
        }
    }

    fn wait(milliseconds: u64) -> Next {
        Next::Wait(Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_file_that_is_written_slowly_is_ready_only_after_its_close_and_a_quiet_moment() {
        let mut bench = Bench::new(false);
        assert_eq!(bench.next(0), Next::Rest);
        bench.hear(0, WRITTEN, "a.txt");
        assert_eq!(bench.next(1000), wait(4000), "it is still open");
        bench.hear(2000, WRITTEN, "a.txt");
        bench.hear(3000, CLOSED, "a.txt");
        assert_eq!(bench.next(3100), wait(200));
        assert_eq!(bench.next(3300), Next::Ready);
        assert_eq!(bench.changes.take(), (vec![PathBuf::from("a.txt")], false));
        assert_eq!(bench.next(4000), Next::Rest);
    }

    #[test]
    fn a_file_that_stays_open_is_told_once_and_waited_for() {
        let mut bench = Bench::new(false);
        bench.hear(0, WRITTEN, "a.txt");
        assert_eq!(bench.next(5000), Next::Tell("a.txt".into()));
        assert_eq!(bench.next(5001), wait(3_600_000));
        bench.hear(9000, CLOSED, "a.txt");
        assert_eq!(bench.next(9300), Next::Ready);
    }

    #[test]
    fn a_rename_over_a_file_is_a_change_and_one_of_an_open_file_keeps_it_open() {
        let mut bench = Bench::new(false);
        let rename =
            |mode, path: &str| Event::new(EventKind::Modify(ModifyKind::Name(mode))).add_path(path.into()).set_tracker(7);
        bench.hear(0, WRITTEN, "a.tmp");
        bench.hear_event(10, rename(RenameMode::From, "a.tmp"));
        bench.hear_event(10, rename(RenameMode::To, "a.txt"));
        assert_eq!(bench.next(310), Next::Ready, "an atomic save");
        bench.changes.take();

        bench.hear(1000, WRITTEN, "b.txt");
        bench.hear_event(1010, rename(RenameMode::From, "b.txt"));
        bench.hear_event(1010, rename(RenameMode::To, "c.txt"));
        assert_eq!(bench.next(1400), wait(4600), "it is written under its new name");
        bench.hear(1500, CLOSED, "c.txt");
        assert_eq!(bench.next(1800), Next::Ready);
        assert_eq!(bench.changes.take().0, [PathBuf::from("b.txt"), PathBuf::from("c.txt")]);
    }

    #[test]
    fn reading_and_setting_modes_is_no_change_and_removing_is() {
        let mut bench = Bench::new(false);
        bench.hear(0, EventKind::Access(AccessKind::Open(AccessMode::Any)), "a.txt");
        bench.hear(0, EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), "a.txt");
        bench.hear(0, WRITTEN, "a.png");
        assert_eq!(bench.next(1000), Next::Rest);
        bench.hear(1000, WRITTEN, "a.txt");
        bench.hear(1001, EventKind::Remove(RemoveKind::File), "a.txt");
        assert_eq!(bench.next(1301), Next::Ready, "a removed file is open no more");
    }

    #[test]
    fn a_file_that_was_made_and_not_written_is_believed_after_a_while() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.txt");
        fs::write(&path, "").expect("written");
        let mut bench = Bench::new(false);
        bench.hear(0, EventKind::Create(CreateKind::File), path.to_str().expect("UTF-8"));
        assert_eq!(bench.next(500), wait(1500));
        assert_eq!(bench.next(2000), Next::Ready);
        // A second name of a file that was complete before.
        fs::hard_link(&path, folder.path().join("b.txt")).expect("linked");
        bench.changes.take();
        bench.hear(3000, EventKind::Create(CreateKind::File), folder.path().join("b.txt").to_str().expect("UTF-8"));
        assert_eq!(bench.next(3300), Next::Ready);
    }

    #[test]
    fn who_looks_once_a_second_waits_for_two_looks_without_news() {
        let mut bench = Bench::new(true);
        bench.hear(0, EventKind::Modify(ModifyKind::Metadata(MetadataKind::WriteTime)), "a.txt");
        bench.hear(1000, EventKind::Modify(ModifyKind::Metadata(MetadataKind::WriteTime)), "a.txt");
        assert_eq!(bench.next(2000), wait(1200));
        assert_eq!(bench.next(3200), Next::Ready);
    }

    #[test]
    fn after_lost_events_anything_may_have_changed() {
        let mut bench = Bench::new(false);
        bench.hear(0, WRITTEN, "a.txt");
        bench.hear_event(10, Event::new(EventKind::Other).set_flag(Flag::Rescan));
        assert_eq!(bench.next(310), Next::Ready);
        assert_eq!(bench.changes.take(), (vec![PathBuf::from("a.txt")], true));
    }
}
