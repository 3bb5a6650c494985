//! Picture files of every sort against what Pillow reads from them, scaling against Pillow's, and files that must be refused.

use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use loramill::sd::data::decode::{Background, Decoded};
use loramill::sd::data::named_colours::Colours;
use loramill::sd::data::{decode, resize};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures").join(name)
}

fn names(in_folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder(in_folder)).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The largest difference of two pictures of one size, and the share of channel values that differ by more than `limit`.
fn difference(ours: &RgbImage, theirs: &RgbImage, limit: u8) -> (u8, f64) {
    assert_eq!(ours.dimensions(), theirs.dimensions());
    let each: Vec<u8> = ours.iter().zip(theirs.iter()).map(|(a, b)| a.abs_diff(*b)).collect();
    (*each.iter().max().unwrap(), each.iter().filter(|&&by| by > limit).count() as f64 / each.len() as f64)
}

#[test]
fn every_sort_of_picture_reads_as_pillow_reads_it() {
    let mut wrong = Vec::new();
    let files = names("files");
    assert_eq!(files.len(), 39);
    for name in files {
        let ours = decode::decode_over(&std::fs::read(folder("files").join(&name)).unwrap(), Background::Stored).unwrap().picture;
        let theirs = image::open(folder("expected").join(format!("{name}.png"))).unwrap().into_rgb8();
        if ours.dimensions() != theirs.dimensions() {
            wrong.push(format!("{name}: {:?}, expected {:?}", ours.dimensions(), theirs.dimensions()));
            continue;
        }
        // JPEG leaves the rounding of the cosine transform, of the colours and of halved chroma's enlargement to the decoder.
        const HALVED_CHROMA: [&str; 4] = ["baseline-420.jpg", "progressive.jpg", "restart-markers.jpg", "trailing-bytes.jpg"];
        let (most_allowed, share_allowed) = match name.as_str() {
            name if HALVED_CHROMA.contains(&name) => (5, 0.005),
            name if name.ends_with(".jpg") && name != "lies-about-its-kind.jpg" => (2, 0.0),
            _ => (0, 0.0),
        };
        let (most, above_2) = difference(&ours, &theirs, 2);
        if most > most_allowed || above_2 > share_allowed {
            wrong.push(format!("{name}: differs by up to {most}, {:.2} % by more than 2", above_2 * 100.0));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn decoded(path: PathBuf) -> Decoded {
    decode::decode(&std::fs::read(&path).unwrap()).unwrap_or_else(|error| panic!("{}: {error:#}", path.display()))
}

#[test]
fn colours_come_out_as_pillows_imagecms_converts_them() {
    let mut wrong = Vec::new();
    let files: Vec<String> = names("colour").into_iter().filter(|name| name.matches('.').count() == 1).collect();
    assert_eq!(files.len(), 24);
    for name in files {
        let bytes = std::fs::read(folder("colour").join(&name)).unwrap();
        let ours = decode::decode_over(&bytes, Background::Stored).unwrap();
        let theirs = image::open(folder("colour").join(format!("{name}.png"))).unwrap().into_rgb8();
        let is_srgb = name.starts_with("srgb");
        if ours.colours != (if is_srgb { Colours::Srgb } else { Colours::Converted }) || ours.is_as_stored() != is_srgb {
            wrong.push(format!("{name}: {:?}", ours.colours));
        }
        // Decoders of JPEG may differ by 2, which steep curves make 3.
        let (most_allowed, share_allowed) = match name.ends_with(".jpg") {
            true => (4, 0.01),
            false if is_srgb => (0, 0.0),
            false => (2, 0.0),
        };
        let (most, above_2) = difference(&ours.picture, &theirs, 2);
        if most > most_allowed || above_2 > share_allowed {
            wrong.push(format!("{name}: differs by up to {most}, {:.2} % by more than 2", above_2 * 100.0));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_profile_that_cannot_be_used_is_said_and_the_numbers_are_taken_as_they_are() {
    let plain = decoded(folder("expected").join("lossless.webp.png")).picture;
    for (name, says) in [
        ("profile-bomb.png", "more than 8 MB"),
        ("profile-cut.png", "damaged"),
        ("profile-in-part.jpg", "of the 2 parts of its profile 1 are there"),
        ("profile-of-inks.jpg", "the picture has other numbers"),
        ("profile-of-noise.png", "damaged"),
    ] {
        let Decoded { picture, colours, .. } = decoded(folder("odd").join(name));
        assert!(matches!(&colours, Colours::NotUnderstood(why) if why.contains(says)), "{name}: {colours:?}");
        assert!(difference(&picture, &plain, 0).0 <= if name.ends_with(".png") { 0 } else { 24 }, "{name}");
    }
    assert_eq!(decoded(folder("odd").join("texts-bomb.png")).picture, plain);
}

#[test]
fn components_sampled_or_stored_in_unusual_ways_read_as_pillow_reads_them_or_are_refused() {
    let (mut wrong, mut refused) = (Vec::new(), Vec::new());
    for name in names("sampling").into_iter().filter_map(|name| name.strip_suffix(".jpg").map(str::to_string)) {
        let bytes = std::fs::read(folder("sampling").join(format!("{name}.jpg"))).unwrap();
        let theirs = image::open(folder("sampling").join(format!("{name}.png"))).unwrap().into_rgb8();
        match decode::decode(&bytes) {
            Ok(ours) => {
                let (most, _) = difference(&ours.picture, &theirs, 6);
                if most > 6 {
                    wrong.push(format!("{name}: differs by up to {most}"));
                }
            }
            Err(error) => {
                let error = format!("{error:#}");
                assert!(error.contains("save it again") || error.contains("copy it again"), "{name}: {error}");
                refused.push(name);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What cameras and editors write is read.
    let usual = ["together-1x1-1x1", "together-2x1-1x1", "together-2x2-1x1", "together-1x2-1x1", "grey-2x2"];
    assert!(usual.iter().all(|usual| !refused.iter().any(|name| name == usual)), "{refused:?}");
}

#[test]
fn transparent_parts_are_laid_over_a_colour() {
    let bytes = std::fs::read(folder("files").join("transparent.png")).unwrap();
    let stored = decode::decode_over(&bytes, Background::Stored).unwrap().picture;
    let over = |colour| decode::decode_over(&bytes, Background::Colour(colour)).unwrap().picture;
    // Opacity runs from 5 at the top to 250 at the foot.
    let (white, blue) = (decode::decode(&bytes).unwrap().picture, over([0, 0, 255]));
    let is_near = |pixel: &Rgb<u8>, colour: [u8; 3]| pixel.0.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 6);
    assert!(is_near(white.get_pixel(7, 0), [255; 3]) && is_near(blue.get_pixel(7, 0), [0, 0, 255]));
    let last = stored.height() - 1;
    assert!(is_near(white.get_pixel(7, last), stored.get_pixel(7, last).0));
    assert_eq!(over([255; 3]), white);
}

#[test]
fn transparency_and_turns_are_noticed() {
    for name in names("files") {
        let decoded = decoded(folder("files").join(&name));
        assert_eq!(decoded.was_transparent, name.contains("transparent"), "{name}");
        assert_eq!(decoded.was_turned, name.contains("orientation") && !name.contains("orientation-1"), "{name}");
    }
}

#[test]
fn broken_files_are_refused_with_the_problem_and_a_remedy() {
    let expected = [
        ("cut-progressive.jpg", "the JPEG ends early"),
        ("cut.bmp", "the BMP is damaged or ends early"),
        ("cut.jpg", "the JPEG ends early"),
        ("cut.png", "the PNG is damaged or ends early"),
        ("cut.tif", "the TIFF is damaged or ends early"),
        ("cut.webp", "the WebP is damaged or ends early"),
        ("empty.jpg", "the file is empty"),
        ("flipped-bit.png", "the PNG is damaged or ends early"),
        ("hdr.png", "this is an HDR picture"),
        ("inks.tif", "this is a TIFF of inks"),
        ("palette.tif", "this is a kind of TIFF that is not read"),
        ("pointer.jpg", "run `git lfs pull`"),
        ("raw.tif", "this is a raw photo"),
        ("really-a-gif.jpg", "this is a GIF"),
        ("text.jpg", "this is a text file"),
        ("without-end.jpg", "the JPEG ends early"),
    ];
    assert_eq!(names("broken"), expected.map(|(name, _)| name));
    for (name, problem) in expected {
        let error = format!("{:#}", decode::decode(&std::fs::read(folder("broken").join(name)).unwrap()).unwrap_err());
        assert!(error.contains(problem), "{name}: {error}");
        assert!(
            ["copy it again", "take it out", "convert it", "run `", "export it", "save it"]
                .iter()
                .any(|remedy| error.contains(remedy)),
            "{error}"
        );
    }
}

#[test]
fn scaling_matches_pillows_lanczos() {
    let open = |name: &str| image::open(folder("resize").join(format!("{name}.png"))).unwrap().into_rgb8();
    let source = open("source");
    for (name, ours) in [
        ("crop-32x32", resize::crop(&source, 32, 32)),
        ("crop-64x48", resize::crop(&source, 64, 48)),
        ("crop-40x120", resize::crop(&source, 40, 120)),
        ("stretch-50x30", resize::stretch(&source, 50, 30)),
        ("stretch-150x150", resize::stretch(&source, 150, 150)),
        ("pad-64x64", resize::pad(&source, 64, 64)),
    ] {
        // Both round their fixed-point weights, each to its own number of bits.
        let (most, above_1) = difference(&ours, &open(name), 1);
        assert!(most <= 2 && above_1 < 0.001, "{name}: differs by up to {most}, {:.3} % by more than 1", above_1 * 100.0);
    }
}
