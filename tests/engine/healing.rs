//! The lock and the files of the cache, cut and changed at every byte, and locks as git merges them: the next run puts them right, runs nothing
//! that it need not, and a person's text stays.

use std::fs;

use loramill_engine::lock_file::LockFile;

use crate::bed::{Bed, Heard};

const STAGES: &str = "  caption: { images: photos, log: LOG }\n  echo: { images: caption, log: LOG }";
const MINE: &str = "what I see\n";

/// A pipeline that has run, with one text by a person, which was there first.
fn bed() -> Bed {
    let bed = Bed::new(STAGES);
    fs::remove_file(bed.at("images/three.png")).unwrap();
    bed.write("captions/two.txt", MINE);
    bed.run();
    bed
}

/// By name, the bytes cut before each `step`-th byte, and with one bit of it changed.
fn damages(whole: &[u8], step: usize) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
    (0..whole.len()).step_by(step).flat_map(move |at| {
        let mut changed = whole.to_vec();
        changed[at] ^= 1 << (at % 8);
        [(format!("cut at {at}"), whole[..at].to_vec()), (format!("changed at {at}"), changed)]
    })
}

/// Runs, and expects that no piece of work had to run and that the texts are as they were.
fn run_and_find_all_as_it_was(bed: &Bed, what: &str) {
    let before = bed.log().len();
    let record = bed.try_run(&Heard::default()).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    assert!(record.is_ok(), "{what}: {record:?}");
    assert_eq!(bed.log().len(), before, "{what}: {:?}", bed.log().split_off(before));
    assert_eq!(fs::read_to_string(bed.at("captions/two.txt")).unwrap(), MINE, "{what}");
    assert_eq!(fs::read_to_string(bed.at("captions/one.txt")).unwrap(), "a text one\n", "{what}");
}

#[test]
fn a_lock_cut_or_changed_anywhere_is_put_right_by_the_next_run() {
    let bed = bed();
    let whole = fs::read_to_string(bed.at("pipeline.lock")).unwrap();
    // Where a row of a text says what the machine wrote: nothing else says so.
    let values_of_edits = |at: usize| {
        let start = whole[..at].rfind('\n').map_or(0, |end| end + 1);
        whole[start..].starts_with("edit ") && whole[start..at].contains('=')
    };
    for (what, bytes) in damages(whole.as_bytes(), 1) {
        fs::write(bed.at("pipeline.lock"), &bytes).unwrap();
        run_and_find_all_as_it_was(&bed, &what);
        let is_healed = |row: &str| {
            let healed = fs::read_to_string(bed.at("pipeline.lock")).unwrap();
            healed.lines().any(|found| found == row)
        };
        let at: usize = what.rsplit(' ').next().and_then(|at| at.parse().ok()).expect("a place");
        let may_stay = bytes.len() == whole.len() && values_of_edits(at);
        assert!(may_stay || whole.lines().all(is_healed), "{what}: {}", fs::read_to_string(bed.at("pipeline.lock")).unwrap());
        bed.write("pipeline.lock", &whole);
    }
}

#[test]
fn a_lock_is_put_right_wherever_a_merge_puts_the_rows_of_another() {
    let bed = bed();
    let mine = fs::read_to_string(bed.at("pipeline.lock")).unwrap();
    bed.stages(&STAGES.replace("caption: { images: photos", "caption: { images: photos, prefix: \"the \""));
    bed.write("images/one.png", "text four");
    bed.run();
    let theirs = fs::read_to_string(bed.at("pipeline.lock")).unwrap();
    bed.stages(STAGES);
    bed.write("images/one.png", "text one");
    bed.run();
    assert_eq!(fs::read_to_string(bed.at("pipeline.lock")).unwrap(), mine);

    let rows: Vec<&str> = mine.lines().collect();
    let others: Vec<&str> = theirs.lines().filter(|row| !rows.contains(row)).collect();
    assert!(others.len() >= 4, "{others:?}");
    for at in 0..=rows.len() {
        let (above, below) = rows.split_at(at);
        let with = |between: &[&str]| [above, between, below].concat().join("\n") + "\n";
        let mut merges = vec![
            ("all", with(&others)),
            ("conflict", with(&[&["<<<<<<< HEAD"][..], below, &["======="], &others, &[">>>>>>> theirs"]].concat())),
            ("twice", with(above)),
            ("theirs alone", [&others[..], below].concat().join("\n") + "\n"),
        ];
        merges.extend(others.iter().map(|row| ("one", with(&[row]))));
        for (how, merged) in merges {
            bed.write("pipeline.lock", &merged);
            run_and_find_all_as_it_was(&bed, &format!("{how} before row {at}"));
            let healed = fs::read_to_string(bed.at("pipeline.lock")).unwrap();
            assert_eq!(healed, mine, "{how} before row {at}");
        }
    }
}

#[test]
fn indices_cut_or_changed_anywhere_cost_nothing_but_time() {
    let bed = bed();
    let lock = bed.lock();
    // Files are remembered once they are older than the clock's tick.
    std::thread::sleep(std::time::Duration::from_millis(50));
    bed.run();
    for name in ["stat-index", "text-index"] {
        let path = bed.at("cache").join(name);
        let whole = fs::read(&path).unwrap();
        for (what, bytes) in damages(&whole, 13) {
            fs::write(&path, bytes).unwrap();
            run_and_find_all_as_it_was(&bed, &format!("{name} {what}"));
            assert_eq!(bed.lock(), lock, "{name} {what}");
        }
    }
    assert_eq!(bed.damage(), []);
}

#[test]
fn a_record_log_cut_or_changed_anywhere_costs_no_more_than_its_records() {
    let bed = bed();
    let lock = bed.lock();
    let log = bed.at("cache/records");
    let whole = fs::read(&log).unwrap();
    for (what, bytes) in damages(&whole, 17) {
        fs::write(&log, &bytes).unwrap();
        // What kind of file it is stands in its first 16 bytes.
        if bytes.len() == whole.len() && bytes[..16] != whole[..16] {
            let error = loramill_engine::cache::Cache::open(&bed.at("cache")).unwrap_err().to_string();
            assert!(error.contains("records`") && error.contains("move it away"), "{what}: {error}");
            continue;
        }
        bed.run();
        assert_eq!(bed.lock(), lock, "{what}");
        assert_eq!(fs::read_to_string(bed.at("captions/two.txt")).unwrap(), MINE, "{what}");
        assert!(bed.plan().is_fresh(), "{what}");
    }
    fs::remove_file(&log).unwrap();
    bed.run();
    assert_eq!(LockFile::read(&bed.at("pipeline.lock")).unwrap(), lock);
}
