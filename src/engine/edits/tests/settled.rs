//! What a person decides about texts: accept, merge, drop, prune.

use std::fs;

use crate::cache::faults::{Fault, arm, disarm, when};
use crate::edits::merge::Form;
use crate::edits::tests::desk::{Desk, MINE};
use crate::edits::{Action, Decision, Provenance, SettledText};

const MERGE: Decision = Decision::Merge(Form::AsItLooks);

/// `a` is edited, and the captioner is another one now.
fn stale() -> Desk {
    let mut desk = Desk::new(&["a", "b"]);
    desk.run().unwrap();
    desk.save("a", MINE);
    desk.captioner = 2;
    assert_eq!(desk.survey("a").provenance, Provenance::Stale);
    desk
}

#[test]
fn an_accepted_text_stays_and_is_no_longer_stale() {
    for asked in [false, true] {
        let mut desk = stale();
        if asked {
            desk.ask("a");
        }
        assert_eq!(desk.settle("a", Decision::Accept), SettledText::Accepted);
        assert_eq!(desk.says("a").unwrap(), MINE);
        assert_eq!(desk.survey("a").provenance, Provenance::Edited);
        assert_eq!(desk.outcome("a"), (Provenance::Edited, MINE.into()), "after a run too");
        assert_eq!(desk.settle("a", Decision::Accept), SettledText::Nothing("is not stale"));
        // Nothing but the key says that it was stale: back at the captioner of the beginning it is again.
        desk.captioner = 1;
        assert_eq!(desk.survey("a").provenance, Provenance::Stale);
    }
}

#[test]
fn a_dropped_text_makes_room_for_the_machines_and_is_kept() {
    let mut desk = stale();
    desk.ask("a");
    let SettledText::Replaced { kept: Some(kept) } = desk.settle("a", Decision::Drop) else { panic!("replaced") };
    assert_eq!(fs::read_to_string(kept).unwrap(), MINE);
    assert_eq!(desk.says("a").unwrap(), "captioner 2 sees photo a\n");
    assert_eq!(desk.judge("a").0, Provenance::Machine);
    assert_eq!(desk.outcome("a"), (Provenance::Machine, "captioner 2 sees photo a".into()));

    // Where the machine was not asked, the text goes and the next run writes the machine's.
    let mut desk = stale();
    let SettledText::TakenAway { kept } = desk.settle("a", Decision::Drop) else { panic!("taken away") };
    assert_eq!(fs::read_to_string(kept).unwrap(), MINE);
    assert_eq!((desk.says("a"), desk.judge("a")), (None, (Provenance::Machine, Action::Run)));
    assert_eq!(desk.outcome("a"), (Provenance::Machine, "captioner 2 sees photo a".into()));
    assert_eq!(desk.settle("a", Decision::Drop), SettledText::Nothing("is the machine's text"));
}

#[test]
fn an_unusable_file_can_be_dropped_and_nothing_else() {
    let mut desk = stale();
    desk.ask("a");
    let conflict = "<<<<<<< HEAD\nmine\n=======\ntheirs\n>>>>>>> x\n";
    desk.save("a", conflict);
    for decision in [Decision::Accept, MERGE] {
        let SettledText::Refused(why) = desk.settle("a", decision) else { panic!("refused") };
        assert!(why.contains("conflict markers") && why.contains("a.txt"), "{why}");
    }
    let SettledText::Replaced { kept: Some(kept) } = desk.settle("a", Decision::Drop) else { panic!("replaced") };
    assert_eq!(fs::read_to_string(kept).unwrap(), conflict);
}

#[test]
fn a_merge_takes_over_what_the_machine_says_anew() {
    let mut desk = stale();
    let SettledText::Refused(why) = desk.settle("a", MERGE) else { panic!("nobody asked the machine") };
    assert!(why.contains("show --new"), "{why}");
    desk.ask("a");
    // `captioner 1 sees photo a` became `captioner 2 sees photo a`.
    desk.save("a", "captioner 1 sees big photo a");
    let SettledText::Merged { text, kept: Some(kept) } = desk.settle("a", MERGE) else { panic!("merged") };
    assert_eq!(text, "captioner 2 sees big photo a");
    assert_eq!(fs::read_to_string(kept).unwrap(), "captioner 1 sees big photo a");
    assert_eq!(desk.says("a").unwrap(), "captioner 2 sees big photo a\n");
    assert_eq!(desk.outcome("a"), (Provenance::Edited, text));
    // The next merge starts from what the machine said this time.
    desk.captioner = 3;
    desk.ask("a");
    let SettledText::Merged { text, .. } = desk.settle("a", MERGE) else { panic!("merged") };
    assert_eq!(text, "captioner 3 sees big photo a");
}

