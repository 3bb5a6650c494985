//! LoRA files of other programs: each is read as that program means it, or refused by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::checkpoint::safetensors;
use loramill::sd::checkpoint::tensor::{Dtype, TensorData};
use loramill::sd::lora::adapter_config::AdapterConfig;
use loramill::sd::lora::convert::converted;
use loramill::sd::lora::file::{Lora, LoraNames};
use loramill::sd::lora::merge::Merge;
use loramill::sd::lora::placing::Structure;

use crate::cli::{loramill, said};
use crate::formats::{drawn_lora, tiny_sd};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/lora/files").join(name)
}

/// As a merge with the example's model reads it.
fn read(name: &str) -> Result<Lora, String> {
    let structure = Structure::of(&ModelFile::open(&tiny_sd()).unwrap());
    let file = ModelFile::open(&path(name)).unwrap();
    Lora::read_for(&file, None, Some(&structure)).map_err(|error| format!("{error:#}"))
}

fn names(lora: &Lora) -> Vec<String> {
    lora.modules.keys().map(|module| module.path.clone()).collect()
}

/// The three layers of `alpha_none`, `ldm_names` and others.
const THREE: [&str; 3] = [
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
    "up_blocks.1.attentions.0.proj_in",
];

#[test]
fn every_programs_names_give_the_same_layers() {
    let plain = read("alpha_none.safetensors").unwrap();
    assert_eq!(names(&plain), THREE);
    for other in ["ldm_names.safetensors", "comfy_names.safetensors"] {
        let read = read(other).unwrap();
        assert_eq!((&read.modules, read.remarks.len()), (&plain.modules, 0), "{other}");
    }
    let text = read("peft_te.safetensors").unwrap();
    assert_eq!(names(&text), ["text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.1.mlp.fc1"]);
    let base = ModelFile::open(&tiny_sd()).unwrap();
    for lora in [plain, text, read("bundled.safetensors").unwrap(), read("simo.safetensors").unwrap(), read("simo.pt").unwrap()] {
        let loras = [(lora, 1.0)];
        Merge::new(&base, &loras, None).unwrap_or_else(|error| panic!("{error:#}"));
    }
}

