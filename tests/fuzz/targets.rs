//! What is fuzzed: each target takes bytes that may lie in a file that loramill reads, and panics if anything but a message comes of them.
//! Unaware of where the bytes come from.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use loramill::cli::terminal::render;
use loramill::engine::cache::Cache;
use loramill::engine::cache::digest::Digest;
use loramill::engine::cache::fsck::{Damage, Depth};
use loramill::engine::cache::records::Record;
use loramill::engine::graph::load::load;
use loramill::engine::graph::pipeline::Producer;
use loramill::engine::graph::selection::named;
use loramill::engine::inputs::sources::Surroundings;
use loramill::engine::kind::item_set;
use loramill::engine::kind::stage_kind::StageKind;
use loramill::engine::lock_file::LockFile;
use loramill::engine::out::materialise;
use loramill::engine::syntax::diagnostic::Diagnostics;
use loramill::engine::syntax::settings;
use loramill::engine::syntax::tree::{Node, Source, Value};
use loramill::engine::syntax::vars;
use loramill::engine::syntax::yaml;
use loramill::sd::checkpoint::carry::Carried;
use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::checkpoint::tensor::Dtype;
use loramill::stages;

pub type Target = fn(&Ground, &[u8]);

/// By name.
pub const TARGETS: &[(&str, Target)] =
    &[("pipeline", pipeline), ("lock", lock), ("records", records), ("forms", forms), ("model", model)];

/// The first line of a log, and of an index of it.
const LOG_HEADER: &[u8] = b"loramill-log 1\n\0";
const MAGIC: &[u8] = b"\xf5Rec";
/// Magic, length of the body, checksum, key, form.
const FRAME_HEADER: usize = 4 + 4 + 8 + 32 + 1;

/// A folder with a pipeline's surroundings, and a cache.
pub struct Ground {
    folder: tempfile::TempDir,
    kinds: Vec<&'static StageKind>,
}

