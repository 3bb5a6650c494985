//! Names and shapes against the lists that `generate_keys.py` made from diffusers' networks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use loramill::sd::checkpoint::key::Key;
use loramill::sd::checkpoint::layout::{Layout, Naming, Style, TextLayout, UnetLayout, VaeLayout};
use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::checkpoint::modules::lora_targets;
use loramill::sd::checkpoint::safetensors;
use loramill::sd::checkpoint::tensor::{Dtype, TensorData, TensorInfo};

pub(crate) fn tiny_sd() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/models/tiny-sd.safetensors")
}

/// `ldm diffusers ldm_shape shape` a line.
fn listed(name: &str) -> BTreeSet<(String, String, Vec<usize>, Vec<usize>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/keys").join(name);
    let shape = |text: &str| text.trim_matches(['[', ']']).split(',').map(|side| side.parse().unwrap()).collect();
    let text = std::fs::read_to_string(path).unwrap();
    let row = |line: &str| match line.split(' ').collect::<Vec<_>>()[..] {
        [ldm, diffusers, ldm_shape, own] => (ldm.to_string(), diffusers.to_string(), shape(ldm_shape), shape(own)),
        _ => panic!("{line}"),
    };
    text.lines().map(row).collect()
}

fn keys(layout: &Layout) -> Vec<Key> {
    [layout.unet.keys(), layout.vae.keys(), layout.text.keys()].concat()
}

fn rows(keys: &[Key]) -> BTreeSet<(String, String, Vec<usize>, Vec<usize>)> {
    let row = |key: &Key| (key.ldm.clone(), key.diffusers.clone(), key.ldm_shape.clone(), key.shape.clone());
    keys.iter().map(row).collect()
}

fn ldm() -> Naming {
    Naming { prefix: String::new(), style: Style::Ldm }
}

fn sd15() -> Layout {
    Layout {
        unet: UnetLayout {
            in_channels: 4,
            out_channels: 4,
            channels: vec![320, 640, 1280, 1280],
            res_blocks: 2,
            attention: vec![true, true, true, false],
            context_width: 768,
            linear_projections: false,
            names: ldm(),
        },
        vae: VaeLayout { image_channels: 3, latent_channels: 4, channels: vec![128, 256, 512, 512], res_blocks: 2, names: ldm() },
        text: TextLayout { width: 768, layers: 12, mlp_width: 3072, positions: 77, vocabulary: 49408, names: ldm() },
    }
}

#[test]
fn sd_1_5_has_the_names_and_shapes_of_diffusers() {
    let layout = sd15();
    assert_eq!((layout.unet.keys().len(), layout.vae.keys().len(), layout.text.keys().len()), (686, 248, 196));
    assert_eq!(rows(&keys(&layout)), listed("sd15.txt"));
}

#[test]
fn the_small_models_sizes_are_read_off_its_file() {
    let file = ModelFile::open(&tiny_sd()).unwrap();
    let layout = Layout::infer(&file).unwrap();
    assert_eq!(layout.unet.channels, [32, 64, 128]);
    assert_eq!((layout.unet.res_blocks, layout.unet.context_width, layout.unet.linear_projections), (1, 64, false));
    assert_eq!(layout.unet.attention, [true, true, false]);
    assert_eq!((layout.vae.channels.as_slice(), layout.vae.res_blocks, layout.vae.factor()), ([32, 64, 64].as_slice(), 1, 4));
    assert_eq!((layout.text.width, layout.text.layers, layout.text.mlp_width, layout.text.heads()), (64, 2, 256, 1));
    assert_eq!(rows(&keys(&layout)), listed("tiny.txt"));
    // Down 2, up 4, middle 1 transformers of 12 layers; two text layers of 6.
    assert_eq!(lora_targets(&layout).len(), 7 * 12 + 2 * 6);
    for layer in lora_targets(&layout) {
        assert_eq!(file.info(&layer.tensor).unwrap().shape, layer.shape, "{}", layer.tensor);
    }
}

/// The name and shape that a key gets, `None` to leave it out.
type Rename<'a> = &'a dyn Fn(&Key) -> Option<(String, Vec<usize>)>;

/// A file with the structure of the small model and zeros inside; names and shapes as `rename` gives them, `None` leaves one out.
fn zeros(folder: &Path, rename: impl Fn(&Key) -> Option<(String, Vec<usize>)>) -> ModelFile {
    let file = ModelFile::open(&tiny_sd()).unwrap();
    let layout = Layout::infer(&file).unwrap();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        // The vocabulary is most of the file and of no interest here.
        let shape: Vec<usize> = shape.into_iter().map(|side| if side == 49408 { 3 } else { side }).collect();
        let bytes = vec![0; 2 * shape.iter().product::<usize>()];
        (name, TensorData { dtype: Dtype::F16, shape, bytes })
    };
    let tensors: BTreeMap<String, TensorData> = keys(&layout).iter().filter_map(rename).map(tensor).collect();
    let path = folder.join("zeros.safetensors");
    safetensors::write(&path, &tensors, &BTreeMap::new()).unwrap();
    ModelFile::open(&path).unwrap()
}