#[test]
fn cloneofsimos_numbers_are_layers_in_the_order_of_diffusers() {
    let [block, _] = [
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    ];
    let first = ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", block];
    for file in ["simo.safetensors", "simo.pt"] {
        let lora = read(file).unwrap();
        let mut expected = first.map(String::from);
        expected.sort();
        assert_eq!(names(&lora), expected, "{file}");
        assert!(lora.modules.values().all(|module| module.scale() == 1.0) && lora.remarks.is_empty(), "{file}");
    }
    assert_eq!(read("simo.pt").unwrap().modules.len(), 2);

    // A whole one: where the feed-forward is, before or behind the second attention, follows from the shapes.
    let base = Structure::of(&ModelFile::open(&tiny_sd()).unwrap());
    let inside: Vec<_> = drawn_lora(2, 0.3).modules.into_iter().filter(|(module, _)| module.path.contains(".attn")).collect();
    for feed_forward_last in [false, true] {
        let all = drawn_lora(2, 0.3).modules;
        let mut blocks: Vec<String> = Vec::new();
        for (module, _) in &inside {
            let block = module.path.split(".attn").next().unwrap().to_string();
            if module.path.contains("transformer_blocks") && !blocks.contains(&block) {
                blocks.push(block);
            }
        }
        // Down, up, then middle: as diffusers registers them.
        blocks.sort_by_key(|block| (block.starts_with("mid"), block.starts_with("up"), block.clone()));
        let attention = |name: &str| ["to_q", "to_k", "to_v", "to_out.0"].map(|layer| format!("{name}.{layer}"));
        let mut order = attention("attn1").to_vec();
        if feed_forward_last {
            order.extend(attention("attn2"));
            order.push("ff.net.0.proj".into());
        } else {
            order.push("ff.net.0.proj".into());
            order.extend(attention("attn2"));
        }
        let walk = blocks.iter().flat_map(|block| order.iter().map(move |layer| format!("{block}.{layer}")));
        let mut tensors = BTreeMap::new();
        let mut expected = BTreeMap::new();
        for (number, layer) in walk.enumerate() {
            let (path, module) = all.iter().find(|(path, _)| path.path == layer).unwrap_or_else(|| panic!("{layer}"));
            for (part, matrix) in [("down", &module.down), ("up", &module.up)] {
                tensors.insert(
                    format!("unet:{number}:{part}"),
                    TensorData::from_f32(&[matrix.rows, matrix.columns], &matrix.values),
                );
            }
            expected.insert(path.clone(), (module.down.clone(), module.up.clone()));
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("simo.safetensors");
        safetensors::write(&file, &tensors, &BTreeMap::new()).unwrap();
        let read = Lora::read_for(&ModelFile::open(&file).unwrap(), None, Some(&base)).unwrap();
        let found: BTreeMap<_, _> = read.modules.into_iter().map(|(path, module)| (path, (module.down, module.up))).collect();
        assert!(found == expected, "feed-forward last: {feed_forward_last}");
    }
}

#[test]
fn alpha_is_what_the_file_means() {
    let zero = read("alpha_zero.safetensors").unwrap();
    assert!(zero.modules.values().all(|module| module.scale() == 0.0));
    assert!(zero.modules.values().all(|module| module.delta().values.iter().all(|change| *change == 0.0)));
    assert_eq!(zero.remarks, ["alpha is 0 in its modules: they change nothing"]);
    let none = read("alpha_none.safetensors").unwrap();
    assert!(none.modules.values().all(|module| module.scale() == 1.0));
    assert_eq!(none.remarks, ["alpha is not written for its modules: it is taken as the rank, which is scale 1"]);

    let file = ModelFile::open(&path("adapter_model.safetensors")).unwrap();
    let config = fs::read(path("adapter_config.json")).unwrap();
    let with = |text: &[u8]| Lora::read_for(&file, Some(&AdapterConfig::of_file(text).unwrap()), None).unwrap();
    let peft = with(&config);
    assert_eq!(names(&peft), THREE);
    assert!(peft.modules.values().all(|module| module.scale() == 4.0) && peft.remarks.is_empty());
    // alpha / √4.
    let stabilised = with(br#"{"peft_type": "LORA", "r": 4, "lora_alpha": 16, "use_rslora": true}"#);
    assert!(stabilised.modules.values().all(|module| module.scale() == 8.0));
    let alone = Lora::read(&file).unwrap();
    assert!(alone.modules.values().all(|module| module.scale() == 1.0));
    let expected = "alpha is not written for its modules, and no `adapter_config.json` lies beside it: it is taken as the rank, which is scale 1";
    assert_eq!(alone.remarks, [expected]);
    // A configuration that lies beside by chance changes no other LoRA.
    let kohya = ModelFile::open(&path("alpha_none.safetensors")).unwrap();
    let kohya = Lora::read_for(&kohya, Some(&AdapterConfig::of_file(&config).unwrap()), None).unwrap();
    assert!(kohya.modules.values().all(|module| module.scale() == 1.0));
    assert!(kohya.remarks[0].contains("is not used: the names of its tensors are not peft's"), "{:?}", kohya.remarks);
}

#[test]
fn a_bundled_embedding_is_named_and_the_lora_is_read() {
    let lora = read("bundled.safetensors").unwrap();
    assert_eq!(lora.modules.len(), 5);
    assert_eq!(lora.remarks, ["it brings the embedding `zxy`, which is left out: `zxy` in a prompt stays plain words"]);
}

#[test]
fn what_is_no_lora_is_named() {
    for (file, kind) in [("peft_dora", "a DoRA"), ("loha", "a LoHa"), ("lokr", "a LoKr"), ("ia3", "an IA3")] {
        let error = read(&format!("{file}.safetensors")).unwrap_err();
        assert!(error.contains(&format!("belongs to {kind}")), "{file}: {error}");
    }
}

/// One of the modules of `name` in a type that is not read.
fn with_unknown_type(name: &str) -> (tempfile::TempDir, PathBuf) {
    let bytes = fs::read(path(name)).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let module = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.";
    let tensors = header.iter_mut().filter(|(name, _)| name.starts_with(module));
    assert_eq!(tensors.map(|(_, tensor)| tensor["dtype"] = "F4".into()).count(), 2);
    let header = serde_json::to_vec(&header).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("star.safetensors");
    fs::write(&file, [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[8 + length..]].concat()).unwrap();
    (folder, file)
}

#[test]
fn a_module_that_cannot_be_read_is_not_passed_over() {
    let (_folder, path) = with_unknown_type("alpha_none.safetensors");
    let file = ModelFile::open(&path).unwrap();
    let errors = [
        Lora::read(&file).map(drop),
        Lora::sketch(&file, None).map(drop),
        converted(&file, None, None, None).map(drop),
        converted(&file, None, Some(LoraNames::Diffusers), None).map(drop),
    ];
    for error in errors {
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("its type F4 is not supported; `lora_unet_mid_block"), "{error}");
    }
    let pipeline = "concept: star\ninputs: { star: star.safetensors }\nstages:\n  convert: { lora: star }\n";
    fs::write(path.with_file_name("pipeline.yaml"), pipeline).unwrap();
    let (code, stdout, stderr) = said(&loramill(path.parent().unwrap(), &["check"]));
    assert!(code != 0 && (stdout + &stderr).contains("its type F4 is not supported"));
}

#[test]
fn values_that_are_no_numbers_are_refused_whatever_they_are_converted_to() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("star.safetensors");
    for (part, value) in [("lora_down.weight", f32::NAN), ("lora_up.weight", f32::INFINITY), ("alpha", f32::NEG_INFINITY)] {
        let mut tensors = drawn_lora(2, 0.3).tensors(LoraNames::Kohya, Dtype::F32).unwrap();
        let name = tensors.keys().find(|name| name.ends_with(part)).unwrap().clone();
        let tensor = tensors.get_mut(&name).unwrap();
        let mut values = tensor.to_f32().unwrap();
        values[0] = value;
        *tensor = TensorData::from_f32(&tensor.shape, &values);
        safetensors::write(&file, &tensors, &BTreeMap::new()).unwrap();
        let file = ModelFile::open(&file).unwrap();
        for (names, dtype) in [(None, None), (None, Some(Dtype::F16)), (Some(LoraNames::Kohya), None)] {
            let refused = converted(&file, None, names, dtype).err();
            assert!(refused.is_some(), "{name} {value} {names:?} {dtype:?}");
        }
        let error = format!("{:#}", converted(&file, None, None, None).unwrap_err());
        assert!(error.contains(&format!("tensor `{name}` holds ")), "{error}");
    }
}

