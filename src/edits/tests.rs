//! The human layer as a whole: photos, a captioner, people and kills around one folder of captions.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::artifact::Artifact;
use crate::cache::digest::Digest;
use crate::cache::faults::{Fault, arm, disarm, when};
use crate::edits::{Action, Applied, EditableItem, Editing, Provenance};
use crate::pipeline::lock_file::EditRows;

/// A pipeline with nothing but an editable stage.
struct Desk {
    temp: tempfile::TempDir,
    cache: Cache,
    /// What each photo shows, by the name of the photo.
    photos: BTreeMap<String, String>,
    captioner: u32,
    /// The machine's texts by key: its records.
    records: BTreeMap<Digest, Artifact>,
    /// How often the captioner was asked.
    asked: usize,
    lock: EditRows,
}

impl Desk {
    fn new(photos: &[&str]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(&temp.path().join("cache")).unwrap();
        let photos = photos.iter().map(|name| (name.to_string(), format!("photo {name}"))).collect();
        Self { temp, cache, photos, captioner: 1, records: BTreeMap::new(), asked: 0, lock: EditRows::new() }
    }

    fn folder(&self) -> PathBuf {
        self.temp.path().join("captions")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.txt"))
    }

    fn save(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn says(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    fn machine_says(&self, photo: &str) -> String {
        format!("captioner {} sees {photo}", self.captioner)
    }

    fn rename_photo(&mut self, from: &str, to: &str) {
        let photo = self.photos.remove(from).unwrap();
        self.photos.insert(to.to_string(), photo);
    }

    fn items(&self) -> Vec<EditableItem> {
        let item = |(name, photo): (&String, &String)| {
            let key = Digest::of(self.machine_says(photo).as_bytes());
            let photo = Digest::of(photo.as_bytes());
            EditableItem { name: name.clone(), key, photo, machine: self.records.get(&key).cloned() }
        };
        self.photos.iter().map(item).collect()
    }

    fn read(&self) -> Editing<'_> {
        Editing::read(&self.cache, &self.folder(), "caption", "txt", &self.lock).unwrap()
    }

    /// What `plan` would find.
    fn judge(&self, name: &str) -> (Provenance, Action) {
        let items = self.items();
        let index = items.iter().position(|item| item.name == name).unwrap();
        let judgement = self.read().judge(&items).swap_remove(index);
        (judgement.provenance, judgement.action)
    }

    fn run(&mut self) -> Result<Applied> {
        Editing::recover(&self.cache, &self.folder(), "txt", &self.lock)?;
        let items = self.items();
        let judgements = self.read().judge(&items);
        let batch = self.cache.batch();
        for (item, judgement) in items.iter().zip(judgements) {
            if judgement.action == Action::Run {
                let text = self.machine_says(&self.photos[&item.name]);
                let stored = batch.put_bytes(text.as_bytes()).unwrap();
                self.records.insert(item.key, stored.artifact("txt"));
                self.asked += 1;
            }
        }
        batch.flush().unwrap();
        let editing = Editing::read(&self.cache, &self.folder(), "caption", "txt", &self.lock)?;
        let applied = editing.apply(&self.items(), &batch)?;
        batch.flush().unwrap();
        self.lock = applied.rows.clone();
        Ok(applied)
    }

    /// Provenance and effective text of an item after a run.
    fn outcome(&mut self, name: &str) -> (Provenance, String) {
        let applied = self.run().unwrap();
        let index = self.photos.keys().position(|known| known == name).unwrap();
        let item = &applied.items[index];
        assert_eq!(item.failure, None);
        let text = String::from_utf8(self.cache.read(&item.fields["caption"].digest).unwrap()).unwrap();
        (item.provenance, text)
    }

    /// Everything that was displaced.
    fn displaced(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.cache.root().join("displaced")) else { return Vec::new() };
        entries.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
    }

    fn hidden_files(&self) -> usize {
        fs::read_dir(self.folder())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'))
            .count()
    }
}

const MINE: &str = "a red star, by hand";

