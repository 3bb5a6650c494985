//! crop, resize, caption and flip.

use image::{Rgb, RgbImage};
use loramill::engine::kind::item::Item;
use loramill::engine::kind::stage_kind::StageKind;
use loramill::sd::data::{decode, encode};
use loramill::stages::{caption, crop, flip, resize};

use super::{Shelf, expand, load, resolved, run};

/// Every pixel tells where it was.
fn map(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 77]))
}

fn photo(shelf: &Shelf, name: &str, picture: &RgbImage) -> Item {
    let file = shelf.put(encode::png(picture), "png");
    shelf.item(name, [("image", file.clone()), ("photo", file)])
}

fn picture(shelf: &Shelf, item: &Item) -> RgbImage {
    decode::decode(&shelf.bytes(&item.fields["image"])).unwrap().picture
}

fn caption(shelf: &Shelf, item: &Item) -> String {
    String::from_utf8(shelf.bytes(&item.fields["caption"])).unwrap()
}

/// The one problem that loading gives: message and hint.
fn problem(kind: &StageKind, yaml: &str) -> String {
    match load(kind, yaml) {
        Ok(_) => panic!("`{yaml}` should not load"),
        Err(problems) => match problems.as_slice() {
            [only] => format!("{}; {}", only.message, only.hint.as_deref().unwrap_or_default()),
            several => panic!("`{yaml}` gives {} problems", several.len()),
        },
    }
}

#[test]
fn crop_takes_the_middle_and_passes_other_fields_on() {
    let shelf = Shelf::default();
    let stage = load(&crop::KIND, "images: photos").unwrap();
    let outputs = run(&*stage, &resolved([("images", vec![photo(&shelf, "a/b", &map(60, 40))])]), &shelf).unwrap();
    assert_eq!((outputs[0].name.as_str(), outputs[0].fields.len()), ("a/b", 2));
    assert_eq!(picture(&shelf, &outputs[0]), RgbImage::from_fn(40, 40, |x, y| Rgb([x as u8 + 10, y as u8, 77])));
}

#[test]
fn a_photo_that_needs_no_cut_passes_as_it_is() {
    let shelf = Shelf::default();
    let photo = photo(&shelf, "a", &map(40, 40));
    let stage = load(&crop::KIND, "images: photos").unwrap();
    let outputs = run(&*stage, &resolved([("images", vec![photo.clone()])]), &shelf).unwrap();
    assert_eq!(outputs[0].fields["image"], photo.fields["image"]);
}

