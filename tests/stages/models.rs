//! The kinds that make model files: merge, extract, convert. What they compute is held against the originals in `formats`.

use std::collections::BTreeMap;

use loramill::engine::inputs::sources::Surroundings;
use loramill::engine::kind::item::{Artifact, Item};
use loramill::engine::kind::stage::{Files, Stage};
use loramill::engine::kind::stage_kind::StageKind;
use loramill::sd::checkpoint::family::Predicts;
use loramill::sd::checkpoint::model_file::{Container, ModelFile};
use loramill::sd::checkpoint::safetensors;
use loramill::sd::checkpoint::tensor::{Dtype, TensorData};
use loramill::sd::lora::file::{Lora, LoraNames};
use loramill::stages::KINDS;
use loramill::stages::{convert, extract, merge};

use crate::formats::crafted::{crafted, dictionary, tensor};
use crate::formats::{drawn_lora, tiny_sd};
use crate::stages::{Shelf, expand, load, resolved, run};

fn loaded(kind: &StageKind, yaml: &str) -> Box<dyn Stage> {
    load(kind, yaml).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn refused(kind: &StageKind, yaml: &str) -> String {
    match load(kind, yaml) {
        Ok(_) => panic!("`{yaml}` was accepted"),
        Err(problems) => problems.iter().map(|p| p.message.clone()).collect::<Vec<_>>().join("; "),
    }
}

fn base(shelf: &Shelf) -> Item {
    shelf.item("base", [("model", shelf.put(std::fs::read(tiny_sd()).unwrap(), "safetensors"))])
}

/// A checkpoint as `train` publishes it.
fn checkpoint(shelf: &Shelf, epoch: u64, scale: f32, more: &[(&str, &str)]) -> Item {
    let lora = drawn_lora(2, scale);
    let tensors = lora.tensors(LoraNames::Kohya, Dtype::F16).unwrap();
    let more = more.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let bytes = safetensors::to_bytes(&tensors, &lora.kohya_metadata(&tensors, &more).unwrap()).unwrap();
    let mut item = shelf.item(&format!("star-e{epoch:03}"), [("lora", shelf.put(bytes, "safetensors"))]);
    item.attributes = BTreeMap::from([("epoch".to_string(), epoch.to_string())]);
    item
}

fn open(shelf: &Shelf, artifact: &Artifact) -> ModelFile {
    ModelFile::open(&shelf.path(artifact).unwrap()).unwrap()
}

#[test]
fn the_keys_of_the_defaults_stay() {
    let components = |kind: &StageKind, yaml| {
        let found = loaded(kind, yaml).components();
        found.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(components(&merge::KIND, "{ base: base, lora: train }"), r#"dtype="auto" lora[0].strength=1.0 to="safetensors""#);
    assert_eq!(
        components(&extract::KIND, "{ tuned: merge, base: base }"),
        r#"clamp_quantile=1.0 dtype="auto" min_diff=1e-6 rank=8"#
    );
    assert_eq!(components(&convert::KIND, "{ from: merge }"), r#"dtype="auto" layout="keep" to="safetensors""#);
}

#[test]
fn a_merge_that_is_extracted_from_is_fp32_unless_it_says_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["base.safetensors", "star.safetensors"] {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    let file = folder.path().join("pipeline.yaml");
    let dtype = |merge: &str, reader: &str| {
        let text = format!(
            "concept: star\ninputs: {{ base: base.safetensors, star: star.safetensors }}\n\
             stages:\n  merge: {{ base: base, lora: star{merge} }}\n  {reader}\n"
        );
        std::fs::write(&file, text).unwrap();
        let surroundings = Surroundings { models: Vec::new(), hub: None, environment: Box::new(|_| None) };
        let pipeline = loramill::engine::graph::load::load(&file, &[], &surroundings, KINDS).unwrap_or_else(|p| panic!("{p:?}"));
        let components = pipeline.stage("merge").unwrap().stage.components();
        components.into_iter().find(|(name, _)| name == "dtype").unwrap().1
    };
    let extract = "extract: { tuned: merge, base: base, default: false }";
    assert_eq!(dtype("", extract), "fp32");
    assert_eq!(dtype(", dtype: fp16", extract), "fp16");
    assert_eq!(dtype("", "convert: { from: merge, dtype: fp16 }"), "auto");
}

#[test]
fn a_lora_alone_means_strength_one() {
    let inputs = |yaml| {
        let stage = loaded(&merge::KIND, yaml);
        let inputs = stage.inputs().into_iter().map(|input| (input.param, input.reference.name)).collect::<Vec<_>>();
        (stage.components(), inputs)
    };
    assert_eq!(inputs("{ base: base, lora: train }"), inputs("{ base: base, lora: [{ from: train, strength: 1 }] }"));
    let (components, inputs) = inputs("{ base: base, lora: [train, { from: other, strength: 0.8 }] }");
    assert_eq!(
        components.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["dtype", "lora[0].strength", "lora[1].strength", "to"]
    );
    assert_eq!(components[2].1, 0.8);
    let names = [("base", "base"), ("lora[0]", "train"), ("lora[1]", "other")];
    assert_eq!(inputs, names.map(|(param, name)| (param.to_string(), name.to_string())));
}

#[test]
fn wrong_params_say_what_is_wrong() {
    assert_eq!(refused(&merge::KIND, "{ base: base, lora: [] }"), "`lora` is empty: there is nothing to merge");
    assert_eq!(refused(&merge::KIND, "{ base: base, lora: { form: train } }"), "`from` is missing; unknown parameter `form`");
    assert_eq!(refused(&merge::KIND, "{ base: base, lora: train, to: zip }"), "`zip` is not one of: safetensors, ckpt, pt");
    assert_eq!(refused(&extract::KIND, "{ tuned: merge, base: base, rank: 0 }"), "`rank` must be at least 1");
    let quantile = refused(&extract::KIND, "{ tuned: merge, base: base, clamp_quantile: 1.5 }");
    assert_eq!(quantile, "`clamp_quantile` must lie between 0 and 1");
    assert_eq!(refused(&convert::KIND, "{ to: ckpt }"), "give either `from` (models) or `lora` (LoRAs)");
    assert_eq!(refused(&convert::KIND, "{ from: merge, lora: train }"), "give either `from` (models) or `lora` (LoRAs)");
    assert_eq!(refused(&convert::KIND, "{ lora: train, layout: ldm }"), "`ldm` is no layout for what is converted");
}

#[test]
fn merge_makes_one_model_per_checkpoint_named_after_it() {
    let shelf = Shelf::default();
    let checkpoints = vec![checkpoint(&shelf, 10, 0.1, &[]), checkpoint(&shelf, 20, 0.2, &[("ss_num_reg_images", "0")])];
    let inputs = resolved([("base", vec![base(&shelf)]), ("lora[0]", checkpoints)]);
    let models = run(&*loaded(&merge::KIND, "{ base: base, lora: train, to: ckpt }"), &inputs, &shelf).unwrap();
    let names: Vec<(&str, &str)> = models.iter().map(|item| (item.name.as_str(), item.attributes["epoch"].as_str())).collect();
    assert_eq!(names, [("star-e010", "10"), ("star-e020", "20")]);
    for item in &models {
        assert_eq!(item.fields.keys().collect::<Vec<_>>(), ["model"]);
        assert_eq!(item.fields["model"].extension, "ckpt");
        assert_eq!(open(&shelf, &item.fields["model"]).container(), Container::TorchZip);
    }
    assert_ne!(models[0].fields["model"].digest, models[1].fields["model"].digest);
    let said = shelf.said.lock().unwrap().join("; ");
    assert_eq!(said, "`star-e020` was trained without class images: merged, it leaks into prompts without the trigger");
}

#[test]
fn two_loras_that_both_vary_are_an_error() {
    let shelf = Shelf::default();
    let stage = loaded(&merge::KIND, "{ base: base, lora: [train, other] }");
    let two = || vec![checkpoint(&shelf, 10, 0.1, &[]), checkpoint(&shelf, 20, 0.2, &[])];
    let inputs = resolved([("base", vec![base(&shelf)]), ("lora[0]", two()), ("lora[1]", two())]);
    let error = expand(&*stage, &inputs, &shelf).unwrap_err();
    assert_eq!(error.to_string(), "`lora[0]` and `lora[1]` both select several checkpoints: choose one of each but one");
    let inputs = resolved([("base", vec![base(&shelf)]), ("lora[0]", two()[..1].to_vec()), ("lora[1]", two())]);
    let works = expand(&*stage, &inputs, &shelf).unwrap();
    assert_eq!(works.iter().map(|work| work.name.as_str()).collect::<Vec<_>>(), ["star-e010", "star-e020"]);
    assert_eq!(works[1].inputs.keys().collect::<Vec<_>>(), ["base", "lora[0]", "lora[1]"]);
    assert_ne!(works[0].inputs["lora[1]"], works[1].inputs["lora[1]"]);
    assert_eq!(works[0].inputs["lora[0]"], works[1].inputs["lora[0]"]);
}

#[test]
fn the_whole_way_gives_the_same_bytes_every_time() {
    let way = || {
        let shelf = Shelf::default();
        let inputs = resolved([("base", vec![base(&shelf)]), ("lora[0]", vec![checkpoint(&shelf, 20, 0.3, &[])])]);
        let merged = run(&*loaded(&merge::KIND, "{ base: base, lora: train, dtype: fp32 }"), &inputs, &shelf).unwrap();
        let inputs = resolved([("tuned", merged.clone()), ("base", vec![base(&shelf)])]);
        let extracted =
            run(&*loaded(&extract::KIND, "{ tuned: merge, base: base, rank: 2, clamp_quantile: 0.99 }"), &inputs, &shelf)
                .unwrap();
        let lora = Lora::read(&open(&shelf, &extracted[0].fields["lora"])).unwrap();
        let inputs = resolved([("from", merged.clone())]);
        let converted = run(&*loaded(&convert::KIND, "{ from: merge, to: ckpt, dtype: fp16 }"), &inputs, &shelf).unwrap();
        let digest = |items: &[Item], field: &str| items[0].fields[field].digest.short();
        ([digest(&merged, "model"), digest(&extracted, "lora"), digest(&converted, "model")], extracted, lora)
    };
    let (digests, extracted, lora) = way();
    assert_eq!((extracted[0].name.as_str(), extracted[0].attributes["epoch"].as_str()), ("star-e020", "20"));
    assert_eq!((lora.modules.len(), lora.rank()), (96, 2));
    assert_eq!(lora.metadata["ss_network_alpha"], "2.0");
    assert_eq!(way().0, digests);
    // Sums, products and square roots only: the same on every machine. Another digest here means another version of the kind.
    assert_eq!(digests, ["f53096808123", "efbd4677dd21", "19b398427ece"]);
}

#[test]
fn an_extraction_cuts_nothing_off_unless_it_is_asked_to() {
    let shelf = Shelf::default();
    let inputs = resolved([("base", vec![base(&shelf)]), ("lora[0]", vec![checkpoint(&shelf, 20, 0.3, &[])])]);
    let merged = run(&*loaded(&merge::KIND, "{ base: base, lora: train, dtype: fp32 }"), &inputs, &shelf).unwrap();
    let inputs = resolved([("tuned", merged), ("base", vec![base(&shelf)])]);
    let held = |more: &str| {
        shelf.said.lock().unwrap().clear();
        run(&*loaded(&extract::KIND, &format!("{{ tuned: merge, base: base, rank: 2{more} }}")), &inputs, &shelf).unwrap();
        shelf.said.lock().unwrap().join("; ")
    };
    let all = "`star-e020`: rank 2 holds 100.0 % of the change in its 96 layers";
    assert_eq!(held(""), all);
    assert_ne!(held(", clamp_quantile: 0.9"), all);
}

#[test]
fn a_model_goes_to_a_diffusers_folder() {
    let shelf = Shelf::default();
    let inputs = resolved([("from", vec![base(&shelf)])]);
    let parts = run(&*loaded(&convert::KIND, "{ from: base, layout: diffusers, dtype: fp32 }"), &inputs, &shelf).unwrap();
    let names: Vec<&str> = parts.iter().map(|item| item.name.as_str()).collect();
    let expected = ["base/unet/diffusion_pytorch_model", "base/vae/diffusion_pytorch_model", "base/text_encoder/model"];
    assert_eq!(names, expected);
    let unet = open(&shelf, &parts[0].fields["model"]);
    assert_eq!(unet.info("mid_block.attentions.0.proj_in.weight").unwrap().shape, [128, 128, 1, 1]);
    assert_eq!(
        open(&shelf, &parts[1].fields["model"]).info("decoder.mid_block.attentions.0.to_q.weight").unwrap().shape,
        [64, 64]
    );
}

#[test]
fn a_converted_model_says_what_it_predicts() {
    let base = ModelFile::open(&tiny_sd()).unwrap();
    let tensors = || base.tensors().keys().map(|name| (name.clone(), base.read(name).unwrap())).collect::<BTreeMap<_, _>>();
    let mut by_tensors = tensors();
    by_tensors.extend(["v_pred", "ztsnr"].map(|mark| (mark.to_string(), TensorData::from_f32(&[0], &[]))));
    let by_metadata = BTreeMap::from([("modelspec.prediction_type".to_string(), "v".to_string())]);
    for (tensors, metadata, expected) in [
        (by_tensors, BTreeMap::new(), Some(Predicts::VelocityAtZeroSnr)),
        (tensors(), by_metadata, Some(Predicts::Velocity)),
        (tensors(), BTreeMap::new(), None),
    ] {
        for yaml in ["{ from: base, layout: ldm }", "{ from: base }", "{ from: base, to: ckpt }", "{ from: base, dtype: fp16 }"] {
            let shelf = Shelf::default();
            let bytes = safetensors::to_bytes(&tensors, &metadata).unwrap();
            let inputs = resolved([("from", vec![shelf.item("base", [("model", shelf.put(bytes, "safetensors"))])])]);
            let models = run(&*loaded(&convert::KIND, yaml), &inputs, &shelf).unwrap();
            let said = shelf.said.lock().unwrap().join("; ");
            assert_eq!(said, "", "{yaml} {expected:?}");
            assert_eq!(Predicts::of(&open(&shelf, &models[0].fields["model"])).unwrap(), expected, "{yaml}");
        }
    }
}

#[test]
fn what_is_not_carried_as_it_is_is_said_or_refused() {
    let shelf = Shelf::default();
    let file = |name: &str| std::fs::read(crate::formats::fixture(name)).unwrap();
    let of = |name: &str, extension| shelf.item("base", [("model", shelf.put(file(name), extension))]);
    let convert = |yaml: &str, item| run(&*loaded(&convert::KIND, yaml), &resolved([("from", vec![item])]), &shelf);
    let error = convert("{ from: base }", of("mixed.ckpt", "ckpt")).unwrap_err();
    assert!(format!("{error:#}").contains("holds what cannot be carried over: tensor `q`: it is quantised"), "{error:#}");
    let models = convert("{ from: base, dtype: fp16 }", of("lightning.ckpt", "ckpt")).unwrap();
    assert_eq!(open(&shelf, &models[0].fields["model"]).info("float").unwrap().dtype, Dtype::F16);
    let said = shelf.said.lock().unwrap().join("; ");
    let told = "were passed over: `pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint` (2)";
    assert!(said.starts_with("2 objects of other programs in `") && said.ends_with(told), "{said}");
    shelf.said.lock().unwrap().clear();
    let inputs = [("tuned", vec![of("lightning.ckpt", "ckpt")]), ("base", vec![of("lightning.ckpt", "ckpt")])];
    let error = run(&*loaded(&extract::KIND, "{ tuned: tuned, base: base }"), &resolved(inputs), &shelf).unwrap_err();
    assert!(!format!("{error:#}").contains("passed over"), "{error:#}");
    let said = shelf.said.lock().unwrap();
    assert!(said.len() == 2 && said.iter().all(|line| line.ends_with(told)), "{said:?}");
}

#[test]
fn a_lora_with_a_tensor_that_cannot_be_read_is_refused_by_its_name() {
    let shelf = Shelf::default();
    let item = shelf.item("star", [("lora", shelf.put(std::fs::read(crate::formats::fixture("mixed.ckpt")).unwrap(), "pt"))]);
    let inputs = resolved([("lora", vec![item.clone()])]);
    let converted = run(&*loaded(&convert::KIND, "{ lora: star }"), &inputs, &shelf).unwrap_err();
    let inputs = resolved([("base", vec![base(&shelf)]), ("lora[0]", vec![item])]);
    let merged = run(&*loaded(&merge::KIND, "{ base: base, lora: star }"), &inputs, &shelf).unwrap_err();
    for error in [converted, merged] {
        assert!(format!("{error:#}").contains("holds what cannot be carried over: tensor `q`: it is quantised"), "{error:#}");
    }
}

#[test]
fn what_other_programs_left_in_a_lora_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let layer = "lora_unet_mid_block_attentions_0_proj_in";
    let down = tensor("0", 128, 0, &[1, 128, 1, 1], &[128, 1, 1, 1]);
    let up = tensor("1", 128, 0, &[128, 1, 1, 1], &[1, 1, 1, 1]);
    let pickle = dictionary([
        (&*format!("{layer}.lora_down.weight"), down),
        (&*format!("{layer}.lora_up.weight"), up),
        ("callback", b"cvendor.training\nCallback\n)R".to_vec()),
    ]);
    crafted(folder.path(), &pickle, &["data/0", "data/1"].map(|name| (name, vec![0; 512]))).unwrap();
    let bytes = std::fs::read(folder.path().join("crafted.ckpt")).unwrap();
    for kind in [&convert::KIND, &merge::KIND] {
        let shelf = Shelf::default();
        let lora = shelf.item("star", [("lora", shelf.put(bytes.clone(), "pt"))]);
        let inputs = resolved([("base", vec![base(&shelf)]), ("lora", vec![lora.clone()]), ("lora[0]", vec![lora])]);
        let yaml = if kind.name == "merge" { "{ base: base, lora: star }" } else { "{ lora: star }" };
        run(&*loaded(kind, yaml), &inputs, &shelf).unwrap();
        let said = shelf.said.lock().unwrap().join("; ");
        assert!(said.contains("one object of another program in `"), "{yaml}: {said}");
        assert!(said.contains("was passed over: `vendor.training.Callback`"), "{yaml}: {said}");
    }
}

#[test]
fn a_lora_is_converted_to_other_names_and_back() {
    let shelf = Shelf::default();
    let source = checkpoint(&shelf, 20, 0.3, &[]);
    let inputs = resolved([("lora", vec![source.clone()])]);
    let there = run(&*loaded(&convert::KIND, "{ lora: train, layout: diffusers }"), &inputs, &shelf).unwrap();
    let names = open(&shelf, &there[0].fields["lora"]);
    assert!(names.tensors().contains_key("unet.mid_block.attentions.0.proj_in.lora_A.weight"));
    let inputs = resolved([("lora", there)]);
    let back = run(&*loaded(&convert::KIND, "{ lora: train, layout: kohya, to: pt }"), &inputs, &shelf).unwrap();
    let file = open(&shelf, &back[0].fields["lora"]);
    assert_eq!((file.container(), back[0].fields["lora"].extension.as_str()), (Container::TorchZip, "pt"));
    let original = open(&shelf, &source.fields["lora"]);
    assert_eq!(file.tensors(), original.tensors());
    // A model in the place of a LoRA is told apart.
    let inputs = resolved([("lora", vec![shelf.item("base", [("lora", base(&shelf).fields["model"].clone())])])]);
    let error = run(&*loaded(&convert::KIND, "{ lora: base }"), &inputs, &shelf).unwrap_err();
    assert!(format!("{error:#}").contains("is a model and no LoRA"), "{error:#}");
}

#[cfg(feature = "nn")]
#[test]
fn a_pipelines_seed_counts_for_what_draws_and_for_nothing_else() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/pipeline.yaml");
    let components = |seed: &str| -> Vec<_> {
        let surroundings = Surroundings { models: Vec::new(), hub: None, environment: Box::new(|_| None) };
        let given = [format!("seed={seed}")];
        let pipeline =
            loramill::engine::graph::load::load(&file, &given, &surroundings, KINDS).unwrap_or_else(|p| panic!("{p:?}"));
        let names = ["crop", "resize", "caption", "flip", "train/latents", "train", "sample", "merge", "extract", "convert"];
        names.map(|name| (name, pipeline.stage(name).unwrap_or_else(|| panic!("`{name}`")).stage.components())).into()
    };
    let changed: Vec<&str> = (components("7").into_iter().zip(components("8")))
        .filter(|(before, after)| before.1 != after.1)
        .map(|(before, _)| before.0)
        .collect();
    assert_eq!(changed, ["train"]);
}
