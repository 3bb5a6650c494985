//! `loramill explain` as a person types it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use loramill::sd::checkpoint::safetensors;
use loramill::sd::checkpoint::tensor::TensorData;
use serde_json::Value;

use super::{loramill, said};

const PIPELINE: &str = "\
concept: star
inputs: { photos: images/ }
stages:
  crop: { images: photos }
  resize: { images: crop, size: 32 }
  small: { kind: resize, images: crop, matrix: { size: [8, 16] } }
  caption: { images: resize, model: sidecar }
  flip: { images: resize }
";

/// A pipeline with three of the example's photos, of which everything was made.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("pipeline.yaml"), PIPELINE).expect("written");
    fs::create_dir(folder.path().join("images")).expect("made");
    for name in ["star-00.jpg", "star-01.png", "star-02.png", "star-00.txt", "star-01.txt", "star-02.txt"] {
        let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images").join(name);
        fs::copy(photo, folder.path().join("images").join(name)).expect("copied");
    }
    explained(folder.path(), &["run", "-q"]);
    folder
}

/// Runs a command that goes well, and gives what it prints.
fn explained(folder: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = said(&loramill(folder, arguments));
    assert_eq!(code, 0, "{arguments:?}: {stdout}{stderr}");
    stdout
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&explained(folder, arguments)).expect("JSON")
}

/// A LoRA of one module, as kohya's programs write them.
fn lora(path: &Path, metadata: &[(&str, &str)]) {
    let name = |end: &str| format!("lora_unet_mid_block_attentions_0_proj_in.{end}");
    let tensors = BTreeMap::from([
        (name("lora_down.weight"), TensorData::from_f32(&[4, 8], &[0.5; 32])),
        (name("lora_up.weight"), TensorData::from_f32(&[8, 4], &[0.5; 32])),
        (name("alpha"), TensorData::from_f32(&[], &[2.0])),
    ]);
    let metadata = metadata.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    fs::write(path, safetensors::to_bytes(&tensors, &metadata).expect("bytes")).expect("written");
}

#[test]
fn an_output_says_what_made_it_also_when_it_lies_elsewhere_under_another_name() {
    let folder = folder();
    let folder = folder.path();
    let shown = explained(folder, &["explain", "out/resize/star-00.png"]);
    for line in [
        "out/resize/star-00.png\n  image of `resize`, item star-00; ",
        "\n  current: `resize` gives the same now\n  made by `resize`, version 1, just now\n    mode  \"crop\"\n    size  [32,32]\n",
        "    from image: star-00 (",
        "made by `crop`, version 2\n      aspect: \"1:1\", background: \"#ffffff\", focus: \"center\"\n      from image: images/star-00.jpg (",
        "), read from disk as `photos`\n",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(
        explained(folder, &["explain", "out/small/size=16/star-01.png"]).contains("image of `small[size=16]`, item star-01; ")
    );
    let elsewhere = tempfile::tempdir().expect("a folder");
    let copy = elsewhere.path().join("a copy");
    fs::copy(folder.join("out/resize/star-00.png"), &copy).expect("copied");
    let copy = copy.to_str().expect("UTF-8");
    let known = json(folder, &["explain", copy, "--json"]);
    assert_eq!((&known["output"]["stage"], &known["output"]["item"]), (&Value::from("resize"), &Value::from("star-00")));
    assert_eq!(known["standing"]["state"], "current");
    assert_eq!(known["origin"]["reads"][0]["from"][0]["kind"], "crop");

    // From another folder, with no more than the cache.
    let cache = folder.join("cache");
    let shown = explained(elsewhere.path(), &["explain", copy, "--cache", cache.to_str().expect("UTF-8")]);
    assert!(shown.contains("made by a `resize` stage, version 1") && shown.contains("size  [32,32]"), "{shown}");
    // As an object.
    let hex = known["digest"].as_str().expect("hex digits");
    let object = cache.join("objects").join(&hex[..2]).join(&hex[2..]);
    let shown = explained(folder, &["explain", object.to_str().expect("UTF-8")]);
    assert!(shown.contains("image of `resize`, item star-00; "), "{shown}");
}

#[test]
fn a_stale_output_and_its_stage_say_who_changed_what() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("pipeline.yaml"), PIPELINE.replace("size: 32", "size: 24")).expect("written");
    fs::copy(folder.join("images/star-02.png"), folder.join("images/star-01.png")).expect("copied");
    let shown = explained(folder, &["explain", "resize"]);
    assert!(
        shown.starts_with("resize would run: `size` changed from [32,32] to [24,24]; 1 of 3 images changed: star-01\n"),
        "{shown}"
    );
    assert!(shown.contains("\n  you: `size` changed from [32,32] to [24,24] (`pipeline.yaml:5`)\n"), "{shown}");
    assert!(shown.contains("you: `images/star-01.png`: "), "{shown}");
    assert!(shown.contains("\n  * size              [32,32] -> [24,24]\n"), "{shown}");
    let shown = explained(folder, &["explain", "flip"]);
    assert!(shown.contains("\n  upstream: `resize` has to run first\n    you: `size` changed"), "{shown}");
    assert!(explained(folder, &["explain", "caption"]).starts_with("caption is fresh\nits key covers\n"), "it reads no picture");
    for item in [&["explain", "resize/star-00"][..], &["explain", "resize", "star-00"], &["explain", ".", "resize/star-00"]] {
        assert!(
            explained(folder, item).starts_with("resize/star-00 would run: `size` changed from [32,32] to [24,24]\n"),
            "{item:?}"
        );
    }
    let shown = explained(folder, &["explain", "out/resize/star-00.png"]);
    assert!(shown.contains("\n  stale: `resize` would make it again\n    you: `size` changed"), "{shown}");
    let stage = json(folder, &["explain", "resize", "--json"]);
    assert_eq!((&stage["state"], &stage["causes"][0]["who"]), (&Value::from("dirty"), &Value::from("you")));
    assert_eq!((&stage["causes"][0]["old"][0], &stage["causes"][0]["new"][0]), (&Value::from(32), &Value::from(24)));
    assert!(stage["key"].as_array().expect("rows").iter().any(|row| row["name"] == "size" && row["changed"] == true));
}