/// A file among those that tests/pictures has.
fn file_of(shelf: &Shelf, path: &str) -> Item {
    let bytes = std::fs::read(format!("{}/tests/pictures/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (_, extension) = path.rsplit_once('.').unwrap();
    let file = shelf.put(bytes, extension);
    shelf.item("a", [("image", file.clone()), ("photo", file)])
}

#[test]
fn crop_makes_srgb_of_a_photo_in_other_colours_and_passes_one_that_is_srgb_by_name() {
    let shelf = Shelf::default();
    let stage = load(&crop::KIND, "{ images: photos, aspect: keep }").unwrap();
    let cropped = |path: &str| {
        let photo = file_of(&shelf, path);
        let outputs = run(&*stage, &resolved([("images", vec![photo.clone()])]), &shelf).unwrap();
        (photo.fields["image"].clone(), outputs[0].fields["image"].clone())
    };
    let (before, after) = cropped("colour/srgb-of-littlecms.png");
    assert_eq!(before, after);
    let (before, after) = cropped("colour/p3.png");
    assert_ne!(before, after);
    let decoded = decode::decode(&shelf.bytes(&after)).unwrap();
    assert_eq!(decoded.colours, decode::Colours::Srgb, "what comes out names no other colours");
    assert_eq!(decoded.picture, decode::decode(&shelf.bytes(&before)).unwrap().picture);
}

#[test]
fn a_colour_profile_that_cannot_be_used_is_said_with_the_photo_and_the_reason() {
    let inputs = |shelf: &Shelf| resolved([("images", vec![file_of(shelf, "odd/profile-cut.png")])]);
    for (kind, yaml) in [(&crop::KIND, "images: photos"), (&resize::KIND, "{ images: photos, size: 32 }")] {
        let shelf = Shelf::default();
        run(&*load(kind, yaml).unwrap(), &inputs(&shelf), &shelf).unwrap();
        let told = "the colour profile of `a.png` cannot be used, and its colours are taken as sRGB: its profile is damaged";
        assert_eq!(*shelf.said.lock().unwrap(), [told], "{yaml}");
    }
}

#[test]
fn the_background_of_transparent_parts_is_stated_and_in_the_keys_that_it_concerns() {
    let shelf = Shelf::default();
    let photo = file_of(&shelf, "files/transparent.png");
    let inputs = resolved([("images", vec![photo.clone()])]);
    let corner = |kind: &StageKind, yaml: &str| {
        let outputs = run(&*load(kind, yaml).unwrap(), &inputs, &shelf).unwrap();
        picture(&shelf, &outputs[0]).get_pixel(1, 0).0
    };
    // All but transparent there.
    let is_near = |pixel: [u8; 3], colour: [u8; 3]| pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 6);
    assert!(is_near(corner(&crop::KIND, "images: photos"), [255; 3]));
    assert!(is_near(corner(&crop::KIND, "{ images: photos, background: '#0000ff' }"), [0, 0, 255]));
    assert!(is_near(corner(&resize::KIND, "{ images: photos, size: [40, 24], background: black }"), [0; 3]));
    let stored = corner(&resize::KIND, "{ images: photos, size: [40, 24], background: stored }");
    assert!(!is_near(stored, [0; 3]) && !is_near(stored, [255; 3]));
    assert!(problem(&crop::KIND, "{ images: photos, background: teal }").contains("`\"#rrggbb\"`"));

    // The value that stands for what was done before there was a choice is in no key, and a picture of a stage's is opaque.
    let of_crop = |yaml: &str| load(&crop::KIND, yaml).unwrap().components();
    assert!(of_crop("images: photos").contains(&("background".to_string(), "#ffffff".into())));
    assert!(of_crop("{ images: photos, background: stored }").iter().all(|(name, _)| name != "background"));
    let values = |item: &Item| {
        let stage = load(&resize::KIND, "{ images: photos, background: grey }").unwrap();
        assert!(stage.components().iter().all(|(name, _)| name != "background"));
        expand(&*stage, &resolved([("images", vec![item.clone()])]), &shelf).unwrap()[0].values.clone()
    };
    let of_photo = values(&photo);
    assert_eq!((&of_photo["background"], &of_photo["colours"]), (&"#808080".into(), &"srgb".into()));
    let mut made = photo.clone();
    made.fields.insert("image".into(), shelf.put(encode::png(&map(4, 4)), "png"));
    assert!(values(&made).is_empty(), "its key is the one of before");
}

#[test]
fn a_changed_box_is_in_the_work_of_its_own_photo_only() {
    let shelf = Shelf::default();
    let stage = load(&crop::KIND, "{ images: photos, boxes: crops }").unwrap();
    let photos = vec![photo(&shelf, "a", &map(60, 40)), photo(&shelf, "b", &map(60, 40)), photo(&shelf, "c", &map(60, 40))];
    let with = |boxes: &str| {
        let file = shelf.item("crops", [("file", shelf.put(boxes.into(), "yaml"))]);
        resolved([("images", photos.clone()), ("boxes", vec![file])])
    };
    let before = with("a: [0, 0, 10, 10]\nb: [1, 2, 30, 20]\n");
    let after = with("# moved\nb: [1, 2, 30, 21]\na: [0, 0, 10, 10]\n");
    let key =
        |inputs| expand(&*stage, inputs, &shelf).unwrap().into_iter().map(|work| (work.values, work.inputs)).collect::<Vec<_>>();
    let (before_keys, after_keys) = (key(&before), key(&after));
    assert_eq!(before_keys[0], after_keys[0]);
    assert_ne!(before_keys[1], after_keys[1]);
    assert_eq!(before_keys[2], after_keys[2]);

    let outputs = run(&*stage, &after, &shelf).unwrap();
    assert_eq!(picture(&shelf, &outputs[0]).dimensions(), (10, 10));
    assert_eq!(picture(&shelf, &outputs[1]).dimensions(), (30, 30), "a rough box grows to the aspect");
    assert_eq!(picture(&shelf, &outputs[2]).dimensions(), (40, 40));
}

#[test]
fn a_box_for_no_photo_is_named_with_the_photo_that_was_meant() {
    let shelf = Shelf::default();
    let stage = load(&crop::KIND, "{ images: photos, boxes: crops }").unwrap();
    let file = shelf.item("crops", [("file", shelf.put("IMG_O1: [0, 0, 9, 9]".into(), "yaml"))]);
    let inputs = resolved([("images", vec![photo(&shelf, "IMG_01", &map(20, 20))]), ("boxes", vec![file])]);
    assert_eq!(stage.lint(&inputs, &shelf), ["there is a box for `IMG_O1`, but no photo; did you mean `IMG_01`?"]);
}

#[test]
fn a_broken_photo_fails_with_its_name_the_problem_and_a_remedy() {
    let shelf = Shelf::default();
    let mut bytes = encode::png(&map(60, 40));
    bytes.truncate(bytes.len() / 2);
    let item = shelf.item("garden/IMG_7", [("image", shelf.put(bytes, "png"))]);
    for (kind, yaml) in [(&crop::KIND, "images: photos"), (&resize::KIND, "images: photos"), (&flip::KIND, "images: photos")] {
        let stage = load(kind, yaml).unwrap();
        let problem = format!("{:#}", run(&*stage, &resolved([("images", vec![item.clone()])]), &shelf).unwrap_err());
        assert!(problem.starts_with("reading `garden/IMG_7.png`: the PNG is damaged or ends early; copy it again"), "{problem}");
    }
}

#[test]
fn crop_params_are_checked_when_the_file_is_read() {
    assert!(problem(&crop::KIND, "{ images: photos, aspect: 0:1 }").starts_with("expected an aspect"));
    assert!(problem(&crop::KIND, "{ images: photos, focus: auto }").contains("not in this version"));
    assert!(problem(&crop::KIND, "{ images: photos, focus: centre }").contains("did you mean `center`?"));
    assert!(load(&crop::KIND, "{ images: photos, aspect: keep, focus: center }").is_ok());
    let ratio = |yaml| load(&crop::KIND, yaml).unwrap().components();
    assert_eq!(ratio("{ images: photos, aspect: 4:6 }"), ratio("{ images: x, aspect: 2:3 }"));
}

#[test]
fn resize_fills_fits_or_squeezes() {
    let shelf = Shelf::default();
    let photo = photo(&shelf, "a", &RgbImage::from_fn(80, 40, |x, _| if x < 20 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) }));
    let size = |yaml| {
        let stage = load(&resize::KIND, yaml).unwrap();
        picture(&shelf, &run(&*stage, &resolved([("images", vec![photo.clone()])]), &shelf).unwrap()[0])
    };
    let (red, blue) = (Rgb([255, 0, 0]), Rgb([0, 0, 255]));
    let cropped = size("{ images: crop, size: 16 }");
    assert!(cropped.dimensions() == (16, 16) && cropped.pixels().skip(8).all(|pixel| pixel[2] > 200), "red is cut off");
    let padded = size("{ images: crop, size: [16, 12], mode: pad }");
    assert_eq!((padded.dimensions(), *padded.get_pixel(0, 0), *padded.get_pixel(15, 11)), ((16, 12), red, blue));
    let stretched = size("{ images: crop, size: [20, 60], mode: stretch }");
    assert_eq!((stretched.dimensions(), *stretched.get_pixel(0, 59), *stretched.get_pixel(19, 0)), ((20, 60), red, blue));
    assert!(problem(&resize::KIND, "{ images: crop, size: 0 }").contains("from 1 to 16384"));
    assert!(problem(&resize::KIND, "{ images: crop, size: [512] }").contains("`[width, height]`"));
}

