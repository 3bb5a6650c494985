//! How long a plan says that it takes.

use std::thread::{self, available_parallelism};
use std::time::Duration;

use loramill_engine::decide::estimate::Estimate;

use crate::bed::{Bed, Heard};
use crate::collecting::wait_for_the_second_epoch;
use crate::processes::child;

const SLOW: &str = "  echo: { images: photos, suffix: '.', delay: 60, log: LOG }\n  cut: { images: echo, log: LOG }\n  \
                    learn: { images: photos, delay: 40, epochs: 4, save_every: 1, log: LOG }";

fn estimate(bed: &Bed, stage: &str) -> Option<Estimate> {
    bed.plan().stage(stage).expect("a stage of the plan").estimate
}

#[test]
fn before_a_first_run_no_time_is_known_and_nothing_to_do_takes_none() {
    let bed = Bed::new(SLOW);
    assert_eq!(bed.plan().estimate().unknown, ["echo", "cut", "learn"]);
    bed.run();
    assert_eq!(bed.plan().estimate().known, Estimate::NOTHING);
    assert!(bed.plan().estimate().unknown.is_empty());
}

#[test]
fn time_is_that_of_the_items_that_run_and_a_range_where_others_may() {
    let bed = Bed::new(SLOW);
    bed.run();
    bed.stages(&SLOW.replace("suffix: '.'", "suffix: '!'"));
    let side_by_side = available_parallelism().map_or(1, |count| count.get()).min(3) as f64;
    let echo = estimate(&bed, "echo").expect("it ran before");
    assert_eq!(echo.least, echo.most);
    // Three items of 60 ms or, on a machine that is busy, more.
    assert!(echo.least * side_by_side >= 0.18, "{echo:?}");
    let cut = estimate(&bed, "cut").expect("it ran before");
    assert!(cut.least == 0.0 && cut.most > 0.0, "{cut:?}");
    let total = bed.plan().estimate().known;
    assert_eq!((total.least, total.most), (echo.least, echo.most + cut.most));

    // One photo of three is a third of the work.
    bed.stages(SLOW);
    bed.write("images/two.png", "new two");
    let one = estimate(&bed, "echo").expect("it ran before");
    assert!(one.least >= 0.06 && one.least < echo.least * side_by_side, "{one:?} {echo:?}");
}

#[test]
fn a_training_takes_as_long_as_its_checkpoints_and_a_new_stage_as_others_of_its_kind() {
    let bed = Bed::new(SLOW);
    bed.run();
    bed.stages(&format!(
        "{}\n  louder: {{ kind: echo, images: photos, suffix: '!', log: LOG }}",
        SLOW.replace("epochs: 4", "epochs: 8")
    ));
    let learn = estimate(&bed, "learn").expect("it ran before");
    let before = bed.cache().lookup(&bed.lock().stages["learn"][0].key).unwrap().expect("recorded").seconds;
    assert!(learn.most > 0.0 && learn.most <= 2.01 * before, "{learn:?} after {before}");
    let louder = estimate(&bed, "louder").expect("its kind ran before");
    assert!(louder.least > 0.05, "{louder:?}");
    let json = bed.plan().to_json();
    assert!(json["estimate"]["seconds"][1].as_f64().expect("a number") >= louder.least + learn.least);
}

const LEARN: &str = "  learn: { images: photos, delay: 40, epochs: 4, save_every: 1, log: LOG }";

/// Seconds that a plan says `learn` takes.
fn learning(bed: &Bed) -> f64 {
    let learn = estimate(bed, "learn").expect("something like it ran before");
    assert_eq!(learn.least, learn.most);
    learn.most
}

#[test]
fn a_training_takes_as_long_as_it_sees_pictures() {
    let bed = Bed::new(LEARN);
    bed.run();
    let before = bed.cache().lookup(&bed.lock().stages["learn"][0].key).unwrap().expect("recorded").seconds;
    // Checkpoints cost nothing, epochs and pictures do.
    for (stages, times) in [("save_every: 4", 1.0), ("save_every: 1, rate: 2", 1.0)] {
        bed.stages(&LEARN.replace("save_every: 1", stages));
        assert!((learning(&bed) / before - times).abs() < 1e-9, "{stages}");
    }
    bed.stages(&LEARN.replace("epochs: 4", "epochs: 6"));
    assert!((learning(&bed) / before - 1.5).abs() < 1e-9);
    bed.write("images/four.png", "text four");
    assert!((learning(&bed) / before - 2.0).abs() < 1e-9, "four pictures for three");
}