#[test]
fn a_caption_says_whose_it_is() {
    let folder = folder();
    let folder = folder.path();
    assert!(explained(folder, &["explain", "captions/star-00.txt"]).contains("current: `caption` gives the same now"));
    fs::write(folder.join("captions/star-00.txt"), "mine\n").expect("written");
    let shown = explained(folder, &["explain", "captions/star-00.txt"]);
    assert!(shown.contains("yours: edited by hand") && shown.contains("\n  the machine says: "), "{shown}");
    let shown = explained(folder, &["explain", "caption/star-00"]);
    assert!(shown.starts_with("caption/star-00 is yours: `captions/star-00.txt`, and the machine is not asked\n"), "{shown}");
    fs::write(folder.join("out/resize/star-01.png"), "scribbled").expect("written");
    assert!(
        explained(folder, &["explain", "out/resize/star-01.png"]).contains("\n  edited by hand: the next run moves your version")
    );
}

#[test]
fn a_lora_of_others_says_of_itself_what_made_it_and_no_cache_is_made_for_that() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let tags = r#"{"10_cat": {"cat": 20, "sitting": 3}}"#;
    let metadata = [("ss_sd_model_name", "v1-5.safetensors"), ("ss_num_epochs", "10"), ("ss_tag_frequency", tags)];
    lora(&folder.join("cat.safetensors"), &metadata);
    let shown = explained(folder, &["explain", "cat.safetensors"]);
    let expected = "\
cat.safetensors
  no record of it is here; this is what it says of itself
  a LoRA for 1 module of the UNet
  base    v1-5.safetensors
  epochs  10
  rank    4
  alpha   2
  tags: cat 20, sitting 3
  not said: epoch, steps, rate, resolution, trigger
";
    assert_eq!(shown, expected);
    let known = json(folder, &["explain", "cat.safetensors", "--json"]);
    assert_eq!((&known["says"]["model"]["kind"], &known["says"]["tags"][0][1]), (&Value::from("lora"), &Value::from(20)));
    assert!(!folder.join("cache").exists());
}

#[test]
fn what_is_neither_made_here_nor_a_model_is_an_error_that_says_so() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("notes.md"), "nothing").expect("written");
    let (code, _, stderr) = said(&loramill(folder, &["explain", "notes.md"]));
    assert!(code == 1 && stderr.contains("nothing is known of `notes.md`") && stderr.contains("--cache DIR"), "{stderr}");
    fs::write(folder.join("cut.safetensors"), "short").expect("written");
    let (code, _, stderr) = said(&loramill(folder, &["explain", "cut.safetensors"]));
    assert!(code == 1 && stderr.contains("reading the model file `cut.safetensors`"), "{stderr}");
    let (code, _, stderr) = said(&loramill(folder, &["explain", "out/resize/nothing.png"]));
    assert!(code == 2 && stderr.contains("there is no file `out/resize/nothing.png`"), "{stderr}");
    let (code, _, stderr) = said(&loramill(folder, &["explain", "resiez"]));
    assert!(code == 2 && stderr.contains("did you mean `resize`?") && !stderr.contains("no file"), "{stderr}");
    assert_eq!(said(&loramill(folder, &["explain", "."])).0, 2);

    // What made a file can be told while the pipeline file is broken.
    fs::write(folder.join("pipeline.yaml"), "stages: [").expect("written");
    let (code, stdout, stderr) = said(&loramill(folder, &["explain", "out/resize/star-00.png"]));
    assert!(code == 0 && stdout.contains("made by a `resize` stage") && stderr.contains("cannot be read"), "{stdout}{stderr}");
}