#[test]
fn resize_gives_each_picture_the_bucket_of_its_shape() {
    let shelf = Shelf::default();
    let size = |yaml: &str, width: u32, height: u32| {
        let stage = load(&resize::KIND, &format!("{{ images: crop, {yaml} }}")).unwrap();
        let photo = photo(&shelf, "a", &map(width, height));
        picture(&shelf, &run(&*stage, &resolved([("images", vec![photo])]), &shelf).unwrap()[0]).dimensions()
    };
    assert_eq!(size("buckets: 512", 60, 40), (640, 384));
    let small = "buckets: { size: 64, min: 32, max: 128, step: 16 }";
    assert_eq!(
        [(60, 40), (40, 60), (50, 49), (300, 40)].map(|(w, h)| size(small, w, h)),
        [(80, 48), (48, 80), (64, 64), (128, 32)]
    );
    let components = |yaml| load(&resize::KIND, yaml).unwrap().components();
    let all = "{ images: crop, buckets: { step: 64, max: 1024, min: 256, size: 512 } }";
    assert_eq!(components("{ images: crop, buckets: 512 }"), components(all));
    assert_ne!(components("{ images: crop, buckets: 512 }"), components("{ images: crop, size: 512 }"));
}

#[test]
fn buckets_are_checked_when_the_file_is_read() {
    let of = |yaml: &str| problem(&resize::KIND, &format!("{{ images: crop, {yaml} }}"));
    assert!(of("size: 512, buckets: 512").contains("take one of them out"));
    assert!(of("buckets: 64").contains("write them all, as in `{ size: 64, min: 32, max: 128, step: 8 }`"));
    assert!(of("buckets: 2000").contains("`{ size: 2000, min: 960, max: 4032, step: 64 }`"));
    assert!(of("buckets: 9223372036854775807").contains("must lie between `min` and `max`, 256 and 1024"));
    assert!(of("buckets: 0").contains("must lie between"));
    assert!(of("buckets: { step: 0 }").contains("a multiple of 8"));
    assert!(of("buckets: { step: 60 }").contains("a multiple of 8"));
    assert!(of("buckets: { min: 100 }").contains("`min` must be a multiple of `step`, which is 64"));
    assert!(of("buckets: { max: 16448 }").contains("at most 16384"));
    assert!(of("buckets: { sise: 512 }").contains("did you mean `size`?"));
}