#[test]
fn a_merge_in_conflict_writes_nothing_and_names_the_words() {
    let mut desk = stale();
    desk.ask("a");
    desk.save("a", "captioner X sees photo a");
    let SettledText::Refused(why) = desk.settle("a", MERGE) else { panic!("refused") };
    assert!(why.contains("`1`, you say `X` and it now says `2`"), "{why}");
    assert_eq!(desk.says("a").unwrap(), "captioner X sees photo a");
    assert_eq!(desk.survey("a").provenance, Provenance::Stale);
}

#[test]
fn a_text_that_was_there_first_merges_with_all_that_the_machine_says() {
    let mut desk = Desk::new(&["a"]);
    desk.save("a", "1girl, smile");
    desk.run().unwrap();
    desk.captioner = 2;
    assert_eq!(desk.survey("a").provenance, Provenance::Stale);
    desk.ask("a");
    let SettledText::Merged { text, .. } = desk.settle("a", Decision::Merge(Form::Tags)) else { panic!("merged") };
    assert_eq!(text, "1girl, smile, captioner 2 sees photo a");
}

#[test]
fn only_texts_without_a_photo_are_pruned() {
    let mut desk = stale();
    desk.save("old/gone", MINE);
    desk.save("gone-flip", "mirrored");
    desk.save("b-flip", "seen in a mirror");
    assert_eq!(desk.orphans(), ["gone-flip", "old/gone"]);
    for name in ["a", "b", "b-flip"] {
        let SettledText::Refused(why) = desk.settle(name, Decision::Prune) else { panic!("{name} is not pruned") };
        assert!(why.contains("`drop`"), "{why}");
    }
    let SettledText::TakenAway { kept } = desk.settle("old/gone", Decision::Prune) else { panic!("taken away") };
    assert_eq!(fs::read_to_string(kept).unwrap(), MINE);
    assert_eq!(desk.orphans(), ["gone-flip"]);
    // An orphan that the machine wrote goes with its row.
    desk.run().unwrap();
    desk.photos.remove("b");
    desk.run().unwrap();
    assert!(desk.lock.contains_key("b"));
    desk.settle("b", Decision::Prune);
    assert!(!desk.lock.contains_key("b"));
    let SettledText::Refused(why) = desk.settle("gone-flip", Decision::Accept) else { panic!("an orphan is pruned only") };
    assert!(why.contains("`prune`"), "{why}");
    let SettledText::TakenAway { kept } = desk.settle("b-flip", Decision::Prune) else {
        panic!("its item is gone with the photo")
    };
    assert_eq!(fs::read_to_string(kept).unwrap(), "seen in a mirror");
}

#[test]
fn the_text_of_a_mirror_can_be_dropped() {
    let mut desk = Desk::new(&["a"]);
    desk.save("a-flip", "seen in a mirror");
    desk.run().unwrap();
    assert_eq!(desk.survey("a-flip").mirror_of.as_deref(), Some("a"));
    let SettledText::TakenAway { kept } = desk.settle("a-flip", Decision::Drop) else { panic!("taken away") };
    assert_eq!(fs::read_to_string(kept).unwrap(), "seen in a mirror");
    assert!(!desk.run().unwrap().items[0].fields.contains_key("caption-flip"));
}

#[test]
fn a_decision_about_a_renamed_photo_moves_its_text_first() {
    let mut desk = stale();
    desk.run().unwrap();
    desk.rename_photo("a", "z");
    assert_eq!(desk.survey("z").provenance, Provenance::Stale);
    assert!(desk.survey("z").file.unwrap().ends_with("a.txt"));
    assert_eq!(desk.settle("z", Decision::Accept), SettledText::Accepted);
    assert_eq!((desk.says("a"), desk.says("z").unwrap()), (None, MINE.into()));
    assert_eq!(desk.outcome("z"), (Provenance::Edited, MINE.into()));
    assert!(!desk.lock.contains_key("a"));
}

