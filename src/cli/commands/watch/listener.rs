//! Hears of changes: by the kernel's inotify, or, where that has no more room, by looking once a second. Unaware of what changes
//! mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Instant;

use anyhow::{Context as _, Result};
use notify::{Config, ErrorKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::cli::commands::watch::glances::Glances;

/// `EMFILE`: what the kernel says to one inotify too many.
const TOO_MANY_OPEN: i32 = 24;

/// What the watch waits for.
#[derive(Debug)]
pub(super) enum Message {
    Event(notify::Event, Instant),
    Trouble(notify::Error),
    /// Ctrl-C, or `kill`.
    Interrupt,
}

pub(super) struct Listener {
    sense: Sense,
    watched: BTreeMap<PathBuf, bool>,
    sender: Sender<Message>,
}

enum Sense {
    Hearing(RecommendedWatcher),
    Seeing(Glances),
}

/// Which of the kernel's limits is reached, as `sysctl` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Watches,
    Instances,
}

impl Limit {
    /// Of an error of the watcher, if it means one.
    pub(super) fn of(error: &notify::Error) -> Option<Self> {
        match &error.kind {
            ErrorKind::MaxFilesWatch => Some(Self::Watches),
            ErrorKind::Io(error) if error.raw_os_error() == Some(TOO_MANY_OPEN) => Some(Self::Instances),
            _ => None,
        }
    }

    pub(super) fn message(self) -> String {
        let (name, more) = match self {
            Self::Watches => ("fs.inotify.max_user_watches", 524_288),
            Self::Instances => ("fs.inotify.max_user_instances", 1024),
        };
        format!(
            "the kernel's limit `{name}` is reached, so folders are looked at once a second; `sudo sysctl {name}={more}` raises it"
        )
    }
}

impl Listener {
    /// Gives messages to `sender`. With `is_polling` by looking; otherwise the limit that forces to look comes with it.
    ///
    /// # Errors
    /// If the kernel tells nothing for another reason.
    pub(super) fn start(sender: &Sender<Message>, is_polling: bool) -> Result<(Self, Option<Limit>)> {
        let with = |sense| Self { sense, watched: BTreeMap::new(), sender: sender.clone() };
        let looking = || with(Sense::Seeing(Glances::start(sender.clone())));
        if is_polling {
            return Ok((looking(), None));
        }
        match RecommendedWatcher::new(handler(sender), Config::default()) {
            Ok(watcher) => Ok((with(Sense::Hearing(watcher)), None)),
            Err(error) => match Limit::of(&error) {
                Some(limit) => Ok((looking(), Some(limit))),
                None => Err(error).context("starting to listen to changes: `--poll` looks for them instead"),
            },
        }
    }

    pub(super) const fn is_polling(&self) -> bool {
        matches!(self.sense, Sense::Seeing(_))
    }

    /// Of these folders those that are not listened to.
    pub(super) fn new_among(&self, folders: &BTreeMap<PathBuf, bool>) -> Vec<PathBuf> {
        folders
            .iter()
            .filter(|(folder, deep)| self.watched.get(*folder) != Some(*deep))
            .map(|(folder, _)| folder.clone())
            .collect()
    }

    /// Listens to these folders and no others; true stands for all below one. Folders that were removed and made again are found
    /// again. Where the kernel has no room for all of them it goes over to looking, and says which limit is reached.
    ///
    /// # Errors
    /// If a folder cannot be listened to.
    pub(super) fn listen_to(&mut self, folders: &BTreeMap<PathBuf, bool>) -> Result<Option<Limit>> {
        match self.try_to_listen(folders) {
            Ok(()) => Ok(None),
            Err(error) => match Limit::of(&error) {
                Some(limit) => {
                    self.look(folders);
                    Ok(Some(limit))
                }
                None => Err(error).context("listening to changes: `--poll` looks for them instead"),
            },
        }
    }

    /// Looks once a second from now on.
    pub(super) fn look(&mut self, folders: &BTreeMap<PathBuf, bool>) {
        let glances = Glances::start(self.sender.clone());
        glances.look_at(folders);
        self.sense = Sense::Seeing(glances);
        self.watched.clone_from(folders);
    }

    fn try_to_listen(&mut self, folders: &BTreeMap<PathBuf, bool>) -> notify::Result<()> {
        let watcher = match &mut self.sense {
            Sense::Hearing(watcher) => watcher,
            Sense::Seeing(glances) => {
                glances.look_at(folders);
                self.watched.clone_from(folders);
                return Ok(());
            }
        };
        for (folder, deep) in &self.watched {
            if folders.get(folder) != Some(deep) {
                // One that is gone is not listened to any more as it is.
                let _ = watcher.unwatch(folder);
            }
        }
        self.watched.clear();
        for (folder, deep) in folders {
            let mode = if *deep { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            match watcher.watch(folder, mode) {
                Ok(()) => drop(self.watched.insert(folder.clone(), *deep)),
                Err(error) if is_gone(&error, folder) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// It was there a moment ago; the folder above tells when it comes back.
fn is_gone(error: &notify::Error, folder: &Path) -> bool {
    matches!(error.kind, ErrorKind::PathNotFound) || !folder.exists()
}

fn handler(sender: &Sender<Message>) -> impl Fn(notify::Result<notify::Event>) + Send + 'static + use<> {
    let sender = sender.clone();
    move |heard| {
        let message = match heard {
            Ok(event) => Message::Event(event, Instant::now()),
            Err(error) => Message::Trouble(error),
        };
        // Nobody listens any more: the program is ending.
        let _ = sender.send(message);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn both_ways_hear_of_a_file_below_a_folder() {
        for is_polling in [false, true] {
            let folder = tempfile::tempdir().expect("a folder");
            let (sender, receiver) = channel();
            let (mut listener, limit) = Listener::start(&sender, is_polling).expect("it starts");
            assert!(limit.is_none() && listener.is_polling() == is_polling);
            let folders = BTreeMap::from([(folder.path().to_path_buf(), true), (folder.path().join("gone"), true)]);
            assert_eq!(listener.listen_to(&folders).expect("it listens"), None);
            let file = folder.path().join("a.txt");
            fs::write(&file, "x").expect("written");
            loop {
                match receiver.recv_timeout(Duration::from_secs(60)).expect("it hears of it") {
                    Message::Event(event, _) if event.paths.contains(&file) => break,
                    Message::Event(..) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn the_kernels_limits_are_told_by_their_names() {
        let watches = notify::Error::new(ErrorKind::MaxFilesWatch);
        assert!(Limit::of(&watches).expect("a limit").message().contains("sysctl fs.inotify.max_user_watches="));
        let instances = notify::Error::io(std::io::Error::from_raw_os_error(TOO_MANY_OPEN));
        assert!(Limit::of(&instances).expect("a limit").message().contains("`fs.inotify.max_user_instances`"));
        assert_eq!(Limit::of(&notify::Error::path_not_found()), None);
    }
}