#[test]
fn flip_keeps_the_original_and_shares_its_caption_with_the_mirror() {
    let shelf = Shelf::default();
    let mut item = photo(&shelf, "a", &map(30, 20));
    item.fields.insert("caption".into(), shelf.put("a star".into(), "txt"));
    let stage = load(&flip::KIND, "images: caption").unwrap();
    let outputs = run(&*stage, &resolved([("images", vec![item.clone()])]), &shelf).unwrap();
    let names: Vec<_> = outputs.iter().map(|item| (item.name.as_str(), item.origin.as_deref())).collect();
    assert_eq!(names, [("a", None), ("a-flip", Some("a"))]);
    assert_eq!(outputs[0].fields, item.fields);
    assert_eq!(picture(&shelf, &outputs[1]), RgbImage::from_fn(30, 20, |x, y| Rgb([29 - x as u8, y as u8, 77])));
    assert_eq!(caption(&shelf, &outputs[1]), "a star");
}

#[test]
fn a_mirror_with_a_text_of_its_own_keeps_it() {
    let shelf = Shelf::default();
    let mut item = photo(&shelf, "a", &map(30, 20));
    item.fields.insert("caption".into(), shelf.put("he looks left".into(), "txt"));
    let stage = load(&flip::KIND, "images: caption").unwrap();
    let lint = |item: &Item| stage.lint(&resolved([("images", vec![item.clone()])]), &shelf);
    assert!(lint(&item)[0].contains("the caption of `a` says `left`"));
    item.fields.insert("caption-flip".into(), shelf.put("he looks right".into(), "txt"));
    assert!(lint(&item).is_empty());
    let outputs = run(&*stage, &resolved([("images", vec![item])]), &shelf).unwrap();
    assert_eq!((caption(&shelf, &outputs[0]), caption(&shelf, &outputs[1])), ("he looks left".into(), "he looks right".into()));
}

