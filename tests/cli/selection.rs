//! `run`, `plan` and their like when the user says which stages, items and variants are meant.

use std::fs;
use std::path::Path;

use super::{loramill, said};

const PIPELINE: &str = "\
concept: star
inputs: { photos: images/ }
stages:
  crop: { images: photos }
  resize: { images: crop, matrix: { size: [16, 32] } }
  flip: { images: resize }
";

/// A pipeline with three of the example's photos.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("pipeline.yaml"), PIPELINE).expect("written");
    fs::create_dir(folder.path().join("images")).expect("made");
    for name in ["star-00.jpg", "star-01.png", "star-02.png"] {
        let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images").join(name);
        fs::copy(photo, folder.path().join("images").join(name)).expect("copied");
    }
    folder
}

/// Runs a command that goes well, and gives what it prints.
fn printed(folder: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = said(&loramill(folder, arguments));
    assert_eq!(code, 0, "{arguments:?}: {stdout}{stderr}");
    format!("{stdout}{stderr}")
}

/// What a command says that is used wrongly.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = said(&loramill(folder, arguments));
    assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
    stderr
}

#[test]
fn every_command_speaks_of_variants() {
    let folder = folder();
    let folder = folder.path();
    assert_eq!(printed(folder, &["check"]), "pipeline.yaml: 3 stages, 5 with all variants, 3 photos, fine\n");
    let graph = printed(folder, &["graph"]);
    assert!(
        graph.contains("  resize[size=16]  \u{2190} crop\n") && graph.contains("  flip[size=32]    \u{2190} resize[size=32]\n"),
        "{graph}"
    );
    printed(folder, &["run"]);
    for size in [16, 32] {
        let picture = image::open(folder.join(format!("out/flip/size={size}/star-01-flip.png"))).expect("a picture");
        assert_eq!(picture.width(), size);
    }
    let lock = fs::read_to_string(folder.join("pipeline.lock")).expect("a lock");
    assert!(lock.contains("\nstage resize[size=16] key="), "{lock}");
    assert!(printed(folder, &["status"]).contains("    fresh resize[size=32]  3 items\n"));
    let plan = printed(folder, &["plan", "--json", "resize[size=32]"]);
    assert!(plan.contains("\"resize[size=32]\"") && !plan.contains("size=16"), "{plan}");
    assert!(printed(folder, &["explain", "resize[size=32]/star-01"]).starts_with("resize[size=32]/star-01 is fresh\n"));
    let several = refused(folder, &["explain", "resize"]);
    assert_eq!(several, "error: `resize` has 2 variants: name one, such as `resize[size=16]`\n");
    let unknown = refused(folder, &["plan", "resize[size=64]"]);
    assert!(unknown.contains("there is no stage `resize[size=64]`: did you mean `resize[size="), "{unknown}");
}

#[test]
fn a_forced_variant_and_forced_items_run_alone() {
    let folder = folder();
    let folder = folder.path();
    printed(folder, &["run"]);
    let forced = printed(folder, &["plan", "--force", "resize[size=16]"]);
    assert!(forced.contains("would run resize[size=16]  3 items: forced\n"), "{forced}");
    assert!(forced.contains("    fresh resize[size=32]"), "{forced}");
    let items = printed(folder, &["run", "--force", "resize[size=16]=*-01", "--progress", "plain"]);
    assert!(items.contains("resize[size=16] (1 of 3 items)") && items.contains("output unchanged"), "{items}");
    let all = printed(folder, &["plan", "--force", "resize"]);
    assert_eq!(all.matches("3 items: forced").count(), 2, "{all}");
    let (code, _, stderr) = said(&loramill(folder, &["run", "--force", "crop=nothing"]));
    assert!(code == 1 && stderr.contains("`nothing` matches none of its items, such as `star-00`"), "{stderr}");
    assert!(refused(folder, &["plan", "--force", "crop=["]).contains("`[` is not a pattern"));
}

