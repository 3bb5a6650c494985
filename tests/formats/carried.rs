//! What becomes of a file's tensors in another file: carried right, or refused by name.

use std::collections::BTreeMap;
use std::path::Path;

use loramill::sd::checkpoint::convert::{Plan, Target};
use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::checkpoint::safetensors;
use loramill::sd::checkpoint::tensor::{Dtype, TensorData};
use loramill::sd::lora::merge::Merge;

use crate::formats::containers::fixture;
use crate::formats::crafted::{saved, tensor_of};
use crate::formats::{drawn_lora, tiny_sd};

fn converted(file: &ModelFile, dtype: Option<Dtype>, target: Target, folder: &Path) -> anyhow::Result<ModelFile> {
    let path = folder.join("converted");
    Plan::same_names(file, dtype)?.write(&path, target)?;
    ModelFile::open(&path)
}

fn said<T>(result: anyhow::Result<T>) -> String {
    match result {
        Ok(_) => panic!("it was accepted"),
        Err(error) => format!("{error:#}"),
    }
}

/// The small model with some tensors in the place of its own.
fn tiny_with(path: &Path, change: impl FnOnce(&mut BTreeMap<String, TensorData>)) -> ModelFile {
    let file = ModelFile::open(&tiny_sd()).unwrap();
    let mut tensors = file.tensors().keys().map(|name| (name.clone(), file.read(name).unwrap())).collect();
    change(&mut tensors);
    safetensors::write(path, &tensors, &BTreeMap::new()).unwrap();
    ModelFile::open(path).unwrap()
}

const WEIGHT: &str = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight";
const POSITIONS: &str = "cond_stage_model.transformer.text_model.embeddings.position_ids";

#[test]
fn tensors_of_every_kind_that_torch_saves_are_read_or_named() {
    let file = ModelFile::open(&fixture("mixed.ckpt")).unwrap();
    let found: Vec<(&str, Dtype)> = file.tensors().iter().map(|(name, info)| (name.as_str(), info.dtype)).collect();
    assert_eq!(found, [("c", Dtype::C64), ("f8", Dtype::F8E4M3), ("u16", Dtype::U16), ("w", Dtype::F32)]);
    assert_eq!(file.read("c").unwrap().bytes, [0, 0, 128, 63, 0, 0, 0, 0].repeat(4));
    assert_eq!(file.read_f32("f8").unwrap(), [1.0; 4]);
    assert_eq!(file.read_f32("u16").unwrap(), [1.0; 4]);
    let error = said(Plan::same_names(&file, None));
    assert!(
        error.ends_with(
            "mixed.ckpt` holds what cannot be carried over: tensor `q`: it is quantised (`torch._utils._rebuild_qtensor`): save it with \
             `.dequantize()`; `sp`: it is sparse (`torch._utils._rebuild_sparse_tensor`): save it with `.to_dense()`"
        ),
        "{error}"
    );
}

#[test]
fn what_can_be_read_keeps_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mixed = ModelFile::open(&fixture("mixed.ckpt")).unwrap();
    let mut tensors: BTreeMap<String, TensorData> = BTreeMap::new();
    for name in mixed.tensors().keys() {
        tensors.insert(name.clone(), mixed.read(name).unwrap());
    }
    tensors.insert("u32".into(), tensor_of(Dtype::U32, &u32::MAX.to_le_bytes()));
    tensors.insert("u64".into(), tensor_of(Dtype::U64, &u64::MAX.to_le_bytes()));
    let path = folder.path().join("all.safetensors");
    safetensors::write(&path, &tensors, &BTreeMap::new()).unwrap();
    for file in [ModelFile::open(&path).unwrap(), ModelFile::open(&fixture("mixed.safetensors")).unwrap()] {
        let written = converted(&file, None, Target::Safetensors, folder.path()).unwrap();
        assert_eq!(written.tensors(), file.tensors());
        for name in file.tensors().keys() {
            assert_eq!(written.read(name).unwrap(), file.read(name).unwrap(), "{name}");
        }
    }
    // PyTorch's pickles have a name for complex numbers, and none for the others.
    let complex = saved(&folder.path().join("c.safetensors"), [("c", tensors["c"].clone())]);
    let written = converted(&complex, None, Target::Torch, folder.path()).unwrap();
    assert_eq!(written.read("c").unwrap(), tensors["c"]);
    for name in ["f8", "u16", "u32", "u64"] {
        let one = saved(&folder.path().join("one.safetensors"), [(name, tensors[name].clone())]);
        let error = said(converted(&one, None, Target::Torch, folder.path()));
        assert!(error.contains(&format!("tensor `{name}`: PyTorch's pickles have no storage of type")), "{error}");
    }
}

