//! PNG and WebP files that lie about their size, their chunks or their colours.

use std::path::Path;

use flate2::Crc;

use crate::hostile::bombs::deflated_zeros;
use crate::hostile::case::Case;
use crate::hostile::damage;
use crate::hostile::ground::{Ground, examples};

const PNG: &str = "png";
const WEBP: &str = "webp";

/// A pipeline that decodes, crops and scales.
pub const PICTURES: &str = "\
concept: star
inputs: { photos: images/ }
stages:
  crop: { images: photos }
  resize: { images: crop, size: 32 }
";

/// What is tried on a picture.
pub const LINES: &[&str] = &["run", "check"];

/// A project with one picture.
pub fn picture(family: &'static str, name: impl Into<String>, extension: &'static str, bytes: Vec<u8>) -> Case {
    let build = move |ground: &Ground| {
        ground.write(&format!("images/a.{extension}"), &bytes);
        ground.write("pipeline.yaml", PICTURES);
    };
    Case::new(family, name, build).lines(LINES)
}

/// The same of bytes that are too large to be held by all cases at once.
pub fn made(family: &'static str, name: &str, extension: &'static str, make: fn() -> Vec<u8>) -> Case {
    let build = move |ground: &Ground| {
        ground.write(&format!("images/a.{extension}"), make());
        ground.write("pipeline.yaml", PICTURES);
    };
    Case::new(family, name, build).lines(LINES)
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes(), &kind[..], data, &crc.sum().to_be_bytes()].concat()
}

fn header(width: u32, height: u32, depth: u8, colour: u8, interlace: u8) -> Vec<u8> {
    let sizes = [width.to_be_bytes(), height.to_be_bytes()].concat();
    chunk(b"IHDR", &[&sizes[..], &[depth, colour, 0, 0, interlace]].concat())
}

fn png(chunks: &[Vec<u8>]) -> Vec<u8> {
    [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat(), &chunk(b"IEND", b"")].concat()
}

/// So many zeros as zlib has them.
fn zlib_zeros(count: u64) -> Vec<u8> {
    // The first half of Adler-32 of zeros stays 1, the second counts them.
    let sum = ((count % 65_521) << 16 | 1) as u32;
    [&b"\x78\x01"[..], &deflated_zeros(count), &sum.to_be_bytes()].concat()
}

/// Rows of a grey picture of `side` pixels.
fn rows(side: u64) -> Vec<u8> {
    chunk(b"IDAT", &zlib_zeros((side * (side + 1)).next_multiple_of(1 << 16)))
}

fn grey(side: u32, more: &[Vec<u8>]) -> Vec<u8> {
    let mut chunks = vec![header(side, side, 8, 0, 0)];
    chunks.extend(more.iter().cloned());
    chunks.push(rows(u64::from(side)));
    png(&chunks)
}

fn text_bomb(kind: &[u8; 4], start: &[u8], count: u64) -> Vec<u8> {
    chunk(kind, &[start, &zlib_zeros(count)].concat())
}

