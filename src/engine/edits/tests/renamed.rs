//! Photos that get other names, and their texts.

use std::fs;

use crate::cache::digest::Digest;
use crate::cache::faults::{Fault, arm, disarm};
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

/// The photos `one` and `other` change places.
fn swap_photos(desk: &mut Desk, one: &str, other: &str) {
    let (first, second) = (desk.photos[one].clone(), desk.photos[other].clone());
    desk.photos.insert(one.into(), second);
    desk.photos.insert(other.into(), first);
}

#[test]
fn texts_follow_photos_that_changed_places() {
    for exchanges in [true, false] {
        let mut desk = Desk::new(&["a", "b"]);
        desk.run().unwrap();
        desk.save("a", "mine a");
        desk.save("b", "mine b");
        desk.save("a-flip", "a in a mirror");
        desk.run().unwrap();
        swap_photos(&mut desk, "a", "b");
        assert!(desk.survey("b").file.unwrap().ends_with("a.txt"), "a plan sees it as well");
        if !exchanges {
            arm("rename.exchange", 0, Fault::Unsupported);
        }
        let applied = desk.run().unwrap();
        disarm();
        assert_eq!((desk.says("a").unwrap(), desk.says("b").unwrap()), ("mine b".into(), "mine a".into()), "{exchanges}");
        assert_eq!((desk.says("a-flip"), desk.says("b-flip").unwrap()), (None, "a in a mirror".into()));
        assert_eq!(applied.notes.len(), 2, "{:?}", applied.notes);
        assert!(applied.notes.iter().all(|note| note.ends_with("its photo has that name now")), "{:?}", applied.notes);
        let again = desk.run().unwrap();
        assert_eq!((again.notes, desk.outcome("a")), (vec![], (Provenance::Edited, "mine b".into())));
        assert_eq!(desk.hidden_files(), 0);
    }
}

#[test]
fn a_persons_text_and_a_machines_change_places_with_their_photos() {
    let mut desk = Desk::new(&["a", "b"]);
    desk.run().unwrap();
    desk.save("a", "mine a");
    desk.run().unwrap();
    swap_photos(&mut desk, "a", "b");
    assert_eq!(desk.outcome("b"), (Provenance::Edited, "mine a".into()));
    assert_eq!(desk.outcome("a"), (Provenance::Machine, "captioner 1 sees photo b".into()));

    // Of texts of the machine alone there is nothing to say.
    let mut desk = Desk::new(&["a", "b"]);
    desk.run().unwrap();
    swap_photos(&mut desk, "a", "b");
    assert_eq!(desk.run().unwrap().notes, Vec::<String>::new());
    assert_eq!(desk.says("a").unwrap(), "captioner 1 sees photo b\n");
}

#[test]
fn photos_that_changed_places_get_what_the_machine_says_of_them_today() {
    let mut desk = Desk::new(&["a", "b", "c"]);
    desk.run().unwrap();
    desk.save("c", "mine c");
    desk.run().unwrap();
    desk.captioner = 2;
    swap_photos(&mut desk, "a", "b");
    let before = desk.lock.clone();
    let first = desk.run().unwrap();
    // The same once more as if the process had died before the lock was written.
    desk.lock = before;
    let again = desk.run().unwrap();
    for applied in [&first, &again] {
        let machine = |photo: &str| Digest::of(format!("captioner 2 sees photo {photo}").as_bytes());
        let given: Vec<_> = applied.items[..2].iter().map(|item| (item.provenance, item.fields["caption"].digest)).collect();
        assert_eq!(given, [(Provenance::Machine, machine("b")), (Provenance::Machine, machine("a"))]);
        assert_eq!(applied.notes, Vec::<String>::new());
    }
    assert_eq!(desk.says("a").unwrap(), "captioner 2 sees photo b\n");
}

#[test]
fn items_of_one_photo_of_which_the_machine_says_the_same_settle_when_photos_change_places() {
    let mut desk = Desk::new(&["a", "a-2", "b", "b-2", "c", "c-2"]);
    desk.captioner = 0;
    for (photo, second) in [("a", "a-2"), ("b", "b-2"), ("c", "c-2")] {
        let same = desk.photos[photo].clone();
        desk.photos.insert(second.into(), same);
    }
    desk.run().unwrap();
    for name in ["a", "a-2"] {
        desk.rename_photo(name, &name.replace('a', "z"));
    }
    let photos: Vec<String> = ["b", "c", "z"].iter().map(|name| desk.photos[*name].clone()).collect();
    for (place, name) in ["b", "c", "z"].iter().enumerate() {
        desk.photos.insert(name.to_string(), photos[(place + 1) % 3].clone());
        desk.photos.insert(format!("{name}-2"), photos[(place + 1) % 3].clone());
    }
    let applied = desk.run().unwrap();
    assert!(applied.items.iter().all(|item| item.provenance == Provenance::Machine), "{:?}", applied.items);
    assert!(desk.photos.keys().all(|name| desk.says(name).as_deref() == Some("a picture\n")));
    assert_eq!((applied.orphans, desk.says("a")), (vec![], None));
}

