//! Captions and their mirrors through a whole run with the kinds of the program, and the remarks that are heard of them.

use std::fs;

use image::{Rgb, RgbImage};
use loramill::engine::run::events::Event;
use loramill::sd::data::encode;
use loramill::stages::KINDS;

use crate::bed::Bed;

fn bed(caption: &str) -> Bed {
    let mut bed = Bed::new("");
    bed.kinds = KINDS;
    for (number, name) in ["one", "two", "three"].into_iter().enumerate() {
        let picture = RgbImage::from_fn(24, 16, |x, y| Rgb([x as u8, y as u8, number as u8]));
        fs::write(bed.at(&format!("images/{name}.png")), encode::png(&picture)).expect("written");
    }
    bed.stages(&format!(
        "  crop: {{ images: photos }}\n  resize: {{ images: crop, size: 8 }}\n  \
         caption: {{ images: resize, model: template, template: \"{caption}\" }}\n  flip: {{ images: caption }}"
    ));
    bed
}

fn caption(bed: &Bed, item: &str) -> String {
    let items = bed.items("flip");
    let item = items.iter().find(|known| known.name == item).expect("an item of the stage");
    String::from_utf8(bed.cache().read(&item.fields["caption"].digest).expect("the object is here")).expect("a text")
}

/// What the stages remarked.
fn remarks(events: &[Event]) -> Vec<(String, Vec<String>, usize)> {
    let remark = |event: &Event| match event {
        Event::Linted { stage, lints } => Some((stage.clone(), lints.lines.clone(), lints.more)),
        _ => None,
    };
    events.iter().filter_map(remark).collect()
}

#[test]
fn a_text_for_the_mirror_alone_reaches_it() {
    let bed = bed("a {name}");
    bed.write("captions/two-flip.txt", "seen in a mirror\n");
    bed.run();
    let captions = |names: &[&str]| names.iter().map(|name| caption(&bed, name)).collect::<Vec<_>>();
    assert_eq!(captions(&["one", "one-flip", "two", "two-flip"]), ["a one", "a one", "a two", "seen in a mirror"]);

    bed.write("captions/two-flip.txt", "another view");
    let planned = bed.plan();
    assert_eq!(planned.stage("flip").expect("planned").dirty, ["two"]);
    bed.run();
    assert_eq!(captions(&["two", "two-flip"]), ["a two", "another view"]);

    fs::remove_file(bed.at("captions/two-flip.txt")).expect("removed");
    bed.run();
    assert_eq!(captions(&["two", "two-flip"]), ["a two", "a two"]);
    assert!(bed.plan().is_fresh());
}

#[test]
fn a_run_and_a_plan_say_when_a_mirror_shares_a_caption_with_a_side() {
    let bed = bed("a {name} to the left");
    let (_, record, events) = bed.run_all();
    assert!(record.is_ok(), "{record:?}");
    let [(stage, lines, more)] = remarks(&events).try_into().expect("one stage remarks something");
    assert_eq!((stage.as_str(), lines.len(), more), ("flip", 3, 0));
    assert!(lines[0].contains("the caption of `one` says `left`") && lines[0].contains("`one-flip.txt`"), "{lines:?}");
    assert!(remarks(&bed.run_all().2).is_empty(), "a fresh stage said it when it ran");
    assert!(bed.plan().stage("flip").expect("planned").lints.is_empty());

    // A caption changes, no picture does: flip runs nothing, and what it reads is another thing all the same.
    bed.write("captions/one.txt", "a one on the right");
    let planned = bed.plan();
    let lines = &planned.stage("flip").expect("planned").lints.lines;
    assert!(lines.iter().any(|line| line.contains("`one` says `right`")), "what no run has read yet: {lines:?}");
    bed.write("captions/one.txt", "a one in the middle");
    bed.write("captions/two-flip.txt", "a two to the right");
    let planned = bed.plan();
    let lints = &planned.stage("flip").expect("planned").lints;
    assert!(lints.lines.len() == 1 && lints.lines[0].contains("`three`"), "{lints:?}");
    let json = planned.to_json();
    let flip = json["stages"].as_array().expect("a list").iter().find(|stage| stage["name"] == "flip").expect("planned");
    assert_eq!(flip["lints"]["lines"][0], lints.lines[0].as_str());
    assert_eq!(remarks(&bed.run_all().2), [("flip".to_string(), lints.lines.clone(), 0)]);
}

