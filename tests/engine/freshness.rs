//! What is in a key and what is not: one test per row of the table.
//!
//! | in a key | test |
//! | --- | --- |
//! | kind | `another_kind_counts` |
//! | version of the kind | `a_raised_version_counts` |
//! | result params | `a_result_param_counts_and_says_from_what_to_what` |
//! | contents of inputs, by param | `a_changed_photo_runs_its_own_items_only`, `an_input_file_counts_for_those_that_read_it`, in `keys.rs` of the pipeline `the_param_that_reads_an_input_counts` |
//! | texts of people | `an_edited_text_reruns_only_what_reads_it` in `edits.rs` |
//! | the seed, for kinds that draw | with the kinds that draw |
//! | side inputs, each item its own entry | `a_box_counts_for_its_photo_alone`, `a_sidecar_counts_for_its_photo_alone` |
//!
//! | not in a key | test |
//! | --- | --- |
//! | names of photos, folders they lie in | `renaming_a_photo_runs_nothing`, `moving_a_photo_into_a_folder_runs_nothing` |
//! | paths, names of inputs and stages | `moving_the_photos_and_renaming_inputs_and_stages_runs_nothing`, `a_copy_of_the_whole_folder_runs_nothing` |
//! | times of files | `touching_a_photo_runs_nothing`, and `file_times.rs` |
//! | execution params | `an_execution_param_does_not_count` |
//! | device, threads | `the_device_and_the_number_of_threads_do_not_count` |
//! | layout, comments, ends of lines | `comments_layout_and_the_spelling_of_numbers_run_nothing`, `what_editors_do_to_the_ends_of_lines_runs_nothing` |
//! | the seed, for other kinds; concept and trigger | `what_only_training_uses_runs_nothing_else` |
//! | fields that are not read | `a_field_that_a_stage_does_not_read_does_not_count_for_it` |
//! | the version of the program | no key has a place for it: the table in `keys.rs` of the pipeline is all |

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use loramill_engine::decide::plan::PlannedState;
use loramill_engine::explain::stage_account::explain;
use loramill_engine::run::events::{Event, StageState};

use crate::bed::Bed;
use crate::kinds::LATER_KINDS;

const MAP: &str = "  echo: { images: photos, log: LOG }\n  cut: { images: echo, log: LOG }\n  gather: { images: cut, log: LOG }";

#[test]
fn a_first_run_does_everything_and_a_second_nothing() {
    let bed = Bed::new(MAP);
    assert_eq!(bed.reasons("echo"), ["never ran"]);
    assert_eq!(bed.reasons("gather"), ["waits for `cut`"]);
    let did = bed.run();
    assert_eq!(did, ["cut one", "cut three", "cut two", "echo one", "echo three", "echo two", "gather"]);
    assert!(bed.plan().is_fresh());
    assert!(bed.run().is_empty());
    assert_eq!(bed.says("gather", "all"), "textextex");
}

#[test]
fn a_run_without_anything_to_do_writes_nothing() {
    let bed = Bed::new(MAP);
    bed.run();
    // Files written a moment ago are hashed again; their index is written then.
    std::thread::sleep(Duration::from_millis(50));
    bed.run();
    let before = contents(bed.path());
    let (did, record, _) = bed.run_all();
    assert!(did.is_empty() && record.did_nothing());
    assert_eq!(contents(bed.path()), before);
}

/// Every file below `folder` with its contents and times; of folders that hold nothing but locks and passing files only the names.
fn contents(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .map(|entry| entry.expect("readable"))
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let modified = entry.metadata().expect("there").modified().expect("known");
            (entry.path().to_path_buf(), (fs::read(entry.path()).expect("readable"), modified))
        })
        .collect()
}

#[test]
fn a_changed_photo_runs_its_own_items_only() {
    let bed = Bed::new(MAP);
    bed.run();
    bed.write("images/two.png", "new two");
    assert_eq!(bed.reasons("echo"), ["1 of 3 images changed: two"]);
    let plan = bed.plan();
    let echo = plan.stage("echo").unwrap();
    assert_eq!((echo.items.total, echo.items.fresh, echo.items.dirty), (3, 2, 1));
    let cut = plan.stage("cut").unwrap();
    assert_eq!((cut.state, cut.items.fresh, cut.items.unknown), (PlannedState::Unknown, 2, 1));
    assert_eq!(bed.run(), ["cut two", "echo two", "gather"]);
}

#[test]
fn a_new_photo_and_a_photo_that_is_gone_are_named() {
    let bed = Bed::new(MAP);
    bed.run();
    bed.write("images/four.png", "text four");
    assert_eq!(bed.reasons("echo"), ["new photo four"]);
    assert_eq!(bed.run(), ["cut four", "echo four", "gather"]);
    fs::remove_file(bed.at("images/four.png")).unwrap();
    assert!(bed.run().is_empty(), "the set of before is in the cache");
}