#[test]
fn a_type_that_nobody_reads_is_named_with_its_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("packed.safetensors");
    let header = r#"{"blocks.weight":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}"#;
    let file = crate::formats::crafted::with_header(&path, header, 2).unwrap();
    let error = said(Plan::same_names(&file, Some(Dtype::F16)));
    assert!(error.ends_with("tensor `blocks.weight`: its type F4 is not supported"), "{error}");
    // A weight of a network is named too where only networks are looked for.
    let mut bytes = std::fs::read(tiny_sd()).unwrap();
    let entry = format!("\"{WEIGHT}\":{{\"dtype\":\"F16\"");
    let at = bytes.windows(entry.len()).position(|window| window == entry.as_bytes()).unwrap() + entry.len() - 5;
    bytes[at..at + 5].copy_from_slice(b"\"F4\" ");
    let path = folder.path().join("tiny.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let file = ModelFile::open(&path).unwrap();
    let says = format!("tensor `{WEIGHT}` cannot be read: its type F4 is not supported");
    for error in [said(Plan::to_ldm(&file, None)), said(Plan::to_diffusers(&file, None))] {
        assert!(error.contains(&says), "{error}");
    }
    assert!(said(Merge::new(&file, &[(drawn_lora(2, 0.1), 1.0)], None).map(drop)).contains(&says));
}

#[test]
fn eight_bit_weights_become_what_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f8.safetensors");
    let file = saved(
        &path,
        [
            ("e4.weight", tensor_of(Dtype::F8E4M3, &[0x38, 0x7e, 0x01])),
            ("e5.weight", tensor_of(Dtype::F8E5M2, &[0x3c, 0xfb, 0x01])),
            ("index", tensor_of(Dtype::I64, &7i64.to_le_bytes())),
        ],
    );
    for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32] {
        for target in [Target::Safetensors, Target::Torch] {
            let written = converted(&file, Some(dtype), target, folder.path()).unwrap();
            assert_eq!(written.info("e4.weight").unwrap().dtype, dtype);
            assert_eq!(written.read_f32("e4.weight").unwrap(), [1.0, 448.0, 0.001953125]);
            assert_eq!(written.read_f32("e5.weight").unwrap(), [1.0, -57344.0, 2f32.powi(-16)]);
            assert_eq!(written.info("index").unwrap().dtype, Dtype::I64);
        }
    }
    // With a scale of their own the numbers are others.
    let scaled =
        saved(&path, [("a.weight", tensor_of(Dtype::F8E4M3, &[0x38])), ("a.scale_weight", TensorData::from_f32(&[1], &[0.5]))]);
    assert!(converted(&scaled, None, Target::Safetensors, folder.path()).is_ok());
    let error = said(Plan::same_names(&scaled, Some(Dtype::F16)));
    let says =
        "tensor `a.weight` of `F` is F8_E4M3 and scaled by `a.scale_weight`, which is not supported: use the model in fp16";
    assert_eq!(error.replace(&path.display().to_string(), "F"), says);
}

