//! Models that are none of Stable Diffusion 1.x, or odd ones of it: told from names and shapes, before a weight is read.

use std::collections::BTreeMap;
use std::path::Path;

use loramill::sd::checkpoint::drawable;
use loramill::sd::checkpoint::family::{Family, Predicts};
use loramill::sd::checkpoint::key::Key;
use loramill::sd::checkpoint::layout::Layout;
use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::checkpoint::safetensors;
use loramill::sd::checkpoint::tensor::{Dtype, TensorData};

use crate::formats::tiny_sd;

/// Name and shape of each tensor.
type Tensors = Vec<(String, Vec<usize>)>;

/// The names and shapes that a model of this layout has in one file. The vocabulary stays: it counts.
fn tensors(layout: &Layout) -> Tensors {
    let keys: Vec<Key> = [layout.unet.keys(), layout.vae.keys(), layout.text.keys()].concat();
    keys.into_iter().map(|key| (key.ldm, key.ldm_shape)).collect()
}

fn tiny() -> Layout {
    Layout::infer(&ModelFile::open(&tiny_sd()).unwrap()).unwrap()
}

/// A file of zeros.
fn written(folder: &Path, tensors: Tensors, metadata: &[(&str, &str)]) -> ModelFile {
    let zeros = |(name, shape): (String, Vec<usize>)| {
        let bytes = vec![0; 2 * shape.iter().product::<usize>()];
        (name, TensorData { dtype: Dtype::F16, shape, bytes })
    };
    let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let path = folder.join("model.safetensors");
    safetensors::write(&path, &tensors.into_iter().map(zeros).collect::<BTreeMap<_, _>>(), &metadata).unwrap();
    ModelFile::open(&path).unwrap()
}

fn refused(tensors: Tensors) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = written(folder.path(), tensors, &[]);
    format!("{:#}", drawable::check(&file, None).expect_err("refused")).replace(&folder.path().display().to_string(), "")
}

/// The small model with other input channels.
fn with_channels(count: usize) -> Tensors {
    let mut layout = tiny();
    layout.unet.in_channels = count;
    tensors(&layout)
}

fn with(more: &[(&str, &[usize])]) -> Tensors {
    let more = more.iter().map(|(name, shape)| (name.to_string(), shape.to_vec()));
    tensors(&tiny()).into_iter().chain(more).collect()
}

fn renamed(from: &str, to: &str) -> Tensors {
    tensors(&tiny()).into_iter().map(|(name, shape)| (name.replace(from, to), shape)).collect()
}

