//! Files that are too much: each ends in a message, in little time and memory.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use loramill::cli::terminal::render::problems;
use loramill::engine::graph::load::load;

use super::{kinds::KINDS, surroundings};

/// What is said of a file with these bytes.
fn said(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().expect("a file");
    said_of(file.path(), bytes)
}

fn said_of(file: &Path, bytes: &[u8]) -> String {
    fs::write(file, bytes).expect("written");
    let began = Instant::now();
    let found = load(file, &[], &surroundings(), KINDS).err().expect("a problem");
    let text = problems(&found, false).to_string();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?} for {}", began.elapsed(), text.lines().next().unwrap_or_default());
    assert!(text.len() < 100_000, "{} bytes of message", text.len());
    text
}

#[test]
fn a_file_of_100_megabytes_is_refused_by_its_size() {
    let text = said(&vec![b'x'; 100 << 20]);
    assert!(text.starts_with("error: this file is larger than 4 MiB"), "{text}");
}

#[test]
fn a_stream_without_end_is_refused() {
    let found = load(Path::new("/dev/zero"), &[], &surroundings(), KINDS).err().expect("a problem");
    assert_eq!(found[0].message, "cannot read this file: it is a device: put a file in its place");
}

#[test]
fn a_scalar_of_megabytes_is_a_short_message() {
    let text = said(format!("concept: star\nseed: {}\n", "9".repeat(3 << 20)).as_bytes());
    assert!(text.contains("does not fit in 64 bits"), "{}", &text[..200.min(text.len())]);
}

#[test]
fn a_hundred_thousand_unknown_keys_are_counted_and_not_all_shown() {
    let keys: String = (0..40_000).map(|index| format!("k{index}: 1\n")).collect();
    let text = said(keys.as_bytes());
    assert!(text.contains("the first 50 are shown"), "{}", &text[text.len() - 200..]);
}

#[test]
fn many_duplicate_keys_of_many_kilobytes_take_no_square_of_their_number() {
    let key = "k".repeat(900);
    let text = said(format!("{key}: 1\n").repeat(4000).as_bytes());
    assert!(text.contains("is given twice"));
}

#[test]
fn stages_beyond_number_are_refused_and_a_long_chain_of_them_is_none() {
    let stage = |index: usize, reads: usize| format!("  s{index}: {{ kind: crop, images: s{reads} }}\n");
    let chain = |count: usize| (0..count).map(|index| stage(index, index + 1)).collect::<String>();
    let text = said(format!("concept: star\nstages:\n{}", chain(15_000)).as_bytes());
    assert!(text.contains("there are 15000 entries under `stages`"), "{text}");
    // The last one reads what is not there, and nothing else is wrong.
    let text = said(format!("concept: star\nstages:\n{}", chain(1000)).as_bytes());
    assert!(text.starts_with("error: there is no input or stage `s1000`") && !text.contains("problems"), "{text}");
    let ring = format!("concept: star\nstages:\n{}{}", chain(999), stage(999, 0));
    assert!(said(ring.as_bytes()).contains("these stages wait for each other: `s0` \u{2192} `s1` \u{2192}"));
}

#[test]
fn variants_beyond_number_are_refused_however_they_come_about() {
    let values = (0..64).map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
    let own: String =
        (0..900).map(|index| format!("  s{index}: {{ kind: resize, images: p, matrix: {{ size: [{values}] }} }}\n")).collect();
    let text = said(format!("concept: star\ninputs: {{ p: photos }}\nstages:\n{own}").as_bytes());
    assert!(text.contains("variants in all: at most 10000 fit"), "{}", &text[..400]);
    // Each stage has the axes of the one before and one more.
    let crossed: String = (0..60)
        .map(|index| {
            let images = if index == 0 { "p".to_string() } else { format!("s{}", index - 1) };
            format!("  s{index}: {{ kind: resize, images: {images}, limit: 10000, matrix: {{ size: [1, 2] }} }}\n")
        })
        .collect();
    let text = said(format!("concept: star\ninputs: {{ p: photos }}\nstages:\n{crossed}").as_bytes());
    assert!(text.contains("variants in all: at most 10000 fit"), "{}", &text[..400]);
}

#[test]
fn random_bytes_and_random_cuts_of_yaml_end_in_a_message() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let pieces = [
        "concept: star\n",
        "stages:\n",
        "  crop: ",
        "{ images: photos }",
        "\n",
        "- ",
        "[",
        "]",
        "&a ",
        "*a",
        "${x}",
        "|\n",
        "\t",
        "'",
        "\"",
        "? ",
        "\u{732b}",
        "#",
        "---\n",
        "!!str ",
        "\\",
        "@",
        ": ",
    ];
    let file = tempfile::NamedTempFile::new().expect("a file");
    for _ in 0..2000 {
        let count = next() % 30;
        let text: String = (0..count).map(|_| pieces[(next() % pieces.len() as u64) as usize]).collect();
        assert!(said_of(file.path(), text.as_bytes()).contains("error"), "{text:?}");
        let bytes: Vec<u8> = (0..next() % 200).map(|_| (next() % 256) as u8).collect();
        assert!(said_of(file.path(), &bytes).contains("error"), "{bytes:?}");
    }
}

#[test]
fn a_file_that_is_not_utf_8_shows_where() {
    let text = said(b"concept: star\ntrigger: st\xe4r\n");
    assert!(text.starts_with("error: this file is not UTF-8 text\n"), "{text}");
    assert!(text.contains(":2:12\n") && text.contains("2 | trigger: st\u{fffd}r\n  |            ^\n"), "{text}");
    let utf16: Vec<u8> = "\u{feff}concept: star\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(said(&utf16).contains("it looks like UTF-16: save it as UTF-8"));
}

#[test]
fn a_byte_order_mark_in_front_is_no_problem() {
    let text = said("\u{feff}concept: star\nseed: x\nstages: {}\n".as_bytes());
    assert!(text.contains(":2:7\n") && !text.contains("concept"), "{text}");
}