#[test]
fn of_many_remarks_twenty_are_told_and_the_others_counted() {
    let bed = bed("a {name} to the left");
    for number in 0..22 {
        fs::copy(bed.at("images/one.png"), bed.at(&format!("images/n{number}.png"))).expect("copied");
    }
    let [(_, lines, more)] = remarks(&bed.run_all().2).try_into().expect("one stage remarks something");
    assert_eq!((lines.len(), more), (20, 5));
}

#[test]
fn a_mirror_of_what_was_collected_descends_from_the_photo_whatever_that_is_called() {
    let bed = bed("");
    bed.stages(
        "  crop: { images: photos }\n  resize: { images: crop, matrix: { size: [8, 9] } }\n  flip: { images: \"resize[*]\" }",
    );
    bed.run();
    fs::rename(bed.at("images/two.png"), bed.at("images/zwei.png")).expect("renamed");
    bed.run();
    let origins: Vec<(String, Option<String>)> = bed.items("flip").into_iter().map(|item| (item.name, item.origin)).collect();
    assert_eq!(origins.len(), 12);
    for name in ["size=8/zwei", "size=8/zwei-flip", "size=9/zwei", "size=9/zwei-flip"] {
        assert!(origins.contains(&(name.to_string(), Some("zwei".to_string()))), "{origins:?}");
    }
}

/// How many items of a stage a run did.
fn ran(bed: &Bed, stage: &str) -> usize {
    let (_, record, _) = bed.run_all();
    assert!(record.is_ok(), "{record:?}");
    record.stage(stage).expect("it ran").counts.ran
}

#[test]
fn a_box_counts_for_its_photo_alone() {
    let bed = bed("");
    let pipeline = "concept: test\ninputs: { photos: images/, boxes: crops.yaml }\nstages:\n  \
                    crop: { images: photos, boxes: boxes }\n  resize: { images: crop, size: 8 }\n";
    bed.write("pipeline.yaml", pipeline);
    bed.write("crops.yaml", "one: [0, 0, 8, 8]\ntwo: [0, 0, 8, 8]\n");
    assert_eq!(ran(&bed, "crop"), 3);
    bed.write("crops.yaml", "# two is better to the right\ntwo: [8, 0, 8, 8]\none: [0, 0, 8, 8]\n");
    assert_eq!(bed.plan().stage("crop").expect("planned").dirty, ["two"]);
    assert_eq!(ran(&bed, "crop"), 1);
    bed.write("crops.yaml", "one: { x: 0, y: 0, w: 8, h: 8 }\ntwo: [8, 0, 8, 8]\nthree: [0, 0, 16, 16]\n");
    assert_eq!(bed.plan().stage("crop").expect("planned").dirty, ["three"], "another spelling of a box is the same box");
}

#[test]
fn a_sidecar_counts_for_its_photo_alone() {
    let bed = bed("");
    bed.stages("  crop: { images: photos }\n  caption: { images: crop, model: sidecar }");
    for name in ["one", "two", "three"] {
        bed.write(&format!("images/{name}.txt"), &format!("what {name} shows"));
    }
    assert_eq!(ran(&bed, "caption"), 3);
    bed.write("images/two.txt", "something else");
    assert_eq!(bed.plan().stage("crop").expect("planned").items.dirty, 0);
    assert_eq!(bed.plan().stage("caption").expect("planned").dirty, ["two"]);
    assert_eq!(ran(&bed, "caption"), 1);
}
