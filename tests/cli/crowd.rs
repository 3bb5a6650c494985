//! Many processes of the program at once, on one pipeline or on one cache.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use image::{Rgb, RgbImage};
use loramill::engine::cache::Cache;
use loramill::engine::cache::digest::Digest;
use loramill::engine::kind::item_set;
use loramill::engine::lock_file::LockFile;
use loramill::sd::data::encode;

use super::{command, loramill, said};
use crate::folders::{Files, files_below};

const PROCESSES: usize = 8;

const PIPELINE: &str = "\
concept: star
inputs: { photos: images/ }
stages:
  crop: { images: photos }
  resize: { images: crop, size: 16 }
  caption: { images: resize, model: template, template: \"a {name}\" }
  flip: { images: caption }
";

/// One cache, and any number of concepts beside it.
struct Shelf(tempfile::TempDir);

impl Shelf {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn cache(&self) -> Cache {
        Cache::open(&self.0.path().join("cache")).expect("the cache opens")
    }

    /// A concept with these photos, one for each number.
    fn concept(&self, name: &str, photos: &[u8]) -> PathBuf {
        let folder = self.0.path().join(name);
        fs::create_dir_all(folder.join("images")).expect("made");
        fs::write(folder.join("pipeline.yaml"), PIPELINE).expect("written");
        for number in photos {
            let picture = RgbImage::from_fn(96, 64, |x, y| Rgb([x as u8, y as u8, *number]));
            fs::write(folder.join(format!("images/p{number}.png")), encode::png(&picture)).expect("written");
        }
        folder
    }

    fn start(&self, folder: &Path) -> Child {
        let cache = self.0.path().join("cache").display().to_string();
        let mut command = command(folder, &["run", "--progress", "json", "--cache", &cache]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
    }

    fn say(&self, folder: &Path, arguments: &[&str]) -> (i32, String, String) {
        let cache = self.0.path().join("cache").display().to_string();
        said(&loramill(folder, &[arguments, &["--cache", &cache]].concat()))
    }

    fn is_sound(&self, folder: &Path) {
        let (code, stdout, stderr) = self.say(folder, &["fsck", "--full"]);
        assert_eq!(code, 0, "{stdout}{stderr}");
    }

    /// The keys of all items of the stages that the lock names.
    fn keys(&self, folder: &Path) -> BTreeSet<Digest> {
        let lock = LockFile::read(&folder.join("pipeline.lock")).expect("the lock can be read");
        let cache = self.cache();
        let trees = lock.stages.values().flatten().map(|row| cache.read(&row.out).expect("the tree is here"));
        trees.flat_map(|tree| item_set::decode(&tree).expect("a tree")).map(|item| item.key).collect()
    }
}

/// How many items the process has run; it must have ended well.
fn items_run(child: Child) -> u64 {
    let output = child.wait_with_output().expect("it ends");
    let (code, stdout, stderr) = said(&output);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let events = stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an object a line"));
    let finished = events.filter(|event| event["event"] == "stage_finished");
    finished.map(|event| event["items"]["ran"].as_u64().expect("a number")).sum()
}

/// What a person sees of a concept.
fn shown(folder: &Path) -> [Files; 3] {
    let lock = Files::from([("pipeline.lock".to_string(), fs::read(folder.join("pipeline.lock")).expect("written"))]);
    [files_below(&folder.join("out")), files_below(&folder.join("captions")), lock]
}

#[test]
fn eight_processes_on_one_pipeline_run_each_item_once() {
    let shelf = Shelf::new();
    let folder = shelf.concept("star", &[1, 2, 3, 4, 5, 6]);
    let children: Vec<Child> = (0..PROCESSES).map(|_| shelf.start(&folder)).collect();
    let ran: u64 = children.into_iter().map(items_run).sum();
    assert_eq!(ran, 4 * 6);
    assert_eq!(shelf.keys(&folder).len(), 4 * 6);
    shelf.is_sound(&folder);
    let alone = Shelf::new();
    let other = alone.concept("star", &[1, 2, 3, 4, 5, 6]);
    items_run(alone.start(&other));
    assert_eq!(shown(&folder), shown(&other));
}

#[test]
fn eight_concepts_with_photos_in_common_run_each_item_once() {
    let shelf = Shelf::new();
    // Three photos that all have, one that two have, and one of its own for each.
    let photos = |number: u8| [1, 2, 3, 10 + number / 2, 20 + number];
    let concepts: Vec<PathBuf> =
        (0..PROCESSES as u8).map(|number| shelf.concept(&format!("concept{number}"), &photos(number))).collect();
    let children: Vec<Child> = concepts.iter().map(|folder| shelf.start(folder)).collect();
    let ran: u64 = children.into_iter().map(items_run).sum();
    let keys: BTreeSet<Digest> = concepts.iter().flat_map(|folder| shelf.keys(folder)).collect();
    assert_eq!((ran, keys.len()), (4 * (3 + 4 + 8), 4 * (3 + 4 + 8)));
    shelf.is_sound(&concepts[0]);
    for (number, folder) in concepts.iter().enumerate() {
        assert_eq!(items_run(shelf.start(folder)), 0);
        let alone = Shelf::new();
        let other = alone.concept("alone", &photos(number as u8));
        items_run(alone.start(&other));
        assert_eq!(shown(folder), shown(&other));
    }
}

#[test]
fn gc_in_another_process_takes_nothing_that_running_pipelines_need() {
    let shelf = Shelf::new();
    let photos = |round: u8, number: u8| [1, 2, 30 * round + 10 + number / 2, 30 * round + 20 + number];
    let concept = |round: u8, number: u8| shelf.concept(&format!("concept{number}"), &photos(round, number));
    let first = concept(0, 0);
    items_run(shelf.start(&first));
    for round in 0..3 {
        let concepts: Vec<PathBuf> = (0..PROCESSES as u8).map(|number| concept(round, number)).collect();
        let mut children: Vec<Child> = concepts.iter().map(|folder| shelf.start(folder)).collect();
        let mut collected = 0;
        loop {
            let evicts: &[&str] = if collected % 2 == 1 { &["--max-size", "1K"] } else { &[] };
            let (code, stdout, stderr) = shelf.say(&first, &[&["gc", "--yes"], evicts].concat());
            assert_eq!(code, 0, "{stdout}{stderr}");
            collected += 1;
            let is_over = children.iter_mut().all(|child| child.try_wait().expect("known").is_some());
            if is_over && collected >= 2 {
                break;
            }
        }
        children.into_iter().map(items_run).for_each(|_ran| ());
        shelf.is_sound(&first);
        for (number, folder) in concepts.iter().enumerate() {
            // What was evicted to save room is made again, and all is as it should be.
            items_run(shelf.start(folder));
            assert_eq!(items_run(shelf.start(folder)), 0);
            if number == round as usize {
                let alone = Shelf::new();
                let other = alone.concept("alone", &[]);
                fs::remove_dir(other.join("images")).expect("empty");
                copy(&folder.join("images"), &other.join("images"));
                items_run(alone.start(&other));
                assert_eq!(shown(folder), shown(&other));
            }
        }
        shelf.is_sound(&first);
    }
}

fn copy(from: &Path, to: &Path) {
    for (path, bytes) in files_below(from) {
        fs::create_dir_all(to).expect("made");
        fs::write(to.join(path), bytes).expect("written");
    }
}

#[test]
fn one_of_eight_that_is_killed_leaves_its_work_to_the_others() {
    let photos: Vec<u8> = (0..12).collect();
    let alone = Shelf::new();
    let other = alone.concept("star", &photos);
    items_run(alone.start(&other));
    let mut killed = 0;
    for moment in [5, 15, 30, 60] {
        let shelf = Shelf::new();
        let folder = shelf.concept("star", &photos);
        let mut first = shelf.start(&folder);
        let children: Vec<Child> = (1..PROCESSES).map(|_| shelf.start(&folder)).collect();
        thread::sleep(Duration::from_millis(moment));
        killed += usize::from(first.try_wait().expect("known").is_none());
        first.kill().expect("it is our child");
        first.wait().expect("it has ended");
        children.into_iter().map(items_run).for_each(|_ran| ());
        assert_eq!(shown(&folder), shown(&other), "killed after {moment} ms");
        assert_eq!(items_run(shelf.start(&folder)), 0);
        shelf.is_sound(&folder);
    }
    assert!(killed > 0, "every process had ended before it was killed");
}