#[test]
fn an_unedited_text_is_the_machines() {
    let mut desk = Desk::new(&["a", "b"]);
    assert_eq!(desk.judge("a"), (Provenance::Machine, Action::Run));
    assert_eq!(desk.outcome("a"), (Provenance::Machine, "captioner 1 sees photo a".into()));
    assert_eq!(desk.says("a").unwrap(), "captioner 1 sees photo a\n");

    // The same text: nothing is written.
    let before = fs::metadata(desk.path("a")).unwrap().modified().unwrap();
    let lock = desk.lock.clone();
    desk.run().unwrap();
    assert_eq!((desk.asked, &desk.lock), (2, &lock));
    assert_eq!(fs::metadata(desk.path("a")).unwrap().modified().unwrap(), before);

    // Another text: written, and the old one is kept for a while.
    desk.captioner = 2;
    assert_eq!(desk.judge("a"), (Provenance::Machine, Action::Run));
    assert_eq!(desk.outcome("a"), (Provenance::Machine, "captioner 2 sees photo a".into()));
    assert_eq!(desk.says("a").unwrap(), "captioner 2 sees photo a\n");
    assert!(desk.displaced().contains(&"captioner 1 sees photo a\n".to_string()));

    // Back again: from the record, without asking.
    desk.captioner = 1;
    assert_eq!(desk.outcome("a"), (Provenance::Machine, "captioner 1 sees photo a".into()));
    assert_eq!(desk.asked, 4);

    // The photo gone: the text stays.
    desk.photos.remove("a");
    assert_eq!(desk.run().unwrap().orphans, ["a"]);
    assert_eq!(desk.says("a").unwrap(), "captioner 1 sees photo a\n");
}

#[test]
fn an_edited_text_wins_and_the_machine_is_not_asked() {
    let mut desk = Desk::new(&["a", "b"]);
    desk.run().unwrap();
    desk.save("a", MINE);
    assert_eq!(desk.judge("a").0, Provenance::Edited);
    assert_eq!(desk.outcome("a"), (Provenance::Edited, MINE.into()));

    // The machine would say something else now: stale, and still mine.
    desk.captioner = 2;
    let asked = desk.asked;
    assert_eq!(desk.outcome("a"), (Provenance::Stale, MINE.into()));
    assert_eq!(desk.asked, asked + 1, "only for b");
    assert_eq!(desk.outcome("a"), (Provenance::Stale, MINE.into()), "it stays stale");
    assert_eq!(desk.says("a").unwrap(), MINE);

    // The machine's old text put back by hand is the machine's: it is written anew.
    desk.save("a", "\u{feff}captioner 1 sees photo a\r\n");
    assert_eq!(desk.outcome("a"), (Provenance::Machine, "captioner 2 sees photo a".into()));

    desk.save("a", MINE);
    desk.run().unwrap();
    desk.photos.remove("a");
    assert_eq!(desk.run().unwrap().orphans, ["a"]);
    assert_eq!(desk.says("a").unwrap(), MINE);

    // The photo comes back, and with it the caption.
    desk.photos.insert("a".into(), "photo a".into());
    assert_eq!(desk.outcome("a"), (Provenance::Edited, MINE.into()));
}

#[test]
fn a_deleted_text_is_written_again() {
    let mut desk = Desk::new(&["a", "b", "c"]);
    desk.run().unwrap();
    fs::remove_file(desk.path("a")).unwrap();
    assert_eq!(desk.outcome("a"), (Provenance::Machine, "captioner 1 sees photo a".into()));
    assert_eq!(desk.says("a").unwrap(), "captioner 1 sees photo a\n");

    fs::remove_file(desk.path("a")).unwrap();
    desk.captioner = 2;
    assert_eq!(desk.outcome("a"), (Provenance::Machine, "captioner 2 sees photo a".into()));

    fs::remove_file(desk.path("a")).unwrap();
    desk.photos.remove("a");
    assert_eq!(desk.run().unwrap().orphans, Vec::<String>::new());
    assert!(!desk.lock.contains_key("a"));
    assert_eq!(desk.says("a"), None);
}

#[test]
fn a_text_that_was_there_before_the_first_run_is_a_persons() {
    let mut desk = Desk::new(&["a"]);
    desk.save("a", MINE);
    assert_eq!(desk.outcome("a"), (Provenance::Edited, MINE.into()));
    assert_eq!(desk.asked, 0);
    assert_eq!(desk.outcome("a"), (Provenance::Edited, MINE.into()));

    desk.captioner = 2;
    assert_eq!(desk.outcome("a"), (Provenance::Stale, MINE.into()));
    assert_eq!(desk.asked, 0);

    desk.photos.clear();
    assert_eq!(desk.run().unwrap().orphans, ["a"]);
    assert_eq!(desk.says("a").unwrap(), MINE);
}

