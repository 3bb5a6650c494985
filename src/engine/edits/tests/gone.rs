//! Texts that are gone all at once.

use std::fs;

use crate::edits::SettledText;
use crate::edits::lost::LostText;
use crate::edits::tests::desk::{Desk, MINE};

const PHOTOS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Two of six texts are a person's, and one for a mirror.
fn used() -> Desk {
    let mut desk = Desk::new(&PHOTOS);
    desk.run().unwrap();
    desk.save("a", MINE);
    desk.save("b", "mine b");
    desk.save("c-flip", "c in a mirror");
    desk.run().unwrap();
    desk
}

fn lost(desk: &Desk) -> Vec<String> {
    desk.read().lost(&desk.items()).into_iter().map(|text| text.name).collect()
}

#[test]
fn a_folder_that_is_gone_is_missed_and_single_texts_are_not() {
    let desk = used();
    assert_eq!(lost(&desk), Vec::<String>::new());
    for name in ["a", "b", "c-flip"] {
        fs::remove_file(desk.path(name)).unwrap();
        assert_eq!(lost(&desk), Vec::<String>::new(), "a deleted text is to be written again");
    }
    fs::remove_dir_all(desk.folder()).unwrap();
    assert_eq!(lost(&desk), ["a", "b", "c-flip"]);
    // Somebody begins anew in a new folder.
    desk.save("a", "begun anew");
    assert_eq!(lost(&desk), ["b", "c-flip"]);
}

#[test]
fn lost_texts_follow_their_photos_and_go_with_them() {
    let mut desk = used();
    fs::remove_dir_all(desk.folder()).unwrap();
    desk.rename_photo("a", "z");
    desk.photos.remove("b");
    assert_eq!(lost(&desk), ["c-flip", "z"]);
}

#[test]
fn what_only_machines_wrote_is_not_missed() {
    let mut desk = Desk::new(&PHOTOS);
    desk.run().unwrap();
    fs::remove_dir_all(desk.folder()).unwrap();
    assert_eq!(lost(&desk), Vec::<String>::new());
}

#[test]
fn lost_texts_are_written_again_and_what_lies_there_by_then_stays() {
    let desk = used();
    fs::remove_dir_all(desk.folder()).unwrap();
    let editing = desk.read();
    let mut missed = editing.lost(&desk.items());
    missed.push(LostText { name: "d".into(), text: Some(crate::cache::digest::Digest::of(b"never stored")) });
    desk.save("b", "written at this moment");
    let outcomes = editing.write_again(&missed).unwrap();
    assert_eq!((desk.says("a").unwrap(), desk.says("c-flip").unwrap()), (format!("{MINE}\n"), "c in a mirror\n".into()));
    assert_eq!(desk.says("b").unwrap(), "written at this moment");
    let is_restored =
        |name: &str| outcomes.iter().any(|(told, outcome)| told == name && matches!(outcome, SettledText::Restored { .. }));
    assert!(is_restored("a") && is_restored("c-flip") && !is_restored("b") && !is_restored("d"), "{outcomes:?}");
    assert_eq!(desk.hidden_files(), 0);
}
