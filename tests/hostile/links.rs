//! Files and folders of a project that are links out of it, pipes, devices, or without an end.

use crate::hostile::case::Case;
use crate::hostile::ground::Ground;

const FAMILY: &str = "links and pipes";
const PHOTOS: &str = "photo folders";

/// What stands in the place of a file or a folder.
#[derive(Clone, Copy, Debug)]
pub enum Thing {
    /// A link to something of the victim's.
    Link(&'static str),
    /// A link to a place beside the victim's files where nothing is yet.
    Dangling,
    Zero,
    Random,
    Console,
    Fifo,
    /// 20 GB that take no room.
    Sparse,
    /// A link to itself.
    Loop,
    Folder,
    Empty,
}

impl Thing {
    pub fn name(self) -> String {
        match self {
            Self::Link(target) => format!("a link to {target}"),
            Self::Dangling => "a link to nothing".to_string(),
            Self::Zero => "a link to a device without an end".to_string(),
            Self::Random => "a link to a device of noise".to_string(),
            Self::Console => "a link to the terminal".to_string(),
            Self::Fifo => "a pipe".to_string(),
            Self::Sparse => "20 GB".to_string(),
            Self::Loop => "a link to itself".to_string(),
            Self::Folder => "a folder".to_string(),
            Self::Empty => "an empty file".to_string(),
        }
    }

    pub fn put(self, ground: &Ground, path: &str) {
        match self {
            Self::Link(target) => ground.link(path, ground.victim().join(target)),
            Self::Dangling => ground.link(path, ground.victim().join("made")),
            Self::Zero => ground.link(path, "/dev/zero"),
            Self::Random => ground.link(path, "/dev/urandom"),
            Self::Console => ground.link(path, "/dev/tty"),
            Self::Fifo => ground.fifo(path),
            Self::Sparse => {
                ground.clear(path);
                ground.sparse(path, b"", 20 << 30);
            }
            Self::Loop => ground.link(path, ground.path(path)),
            Self::Folder => {
                ground.clear(path);
                ground.write(&format!("{path}/keep.txt"), "a file in a folder");
            }
            Self::Empty => {
                ground.clear(path);
                ground.write(path, "");
            }
        }
    }
}

/// What reads or writes a project in which everything was made.
pub const LINES: &[&str] =
    &["run", "restore", "plan", "check", "status", "run --force", "explain crop", "edits list", "gc --yes", "fsck"];

const PERSONS: &[&str] =
    &["edits show star-01", "edits diff", "edits drop star-01", "edits accept star-01", "edits prune", "skip star-00"];

/// A project in which `thing` stands at `path`, and the lines that meet it.
fn replaced(path: &'static str, thing: Thing, lines: &[&str]) -> Case {
    let build = move |ground: &Ground| {
        ground.finished();
        thing.put(ground, path);
    };
    Case::new(FAMILY, format!("{path} is {}", thing.name()), build).lines(lines)
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let ends = [Thing::Zero, Thing::Random, Thing::Fifo, Thing::Sparse, Thing::Loop, Thing::Folder];
    for path in ["pipeline.yaml", "pipeline.lock", "captions/star-00.txt"] {
        let target = if path == "pipeline.yaml" { "secret.txt" } else { path };
        for thing in ends.into_iter().chain([Thing::Link(target), Thing::Dangling, Thing::Console]) {
            let case = replaced(path, thing, LINES);
            let case = if path.starts_with("captions") { case.lines(PERSONS) } else { case };
            cases.push(case);
        }
    }
    for path in ["out", "out/resize", "out/resize/star-00.png", "captions", "out/crop"] {
        let target = match path {
            "out/resize" | "out/crop" => "resize",
            "out/resize/star-00.png" => "resize/star-00.png",
            "captions" => "captions",
            _ => "",
        };
        for thing in [Thing::Link(target), Thing::Dangling, Thing::Fifo, Thing::Loop, Thing::Zero, Thing::Empty] {
            let case = replaced(path, thing, LINES);
            let case = if path.starts_with("captions") { case.lines(PERSONS) } else { case };
            cases.push(case);
        }
    }
    for thing in [Thing::Sparse, Thing::Zero, Thing::Fifo] {
        let build = move |ground: &Ground| {
            ground.finished();
            thing.put(ground, &format!("captions/.loramill-swap-{}-star-00.txt", "ab".repeat(32)));
        };
        cases.push(Case::new(FAMILY, format!("a text that a run left is {}", thing.name()), build).lines(&["run", "plan"]));
    }
    cases.extend(boxes());
    cases.extend(written());
    cases.extend(photos());
    cases
}

/// The file of boxes, and texts that a command writes to.
fn boxes() -> Vec<Case> {
    let mut cases = Vec::new();
    for thing in [Thing::Zero, Thing::Fifo, Thing::Sparse, Thing::Loop, Thing::Folder, Thing::Link("crops.yaml"), Thing::Dangling]
    {
        let build = move |ground: &Ground| {
            ground.photos();
            ground.write("pipeline.yaml", "concept: star\ninputs: { photos: images/ }\nstages:\n  crop: { images: photos }\n");
            thing.put(ground, "crops.yaml");
        };
        cases.push(Case::new(FAMILY, format!("crops.yaml is {}", thing.name()), build).lines(&["check", "plan", "run"]));
    }
    cases
}

/// What a command makes beside or inside what is there already.
fn written() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in [".loramill-pipeline.lock", "captions/.loramill-star-00.txt", "out/resize/.loramill-star-00.png"] {
        for thing in [Thing::Link("secret.txt"), Thing::Dangling, Thing::Fifo] {
            let build = move |ground: &Ground| {
                ground.fresh();
                thing.put(ground, name);
            };
            cases.push(Case::new(FAMILY, format!("{name} is {}", thing.name()), build).lines(&["run", "plan"]));
        }
    }
    let stages = |ground: &Ground| {
        ground.fresh();
        ground.link("out/resize/star-00.png", ground.victim().join("secret.txt"));
        ground.link("captions/star-00.txt", ground.victim().join("secret.txt"));
    };
    cases.push(Case::new(FAMILY, "outputs that are links before the first run", stages).lines(&[
        "run",
        "plan",
        "status",
        "edits list",
    ]));
    let hard = |ground: &Ground| {
        ground.finished();
        for path in ["out/resize/star-00.png", "captions/star-00.txt", "pipeline.lock"] {
            ground.clear(path);
            std::fs::hard_link(ground.victim().join("secret.txt"), ground.path(path)).expect("on one file system");
        }
    };
    cases.push(Case::new(FAMILY, "outputs that are other names of one file", hard).lines(LINES).lines(PERSONS));
    let ignored = |ground: &Ground| {
        ground.fresh();
        ground.link(".gitignore", ground.victim().join("secret.txt"));
        ground.link(".gitattributes", ground.victim().join("made"));
    };
    cases.push(Case::new(FAMILY, "ignored files that are links", ignored).lines(&["run", "plan"]));
    let init = |ground: &Ground| ground.link("pipelines", ground.victim().join("X"));
    cases.push(Case::new(FAMILY, "pipelines is a link", init).lines(&["init star"]));
    cases
}

