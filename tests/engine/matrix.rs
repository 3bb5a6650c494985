//! Variants of a stage: what runs, what they are called and where they lie.

use std::collections::BTreeMap;
use std::fs;

use loramill_engine::decide::plan::PlannedState;

use crate::bed::Bed;

const LEARN: &str = "  learn: { images: photos, rate: 2, log: LOG }\n  draw: { lora: learn, prompts: [a], log: LOG }";
const MATRIX: &str =
    "  learn: { images: photos, matrix: { rate: [1, 2.0] }, log: LOG }\n  draw: { lora: learn, prompts: [a], log: LOG }";

/// How often each line was written down.
fn counted(lines: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        *counts.entry(line.as_str()).or_default() += 1;
    }
    counts
}

fn stages(bed: &Bed) -> Vec<String> {
    bed.load().stages.values().map(|stage| stage.name.clone()).collect()
}

#[test]
fn a_matrix_runs_what_a_plain_stage_has_not_done_and_a_further_value_only_itself() {
    let bed = Bed::new(LEARN);
    bed.run();
    bed.stages(MATRIX);
    assert_eq!(bed.plan().stage("learn[rate=2]").unwrap().state, PlannedState::Fresh);
    assert_eq!(bed.reasons("learn[rate=1]"), ["never ran"]);
    let did = bed.run();
    assert!(counted(&did).values().all(|count| *count == 1), "{did:?}");
    assert_eq!(did.len(), 4 + 2 + 2 + 2, "one training, two drawings, a grid at each checkpoint");
    bed.stages(&MATRIX.replace("[1, 2.0]", "[4, 1e0, 2]"));
    let did = bed.run();
    assert_eq!(did.len(), 4 + 2 + 2 + 2, "{did:?}");
    assert!(bed.run().is_empty());
    bed.stages(LEARN);
    assert!(bed.run().is_empty(), "and back");
}

#[test]
fn each_variant_has_its_row_and_its_folder_and_readers_follow() {
    let bed = Bed::new(MATRIX);
    assert_eq!(stages(&bed), ["learn[rate=1]", "learn[rate=2]", "draw[rate=1]", "draw[rate=2]"]);
    bed.run();
    assert_eq!(bed.lock().stages.keys().collect::<Vec<_>>(), ["draw[rate=1]", "draw[rate=2]", "learn[rate=1]", "learn[rate=2]"]);
    assert!(bed.lock().to_text().contains("stage learn[rate=2] key="));
    for rate in [1, 2] {
        let drawn = fs::read_to_string(bed.at(&format!("out/draw/rate={rate}/e004-0.txt"))).unwrap();
        assert!(drawn.ends_with(&format!("x4 at {rate}")), "{drawn}");
    }
}

#[test]
fn names_of_variants_are_in_no_key() {
    let bed = Bed::new(MATRIX);
    bed.run();
    // A second stage with this path: the axes are called by longer names now.
    let other = "\n  other: { kind: learn, images: photos, matrix: { rate: [1] }, default: false }";
    bed.stages(&format!("{MATRIX}{other}"));
    assert!(stages(&bed).contains(&"draw[learn.rate=2]".to_string()), "{:?}", stages(&bed));
    assert!(bed.run().is_empty());
    assert!(bed.at("out/draw/learn.rate=2/grid.txt").exists());
}

#[test]
fn one_axis_is_joined_and_two_are_crossed() {
    let bed = Bed::new(
        "  cut: { images: photos, matrix: { letters: [1, 2] } }\n  echo: { images: cut }\n  \
         learn: { images: echo, matrix: { rate: [1, 2] } }\n  draw: { lora: learn, prompts: [\"[filewords]\"] }",
    );
    let pipeline = bed.load();
    let reads = |name: &str| -> Vec<String> {
        pipeline.stage(name).unwrap().edges.iter().map(|edge| edge.reads.reference.name.clone()).collect()
    };
    assert_eq!(reads("echo[letters=2]"), ["cut[letters=2]"]);
    assert_eq!(reads("learn[letters=2,rate=1]"), ["echo[letters=2]"]);
    // Through the LoRA and through its pictures it has one value of `letters`.
    assert_eq!(reads("draw[letters=1,rate=2]"), ["learn[letters=1,rate=2]", "echo[letters=1]"]);
    assert_eq!(pipeline.stages.ids().len(), 2 + 2 + 4 + 4);
}

