//! `check`, `graph`, `stages`, `init`, `completions`: commands that run no stage.

use std::fs;
use std::process::Stdio;

use super::{command, loramill, said};
use crate::formats::tiny_sd;

const PIPELINE: &str = "\
concept: star
inputs:
  base: base.safetensors
  other: model://other.safetensors
  star: star.safetensors
stages:
  short: { kind: convert, from: long, default: false }
  long: { kind: merge, base: base, lora: { from: star, strength: 0.5 } }
";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("pipeline.yaml"), PIPELINE).expect("written");
    fs::copy(tiny_sd(), folder.path().join("base.safetensors")).expect("copied");
    let lora = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats/lora/files/alpha_none.safetensors");
    fs::copy(lora, folder.path().join("star.safetensors")).expect("copied");
    folder
}

#[test]
fn check_counts_what_is_fine_and_notes_what_is_not_here() {
    let folder = folder();
    let (code, stdout, stderr) = said(&loramill(folder.path(), &["check"]));
    assert_eq!((code, stdout.as_str()), (0, "pipeline.yaml: 2 stages, 2 files, fine\n"), "{stderr}");
    assert_eq!(
        stderr,
        "note: no stage reads the input `other`\n\
         note: `base` is Stable Diffusion 1.x\n\
         note: `other` (model://other.safetensors) is not here yet: set LORAMILL_MODELS to the folder of your models\n"
    );
    let (code, _, stderr) = said(&loramill(folder.path(), &["check", "-q", "."]));
    assert_eq!((code, stderr.as_str()), (0, ""));
}

#[test]
fn check_opens_every_photo_that_is_not_skipped_if_asked_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let pictures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pictures");
    fs::create_dir(folder.path().join("images")).expect("made");
    let put = |from: &str, to: &str| {
        fs::copy(format!("{pictures}/{from}"), folder.path().join("images").join(to)).expect("copied");
    };
    put("files/grey.jpg", "a.jpg");
    put("colour/p3.png", "b.png");
    put("files/transparent.png", "c.png");
    put("odd/profile-of-noise.png", "d.png");
    put("broken/cut.jpg", "e.jpg");
    put("broken/cut.png", "f.png");
    let pipeline = |skip: &str| {
        let text =
            format!("concept: x\nskip: [{skip}]\ninputs: {{ photos: images/ }}\nstages: {{ crop: {{ images: photos }} }}\n");
        fs::write(folder.path().join("pipeline.yaml"), text).expect("written");
    };
    pipeline("f");
    assert_eq!(said(&loramill(folder.path(), &["check"])).0, 0, "without being asked it opens none");
    let (code, stdout, stderr) = said(&loramill(folder.path(), &["check", "--photos"]));
    assert_eq!((code, stdout.as_str()), (1, ""));
    for expected in [
        "1 photo is not in sRGB, and converted by the first stage: b\n",
        "1 photo is transparent in parts",
        "d.png` cannot be used, and its colours are taken as sRGB",
        "1 of 5 photos cannot be read; `loramill skip 'e'` leaves one out",
        "e.jpg`: the JPEG ends early",
    ] {
        assert!(stderr.contains(expected), "{expected}: {stderr}");
    }
    pipeline("e, f");
    let (code, stdout, stderr) = said(&loramill(folder.path(), &["check", "--photos"]));
    assert_eq!((code, stdout.as_str()), (0, "pipeline.yaml: 1 stage, 4 photos, 2 skipped, fine\n"), "{stderr}");
    // A box that somebody drew for a photo that is left out is no slip.
    let text = "concept: x\nskip: [e, f]\ninputs: { photos: images/, boxes: crops.yaml }\nstages: { crop: { images: photos, boxes: boxes } }\n";
    fs::write(folder.path().join("pipeline.yaml"), text).expect("written");
    fs::write(folder.path().join("crops.yaml"), "e: [0, 0, 9, 9]\nq: [0, 0, 9, 9]\n").expect("written");
    let (code, stdout, stderr) = said(&loramill(folder.path(), &["plan"]));
    let said = format!("{stdout}{stderr}");
    assert!(code == 0 && said.contains("a box for `q`") && !said.contains("a box for `e`"), "{said}");
}