impl Ground {
    /// `more_kinds` stand in for those that this build leaves out.
    pub fn new(more_kinds: &[&'static StageKind]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Smaller ones are looked into: they could be git-lfs pointers.
        let picture = [b'x'; 1024];
        for file in ["photos/IMG_1.png", "photos/IMG_2.png", "models/base.safetensors", "base.safetensors", "one/IMG_1.png"] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("made");
            fs::write(path, picture).expect("written");
        }
        fs::write(folder.path().join("photos/IMG_1.txt"), "a star").expect("written");
        let mut kinds = stages::KINDS.to_vec();
        kinds.extend(more_kinds.iter().filter(|kind| stages::KINDS.iter().all(|known| known.name != kind.name)));
        Self { folder, kinds }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn surroundings(&self) -> Surroundings {
        let environment = |name: &str| match name {
            "SIZE" => Some("64".to_string()),
            "WORD" => Some("large".to_string()),
            _ => None,
        };
        Surroundings { models: vec![self.at("models")], hub: Some(self.at("hub")), environment: Box::new(environment) }
    }
}

/// A pipeline file; its first lines may be `# --set PATH=VALUE`.
fn pipeline(ground: &Ground, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let given: Vec<String> = text.lines().map_while(|line| line.strip_prefix("# --set ")).map(str::to_string).collect();
    let surroundings = ground.surroundings();
    let source = Arc::new(Source { name: "pipeline.yaml".to_string(), text: text.to_string() });
    let mut ignored = Diagnostics::default();
    if let Some(mut root) = yaml::parse(&source, 0, &mut ignored) {
        given.iter().for_each(|setting| settings::set(&mut root, setting, &mut ignored));
        vars::expand(&mut root, surroundings.environment.as_ref(), &mut ignored);
        // What lies elsewhere on this machine takes its own time to list.
        if root.get("inputs").is_some_and(leads_elsewhere) {
            return;
        }
    }
    let file = ground.at("pipeline.yaml");
    fs::write(&file, bytes).expect("written");
    match load(&file, &given, &surroundings, &ground.kinds) {
        Ok(pipeline) => {
            let folders: BTreeSet<String> = pipeline.stages.values().map(|stage| stage.folder()).collect();
            assert_eq!(folders.len(), pipeline.stages.ids().len(), "two stages have one folder");
            for folder in &folders {
                assert!(!folder.starts_with('/') && !folder.split('/').any(|part| matches!(part, "" | "." | "..")), "{folder}");
            }
            for (id, stage) in pipeline.stages.iter() {
                assert!(named(&pipeline, &stage.name).contains(&id), "{} is not found by its name", stage.name);
                let comes_before = |producer: &Producer| !matches!(producer, Producer::Stage(other) if *other >= id);
                assert!(stage.edges.iter().all(|edge| comes_before(&edge.from)), "{} comes too early", stage.name);
                stage.stage.components();
            }
            assert!(pipeline.by_default().is_sorted());
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in &problems {
                let spans = problem.also.iter().map(|(span, _)| span).chain([&problem.span]);
                for span in spans {
                    assert!(span.source.text.get(span.start..span.end).is_some(), "{problem:?}");
                }
                assert!(!problem.message.is_empty());
            }
            let plain = render::problems(&problems, false).to_string();
            assert!(plain.len() < 100_000, "{} bytes of message", plain.len());
            let is_fit = |c: char| c == '\n' || !c.is_control();
            assert!(plain.chars().all(is_fit), "{plain:?}");
            assert_eq!(without_colours(&render::problems(&problems, true).to_string()), plain);
        }
    }
}

fn leads_elsewhere(inputs: &Node) -> bool {
    match &inputs.value {
        Value::Map(entries) => entries.iter().any(|(_, node)| leads_elsewhere(node)),
        Value::Text(text) => text.starts_with('/') || text.split('/').any(|part| part == ".."),
        _ => false,
    }
}

fn without_colours(text: &str) -> String {
    let mut pieces = text.split('\u{1b}');
    let first = pieces.next().unwrap_or_default().to_string();
    pieces.fold(first, |plain, piece| plain + piece.split_once('m').map_or(piece, |(_, rest)| rest))
}

/// A lock.
fn lock(ground: &Ground, bytes: &[u8]) {
    let (read, written) = (ground.at("read.lock"), ground.at("written.lock"));
    fs::write(&read, bytes).expect("written");
    let lock = LockFile::read(&read).expect("whatever is in it");
    let text = lock.to_text();
    assert!(text.lines().is_sorted());
    assert_eq!(LockFile::parse(&text), lock);
    lock.write(&written).expect("there is room");
    assert_eq!(LockFile::read(&written).expect("just written"), lock);
    assert!(!lock.write(&written).expect("there is room"), "it was written though it says nothing else");
    lock.digests();

    // A union merge loses no row and invents none, in whatever order git puts them.
    let given = String::from_utf8_lossy(bytes);
    let whole = given.rfind('\n').map_or("", |end| &given[..=end]);
    let middle = (0..=whole.len() / 2).rev().find(|at| whole.is_char_boundary(*at)).unwrap_or(0);
    let cut = whole[middle..].find('\n').map_or(whole.len(), |end| middle + end + 1);
    let (mine, theirs) = whole.split_at(cut);
    let (mine_text, theirs_text) = (LockFile::parse(mine).to_text(), LockFile::parse(theirs).to_text());
    let rows: BTreeSet<&str> = mine_text.lines().chain(theirs_text.lines()).collect();
    assert_eq!(rows, text.lines().collect());
    assert_eq!(LockFile::parse(&format!("{theirs}{mine}")), lock);
}

/// A record log: a byte of choices, then the log. Choices: 1 gives every frame its checksum; 2 cuts an index off the end, whose length are
/// the next two bytes; 4 repairs.
fn records(ground: &Ground, bytes: &[u8]) {
    let Some((choices, mut log)) = bytes.split_first() else { return };
    let root = ground.at("cache");
    let _ = fs::remove_file(root.join("record-index"));
    fs::create_dir_all(&root).expect("made");
    // A folder with files in it is taken for a cache by its tag alone.
    if !root.join("CACHEDIR.TAG").exists() {
        drop(Cache::open(&root).expect("a new cache"));
    }
    if choices & 2 != 0
        && let Some((length, rest)) = log.split_first_chunk::<2>()
    {
        let cut = rest.len().saturating_sub(usize::from(u16::from_le_bytes(*length)));
        log = &rest[..cut];
        fs::write(root.join("record-index"), sealed(&rest[cut..])).expect("written");
    }
    let mut log = log.to_vec();
    let keys = frames(&mut log, choices & 1 != 0);
    fs::write(root.join("records"), &log).expect("written");

    let cache = match Cache::open(&root) {
        Ok(cache) => cache,
        Err(error) => {
            assert!(format!("{error:#}").contains("is not a record log of this version"), "{error:#}");
            assert!(log.len() >= 32 && !log.starts_with(LOG_HEADER));
            return;
        }
    };
    // An index with its checksum that names impossible places was not written by loramill: it may be an error.
    let Some(before) = results(&cache, &keys) else { return };
    let mut checkup = cache.check(Depth::Fast, &[]).expect("the log can be read");
    if choices & 4 != 0 {
        cache.repair(&mut checkup).expect("there is room");
        let left = cache.check(Depth::Fast, &[]).expect("the log can be read").problems;
        assert!(left.is_empty(), "after a repair: {left:?}");
        return;
    }
    assert!(checkup.problems.iter().all(|problem| matches!(
        problem.damage,
        Damage::Log(_) | Damage::Torn(_) | Damage::Records(_) | Damage::Missing | Damage::Index
    )));
    let key = Digest::of(b"of a run that comes later");
    let record = Record {
        key,
        components: vec![("kind".to_string(), "crop".to_string())],
        outputs: Vec::new(),
        seconds: 1.0,
        ended: None,
        facts: Default::default(),
    };
    let batch = cache.batch();
    batch.record(record.clone()).expect("there is room");
    batch.flush().expect("there is room");
    drop(batch);
    drop(cache);
    let cache = Cache::open(&root).expect("it was opened before");
    assert!(cache.results(&key).expect("the log can be read").contains(&record), "a new record is lost");
    assert_eq!(results(&cache, &keys), Some(before), "an old record is lost");
}

/// What the cache holds under these keys.
fn results(cache: &Cache, keys: &[Digest]) -> Option<Vec<String>> {
    // As text, because a time may be no number, which is not equal to itself.
    let of_one = |key: &Digest| Some(format!("{:?} {:?}", cache.results(key).ok()?, cache.published(key).ok()?));
    keys.iter().map(of_one).collect()
}

/// The keys of the frames, as far as one follows the other.
fn frames(log: &mut [u8], seal: bool) -> Vec<Digest> {
    let mut keys = Vec::new();
    let mut start = 32;
    while let Some(frame) = log.get_mut(start..).filter(|rest| rest.starts_with(MAGIC) && rest.len() >= FRAME_HEADER) {
        let length: [u8; 4] = frame[4..8].try_into().expect("4 bytes");
        let Some(end) = FRAME_HEADER.checked_add(u32::from_le_bytes(length) as usize).filter(|end| *end <= frame.len()) else {
            break;
        };
        if seal {
            let covered = [&length[..], &frame[16..end]].concat();
            frame[8..16].copy_from_slice(&Digest::of(&covered).as_bytes()[..8]);
        }
        keys.push(Digest::from_bytes(frame[16..48].try_into().expect("32 bytes")));
        start += end;
    }
    keys
}

/// With the checksum that indices end with.
fn sealed(content: &[u8]) -> Vec<u8> {
    [content, Digest::of(content).as_bytes()].concat()
}

/// The other files of a cache: a byte that says which, then its contents.
fn forms(ground: &Ground, bytes: &[u8]) {
    let Some((which, content)) = bytes.split_first() else { return };
    match which % 5 {
        0 => tree(content),
        1 => stat_index(ground, content),
        2 => out_manifest(ground, content),
        3 => notes(ground, content, "runs/0123456789abcdef.uses"),
        _ => notes(ground, content, "evicted"),
    }
}

fn tree(content: &[u8]) {
    let counted = item_set::count(content);
    assert_eq!(item_set::check(content).is_ok(), item_set::decode(content).is_ok());
    let Ok(mut items) = item_set::decode(content) else { return };
    assert_eq!(counted.expect("it can be read whole"), items.len());
    let again = item_set::decode(&item_set::encode(&items)).expect("just written");
    items.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(again, items);
}

fn stat_index(ground: &Ground, content: &[u8]) {
    let root = ground.at("cache");
    fs::create_dir_all(&root).expect("made");
    let file = ground.at("photos/IMG_1.png");
    for name in ["stat-index", "text-index"] {
        fs::write(root.join(name), sealed(content)).expect("written");
    }
    let cache = Cache::open(&root).expect("an index is no reason to fail");
    cache.digest_file(&file).expect("it is there");
    cache.check(Depth::Fast, &[]).expect("all can be read");
    cache.save_stat_index().expect("there is room");
}

fn out_manifest(ground: &Ground, content: &[u8]) {
    let cache = Cache::open(&ground.at("cache")).expect("a cache");
    let out = ground.at("out");
    let folder = out.join("crop");
    fs::create_dir_all(&folder).expect("made");
    let manifest = cache.root().join("outputs").join(Digest::of(folder.as_os_str().as_encoded_bytes()).to_hex());
    let tree = Digest::of(b"tree");
    let mut content = content.to_vec();
    if let Some(covers) = content.get_mut(16..48) {
        // Of another tree it would not be looked into.
        covers.copy_from_slice(Digest::of(format!("{tree} image").as_bytes()).as_bytes());
    }
    write_below(&manifest, &sealed(&content));
    materialise::is_shown(&cache, &out, "crop", &tree, &["image"]);
}

fn notes(ground: &Ground, content: &[u8], name: &str) {
    let cache = Cache::open(&ground.at("cache")).expect("a cache");
    let path = cache.root().join(name);
    write_below(&path, content);
    let (noted, evicted) = (cache.noted().expect("all can be read"), cache.evicted().expect("all can be read"));
    assert!(noted.iter().map(|noted| noted.digests.len()).sum::<usize>() + evicted.len() <= content.len() / 32);
    fs::remove_file(path).expect("just written");
}

fn write_below(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("below a folder")).expect("made");
    fs::write(path, bytes).expect("written");
}