/// What may lie in a folder of photos. Photos may be links: people have their pictures elsewhere.
fn photos() -> Vec<Case> {
    let mut cases = Vec::new();
    let add = |cases: &mut Vec<Case>, path: &'static str, thing: Thing| {
        let build = move |ground: &Ground| {
            ground.fresh();
            thing.put(ground, path);
        };
        let case =
            Case::new(PHOTOS, format!("{path} is {}", thing.name()), build).lines(&["check", "plan", "run", "watch --help"]);
        cases.push(case.may_read());
    };
    for path in ["images/a.png", "images/star-00.txt", "images/a.txt"] {
        for thing in [
            Thing::Zero,
            Thing::Random,
            Thing::Fifo,
            Thing::Sparse,
            Thing::Loop,
            Thing::Folder,
            Thing::Link("photo.png"),
            Thing::Empty,
        ] {
            add(&mut cases, path, thing);
        }
    }
    for thing in [Thing::Link(""), Thing::Loop, Thing::Fifo, Thing::Zero, Thing::Empty] {
        add(&mut cases, "images", thing);
    }
    for (name, start, length) in [
        ("3 GB behind the start of a JPEG", &b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01"[..], 3 << 30),
        ("3 GB behind the start of a PNG", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x40\0\0\0\x40\x08\x02\0\0\0", 3 << 30),
        ("3 GB behind the start of a WebP", b"RIFF\xff\xff\xff\xffWEBPVP8L", 3 << 30),
    ] {
        let build = move |ground: &Ground| {
            ground.fresh();
            ground.sparse("images/a.jpg", start, length);
        };
        cases.push(Case::new(PHOTOS, name, build).lines(&["check", "run"]).refused("").heavy());
    }
    let strange: &[(&'static str, &'static str, &'static [u8])] = &[
        ("a page", "a.jpg", b"<!DOCTYPE html><script>alert(1)</script>"),
        ("a vector picture", "a.png", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"),
        ("a GIF", "a.png", b"GIF89a\xff\xff\xff\xff\xff\xff\xff"),
        ("a BMP", "a.png", b"BM\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff\x28\0\0\0\xff\xff\xff\x7f\xff\xff\xff\x7f"),
        ("a TIFF", "a.png", b"II*\0\x08\0\0\0\xff\xff"),
        ("an AVIF", "a.png", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1\xff\xff\xff\xffmeta"),
        ("an icon", "a.png", b"\0\0\x01\0\xff\xff\0\0"),
        ("Photoshop", "a.jpg", b"8BPS\0\x01\xff\xff"),
        ("a program", "a.jpg", b"\x7fELF\x02\x01\x01"),
        ("a script", "a.jpg", b"#!/bin/sh\ntouch executed\n"),
        ("PostScript", "a.jpg", b"%!PS-Adobe\n(%pipe%touch executed) (r) file"),
        ("a pointer of git-lfs", "a.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9999999999\n"),
        ("a delegate of ImageMagick", "a.png", b"push graphic-context\nfill 'url(https://x|touch executed)'\n"),
        ("text that is no text", "star-00.txt", b"\xff\xfe\xfd"),
        ("text of UTF-16", "star-00.txt", b"a\0 \0s\0t\0a\0r\0"),
        ("text with nulls", "star-00.txt", b"a\0star"),
        ("text with escapes", "star-00.txt", b"\x1b]0;owned\x07\x1b[2J\xc2\x9b31m\xe2\x80\xaethgir"),
        ("text with marks of a merge", "star-00.txt", b"<<<<<<< ours\na\n=======\nb\n>>>>>>> theirs\n"),
    ];
    for (name, file, bytes) in strange {
        let build = move |ground: &Ground| {
            ground.fresh();
            ground.write(&format!("images/{file}"), bytes);
        };
        cases.push(Case::new(PHOTOS, *name, build).lines(&["check", "run", "status", "edits list"]));
    }
    let long = |ground: &Ground| {
        ground.fresh();
        ground.write("images/star-00.txt", "word, ".repeat(4_000_000));
    };
    cases.push(Case::new(PHOTOS, "a text of 24 MB", long).lines(&["check", "run"]).heavy());
    cases
}
