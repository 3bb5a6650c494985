//! Caches that a repository brings along: links and strange things in every place that loramill has there, damaged logs, and paths of
//! other folders.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use loramill::engine::cache::digest::Digest;

use crate::hostile::case::Case;
use crate::hostile::damage;
use crate::hostile::ground::Ground;
use crate::hostile::links::Thing;

const FAMILY: &str = "cache";

/// Everything that opens a cache.
const LINES: &[&str] = &[
    "gc --yes",
    "run",
    "plan",
    "status",
    "run --force",
    "gc",
    "fsck",
    "fsck --full --repair",
    "edits list",
    "explain crop",
    "restore",
    "edits drop star-01",
    "stop",
    "skip star-00",
];

const SHORT: &[&str] = &["plan", "run", "gc --yes", "fsck --full --repair", "restore"];

/// The folders of a cache, with the part of the victim that looks like it.
const FOLDERS: &[(&str, &str)] = &[
    ("tmp", ""),
    ("displaced", ""),
    ("state", ""),
    ("objects", "objects"),
    ("objects/ab", ""),
    ("locks", ""),
    ("roots", ""),
    ("runs", ""),
    ("outputs", ""),
];

/// Its files.
const FILES: &[(&str, &str)] = &[
    ("records", "records"),
    ("record-index", "record-index"),
    ("stat-index", "stat-index"),
    ("text-index", "stat-index"),
    ("evicted", "evicted"),
    ("damaged", "evicted"),
    ("CACHEDIR.TAG", "secret.txt"),
    ("locks/claims", "claims"),
    ("locks/claim-0", "claim-0"),
    ("locks/sweep", "secret.txt"),
    ("tmp/7.lock", "X.lock"),
    ("tmp/7", "7"),
    ("tmp/0.lock", "X.lock"),
    ("displaced/1000000000.000000001.0.letter.txt", "secret.txt"),
    (".loramill-record-index", "secret.txt"),
    (".loramill-stat-index", "secret.txt"),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (path, target) in FOLDERS {
        for thing in [Thing::Link(target), Thing::Dangling, Thing::Loop, Thing::Fifo, Thing::Empty] {
            cases.push(replaced(path, thing, if matches!(thing, Thing::Link(_)) { LINES } else { SHORT }));
        }
    }
    for (path, target) in FILES {
        for thing in [Thing::Link(target), Thing::Dangling, Thing::Zero, Thing::Fifo, Thing::Folder] {
            cases.push(replaced(path, thing, if matches!(thing, Thing::Link(_)) { LINES } else { SHORT }));
        }
    }
    for path in ["records", "stat-index", "record-index", "evicted", "damaged"] {
        cases.push(replaced(path, Thing::Sparse, SHORT).heavy());
    }
    for path in ["stat-index", "text-index", "record-index", "evicted"] {
        let build = move |ground: &Ground| {
            ground.finished();
            ground.clear(&format!("cache/{path}"));
            ground.sparse(&format!("cache/{path}"), if path == "stat-index" { b"loramill-stat 1\n" } else { b"" }, 1 << 30);
        };
        cases.push(Case::new(FAMILY, format!("{path} is a gigabyte"), build).lines(SHORT));
    }
    // Each of them claims 60 MB of a file that has them: of nothing.
    let claims = |ground: &Ground| {
        ground.finished();
        let path = ground.path("cache/records");
        let start = fs::read(&path).expect("it was made");
        let mut frame = [0u8; 49];
        frame[..4].copy_from_slice(b"\xf5Rec");
        frame[4..8].copy_from_slice(&(60u32 << 20).to_le_bytes());
        ground.sparse("cache/records", &[&start[..32], &frame.repeat(60)].concat(), 70 << 20);
    };
    cases.push(Case::new(FAMILY, "records that claim what is not there", claims).lines(&[
        "status",
        "plan",
        "run",
        "fsck --repair",
    ]));
    cases.extend(whole());
    cases.extend(objects());
    cases.extend(known_roots());
    cases.extend(damaged());
    cases
}

