//! Looks at folders once a second and tells what is another than at the last look: for folders of which the kernel tells nothing.
//! Sees what `stat` sees, to the nanosecond and in both directions, as the cache does; notify's own way of looking knows whole
//! seconds and later ones only.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::Event;
use notify::event::{EventKind, ModifyKind, RemoveKind};
use walkdir::WalkDir;

use crate::cli::commands::watch::listener::Message;
use crate::engine::cache::stat_index::FileStat;

const INTERVAL: Duration = Duration::from_secs(1);

/// A thread that looks for as long as this lives.
pub(super) struct Glances {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    is_over: AtomicBool,
}

#[derive(Default)]
struct Seen {
    folders: BTreeMap<PathBuf, bool>,
    /// What lay there at the last look. Of a folder only that it is there.
    files: BTreeMap<PathBuf, Option<FileStat>>,
}

impl Glances {
    pub(super) fn start(sender: Sender<Message>) -> Self {
        let shared: Arc<Shared> = Arc::default();
        let looks = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while !looks.is_over.load(Ordering::SeqCst) {
                thread::park_timeout(INTERVAL);
                for event in looks.seen().look_again() {
                    if sender.send(Message::Event(event, Instant::now())).is_err() {
                        return;
                    }
                }
            }
        });
        Self { shared, thread }
    }

    /// Looks at these folders from now on; true stands for all below one.
    pub(super) fn look_at(&self, folders: &BTreeMap<PathBuf, bool>) {
        let mut seen = self.shared.seen();
        seen.folders.clone_from(folders);
        seen.files = look(folders);
    }
}

impl Drop for Glances {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.thread.thread().unpark();
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn look_again(&mut self) -> Vec<Event> {
        let now = look(&self.folders);
        let event = |kind: EventKind, path: &Path| Event::new(kind).add_path(path.to_path_buf());
        let changed = now.iter().filter(|(path, stat)| self.files.get(*path) != Some(*stat));
        let mut events: Vec<Event> = changed.map(|(path, _)| event(EventKind::Modify(ModifyKind::Any), path)).collect();
        let gone = self.files.keys().filter(|path| !now.contains_key(*path));
        events.extend(gone.map(|path| event(EventKind::Remove(RemoveKind::Any), path)));
        self.files = now;
        events
    }
}

/// What cannot be read is not there.
fn look(folders: &BTreeMap<PathBuf, bool>) -> BTreeMap<PathBuf, Option<FileStat>> {
    let mut found = BTreeMap::new();
    for (folder, deep) in folders {
        let depth = if *deep { usize::MAX } else { 1 };
        let entries = WalkDir::new(folder).min_depth(1).max_depth(depth).follow_links(true).into_iter().filter_map(Result::ok);
        let stat = |metadata: Metadata| metadata.is_file().then(|| FileStat::from(&metadata));
        found.extend(entries.filter_map(|entry| Some((entry.path().to_path_buf(), stat(entry.metadata().ok()?)))));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::SystemTime;

    use super::*;

    fn paths(events: &[Event]) -> Vec<&Path> {
        events.iter().flat_map(|event| &event.paths).map(PathBuf::as_path).collect()
    }

    #[test]
    fn a_change_within_a_moment_and_one_back_in_time_are_seen_and_a_second_look_sees_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (deep, file) = (folder.path().join("deep"), folder.path().join("deep/below/a.txt"));
        fs::create_dir_all(deep.join("below")).expect("made");
        fs::write(&file, "one").expect("written");
        let folders = BTreeMap::from([(folder.path().to_path_buf(), false), (deep.clone(), true)]);
        let mut seen = Seen { files: look(&folders), folders };
        assert_eq!(seen.look_again(), []);
        let set_time = |seconds| {
            let open = fs::File::options().append(true).open(&file).expect("opened");
            open.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).expect("set");
        };
        for seconds in [2_000_000_000, 1_000_000_000] {
            set_time(seconds);
            assert_eq!(paths(&seen.look_again()), [file.as_path()]);
            assert_eq!(seen.look_again(), []);
        }
        fs::remove_file(&file).expect("removed");
        let events = seen.look_again();
        assert_eq!((paths(&events), events[0].kind), (vec![file.as_path()], EventKind::Remove(RemoveKind::Any)));
        fs::create_dir(deep.join("empty")).expect("made");
        assert_eq!(paths(&seen.look_again()), [deep.join("empty")]);
    }
}
