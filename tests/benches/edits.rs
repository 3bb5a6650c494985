//! What the human layer costs for large folders of captions.
//!
//! ```text
//! cargo bench --no-default-features --bench edits -- [CAPTIONS=10000]
//! ```
//!
//! A folder of captions that the machine wrote is read, judged and applied again: with nothing to do, with one text edited, with a
//! hundredth of the photos renamed. Times are of a warm page cache; the folder lies below the target folder and is removed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use loramill::engine::cache::Cache;
use loramill::engine::cache::digest::Digest;
use loramill::engine::edits::{Applied, EditableItem, Editing};
use loramill::engine::lock_file::EditRows;

/// Of so many times each step is told at its best: what else the machine does is not meant.
const TIMES: usize = 5;
const STEPS: [&str; 5] = ["recover", "read", "digest", "judge", "apply"];

fn main() {
    // cargo adds `--bench`.
    let number = std::env::args().skip(1).find(|argument| argument != "--bench");
    let count = number.map_or(10_000, |number| number.parse().expect("the number of captions"));
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the folder can be written");
    let mut desk = Desk {
        cache_folder: folder.path().join("cache"),
        captions: folder.path().join("captions"),
        photos: (0..count).map(|number| (format!("{:02}/IMG_{number:06}", number % 64), number)).collect(),
        rows: EditRows::new(),
    };
    println!("{count} captions, milliseconds");
    println!("{:>24}  {}", "", STEPS.map(|step| format!("{step:>9}")).join(""));
    desk.timed("written for the first time", 1);
    // Files are remembered once they are older than the clock's tick.
    std::thread::sleep(std::time::Duration::from_millis(50));
    desk.timed("read for the index", 1);
    desk.timed("nothing to do", TIMES);
    fs::write(desk.captions.join("00/IMG_000000.txt"), "by hand").expect("written");
    desk.timed("one edited", 1);
    desk.timed("nothing to do", TIMES);
    let renamed: Vec<(String, usize)> = desk.photos.iter().step_by(100).map(|(name, number)| (name.clone(), *number)).collect();
    for (name, number) in &renamed {
        desk.photos.remove(name);
        desk.photos.insert(format!("{name}-renamed"), *number);
    }
    let moved = desk.timed("a hundredth renamed", 1).notes.len();
    assert_eq!(moved, renamed.len());
}

struct Desk {
    cache_folder: PathBuf,
    captions: PathBuf,
    /// By name, what tells one from another.
    photos: BTreeMap<String, usize>,
    rows: EditRows,
}

impl Desk {
    fn timed(&mut self, what: &str, times: usize) -> Applied {
        let mut best = [f64::INFINITY; STEPS.len()];
        let mut applied = None;
        for _ in 0..times {
            let (took, outcome) = self.run();
            best = std::array::from_fn(|step| best[step].min(took[step]));
            self.rows.clone_from(&outcome.rows);
            applied = Some(outcome);
        }
        println!("{what:>26}{}", best.map(|time| format!("{time:9.1}")).join(""));
        applied.expect("it ran at least once")
    }

    /// What a run does about texts, in a process of its own; the milliseconds of each step.
    fn run(&self) -> ([f64; STEPS.len()], Applied) {
        let cache = Cache::open(&self.cache_folder).expect("a cache");
        let batch = cache.batch();
        let items: Vec<EditableItem> = self
            .photos
            .iter()
            .map(|(name, number)| EditableItem {
                name: name.clone(),
                key: Some(Digest::of(format!("key {number}").as_bytes())),
                photo: Digest::of(format!("photo {number}").as_bytes()),
                machine: Some(batch.put_bytes(format!("a photo of number {number}").as_bytes()).expect("stored").artifact("txt")),
            })
            .collect();
        batch.flush().expect("durable");

        let mut times = Vec::new();
        let mut since = Instant::now();
        let mut lap = || {
            times.push(since.elapsed().as_secs_f64() * 1e3);
            since = Instant::now();
        };
        let notes = Editing::recover(&cache, &self.captions, "txt", &self.rows).expect("the folder can be read");
        assert!(notes.is_empty(), "{notes:?}");
        lap();
        let editing = Editing::read(&cache, &self.captions, "caption", "txt", &self.rows).expect("the folder can be read");
        lap();
        editing.contents_digest();
        lap();
        editing.judge(&items);
        lap();
        let applied = editing.apply(&items, &batch).expect("texts are written");
        lap();
        batch.flush().expect("durable");
        (times.try_into().expect("one for each step"), applied)
    }
}
