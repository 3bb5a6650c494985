//! Kills, full disks and people who save at the worst moment, while a run writes.

use std::fs;

use crate::cache::faults::{Fault, arm, disarm, when};
use crate::edits::Provenance;
use crate::edits::tests::desk::{Desk, MINE};

const PLACES: [&str; 7] =
    ["edits.write", "edits.sync", "edits.ready", "edits.exchange", "edits.exchanged", "displace.rename", "edits.back"];

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
fn a_name_as_long_as_a_disk_takes_is_no_hindrance_and_a_kill_loses_no_text_of_it() {
    let name = "n".repeat(251);
    for place in [None, Some("edits.exchange"), Some("edits.exchanged"), Some("displace.rename")] {
        let mut desk = Desk::new(&[&name]);
        desk.run().unwrap();
        assert_eq!(desk.outcome(&name), (Provenance::Machine, format!("captioner 1 sees photo {name}")));
        desk.captioner = 2;
        if let Some(place) = place {
            let path = desk.path(&name);
            when("edits.ready", move || fs::write(&path, MINE).unwrap());
            arm(place, 0, Fault::Killed);
            desk.run().unwrap_err();
            disarm();
            desk.run().unwrap();
            assert_eq!(desk.says(&name).unwrap(), MINE, "{place:?}");
        } else {
            desk.run().unwrap();
            assert_eq!(desk.displaced(), [format!("captioner 1 sees photo {name}\n")]);
        }
        assert_eq!(desk.hidden_files(), 0, "{place:?}");
    }
}

#[test]
fn what_is_no_text_under_a_name_of_ours_costs_nothing_and_goes_back() {
    let mut desk = Desk::new(&["a"]);
    desk.run().unwrap();
    let digits = "ab".repeat(32);
    let beside = |name: &str| desk.folder().join(format!(".loramill-swap-{digits}-{name}"));
    let (huge, link) = (beside("b.txt"), beside("c.txt"));
    fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    desk.run().unwrap();
    assert!(!huge.exists() && fs::metadata(desk.path("b")).unwrap().len() == 1 << 40);
    assert!(link.is_symlink() && !desk.path("c").exists(), "no run makes a link");
}
