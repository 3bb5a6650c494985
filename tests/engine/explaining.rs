//! Who changed what, and what made which file.

use std::fs;

use loramill_engine::decide::plan::PlannedState;
use loramill_engine::explain::cause::{Cause, Who};
use loramill_engine::explain::file_account::{FileAccount, Standing, file_account};
use loramill_engine::explain::origin::{Made, Maker, Origin};
use loramill_engine::explain::stage_account::{Explanation, explain};

use crate::bed::Bed;
use crate::kinds::LATER_KINDS;

const MAP: &str =
    "  echo: { images: photos, suffix: '.', log: LOG }\n  cut: { images: echo, log: LOG }\n  gather: { images: cut, log: LOG }";
const TEXTS: &str =
    "  echo: { images: photos, log: LOG }\n  caption: { images: echo, log: LOG }\n  learn: { images: caption, log: LOG }";

fn explained(bed: &Bed, stage: &str, item: Option<&str>) -> Explanation {
    let pipeline = bed.load();
    let id = pipeline.id_of(stage).expect("a stage of the pipeline");
    explain(&pipeline, &bed.cache(), id, item).expect("an explanation")
}

/// Each cause in a line, those behind it in brackets.
fn told(causes: &[Cause]) -> Vec<String> {
    let one = |cause: &Cause| {
        let who = match &cause.who {
            Some(Who::You) => "you",
            Some(Who::Upstream { stage }) => stage,
            Some(Who::Program) => "program",
            Some(Who::Cache) => "cache",
            None => "-",
        };
        let because = if cause.because.is_empty() { String::new() } else { format!(" [{}]", told(&cause.because).join("; ")) };
        format!("{who}: {}{because}", cause.reason)
    };
    causes.iter().map(one).collect()
}

fn account(bed: &Bed, file: &str) -> Option<FileAccount> {
    file_account(&bed.cache(), Some(&bed.load()), &bed.at(file)).expect("the cache can be read")
}

