//! `do`: one stage on the command line. `skip`: a photo left out by a line in the file. What both say stands on what the user wrote.

use std::fs;
use std::path::Path;

use super::{command, loramill, said};

/// A folder with three of the example's photos.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("photos")).expect("made");
    for name in ["star-00.jpg", "star-01.png", "star-02.png"] {
        let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images").join(name);
        fs::copy(photo, folder.path().join("photos").join(name)).expect("copied");
    }
    folder
}

fn refused(folder: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = said(&loramill(folder, arguments));
    assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
    stderr
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

#[test]
fn do_names_outputs_after_their_sources() {
    let folder = folder();
    let folder = folder.path();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/models/tiny-sd.safetensors");
    fs::copy(model, folder.join("my style.v1.safetensors")).expect("copied");
    let from = "from=my style.v1.safetensors";
    let (code, _, stderr) = said(&loramill(folder, &["do", "convert", from, "to=ckpt", "-o", "made"]));
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(names_in(&folder.join("made")), ["my style.v1.ckpt"]);
    let (code, _, stderr) = said(&loramill(folder, &["do", "crop", "images=photos", "-o", "cropped"]));
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(names_in(&folder.join("cropped")), ["star-00.png", "star-01.png", "star-02.png"]);
}

#[test]
fn what_is_wrong_with_a_stage_of_do_is_shown_on_the_command_line() {
    let folder = folder();
    let folder = folder.path();
    let said = refused(folder, &["do", "resize", "images=photos", "sise=32", "keep=5", "-o", "made"]);
    let expected = "\
error: expected true or false, found a whole number
  --> command line:1:30
  |
1 | resize images=photos sise=32 keep=5
  |                              ^^^^^^

error: unknown parameter `sise` for `resize`
  --> command line:1:22
  |
1 | resize images=photos sise=32 keep=5
  |                      ^^^^^^^
hint: did you mean `size`?

2 problems
";
    assert_eq!(said, expected);
    let said = refused(folder, &["do", "resize", "size=32", "-o", "made"]);
    assert!(said.contains("error: `images` is missing\n  --> command line:1:1\n"), "{said}");
    let said = refused(folder, &["do", "resize", "images=photo", "size=32", "-o", "made"]);
    assert!(said.contains("1 | resize images=photo size=32\n  |        ^^^^^^^^^^^^\n"), "{said}");
    assert_eq!(names_in(&folder.join("made")), [""; 0], "nothing is left behind");
}

#[test]
fn a_model_that_do_cannot_use_is_shown_on_the_command_line_before_anything_runs() {
    let folder = folder();
    let folder = folder.path();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::copy(root.join("examples/tiny/models/tiny-sd.safetensors"), folder.join("base.safetensors")).expect("copied");
    fs::copy(root.join("tests/formats/lora/files/peft_dora.safetensors"), folder.join("dora.safetensors")).expect("copied");
    let said = refused(folder, &["do", "merge", "base=base.safetensors", "lora=dora.safetensors", "-o", "made"]);
    assert!(said.contains("1 | merge base=base.safetensors lora=dora.safetensors\n"), "{said}");
    assert!(said.contains("belongs to a DoRA, which is no LoRA"), "{said}");
    assert_eq!(names_in(&folder.join("made")), [""; 0], "nothing is left behind");
}

#[test]
fn a_failure_of_do_names_the_users_file_and_no_file_that_stands_in_for_a_pipeline() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("photos/star-00.jpg"), b"\xff\xd8\xff\xe0 not much").expect("written");
    // Where files that stand in would lie.
    let temporary = folder.join("temporary");
    fs::create_dir(&temporary).expect("made");
    let mut command = command(folder, &["do", "crop", "images=photos", "-o", "made"]);
    let (code, _, stderr) = said(&command.env("TMPDIR", &temporary).output().expect("the program starts"));
    assert_eq!(code, 1);
    assert!(stderr.contains("star-00.jpg") && !stderr.contains("temporary"), "{stderr}");
    assert_eq!(names_in(&temporary), [""; 0], "nothing is left behind");
}

#[test]
fn a_tilde_is_the_home_folder_wherever_a_folder_is_named() {
    let folder = folder();
    let folder = folder.path();
    // The tests' home folder is `folder`; the project lies somewhere else.
    let project = tempfile::tempdir().expect("a folder");
    let pipeline = "concept: star\ninputs: { photos: ~/photos/ }\nstages: { crop: { images: photos } }\n";
    fs::write(project.path().join("pipeline.yaml"), pipeline).expect("written");
    let at_home = |arguments: &[&str]| {
        let mut command = command(project.path(), arguments);
        said(&command.env("HOME", folder).output().expect("the program starts"))
    };
    let (code, stdout, stderr) = at_home(&["check"]);
    assert_eq!((code, stdout.as_str()), (0, "pipeline.yaml: 1 stage, 3 photos, fine\n"), "{stderr}");
    let (code, _, stderr) = at_home(&["do", "crop", "images=~/photos", "-o", "made", "--cache=~/kept"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(project.path().join("made/star-01.png").exists() && folder.join("kept/CACHEDIR.TAG").exists());
    assert!(!project.path().join("~").exists());
}

#[test]
fn skip_takes_the_pipeline_and_then_photos_as_edits_does() {
    let folder = folder();
    let folder = folder.path();
    let pipeline = "concept: star\ninputs: { photos: photos/ }\nstages: { crop: { images: photos } }\n";
    let file = folder.join("pipeline.yaml");
    fs::write(&file, pipeline).expect("written");
    let above = folder.parent().expect("it lies somewhere");
    let name = folder.file_name().and_then(|name| name.to_str()).expect("UTF-8");

    assert!(refused(above, &["skip", name]).contains("name it after the pipeline"));
    assert!(refused(folder, &["skip", "star-02", "."]).contains("`.`: the pipeline comes before the photos"));
    assert!(refused(folder, &["skip", "star-01", "star-03"]).contains("no photo is called `star-03`: did you mean"));
    assert_eq!(fs::read_to_string(&file).expect("a file"), pipeline, "all or nothing");

    let (code, _, stderr) = said(&loramill(above, &["skip", name, "star-00", "star-02"]));
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = said(&loramill(folder, &["skip", "star-01", "star-02"]));
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("`star-02` is skipped already"), "{stderr}");
    let text = fs::read_to_string(&file).expect("a file");
    assert!(text.contains("\nskip: [star-00, star-02, star-01]\ninputs:"), "{text}");
}

#[test]
fn the_page_of_a_kind_has_each_param_once() {
    for kind in loramill::stages::KINDS {
        let (code, page, _) = said(&loramill(Path::new("."), &["stages", kind.name]));
        assert_eq!(code, 0);
        let (params, _) = page.split_once("Every stage also takes").expect("the page has both parts");
        let mut heads: Vec<&str> = params.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        heads.retain(|line| !line.starts_with(' ') && line.ends_with(')') && line.contains("  ("));
        let count = heads.len();
        heads.sort_unstable();
        heads.dedup();
        assert_eq!(heads.len(), count, "{}: {page}", kind.name);
    }
}

#[cfg(feature = "nn")]
#[test]
fn the_help_names_every_command_of_the_readme() {
    let (_, help, _) = said(&loramill(Path::new("."), &["--help"]));
    for command in ["run", "do", "skip", "self-test", "bench", "fsck", "libtorch"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{command} "))), "{command}: {help}");
    }
}