#[test]
fn every_naming_of_the_same_model_gives_the_same_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = |file: &ModelFile| {
        let mut layout = Layout::infer(file).unwrap();
        (layout.unet.names, layout.vae.names, layout.text.names) = (ldm(), ldm(), ldm());
        layout
    };
    let plain = sizes(&zeros(folder.path(), |key| Some((key.ldm.clone(), key.ldm_shape.clone()))));
    let old_text =
        zeros(folder.path(), |key| Some((key.ldm.replace("transformer.text_model.", "transformer."), key.ldm_shape.clone())));
    assert_eq!(sizes(&old_text), plain);
    let linear_vae = zeros(folder.path(), |key| Some((key.ldm.clone(), key.shape.clone())));
    assert_eq!(sizes(&linear_vae), plain);
    let diffusers = |old: bool| {
        move |key: &Key| {
            let mut name = key.diffusers.clone();
            let network = if key.ldm.starts_with("model.") {
                "unet."
            } else if key.ldm.starts_with("first") {
                if old {
                    name = name
                        .replace("to_q", "query")
                        .replace("to_k", "key")
                        .replace("to_v", "value")
                        .replace("to_out.0", "proj_attn");
                }
                "vae."
            } else {
                "text_encoder."
            };
            Some((format!("{network}{name}"), key.shape.clone()))
        }
    };
    assert_eq!(sizes(&zeros(folder.path(), diffusers(false))), plain);
    assert_eq!(sizes(&zeros(folder.path(), diffusers(true))), plain);
    let vae_alone =
        zeros(folder.path(), |key| key.ldm.strip_prefix("first_stage_model.").map(|n| (n.to_string(), key.ldm_shape.clone())));
    assert_eq!(VaeLayout { names: ldm(), ..VaeLayout::infer(&vae_alone).unwrap() }, plain.vae);
}

#[test]
fn a_missing_or_misshapen_tensor_is_named_with_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |rename: Rename<'_>| format!("{:#}", Layout::infer(&zeros(folder.path(), rename)).unwrap_err());
    let same = |key: &Key| Some((key.ldm.clone(), key.ldm_shape.clone()));
    let lost = "model.diffusion_model.output_blocks.3.1.proj_out.bias";
    let error = refused(&|key| same(key).filter(|(name, _)| name != lost));
    assert!(error.ends_with(&format!("tensor `{lost}` is missing: expected shape [64]")), "{error}");
    let error = refused(&|key| same(key).map(|(name, shape)| if name == lost { (name, vec![65]) } else { (name, shape) }));
    assert!(error.ends_with(&format!("tensor `{lost}` has shape [65]: expected [64]")), "{error}");
    let error = refused(&|key| same(key).filter(|(name, _)| !name.starts_with("first_stage_model.")));
    assert!(error.contains("it has no VAE: expected `first_stage_model.encoder.down.0.block.0.conv2.weight`"), "{error}");
    let error = refused(&|key| same(key).map(|(name, shape)| (name.replace("transformer.text_model", "model"), shape)));
    assert!(error.contains("its text encoder is OpenCLIP (`cond_stage_model.model.…`, SD 2.x)"), "{error}");
    let error =
        refused(&|key| same(key).map(|(name, shape)| (name.replace("model.diffusion_model.", "conditioner.embedders."), shape)));
    assert!(error.contains("this is an SDXL model"), "{error}");
    // Without it the level cannot be measured, and nothing behind it makes sense.
    let measured = "model.diffusion_model.input_blocks.3.0.out_layers.3.weight";
    let error = refused(&|key| same(key).filter(|(name, _)| name != measured));
    assert!(error.ends_with(&format!("tensor `{measured}` is missing: expected a 3×3 convolution")), "{error}");
}

#[test]
fn integers_are_no_weights() {
    let folder = tempfile::tempdir().unwrap();
    let file = zeros(folder.path(), |key| Some((key.ldm.clone(), key.ldm_shape.clone())));
    let name = "first_stage_model.quant_conv.bias";
    let infos: BTreeMap<String, TensorInfo> = file.tensors().clone();
    let tensors: BTreeMap<String, TensorData> = infos.keys().map(|key| (key.clone(), file.read(key).unwrap())).collect();
    let mut tensors = tensors;
    tensors.get_mut(name).unwrap().dtype = Dtype::I16;
    let path = folder.path().join("integers.safetensors");
    safetensors::write(&path, &tensors, &BTreeMap::new()).unwrap();
    let error = format!("{:#}", Layout::infer(&ModelFile::open(&path).unwrap()).unwrap_err());
    assert!(error.ends_with(&format!("tensor `{name}` is I16: expected F16, BF16, F32 or F64")), "{error}");
}