#[test]
fn a_lora_is_merged_into_eight_bit_weights_only_in_a_wider_type() {
    let folder = tempfile::tempdir().unwrap();
    let base = tiny_with(&folder.path().join("f8.safetensors"), |tensors| {
        for tensor in tensors.values_mut().filter(|tensor| tensor.dtype.is_float()) {
            let bytes = vec![0x38; tensor.bytes.len() / tensor.dtype.size()];
            *tensor = TensorData { dtype: Dtype::F8E4M3, shape: tensor.shape.clone(), bytes };
        }
    });
    let loras = [(drawn_lora(2, 0.1), 1.0)];
    let error = said(Merge::new(&base, &loras, None).map(drop));
    assert!(error.ends_with("has numbers of 8 bits, in which a LoRA's change is lost: give `dtype: fp16`"), "{error}");
    let merge = Merge::new(&base, &loras, Some(Dtype::F16)).unwrap();
    assert!(merge.tensors().values().all(|info| info.dtype == Dtype::F16 || !info.dtype.holds_floats()));
    let values = merge.tensor(WEIGHT).unwrap().to_f32().unwrap();
    assert!(values.iter().all(|value| *value == 1.0), "a weight that no LoRA changes");
}

#[test]
fn values_that_are_no_numbers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.safetensors");
    let broken = |value: f32| {
        tiny_with(&path, |tensors| {
            let tensor = tensors.get_mut(WEIGHT).unwrap();
            let mut values = tensor.to_f32().unwrap();
            values[5] = value;
            *tensor = TensorData::from_f32(&tensor.shape, &values);
        })
    };
    for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinite values")] {
        let file = broken(value);
        let count = file.info(WEIGHT).unwrap().elements().unwrap();
        let says =
            format!("tensor `{WEIGHT}` holds {word}, 1 of its {count} values: the model is broken, take another copy or version");
        let to = |plan: Plan<'_>| said(plan.write(&folder.path().join("out"), Target::Safetensors));
        for error in [
            to(Plan::same_names(&file, None).unwrap()),
            to(Plan::same_names(&file, Some(Dtype::F16)).unwrap()),
            to(Plan::to_ldm(&file, None).unwrap()),
            to(Plan::to_diffusers(&file, None).unwrap().remove(0)),
            said(Merge::new(&file, &[(drawn_lora(2, 0.1), 1.0)], None).unwrap().tensor(WEIGHT)),
        ] {
            assert!(error.ends_with(&says), "{error}");
        }
        assert!(!folder.path().join("out").exists());
    }
    // In a mask infinity has its place.
    let mask = saved(&path, [("attn_mask", TensorData::from_f32(&[2], &[0.0, f32::NEG_INFINITY]))]);
    assert!(converted(&mask, None, Target::Safetensors, folder.path()).is_ok());
}

#[test]
fn a_merge_that_leaves_the_range_of_its_numbers_is_named() {
    let base = ModelFile::open(&tiny_sd()).unwrap();
    let loras = [(drawn_lora(2, 0.1), 1e39)];
    let merge = Merge::new(&base, &loras, Some(Dtype::F32)).unwrap();
    let name = "model.diffusion_model.middle_block.1.proj_in.weight";
    let error = said(merge.tensor(name));
    assert!(error.starts_with(&format!("tensor `{name}` of the merge: tensor `{name}` holds ")), "{error}");
}

#[test]
fn positions_are_counted_from_0_in_whole_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let right: Vec<u8> = (0..77i64).flat_map(i64::to_le_bytes).collect();
    let floats: Vec<f32> = (0..77).map(|index| index as f32).collect();
    let off: Vec<u8> = (0..77i64).map(|index| if index == 76 { 75 } else { index }).flat_map(i64::to_le_bytes).collect();
    let as_list = |tensor: TensorData| TensorData { shape: vec![1, 77], ..tensor };
    for (list, instead) in [
        (TensorData::from_f32(&[1, 77], &floats).cast(Dtype::F16).unwrap(), "is F16"),
        (as_list(tensor_of(Dtype::I64, &off)), "has 75 in the place of 76"),
        (TensorData::from_f32(&[1, 77], &[&floats[..76], &[f32::NAN]].concat()), "is F32 and has NaN in the place of 76"),
    ] {
        let file = tiny_with(&path, |tensors| drop(tensors.insert(POSITIONS.into(), list)));
        let remark = format!("`{POSITIONS}` of `{}` {instead}: it is written as whole numbers from 0 to 76", path.display());
        let loras = [(drawn_lora(2, 0.1), 1.0)];
        for dtype in [None, Some(Dtype::F16)] {
            let plan = Plan::same_names(&file, dtype).unwrap();
            let merge = Merge::new(&file, &loras, dtype).unwrap();
            assert_eq!((plan.remarks(), merge.remarks()), (vec![remark.clone()], vec![remark.clone()]));
            for (info, tensor) in [
                (&plan.tensors()[POSITIONS], plan.tensor(POSITIONS).unwrap()),
                (&merge.tensors()[POSITIONS], merge.tensor(POSITIONS).unwrap()),
            ] {
                assert_eq!((info, &tensor), (&tensor.info(), &as_list(tensor_of(Dtype::I64, &right))));
            }
        }
    }
    // Right ones stay as they are, also in a narrower type.
    let narrow: Vec<u8> = (0..77i32).flat_map(i32::to_le_bytes).collect();
    for list in [tensor_of(Dtype::I64, &right), tensor_of(Dtype::I32, &narrow)] {
        let list = as_list(list);
        let file = tiny_with(&path, |tensors| drop(tensors.insert(POSITIONS.into(), list.clone())));
        let plan = Plan::same_names(&file, Some(Dtype::F16)).unwrap();
        assert_eq!((plan.remarks(), plan.tensor(POSITIONS).unwrap()), (Vec::new(), list));
    }
}