#[test]
fn pictures_left_aside_are_counted_in_one_note_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["10_red star/a.jpg", "10_red star/b.jfif", "x.heic", "a.nef", "b.NEF", "c.jpg_original", "c.jpg", "@eaDir/d.jpg"]
    {
        let path = folder.path().join("images").join(name);
        fs::create_dir_all(path.parent().expect("below")).expect("made");
        let contents: &[u8] = if name.contains(".j") { b"\xff\xd8\xff\xe0" } else { b"?" };
        fs::write(path, contents).expect("written");
    }
    let text = "concept: x\ninputs: { photos: images/ }\nstages: { crop: { images: photos } }\n";
    fs::write(folder.path().join("pipeline.yaml"), text).expect("written");
    let (code, stdout, stderr) = said(&loramill(folder.path(), &["check"]));
    assert_eq!((code, stdout.as_str()), (0, "pipeline.yaml: 1 stage, 3 photos, fine\n"), "{stderr}");
    for expected in [
        "note: `photos`: 3 pictures are not read: 1 HEIC, 2 raw (2 of them beside a photo of the same name); JPEG, PNG, WebP, TIFF and BMP are.",
        "c.jpg_original` left aside: a photo of the same name is read",
        "`10_red star` (2 photos, 10 times): numbers of repeats in names of folders count for nothing yet",
    ] {
        assert!(stderr.contains(expected), "{expected}: {stderr}");
    }
}

#[test]
fn a_wrong_file_is_exit_code_2_with_all_problems_on_stderr() {
    let folder = folder();
    let (code, stdout, stderr) =
        said(&loramill(folder.path(), &["check", "--set", "long.base=bsae", "--set", "short.dtype=fp17"]));
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(
        stderr.contains("did you mean `base`?") && stderr.contains("did you mean `fp1") && stderr.ends_with("2 problems\n"),
        "{stderr}"
    );
    assert!(!stderr.contains('\u{1b}'), "colours in a pipe");
}

#[test]
fn a_pipeline_that_is_not_there_is_exit_code_2_with_a_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, _, stderr) = said(&loramill(folder.path(), &["check"]));
    assert!(code == 2 && stderr.contains("loramill init"), "{stderr}");
    let inside = folder.path().join("pipelines/star");
    fs::create_dir_all(&inside).expect("made");
    fs::write(inside.join("pipeline.yaml"), PIPELINE).expect("written");
    let (code, _, stderr) = said(&loramill(folder.path(), &["graph", "star"]));
    assert!(code == 2 && stderr.contains("did you mean `pipelines/star`?"), "{stderr}");
    let (code, _, _) = said(&loramill(folder.path(), &["no-such-command"]));
    assert_eq!(code, 2);
}

#[test]
fn models_are_found_in_the_folders_of_the_environment_and_of_the_config_file() {
    let folder = folder();
    let models = folder.path().join("models/deep");
    fs::create_dir_all(&models).expect("made");
    fs::write(models.join("other.safetensors"), "x").expect("written");
    let by_environment =
        command(folder.path(), &["check"]).env("LORAMILL_MODELS", "/nonexistent:models").output().expect("starts");
    assert!(said(&by_environment).1.contains("3 files"), "{by_environment:?}");
    fs::create_dir_all(folder.path().join("config/loramill")).expect("made");
    let config = folder.path().join("config/loramill/config.yaml");
    fs::write(&config, "models: [~/models]\n").expect("written");
    assert!(said(&loramill(folder.path(), &["check"])).1.contains("3 files"));
    fs::write(&config, "modles: [~/models]\n").expect("written");
    let (code, _, stderr) = said(&loramill(folder.path(), &["check"]));
    assert!(code == 2 && stderr.contains("unknown setting `modles`") && stderr.contains("config.yaml:1:1"), "{stderr}");
}

#[test]
fn graph_shows_what_each_stage_reads() {
    let folder = folder();
    let (code, stdout, stderr) = said(&loramill(folder.path(), &["graph"]));
    let expected = "\
pipeline.yaml

inputs
  base   base.safetensors           file
  other  model://other.safetensors  not here yet
  star   star.safetensors           file

stages
  long   \u{2190} base, star  merge
  short  \u{2190} long        convert, on demand
";
    assert_eq!((code, stdout.as_str()), (0, expected), "{stderr}");
    let (code, stdout, _) = said(&loramill(folder.path(), &["graph", "--dot"]));
    assert_eq!(code, 0);
    assert!(stdout.starts_with("digraph pipeline {\n") && stdout.contains("  \"long\" -> \"short\";\n"), "{stdout}");
}

