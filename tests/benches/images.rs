//! How many photos a second pass through crop, resize to 512 and flip, beside the same steps in Pillow.
//!
//! ```text
//! cargo bench --no-default-features --bench images -- [PHOTOS=10000] [--pillow PYTHON] [--folder DIR]
//! ```
//!
//! Makes JPEGs of 1024×768 in a folder and runs the stages' own workers over them on two threads: each stage reads its input from a file,
//! hashes its output and writes it. With `--pillow` runs images_pillow.py over the same files, in a pool of two processes, by turns of a
//! thousand photos. Both are timed on a warm page cache. The folder needs 5 GB; it lies below the target folder unless given, and is
//! removed.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use loramill::engine::cache::digest::Digest;
use loramill::engine::kind::item::{Artifact, Fields, Item};
use loramill::engine::kind::stage::{Content, Context, Draft, Files, Form, Progress, Resolved, Stage, StopRequest};
use loramill::engine::kind::stage_kind::{LoadScope, StageKind};
use loramill::engine::syntax::diagnostic::Diagnostics;
use loramill::engine::syntax::tree::Source;
use loramill::engine::syntax::yaml;
use loramill::stages::{crop, flip, resize};

const THREADS: usize = 2;
/// Pictures that differ; the files repeat them.
const DISTINCT: usize = 48;
/// Photos of one round: both programs take them by turns, and the files go before the next, so that neither waits for what the other has
/// left for the disk to write.
const ROUND: usize = 1000;

fn main() {
    let mut count = 10_000;
    let mut python = None;
    let mut parent = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--pillow" => python = arguments.next(),
            "--folder" => parent = arguments.next().expect("--folder takes a path").into(),
            // cargo adds it.
            "--bench" => {}
            number => count = number.parse().expect("the number of photos"),
        }
    }
    let distinct: Vec<Vec<u8>> = (0..DISTINCT.min(count)).map(|seed| photo(seed as u32)).collect();
    let (mut ours, mut theirs) = (Total::default(), Total::default());
    let mut left = count;
    while left > 0 {
        let photos = left.min(ROUND);
        left -= photos;
        let folder = tempfile::tempdir_in(&parent).expect("the folder can be written");
        let sources = folder.path().join("photos");
        make_photos(&sources, photos, &distinct);
        ours.add(photos, loramill(&folder.path().join("objects"), &sources, photos));
        if let Some(python) = &python {
            theirs.add(photos, pillow(python, &folder.path().join("pillow"), &sources, photos));
        }
        println!("{} of {count}: {:.1} images/s, {:.1} in Pillow", count - left, ours.rate(), theirs.rate());
    }
    println!("loramill: {:.1} images/s, {:.0} KB a picture", ours.rate(), ours.size() / 1e3);
    if python.is_some() {
        println!("Pillow:   {:.1} images/s, {:.0} KB a picture", theirs.rate(), theirs.size() / 1e3);
        println!(
            "loramill / Pillow: {:.2} times the images, {:.3} times the size",
            ours.rate() / theirs.rate(),
            ours.size() / theirs.size()
        );
    }
}

/// Over all rounds.
#[derive(Default)]
struct Total {
    photos: usize,
    seconds: f64,
    bytes: f64,
}

impl Total {
    /// `round`: seconds, and the mean size of a picture in bytes.
    fn add(&mut self, photos: usize, round: (f64, f64)) {
        self.photos += photos;
        self.seconds += round.0;
        self.bytes += round.1 * photos as f64;
    }

    fn rate(&self) -> f64 {
        self.photos as f64 / self.seconds
    }

    fn size(&self) -> f64 {
        self.bytes / self.photos as f64
    }
}

fn loramill(objects: &Path, photos: &Path, count: usize) -> (f64, f64) {
    std::fs::create_dir(objects).unwrap();
    let disk = Disk { folder: objects.to_path_buf() };
    let stages = [load(&crop::KIND, "images: photos"), load(&resize::KIND, "images: crop"), load(&flip::KIND, "images: resize")];
    let mut items: Vec<Item> = (0..count).map(|number| disk.photo(photos, number)).collect();
    let began = Instant::now();
    let mut bytes_written = 0;
    for stage in &stages {
        (items, bytes_written) = disk.run(&**stage, items);
    }
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(items.len(), 2 * count);
    std::fs::remove_dir_all(objects).unwrap();
    (seconds, bytes_written as f64 / count as f64)
}

fn pillow(python: &str, out: &Path, photos: &Path, count: usize) -> (f64, f64) {
    std::fs::create_dir(out).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/benches/images_pillow.py");
    let result = Command::new(python).arg(script).args([photos, out]).arg(THREADS.to_string()).output().expect("Python runs");
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    let figures: Vec<f64> =
        String::from_utf8_lossy(&result.stdout).split_whitespace().map(|number| number.parse().unwrap()).collect();
    (count as f64 / figures[0], figures[1])
}

/// Artifacts as files of one folder.
struct Disk {
    folder: PathBuf,
}

impl Disk {
    fn photo(&self, photos: &Path, number: usize) -> Item {
        let bytes = std::fs::read(photos.join(format!("{number:05}.jpg"))).unwrap();
        let artifact = self.put(&bytes, "jpg", number);
        Item {
            name: format!("{number:05}"),
            origin: None,
            fields: Fields::from([("image", artifact)]),
            attributes: BTreeMap::new(),
            key: Digest::of(&bytes),
        }
    }