#[test]
fn renaming_a_photo_runs_nothing() {
    let bed = Bed::new(MAP);
    bed.run();
    fs::rename(bed.at("images/two.png"), bed.at("images/zwei.png")).unwrap();
    assert!(bed.run().is_empty());
    assert!(bed.items("cut").iter().any(|item| item.name == "zwei"), "outputs follow the name");
    assert!(bed.plan().is_fresh());
}

#[test]
fn touching_a_photo_runs_nothing() {
    let bed = Bed::new(MAP);
    bed.run();
    let file = fs::File::options().append(true).open(bed.at("images/two.png")).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
    assert!(bed.plan().is_fresh());
    assert!(bed.run().is_empty());
}

#[test]
fn moving_the_photos_and_renaming_inputs_and_stages_runs_nothing() {
    let bed = Bed::new(MAP);
    bed.run();
    fs::rename(bed.at("images"), bed.at("pictures")).unwrap();
    bed.write(
        "pipeline.yaml",
        &format!(
            "concept: test\ninputs: {{ shots: pictures/ }}\nstages:\n  first: {{ kind: echo, images: shots, log: {0} }}\n  \
             second: {{ kind: cut, images: first, log: {0} }}\n  gather: {{ images: second, log: {0} }}\n",
            bed.at("log").display()
        ),
    );
    assert!(bed.run().is_empty());
}

#[test]
fn comments_layout_and_the_spelling_of_numbers_run_nothing() {
    let bed = Bed::new("  learn: { images: photos, rate: 0.0001, log: LOG }");
    bed.run();
    bed.file("# a comment", "\n  learn:\n    log: \"LOG\"\n    rate: 1e-4 # the same\n    images: photos\n");
    assert!(bed.plan().is_fresh());
    assert!(bed.run().is_empty());
}

#[test]
fn a_result_param_counts_and_says_from_what_to_what() {
    let bed = Bed::new(MAP);
    bed.run();
    bed.stages(&MAP.replace("cut: { images: echo", "cut: { images: echo, letters: 5"));
    assert_eq!(bed.reasons("cut"), ["`letters` changed from 3 to 5"]);
    assert_eq!(bed.run(), ["cut one", "cut three", "cut two", "gather"]);
    bed.stages(MAP);
    assert!(bed.plan().is_fresh(), "going back costs nothing");
    assert!(bed.run().is_empty());
}

#[test]
fn an_execution_param_does_not_count() {
    let bed = Bed::new(MAP);
    bed.run();
    bed.stages(&MAP.replace("echo: { images: photos", "echo: { images: photos, speed: 7"));
    assert!(bed.run().is_empty());
}

#[test]
fn a_raised_version_counts() {
    let mut bed = Bed::new(MAP);
    bed.run();
    bed.kinds = LATER_KINDS;
    assert_eq!(bed.reasons("echo"), ["`echo` now works as version 2, before as version 1"]);
    assert_eq!(bed.run(), ["echo one", "echo three", "echo two"], "and what comes out the same cuts the rebuild");
}

#[test]
fn an_output_that_comes_out_the_same_stops_the_rebuild_and_the_run_says_so() {
    let bed = Bed::new(MAP);
    bed.run();
    // The first three letters stay.
    bed.stages(&MAP.replace("echo: { images: photos", "echo: { images: photos, suffix: \"!\""));
    let (did, record, events) = bed.run_all();
    assert_eq!(did, ["cut one", "cut three", "cut two", "echo one", "echo three", "echo two"]);
    assert_eq!(record.stage("gather").unwrap().state, StageState::Cached);
    let same = |stage: &str| {
        events.iter().any(|event| matches!(event, Event::StageFinished { stage: s, came_out_the_same: true, .. } if s == stage))
    };
    assert!(same("cut") && !same("echo"));
}

#[test]
fn a_field_that_a_stage_does_not_read_does_not_count_for_it() {
    let bed = Bed::new(MAP);
    bed.write("images/two.txt", "a caption");
    bed.run();
    bed.write("images/two.txt", "another caption");
    assert!(bed.run().is_empty());
    let sidecar = bed.items("cut").iter().find(|i| i.name == "two").unwrap().fields["sidecar"].clone();
    assert_eq!(sidecar.digest, loramill_engine::cache::digest::Digest::of(b"another caption"), "it passed through");
}

#[test]
fn an_input_file_counts_for_those_that_read_it() {
    let bed = Bed::new("  echo: { images: photos, log: LOG }\n  learn: { images: echo, base: base, log: LOG }");
    bed.run();
    bed.write("base.safetensors", "another base");
    assert_eq!(bed.reasons("learn"), ["`base` changed"]);
    assert!(bed.plan().stage("echo").unwrap().state == PlannedState::Fresh);
    assert_eq!(bed.run().len(), 6);
}