#[test]
fn a_reference_picks_one_variant_and_an_epoch_of_it() {
    let bed = Bed::new(&MATRIX.replace("lora: learn", "lora: \"learn[rate=2.0]@4\""));
    assert_eq!(stages(&bed), ["learn[rate=1]", "learn[rate=2]", "draw"]);
    bed.run();
    assert_eq!(bed.items("draw").iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), ["e004-0", "grid"]);
    assert!(bed.says("draw", "e004-0").ends_with("at 2"));
}

#[test]
fn a_star_collects_all_variants_into_one_reader() {
    let collecting = MATRIX.replace("lora: learn", "lora: \"learn[*]@4\"");
    let bed = Bed::new(&collecting);
    bed.run();
    let names = || bed.items("draw").iter().map(|item| item.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(), ["grid", "rate=1/e004-0", "rate=2/e004-0"]);
    assert!(bed.says("draw", "rate=2/e004-0").ends_with("at 2"));
    assert!(bed.at("out/draw/rate=2/e004-0.txt").exists());
    bed.stages(&collecting.replace("[1, 2.0]", "[1, 2.0, 3]"));
    let did = bed.run();
    assert_eq!(did.iter().filter(|line| line.starts_with("draw")).collect::<Vec<_>>(), ["draw rate=3/e004-0"]);
    assert_eq!(bed.plan().stages.iter().filter(|stage| stage.name.starts_with("draw")).count(), 1);
}

#[test]
fn one_axis_is_collected_while_another_is_followed() {
    let bed = Bed::new(
        "  cut: { images: photos, matrix: { letters: [1, 2] } }\n  learn: { images: cut, matrix: { rate: [1, 2] } }\n  \
         draw: { lora: \"learn[rate=*]@last\", prompts: [a] }",
    );
    bed.run();
    assert_eq!(
        stages(&bed).iter().filter(|name| name.starts_with("draw")).collect::<Vec<_>>(),
        ["draw[letters=1]", "draw[letters=2]"]
    );
    assert!(bed.says("draw[letters=2]", "rate=2/e004-0").starts_with("a: te") && bed.items("draw[letters=2]").len() == 3);
}

#[test]
fn a_skipped_photo_is_left_out_of_what_is_collected() {
    // Also behind a further stage, which knows the photo under its longer name.
    let stages = "  cut: { images: photos, matrix: { letters: [8, 9] } }\n  echo: { images: \"cut[*]\" }\n  \
                  learn: { images: echo, log: LOG }";
    let bed = Bed::new(stages);
    bed.run();
    let before = bed.says("learn", "e004");
    assert_eq!(before.matches("text tw").count(), 2);
    bed.file("skip: [two]", stages);
    bed.run();
    assert_eq!(bed.says("learn", "e004").matches("text tw").count(), 0, "{before}");
}

#[test]
fn one_variant_is_forced_or_run_alone() {
    let mut bed = Bed::new(MATRIX);
    bed.targets = vec!["draw[rate=2]"];
    assert_eq!(bed.run().len(), 4 + 2 + 2 + 2);
    bed.targets = vec!["learn"];
    assert_eq!(bed.run().len(), 4 + 2, "the other training");
    bed.force = vec![("learn[rate=1]", "")];
    assert_eq!(bed.run().len(), 4 + 2);
}

#[test]
fn set_and_variables_reach_a_matrix() {
    let mut bed = Bed::new("  learn: { images: photos, epochs: 2, matrix: { rate: \"${rates}\" }, log: LOG }");
    let text = fs::read_to_string(bed.at("pipeline.yaml")).unwrap();
    bed.write("pipeline.yaml", &format!("vars: {{ rates: [1, 2] }}\n{text}"));
    assert_eq!(stages(&bed), ["learn[rate=1]", "learn[rate=2]"]);
    bed.run();
    bed.settings = vec!["learn.rate=2.0".to_string()];
    assert_eq!(stages(&bed), ["learn[rate=2]"]);
    assert!(bed.run().is_empty(), "it is one of those that are there");
    bed.settings = vec!["learn.matrix.rate=[1, 5]".to_string()];
    assert_eq!(bed.run().len(), 2 + 1);
    bed.settings = vec!["vars.rates=[2, 1]".to_string()];
    assert!(bed.run().is_empty());
    bed.settings = vec!["learn.matrix.epochs=[3]".to_string(), "learn.epochs=3".to_string()];
    assert_eq!(bed.problems(), ["`epochs` is given by the matrix and by the stage itself"]);
}