#[test]
fn a_persons_text_among_photos_that_changed_places_is_turned_once_though_the_lock_was_not_written() {
    let mut desk = Desk::new(&["a", "b", "c"]);
    desk.run().unwrap();
    desk.save("a", "mine a");
    desk.run().unwrap();
    desk.save("a", "mine a, changed");
    desk.captioner = 2;
    // a → b → c → a
    swap_photos(&mut desk, "a", "b");
    swap_photos(&mut desk, "a", "c");
    let before = desk.lock.clone();
    for round in 0..2 {
        desk.lock = before.clone();
        desk.run().unwrap();
        assert_eq!(desk.says("b").unwrap(), "mine a, changed", "{round}");
        assert_eq!(desk.says("c").unwrap(), "captioner 2 sees photo b\n", "{round}");
        assert_eq!(desk.says("a").unwrap(), "captioner 2 sees photo c\n", "{round}");
    }
}

#[test]
fn texts_that_were_swapped_by_hand_with_their_photos_stay() {
    for changed in [false, true] {
        let mut desk = Desk::new(&["a", "b"]);
        desk.run().unwrap();
        desk.save("a", "mine a");
        desk.save("b", "mine b");
        desk.run().unwrap();
        swap_photos(&mut desk, "a", "b");
        desk.save("b", "mine a");
        desk.save("a", if changed { "mine b, changed" } else { "mine b" });
        let applied = desk.run().unwrap();
        assert_eq!(applied.notes, Vec::<String>::new(), "{changed}");
        assert_eq!(desk.says("b").unwrap(), "mine a");
        assert!(desk.says("a").unwrap().starts_with("mine b"));
        desk.captioner = 2;
        assert_eq!(desk.outcome("b"), (Provenance::Stale, "mine a".into()), "the rows followed");
    }
}

#[test]
fn a_text_that_was_changed_since_goes_with_its_photo_and_that_is_said() {
    let mut desk = Desk::new(&["a", "b"]);
    desk.run().unwrap();
    desk.save("a", "mine a");
    desk.save("b", "mine b");
    desk.run().unwrap();
    desk.save("a", "mine a, changed");
    swap_photos(&mut desk, "a", "b");
    let applied = desk.run().unwrap();
    assert_eq!((desk.says("a").unwrap(), desk.says("b").unwrap()), ("mine b".into(), "mine a, changed".into()));
    let said = applied.notes.iter().filter(|note| note.contains("was changed since the last run")).count();
    assert_eq!((said, applied.notes.len()), (1, 2), "{:?}", applied.notes);
}

#[test]
fn four_photos_in_a_ring_take_their_texts_along_wherever_the_process_dies() {
    let names = ["a", "b", "c", "d"];
    for dies_at in 0..=3 {
        let mut desk = Desk::new(&names);
        desk.run().unwrap();
        names.iter().for_each(|name| desk.save(name, &format!("mine {name}")));
        desk.run().unwrap();
        let photos: Vec<String> = names.iter().map(|name| desk.photos[*name].clone()).collect();
        for (place, name) in names.iter().enumerate() {
            desk.photos.insert(name.to_string(), photos[(place + 3) % 4].clone());
        }
        arm("edits.turn", dies_at, Fault::Killed);
        let died = desk.run().is_err();
        disarm();
        assert_eq!(died, dies_at < 3, "{dies_at}");
        desk.run().unwrap();
        for (place, name) in names.iter().enumerate() {
            assert_eq!(desk.says(name).unwrap(), format!("mine {}", names[(place + 3) % 4]), "died at {dies_at}");
        }
        assert_eq!(desk.displaced().iter().filter(|text| text.starts_with("mine")).count(), 0);
    }
}

#[test]
fn the_text_of_a_photo_that_another_replaced_stays_as_an_orphan() {
    let mut desk = Desk::new(&["a", "b"]);
    desk.run().unwrap();
    desk.save("a", "mine a");
    desk.save("b", "mine b");
    desk.run().unwrap();
    // `mv a.png b.png`
    desk.rename_photo("a", "b");
    let applied = desk.run().unwrap();
    assert_eq!((desk.says("b").unwrap(), desk.says("a").unwrap()), ("mine a".into(), "mine b".into()));
    assert_eq!((&applied.orphans[..], applied.notes.len()), (&["a".to_string()][..], 2), "{:?}", applied.notes);
    let why = ["its photo has that name now", "its photo is gone, and another one has its name"];
    assert!(why.iter().all(|why| applied.notes.iter().any(|note| note.ends_with(why))), "{:?}", applied.notes);
    // The photo comes back under a third name, and its text with it.
    desk.photos.insert("c".into(), "photo b".into());
    assert_eq!(desk.outcome("c"), (Provenance::Edited, "mine b".into()));
    assert_eq!(desk.outcome("b"), (Provenance::Edited, "mine a".into()));
}

#[test]
fn a_text_that_another_blocks_is_told_once_it_counts_for_nothing() {
    let mut desk = Desk::new(&["a"]);
    desk.run().unwrap();
    desk.save("a", "mine a");
    desk.run().unwrap();
    desk.rename_photo("a", "z");
    desk.save("z", "written for z");
    let applied = desk.run().unwrap();
    assert_eq!(applied.notes.len(), 1, "{:?}", applied.notes);
    assert!(applied.notes[0].contains("is the text of a photo that is called `z` now"), "{:?}", applied.notes);
    assert_eq!((desk.says("a").unwrap(), desk.outcome("z")), ("mine a".into(), (Provenance::Edited, "written for z".into())));
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
