//! What a sound file becomes.

use std::fs;

use loramill::engine::graph::load::load;
use loramill::engine::graph::pipeline::{Pipeline, Producer};
use loramill::engine::graph::selection::{Selection, named};
use loramill::engine::graph::stage_id::StageId;
use loramill::engine::inputs::input::Found;
use loramill::engine::kind::reference::Selector;

use super::{FOLDER, kinds::KINDS, surroundings};

const SOUND: &str = "\
concept: star
inputs:
  photos: photos/
  base: model://base.safetensors
stages:
  sample: { base: merge, lora: [\"train@[20, 30]\", other@last], prompts: star }
  merge: { base: base, lora: train@20, default: false }
  train: { images: flip, base: base }
  other: { kind: train, images: crop, base: base }
  flip: { images: resize }
  crop: { images: photos }
  resize: { images: crop }
";

fn loaded(text: &str, settings: &[&str]) -> Pipeline {
    // Beside the photos and models.
    let file = tempfile::Builder::new().prefix(".sound").suffix(".pipeline").tempfile_in(FOLDER).expect("a file");
    fs::write(file.path(), text).expect("written");
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    load(file.path(), &settings, &surroundings(), KINDS)
        .map_err(|found| loramill::cli::terminal::render::problems(&found, false).to_string())
        .expect("a sound pipeline")
}

fn components(pipeline: &Pipeline, stage: &str) -> String {
    let stage = pipeline.stage(stage).expect("the stage");
    stage.stage.components().iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_stage_comes_after_those_it_reads_and_otherwise_in_the_order_of_the_file() {
    let pipeline = loaded(SOUND, &[]);
    let names: Vec<&str> = pipeline.stages.values().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["crop", "resize", "flip", "train/latents", "train", "merge", "other/latents", "other", "sample"]);
    for (id, stage) in pipeline.stages.iter() {
        for edge in &stage.edges {
            assert!(!matches!(edge.from, Producer::Stage(producer) if producer >= id), "{}", stage.name);
        }
    }
}

#[test]
fn what_a_file_leaves_out_has_its_default() {
    let pipeline = loaded(SOUND, &[]);
    assert_eq!((pipeline.concept.as_str(), pipeline.trigger.as_str(), pipeline.seed, pipeline.pick), ("star", "star", 42, None));
    assert!(pipeline.folder.ends_with(FOLDER), "{}", pipeline.folder.display());
    assert!(pipeline.remarks.is_empty(), "{:?}", pipeline.remarks);
    let Found::Photos { files, .. } = &pipeline.input("photos").expect("there").found else { panic!("photos") };
    assert_eq!(files.len(), 2);
    assert!(files[0].sidecar.is_some() && files[1].sidecar.is_none());
    assert!(
        matches!(&pipeline.input("base").expect("there").found, Found::File(path) if path.ends_with("models/base.safetensors"))
    );
}

#[test]
fn a_bare_run_builds_what_is_on_by_default_and_what_that_needs() {
    let names = |pipeline: &Pipeline| -> Vec<String> {
        pipeline.by_default().into_iter().map(|id| pipeline.stages[id].name.clone()).collect()
    };
    // `sample` draws with the merge, so the merge is needed although it is off by default.
    assert!(names(&loaded(SOUND, &[])).contains(&"merge".to_string()));
    let without = names(&loaded(SOUND, &["sample.base=base"]));
    assert!(!without.contains(&"merge".to_string()) && without.contains(&"sample".to_string()), "{without:?}");
    let only = names(&loaded(SOUND, &["sample.default=false", "train.default=false", "other.default=false"]));
    assert_eq!(only, ["crop", "resize", "flip"]);
}

#[test]
fn fields_pass_through_stages_that_map_items_and_end_at_others() {
    let pipeline = loaded(SOUND, &[]);
    let carries = |name: &str| pipeline.stage(name).expect("there").carries.clone();
    assert_eq!(carries("flip"), ["image", "photo", "sidecar"]);
    assert_eq!(carries("train"), ["lora"]);
    assert_eq!(carries("merge"), ["model"]);
    assert_eq!(carries("sample"), ["image"]);
}

#[test]
fn references_keep_their_param_and_selector() {
    let pipeline = loaded(SOUND, &[]);
    let sample = pipeline.stage("sample").expect("there");
    let uses: Vec<String> = sample.edges.iter().map(|edge| format!("{}={}", edge.reads.param, edge.reads.reference)).collect();
    assert_eq!(uses, ["base=merge", "lora[0]=train@[20, 30]", "lora[1]=other@last"]);
    assert_eq!(sample.edges[1].reads.reference.selector, Selector::Epochs(vec![20, 30]));
}

#[test]
fn settings_make_missing_keys_and_are_read_as_yaml() {
    let pipeline = loaded(
        SOUND,
        &["train.network.rank=16", "seed=7", "stages.train.epochs=0x10", "sample.prompts=[a, \"b, c\"]", "inputs.photos=one"],
    );
    assert_eq!(pipeline.seed, 7);
    let train = components(&pipeline, "train");
    assert!(train.contains("network.rank=16") && train.contains("epochs=16"), "{train}");
    assert_eq!(components(&pipeline, "sample"), r#"prompts=["a","b, c"]"#);
    assert_eq!(pipeline.settings.len(), 5);
    assert!(pipeline.remarks.iter().any(|remark| remark.contains("single photo")), "{:?}", pipeline.remarks);
    let pipeline = loaded(SOUND, &["sample.prompts=[a, b]", "sample.prompts[1]=${trigger}!", "trigger=ohwx"]);
    assert_eq!(components(&pipeline, "sample"), r#"prompts=["a","ohwx!"]"#);
}

#[test]
fn a_variable_keeps_its_type_and_stands_inside_text() {
    let text = "\
concept: star
trigger: ohwx ${concept}
env: SIZE
vars:
  epochs: 12
  rate: 1e-4
  network: { rank: 4 }
  words: \"at ${rate}, ${epochs} of $${epochs}\"
inputs: { photos: photos, base: models/base.safetensors }
stages:
  resize: { images: photos, size: \"${env.SIZE}\" }
  train:
    images: resize
    base: base
    epochs: ${epochs}
    learning_rate: ${rate}
    network: ${network}
    instance_prompt: ${trigger} ${words}
";
    let pipeline = loaded(text, &["vars.epochs=13"]);
    assert_eq!(pipeline.trigger, "ohwx star");
    assert_eq!(components(&pipeline, "resize"), r#"mode="crop" size=64"#);
    let train = components(&pipeline, "train");
    for part in
        ["epochs=13", "learning_rate=0.0001", "network.rank=4", r#"instance_prompt="ohwx star at 0.0001, 13 of ${epochs}""#]
    {
        assert!(train.contains(part), "{part}: {train}");
    }
}

#[test]
fn a_model_from_outside_that_is_not_here_is_no_error_of_the_file() {
    let pipeline = loaded(SOUND, &["inputs.base=model://sd-v1-5.ckpt"]);
    assert!(matches!(&pipeline.input("base").expect("there").found, Found::Absent(places) if places.len() == 1));
    let pipeline = loaded(SOUND, &["inputs.base=hf://org/repo/unet/model.safetensors@main"]);
    assert!(matches!(&pipeline.input("base").expect("there").found, Found::Absent(_)));
    let pipeline = loaded(SOUND, &["inputs.base=model://a/vae.pt"]);
    assert!(matches!(&pipeline.input("base").expect("there").found, Found::File(path) if path.ends_with("a/vae.pt")));
}

#[test]
fn a_file_of_the_hub_is_found_by_branch_and_by_commit() {
    let hub = tempfile::tempdir().expect("a folder");
    let repository = hub.path().join("models--org--repo");
    fs::create_dir_all(repository.join("snapshots/abc/unet")).expect("made");
    fs::create_dir_all(repository.join("refs")).expect("made");
    fs::write(repository.join("refs/main"), "abc").expect("written");
    fs::write(repository.join("snapshots/abc/unet/model.safetensors"), "x").expect("written");
    let file = tempfile::Builder::new().prefix(".sound").suffix(".pipeline").tempfile_in(FOLDER).expect("a file");
    fs::write(file.path(), SOUND).expect("written");
    let surroundings = loramill::engine::inputs::sources::Surroundings { hub: Some(hub.path().to_path_buf()), ..surroundings() };
    for revision in ["main", "abc"] {
        let setting = format!("inputs.base=hf://org/repo/unet/model.safetensors@{revision}");
        let Ok(pipeline) = load(file.path(), &[setting], &surroundings, KINDS) else { panic!("a sound pipeline") };
        assert!(
            matches!(&pipeline.input("base").expect("there").found, Found::File(path) if path.ends_with("abc/unet/model.safetensors"))
        );
    }
}

#[test]
fn patterns_of_skip_do_not_cross_folders_and_idle_ones_are_said() {
    let pipeline = loaded(SOUND, &["skip=[IMG_1, \"no/*\"]"]);
    assert!(pipeline.skip.takes("IMG_1") && pipeline.skip.takes("no/where"));
    assert!(!pipeline.skip.takes("IMG_10") && !pipeline.skip.takes("no/where/x") && !pipeline.skip.takes("a/IMG_1"));
    assert_eq!(pipeline.remarks.len(), 2, "one of the two photos is left: {:?}", pipeline.remarks);
    assert_eq!(pipeline.remarks[1], "`skip: no/*` matches no photo");
}

#[test]
fn a_sub_stage_has_the_variants_of_its_stage_and_runs_with_it() {
    let pipeline = loaded(SOUND, &["train.matrix.network.rank=[4, 8]", "merge.lora=\"train[rank=4]@20\""]);
    let train = pipeline.stage("train[rank=8]").expect("a variant");
    assert!(train.edges.iter().any(|edge| edge.reads.reference.name == "train[rank=8]/latents"));
    assert!(components(&pipeline, "train[rank=8]").contains("network.rank=8"));
    let names = |stages: Vec<StageId>| -> Vec<&str> { stages.into_iter().map(|s| pipeline.stages[s].name.as_str()).collect() };
    assert_eq!(names(named(&pipeline, "train/latents[rank=4]")), ["train[rank=4]/latents"]);
    assert_eq!(names(named(&pipeline, "sample[network.rank=8]")), ["sample[rank=8]"]);
    assert_eq!(names(named(&pipeline, "sample")), ["sample[rank=4]", "sample[rank=8]"]);
    let mut selection = Selection::default();
    selection.leave_out_all_but(&pipeline, named(&pipeline, "train[rank=8]"));
    let only = selection.only.expect("some are left out");
    assert_eq!(names(only.into_iter().collect()), ["train[rank=8]/latents", "train[rank=8]"]);
}