fn pngs() -> Vec<(&'static str, Vec<u8>)> {
    let star = star();
    let after_header = 8 + 25;
    let with = |more: &[u8]| [&star[..after_header], more, &star[after_header..]].concat();
    let of_size = |width, height| png(&[header(width, height, 8, 2, 0), rows(64)]);
    let mut long = chunk(b"tEXt", b"a\0b");
    long[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut half = chunk(b"tEXt", b"a\0b");
    half[..4].copy_from_slice(&0x7fff_ffffu32.to_be_bytes());
    let mut wrong = star.clone();
    wrong[after_header - 2] ^= 1;
    vec![
        ("no pixels", of_size(0, 0)),
        ("no width", of_size(0, 64)),
        ("2 billion pixels wide", of_size(0x7fff_ffff, 1)),
        ("2 billion pixels high", of_size(1, 0x7fff_ffff)),
        ("4 billion billion pixels", of_size(0x7fff_ffff, 0x7fff_ffff)),
        ("a width with the sign bit", of_size(0x8000_0001, 1)),
        ("30,000 pixels a side and a few rows", of_size(30_000, 30_000)),
        ("a depth of 3", png(&[header(64, 64, 3, 0, 0), rows(64)])),
        ("a depth of 255", png(&[header(64, 64, 255, 2, 0), rows(64)])),
        ("colours of kind 5", png(&[header(64, 64, 8, 5, 0), rows(64)])),
        ("colours of kind 255", png(&[header(64, 64, 8, 255, 0), rows(64)])),
        ("interlaced in an unknown way", png(&[header(64, 64, 8, 0, 9), rows(64)])),
        ("a hundred million pixels, each half transparent", png(&[header(10_000, 10_000, 8, 6, 0), rows(200)])),
        ("interlaced, one row", png(&[header(64, 64, 8, 0, 1), chunk(b"IDAT", &zlib_zeros(1 << 16)[..20])])),
        ("a palette that is missing", png(&[header(64, 64, 8, 3, 0), rows(64)])),
        ("a palette of 300 colours", png(&[header(64, 64, 8, 3, 0), chunk(b"PLTE", &[7; 900]), rows(64)])),
        ("a palette of half a colour", png(&[header(64, 64, 8, 3, 0), chunk(b"PLTE", &[7; 4]), rows(64)])),
        ("an index beyond the palette", png(&[header(4, 4, 8, 3, 0), chunk(b"PLTE", &[7; 3]), chunk(b"IDAT", STORED_ONES)])),
        ("transparency of 300 colours", with(&chunk(b"tRNS", &[0; 300]))),
        ("transparency of half a colour", grey(64, &[chunk(b"tRNS", &[0])])),
        ("two headers", with(&header(9999, 9999, 8, 2, 0))),
        ("no header", png(&[rows(64)])),
        ("no rows", png(&[header(64, 64, 8, 0, 0)])),
        ("empty rows", png(&[header(64, 64, 8, 0, 0), chunk(b"IDAT", b"")])),
        ("rows that are nonsense", png(&[header(64, 64, 8, 0, 0), chunk(b"IDAT", &[0xff; 100])])),
        ("a filter of 77", png(&[header(4, 4, 8, 0, 0), chunk(b"IDAT", STORED_ONES)])),
        ("a chunk of 4 GB", with(&long)),
        ("a chunk of 2 GB", with(&half)),
        ("a wrong sum in the header", wrong),
        ("a hundred thousand empty chunks", with(&chunk(b"tEXt", b"a\0").repeat(20_000))),
        ("text with escapes", with(&chunk(b"tEXt", b"parameters\0\x1b]0;owned\x07\x9b31m"))),
        ("packed text that is nonsense", with(&chunk(b"zTXt", b"parameters\0\0\xff\xff\xff"))),
        ("a profile that is nonsense", with(&text_bomb(b"iCCP", b"p\0\0", 0))),
        ("a profile without a name", with(&chunk(b"iCCP", b"\0\0"))),
        ("a profile with a long name", with(&chunk(b"iCCP", &[b'n'; 1000]))),
        ("a profile of a megabyte of zeros", with(&text_bomb(b"iCCP", b"p\0\0", 1 << 20))),
        ("frames that are missing", with(&chunk(b"acTL", &[0xff; 8]))),
        ("a frame of another size", with(&[chunk(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]), chunk(b"fcTL", &[0xff; 26])].concat())),
        ("gamma of zero", with(&chunk(b"gAMA", &[0; 4]))),
        ("chromaticities of zero", with(&chunk(b"cHRM", &[0; 32]))),
        ("EXIF that is nonsense", with(&chunk(b"eXIf", &[0xff; 64]))),
        (
            "EXIF that points to itself",
            with(&chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08")),
        ),
        (
            "EXIF of an orientation of 65535",
            with(&chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\xff\xff\0\0\0\0\0\0")),
        ),
        ("nothing but its first bytes", b"\x89PNG\r\n\x1a\n".to_vec()),
        ("a JPEG inside", [&star[..after_header], b"\xff\xd8\xff\xe0"].concat()),
    ]
}

/// zlib, one stored block of twenty bytes of 77.
const STORED_ONES: &[u8] = b"\x78\x01\x01\x14\x00\xeb\xffMMMMMMMMMMMMMMMMMMMM\x3d\x54\x06\x05";

fn star() -> Vec<u8> {
    std::fs::read(examples().join("star-01.png")).expect("it is in git")
}

fn webp(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    riff(&part(kind, data))
}

fn riff(parts: &[u8]) -> Vec<u8> {
    [b"RIFF", &(parts.len() as u32 + 4).to_le_bytes()[..], b"WEBP", parts].concat()
}

fn part(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let padding = if data.len().is_multiple_of(2) { &b""[..] } else { b"\0" };
    [&kind[..], &(data.len() as u32).to_le_bytes(), data, padding].concat()
}

/// The header of a key frame of the given sides; 14 bits each.
fn lossy(width: u16, height: u16) -> Vec<u8> {
    [&b"\x10\0\0\x9d\x01\x2a"[..], &width.to_le_bytes(), &height.to_le_bytes(), &[0x55; 64]].concat()
}

/// A lossless picture of the given sides; 14 bits each, less one.
fn lossless(width: u32, height: u32) -> Vec<u8> {
    [&[0x2f][..], &((width - 1) | (height - 1) << 14).to_le_bytes(), &[0x55; 64]].concat()
}

/// An extended header with a canvas of 24 bits a side, less one.
fn canvas(flags: u8, width: u32, height: u32) -> Vec<u8> {
    part(b"VP8X", &[&[flags, 0, 0, 0][..], &width.to_le_bytes()[..3], &height.to_le_bytes()[..3]].concat())
}

fn webps() -> Vec<(&'static str, Vec<u8>)> {
    let mut short = webp(b"VP8 ", &lossy(64, 64));
    short[4..8].copy_from_slice(&4u32.to_le_bytes());
    let mut long = webp(b"VP8 ", &lossy(64, 64));
    long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut chunk = webp(b"VP8L", &lossless(64, 64));
    chunk[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    let frame = |width: u32| {
        [&[0; 6][..], &width.to_le_bytes()[..3], &width.to_le_bytes()[..3], &[0; 4], &part(b"VP8L", &lossless(8, 8))].concat()
    };
    let anim = |width: u32| [canvas(2, 8, 8), part(b"ANIM", &[0; 6]), part(b"ANMF", &frame(width))].concat();
    vec![
        ("lossy, no pixels", webp(b"VP8 ", &lossy(0, 0))),
        ("lossy, 16383 pixels a side", webp(b"VP8 ", &lossy(16_383, 16_383))),
        ("lossy, scaled", webp(b"VP8 ", &lossy(0xffff, 0xffff))),
        ("lossy, nonsense", webp(b"VP8 ", &lossy(64, 64))),
        ("lossy, empty", webp(b"VP8 ", b"")),
        ("lossless, 16384 pixels a side", webp(b"VP8L", &lossless(16_384, 16_384))),
        ("lossless, nonsense", webp(b"VP8L", &lossless(64, 64))),
        ("lossless, empty", webp(b"VP8L", b"")),
        (
            "a canvas of 16 million pixels a side",
            riff(&[canvas(0, 0xff_ffff, 0xff_ffff), part(b"VP8L", &lossless(8, 8))].concat()),
        ),
        ("a canvas of 65536 pixels a side", riff(&[canvas(0, 65_535, 65_535), part(b"VP8 ", &lossy(64, 64))].concat())),
        ("a canvas without a picture", riff(&canvas(0, 63, 63))),
        ("alpha without a picture", riff(&[canvas(0x10, 63, 63), part(b"ALPH", &[1, 0, 0])].concat())),
        (
            "alpha that is nonsense",
            riff(&[canvas(0x10, 63, 63), part(b"ALPH", &[0xff; 20]), part(b"VP8 ", &lossy(64, 64))].concat()),
        ),
        ("frames that are missing", riff(&[canvas(2, 63, 63), part(b"ANIM", &[0; 6])].concat())),
        ("a frame larger than its canvas", riff(&anim(0xff_ffff))),
        ("a frame smaller than its picture", riff(&anim(0))),
        (
            "a profile that is nonsense",
            riff(&[canvas(0x20, 63, 63), part(b"ICCP", &[0xff; 64]), part(b"VP8L", &lossless(64, 64))].concat()),
        ),
        (
            "EXIF that is nonsense",
            riff(&[canvas(0x08, 63, 63), part(b"VP8L", &lossless(64, 64)), part(b"EXIF", &[0xff; 64])].concat()),
        ),
        ("shorter than it says", long),
        ("longer than it says", short),
        ("a part of 4 GB", chunk),
        ("an unknown part", webp(b"QQQQ", &[0; 64])),
        ("ten thousand unknown parts", riff(&part(b"QQQQ", b"").repeat(10_000))),
        ("nothing but its first bytes", b"RIFF\x04\0\0\0WEBP".to_vec()),
    ]
}

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = pngs().into_iter().map(|(name, bytes)| picture(PNG, name, "png", bytes)).collect();
    let star = star();
    cases.extend(damage::cuts(PNG, &star, 15).into_iter().map(|(name, bytes)| picture(PNG, name, "png", bytes)));
    cases.extend(damage::changes(PNG, &star, 20).into_iter().map(|(name, bytes)| picture(PNG, name, "png", bytes)));
    cases.extend(webps().into_iter().map(|(name, bytes)| picture(WEBP, name, "webp", bytes)));
    for kind in ["lossy", "lossless"] {
        let whole = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/pictures/files/{kind}.webp")));
        let whole = whole.expect("it is in git");
        cases.extend(damage::cuts(kind, &whole, 8).into_iter().map(|(name, bytes)| picture(WEBP, name, "webp", bytes)));
        cases.extend(damage::changes(kind, &whole, 12).into_iter().map(|(name, bytes)| picture(WEBP, name, "webp", bytes)));
    }
    cases.extend(heavy().into_iter().map(Case::heavy));
    cases
}

fn heavy() -> Vec<Case> {
    vec![
        made(PNG, "a profile of 1.5 GB", "png", || grey(64, &[text_bomb(b"iCCP", b"p\0\0", 1500 << 20)])),
        made(PNG, "packed text of 1.5 GB", "png", || grey(64, &[text_bomb(b"zTXt", b"parameters\0\0", 1500 << 20)])),
        made(PNG, "international text of 1.5 GB", "png", || {
            grey(64, &[text_bomb(b"iTXt", b"parameters\0\x01\0\0\0", 1500 << 20)])
        }),
        made(PNG, "text of 100 MB", "png", || {
            grey(64, &[chunk(b"tEXt", &[&b"parameters\0"[..], &vec![b't'; 100_000_000]].concat())])
        }),
        made(PNG, "a gigabyte of rows for 64 pixels", "png", || {
            png(&[header(64, 64, 8, 0, 0), chunk(b"IDAT", &zlib_zeros(1 << 30))])
        }),
        made(PNG, "20,000 pixels a side", "png", || grey(20_000, &[])),
        made(PNG, "20,000 pixels a side, one bit", "png", || {
            png(&[header(20_000, 20_000, 1, 0, 0), chunk(b"IDAT", &zlib_zeros((20_000u64 * 2_501).next_multiple_of(1 << 16)))])
        }),
        made(PNG, "10,000 pixels a side, sixteen bits", "png", || {
            png(&[header(10_000, 10_000, 16, 6, 0), chunk(b"IDAT", &zlib_zeros(764 << 20))])
        }),
    ]
}