fn replaced(path: &'static str, thing: Thing, lines: &[&str]) -> Case {
    let build = move |ground: &Ground| {
        ground.finished();
        thing.put(ground, &format!("cache/{path}"));
    };
    Case::new(FAMILY, format!("{path} is {}", thing.name()), build).lines(lines)
}

/// The folder itself, here and above the project.
fn whole() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, target) in [("the victim", ""), ("a folder of the victim's", "X"), ("a file of the victim's", "secret.txt")] {
        let build = move |ground: &Ground| {
            ground.finished();
            ground.link("cache", ground.victim().join(target));
        };
        cases.push(Case::new(FAMILY, format!("a link to {name}"), build).lines(LINES));
    }
    for thing in [Thing::Dangling, Thing::Loop, Thing::Fifo, Thing::Zero, Thing::Empty] {
        let build = move |ground: &Ground| {
            ground.finished();
            thing.put(ground, "cache");
        };
        cases.push(Case::new(FAMILY, format!("the whole of it is {}", thing.name()), build).lines(SHORT));
    }
    // As the issue of a clone has it: nothing but a tag and a link.
    for (link, _) in FOLDERS {
        let build = move |ground: &Ground| {
            ground.fresh();
            ground.tag("cache");
            ground.link(&format!("cache/{link}"), if *link == "objects/ab" { "../../../victim" } else { "../../victim" });
        };
        cases.push(Case::new(FAMILY, format!("a tag, and {link} is a link out of the project"), build).lines(LINES));
    }
    let tracked = |ground: &Ground| {
        ground.finished();
        ground.git(&["init", "-q", "-b", "main"]);
        ground.git(&["add", "-Af"]);
        ground.git(&["commit", "-qm", "with its cache"]);
    };
    cases.push(Case::new(FAMILY, "tracked by git", tracked).lines(LINES));
    let pipeline_inside = |ground: &Ground| {
        ground.finished();
        fs::create_dir_all(ground.path("cache/inside")).expect("made");
        fs::rename(ground.path("pipeline.yaml"), ground.path("cache/pipeline.yaml")).expect("moved");
        fs::rename(ground.path("images"), ground.path("cache/images")).expect("moved");
    };
    cases.push(Case::new(FAMILY, "the pipeline lies inside", pipeline_inside).lines(&[
        "run cache",
        "plan cache",
        "gc --yes cache",
    ]));
    let foreign = |ground: &Ground| {
        ground.fresh();
        ground.write("cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n# Of another program.\n");
        for name in ["tmp/7.lock", "tmp/7/keep.txt", "objects/ab/keep", "displaced/1000000000.0.0.letter.txt", "keep.txt"] {
            ground.write(&format!("cache/{name}"), "of another program");
        }
    };
    cases.push(Case::new(FAMILY, "of another program", foreign).lines(LINES));
    cases.extend(above());
    cases
}

/// A cache in a folder above the project, which is not the project's. Only root can make one that another user owns.
fn above() -> Vec<Case> {
    let others = |ground: &Ground| {
        ground.fresh();
        let cache = ground.root().join("cache");
        for name in ["tmp/7.lock", "tmp/7/keep.txt", "displaced/1000000000.0.0.letter.txt", "objects/ab/keep"] {
            crate::hostile::ground::write(&cache.join(name), b"planted: of somebody else");
        }
        fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/cache/CACHEDIR.TAG"), cache.join("CACHEDIR.TAG")).expect("copied");
        for entry in walkdir::WalkDir::new(&cache) {
            let _ = std::os::unix::fs::chown(entry.expect("just made").path(), Some(12_345), Some(12_345));
        }
    };
    let is_root = rustix::process::geteuid().is_root();
    let mut cases = Vec::new();
    if is_root {
        cases.push(Case::new(FAMILY, "another user's, above the project", others).lines(LINES));
    }
    cases
}

