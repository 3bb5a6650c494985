//! How long a plan says that it takes.

use std::thread::available_parallelism;

use loramill::pipeline::estimate::Estimate;

use crate::engine::bed::Bed;

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