#[test]
fn the_reference_has_every_param_with_its_default() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, stdout, _) = said(&loramill(folder.path(), &["stages"]));
    assert!(code == 0 && stdout.lines().any(|line| line.starts_with("merge ")), "{stdout}");
    let (code, stdout, _) = said(&loramill(folder.path(), &["stages", "convert"]));
    assert!(
        code == 0 && stdout.contains("\n  dtype: auto  (one of auto, fp32, fp16, bf16)\n      Type of the numbers"),
        "{stdout}"
    );
    let (code, _, stderr) = said(&loramill(folder.path(), &["stages", "mrege"]));
    assert!(code == 2 && stderr.contains("did you mean `merge`?"), "{stderr}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child =
        command(folder.path(), &["stages", "--schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn completions_know_the_commands() {
    let folder = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, _) = said(&loramill(folder.path(), &["completions", shell]));
        assert!(code == 0 && stdout.contains("check"), "{shell}");
    }
}

#[test]
fn init_makes_a_folder_and_writes_over_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, stdout, stderr) = said(&loramill(folder.path(), &["init", "my cat"]));
    assert!(code == 0 && stdout.contains("pipelines/my cat"), "{stderr}");
    let made = folder.path().join("pipelines/my cat");
    assert!(made.join("images").is_dir() && made.join("captions").is_dir());
    assert_eq!(fs::read_to_string(made.join(".gitignore")).expect("there"), "out/\n");
    assert_eq!(fs::read_to_string(made.join(".gitattributes")).expect("there"), "pipeline.lock merge=union\n");
    fs::write(made.join("pipeline.yaml"), "mine").expect("written");
    let (code, _, stderr) = said(&loramill(folder.path(), &["init", "my cat"]));
    assert!(code == 0 && stderr.contains("kept pipelines/my cat/pipeline.yaml"), "{stderr}");
    assert_eq!(fs::read_to_string(made.join("pipeline.yaml")).expect("there"), "mine");
    for wrong in ["../cat", "", ".cat", "a/b"] {
        assert_eq!(said(&loramill(folder.path(), &["init", wrong])).0, 2, "{wrong}");
    }
}

/// All kinds are there only with networks.
#[cfg(feature = "nn")]
mod with_networks {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_new_pipeline_is_sound_and_cannot_run_before_it_has_photos() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(said(&loramill(folder.path(), &["init", "12"])).0, 0);
        let (code, stdout, stderr) = said(&loramill(folder.path(), &["check", "pipelines/12"]));
        assert_eq!((code, stdout.as_str()), (0, "pipelines/12/pipeline.yaml: 6 stages, fine\n"), "{stderr}");
        assert!(stderr.contains("`photos` has no photos yet") && stderr.contains("looked in `pipelines/12/images/`"), "{stderr}");
        for command in ["plan", "run"] {
            let (code, _, stderr) = said(&loramill(folder.path(), &[command, "pipelines/12"]));
            assert!(code == 2 && stderr.contains("error: `images/` holds no photos\n"), "{stderr}");
            assert!(stderr.contains("pipelines/12/pipeline.yaml:") && stderr.contains("^^^^^^^"), "{stderr}");
        }
        for name in ["a.jpg", "b.png"] {
            fs::write(folder.path().join("pipelines/12/images").join(name), "x").expect("written");
        }
        let (code, stdout, stderr) = said(&loramill(folder.path(), &["check", "pipelines/12"]));
        assert_eq!((code, stdout.as_str()), (0, "pipelines/12/pipeline.yaml: 6 stages, 2 photos, fine\n"), "{stderr}");
    }

    /// `LORAMILL_BLESS=1` writes it anew.
    #[test]
    fn the_schema_beside_the_pipelines_is_fresh() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (_, schema, _) = said(&loramill(root, &["stages", "--schema"]));
        let file = root.join("pipelines/schema.json");
        let beside = fs::read_to_string(&file).unwrap_or_default();
        if beside != schema && std::env::var_os("LORAMILL_BLESS").is_some() {
            fs::write(&file, &schema).expect("written");
        }
        assert!(
            beside == schema,
            "pipelines/schema.json is not what `loramill stages --schema` prints: run the tests with LORAMILL_BLESS=1"
        );
    }

    #[test]
    fn the_pipelines_of_the_repository_are_sound() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in ["examples/tiny", "pipelines/shrug"] {
            let (code, _, stderr) = said(&loramill(root, &["check", folder]));
            assert_eq!(code, 0, "{stderr}");
        }
    }
}