fn made(origin: &Origin) -> &Made {
    match &origin.maker {
        Maker::Stage(made) => made,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_param_is_changed_by_you_and_a_version_by_the_program() {
    let mut bed = Bed::new(MAP);
    bed.run();
    assert!(explained(&bed, "echo", None).causes.is_empty());
    bed.stages(&MAP.replace("suffix: '.'", "suffix: '!'"));
    let cause = &explained(&bed, "echo", None).causes[0];
    assert_eq!(told(std::slice::from_ref(cause)), ["you: `suffix` changed from \".\" to \"!\""]);
    assert!(cause.place.as_ref().unwrap().ends_with("pipeline.yaml:5"), "{cause:?}");
    assert_eq!(told(&explained(&bed, "echo", Some("two")).causes), ["you: `suffix` changed from \".\" to \"!\""]);
    bed.settings = vec!["echo.suffix=x".to_string()];
    assert_eq!(explained(&bed, "echo", None).causes[0].place.as_deref(), Some("--set echo.suffix=x"));
    bed.settings.clear();

    bed.stages(MAP);
    bed.kinds = LATER_KINDS;
    assert_eq!(told(&explained(&bed, "echo", None).causes), ["program: `echo` now works as version 2, before as version 1"]);
    assert_eq!(
        told(&explained(&bed, "echo", Some("one")).causes),
        ["program: `echo` now works as version 2, before as version 1"]
    );
}

#[test]
fn a_replaced_photo_is_named_with_its_file_through_all_stages_that_wait_for_it() {
    let bed = Bed::new(MAP);
    bed.run();
    bed.write("images/two.png", "new two");
    let echo = explained(&bed, "echo", None);
    assert_eq!(told(&echo.causes), ["you: 1 of 3 images changed: two"]);
    let change = &echo.causes[0].changes[0];
    assert_eq!((change.item.as_str(), change.file.as_deref()), ("two", Some(bed.at("images/two.png").as_path())));
    assert_ne!(change.old, change.new);
    assert_eq!(
        told(&explained(&bed, "gather", None).causes),
        ["cut: waits for `cut` [echo: waits for `echo` [you: 1 of 3 images changed: two]]"]
    );
    let item = explained(&bed, "cut", Some("two"));
    assert_eq!(item.state, PlannedState::Unknown);
    assert_eq!(told(&item.causes), ["echo: `echo` changed [you: 1 of 3 images changed: two]"]);
    assert_eq!(explained(&bed, "cut", Some("one")).state, PlannedState::Fresh);
}

#[test]
fn what_a_stage_that_ran_gives_anew_is_followed_back_to_who_changed_it() {
    let mut bed = Bed::new(MAP);
    bed.run();
    // The stages before have run already; only records know why they did.
    bed.write("images/two.png", "new two");
    bed.targets = vec!["cut"];
    bed.run();
    bed.targets.clear();
    let photo = bed.at("images/two.png");
    let reason = format!("`{}` changed", photo.display());
    assert_eq!(told(&explained(&bed, "gather", None).causes), [format!("cut: 1 of 3 images changed: two [you: {reason}]")]);
    bed.run();

    bed.stages(&MAP.replace("cut: { images: echo,", "cut: { images: echo, letters: 2,"));
    bed.targets = vec!["cut"];
    bed.run();
    bed.targets.clear();
    let causes = explained(&bed, "gather", None).causes;
    assert_eq!(causes.len(), 1, "{causes:?}");
    assert_eq!(told(&causes[0].because), ["you: `letters` changed from 3 to 2"]);
    bed.run();

    bed.write("images/four.png", "four");
    bed.targets = vec!["cut"];
    bed.run();
    bed.targets.clear();
    assert_eq!(told(&explained(&bed, "gather", None).causes), ["cut: new photo four [you: new photo four]"]);
    bed.run();
    fs::remove_file(bed.at("images/four.png")).unwrap();
    fs::remove_file(bed.at("images/two.png")).unwrap();
    let causes = explained(&bed, "gather", None).causes;
    assert_eq!(told(&causes), ["cut: 2 photos are gone: four, two [you: photo four is gone]"]);
    assert_eq!(causes[0].place, None, "no line of the file leaves them out");
}

#[test]
fn an_edited_caption_is_yours_with_its_texts_whatever_stages_it_passed() {
    let bed = Bed::new(TEXTS);
    bed.run();
    bed.write("captions/two.txt", "by hand");
    let learn = explained(&bed, "learn", None);
    assert_eq!(told(&learn.causes), ["you: 1 of 3 captions edited: two"]);
    let change = &learn.causes[0].changes[0];
    assert_eq!(change.file.as_deref(), Some(bed.at("captions/two.txt").as_path()));
    assert_eq!(change.new.as_ref().unwrap().text.as_deref(), Some("by hand"));
    assert!(change.old.as_ref().unwrap().text.is_some());
    let item = explained(&bed, "caption", Some("two"));
    assert_eq!((item.state, item.yours.as_deref()), (PlannedState::Fresh, Some(bed.at("captions/two.txt").as_path())));
    assert_eq!(explained(&bed, "caption", Some("one")).yours, None);
}

#[test]
fn an_item_that_skip_leaves_out_is_left_out_by_you() {
    let bed = Bed::new(TEXTS);
    bed.run();
    bed.file("skip: [two]", TEXTS);
    let causes = explained(&bed, "learn", None).causes;
    assert_eq!(told(&causes), ["you: photo two is gone"]);
    assert!(causes[0].place.as_ref().unwrap().ends_with("pipeline.yaml, `skip:`"), "{causes:?}");
    bed.run();
    bed.file("", TEXTS);
    assert!(explained(&bed, "learn", None).causes.is_empty(), "the result of before is in the cache");
}

#[test]
fn lost_results_are_the_caches_doing_and_a_first_run_is_nobodys() {
    let bed = Bed::new(MAP);
    assert_eq!(told(&explained(&bed, "echo", None).causes), ["-: never ran"]);
    bed.run();
    fs::remove_dir_all(bed.at("cache")).unwrap();
    assert_eq!(told(&explained(&bed, "echo", None).causes), ["cache: its last result is not in this cache"]);
}

#[test]
fn a_file_tells_its_way_up_to_the_photo_wherever_it_lies() {
    let bed = Bed::new(MAP);
    bed.write("images/two.png", "2 text");
    bed.run();
    fs::create_dir(bed.at("far")).unwrap();
    fs::copy(bed.at("out/cut/two.txt"), bed.at("far/renamed.bin")).unwrap();
    let object = bed.cache().path(&bed.digests("cut")[&("two".to_string(), "image".to_string())]);
    fs::copy(&object, bed.at("far/object")).unwrap();
    for file in ["out/cut/two.txt", "far/renamed.bin", "far/object"] {
        let known = account(&bed, file).expect("it is known");
        let output = known.output.as_ref().expect("an output");
        assert_eq!((output.stage.as_str(), output.item.as_str(), output.field.as_str()), ("cut", "two", "image"), "{file}");
        assert!(matches!(known.standing, Some(Standing::Current)), "{known:?}");
        let origin = known.origin.as_ref().unwrap();
        let cut = made(origin);
        assert_eq!((cut.stage.as_deref(), cut.kind.as_str(), cut.version), (Some("cut"), "cut", Some(1)));
        assert!(cut.params.contains(&("letters".to_string(), 3.into())), "{cut:?}");
        let echo = &cut.reads[0].origins[0];
        assert_eq!((made(echo).kind.as_str(), echo.members[0].name.as_deref()), ("echo", Some("two")));
        let photo = &made(echo).reads[0].origins[0];
        assert!(matches!(&photo.maker, Maker::Disk { input: Some(input) } if input == "photos"), "{photo:?}");
        assert_eq!(photo.members[0].path.as_deref(), Some(bed.at("images/two.png").as_path()));
    }
    // Three pictures that were made in one way are told as one.
    let whole = account(&bed, "out/gather/all.txt").unwrap();
    let read = &made(whole.origin.as_ref().unwrap()).reads[0];
    assert_eq!((read.count, read.origins.len(), read.origins[0].members.len()), (3, 1, 3));
}

#[test]
fn a_file_is_current_stale_edited_or_of_an_earlier_run() {
    let bed = Bed::new(MAP);
    bed.run();
    fs::copy(bed.at("out/cut/two.txt"), bed.at("kept")).unwrap();
    bed.stages(&MAP.replace("cut: { images: echo,", "cut: { images: echo, letters: 2,"));
    let stale = account(&bed, "out/cut/two.txt").unwrap();
    let Some(Standing::Stale(causes)) = &stale.standing else { panic!("{stale:?}") };
    assert_eq!(told(causes), ["you: `letters` changed from 3 to 2"]);
    bed.write("images/one.png", "new one");
    let undecided = account(&bed, "out/gather/all.txt").unwrap();
    assert!(matches!(&undecided.standing, Some(Standing::Undecided(_))), "{undecided:?}");
    bed.run();

    let old = account(&bed, "kept").unwrap();
    let Some(Standing::Otherwise { stage, differences }) = &old.standing else { panic!("{old:?}") };
    let differences: Vec<String> = differences.iter().map(ToString::to_string).collect();
    assert_eq!((stage.as_str(), differences), ("cut", vec!["`letters` changed from 3 to 2".to_string()]));
    assert_eq!(old.origin.as_ref().unwrap().members[0].name.as_deref(), Some("two"), "its name of then");

    fs::write(bed.at("out/cut/two.txt"), "scribbled").unwrap();
    let edited = account(&bed, "out/cut/two.txt").unwrap();
    assert!(matches!(edited.standing, Some(Standing::Changed)), "{edited:?}");
    assert_eq!(made(edited.origin.as_ref().unwrap()).kind, "cut");
    fs::copy(bed.at("kept"), bed.at("out/cut/two.txt")).unwrap();
    let replaced = account(&bed, "out/cut/two.txt").unwrap();
    assert!(matches!(replaced.standing, Some(Standing::Replaced)), "{replaced:?}");
    bed.write("unrelated", "nothing of ours");
    assert!(account(&bed, "unrelated").is_none());
}

#[test]
fn a_caption_file_tells_whose_it_is_and_a_checkpoint_what_it_learned_from() {
    let bed = Bed::new(TEXTS);
    bed.run();
    let machine = account(&bed, "captions/one.txt").unwrap();
    assert!(matches!(machine.standing, Some(Standing::Current)), "{machine:?}");
    assert_eq!(made(machine.origin.as_ref().unwrap()).kind, "caption");
    bed.write("captions/one.txt", "by hand\n");
    bed.write("captions/gone.txt", "of a photo that is gone");
    let yours = account(&bed, "captions/one.txt").unwrap();
    let Some(Standing::Yours { is_stale: false, machine: Some(_) }) = &yours.standing else { panic!("{yours:?}") };
    assert!(matches!(account(&bed, "captions/gone.txt").unwrap().standing, Some(Standing::Orphan)));
    bed.run();
    let name = bed.items("learn").last().unwrap().name.clone();
    let learned = account(&bed, &format!("out/learn/{name}.txt")).unwrap();
    assert!(matches!(learned.standing, Some(Standing::Current)), "{learned:?}");
    let captions = made(learned.origin.as_ref().unwrap()).reads.iter().find(|read| read.name.contains("caption")).unwrap();
    let by_hand = captions.origins.iter().find(|origin| matches!(origin.maker, Maker::Person)).expect("one is a person's");
    assert_eq!(by_hand.members[0].path.as_deref(), Some(bed.at("captions/one.txt").as_path()));
    assert!(captions.origins.iter().any(|origin| matches!(&origin.maker, Maker::Stage(made) if made.kind == "caption")));
}

#[test]
fn without_the_pipeline_the_records_alone_tell_what_made_a_file() {
    let bed = Bed::new(MAP);
    bed.run();
    let known = file_account(&bed.cache(), None, &bed.at("out/cut/two.txt")).unwrap().expect("it is known");
    assert!(known.output.is_none() && known.standing.is_none(), "{known:?}");
    let origin = known.origin.as_ref().unwrap();
    assert_eq!((made(origin).kind.as_str(), made(origin).stage.as_deref()), ("cut", None));
    assert!(made(origin).params.contains(&("letters".to_string(), 3.into())), "{origin:?}");
    let echo = &made(origin).reads[0].origins[0];
    let photo = &made(echo).reads[0].origins[0];
    assert!(matches!(photo.maker, Maker::Disk { input: None }), "{photo:?}");
    assert_eq!(photo.members[0].name.as_deref(), Some("two"));
}
