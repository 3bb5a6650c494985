//! Which objects turned out to be damaged and went, and when their files had been written, so that what was made from them can be
//! named afterwards. Unaware of what was made.
//!
//! `damaged` has a line for each: digest and nanoseconds since 1970. A line that a power cut has left unfinished says nothing.

use std::io::{self, ErrorKind, Read as _, Write as _};

use rustix::fs::OFlags;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::place::Place;
use crate::cache::trouble::disk_trouble;

/// Of a hundred thousand objects; further ones are not noted.
const LARGEST: u64 = 8 << 20;

/// Notes that the object, whose file was written at that time, was damaged.
pub(crate) fn note(place: &Place, digest: &Digest, written: i64) -> io::Result<()> {
    let mut file = place.open(OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)?;
    if file.metadata()?.len() > LARGEST {
        return Ok(());
    }
    file.write_all(format!("{} {written}\n", digest.to_hex()).as_bytes())
}

impl Cache {
    /// The objects that were met damaged since the last repair, with the time at which their files had been written.
    pub(crate) fn met_damage(&self) -> Vec<(Digest, i64)> {
        let mut bytes = Vec::new();
        // A file that cannot be read tells nothing; a check says so.
        let _ = self.damage_notes().open(OFlags::RDONLY).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes));
        let noted = |line: &str| {
            let (digest, written) = line.strip_suffix('\n')?.split_once(' ')?;
            Some((digest.parse().ok()?, written.parse().ok()?))
        };
        String::from_utf8_lossy(&bytes).split_inclusive('\n').filter_map(noted).collect()
    }

    /// Removes the notes. They may be missing. A repair ends with this: it has removed what is damaged.
    pub(crate) fn forget_met_damage(&self) -> anyhow::Result<()> {
        let place = self.damage_notes();
        match place.remove() {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(disk_trouble(error, "removing", &place)),
            _ => Ok(()),
        }
    }

    /// The file of the notes. It is missing until something is noted.
    pub(crate) fn damage_notes(&self) -> Place {
        self.place("damaged")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_met_is_told_until_it_is_forgotten_and_half_a_line_says_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(temp.path()).unwrap();
        assert_eq!(cache.met_damage(), []);
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        note(&cache.damage_notes(), &one, 7).unwrap();
        note(&cache.damage_notes(), &two, -1).unwrap();
        assert_eq!(cache.met_damage(), [(one, 7), (two, -1)]);
        let whole = fs::read(temp.path().join("damaged")).unwrap();
        for length in 0..whole.len() {
            fs::write(temp.path().join("damaged"), &whole[..length]).unwrap();
            let told = cache.met_damage();
            assert!(told.is_empty() || told == [(one, 7)], "cut at {length}: {told:?}");
        }
        cache.forget_met_damage().unwrap();
        cache.forget_met_damage().unwrap();
        assert_eq!(cache.met_damage(), []);
    }
}