#[test]
fn work_that_variants_have_in_common_is_planned_and_done_once() {
    // The delay is in no key.
    let bed = Bed::new("  learn: { images: photos, matrix: { delay: [0, 1] }, log: LOG }");
    let plan = bed.plan();
    assert_eq!(plan.stage("learn[delay=0]").unwrap().state, PlannedState::Dirty);
    let second = plan.stage("learn[delay=1]").unwrap();
    assert_eq!((second.state, second.reasons[0].to_string()), (PlannedState::Unknown, "waits for `learn[delay=0]`".to_string()));
    assert_eq!(bed.run().len(), 4 + 2);
}

#[test]
fn texts_that_people_edit_have_no_variants() {
    let bed = Bed::new("  caption: { images: photos, matrix: { prefix: [a, b] } }");
    assert_eq!(bed.problems(), ["people edit the texts of `caption`, so it can have no variants"]);
    bed.stages("  cut: { images: photos, matrix: { letters: [1, 2] } }\n  caption: { images: cut }");
    assert_eq!(bed.problems(), ["people edit the texts of `caption`, so it can have no variants"]);
    bed.stages("  cut: { images: photos, matrix: { letters: [1, 2] } }\n  caption: { images: \"cut[letters=2]\" }");
    bed.run();
    assert_eq!(fs::read_to_string(bed.at("captions/two.txt")).unwrap(), "a te\n");
}

#[test]
fn what_a_training_read_is_read_by_those_that_draw_with_it() {
    let stages = "  echo: { images: photos, suffix: \"!\" }\n  learn: { images: echo, log: LOG }\n  \
                  draw: { lora: learn@last, prompts: [\"see [filewords]\"], log: LOG }";
    let bed = Bed::new(stages);
    bed.run();
    assert!(bed.says("draw", "e004-0").starts_with("see text one!: "), "{}", bed.says("draw", "e004-0"));
    let pipeline = bed.load();
    let draw = pipeline.stage("draw").unwrap();
    assert!(draw.edges.iter().any(|edge| edge.reads.param == "images" && edge.reads.reference.name == "echo"));
    bed.stages(&stages.replace("lora: learn@last", "lora: base"));
    assert_eq!(bed.problems(), ["`[filewords]` needs the `images` of a stage, and `base` has none"]);
}

/// The files and folders below `out/`, sorted.
fn shown(bed: &Bed) -> Vec<String> {
    let out = bed.at("out");
    let entries =
        walkdir::WalkDir::new(&out).min_depth(1).sort_by_file_name().into_iter().map(|entry| entry.unwrap().into_path());
    entries.map(|path| path.strip_prefix(&out).unwrap().display().to_string()).collect()
}

#[test]
fn a_stage_that_gets_variants_or_loses_them_leaves_no_files_of_its_earlier_shape() {
    let fresh = |stages: &str| {
        let bed = Bed::new(stages);
        bed.run();
        shown(&bed)
    };
    let fewer = MATRIX.replace("[1, 2.0]", "[1]");
    let bed = Bed::new(LEARN);
    for stages in [LEARN, MATRIX, &fewer, LEARN, &fewer, MATRIX, LEARN] {
        bed.stages(stages);
        bed.run();
        assert_eq!(shown(&bed), fresh(stages), "{stages}");
    }
}

#[test]
fn what_a_person_put_into_the_folder_of_an_earlier_shape_or_changed_there_is_kept() {
    let bed = Bed::new(LEARN);
    bed.run();
    bed.write("out/learn/notes.txt", "mine");
    let changed = shown(&bed).into_iter().find(|path| path.starts_with("draw/e")).unwrap();
    fs::remove_file(bed.at("out").join(&changed)).unwrap();
    bed.write(&format!("out/{changed}"), "mine too");
    bed.stages(MATRIX);
    let (_, _, events) = bed.run_all();
    assert_eq!(fs::read_to_string(bed.at("out/learn/notes.txt")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(bed.at(&format!("out/.yours/{changed}"))).unwrap(), "mine too");
    let said = format!("{events:?}");
    assert!(
        said.contains("out of out/learn, which `learn` does not show any more") && said.contains("you changed out/draw/e"),
        "{said}"
    );
}