#[test]
fn a_lost_object_is_made_again() {
    let bed = Bed::new(MAP);
    bed.run();
    let two = bed.items("echo").into_iter().find(|item| item.name == "two").unwrap();
    fs::remove_file(bed.cache().path(&two.fields["image"].digest)).unwrap();
    assert_eq!(bed.reasons("echo"), ["1 of 3 outputs are no longer in the cache: two"]);
    assert_eq!(bed.run(), ["echo two"]);
    assert!(bed.run().is_empty());
}

#[test]
fn a_forced_stage_runs_again_and_no_other() {
    let mut bed = Bed::new(MAP);
    bed.run();
    bed.force = vec![("cut", "")];
    assert_eq!(bed.reasons("cut"), ["forced"]);
    assert_eq!(bed.run(), ["cut one", "cut three", "cut two"]);
}

#[test]
fn a_lost_lock_file_costs_nothing() {
    let bed = Bed::new(MAP);
    bed.run();
    let lock = fs::read(bed.at("pipeline.lock")).unwrap();
    fs::remove_file(bed.at("pipeline.lock")).unwrap();
    assert!(bed.run().is_empty());
    assert_eq!(fs::read(bed.at("pipeline.lock")).unwrap(), lock);
}

#[test]
fn the_lock_has_a_row_for_each_input_and_stage_and_forgets_those_that_are_gone() {
    let bed = Bed::new(MAP);
    bed.run();
    assert_eq!(bed.lock().stages.keys().collect::<Vec<_>>(), ["cut", "echo", "gather"]);
    assert_eq!(bed.lock().inputs.keys().collect::<Vec<_>>(), ["photos"]);
    bed.stages("  echo: { images: photos, log: LOG }");
    bed.run();
    assert_eq!(bed.lock().stages.keys().collect::<Vec<_>>(), ["echo"]);
}

#[test]
fn with_set_the_lock_stays_as_it_is_and_the_results_are_cached() {
    let mut bed = Bed::new(MAP);
    bed.run();
    let lock = fs::read(bed.at("pipeline.lock")).unwrap();
    bed.settings = vec!["cut.letters=4".to_string()];
    assert_eq!(bed.run(), ["cut one", "cut three", "cut two", "gather"]);
    assert_eq!(fs::read(bed.at("pipeline.lock")).unwrap(), lock);
    assert!(bed.run().is_empty());
}

#[test]
fn only_the_stages_that_are_asked_for_and_what_they_need_run() {
    let mut bed = Bed::new(&format!("{MAP}\n  late: {{ kind: echo, images: cut, default: false, log: LOG }}"));
    bed.targets = vec!["cut"];
    assert_eq!(bed.run().len(), 6);
    bed.targets = vec!["late"];
    assert_eq!(bed.run(), ["echo one"], "the first letters of all three are the same");
    bed.targets = Vec::new();
    assert_eq!(bed.run(), ["gather"]);
}

#[test]
fn outputs_lie_in_out_under_friendly_names_and_one_that_was_removed_is_told_and_comes_back() {
    let mut bed = Bed::new(MAP);
    bed.run();
    assert_eq!(fs::read_to_string(bed.at("out/echo/two.txt")).unwrap(), "text two");
    fs::remove_file(bed.at("out/echo/two.txt")).unwrap();
    let (did, _, events) = bed.run_all();
    assert!(did.is_empty());
    let told = |event: &Event| matches!(event, Event::Said { message, .. } if message.contains("out/echo/two.txt"));
    assert!(events.iter().any(told), "{events:?}");
    assert!(bed.at("out/echo/two.txt").exists());
    bed.settings = vec!["echo.suffix=x".to_string()];
    bed.run();
    assert_eq!(fs::read_to_string(bed.at("out/echo/two.txt")).unwrap(), "text two");
    let own = fs::read_dir(bed.at("out")).unwrap().map(|e| e.unwrap().path()).find(|p| p.to_string_lossy().contains('@'));
    assert_eq!(fs::read_to_string(own.unwrap().join("echo/two.txt")).unwrap(), "text twox");
}

