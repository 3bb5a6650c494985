//! Whose text it is, and which one counts.

use std::fs;

use crate::edits::tests::desk::{Desk, MINE};
use crate::edits::{Action, Provenance};

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