#[test]
fn names_that_nobody_knows_are_told_from_shapes_that_do_not_fit() {
    let base = ModelFile::open(&tiny_sd()).unwrap();
    let refused = |change: &dyn Fn(&str) -> String, widths: [usize; 2]| {
        let source = ModelFile::open(&path("alpha_none.safetensors")).unwrap();
        let tensors = source.tensors().keys().map(|name| {
            let mut tensor = source.read(name).unwrap();
            if tensor.shape[1] == widths[0] {
                let rank = tensor.shape[0];
                tensor = TensorData::from_f32(&[rank, widths[1]], &vec![0.5; rank * widths[1]]);
            }
            (change(name), tensor)
        });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("star.safetensors");
        safetensors::write(&file, &tensors.collect(), &BTreeMap::new()).unwrap();
        let lora = Lora::read(&ModelFile::open(&file).unwrap()).unwrap();
        format!("{:#}", Merge::new(&base, &[(lora, 1.0)], None).err().unwrap())
    };
    let same = |name: &str| name.to_string();
    let stranger = refused(&|name| name.replace("proj_in", "proj_sideways"), [0, 0]);
    let expected =
        "the LoRA changes `lora_unet_up_blocks_1_attentions_0_proj_sideways`, which is a layer of no Stable Diffusion model";
    assert!(stranger.starts_with(expected), "{stranger}");
    let missing = refused(&|name| name.replace("up_blocks_1", "up_blocks_3"), [0, 0]);
    assert!(missing.starts_with("the LoRA changes `lora_unet_up_blocks_3_attentions_0_proj_in`, which `"), "{missing}");
    assert!(missing.ends_with("has not: it was trained on a model of another structure"), "{missing}");
    let misfit = refused(&same, [32, 320]);
    assert!(misfit.contains("attn1_to_q` of the LoRA is for a weight of shape [32, 320], and `"), "{misfit}");
    assert!(misfit.ends_with("has [32, 32]: it was trained on a model of other sizes"), "{misfit}");
    let family = refused(&same, [64, 2048]);
    assert!(family.starts_with("the LoRA is for SDXL (its texts are 2048 wide), `"), "{family}");
}

