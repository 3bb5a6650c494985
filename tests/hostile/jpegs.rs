//! JPEG files that lie in one segment, or cost much.

use crate::hostile::case::Case;
use crate::hostile::damage;
use crate::hostile::ground::{Ground, examples};
use crate::hostile::pngs::{made, picture};

const FAMILY: &str = "jpeg";

/// A segment: its letter, its length in front.
fn segment(marker: u8, data: &[u8]) -> Vec<u8> {
    [&[0xff, marker][..], &(data.len() as u16 + 2).to_be_bytes(), data].concat()
}

fn star() -> Vec<u8> {
    std::fs::read(examples().join("star-00.jpg")).expect("it is in git")
}

/// Where the first segment with `marker` begins.
fn place(bytes: &[u8], marker: u8) -> usize {
    bytes.windows(2).position(|pair| pair == [0xff, marker]).expect("every JPEG has one")
}

/// The example with `more` behind its first marker.
fn with(more: &[u8]) -> Vec<u8> {
    let star = star();
    [&star[..2], more, &star[2..]].concat()
}

/// The example with bytes from `from` on behind the marker and the length of a segment replaced.
fn changed(marker: u8, from: usize, bytes: &[u8]) -> Vec<u8> {
    let mut star = star();
    let at = place(&star, marker) + 4 + from;
    star[at..at + bytes.len()].copy_from_slice(bytes);
    star
}

fn without(marker: u8) -> Vec<u8> {
    let mut star = star();
    while let Some(at) = star.windows(2).position(|pair| pair == [0xff, marker]) {
        let length = usize::from(u16::from_be_bytes([star[at + 2], star[at + 3]]));
        star.drain(at..at + 2 + length);
    }
    star
}

fn exif(tiff: &[u8]) -> Vec<u8> {
    with(&segment(0xe1, &[b"Exif\0\0", tiff].concat()))
}

fn profile(number: u8, count: u8, data: &[u8]) -> Vec<u8> {
    segment(0xe2, &[b"ICC_PROFILE\0", &[number, count][..], data].concat())
}

/// Frame headers say depth, height, width, number of colours, and of each its letter, sampling and table.
const FRAME: u8 = 0xc0;