#[test]
fn a_text_follows_its_photo_to_another_name() {
    for (mine, changed) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut desk = Desk::new(&["a", "b"]);
        desk.run().unwrap();
        if mine {
            desk.save("a", MINE);
            desk.run().unwrap();
        }
        desk.save("a-flip", "mirrored");
        desk.rename_photo("a", "beach/z");
        desk.captioner += u32::from(changed);
        let expected = match (mine, changed) {
            (true, false) => (Provenance::Edited, MINE.to_string()),
            (true, true) => (Provenance::Stale, MINE.to_string()),
            _ => (Provenance::Machine, desk.machine_says("photo a")),
        };
        assert_eq!(desk.read().orphans(&desk.items()), Vec::<String>::new());
        assert_eq!(desk.outcome("beach/z"), expected, "mine: {mine}, changed: {changed}");
        assert_eq!(desk.says("beach/z").unwrap().trim_end(), expected.1);
        assert_eq!(desk.says("beach/z-flip").unwrap(), "mirrored");
        assert_eq!((desk.says("a"), desk.says("a-flip")), (None, None));
        assert!(!desk.lock.contains_key("a") && desk.lock.contains_key("beach/z"));
        assert_eq!(desk.outcome("beach/z"), expected, "and stays there");
    }
    // A caption that was renamed without a photo is an orphan.
    let mut desk = Desk::new(&["a"]);
    desk.save("z", MINE);
    assert_eq!(desk.run().unwrap().orphans, ["z"]);
    assert_eq!(desk.says("z").unwrap(), MINE);
}

#[test]
fn photos_that_were_renumbered_take_their_texts_along() {
    let mut desk = Desk::new(&["1", "2", "3"]);
    desk.run().unwrap();
    for name in ["1", "2", "3"] {
        desk.save(name, &format!("mine {name}"));
    }
    desk.run().unwrap();
    for name in ["3", "2", "1"] {
        desk.rename_photo(name, &(name.parse::<u32>().unwrap() + 1).to_string());
    }
    desk.photos.insert("1".into(), "photo new".into());
    desk.run().unwrap();
    assert_eq!(desk.says("1").unwrap(), "captioner 1 sees photo new\n");
    for name in ["1", "2", "3"] {
        let next = (name.parse::<u32>().unwrap() + 1).to_string();
        assert_eq!(desk.says(&next).unwrap(), format!("mine {name}"));
        assert_eq!(desk.outcome(&next).0, Provenance::Edited);
    }
}

#[test]
fn texts_that_were_renamed_by_hand_with_their_photos_stay_there() {
    let mut desk = Desk::new(&["a", "b"]);
    desk.run().unwrap();
    desk.save("a", MINE);
    desk.run().unwrap();
    desk.rename_photo("a", "z");
    fs::rename(desk.path("a"), desk.path("z")).unwrap();
    assert_eq!(desk.outcome("z"), (Provenance::Edited, MINE.into()));
    desk.captioner = 2;
    assert_eq!(desk.outcome("z"), (Provenance::Stale, MINE.into()), "the row followed");
    assert!(!desk.lock.contains_key("a"));
}

#[test]
fn swapped_photos_lose_no_text() {
    let mut desk = Desk::new(&["a", "b"]);
    desk.run().unwrap();
    desk.save("a", "mine a");
    desk.save("b", "mine b");
    desk.run().unwrap();
    let (a, b) = (desk.photos["a"].clone(), desk.photos["b"].clone());
    desk.photos = BTreeMap::from([("a".into(), b), ("b".into(), a)]);
    let applied = desk.run().unwrap();
    assert_eq!((desk.says("a").unwrap(), desk.says("b").unwrap()), ("mine a".into(), "mine b".into()));
    assert_eq!(applied.notes.len(), 2, "{:?}", applied.notes);
}

#[test]
fn an_unusable_file_fails_its_item_and_stays() {
    for (bytes, word) in [
        (&b"<<<<<<< HEAD\nmine\n=======\ntheirs\n>>>>>>> x\n"[..], "conflict markers"),
        (b"caf\xe9", "not UTF-8"),
        (b"\xff\xfeh\0i\0", "UTF-16"),
    ] {
        let mut desk = Desk::new(&["a", "b"]);
        desk.run().unwrap();
        let lock = desk.lock.clone();
        fs::write(desk.path("a"), bytes).unwrap();
        desk.captioner = 2;
        let applied = desk.run().unwrap();
        let failure = applied.items[0].failure.as_ref().unwrap();
        assert!(failure.contains(word) && failure.contains("a.txt"), "{failure}");
        assert!(applied.items[0].fields.is_empty());
        assert_eq!(applied.items[1].failure, None);
        assert_eq!(fs::read(desk.path("a")).unwrap(), bytes);
        assert_eq!(desk.lock["a"], lock["a"], "its row stays");
    }
}