#[test]
fn names_of_ldm_without_a_model_are_those_of_stable_diffusion() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ldm.safetensors");
    let write = |width: usize| {
        let name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q";
        let tensor = |shape: [usize; 2]| TensorData::from_f32(&shape, &vec![0.5; shape[0] * shape[1]]);
        let tensors = BTreeMap::from([
            (format!("{name}.lora_down.weight"), tensor([2, width])),
            (format!("{name}.lora_up.weight"), tensor([width, 2])),
        ]);
        safetensors::write(&file, &tensors, &BTreeMap::new()).unwrap();
        converted(&ModelFile::open(&file).unwrap(), None, Some(LoraNames::Diffusers), None)
    };
    let found = write(640).unwrap();
    let down = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight";
    assert!(found.tensors.contains_key(down), "{:?}", found.tensors.keys());
    let error = format!("{:#}", write(641).unwrap_err());
    assert!(error.contains("fits neither Stable Diffusion 1.x nor 2.x"), "{error}");
}

#[test]
fn metadata_follows_the_tensors_whatever_the_source_said() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.safetensors");
    let lora = drawn_lora(4, 0.3);
    let tensors = lora.tensors(LoraNames::Kohya, Dtype::F32).unwrap();
    let wrong = [("ss_network_dim", "128"), ("ss_network_alpha", "64.0"), ("ss_output_name", "star")];
    let wrong = wrong.map(|(key, value)| (key.to_string(), value.to_string())).into();
    safetensors::write(&source, &tensors, &wrong).unwrap();
    let source = ModelFile::open(&source).unwrap();
    for (names, alpha) in [(None, "2.0"), (Some(LoraNames::Kohya), "2.0"), (Some(LoraNames::Diffusers), "4.0")] {
        let metadata = converted(&source, None, names, None).unwrap().metadata;
        let said = ["ss_network_dim", "ss_network_alpha", "ss_output_name"].map(|key| metadata[key].as_str());
        assert_eq!(said, ["4", alpha, "star"], "{names:?}");
    }
    let mut mixed = drawn_lora(4, 0.3);
    mixed.modules.values_mut().next().unwrap().alpha = 1.0;
    let tensors = mixed.tensors(LoraNames::Kohya, Dtype::F32).unwrap();
    assert_eq!(mixed.kohya_metadata(&tensors, &BTreeMap::new()).unwrap()["ss_network_alpha"], "Dynamic");
}

#[test]
fn a_strength_that_diffusers_noted_in_the_file_counts_once_however_it_is_converted() {
    let folder = tempfile::tempdir().unwrap();
    let written = |tensors: &BTreeMap<String, TensorData>, metadata: &BTreeMap<String, String>| {
        let path = folder.path().join("star.safetensors");
        safetensors::write(&path, tensors, metadata).unwrap();
        ModelFile::open(&path).unwrap()
    };
    let note = r#"{"unet.r": 4, "unet.lora_alpha": 16, "text_encoder.r": 4, "text_encoder.lora_alpha": 16}"#;
    let noted = BTreeMap::from([("lora_adapter_metadata".to_string(), note.to_string())]);
    let file = written(&drawn_lora(4, 0.3).tensors(LoraNames::Diffusers, Dtype::F32).unwrap(), &noted);
    let lora = Lora::read(&file).unwrap();
    assert!(lora.modules.values().all(|module| module.scale() == 4.0) && lora.remarks.is_empty(), "{:?}", lora.remarks);
    for names in [LoraNames::Kohya, LoraNames::Diffusers] {
        let made = converted(&file, None, Some(names), None).unwrap();
        let again = Lora::read(&written(&made.tensors, &made.metadata)).unwrap();
        assert_eq!(again.modules.len(), lora.modules.len());
        for (path, module) in &lora.modules {
            let pairs = module.delta().values.into_iter().zip(again.modules[path].delta().values);
            assert!(pairs.into_iter().all(|(before, after)| (before - after).abs() < 1e-4), "{names:?}: {path}");
        }
    }
}