fn files() -> Vec<(&'static str, Vec<u8>)> {
    let huge = changed(FRAME, 1, &[0xff; 4]);
    vec![
        ("65,535 pixels a side", huge),
        ("65,535 pixels wide", changed(FRAME, 3, &[0xff; 2])),
        ("no height", changed(FRAME, 1, &[0; 2])),
        ("no width", changed(FRAME, 3, &[0; 2])),
        ("a depth of 12", changed(FRAME, 0, &[12])),
        ("a depth of 0", changed(FRAME, 0, &[0])),
        ("no colours", changed(FRAME, 5, &[0])),
        ("two colours", changed(FRAME, 5, &[2])),
        ("255 colours", changed(FRAME, 5, &[255])),
        ("sampled zero times", changed(FRAME, 7, &[0])),
        ("sampled fifteen times", changed(FRAME, 7, &[0xff])),
        ("sampled three times", changed(FRAME, 7, &[0x33])),
        ("chroma denser than luma", changed(FRAME, 10, &[0x22])),
        ("a table that is not there", changed(FRAME, 8, &[3])),
        ("a table of number 255", changed(FRAME, 8, &[255])),
        ("two colours of one letter", changed(FRAME, 9, &[1])),
        ("arithmetic coding", {
            let mut star = star();
            let at = place(&star, FRAME);
            star[at + 1] = 0xc9;
            star
        }),
        ("said to be progressive", {
            let mut star = star();
            let at = place(&star, FRAME);
            star[at + 1] = 0xc2;
            star
        }),
        ("said to be lossless", {
            let mut star = star();
            let at = place(&star, FRAME);
            star[at + 1] = 0xc3;
            star
        }),
        ("no frame", without(FRAME)),
        ("no codes", without(0xc4)),
        ("no tables", without(0xdb)),
        ("no scan", without(0xda)),
        ("two frames", with(&segment(FRAME, &[8, 255, 255, 255, 255, 1, 1, 0x11, 0]))),
        ("codes that overflow", with(&segment(0xc4, &[&[0][..], &[255; 16], &[0; 200]].concat()))),
        ("codes of an unknown table", with(&segment(0xc4, &[&[0xff][..], &[0; 16]].concat()))),
        ("codes that are cut short", with(&segment(0xc4, &[0, 1, 2, 3]))),
        ("a table of sixteen bits, cut short", with(&segment(0xdb, &[0x10, 0, 0]))),
        ("tables of zeros", with(&segment(0xdb, &[&[0][..], &[0; 64]].concat()))),
        ("a scan of no colours", changed(0xda, 0, &[0])),
        ("a scan of 255 colours", changed(0xda, 0, &[255])),
        ("a scan of a strange colour", changed(0xda, 1, &[77])),
        ("a scan of strange codes", changed(0xda, 2, &[0xff])),
        ("restarts at every block", with(&segment(0xdd, &[0, 1]))),
        ("a restart interval that is cut short", with(&segment(0xdd, &[0]))),
        ("a number of lines behind", with(&segment(0xdc, &[0xff, 0xff]))),
        ("a segment of no length", with(&[0xff, 0xe5, 0, 0])),
        ("a segment of one byte", with(&[0xff, 0xe5, 0, 1])),
        ("a segment longer than the file", with(&[0xff, 0xe5, 0xff, 0xff])),
        ("a thousand fill bytes", with(&[0xff; 1000])),
        ("ten thousand comments", with(&segment(0xfe, b"x").repeat(10_000))),
        ("a comment with escapes", with(&segment(0xfe, b"\x1b]0;owned\x07\x9b31m"))),
        ("a profile of which parts are missing", with(&profile(1, 255, &[0; 100]))),
        ("a profile whose parts are numbered from zero", with(&profile(0, 0, &[0; 100]))),
        ("a profile of two first parts", with(&[profile(1, 2, &[0; 100]), profile(1, 2, &[1; 100])].concat())),
        ("a profile that is nonsense", with(&profile(1, 1, &[0xff; 200]))),
        ("a profile of no bytes", with(&profile(1, 1, b""))),
        ("a profile of sixteen megabytes", with(&(1..=255).flat_map(|n| profile(n, 255, &vec![0; 65_000])).collect::<Vec<u8>>())),
        ("Adobe's marker, cut short", with(&segment(0xee, b"Adobe"))),
        ("Adobe's marker of kind 255", with(&segment(0xee, b"Adobe\0\x64\0\0\0\0\xff"))),
        ("EXIF of an orientation of 9", exif(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0")),
        ("EXIF of an orientation of 65535", exif(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\xff\xff\0\0\0\0\0\0")),
        (
            "EXIF whose orientations are four billion",
            exif(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\0\0\0\0\0\0\0\0"),
        ),
        ("EXIF of 65,535 entries", exif(b"MM\0*\0\0\0\x08\xff\xff\x01\x12")),
        ("EXIF that points behind its end", exif(b"MM\0*\xff\xff\xff\xff")),
        ("EXIF that points to itself", exif(b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08")),
        ("EXIF of another byte order", exif(b"XX*\0\x08\0\0\0")),
        ("EXIF of no bytes", exif(b"")),
        ("nothing but its first bytes", b"\xff\xd8\xff".to_vec()),
        ("an end and nothing else", b"\xff\xd8\xff\xd9".to_vec()),
        ("another picture behind", [star(), star()].concat()),
        ("said to be a PNG", b"\xff\xd8\xff\x89PNG\r\n\x1a\n".to_vec()),
    ]
}

/// A picture of `side` pixels in one grey, and then as many empty scans as are asked for.
fn progressive(side: u16, scans: usize) -> Vec<u8> {
    let sides = side.to_be_bytes();
    let frame = segment(0xc2, &[8, sides[0], sides[1], sides[0], sides[1], 1, 1, 0x11, 0]);
    let codes = |class: u8, value: u8| segment(0xc4, &[&[class << 4, 1][..], &[0; 15], &[value]].concat());
    let first = [&segment(0xda, &[1, 1, 0, 0, 0, 0])[..], &[0; 16]].concat();
    // Runs of 32,767 blocks without anything in them.
    let more = [&segment(0xda, &[1, 1, 0, 1, 63, 0])[..], &[0; 16]].concat();
    let head = [&b"\xff\xd8"[..], &segment(0xdb, &[&[0][..], &[1; 64]].concat()), &frame, &codes(0, 0), &codes(1, 0xe0), &first]
        .concat();
    [head, more.repeat(scans), b"\xff\xd9".to_vec()].concat()
}

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = files().into_iter().map(|(name, bytes)| picture(FAMILY, name, "jpg", bytes)).collect();
    let star = star();
    cases.extend(damage::cuts(FAMILY, &star, 15).into_iter().map(|(name, bytes)| picture(FAMILY, name, "jpg", bytes)));
    cases.extend(damage::changes(FAMILY, &star, 25).into_iter().map(|(name, bytes)| picture(FAMILY, name, "jpg", bytes)));
    cases.push(made(FAMILY, "a thousand scans", "jpg", || progressive(64, 1000)));
    cases.push(made(FAMILY, "a thousand scans of 8,000 pixels a side", "jpg", || progressive(8_000, 1000)).heavy());
    cases.push(made(FAMILY, "progressive, 65,500 pixels a side", "jpg", || progressive(65_500, 1)).heavy());
    let many = |ground: &Ground| {
        ground.fresh();
        let star = self::star();
        for number in 0..2000 {
            ground.write(&format!("images/{number}.jpg"), &star[..star.len() / 2]);
        }
    };
    cases.push(Case::new(FAMILY, "two thousand that are cut short", many).lines(&["run"]).heavy());
    cases
}
