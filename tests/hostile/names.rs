//! Names and texts that would write to a terminal, be taken for options or commands, or be longer than a file system has room for.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use crate::hostile::archives::{Pickle, torch};
use crate::hostile::case::Case;
use crate::hostile::ground::{Ground, examples};
use crate::hostile::pickles::{model, storage};

const FAMILY: &str = "names";

/// Names of a photo without its ending.
const NAMES: &[(&str, &[u8])] = &[
    ("an escape", b"\x1b[31mred"),
    ("a title", b"\x1b]0;owned\x07"),
    ("a link of a terminal", b"\x1b]8;;http:x\x1b\\click\x1b]8;;\x1b\\"),
    ("a cleared screen", b"\x1b[2J\x1b[H"),
    ("a clipboard", b"\x1b]52;c;ZXZpbA==\x07"),
    ("a device answer", b"\x1b[6n\x1bP$qm\x1b\\"),
    ("a C1 control", b"\xc2\x9b31m"),
    ("a C1 title", b"\xc2\x9d0;owned\xc2\x9c"),
    ("a line feed", b"a\nerror: forged"),
    ("a carriage return", b"a\rDone everything"),
    ("backspaces", b"a\x08\x08\x08b"),
    ("a bell", b"a\x07"),
    ("a tab", b"a\tb"),
    ("a delete", b"a\x7f"),
    ("a turned line", b"\xe2\x80\xaegnp.exe"),
    ("an isolate", b"\xe2\x81\xa6a\xe2\x81\xa9"),
    ("a mark of direction", b"a\xe2\x80\x8fb\xd8\x9c"),
    ("nothing wide", b"a\xe2\x80\x8bb\xef\xbb\xbf"),
    ("a line separator", b"a\xe2\x80\xa8b"),
    ("a tag of language", b"a\xf3\xa0\x81\xa1\xf3\xa0\x81\xa2"),
    (
        "a hundred accents",
        b"a\xcc\x81\xcc\x81\xcc\x81\xcc\x81\xcc\x81\xcc\x81\xcc\x81\xcc\x81\xcc\x81\xcc\x81\xcc\x81\xcc\x81\xcc\x81",
    ),
    ("no text", b"a\xff\xfe"),
    ("half a letter", b"a\xe2\x80"),
    ("a surrogate", b"a\xed\xa0\x80"),
    ("an option", b"-rf"),
    ("a long option", b"--output=x"),
    ("a command", b"$(touch executed)"),
    ("a command in quotes", b"'; touch executed; '"),
    ("backquotes", b"`touch executed`"),
    ("a pattern", b"*[a-z]?{x,y}"),
    ("a format", b"%s%n{}{0}"),
    ("two dots", b"..a..b"),
    ("a hidden one", b".a"),
    ("a space at each end", b" a "),
    ("a variable", b"${HOME}"),
    ("a backslash", b"..\\..\\a"),
    ("a colon", b"a:b"),
    ("a number sign", b"#a"),
    ("a device of Windows", b"CON"),
    ("251 letters", &[b'a'; 251]),
    ("240 letters", &[b'a'; 240]),
    ("225 letters", &[b'a'; 225]),
    ("as a file of loramill's", b".loramill-a"),
    ("with an equals sign", b"a=b c"),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, bytes) in NAMES {
        // A photo that is good, beside one that fails, so that its name is in messages.
        let build = move |ground: &Ground| {
            ground.fresh();
            photo(ground, "images", bytes, false);
            photo(ground, "images/broken", bytes, true);
        };
        let lines = &["run --keep-going", "check", "plan", "run", "status", "edits list", "run --progress json"];
        cases.push(Case::new(FAMILY, format!("a photo: {name}"), build).lines(lines));
        let folder = move |ground: &Ground| {
            ground.fresh();
            let folder = ground.path("images").join(OsStr::from_bytes(bytes));
            fs::create_dir_all(&folder).expect("made");
            fs::copy(examples().join("star-02.png"), folder.join("a.png")).expect("copied");
            fs::write(folder.join("b.png"), "broken").expect("written");
        };
        cases.push(Case::new(FAMILY, format!("a folder of photos: {name}"), folder).lines(&[
            "check",
            "run --keep-going",
            "status",
        ]));
        cases.push(text(name, bytes));
        cases.push(tensor(name, bytes));
    }
    cases
}

fn photo(ground: &Ground, folder: &str, name: &[u8], is_broken: bool) {
    let path = ground.path(folder).join(OsStr::from_bytes(&[name, b".png"].concat()));
    fs::create_dir_all(ground.path(folder)).expect("made");
    let bytes =
        if is_broken { b"\x89PNG broken".to_vec() } else { fs::read(examples().join("star-02.png")).expect("it is in git") };
    fs::write(path, bytes).expect("written");
}

/// A text that a person may have written.
fn text(name: &str, bytes: &'static [u8]) -> Case {
    let build = move |ground: &Ground| {
        ground.finished();
        ground.write("captions/star-01.txt", bytes);
        ground.write("captions/star-09.txt", bytes);
        let path = ground.path("captions").join(OsStr::from_bytes(&[bytes, b".txt"].concat()));
        fs::write(path, bytes).expect("written");
    };
    let lines =
        &["edits list", "edits show star-01", "edits diff", "edits prune", "status", "plan", "run", "edits merge star-01"];
    Case::new(FAMILY, format!("a text: {name}"), build).lines(lines)
}

/// A tensor's name, a class and a value in a pickle.
fn tensor(name: &str, bytes: &'static [u8]) -> Case {
    let build = move |ground: &Ground| {
        let text = String::from_utf8_lossy(bytes);
        let pickle = Pickle::protocol(2).op("}").text(&text).tensor("0", 4, 0, &[4], &[1]).op("s");
        let class = Pickle::default().text("x").text(&text).text("_rebuild_x").op([0x93]).op(")Rs");
        let bad = Pickle::default().text("bad").tensor(&text, 4, 0, &[4], &[1]).op("s");
        model(ground, &torch(&pickle.then(&class).then(&bad).end(), &storage()));
    };
    Case::new(FAMILY, format!("a tensor: {name}"), build).lines(&["run", "explain model.ckpt"])
}
