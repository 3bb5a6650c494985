//! A run of picture kinds that is killed, or whose disk is full or broken, at each place where something is written: nothing of a
//! person's is lost, the error is clear, and the next run ends as if nothing had been. Only in tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::engine::cache::Cache;
use crate::engine::cache::digest::Digest;
use crate::engine::cache::faults::{Fault, arm_pass, disarm, pass_failed};
use crate::engine::cache::fsck::Depth;
use crate::engine::decide::recorded::TREE_FIELD;
use crate::engine::graph::load::load;
use crate::engine::graph::selection::Selection;
use crate::engine::inputs::sources::Surroundings;
use crate::engine::kind::item_set;
use crate::engine::run::control::StopRequests;
use crate::engine::run::events::{Event, Observer};
use crate::engine::run::run_context::RunOptions;
use crate::engine::run::schedule;
use crate::stages::KINDS;

const MINE: &str = "a star that I drew\n";

struct Deaf;

impl Observer for Deaf {
    fn event(&self, _: Event) {}
}

/// Two tiny pictures and the caption that a person gave to the second.
struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    fn new() -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        for (name, shade) in [("IMG_1", 40), ("IMG_2", 80)] {
            let picture = image::RgbImage::from_pixel(8, 6, image::Rgb([shade, 64, 128]));
            let path = project.at(&format!("images/{name}.png"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            picture.save(path).unwrap();
        }
        project.write_pipeline(4, "photo");
        fs::create_dir(project.at("captions")).unwrap();
        fs::write(project.at("captions/IMG_2.txt"), MINE).unwrap();
        project
    }

    fn write_pipeline(&self, size: u32, template: &str) {
        // No more stages than it takes to write pictures and texts: each pass costs two runs.
        let text = format!(
            "concept: star\ninputs: {{ photos: images/ }}\nstages:\n  resize: {{ images: photos, size: {size} }}\n  \
             caption: {{ images: resize, model: template, template: {template} }}\n"
        );
        fs::write(self.at("pipeline.yaml"), text).unwrap();
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Runs everything, in a process of its own as far as the cache can tell; what went wrong, as the user reads it.
    fn run(&self) -> Result<(), String> {
        let surroundings = Surroundings { models: Vec::new(), hub: None, environment: Box::new(|_| None) };
        let pipeline = load(&self.at("pipeline.yaml"), &[], &surroundings, KINDS).map_err(|problems| format!("{problems:?}"))?;
        let options =
            RunOptions { selection: Selection::of(pipeline.by_default()), keep_going: false, jobs: 1, device: "cpu".to_string() };
        let cache = Cache::open(&self.at("cache")).map_err(|error| format!("{error:#}"))?;
        let record =
            schedule::run(&pipeline, &cache, &options, &Deaf, &StopRequests::default()).map_err(|error| format!("{error:#}"))?;
        if record.is_ok() { Ok(()) } else { Err(record.stages.into_iter().filter_map(|stage| stage.note).collect()) }
    }

    /// What a person sees.
    fn files(&self) -> BTreeMap<PathBuf, Digest> {
        let of = |part: &str| WalkDir::new(self.at(part)).into_iter().flatten().filter(|entry| entry.file_type().is_file());
        let digest = |path: &Path| Digest::of(&fs::read(path).unwrap());
        let files = ["pipeline.lock", "captions", "out"].into_iter().flat_map(of);
        files.map(|file| (file.path().strip_prefix(self.folder.path()).unwrap().to_path_buf(), digest(file.path()))).collect()
    }

    fn unfinished(&self) -> Vec<PathBuf> {
        let all = WalkDir::new(self.folder.path()).into_iter().flatten().map(walkdir::DirEntry::into_path);
        all.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".loramill"))).collect()
    }
}

/// Disturbs one pass after the other of the run that `prepare` leaves to be done.
fn disturb_every_pass(prepare: impl Fn() -> Project) {
    let undisturbed = prepare();
    let before = undisturbed.files();
    undisturbed.run().unwrap();
    let after = undisturbed.files();
    for (fault, cause, remedy) in [
        (Fault::Killed, "", ""),
        (Fault::DiskFull, "no storage space", "free space there"),
        (Fault::BrokenDisk, "Input/output error", "the disk reports a defect"),
    ] {
        for pass in 0.. {
            let project = prepare();
            arm_pass(pass, fault);
            let ended = project.run();
            let met = pass_failed();
            disarm();
            if !met {
                assert!(pass > 30, "a run passes more places than {pass}");
                break;
            }
            let what = format!("{fault:?} at pass {pass}");
            assert_eq!(fs::read_to_string(project.at("captions/IMG_2.txt")).unwrap(), MINE, "{what}");
            let found = project.files();
            // A text may have followed its photo to another name, and not yet be written anew.
            let is_whole = |digest: &Digest| before.values().chain(after.values()).any(|known| known == digest);
            for (path, digest) in found.iter().filter(|(path, _)| !path.to_string_lossy().contains(".loramill")) {
                assert!(is_whole(digest) || path.ends_with("pipeline.lock"), "{what}: `{}` is half-written", path.display());
            }
            match ended {
                // What it could do without.
                Ok(()) => assert_eq!(found, after, "{what}"),
                Err(said) => assert!(
                    said.contains(cause) && said.contains(remedy) && (cause.is_empty() || said.contains('`')),
                    "{what}: {said}"
                ),
            }
            project.run().unwrap_or_else(|error| panic!("{what}, then: {error}"));
            assert_eq!(project.files(), after, "{what}");
            assert_eq!(project.unfinished(), Vec::<PathBuf>::new(), "{what}");
            let cache = Cache::open(&project.at("cache")).unwrap();
            assert_eq!(cache.check(Depth::Full, &[(TREE_FIELD, item_set::check)]).unwrap().problems, [], "{what}");
        }
    }
}

#[test]
fn a_first_run_disturbed_at_any_pass_loses_nothing_and_is_finished_by_the_next() {
    disturb_every_pass(Project::new);
}

#[test]
fn a_run_that_writes_anew_disturbed_at_any_pass_loses_nothing_and_is_finished_by_the_next() {
    disturb_every_pass(|| {
        let project = Project::new();
        project.run().unwrap();
        project.write_pipeline(5, "picture");
        fs::rename(project.at("images/IMG_1.png"), project.at("images/other.png")).unwrap();
        project
    });
}