#[test]
fn a_model_whose_unet_is_only_a_running_average_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let file = tiny_with(&path, |tensors| {
        let names: Vec<String> = tensors.keys().filter(|name| name.starts_with("model.diffusion_model.")).cloned().collect();
        for name in names {
            let average = format!("model_ema.{}", name.strip_prefix("model.").unwrap().replace('.', ""));
            let tensor = tensors.remove(&name).unwrap();
            tensors.insert(average, tensor);
        }
    });
    let says = "holds its UNet only as a running average (`model_ema.diffusion_model…`), which is left out here: use the file that has \
                `model.diffusion_model.…`";
    let mut lora = drawn_lora(2, 0.1);
    for error in [
        said(Plan::to_ldm(&file, None)),
        said(Plan::to_diffusers(&file, None)),
        said(Merge::new(&file, &[(lora.clone(), 1.0)], None).map(drop)),
    ] {
        assert!(error.ends_with(says), "{error}");
    }
    // A LoRA of the text encoder alone would be merged into a model without UNet.
    lora.modules.retain(|module, _| module.network == loramill::sd::checkpoint::modules::Network::TextEncoder);
    assert!(said(Merge::new(&file, &[(lora, 1.0)], None).map(drop)).ends_with(says));
    // Names that are kept lose nothing.
    assert_eq!(&Plan::same_names(&file, None).unwrap().tensors(), file.tensors());
}

#[test]
fn a_network_that_is_missing_and_tensors_of_no_network_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let file = tiny_with(&path, |tensors| {
        tensors.retain(|name, _| !name.starts_with("cond_stage_model."));
        tensors.insert("control.weight".into(), TensorData::from_f32(&[1], &[1.0]));
        tensors.insert("betas".into(), TensorData::from_f32(&[1], &[1.0]));
    });
    let path = path.display();
    let says = vec![
        format!("`{path}` has no text encoder, so the result has none"),
        format!("tensors of `{path}` that belong to no network are left out, 1 of them: `control.weight`"),
    ];
    assert_eq!(Plan::to_ldm(&file, None).unwrap().remarks(), says);
    assert_eq!(Plan::to_diffusers(&file, None).unwrap().iter().flat_map(Plan::remarks).collect::<Vec<_>>(), says);
    let whole = ModelFile::open(&tiny_sd()).unwrap();
    assert!(Plan::to_ldm(&whole, None).unwrap().remarks().is_empty());
}

#[test]
fn a_file_without_tensors_becomes_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ckpt");
    let class = b"cldm.models.diffusion.ddpm\nLatentDiffusion\n)\x81}b.";
    crate::formats::crafted::archive(&path, class, &[], zip::CompressionMethod::Stored);
    let file = ModelFile::open(&path).unwrap();
    let error = said(Plan::same_names(&file, None)).replace(&path.display().to_string(), "F");
    assert_eq!(
        error,
        "`F` has no tensors: one object of another program in `F` was passed over: `ldm.models.diffusion.ddpm.LatentDiffusion`; save its \
         `state_dict()`"
    );
}
