//! For how long displaced files have been kept, counted in days on which pipelines ran. A clock that jumps makes nothing old:
//! whatever it says, a run adds one day at most. Unaware of where the files lie.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::cache::atomic;
use crate::cache::place::Place;

/// A file is kept for so many further days on which something ran, besides the days of the calendar.
const RUN_DAYS: u32 = 10;
/// In bytes; with a line for each file there is room for a million.
const LARGEST: u64 = 64 << 20;

/// What the runs so far have seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ages {
    /// Since 1970, of the last run.
    last_day: Option<u64>,
    /// By the number that a displaced file has before its name: on how many days a run has found it.
    days: BTreeMap<String, u32>,
}

impl Ages {
    /// What cannot be read says nothing: then all files are new.
    pub(crate) fn read(place: &Place) -> Self {
        let text = place.read(LARGEST).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let mut ages = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("day", day)) => ages.last_day = day.parse().ok(),
                Some((days, number)) => drop(days.parse().ok().map(|days| ages.days.insert(number.to_string(), days))),
                None => {}
            }
        }
        ages
    }

    /// A run finds these files; true if that is the first of its day.
    pub(crate) fn count<'n>(&mut self, today: u64, found: impl Iterator<Item = &'n str>) -> bool {
        if self.last_day == Some(today) {
            return false;
        }
        self.last_day = Some(today);
        let before = std::mem::take(&mut self.days);
        self.days = found
            .filter_map(number)
            .map(|number| (number.to_string(), before.get(number).copied().unwrap_or_default().saturating_add(1)))
            .collect();
        true
    }

    /// Whether runs of at least 10 days have found the file. `name`: as it lies among the displaced, with its number in front; a
    /// file without a number is never old.
    pub(crate) fn is_old(&self, name: &str) -> bool {
        number(name).and_then(|number| self.days.get(number)).is_some_and(|days| *days >= RUN_DAYS)
    }

    /// Writes what `read` reads. Unsynced: a power cut makes files younger, never older.
    pub(crate) fn write(&self, place: &Place) -> Result<()> {
        let mut text: String = self.last_day.iter().map(|day| format!("day {day}\n")).collect();
        text.extend(self.days.iter().map(|(number, days)| format!("{days} {number}\n")));
        atomic::replace_unsynced(place, text.as_bytes())
    }
}

/// `1795637154.254621646.0` of `1795637154.254621646.0.a.txt`.
fn number(name: &str) -> Option<&str> {
    let (end, _) = name.match_indices('.').nth(2).unwrap_or((name.len(), ""));
    let number = &name[..end];
    number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then_some(number).filter(|number| !number.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::cache::{Cache, now};

    #[test]
    fn a_clock_that_jumps_a_month_ahead_removes_no_displaced_file() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(&temp.path().join("cache")).unwrap();
        let mine = temp.path().join("mine.txt");
        fs::write(&mine, "mine").unwrap();
        let kept = cache.displace(&mine, "mine.txt").unwrap();
        let day = Duration::from_secs(24 * 60 * 60);
        for days in [0, 31, 31, 31, 4000, 0, 31] {
            cache.forget_old_displaced_at(now() + day * days).unwrap();
            assert!(kept.exists(), "{days}");
        }
        // Ten days of use in fewer than 30 of the calendar, then as many as that.
        for days in 1..=20 {
            cache.forget_old_displaced_at(now() + day * days).unwrap();
        }
        assert!(kept.exists());
        cache.forget_old_displaced_at(now() + day * 31).unwrap();
        assert!(!kept.exists());
    }

    #[test]
    fn a_file_ages_by_one_day_for_each_day_on_which_something_ran() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ages");
        let place = Place::from(&path);
        let (old, new) = ("1795637154.254621646.0.a.txt", "1795637154.254621646.1");
        for day in 0..RUN_DAYS {
            let mut ages = Ages::read(&place);
            assert!(!ages.is_old(old), "day {day}");
            // The clock jumps to and fro by months.
            assert!(ages.count(u64::from(day % 2 * 400 + day), [old, "notes.txt"].into_iter()));
            assert!(!ages.count(u64::from(day % 2 * 400 + day), [old].into_iter()), "once a day");
            ages.write(&place).unwrap();
        }
        let mut ages = Ages::read(&place);
        assert!(ages.is_old(old) && !ages.is_old(new));
        ages.count(9_000, [new].into_iter());
        ages.write(&place).unwrap();
        let ages = Ages::read(&place);
        assert!(!ages.is_old(old), "what is gone is forgotten");
        assert_eq!(ages.days, BTreeMap::from([(new.to_string(), 1)]));
        fs::write(&path, b"\xff 3 x\n4\nday x\n").unwrap();
        assert_eq!(Ages::read(&place), Ages::default());
    }
}
