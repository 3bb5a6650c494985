//! Damaged caches: nothing damaged is ever used, it is said, and the next run makes it again.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use loramill::cache::fsck::Depth;
use loramill::pipeline::item_set;
use loramill::pipeline::recorded::TREE_FIELD;

use crate::engine::bed::{Bed, Heard};

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
        // One of the right size is found when it is read: the stage fails once, and says what to do.
        let record = bed.try_run(&Heard::default()).unwrap();
        if !record.is_ok() {
            let note = record.stage("cut").unwrap().note.clone().unwrap();
            assert!(note.contains("damaged and was removed: run again"), "{name}: {note}");
            bed.run();
        }
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
        let options = crate::engine::collecting::DELETE;
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