#[test]
fn the_examples_model_passes() {
    let file = ModelFile::open(&tiny_sd()).unwrap();
    assert_eq!((Family::of(&file), Predicts::of(&file).unwrap()), (Family::StableDiffusion1, None));
    drawable::check(&file, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    drawable::check(&written(folder.path(), tensors(&tiny()), &[]), None).unwrap();
}

#[test]
fn other_models_are_refused_by_their_names() {
    let unet = "model.diffusion_model.";
    let cases: Vec<(Tensors, &str)> = vec![
        (with_channels(9), "`/model.safetensors` is an inpainting model (its UNet takes 9 channels, not 4)"),
        (with_channels(8), "is an instruct-pix2pix model (its UNet takes 8 channels, not 4)"),
        (with_channels(7), "is the x4 upscaler of Stable Diffusion 2"),
        (with_channels(5), "is a depth model of Stable Diffusion 2"),
        (
            renamed("cond_stage_model.transformer.text_model.", "cond_stage_model.model."),
            "is Stable Diffusion 2.x (texts by OpenCLIP)",
        ),
        (with(&[("conditioner.embedders.1.model.ln_final.weight", &[128])]), "is SDXL ("),
        (with(&[("conditioner.embedders.0.model.ln_final.weight", &[128])]), "is the SDXL refiner"),
        (with(&[("model.diffusion_model.label_emb.0.0.weight", &[128, 64])]), "a further condition (SDXL or unCLIP)"),
        (with(&[("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", &[8, 8])]), "is Stable Diffusion 3"),
        (vec![("double_blocks.0.img_attn.qkv.weight".into(), vec![8, 8])], "is Flux"),
        (with(&[("control_model.input_hint_block.0.weight", &[8, 8])]), "is a ControlNet"),
        (with(&[("edm_mean", &[4])]), "is Playground 2.5"),
        (with(&[("model.diffusion_model.time_embed.cond_proj.weight", &[32, 8])]), "is a guidance-distilled model (LCM)"),
        (
            tensors(&tiny()).into_iter().filter(|(name, _)| !name.starts_with(&format!("{unet}middle_block"))).collect(),
            "is a distilled model of fewer blocks",
        ),
        (tensors(&tiny()).into_iter().filter(|(name, _)| name.starts_with("first_stage")).collect(), "is a VAE alone"),
        (tensors(&tiny()).into_iter().filter(|(name, _)| name.starts_with("cond_stage")).collect(), "is a text encoder alone"),
        (renamed(unet, "model_ema.diffusion_model"), "is the running average (EMA) of a model without the model itself"),
        (vec![("lora_unet_mid_block_attentions_0_proj_in.alpha".into(), vec![])], "is a LoRA or another adapter"),
        (vec![("weight".into(), vec![1])], "is no model of Stable Diffusion"),
    ];
    for (tensors, expected) in cases {
        let error = refused(tensors);
        assert!(error.contains(expected), "expected {expected}: {error}");
    }
}

type Change = fn(&mut Layout);

/// Changes of the small model that no network here computes, and what is said of them.
const ODD: &[(Change, &str)] = &[
    (|layout| layout.unet.out_channels = 8, "takes 4 channels and gives 8"),
    (|layout| (layout.unet.in_channels, layout.unet.out_channels) = (3, 3), "has latents of 4 channels and the UNet of"),
    (|layout| layout.vae.latent_channels = 16, "has latents of 16 channels and the UNet of"),
    (|layout| layout.unet.channels[1] = 72, "is 72 channels wide on one level: multiples of 32 are known"),
    (|layout| layout.vae.channels[0] = 40, "is 40 channels wide on one level"),
    (|layout| layout.vae.image_channels = 4, "is for pictures of 4 channels"),
    (|layout| layout.unet.context_width = 128, "gives texts 64 wide and its UNet reads 128"),
    (|layout| layout.text.vocabulary = 1000, "has 1000 tokens and 77 positions"),
    (|layout| layout.text.positions = 32, "has 49408 tokens and 32 positions"),
    (|layout| layout.unet.linear_projections = true, "is 32 channels wide on one level: multiples of 64 are known"),
    (|layout| layout.text.width = 96, "the text encoder is 96 wide: expected a multiple of 64"),
];

fn odd(change: fn(&mut Layout)) -> Tensors {
    let mut layout = tiny();
    change(&mut layout);
    tensors(&layout)
}

/// Files of models that nothing here can use, each in a folder of its own.
#[cfg(feature = "nn")]
pub(crate) fn odd_models() -> Vec<(tempfile::TempDir, std::path::PathBuf)> {
    let others = [with_channels(9), with_channels(8), renamed("middle_block", "gone")];
    let all = ODD.iter().map(|(change, _)| odd(*change)).chain(others);
    all.map(|tensors| {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), tensors, &[]).path().to_path_buf();
        (folder, path)
    })
    .collect()
}

#[test]
fn sizes_that_no_network_here_computes_are_refused() {
    for (change, expected) in ODD {
        let error = refused(odd(*change));
        assert!(error.contains(expected), "expected {expected}: {error}");
    }
}

#[test]
fn what_a_model_says_that_it_predicts_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let said = |more: &[(&str, &[usize])], metadata: &[(&str, &str)]| {
        Predicts::of(&written(folder.path(), with(more), metadata)).map_err(|error| format!("{error:#}"))
    };
    let mark = |name: &'static str| -> (&str, &[usize]) { (name, &[0]) };
    let (v, ztsnr) = (mark("v_pred"), mark("ztsnr"));
    let spec = "modelspec.prediction_type";
    assert_eq!(said(&[], &[]), Ok(None));
    assert_eq!(said(&[v], &[]), Ok(Some(Predicts::Velocity)));
    assert_eq!(said(&[v, ztsnr], &[]), Ok(Some(Predicts::VelocityAtZeroSnr)));
    assert_eq!(said(&[], &[(spec, "v")]), Ok(Some(Predicts::Velocity)));
    assert_eq!(said(&[], &[(spec, "v_prediction")]), Ok(Some(Predicts::Velocity)));
    assert_eq!(said(&[], &[(spec, "epsilon")]), Ok(Some(Predicts::Epsilon)));
    assert_eq!(said(&[ztsnr], &[(spec, "v")]), Ok(Some(Predicts::VelocityAtZeroSnr)));
    assert!(said(&[], &[(spec, "sample")]).unwrap_err().contains("says that it predicts \"sample\""));
    assert!(said(&[ztsnr], &[]).unwrap_err().contains("noise alone cannot be predicted from"));
}