#[test]
fn a_text_for_the_mirror_is_a_field_of_its_own() {
    let mut desk = Desk::new(&["a"]);
    desk.save("a-flip", "seen in a mirror\n");
    let applied = desk.run().unwrap();
    assert_eq!(applied.orphans, Vec::<String>::new());
    let fields = &applied.items[0].fields;
    assert_eq!(desk.cache.read(&fields["caption-flip"].digest).unwrap(), b"seen in a mirror");
    assert_eq!(desk.cache.read(&fields["caption"].digest).unwrap(), b"captioner 1 sees photo a");
    // An item of that name owns the file.
    desk.photos.insert("a-flip".into(), "another".into());
    let applied = desk.run().unwrap();
    assert!(!applied.items[0].fields.contains_key("caption-flip"));
    assert_eq!(applied.items[1].provenance, Provenance::Edited);
}

#[test]
fn after_a_union_merge_every_row_names_a_text_of_the_machine() {
    let mut desk = Desk::new(&["a"]);
    desk.run().unwrap();
    let mine = desk.lock["a"].clone();
    desk.captioner = 2;
    desk.run().unwrap();
    desk.lock.get_mut("a").unwrap().extend(mine);
    desk.captioner = 3;
    for text in ["captioner 1 sees photo a", "captioner 2 sees photo a"] {
        desk.save("a", text);
        assert_eq!(desk.judge("a"), (Provenance::Machine, Action::Run), "{text}");
    }
    desk.run().unwrap();
    assert_eq!(desk.says("a").unwrap(), "captioner 3 sees photo a\n");
    assert_eq!(desk.lock["a"].len(), 1, "healed");
}

#[test]
fn a_lost_lock_makes_no_text_of_a_person_the_machines() {
    let mut desk = Desk::new(&["a", "b"]);
    desk.run().unwrap();
    desk.save("a", MINE);
    desk.lock.clear();
    let applied = desk.run().unwrap();
    assert_eq!((applied.items[0].provenance, applied.items[1].provenance), (Provenance::Edited, Provenance::Machine));
    assert_eq!(desk.says("a").unwrap(), MINE);
}

const PLACES: [&str; 7] =
    ["edits.write", "edits.sync", "edits.ready", "edits.exchange", "edits.exchanged", "edits.displace", "edits.back"];

#[test]
fn a_kill_at_any_point_loses_nothing_and_the_next_run_goes_on() {
    // Without and with a person who saves just before the exchange; on file systems that can and cannot exchange.
    for (place, saves, exchanges) in
        PLACES.into_iter().flat_map(|p| [(p, false, true), (p, true, true), (p, false, false), (p, true, false)])
    {
        if place == "edits.back" && !saves {
            continue;
        }
        let what = format!("killed at {place}, saves: {saves}, exchanges: {exchanges}");
        let mut desk = Desk::new(&["a", "b"]);
        desk.run().unwrap();
        desk.captioner = 2;
        if saves {
            let path = desk.path("a");
            when("edits.ready", move || fs::write(&path, MINE).unwrap());
        }
        if !exchanges {
            arm("rename.exchange", 0, Fault::Unsupported);
        }
        arm(place, 0, Fault::Killed);
        desk.run().unwrap_err();
        disarm();

        desk.run().unwrap();
        // Saved before anything was exchanged, unless the kill came first.
        let saved = saves && !matches!(place, "edits.write" | "edits.sync");
        let expected = if saved { MINE.to_string() } else { "captioner 2 sees photo a\n".into() };
        assert_eq!(desk.says("a").unwrap(), expected, "{what}");
        assert_eq!(desk.says("b").unwrap(), "captioner 2 sees photo b\n", "{what}");
        assert_eq!(desk.hidden_files(), 0, "{what}");
        let (provenance, _) = desk.outcome("a");
        // The person wrote when the machine's text was still that of the first captioner.
        assert_eq!(provenance, if saved { Provenance::Stale } else { Provenance::Machine }, "{what}");
    }
}