#[test]
fn a_picture_that_is_already_called_like_a_mirror_is_an_error() {
    let shelf = Shelf::default();
    let items = vec![photo(&shelf, "a", &map(3, 2)), photo(&shelf, "a-flip", &map(3, 2))];
    let stage = load(&flip::KIND, "images: crop").unwrap();
    let problem = expand(&*stage, &resolved([("images", items)]), &shelf).unwrap_err().to_string();
    assert!(problem.contains("`a`") && problem.contains("`a-flip`") && problem.contains("rename"), "{problem}");
}

#[test]
fn captions_come_from_sidecars_a_template_or_nobody() {
    let shelf = Shelf::default();
    let mut with = photo(&shelf, "red garden/big_star", &map(3, 2));
    with.fields.insert("sidecar".into(), shelf.put(b"\xef\xbb\xbfa star  \r\n".to_vec(), "txt"));
    let inputs = resolved([("images", vec![with, photo(&shelf, "b", &map(3, 3))])]);
    let texts = |yaml| {
        let outputs = run(&*load(&caption::KIND, yaml).unwrap(), &inputs, &shelf).unwrap();
        outputs.iter().map(|item| caption(&shelf, item)).collect::<Vec<_>>()
    };
    assert_eq!(texts("images: resize"), ["a star", ""]);
    assert_eq!(texts("{ images: resize, model: sidecar, prefix: 'shrug, ' }"), ["shrug, a star", "shrug"]);
    assert_eq!(texts("{ images: resize, model: none }"), ["", ""]);
    let template = "{ images: resize, model: template, template: 'photo of {name}, {folder}: {sidecar}', suffix: '!' }";
    assert_eq!(texts(template), ["photo of big star, red garden: a star!", "photo of b, : !"]);
}

#[test]
fn the_picture_itself_is_not_part_of_what_decides_a_sidecar_caption() {
    let shelf = Shelf::default();
    let text = shelf.put("a star".into(), "txt");
    let stage = load(&caption::KIND, "images: resize").unwrap();
    let work = |width| {
        let mut item = photo(&shelf, "a", &map(width, 5));
        item.fields.insert("sidecar".into(), text.clone());
        expand(&*stage, &resolved([("images", vec![item])]), &shelf).unwrap().remove(0)
    };
    assert_eq!((work(5).inputs, work(5).values), (work(6).inputs, work(6).values));
    assert_ne!(work(5).carry, work(6).carry);
}

#[test]
fn caption_params_are_checked_when_the_file_is_read() {
    let blip = problem(&caption::KIND, "{ images: resize, model: blip, weights: blip }");
    assert!(blip.contains("`model: blip` comes with a captioning network, not in this version"), "{blip}");
    assert!(problem(&caption::KIND, "{ images: resize, model: sidcar }").contains("did you mean `sidecar`?"));
    assert!(problem(&caption::KIND, "{ images: resize, model: template }").contains("`template` is missing"));
    assert!(problem(&caption::KIND, "{ images: resize, template: x }").contains("add `model: template`"));
    assert!(problem(&caption::KIND, "{ images: resize, model: template, template: 'a {nam}' }").contains("did you mean `name`?"));
}
