//! sample, with the model of examples/tiny.

use std::collections::BTreeMap;
use std::path::Path;

use loramill::engine::cache::digest::Digest;
use loramill::engine::kind::item::{Artifact, Fields, Item};
use loramill::engine::kind::stage::{Form, Resolved, Work};
use loramill::sd::data::{decode, png_text};
use loramill::sd::diffusion::infotext::Infotext;
use loramill::stages::sample;

use super::{Shelf, expand, load, resolved, run};

fn artifact(name: &str) -> Artifact {
    Artifact { digest: Digest::of(name.as_bytes()), size: 1, extension: "safetensors".into() }
}

fn checkpoint(shelf: &Shelf, epoch: u64) -> Item {
    let name = format!("checkpoint-{epoch}");
    let attributes = BTreeMap::from([("epoch".to_string(), epoch.to_string()), ("step".to_string(), (epoch * 94).to_string())]);
    Item { attributes, ..shelf.item(&name, [("lora", artifact(&name))]) }
}

/// A base that is never opened, and two checkpoints whose names are in another order than their epochs.
fn inputs(shelf: &Shelf) -> Resolved {
    let checkpoints = vec![checkpoint(shelf, 100), checkpoint(shelf, 20)];
    resolved([("base", vec![shelf.item("base", [("model", artifact("base"))])]), ("lora[0]", checkpoints)])
}

fn works(yaml: &str) -> Vec<Work> {
    let shelf = Shelf::default();
    let stage = load(&sample::KIND, yaml).unwrap();
    assert!(stage.components().is_empty());
    expand(&*stage, &inputs(&shelf), &shelf).unwrap()
}

fn names(works: &[Work]) -> Vec<&str> {
    works.iter().map(|work| work.name.as_str()).collect()
}

/// What decides a picture: the rest of its key is the kind.
fn decided_by(work: &Work) -> String {
    format!("{:?} {:?}", work.values, work.inputs)
}

#[test]
fn the_base_comes_first_and_then_each_checkpoint_by_epoch() {
    let works = works("{ base: base, lora: train, prompts: [a cat, a dog] }");
    let expected =
        ["base/p1-s420420", "base/p2-s420420", "e020/p1-s420420", "e020/p2-s420420", "e100/p1-s420420", "e100/p2-s420420"];
    assert_eq!(names(&works), expected);
    assert!(works[0].inputs.keys().eq(["base"]) && works[2].inputs.keys().eq(["base", "lora[0]"]));
    assert_eq!(works[2].attributes["epoch"], "20");
}

#[test]
fn one_prompt_or_seed_more_changes_no_other_picture() {
    let keys = |yaml: &str| works(yaml).iter().map(decided_by).collect::<Vec<_>>();
    let before = keys("{ base: base, lora: train, prompts: [a cat] }");
    for more in [
        "{ base: base, lora: train, prompts: [a dog, a cat] }",
        "{ base: base, lora: train, prompts: [a cat], seeds: [1, 420420] }",
    ] {
        let after = keys(more);
        assert_eq!(after.len(), 2 * before.len());
        assert!(before.iter().all(|key| after.contains(key)), "{more}");
    }
    let strength = keys("{ base: base, lora: train, prompts: [a cat], strengths: [0.5] }");
    assert_eq!(strength[0], before[0], "the base knows no strength");
    assert!(strength[1..].iter().all(|key| !before.contains(key)));
}

#[test]
fn a_prompts_own_settings_win() {
    let works = works(
        "{ base: base, lora: { from: train, strength: 0.5 }, steps: 30, negative: blurry, prompts: [{ text: a cat, seed: [1, 2], steps: 10, size: [64, 128], strength: [1, 0.8] }, a dog] }",
    );
    let expected = [
        "base/p1-s1",
        "base/p1-s2",
        "base/p2-s420420",
        "e020/p1-s1-w1",
        "e020/p1-s1-w0.8",
        "e020/p1-s2-w1",
        "e020/p1-s2-w0.8",
        "e020/p2-s420420",
    ];
    assert_eq!(names(&works)[..8], expected);
    let value = |work: &Work, name: &str| work.values[name].to_string();
    assert_eq!(
        (value(&works[4], "steps"), value(&works[4], "size"), value(&works[4], "strengths")),
        ("10".into(), "[64,128]".into(), "[0.4]".into())
    );
    assert_eq!(
        (value(&works[7], "steps"), value(&works[7], "size"), value(&works[7], "strengths")),
        ("30".into(), "[512,512]".into(), "[0.5]".into())
    );
    assert_eq!(value(&works[4], "negative"), "\"blurry\"");
}