#[test]
fn what_the_machine_cannot_look_at_yet_is_not_called_stale() {
    let desk = stale();
    let mut items = desk.items();
    items.iter_mut().for_each(|item| item.key = None);
    let editing = desk.read();
    assert_eq!(editing.survey(&items)[0].provenance, Provenance::Edited);
    let settled = editing.settle(&items, &["a".to_string()], Decision::Accept).unwrap();
    let SettledText::Refused(why) = &settled.texts[0].1 else { panic!("refused") };
    assert!(why.contains("run the stages before it"), "{why}");
}

#[test]
fn a_text_saved_while_it_is_decided_about_stays() {
    for (decision, asked) in [(Decision::Drop, true), (Decision::Drop, false), (MERGE, true)] {
        let mut desk = stale();
        desk.save("a", "captioner 1 sees big photo a");
        if asked {
            desk.ask("a");
        }
        let path = desk.path("a");
        when("rename.noreplace", move || fs::write(&path, "saved at the last moment").unwrap());
        let outcome = desk.settle("a", decision);
        disarm();
        let SettledText::Refused(why) = outcome else { panic!("{decision:?}: {outcome:?}") };
        assert!(why.contains("decide again"), "{why}");
        assert_eq!(desk.says("a").unwrap(), "saved at the last moment");
        assert_eq!(desk.hidden_files(), 0);
    }
}

#[test]
fn a_text_that_a_killed_command_took_away_comes_back() {
    for (place, exchanges) in
        [("edits.exchanged", true), ("displace.rename", true), ("edits.stepping", false), ("displace.rename", false)]
    {
        let mut desk = stale();
        desk.ask("a");
        if !exchanges {
            arm("rename.exchange", 0, Fault::Unsupported);
        }
        arm(place, 0, Fault::Killed);
        let names = ["a".to_string()];
        desk.read().settle(&desk.items(), &names, Decision::Drop).unwrap_err();
        assert!(disarm(), "{place}");
        let applied = desk.run().unwrap();
        assert_eq!(applied.items[0].provenance, Provenance::Stale, "{place}");
        assert_eq!((desk.says("a").unwrap(), desk.hidden_files()), (MINE.to_string(), 0), "{place}");
    }
}

#[test]
fn a_file_system_that_cannot_exchange_is_recovered_between_any_two_steps() {
    // The third rename of an exchange in steps: the text that went aside lies there, and what took its place is in the folder.
    for after in 0..6 {
        let mut desk = stale();
        desk.ask("a");
        arm("rename.exchange", 0, Fault::Unsupported);
        arm("rename.noreplace", after, Fault::Killed);
        let names = ["a".to_string()];
        let outcome = desk.read().settle(&desk.items(), &names, Decision::Drop);
        disarm();
        // Also the recovery has to do without an exchange.
        arm("rename.exchange", 0, Fault::Unsupported);
        desk.run().unwrap();
        disarm();
        let kept = desk.says("a").as_deref() == Some(MINE) || desk.displaced().iter().any(|text| text == MINE);
        assert!(kept && desk.hidden_files() == 0, "{after}: {outcome:?}");
    }
}

#[test]
fn a_displaced_text_survives_a_cache_on_another_disk() {
    for place in ["displace.copy", "displace.sync", "displace.remove"] {
        let mut desk = stale();
        arm("displace.rename", 0, Fault::OtherFileSystem);
        arm(place, 0, Fault::DiskFull);
        let names = ["a".to_string()];
        let error = desk.read().settle(&desk.items(), &names, Decision::Drop).unwrap_err();
        assert!(disarm());
        assert!(format!("{error:#}").contains("free space"), "{error:#}");
        assert_eq!(desk.displaced(), Vec::<String>::new(), "{place}: nothing is left of a copy that failed");
        desk.run().unwrap();
        assert_eq!(desk.says("a").unwrap(), MINE, "{place}");
    }
    let mut desk = stale();
    arm("displace.rename", 0, Fault::OtherFileSystem);
    let SettledText::TakenAway { kept } = desk.settle("a", Decision::Drop) else { panic!("taken away") };
    assert!(disarm());
    assert_eq!(fs::read_to_string(kept).unwrap(), MINE);
}