#[test]
fn from_to_and_only_say_where_a_run_begins_and_ends() {
    let folder = folder();
    let folder = folder.path();
    printed(folder, &["run", "--to", "resize[size=16]", "--quiet"]);
    assert!(folder.join("out/resize/size=16").exists() && !folder.join("out/resize/size=32").exists());
    printed(folder, &["run", "--quiet"]);
    let another = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images/star-07.png");
    fs::copy(another, folder.join("images/star-01.png")).expect("copied");
    let whole = printed(folder, &["plan"]);
    assert!(whole.contains("would run crop             1 of 3 items: 1 of 3 images changed: star-01\n"), "{whole}");
    for selection in [["--from", "resize"], ["--only", "flip"]] {
        let plan = printed(folder, &["plan", selection[0], selection[1], "--exit-code"]);
        let kept = " as it is crop             3 items, left out; 1 of 3 images changed: star-01\n";
        assert!(plan.contains(kept) && !plan.contains("would run"), "{selection:?}: {plan}");
        let run = printed(folder, &["run", selection[0], selection[1]]);
        assert!(run.contains("Cached crop (3 items): left as it was; 1 of 3 images changed: star-01"), "{run}");
    }
    let between = printed(folder, &["plan", "--from", "crop", "--to", "resize[size=32]"]);
    assert!(between.contains("would run crop") && !between.contains("flip") && !between.contains("size=16"), "{between}");
    assert!(refused(folder, &["run", "--from", "flip", "--to", "crop"]).contains("`crop` does not read `flip[size=16]`"));
    assert!(refused(folder, &["run", "--only", "flip", "crop"]).contains("name no others"));
    assert!(refused(folder, &["run", "--only", "flip", "--force", "crop"]).contains("`crop` is forced, and"));
    assert!(refused(folder, &["run", "--only", "flip", "--from", "crop"]).contains("cannot be used with"));
    assert!(refused(folder, &["run", "--from", "filp"]).contains("did you mean `flip`?"));
}

#[test]
fn the_reference_has_the_keys_of_every_stage() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = printed(folder.path(), &["stages", "resize"]);
    for key in [
        "\nEvery stage also takes:\n",
        "\n  default: true  (true or false)\n",
        "\n  matrix  (a mapping; optional)\n",
        "\n  retry: 0  (a whole number)\n",
        "\n  keep: true  (true or false)\n",
    ] {
        assert!(page.contains(key), "{key}: {page}");
    }
    let page = printed(folder.path(), &["stages", "merge"]);
    assert!(page.contains("\n  keep: false  (true or false)\n"), "{page}");
    let schema: serde_json::Value = serde_json::from_str(&printed(folder.path(), &["stages", "--schema"])).expect("JSON");
    let resize = &schema["definitions"]["resize"]["properties"];
    assert_eq!(resize["matrix"]["anyOf"][0]["type"], "object");
    assert_eq!(resize["limit"]["anyOf"][0]["maximum"], 10_000);
}

#[test]
fn do_and_restore_and_run_agree_on_what_is_not_kept() {
    let folder = folder();
    let folder = folder.path();
    let unkept = PIPELINE.replace("crop: { images: photos }", "crop: { images: photos, keep: false }");
    fs::write(folder.join("pipeline.yaml"), unkept).expect("written");
    let first = printed(folder, &["run"]);
    assert!(first.contains("evicted 3 images") && first.contains("; out/crop has them still"), "{first}");
    assert!(printed(folder, &["run"]).contains("nothing to do"));
    // A pipeline that passes evicts nothing: its outputs are wanted somewhere else.
    for made in ["made", "more"] {
        let done = printed(folder, &["do", "crop", "images=images", "keep=false", "-o", made]);
        assert!(done.contains("3 files") && !done.contains("evicted"), "{done}");
        assert!(folder.join(made).join("star-01.png").exists());
    }
    assert!(printed(folder, &["run"]).contains("evicted 3 images"));
    fs::remove_dir_all(folder.join("out/crop")).expect("removed");
    let restored = printed(folder, &["restore"]);
    assert!(restored.contains("crop: 3 items not kept"), "{restored}");
    assert!(printed(folder, &["fsck"]).contains("all is well"), "nothing counts as lost");
}

#[cfg(feature = "nn")]
#[test]
fn a_device_that_is_not_there_is_told_before_anything_runs() {
    let folder = folder();
    for (device, told) in [("cude:0", "unknown device `cude:0`"), ("libtorch:99", "`libtorch:99`")] {
        let stderr = refused(folder.path(), &["run", "--device", device]);
        assert!(stderr.contains(told), "{stderr}");
        assert!(!folder.path().join("out").exists() && !folder.path().join("pipeline.lock").exists());
    }
}

#[cfg(feature = "nn")]
#[test]
fn a_run_says_once_on_which_device_networks_run() {
    let folder = crate::example::example();
    let by = if cfg!(feature = "libtorch") { "`libtorch:cpu`: libtorch at `" } else { "`cpu`: the embedded CPU backend" };
    let told = |arguments: &[&str]| {
        let (code, _, stderr) = said(&loramill(folder.path(), arguments));
        assert_eq!(code, 0, "{stderr}");
        stderr.lines().filter(|line| line.contains("networks run on ")).map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told(&["run", ".", "resize"]), [""; 0], "no network is opened");
    let encoded = told(&["do", "latents", "images=out/resize/", "base=models/tiny-sd.safetensors", "-o", "latents"]);
    assert!(encoded.len() == 1 && encoded[0].contains(by), "{encoded:?}");
}
