//! Lock files, and the lists of items that they name, that would have `restore` write elsewhere.

use std::fs;

use loramill::engine::cache::Cache;
use loramill::engine::cache::digest::Digest;
use loramill::engine::kind::item_set;

use crate::hostile::case::Case;
use crate::hostile::damage;
use crate::hostile::ground::Ground;

const FAMILY: &str = "lock";

const LINES: &[&str] = &["restore", "run", "gc --yes", "plan", "status"];

/// Names that lead out of `out/`, into the cache, over other files, or onto the terminal; as the lock writes them.
const NAMES: &[&str] = &[
    "../victim/made",
    "../../victim/made",
    "../../victim/resize",
    "/tmp/loramill-hostile-made",
    "..",
    ".",
    "...",
    "a/../../../victim/made",
    "crop/../../../victim/made",
    "./../../victim/made",
    "%2e%2e/%2e%2e/victim/made",
    "%2e%2e%2f%2e%2e%2fvictim%2fmade",
    "%2ftmp%2floramill-hostile-made",
    "..%5c..%5cvictim",
    "a%00b",
    "a%0ab",
    "%1b]0;owned%07%1b[31m",
    "%c2%9b31m",
    "%e2%80%aethgir",
    "~/made",
    "-rf",
    "--upload-pack=touch",
    "//",
    "a//b",
    "/",
    "crop/",
    "/crop",
    "crop/latents/../../../../victim/made",
    ".git/hooks",
    "../cache/objects",
    "../captions",
    "../images",
    "../pipeline.yaml",
    "CON",
    "crop%ff%fe",
];

/// The row of a stage that has an output, under another name.
fn renamed(ground: &Ground, name: &str) {
    ground.finished();
    let lock = fs::read_to_string(ground.path("pipeline.lock")).expect("it was made");
    ground.write("pipeline.lock", lock.replace("stage resize ", &format!("stage {name} ")));
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in NAMES {
        let stage = move |ground: &Ground| renamed(ground, name);
        cases.push(Case::new(FAMILY, format!("a stage called {name}"), stage).lines(LINES));
        let item = move |ground: &Ground| {
            ground.finished();
            let lock = fs::read_to_string(ground.path("pipeline.lock")).expect("it was made");
            ground.write("pipeline.lock", lock.replace("edit caption/star-01 ", &format!("edit caption/{name} ")));
        };
        let lines = &["edits list", "edits prune", "run", "restore"];
        cases.push(Case::new(FAMILY, format!("an edited item called {name}"), item).lines(lines));
    }
    cases.extend(items());
    cases.extend(texts());
    cases
}

/// The list of a stage's items, with one renamed.
fn items() -> Vec<Case> {
    let names = [
        "../victim/made",
        "../../../victim/made",
        "/tmp/loramill-hostile-made",
        "..",
        "",
        "a/../../../../victim/made",
        "a\0b",
        "\u{1b}]0;owned\u{7}",
        "\u{202e}thgir",
        "../../pipeline",
        "../../captions/star-00",
    ];
    let mut cases = Vec::new();
    for name in names {
        for extension in ["png", "../../../victim/made", "\u{1b}[31m"] {
            let build = move |ground: &Ground| forged(ground, name, extension);
            let shown = format!("an item called {} with the ending {}", name.escape_debug(), extension.escape_debug());
            cases.push(Case::new(FAMILY, shown, build).lines(&["restore", "run", "plan", "explain resize", "status"]));
        }
    }
    cases
}

/// Puts a forged list into the cache, and names it in the lock.
fn forged(ground: &Ground, name: &str, extension: &str) {
    ground.finished();
    let cache = Cache::open(&ground.path("cache")).expect("it was made");
    let lock = fs::read_to_string(ground.path("pipeline.lock")).expect("it was made");
    let row = lock.lines().find(|line| line.starts_with("stage resize ")).expect("it was made");
    let tree = row.split(' ').find_map(|word| word.strip_prefix("out=")).expect("a row has a tree");
    let mut items = item_set::decode(&cache.read(&tree.parse().expect("a digest")).expect("it is here")).expect("a list");
    items[0].name = name.to_string();
    let mut picture = items[0].fields.get("image").expect("a picture").clone();
    picture.extension = extension.into();
    items[0].fields.insert("image".into(), picture);
    let batch = cache.batch();
    let bytes = item_set::encode(&items);
    batch.put_bytes(&bytes).expect("written");
    batch.flush().expect("written");
    drop(batch);
    ground.write("pipeline.lock", lock.replace(tree, &Digest::of(&bytes).to_hex()));
    fs::remove_dir_all(ground.path("out")).expect("it was made");
}

fn texts() -> Vec<Case> {
    type Write = fn(&str) -> Vec<u8>;
    let texts: &[(&str, Write)] = &[
        ("a number of all items that there are", |lock| lock.replace("n=2", "n=18446744073709551615").into_bytes()),
        ("a number beyond 64 bits", |lock| lock.replace("n=2", "n=99999999999999999999999").into_bytes()),
        ("a negative number", |lock| lock.replace("n=2", "n=-1").into_bytes()),
        ("digests of zeros", |lock| lock.replace("out=", &format!("out={} x=", "0".repeat(64))).into_bytes()),
        ("digests that are paths", |lock| lock.replace("out=", "out=../../../../victim/secret.txt x=").into_bytes()),
        ("a size of everything", |lock| lock.replace("size=", "size=18446744073709551615").into_bytes()),
        ("rows doubled a thousand times", |lock| lock.repeat(1000).into_bytes()),
        ("a line of four megabytes", |lock| [lock.as_bytes(), b"stage ", &[b'a'; 4 << 20], b"\n"].concat()),
        ("nulls", |lock| [lock.as_bytes(), &[0; 1000]].concat()),
        ("no text", |lock| [lock.as_bytes(), b"stage \xff\xfe key=\xff\n"].concat()),
        ("UTF-16", |lock| lock.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("marks of a merge", |lock| format!("<<<<<<< HEAD\n{lock}=======\n{lock}>>>>>>> theirs\n").into_bytes()),
        ("raw escapes", |lock| format!("{lock}\u{1b}]0;owned\u{7}\nstage \u{9b}31m key=\u{1b}[2J\n").into_bytes()),
        ("rows of a later version", |lock| format!("{lock}score ../../victim value=7\nwrite ../../victim/made\n").into_bytes()),
    ];
    let mut cases = Vec::new();
    for (name, write) in texts {
        let write = *write;
        let build = move |ground: &Ground| {
            ground.finished();
            let lock = fs::read_to_string(ground.path("pipeline.lock")).expect("it was made");
            ground.write("pipeline.lock", write(&lock));
        };
        cases.push(Case::new(FAMILY, *name, build).lines(LINES));
    }
    for number in 0..15 {
        let build = move |ground: &Ground| {
            ground.finished();
            let lock = fs::read(ground.path("pipeline.lock")).expect("it was made");
            let (_, bytes) = damage::changes(&format!("lock {number}"), &lock, 1).swap_remove(0);
            ground.write("pipeline.lock", bytes);
        };
        cases.push(Case::new(FAMILY, format!("damaged in way {number}"), build).lines(LINES));
    }
    let committed = |ground: &Ground| {
        ground.repository();
        let lock = fs::read_to_string(ground.path("pipeline.lock")).expect("it was made");
        ground.write("pipeline.lock", lock.replace("stage resize ", "stage ../../victim/made "));
        ground.git(&["commit", "-qam", "third"]);
    };
    cases.push(Case::new(FAMILY, "in a commit", committed).lines(&["restore HEAD", "restore HEAD~1", "gc --yes"]));
    cases
}
