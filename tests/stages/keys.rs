//! The keys of every kind, for fixed params and inputs, beside what they were: whoever has a cache keeps its results. `keys/NAME.yaml` is a
//! pipeline, `keys/NAME.txt` what its stages read, with every entry of their keys. `LORAMILL_BLESS=1` writes the texts anew, which is right only
//! where a version was raised.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use loramill::engine::cache::digest::Digest;
use loramill::engine::cache::manifest::{ComponentList, Covers, KeyHash, Purpose, Rendering as _, Section};
use loramill::engine::decide::keys::{KeyedInput, StageIdentity, members, render_inputs, render_work};
use loramill::engine::graph::load::load;
use loramill::engine::graph::pipeline::LoadedStage;
use loramill::engine::inputs::sources::Surroundings;
use loramill::engine::kind::input_use::{InputShape, InputUse};
use loramill::engine::kind::item::Item;
use loramill::engine::kind::stage::{Form, Work};
use loramill::stages::KINDS;

use super::{Shelf, resolved};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stages/keys");

/// What the pipelines read. Nothing is opened but the boxes and the captions.
const FILES: [&str; 9] = [
    "images/IMG_1.png",
    "images/IMG_2.png",
    "crops.yaml",
    "base.safetensors",
    "vae.safetensors",
    "tuned.safetensors",
    "star.safetensors",
    "peft/adapter_model.safetensors",
    "peft/adapter_config.json",
];

#[test]
fn the_keys_of_pictures_and_model_files_stay() {
    check("pictures");
    check("models");
}

#[cfg(feature = "nn")]
#[test]
fn the_keys_of_what_networks_make_stay() {
    check("networks");
}

fn check(name: &str) {
    let said = told(&fs::read_to_string(Path::new(FOLDER).join(format!("{name}.yaml"))).unwrap());
    let beside = Path::new(FOLDER).join(format!("{name}.txt"));
    let expected = fs::read_to_string(&beside).unwrap_or_default();
    if said != expected && std::env::var_os("LORAMILL_BLESS").is_some() {
        fs::write(&beside, &said).unwrap();
    }
    assert_eq!(said, expected, "{name}");
}

/// Of each stage of a pipeline what it is, what it reads, and its keys.
fn told(pipeline: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    for file in FILES {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    let file = folder.path().join("pipeline.yaml");
    fs::write(&file, pipeline).unwrap();
    let surroundings = Surroundings { models: Vec::new(), hub: None, environment: Box::new(|_| None) };
    let pipeline = load(&file, &[], &surroundings, KINDS).unwrap_or_else(|problems| panic!("{problems:?}"));
    let mut stages: Vec<&LoadedStage> = pipeline.stages.values().collect();
    stages.sort_by_key(|stage| &stage.name);
    stages.into_iter().map(told_of).collect::<Vec<_>>().join("\n")
}

fn told_of(stage: &LoadedStage) -> String {
    let identity = StageIdentity::of(stage);
    let uses: Vec<&InputUse> = stage.edges.iter().map(|edge| &edge.reads).collect();
    let kept = if stage.keep { "kept" } else { "not kept" };
    let mut text = format!("{}: {kept}, items carry {}\n", stage.name, stage.carries.join(" "));
    write_entries(&mut text, "", |list| identity.render(list));
    write_entries(&mut text, "", |list| identity.render_finish(list));
    write_entries(&mut text, "written ", |list| {
        stage.written.iter().for_each(|(name, value)| list.entry(Section::Value, name, Covers::Value(value)));
    });
    for InputUse { param, reference, reads, shape } in &uses {
        let _ = writeln!(text, "  reads {param}, {shape:?} of `{reference}`: {}", reads.join(" "));
    }
    let shelf = Shelf::default();
    let inputs: Vec<Vec<Item>> = uses.iter().map(|reads| items(&shelf, reads)).collect();
    match stage.stage.form() {
        Form::Items(form) => {
            let inputs = resolved(uses.iter().map(|reads| reads.param.clone()).zip(inputs));
            form.expand(&inputs, &shelf).unwrap().iter().for_each(|work| write_work(&mut text, &identity, work));
        }
        Form::Whole(form) => write_whole(&mut text, &identity, form.horizon_components(), &uses, &inputs),
    }
    text
}

fn write_entries(text: &mut String, before: &str, render: impl FnOnce(&mut ComponentList)) {
    let mut list = ComponentList::default();
    render(&mut list);
    for (name, value) in list.to_record() {
        let _ = writeln!(text, "  {before}{name}: {value}");
    }
}

fn write_work(text: &mut String, identity: &StageIdentity, work: &Work) {
    let mut hash = identity.work_hash();
    render_work(work, &mut hash);
    let _ = writeln!(text, "  work `{}`: {}", work.name, hash.key());
    write_entries(text, "  ", |list| render_work(work, list));
}

fn write_whole(text: &mut String, identity: &StageIdentity, horizon: &[&str], uses: &[&InputUse], inputs: &[Vec<Item>]) {
    let keyed = |(reads, items): (&&InputUse, &Vec<Item>)| (reads.param.clone(), members(items, reads.reads), items.len());
    let keyed: Vec<(String, Digest, usize)> = uses.iter().zip(inputs).map(keyed).collect();
    let keyed: Vec<KeyedInput<'_>> = keyed
        .iter()
        .map(|(param, members, count)| KeyedInput { param, members: *members, count: *count, tree: *members })
        .collect();
    let key = |purpose, without: &[&str]| {
        let mut hash = KeyHash::new(purpose);
        identity.render_without(without, &mut hash);
        render_inputs(&keyed, &mut hash);
        hash.key()
    };
    let _ = writeln!(text, "  whole: {}", key(Purpose::Stage, &[]));
    let _ = writeln!(text, "  state, whatever {} are: {}", horizon.join(" "), key(Purpose::State, horizon));
}

/// Items of fixed contents for an input: two where several may come, of pictures one as the photo came and one that a stage made.
fn items(shelf: &Shelf, InputUse { param, reads, shape, .. }: &InputUse) -> Vec<Item> {
    let is_further_lora = param.starts_with("lora[") && param != "lora[0]";
    let names: &[&str] = if *shape == InputShape::One || is_further_lora { &["one"] } else { &["IMG_1", "IMG_2"] };
    let item = |name: &&str| {
        let content = |field: &str| match (param.as_str(), field) {
            ("boxes", _) => "IMG_1: [0, 0, 10, 10]\n".to_string(),
            (_, "photo") if *name == "IMG_1" => format!("{param} {name} image"),
            _ => format!("{param} {name} {field}"),
        };
        let mut item = shelf.item(name, []);
        let fields = reads.iter().chain(reads.contains(&"image").then_some(&"photo"));
        item.fields.extend(fields.map(|field| (*field, shelf.put(content(field).into_bytes(), "bin"))));
        let epoch = if *name == "IMG_1" { "20" } else { "10" };
        item.attributes.extend(reads.contains(&"lora").then(|| ("epoch".to_string(), epoch.to_string())));
        item
    };
    names.iter().map(item).collect()
}