/// Objects that are no objects, in the place of one that the lock names.
fn objects() -> Vec<Case> {
    let mut cases = Vec::new();
    for thing in
        [Thing::Link("resize/star-00.png"), Thing::Dangling, Thing::Zero, Thing::Fifo, Thing::Folder, Thing::Loop, Thing::Empty]
    {
        for (name, shown) in [("a picture", "out/resize/star-00.png"), ("a text", "captions/star-00.txt")] {
            let build = move |ground: &Ground| {
                ground.finished();
                let digest = Digest::of(&fs::read(ground.path(shown)).expect("it was made")).to_hex();
                thing.put(ground, &format!("cache/objects/{}/{}", &digest[..2], &digest[2..]));
                fs::remove_dir_all(ground.path("out")).expect("it was made");
            };
            cases.push(Case::new(FAMILY, format!("the object of {name} is {}", thing.name()), build).lines(SHORT));
        }
    }
    for thing in [Thing::Link("secret.txt"), Thing::Zero, Thing::Fifo] {
        let build = move |ground: &Ground| {
            ground.finished();
            let lock = fs::read_to_string(ground.path("pipeline.lock")).expect("it was made");
            let tree = lock.split([' ', '\n']).find_map(|word| word.strip_prefix("out=")).expect("a row has a tree").to_string();
            thing.put(ground, &format!("cache/objects/{}/{}", &tree[..2], &tree[2..]));
        };
        cases.push(Case::new(FAMILY, format!("the list of a stage's items is {}", thing.name()), build).lines(SHORT));
    }
    cases
}

/// Folders that a cache says use it.
fn known_roots() -> Vec<Case> {
    let mut cases = Vec::new();
    type Text = fn(&Ground) -> Vec<u8>;
    let roots: &[(&str, Text)] = &[
        ("the victim", |ground| ground.victim().as_os_str().as_bytes().to_vec()),
        ("a relative path", |_| b"../../victim".to_vec()),
        ("a device", |_| b"/dev/zero".to_vec()),
        ("all processes", |_| b"/proc/self/fd".to_vec()),
        ("a name with escapes", |_| b"/tmp/\x1b]0;owned\x07\x9b31m".to_vec()),
        ("a name with a null", |_| b"/tmp/a\0b".to_vec()),
        ("no name", |_| Vec::new()),
        ("an option of git", |_| b"--upload-pack=touch".to_vec()),
        ("a megabyte", |_| vec![b'a'; 1 << 20]),
    ];
    for (name, root) in roots {
        let build = move |ground: &Ground| {
            ground.finished();
            ground.write("cache/roots/planted", root(ground));
        };
        cases.push(
            Case::new(FAMILY, format!("a known repository is {name}"), build)
                .lines(&["gc", "gc --yes", "plan", "fsck"])
                .may_read(),
        );
    }
    cases
}

fn damaged() -> Vec<Case> {
    let mut cases = Vec::new();
    for file in ["records", "record-index", "stat-index", "text-index"] {
        for number in 0..8 {
            let build = move |ground: &Ground| {
                ground.finished();
                let path = ground.path(&format!("cache/{file}"));
                let Ok(bytes) = fs::read(&path) else { return };
                let purpose = format!("{file} {number}");
                let (_, bytes) = damage::changes(&purpose, &bytes, 1).swap_remove(0);
                let (_, bytes) =
                    if number % 2 == 0 { damage::cuts(&purpose, &bytes, 1).swap_remove(0) } else { (String::new(), bytes) };
                fs::write(path, bytes).expect("written");
            };
            cases.push(Case::new(FAMILY, format!("{file} damaged in way {number}"), build).lines(SHORT));
        }
    }
    let said = |ground: &Ground| {
        ground.finished();
        for name in
            fs::read_dir(ground.path("cache/locks")).expect("it was made").map(|entry| entry.expect("readable").file_name())
        {
            ground.write(&format!("cache/locks/{}", name.display()), "99 1 \u{1b}]0;owned\u{7}\u{202e}\n");
        }
        ground.write("cache/displaced/\u{1b}[31m.txt", "displaced");
        ground.write("cache/state/\u{1b}[31m/x", "a state");
        ground.write("cache/runs/\u{1b}[31m.status", "crop: \u{1b}[31m1 of 2");
        ground.write("cache/objects/\u{1b}[31m/x", "an object");
        ground.write("cache/objects/ab/\u{1b}[31m", "an object");
    };
    cases.push(Case::new(FAMILY, "names and notes with escapes", said).lines(LINES));
    cases
}