#[test]
fn noted_hashes_are_those_of_what_was_converted() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.safetensors");
    let lora = drawn_lora(4, 0.3);
    let tensors = lora.tensors(LoraNames::Kohya, Dtype::F32).unwrap();
    let metadata = lora.kohya_metadata(&tensors, &BTreeMap::new()).unwrap();
    safetensors::write(&source, &tensors, &metadata).unwrap();
    let made = converted(&ModelFile::open(&source).unwrap(), None, None, Some(Dtype::F16)).unwrap();
    let expected = lora.kohya_metadata(&made.tensors, &BTreeMap::new()).unwrap();
    assert_eq!(made.metadata["sshs_model_hash"], expected["sshs_model_hash"]);
    assert_ne!(made.metadata["sshs_model_hash"], metadata["sshs_model_hash"], "the numbers are others");
}

/// A project with the example's model and peft's two files.
fn project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(tiny_sd(), folder.path().join("base.safetensors")).unwrap();
    fs::create_dir(folder.path().join("star")).unwrap();
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        fs::copy(path(name), folder.path().join("star").join(name)).unwrap();
    }
    let pipeline = "concept: star\ninputs: { base: base.safetensors, star: star/adapter_model.safetensors }\nstages:\n  merge: { base: base, lora: star, dtype: fp32 }\n";
    fs::write(folder.path().join("pipeline.yaml"), pipeline).unwrap();
    folder
}

#[test]
fn the_configuration_beside_a_lora_is_an_input_of_its_own() {
    let folder = project();
    let run = || said(&loramill(folder.path(), &["run"]));
    let change = || {
        let merged = ModelFile::open(&folder.path().join("out/merge/star.safetensors")).unwrap();
        let name = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight";
        let before = ModelFile::open(&tiny_sd()).unwrap().read_f32(name).unwrap();
        let after = merged.read_f32(name).unwrap();
        before.iter().zip(&after).map(|(before, after)| f64::from(after - before).powi(2)).sum::<f64>().sqrt()
    };
    let (code, _, stderr) = run();
    assert_eq!(code, 0, "{stderr}");
    let full = change();
    assert!(fs::read_to_string(folder.path().join("pipeline.lock")).unwrap().contains("input star-adapter_config "));
    assert!(said(&loramill(folder.path(), &["graph"])).1.contains("star-adapter_config"));

    // Another alpha is another result; and none at all is scale 1, said.
    let config = folder.path().join("star/adapter_config.json");
    fs::write(&config, r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8}"#).unwrap();
    let (code, _, stderr) = run();
    assert_eq!(code, 0, "{stderr}");
    assert!((change() / full - 0.5).abs() < 1e-3, "{} of {full}", change());
    fs::remove_file(&config).unwrap();
    let (code, stdout, stderr) = run();
    assert_eq!(code, 0, "{stderr}");
    assert!((change() / full - 0.25).abs() < 1e-3, "{} of {full}", change());
    assert!((stdout + &stderr).contains("no `adapter_config.json` lies beside it"));

    // What lies there and cannot be read is not taken for nothing.
    let refused = |why: &str| {
        let (code, _, stderr) = run();
        assert!(code != 0 && stderr.contains("star-adapter_config") && stderr.contains(why), "{code}: {stderr}");
    };
    std::os::unix::fs::symlink("nowhere", &config).unwrap();
    refused("adapter_config.json");
    fs::remove_file(&config).unwrap();
    fs::create_dir(&config).unwrap();
    refused("adapter_config.json");
    fs::remove_dir(&config).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &config, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    refused("it is a named pipe");
}

#[test]
fn a_lora_pt_is_flat_as_other_programs_read_it() {
    let folder = project();
    let lora = path("ldm_names.safetensors");
    fs::copy(lora, folder.path().join("kohya.safetensors")).unwrap();
    let output = loramill(folder.path(), &["do", "convert", "lora=kohya.safetensors", "to=pt", "-o", "made"]);
    assert_eq!(said(&output).0, 0, "{output:?}");
    let made = fs::read_dir(folder.path().join("made")).unwrap().next().unwrap().unwrap().path();
    let mut archive = zip::ZipArchive::new(fs::File::open(made).unwrap()).unwrap();
    let mut pickle = Vec::new();
    std::io::Read::read_to_end(&mut archive.by_name("archive/data.pkl").unwrap(), &mut pickle).unwrap();
    assert!(!pickle.windows(10).any(|part| part == b"state_dict"), "the tensors lie at the top");
}