/// A model file: a byte of choices, then the file. Choices: 1 puts a zip archive with one storage around it, which is a pickle.
fn model(ground: &Ground, bytes: &[u8]) {
    let Some((choices, content)) = bytes.split_first() else { return };
    let path = ground.at("model");
    let content = if choices & 1 == 0 { content.to_vec() } else { archive(&[("a/data.pkl", content), ("a/data/0", &[0; 64])]) };
    fs::write(&path, &content).expect("written");
    let Ok(file) = ModelFile::open(&path) else { return };
    file.remark();
    for (name, info) in file.tensors() {
        let length = info.byte_length().expect("checked when the file was opened");
        assert!(length <= 16 * content.len() + (9 << 20), "{length} bytes out of {}", content.len());
        if let Ok(tensor) = file.read(name) {
            assert_eq!(tensor.bytes.len(), length);
        }
    }
    let Ok(carried) = Carried::new(&file, Some(Dtype::F16), |_| true) else { return };
    carried.remarks();
    for (name, info) in carried.infos() {
        if let Ok(tensor) = carried.cast(name) {
            assert_eq!(tensor.info(), *info);
        }
    }
}

/// A zip archive of members that are stored, without checksums.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in members {
        let sizes = [[0; 4], (bytes.len() as u32).to_le_bytes(), (bytes.len() as u32).to_le_bytes()].concat();
        let name_length = (name.len() as u16).to_le_bytes();
        let start = (archive.len() as u32).to_le_bytes();
        archive.extend([b"PK\x03\x04".as_slice(), &[0; 10], &sizes, &name_length, &[0; 2], name.as_bytes(), bytes].concat());
        let row = [b"PK\x01\x02".as_slice(), &[0; 12], &sizes, &name_length, &[0; 12], &start, name.as_bytes()];
        directory.extend(row.concat());
    }
    let place = [(directory.len() as u32).to_le_bytes(), (archive.len() as u32).to_le_bytes()].concat();
    let end = [b"PK\x05\x06".as_slice(), &[0; 8], &place, &[0; 2]].concat();
    [archive, directory, end].concat()
}