#[test]
fn a_kill_between_the_steps_of_a_missing_exchange_leaves_the_text_to_be_found() {
    let mut desk = Desk::new(&["a"]);
    desk.run().unwrap();
    desk.captioner = 2;
    let path = desk.path("a");
    when("edits.ready", move || fs::write(&path, MINE).unwrap());
    arm("rename.exchange", 0, Fault::Unsupported);
    arm("edits.stepping", 0, Fault::Killed);
    desk.run().unwrap_err();
    assert!(disarm());
    assert_eq!(desk.says("a"), None);
    assert_eq!(desk.outcome("a"), (Provenance::Stale, MINE.into()));
    assert_eq!(desk.says("a").unwrap(), MINE);
    assert_eq!(desk.hidden_files(), 0);
}

#[test]
fn a_kill_between_file_and_lock_row_makes_nothing_human() {
    let mut desk = Desk::new(&["a"]);
    desk.run().unwrap();
    let lock = desk.lock.clone();
    desk.captioner = 2;
    desk.run().unwrap();
    desk.lock = lock;
    assert_eq!(desk.outcome("a"), (Provenance::Machine, "captioner 2 sees photo a".into()));
}

#[test]
fn a_kill_while_a_text_follows_its_photo_is_made_good() {
    for place in ["edits.move", "edits.aside"] {
        let mut desk = Desk::new(&["a", "b"]);
        desk.run().unwrap();
        desk.save("a", MINE);
        desk.run().unwrap();
        // The photo takes the name of another one that is gone.
        desk.photos.remove("b");
        desk.rename_photo("a", "b");
        arm(place, 0, Fault::Killed);
        desk.run().unwrap_err();
        assert!(disarm());
        assert_eq!(desk.outcome("b"), (Provenance::Edited, MINE.into()), "{place}");
        assert_eq!((desk.says("a"), desk.says("b").unwrap()), (None, MINE.into()), "{place}");
    }
}

#[test]
fn a_text_saved_in_the_very_moment_stays() {
    // Each save comes right before an exchange: once before ours, once before theirs goes back.
    let mut desk = Desk::new(&["a"]);
    desk.run().unwrap();
    desk.captioner = 2;
    let path = desk.path("a");
    let mut saves = 0;
    when("rename.exchange", move || {
        if saves < 3 {
            saves += 1;
            fs::write(&path, format!("mine {saves}")).unwrap();
        }
    });
    let outcome = desk.outcome("a");
    disarm();
    assert_eq!(outcome, (Provenance::Stale, "mine 3".into()));
    assert_eq!(desk.says("a").unwrap(), "mine 3");
    assert!(desk.displaced().contains(&"mine 2".to_string()), "{:?}", desk.displaced());
}

#[test]
fn a_text_that_appears_in_the_very_moment_stays() {
    for supported in [true, false] {
        let mut desk = Desk::new(&["a"]);
        let path = desk.path("a");
        when("edits.exchange", move || fs::write(&path, MINE).unwrap());
        if !supported {
            arm("rename.noreplace", 0, Fault::Unsupported);
        }
        let outcome = desk.outcome("a");
        assert!(disarm());
        assert_eq!(outcome, (Provenance::Edited, MINE.into()));
        assert_eq!(desk.says("a").unwrap(), MINE);
        assert_eq!(desk.hidden_files(), 0);
    }
}

#[test]
fn a_full_disk_leaves_every_text_as_it_was() {
    for place in ["edits.write", "edits.sync"] {
        let mut desk = Desk::new(&["a", "b"]);
        desk.run().unwrap();
        desk.captioner = 2;
        arm(place, 0, Fault::DiskFull);
        let error = desk.run().unwrap_err();
        assert!(disarm());
        assert!(format!("{error:#}").contains("free space"), "{error:#}");
        assert_eq!(desk.says("a").unwrap(), "captioner 1 sees photo a\n");
        assert_eq!(desk.hidden_files(), 0);
    }
}

#[test]
fn many_texts_are_written_and_found_unchanged_without_reading_them() {
    let names: Vec<String> = (0..1100).map(|n| format!("IMG_{n:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut desk = Desk::new(&names);
    desk.run().unwrap();
    assert_eq!(fs::read_dir(desk.folder()).unwrap().count(), 1100);
    std::thread::sleep(std::time::Duration::from_millis(50));
    desk.run().unwrap();
    // All are in the index now: contents changed behind its back go unseen.
    let known = names.iter().filter(|name| {
        let stat = crate::cache::stat_index::FileStat::of(&desk.path(name)).unwrap();
        desk.cache.texts().lookup(&stat).is_some()
    });
    assert_eq!(known.count(), 1100);
    assert_eq!(desk.asked, 1100);
}