    /// Each work writes files of its own, also where bytes repeat: `number` is mixed into the digest that names the file.
    fn put(&self, bytes: &[u8], extension: &str, number: usize) -> Artifact {
        let mut digest = *Digest::of(bytes).as_bytes();
        digest[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let artifact = Artifact { digest: Digest::from_bytes(digest), size: bytes.len() as u64, extension: extension.into() };
        std::fs::write(self.path(&artifact).unwrap(), bytes).unwrap();
        artifact
    }

    /// The outputs of a stage and the bytes of one new picture each.
    fn run(&self, stage: &dyn Stage, items: Vec<Item>) -> (Vec<Item>, u64) {
        let Form::Items(item_stage) = stage.form() else { unreachable!("image stages are item stages") };
        let inputs = Resolved { inputs: BTreeMap::from([("images".to_string(), items.into())]), complete: true };
        let works = item_stage.expand(&inputs, self).unwrap();
        let worker = item_stage.open(self).unwrap();
        let (next, written) = (AtomicUsize::new(0), AtomicU64::new(0));
        let do_some = || {
            let mut done = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(work) = works.get(number) else { return done };
                for draft in worker.run(work, self).unwrap() {
                    let Draft { name, origin, fields, attributes } = draft;
                    let mut kept = work.carry.clone();
                    for (field, content) in fields {
                        let artifact = match content {
                            Content::Bytes { bytes, extension } => {
                                written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                                self.put(&bytes, extension, number)
                            }
                            Content::Same(artifact) => artifact,
                            Content::File { .. } => unreachable!("image stages give bytes"),
                        };
                        kept.insert(field.into(), artifact);
                    }
                    done.push(Item { name, origin, fields: kept, attributes, key: Digest::of(b"") });
                }
            }
        };
        let outputs = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(do_some)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        (outputs, written.into_inner())
    }
}

fn load(kind: &StageKind, yaml: &str) -> Box<dyn Stage> {
    let source = Arc::new(Source { name: "bench".into(), text: yaml.into() });
    let mut diagnostics = Diagnostics::default();
    let node = yaml::parse(&source, 0, &mut diagnostics).unwrap();
    let scope = LoadScope { stage: kind.name, concept: "bench", trigger: "bench", seed: 0 };
    (kind.load)(&node, &scope, &mut diagnostics).unwrap()
}

fn make_photos(folder: &Path, count: usize, distinct: &[Vec<u8>]) {
    std::fs::create_dir(folder).unwrap();
    for (number, bytes) in (0..count).zip(distinct.iter().cycle()) {
        std::fs::write(folder.join(format!("{number:05}.jpg")), bytes).unwrap();
    }
}

/// Clouds of many sizes and the noise of a sensor, as JPEG of quality 90.
fn photo(seed: u32) -> Vec<u8> {
    const WIDTH: usize = 1024;
    const HEIGHT: usize = 768;
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    let mut values = vec![128f32; WIDTH * HEIGHT * 3];
    for cell in [256, 128, 64, 32, 16, 8, 4] {
        let (columns, rows) = (WIDTH / cell + 2, HEIGHT / cell + 2);
        let strength = 200.0 * (cell as f32 / 256.0).powf(0.7);
        let knots: Vec<f32> = (0..columns * rows * 3).map(|_| random() * strength).collect();
        for (at, value) in values.iter_mut().enumerate() {
            let (x, y, channel) = (at / 3 % WIDTH, at / 3 / WIDTH, at % 3);
            let knot = |dx: usize, dy: usize| knots[((y / cell + dy) * columns + x / cell + dx) * 3 + channel];
            let (across, down) = ((x % cell) as f32 / cell as f32, (y % cell) as f32 / cell as f32);
            let upper = knot(0, 0) + (knot(1, 0) - knot(0, 0)) * across;
            let lower = knot(0, 1) + (knot(1, 1) - knot(0, 1)) * across;
            *value += upper + (lower - upper) * down;
        }
    }
    let pixels: Vec<u8> = values
        .chunks_exact(3)
        .flat_map(|pixel| {
            let grain = random() * 10.0;
            [0, 1, 2].map(|channel: usize| (pixel[channel] + grain).clamp(0.0, 255.0) as u8)
        })
        .collect();
    let picture = RgbImage::from_raw(WIDTH as u32, HEIGHT as u32, pixels).unwrap();
    let mut bytes = Vec::new();
    picture.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 90)).unwrap();
    bytes
}

impl Files for Disk {
    fn path(&self, artifact: &Artifact) -> anyhow::Result<PathBuf> {
        Ok(self.folder.join(artifact.digest.to_hex()))
    }

    fn read(&self, artifact: &Artifact) -> anyhow::Result<Vec<u8>> {
        Ok(std::fs::read(self.path(artifact)?)?)
    }
}

impl Context for Disk {
    fn scratch(&self) -> &Path {
        &self.folder
    }

    fn device(&self) -> &str {
        "cpu"
    }

    fn publish(&self, _draft: Draft) -> anyhow::Result<()> {
        unreachable!("image stages publish nothing")
    }

    fn state(&self) -> anyhow::Result<&Path> {
        unreachable!("image stages keep no state")
    }

    fn shared(
        &self,
        _key: &str,
        make: &mut dyn FnMut() -> anyhow::Result<Arc<dyn Any + Send + Sync>>,
    ) -> anyhow::Result<Arc<dyn Any + Send + Sync>> {
        make()
    }

    fn progress(&self, _progress: Progress) {}

    fn say(&self, _message: &str) {}

    fn stop_request(&self) -> StopRequest {
        StopRequest::GoOn
    }
}
