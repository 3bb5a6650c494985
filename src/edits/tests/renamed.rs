//! Photos that get other names, and their texts.

use std::collections::BTreeMap;
use std::fs;

use crate::edits::Provenance;
use crate::edits::tests::desk::{Desk, MINE};

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
        assert_eq!(desk.orphans(), Vec::<String>::new());
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
fn a_text_that_lies_under_both_names_of_its_photo_stays_under_the_new_one() {
    let mut desk = Desk::new(&["a", "b"]);
    desk.run().unwrap();
    desk.save("a", MINE);
    desk.save("a-flip", "mirrored");
    desk.run().unwrap();
    desk.rename_photo("a", "z");
    // As a copy, or a move that was interrupted on a file system that can only link and unlink, leaves it.
    desk.save("z", MINE);
    desk.save("z-flip", "mirrored");
    assert_eq!(desk.outcome("z"), (Provenance::Edited, MINE.into()));
    assert_eq!((desk.says("a"), desk.says("a-flip"), desk.orphans()), (None, None, vec![]));
    assert_eq!((desk.says("z").unwrap(), desk.says("z-flip").unwrap()), (MINE.into(), "mirrored".into()));
    assert!(desk.displaced().contains(&MINE.to_string()) && !desk.lock.contains_key("a"));
}
