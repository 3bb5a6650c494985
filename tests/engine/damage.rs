//! Damaged caches: nothing damaged is ever used, it is said, and the next run makes it again.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use loramill_engine::cache::fsck::Depth;
use loramill_engine::decide::recorded::TREE_FIELD;
use loramill_engine::gc::derived::derived_since;
use loramill_engine::kind::item_set;
use loramill_engine::out::restore::restore;
use loramill_engine::run::events::{Event, StageState};

use crate::bed::Bed;

const MAP: &str = "  echo: { images: photos, suffix: A, log: LOG }\n  cut: { images: echo, letters: 4, log: LOG }\n  \
                   gather: { images: cut, log: LOG }";

/// By name, what happens to the file.
type Damage = (&'static str, fn(&Path));

const DAMAGES: &[Damage] = &[
    ("flipped", |path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[0] ^= 4;
        overwrite(path, &bytes);
    }),
    ("truncated", |path| overwrite(path, &fs::read(path).unwrap()[..3])),
    ("empty", |path| overwrite(path, b"")),
    ("unreadable", |path| fs::set_permissions(path, Permissions::from_mode(0o0)).unwrap()),
    ("a folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
];

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The object of an item.
fn object(bed: &Bed, stage: &str, item: &str) -> PathBuf {
    let items = bed.items(stage);
    let item = items.iter().find(|i| i.name == item).unwrap();
    bed.cache().path(&item.fields["image"].digest)
}

fn repair(bed: &Bed) {
    let cache = bed.cache();
    let mut checkup = cache.check(Depth::Full, &[(TREE_FIELD, item_set::check)]).unwrap();
    cache.repair(&mut checkup).unwrap();
    assert!(checkup.problems.iter().all(|problem| problem.repaired));
    assert_eq!(bed.damage(), []);
}

#[test]
fn a_damaged_object_is_said_and_repaired_and_made_again() {
    for (name, damage) in DAMAGES {
        let bed = Bed::new(MAP);
        bed.run();
        let (lock, out) = (bed.lock(), fs::read(bed.at("out/echo/two.txt")).unwrap());
        damage(&object(&bed, "echo", "two"));
        assert_eq!(bed.damage().len(), 1, "{name}: {:?}", bed.damage());
        repair(&bed);
        assert_eq!(bed.run(), ["echo two"], "{name}");
        assert_eq!(bed.lock(), lock, "{name}");
        assert_eq!(fs::read(bed.at("out/echo/two.txt")).unwrap(), out, "{name}");
    }
}

#[test]
fn a_damaged_object_is_never_read_by_a_stage() {
    let changed = MAP.replace("letters: 4", "letters: 5");
    let sound = Bed::new(&changed);
    sound.run();
    for (name, damage) in &DAMAGES[..3] {
        let bed = Bed::new(MAP);
        bed.run();
        damage(&object(&bed, "echo", "two"));
        bed.stages(&changed);
        // One of the right size is found when it is read: what it was is made again in the same run.
        let (did, record, events) = bed.run_all();
        assert!(record.is_ok() && did.contains(&"echo two".to_string()), "{name}: {record:?}");
        let is_told = |event: &Event| matches!(event, Event::Said { message, .. } if message.contains("other bytes"));
        assert_eq!(events.iter().any(is_told), *name == "flipped", "{name}: {events:?}");
        let failed = |event: &&Event| matches!(event, Event::StageFinished { state: StageState::Failed, .. });
        assert_eq!(events.iter().filter(failed).count(), 0, "{name}: {events:?}");
        assert_eq!(bed.digests("gather"), sound.digests("gather"), "{name}");
        assert_eq!(bed.damage(), [], "{name}");
    }
}

#[test]
fn a_damaged_list_of_a_stage_is_made_again_without_running_it() {
    for (name, damage) in &DAMAGES[..4] {
        let bed = Bed::new(MAP);
        bed.run();
        let lock = bed.lock();
        let tree = bed.cache().path(&lock.stages["echo"][0].out);
        damage(&tree);
        assert_eq!(bed.damage().len(), 1, "{name}: {:?}", bed.damage());
        // Who collects does not know what it named.
        let options = crate::collecting::DELETE;
        if *name != "unreadable" {
            let collected = bed.collect(options);
            assert!(!collected.deleted && collected.problems[0].text.contains("fsck"), "{name}: {:?}", collected.problems);
        }
        repair(&bed);
        assert!(bed.run().is_empty(), "{name}");
        assert_eq!(bed.lock(), lock, "{name}");
        assert!(bed.collect(options).deleted);
        assert!(bed.plan().is_fresh());
    }
}

#[test]
fn what_a_killed_run_was_about_to_show_is_cleared_away() {
    let bed = Bed::new(MAP);
    bed.run();
    bed.write("out/.loramill-tmp/0", "half of a pic");
    assert!(bed.run().is_empty());
    assert!(!bed.at("out/.loramill-tmp").exists());
}

#[test]
fn a_damaged_record_log_costs_no_more_than_its_records() {
    let bed = Bed::new(MAP);
    bed.run();
    let lock = bed.lock();
    let log = bed.at("cache/records");
    let whole = fs::read(&log).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (name, bytes) in [("flipped", &flipped[..]), ("torn", &whole[..whole.len() - 7]), ("empty", b"")] {
        fs::write(&log, bytes).unwrap();
        let problems = bed.damage();
        // That nothing is missing from an empty log only an index could tell.
        assert!(!problems.is_empty() || name == "empty", "{name}: {problems:?}");
        repair(&bed);
        bed.run();
        assert_eq!(bed.lock(), lock, "{name}");
        assert!(bed.plan().is_fresh(), "{name}");
        assert_eq!(bed.damage(), [], "{name}");
    }
    OpenOptions::new().append(true).open(&log).unwrap().write_all(b"torn").unwrap();
    assert_eq!(bed.damage().len(), 1);
    bed.stages(&MAP.replace("suffix: A", "suffix: B"));
    bed.run();
    assert_eq!(bed.damage(), [], "the next writer cuts off what is torn");
}

#[test]
fn a_flipped_byte_never_reaches_out() {
    let bed = Bed::new(MAP);
    bed.run();
    let lock = bed.lock();
    let shown = |item: &str| fs::read(bed.at("out/echo").join(format!("{item}.txt"))).unwrap();
    let before = ["one", "two", "three"].map(shown);
    // A run writes what is missing in `out/`, and makes again what it finds damaged on the way.
    for item in ["one", "two"] {
        DAMAGES[0].1(&object(&bed, "echo", item));
    }
    fs::remove_dir_all(bed.at("out")).unwrap();
    let (did, record, _) = bed.run_all();
    assert!(record.is_ok(), "{record:?}");
    assert_eq!(did, ["echo one", "echo two"]);
    assert_eq!((["one", "two", "three"].map(shown), bed.lock()), (before.clone(), lock.clone()));
    assert_eq!(bed.damage(), []);
    // `restore` runs nothing: what is damaged is missing.
    DAMAGES[0].1(&object(&bed, "echo", "two"));
    fs::remove_dir_all(bed.at("out")).unwrap();
    let restored = restore(&bed.cache(), &bed.at("out"), &lock, None, bed.kinds).unwrap();
    let echo = restored.iter().find(|stage| stage.name == "echo").unwrap();
    assert_eq!((echo.missing.as_slice(), echo.is_whole()), (&["two".to_string()][..], false));
    assert!(!bed.at("out/echo/two.txt").exists() && bed.at("out/echo/one.txt").exists());
    assert_eq!(bed.run(), ["echo two"]);
    assert_eq!(["one", "two", "three"].map(shown), before);
}

#[test]
fn a_damaged_object_does_not_stand_for_one_that_was_made_anew() {
    let mut bed = Bed::new(MAP);
    bed.run();
    DAMAGES[0].1(&object(&bed, "echo", "two"));
    bed.force = vec![("echo", "two")];
    let (did, record, _) = bed.run_all();
    assert!(record.is_ok() && did == ["echo two"], "{record:?} {did:?}");
    assert_eq!(bed.damage(), []);
}

#[test]
fn copies_in_out_of_what_is_damaged_are_written_anew_after_a_repair() {
    let bed = Bed::new(MAP);
    bed.run();
    let two = object(&bed, "echo", "two");
    // As a version that did not look left it: the copy has the bytes of the damaged object, and is believed.
    DAMAGES[0].1(&two);
    let cache = bed.cache();
    let checkup = cache.check(Depth::Full, &[(TREE_FIELD, item_set::check)]).unwrap();
    let damaged = cache.damaged_objects(&checkup);
    assert_eq!(damaged.len(), 1);
    repair(&bed);
    let shown = bed.at("out/echo/two.txt");
    let before = fs::metadata(&shown).unwrap();
    loramill_engine::gc::derived::distrust_copies(&cache, &damaged).unwrap();
    let (did, record, events) = bed.run_all();
    assert!(record.is_ok() && did == ["echo two"], "{record:?}");
    let after = fs::metadata(&shown).unwrap();
    assert_ne!((before.ino(), before.modified().unwrap()), (after.ino(), after.modified().unwrap()), "it is another file");
    let moved = |event: &Event| matches!(event, Event::Said { message, .. } if message.contains("you changed"));
    assert!(!events.iter().any(moved), "nobody changed it: {events:?}");
}

#[test]
fn results_that_were_made_from_damaged_bytes_are_named_after_a_run_has_met_the_damage() {
    // Of the right size, and of another, which nobody reads.
    for (name, damage) in &DAMAGES[..2] {
        let bed = Bed::new(MAP);
        bed.run();
        let two = object(&bed, "echo", "two");
        damage(&two);
        fs::File::open(&two).unwrap().set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        fs::remove_file(bed.at("out/echo/two.txt")).unwrap();
        let (did, record, events) = bed.run_all();
        assert!(record.is_ok() && did == ["echo two"], "{name}: {record:?} {did:?}");
        let is_told = |event: &Event| matches!(event, Event::Said { message, .. } if message.contains("`loramill fsck` names"));
        assert_eq!(events.iter().any(is_told), *name == "flipped", "{name}: {events:?}");
        assert_eq!(bed.damage(), [], "{name}");
        let kinds =
            || -> Vec<String> { derived_since(&bed.cache(), &[]).unwrap().into_iter().map(|result| result.kind).collect() };
        assert!(kinds().contains(&"cut".to_string()) && kinds().contains(&"gather".to_string()), "{name}: {:?}", kinds());
        assert!(!kinds().contains(&"echo".to_string()), "{name}");
        repair(&bed);
        assert!(kinds().is_empty(), "{name}: {:?}", kinds());
    }
}

#[test]
fn results_that_were_made_from_damaged_bytes_are_named() {
    let bed = Bed::new(MAP);
    bed.run();
    let cache = bed.cache();
    let two = object(&bed, "echo", "two");
    let digest = bed.digests("echo")[&("two".to_string(), "image".to_string())];
    DAMAGES[0].1(&two);
    // Written after all that was made from it, so that nothing rests on it ...
    fs::File::open(&two).unwrap().set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
    assert_eq!(derived_since(&cache, &[digest]).unwrap(), []);
    // ... and before.
    fs::File::open(&two).unwrap().set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    let derived = derived_since(&cache, &[digest]).unwrap();
    let kinds: Vec<&str> = derived.iter().map(|result| result.kind.as_str()).collect();
    assert!(kinds.contains(&"cut") && kinds.contains(&"gather") && !kinds.contains(&"echo"), "{derived:?}");
    let cut: Vec<_> = derived.iter().filter(|result| result.kind == "cut").flat_map(|result| &result.objects).collect();
    assert_eq!(cut, [&bed.digests("cut")[&("two".to_string(), "image".to_string())]], "of the others nothing");
    repair(&bed);
    assert_eq!(derived_since(&bed.cache(), &[digest]).unwrap(), [], "it is gone");
}