#[test]
fn the_size_of_pictures_counts_before_they_are_made() {
    let stages = "  echo: { images: photos, size: 4, log: LOG }\n  cut: { images: echo, log: LOG }\n  \
                  learn: { images: cut, delay: 40, epochs: 4, log: LOG }";
    let bed = Bed::new(stages);
    bed.run();
    let before = bed.cache().lookup(&bed.lock().stages["learn"][0].key).unwrap().expect("recorded").seconds;
    bed.stages(&stages.replace("size: 4", "size: 16, suffix: '.'"));
    let learn = estimate(&bed, "learn").expect("it ran before");
    assert!((learn.most / before - 4.0).abs() < 1e-9, "{learn:?} after {before}");
}

#[test]
fn of_a_training_on_another_base_nothing_is_known() {
    let stages = LEARN.replace("images: photos", "images: photos, base: base");
    let bed = Bed::new(&stages);
    bed.run();
    bed.write("base.safetensors", "another base, ten times as large");
    assert_eq!(estimate(&bed, "learn"), None);
    assert_eq!(bed.plan().estimate().unknown, ["learn"]);
    bed.write("base.safetensors", "base");
    bed.stages(&stages.replace("delay: 40", "delay: 40, rate: 3"));
    assert!(learning(&bed) > 0.1);
}

#[test]
fn after_an_interruption_what_is_left_is_told_and_what_was_measured_stays_right() {
    let bed = Bed::new(LEARN);
    bed.run();
    let before = bed.cache().lookup(&bed.lock().stages["learn"][0].key).unwrap().expect("recorded").seconds;
    let mut bed = bed;
    bed.stages(&LEARN.replace("images: photos", "images: photos, rate: 2, wait_at: 4"));
    thread::scope(|scope| {
        let running = scope.spawn(|| bed.try_run(&Heard::default()));
        while !bed.log().ends_with(&["save 3".to_string()]) {
            thread::sleep(Duration::from_millis(1));
        }
        bed.requests.interrupt();
        running.join().expect("no panic").expect("the run itself does not fail");
    });
    bed.requests = Default::default();
    assert_eq!(bed.reasons("learn"), ["goes on where it was interrupted, after epoch 3 of 4, with 3 published"]);
    assert!((learning(&bed) / before - 0.25).abs() < 1e-9);
    bed.stages(&LEARN.replace("images: photos", "images: photos, rate: 2"));
    bed.run();
    // A quarter was done now, and the record stands for all of it.
    let after = bed.cache().lookup(&bed.lock().stages["learn"][0].key).unwrap().expect("recorded").seconds;
    assert!(after > 0.04 * 4.0, "{after}");
}

#[test]
fn an_interruption_before_the_first_checkpoint_is_gone_on_from_too() {
    let bed = Bed::new(&LEARN.replace("save_every: 1", "save_every: 4, wait_at: 3"));
    let mut running = child(&bed);
    wait_for_the_second_epoch(&bed);
    running.kill().expect("it is our child");
    running.wait().expect("it has ended");
    bed.stages(&LEARN.replace("save_every: 1", "save_every: 4"));
    assert_eq!(bed.reasons("learn"), ["goes on where it was interrupted, after epoch 2 of 4"]);
    assert_eq!(bed.run(), ["learn 3", "learn 4", "save 4"]);
}

#[test]
fn drawings_between_two_epochs_are_no_time_of_the_training() {
    let bed = Bed::new(
        "  learn: { images: photos, epochs: 2, save_every: 1, log: LOG }\n  \
                        draw: { lora: learn, prompts: [a], delay: 300, log: LOG }",
    );
    bed.run();
    let learn = bed.cache().lookup(&bed.lock().stages["learn"][0].key).unwrap().expect("recorded").seconds;
    assert!(learn < 0.6, "{learn}");
}
