//! What a cache keeps only to save time: damage to it costs time and nothing else, is said, and is put right.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use loramill_engine::cache::fsck::Depth;
use loramill_engine::decide::recorded::TREE_FIELD;
use loramill_engine::kind::item_set;

use crate::bed::Bed;
use crate::folders::files_below;

const MAP: &str = "  echo: { images: photos, suffix: A, log: LOG }\n  caption: { images: echo, log: LOG }\n  \
                   gather: { images: caption, log: LOG }";

/// By name, what happens to the file.
type Damage = (&'static str, fn(&Path));

const DAMAGES: &[Damage] = &[
    ("flipped at its start", |path| flip(path, |_| 0)),
    ("flipped in its middle", |path| flip(path, |length| length / 2)),
    ("flipped at its end", |path| flip(path, |length| length - 1)),
    ("cut", |path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() * 2 / 3]).unwrap();
    }),
    ("empty", |path| fs::write(path, b"").unwrap()),
    ("gone", |path| fs::remove_file(path).unwrap()),
    ("of another file", |path| fs::write(path, "this is something else\n".repeat(40)).unwrap()),
];

fn flip(path: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let place = at(bytes.len());
    bytes[place] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// A pipeline that was run, with all its indices written.
fn bed() -> Bed {
    let bed = Bed::new(MAP);
    bed.write("captions/two.txt", "mine");
    bed.run();
    // Files written a moment ago are in no index.
    thread::sleep(Duration::from_millis(60));
    assert!(bed.run().is_empty());
    bed
}

/// The indices and manifests, by their kind.
fn files(bed: &Bed) -> Vec<(&'static str, PathBuf)> {
    let mut files: Vec<(&'static str, PathBuf)> =
        ["stat-index", "text-index", "record-index"].map(|name| (name, bed.at("cache").join(name))).into();
    // A short record log needs no index.
    files.retain(|(_, path)| path.exists());
    files.extend(files_below(&bed.at("cache/outputs")).into_keys().map(|name| ("outputs", bed.at("cache/outputs").join(name))));
    files
}

#[test]
fn damage_to_what_only_saves_time_runs_nothing_and_loses_nothing() {
    for (name, damage) in DAMAGES {
        let bed = bed();
        let (lock, out, texts) = (bed.lock(), files_below(&bed.at("out")), files_below(&bed.at("captions")));
        let files = files(&bed);
        let kinds: BTreeSet<&str> = files.iter().map(|(kind, _)| *kind).collect();
        assert!(kinds.is_superset(&BTreeSet::from(["stat-index", "text-index", "outputs"])), "{kinds:?}");
        for (kind, path) in files {
            damage(&path);
            let problems = bed.damage();
            let is_said = problems.iter().any(|problem| problem.path == path);
            // A missing index is none yet, and what lies in `out/` is looked at file by file.
            assert_eq!(is_said, kind != "outputs" && *name != "gone", "{kind} {name}: {problems:?}");
            assert!(bed.plan().is_fresh(), "{kind} {name}");
            let (did, record, events) = bed.run_all();
            assert!(did.is_empty() && record.did_nothing(), "{kind} {name}: {did:?}");
            assert!(!format!("{events:?}").contains("you changed"), "{kind} {name}: {events:?}");
            assert_eq!(bed.lock(), lock, "{kind} {name}");
            assert_eq!(files_below(&bed.at("out")), out, "{kind} {name}");
            assert_eq!(files_below(&bed.at("captions")), texts, "{kind} {name}");
            let cache = bed.cache();
            let mut checkup = cache.check(Depth::Full, &[(TREE_FIELD, item_set::check)]).unwrap();
            cache.repair(&mut checkup).unwrap();
            assert_eq!(bed.damage(), [], "{kind} {name}");
            assert!(bed.run().is_empty(), "{kind} {name}");
        }
    }
}

#[test]
fn a_damaged_list_of_outputs_hides_no_file_that_a_person_changed() {
    for (name, damage) in DAMAGES {
        let bed = bed();
        bed.write("out/echo/two.txt", "drawn by hand");
        for (_, path) in files(&bed).into_iter().filter(|(kind, _)| *kind == "outputs") {
            damage(&path);
        }
        assert!(bed.run().is_empty(), "{name}");
        assert_eq!(fs::read_to_string(bed.at("out/echo/two.txt")).unwrap(), "text twoA", "{name}");
        assert_eq!(fs::read_to_string(bed.at("out/.yours/echo/two.txt")).unwrap(), "drawn by hand", "{name}");
    }
}

#[test]
fn a_damaged_lock_costs_nothing_and_is_written_anew() {
    for (name, damage) in DAMAGES {
        let bed = bed();
        let (lock, texts) = (fs::read_to_string(bed.at("pipeline.lock")).unwrap(), files_below(&bed.at("captions")));
        damage(&bed.at("pipeline.lock"));
        assert!(bed.run().is_empty(), "{name}");
        let rows = fs::read_to_string(bed.at("pipeline.lock")).unwrap();
        let is_stage = |row: &&str| row.starts_with("stage ") || row.starts_with("input ");
        let of_stages = |text: &str| text.lines().filter(is_stage).map(str::to_string).collect::<Vec<_>>();
        assert_eq!(of_stages(&rows), of_stages(&lock), "{name}");
        assert_eq!(files_below(&bed.at("captions")), texts, "{name}");
        bed.stages(&MAP.replace("caption: { images: echo", "caption: { images: echo, prefix: \"the \""));
        bed.run();
        assert_eq!(fs::read_to_string(bed.at("captions/one.txt")).unwrap(), "the text oneA\n", "{name}");
        assert_eq!(fs::read_to_string(bed.at("captions/two.txt")).unwrap(), "mine", "{name}");
    }
}
