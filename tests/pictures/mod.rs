//! Picture files of every sort against what Pillow reads from them, scaling against Pillow's, and files that must be refused.

use std::path::{Path, PathBuf};

use image::RgbImage;
use loramill::data::{decode, resize};

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
    assert_eq!(files.len(), 31);
    for name in files {
        let ours = decode::decode(&std::fs::read(folder("files").join(&name)).unwrap()).unwrap().picture;
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

#[test]
fn transparency_and_turns_are_noticed() {
    for name in names("files") {
        let decoded = decode::decode(&std::fs::read(folder("files").join(&name)).unwrap()).unwrap();
        assert_eq!(decoded.was_transparent, name.contains("transparent"), "{name}");
        assert_eq!(decoded.was_turned, name.contains("orientation") && !name.contains("orientation-1"), "{name}");
    }
}

#[test]
fn broken_files_are_refused_with_the_problem_and_a_remedy() {
    let expected = [
        ("cut-progressive.jpg", "the JPEG ends early"),
        ("cut.jpg", "the JPEG ends early"),
        ("cut.png", "the PNG is damaged or ends early"),
        ("cut.webp", "the WebP is damaged or ends early"),
        ("empty.jpg", "the file is empty"),
        ("flipped-bit.png", "the PNG is damaged or ends early"),
        ("pointer.jpg", "run `git lfs pull`"),
        ("really-a-gif.jpg", "this is a GIF"),
        ("really-a-tiff.png", "this is a TIFF"),
        ("text.jpg", "this is a text file"),
        ("without-end.jpg", "the JPEG ends early"),
    ];
    assert_eq!(names("broken"), expected.map(|(name, _)| name));
    for (name, problem) in expected {
        let error = format!("{:#}", decode::decode(&std::fs::read(folder("broken").join(name)).unwrap()).unwrap_err());
        assert!(error.contains(problem), "{name}: {error}");
        assert!(["copy it again", "take it out", "convert it", "run `"].iter().any(|remedy| error.contains(remedy)), "{error}");
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