#[test]
fn filewords_are_the_first_caption_as_plain_text() {
    let shelf = Shelf::default();
    let stage = load(&sample::KIND, "{ base: base, images: photos, prompts: ['star, [filewords]'] }").unwrap();
    let captioned = |name: &str, text: &str| shelf.item(name, [("caption", shelf.put(text.into(), "txt"))]);
    let mut inputs = inputs(&shelf);
    inputs.inputs.insert("images".into(), vec![captioned("a", "a man (shrug)\n"), captioned("b", "a dog")].into());
    let works = expand(&*stage, &inputs, &shelf).unwrap();
    assert_eq!(works[0].values["prompt"], "star, a man \\(shrug\\)");
}

#[test]
fn every_problem_of_the_params_is_reported() {
    let yaml = "{ base: base, prompts: ['[filewords]', 'a AND b'], steps: 0 }";
    let Err(problems) = load(&sample::KIND, yaml) else { panic!("it should not load") };
    assert!(problems.iter().any(|problem| problem.message.contains("AND")), "{problems:?}");
    let yaml = "{ base: base, prompts: ['[filewords]', { text: a, size: 65, steps: 501 }], sampler: ddim, steps: 0, seeds: [4294967296], clip_skip: 0, negative: '<lora:a:1>' }";
    let Err(problems) = load(&sample::KIND, yaml) else { panic!("it should not load") };
    for word in ["[filewords]", "65x65", "501 steps", "0 steps", "4294967296", "clip_skip", "<lora:a:1>"] {
        assert!(problems.iter().any(|problem| problem.message.contains(word)), "{word}: {problems:?}");
    }
}

#[test]
fn a_prompt_of_filewords_without_its_quotes_says_which_are_missing() {
    let Err(problems) = load(&sample::KIND, "{ base: base, images: photos, prompts: [filewords] }") else {
        panic!("it should not load")
    };
    let hint = problems[0].hint.as_deref().unwrap_or_default();
    assert!(problems.len() == 1 && hint.contains("\"[filewords]\" with its quotes"), "{problems:?}");
}

#[test]
fn pictures_carry_their_settings_and_come_out_the_same_again() {
    let shelf = Shelf::default();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/models/tiny-sd.safetensors");
    let base = shelf.put(std::fs::read(model).unwrap(), "safetensors");
    let inputs = resolved([("base", vec![shelf.item("base", [("model", base)])])]);
    let yaml = "{ base: base, size: 64, steps: 3, guidance: 5, prompts: [a large red circle, { text: (a small):1.2 blue ring, negative: 'red, large' }], seeds: [1, 2] }";
    let stage = load(&sample::KIND, yaml).unwrap();
    let outputs = run(&*stage, &inputs, &shelf).unwrap();
    assert_eq!(outputs.len(), 4);
    let again = run(&*stage, &inputs, &shelf).unwrap();
    let images = |items: &[Item]| items.iter().map(|item| item.fields["image"].digest).collect::<Vec<_>>();
    assert_eq!(images(&outputs), images(&again));
    assert_eq!(images(&outputs).iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "no two pictures are equal");

    let png = shelf.bytes(&outputs[3].fields["image"]);
    let text = png_text::read_text(&png, png_text::PARAMETERS).unwrap().unwrap();
    let expected = "(a small):1.2 blue ring\nNegative prompt: red, large\nSteps: 3, Sampler: Euler a, CFG scale: 5, Seed: 2, Size: 64x64, Model hash: ";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(Infotext::parse(&text).get("RNG"), Some("CPU"));

    let Form::Items(items) = stage.form() else { panic!("sample is an item stage") };
    let drafts = items.finish(&outputs, &shelf).unwrap();
    let work = Work {
        name: String::new(),
        origin: None,
        values: BTreeMap::new(),
        inputs: Fields::new(),
        carry: Fields::new(),
        attributes: BTreeMap::new(),
    };
    let grid = shelf.keep(&work, drafts.into_iter().next().unwrap());
    let sheet = decode::decode(&shelf.bytes(&grid.fields["grid"])).unwrap().picture;
    assert!(sheet.height() > 4 * 64, "{}x{}", sheet.width(), sheet.height());
}

#[test]
fn a_size_that_the_model_cannot_draw_is_refused() {
    let shelf = Shelf::default();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/models/tiny-sd.safetensors");
    let base = shelf.put(std::fs::read(model).unwrap(), "safetensors");
    let inputs = resolved([("base", vec![shelf.item("base", [("model", base)])])]);
    let stage = load(&sample::KIND, "{ base: base, size: 72, prompts: [a cat] }").unwrap();
    let error = run(&*stage, &inputs, &shelf).unwrap_err();
    assert!(format!("{error:#}").contains("multiple of 16"), "{error:#}");
}
