//! `out/` from the lock file alone.

use std::fs;
use std::path::Path;

use loramill_engine::kind::item_set;
use loramill_engine::kind::stage_kind::StageKind;
use loramill_engine::lock_file::LockFile;
use loramill_engine::out::materialise::materialise;
use loramill_engine::out::restore::{RestoredStage, restore};

use crate::bed::Bed;
use crate::collecting::DELETE;
use crate::kinds::{KINDS, LATER_KINDS};

const MAP: &str = "  echo: { images: photos, suffix: A, log: LOG }\n  caption: { images: echo, log: LOG }\n  \
                   cut: { images: caption, letters: 4, log: LOG }";

fn restored(bed: &Bed, lock: &LockFile, kinds: &[&'static StageKind], knows_file: bool) -> Vec<RestoredStage> {
    let pipeline = knows_file.then(|| bed.load());
    restore(&bed.cache(), &bed.at("out"), lock, pipeline.as_ref(), kinds).unwrap()
}

fn names_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The files below `out/`, with what they say.
fn files(out: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for stage in fs::read_dir(out).unwrap() {
        let stage = stage.unwrap().path();
        for file in fs::read_dir(&stage).unwrap() {
            let file = file.unwrap().path();
            files.push((file.strip_prefix(out).unwrap().display().to_string(), fs::read_to_string(&file).unwrap()));
        }
    }
    files.sort();
    files
}

#[test]
fn out_comes_back_also_after_a_version_was_raised_or_the_file_was_lost() {
    for knows_file in [true, false] {
        let bed = Bed::new(MAP);
        bed.run();
        let before = files(&bed.at("out"));
        assert_eq!(before.len(), 6);
        fs::remove_dir_all(bed.at("out")).unwrap();
        let did = bed.log().len();
        let stages = restored(&bed, &bed.lock(), LATER_KINDS, knows_file);
        assert!(stages.iter().all(RestoredStage::is_whole), "{stages:?}");
        assert_eq!(files(&bed.at("out")), before, "texts beside the pipeline are not shown twice");
        assert_eq!(bed.log().len(), did, "nothing ran");
        let again = restored(&bed, &bed.lock(), KINDS, knows_file);
        assert!(again.iter().all(|stage| stage.report.written == 0));
    }
}

#[test]
fn an_earlier_lock_brings_back_what_it_names_and_what_a_person_changed_is_kept() {
    let bed = Bed::new(MAP);
    bed.run();
    let (first, before) = (bed.lock(), files(&bed.at("out")));
    bed.stages(&MAP.replace("suffix: A", "suffix: BB"));
    bed.run();
    let (second, after) = (bed.lock().to_text(), files(&bed.at("out")));
    assert_ne!(before, after);
    bed.write("out/cut/two.txt", "drawn by hand");
    let captions = fs::read_to_string(bed.at("captions/two.txt")).unwrap();
    let stages = restored(&bed, &first, KINDS, true);
    let notes: Vec<&String> = stages.iter().flat_map(|stage| &stage.report.notes).collect();
    assert!(notes.len() == 1 && notes[0].contains("you changed out/cut/two.txt"), "{notes:?}");
    assert_eq!(fs::read_to_string(bed.at("out/.yours/cut/two.txt")).unwrap(), "drawn by hand");
    fs::remove_dir_all(bed.at("out/.yours")).unwrap();
    assert_eq!(files(&bed.at("out")), before);
    assert_eq!(fs::read_to_string(bed.at("captions/two.txt")).unwrap(), captions);
    assert_eq!(bed.lock().to_text(), second, "the lock says what is current, not what is shown");
    assert!(bed.run().is_empty());
    assert_eq!(files(&bed.at("out")), after, "the next run shows the present again");
}

#[test]
fn what_is_not_in_the_cache_any_more_is_named_and_the_rest_comes_back() {
    let bed = Bed::new(MAP);
    bed.run();
    let first = bed.lock();
    let items = bed.items("echo");
    let two = items.iter().find(|item| item.name == "two").unwrap();
    fs::remove_file(bed.cache().path(&two.fields["image"].digest)).unwrap();
    fs::remove_dir_all(bed.at("out")).unwrap();
    let stages = restored(&bed, &first, KINDS, true);
    let echo = stages.iter().find(|stage| stage.name == "echo").unwrap();
    assert_eq!((echo.missing.as_slice(), echo.report.written), (&["two".to_string()][..], 2));
    assert!(stages.iter().find(|stage| stage.name == "cut").unwrap().is_whole());

    bed.stages(&MAP.replace("suffix: A", "suffix: BB"));
    bed.run();
    let after = files(&bed.at("out"));
    assert!(bed.collect(DELETE).deleted);
    let stages = restored(&bed, &first, KINDS, true);
    let echo = stages.iter().find(|stage| stage.name == "echo").unwrap();
    assert!(echo.is_lost && echo.total == 3, "{echo:?}");
    assert_eq!(files(&bed.at("out")), after, "nothing takes the place of what is there");
}

#[test]
fn a_stage_of_a_kind_that_is_not_known_is_left_out_with_the_reason() {
    let bed = Bed::new(MAP);
    bed.run();
    let without_cut: Vec<&'static StageKind> = KINDS.iter().copied().filter(|kind| kind.name != "cut").collect();
    let stages = restored(&bed, &bed.lock(), &without_cut, false);
    let cut = stages.iter().find(|stage| stage.name == "cut").unwrap();
    assert!(cut.left_out.as_ref().unwrap().contains("`cut`"), "{cut:?}");
}

#[test]
fn variants_come_back_where_a_run_shows_them_and_nothing_of_another_shape_stays() {
    const PLAIN: &str = "  learn: { images: photos, rate: 2, log: LOG }";
    const MATRIX: &str = "  learn: { images: photos, matrix: { rate: [1, 2] }, log: LOG }";
    let shown = |bed: &Bed| {
        let entries = walkdir::WalkDir::new(bed.at("out")).min_depth(1).sort_by_file_name().into_iter();
        entries
            .map(|entry| entry.unwrap().into_path().strip_prefix(bed.at("out")).unwrap().display().to_string())
            .collect::<Vec<_>>()
    };
    let bed = Bed::new(PLAIN);
    bed.run();
    let (plain, of_plain) = (bed.lock(), shown(&bed));
    bed.stages(MATRIX);
    bed.run();
    let (matrix, of_matrix) = (bed.lock(), shown(&bed));
    assert!(of_matrix.iter().any(|path| path.starts_with("learn/rate=1/")), "{of_matrix:?}");
    for (lock, expected) in [(&matrix, &of_matrix), (&plain, &of_plain), (&matrix, &of_matrix)] {
        for knows_file in [true, false] {
            let stages = restored(&bed, lock, KINDS, knows_file);
            assert!(stages.iter().all(RestoredStage::is_whole), "{stages:?}");
            assert_eq!(&shown(&bed), expected);
        }
    }
    fs::remove_dir_all(bed.at("out")).unwrap();
    restored(&bed, &matrix, KINDS, true);
    assert_eq!(shown(&bed), of_matrix);
}

#[test]
fn folders_of_variants_in_brackets_give_way_to_those_of_a_run() {
    let bed = Bed::new("  learn: { images: photos, matrix: { rate: [1, 2] }, log: LOG }");
    bed.run();
    let lock = bed.lock();
    // As the first version of `restore` called them.
    let show = || {
        for name in ["learn[rate=1]", "learn[rate=2]"] {
            let row = lock.stages[name][0];
            let items = item_set::decode(&bed.cache().read(&row.out).unwrap()).unwrap();
            materialise(&bed.cache(), &bed.at("out"), name, &row.out, &items, &["lora"]).unwrap();
            assert!(bed.at("out").join(name).is_dir());
        }
    };
    show();
    restored(&bed, &lock, KINDS, true);
    assert_eq!(names_in(&bed.at("out")), ["learn"]);
    show();
    bed.write("out/learn[rate=2]/notes.txt", "mine");
    bed.write("images/four.png", "text four");
    bed.run();
    assert!(!bed.at("out/learn[rate=1]").exists());
    assert_eq!(names_in(&bed.at("out/learn[rate=2]")), ["notes.txt"], "what is not of a run stays");
}