#[test]
fn explain_lays_keys_side_by_side() {
    let bed = Bed::new(MAP);
    bed.run();
    bed.stages(&MAP.replace("cut: { images: echo", "cut: { images: echo, letters: 5"));
    let pipeline = bed.load();
    let cut = pipeline.id_of("cut").unwrap();
    for item in [None, Some("two")] {
        let explained = explain(&pipeline, &bed.cache(), cut, item).unwrap();
        let changed: Vec<&str> = explained.rows.iter().filter(|row| row.is_changed()).map(|row| row.name.as_str()).collect();
        assert_eq!(changed, ["letters"], "{explained:?}");
    }
    let echo = pipeline.id_of("echo").unwrap();
    assert!(explain(&pipeline, &bed.cache(), echo, Some("two")).unwrap().rows.iter().all(|row| !row.is_changed()));
    assert!(explain(&pipeline, &bed.cache(), echo, Some("tow")).unwrap_err().to_string().contains("did you mean `two`?"));
}

#[test]
fn photos_with_the_same_contents_are_worked_on_once() {
    let bed = Bed::new(MAP);
    bed.write("images/copies/two.png", "text two");
    let did = bed.run();
    assert_eq!(did.iter().filter(|line| line.starts_with("echo")).count(), 3, "{did:?}");
    assert_eq!(bed.items("echo").len(), 4);
    assert_eq!(bed.says("echo", "copies/two"), "text two");
}

#[test]
fn the_lock_says_of_the_inputs_what_was_read_though_nothing_had_to_run() {
    let bed = Bed::new("  learn: { images: photos, epochs: 1, log: LOG }");
    bed.run();
    let before = bed.lock().inputs;
    fs::rename(bed.at("images/two.png"), bed.at("images/zwei.png")).unwrap();
    assert!(bed.run().is_empty());
    let other = Bed::new("  learn: { images: photos, epochs: 1, log: LOG }");
    fs::rename(other.at("images/two.png"), other.at("images/zwei.png")).unwrap();
    other.run();
    assert_ne!(bed.lock().inputs, before);
    assert_eq!(bed.lock(), other.lock());
}

#[test]
fn another_kind_counts() {
    let bed = Bed::new("  made: { kind: echo, images: photos, log: LOG }");
    bed.run();
    bed.stages("  made: { kind: cut, images: photos, letters: 99, log: LOG }");
    assert_eq!(bed.reasons("made"), ["kind changed from `echo` to `cut`"]);
    assert_eq!(bed.run(), ["cut one", "cut three", "cut two"], "though it gives the same");
}

#[test]
fn moving_a_photo_into_a_folder_runs_nothing() {
    let bed = Bed::new(MAP);
    bed.run();
    fs::create_dir(bed.at("images/day 2")).unwrap();
    fs::rename(bed.at("images/two.png"), bed.at("images/day 2/two.png")).unwrap();
    assert!(bed.run().is_empty());
    assert!(bed.at("out/cut/day 2/two.txt").exists() && !bed.at("out/cut/two.txt").exists());
}

#[test]
fn a_copy_of_the_whole_folder_runs_nothing() {
    let bed = Bed::new(MAP);
    bed.run();
    let copy = tempfile::tempdir().unwrap();
    for (path, (bytes, _)) in contents(bed.path()) {
        let path = copy.path().join(path.strip_prefix(bed.path()).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    assert!(Bed::run_in(copy.path()).unwrap().did_nothing());
    assert_eq!(fs::read(copy.path().join("pipeline.lock")).unwrap(), fs::read(bed.at("pipeline.lock")).unwrap());
}

#[test]
fn the_device_and_the_number_of_threads_do_not_count() {
    let mut bed = Bed::new(
        "  echo: { images: photos, log: LOG }\n  learn: { images: echo, log: LOG }\n  \
                            draw: { lora: learn, prompts: [a], log: LOG }",
    );
    bed.run();
    bed.device = "libtorch:0".to_string();
    bed.jobs = 7;
    assert!(bed.plan().is_fresh());
    assert!(bed.run().is_empty());
}

#[test]
fn what_editors_do_to_the_ends_of_lines_runs_nothing() {
    let bed = Bed::new("  caption: { images: photos, log: LOG }\n  learn: { images: caption, log: LOG }");
    bed.run();
    for path in ["pipeline.yaml", "captions/two.txt"] {
        let text = fs::read_to_string(bed.at(path)).unwrap();
        let crlf = text.replace('\n', "\r\n");
        for form in [crlf.clone(), format!("\u{feff}{text}"), text.replace('\n', "  \n") + "\n\n", format!("\u{feff}{crlf}")] {
            bed.write(path, &form);
            assert!(bed.plan().is_fresh(), "{form:?}");
            assert!(bed.run().is_empty(), "{form:?}");
            assert_eq!(fs::read_to_string(bed.at(path)).unwrap(), form, "not a byte of it is touched");
        }
    }
}

#[test]
fn what_only_training_uses_runs_nothing_else() {
    let bed = Bed::new(MAP);
    bed.run();
    bed.file("seed: 7\ntrigger: somebody\npick: 2", MAP);
    assert!(bed.run().is_empty());
}
