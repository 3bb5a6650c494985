//! What an extraction looks at, what it holds of a change, and what it says of the rest.

use std::collections::BTreeMap;
use std::path::Path;

use loramill::sd::checkpoint::convert::{self, Target};
use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::checkpoint::safetensors;
use loramill::sd::checkpoint::tensor::{Dtype, TensorData};
use loramill::sd::lora::extract::{Extraction, extract};
use loramill::sd::lora::file::{Lora, LoraNames};
use loramill::sd::lora::merge::Merge;

use crate::formats::tiny_sd;
use crate::parity::assert_close;

const HOW: Extraction = Extraction { rank: 4, conv_rank: None, clamp_quantile: 1.0, min_diff: 1e-6 };

/// The example's model in f32 with these amounts added to all values of tensors whose names contain the words.
fn tuned(folder: &Path, changes: &[(&str, f32)]) -> ModelFile {
    let base = ModelFile::open(&tiny_sd()).unwrap();
    let tensor = |name: &String| {
        let tensor = base.read(name).unwrap();
        let mut values = tensor.to_f32().unwrap();
        for (_, amount) in changes.iter().filter(|(word, _)| name.contains(word)) {
            // Of full rank, so that no small rank holds it all.
            values
                .iter_mut()
                .enumerate()
                .for_each(|(place, value)| *value += amount * ((place * 7919 % 101) as f32 / 50.0 - 1.0));
        }
        (name.clone(), TensorData::from_f32(&tensor.shape, &values))
    };
    let path = folder.join("tuned.safetensors");
    safetensors::write(&path, &base.tensors().keys().map(tensor).collect(), &BTreeMap::new()).unwrap();
    ModelFile::open(&path).unwrap()
}

fn extracted(changes: &[(&str, f32)], how: Extraction) -> Result<Lora, String> {
    let folder = tempfile::tempdir().unwrap();
    let tuned = tuned(folder.path(), changes);
    extract(&tuned, &ModelFile::open(&tiny_sd()).unwrap(), how, |_, _| Ok(())).map_err(|error| format!("{error:#}"))
}

/// `98.7` of a remark that begins so.
fn share(remark: &str) -> f64 {
    remark.split(' ').find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("{remark}"))
}

#[test]
fn what_lies_in_convolutions_is_measured_and_taken_in_with_conv_rank() {
    // The convolutions of the ResNets change more, and are far more numbers, than one layer of attention.
    let changes = [("in_layers.2.weight", 0.01), ("middle_block.1.transformer_blocks.0.attn1.to_q.weight", 0.003)];
    let lora = extracted(&changes, HOW).unwrap();
    let told =
        lora.remarks.iter().find(|remark| remark.contains("is in convolutions")).unwrap_or_else(|| panic!("{:?}", lora.remarks));
    assert!(told.ends_with("of the change is in convolutions and what belongs to them: use `conv_rank`"), "{told}");
    assert!(share(told) > 99.0, "{told}");
    assert!(lora.modules.values().all(|module| module.kernel.is_none_or(|kernel| kernel == [1, 1])));

    let lora = extracted(&changes, Extraction { conv_rank: Some(2), ..HOW }).unwrap();
    assert!(!lora.remarks.iter().any(|remark| remark.contains("is in convolutions")), "{:?}", lora.remarks);
    let ranks = |is_convolution: bool| {
        let of =
            lora.modules.values().filter(move |module| module.kernel.is_some_and(|kernel| kernel == [3, 3]) == is_convolution);
        of.map(|module| module.rank()).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!((ranks(true).into_iter().collect::<Vec<_>>(), ranks(false).contains(&4)), (vec![2], true));
    let tensors = lora.tensors(LoraNames::Kohya, Dtype::F32).unwrap();
    let metadata = lora.kohya_metadata(&tensors, &BTreeMap::new()).unwrap();
    assert_eq!(metadata["ss_network_args"], r#"{"conv_alpha":"2.0","conv_dim":"2"}"#);
    assert_eq!((metadata["ss_network_dim"].as_str(), metadata["ss_network_alpha"].as_str()), ("4", "4.0"));
}

#[test]
fn the_share_that_a_rank_holds_is_the_one_that_is_left_in_the_weights() {
    let changes = [("attn1.to_q.weight", 0.01)];
    let mut before = 0.0;
    for rank in [1, 4, 16] {
        let lora = extracted(&changes, Extraction { rank, ..HOW }).unwrap();
        let told = &lora.remarks[0];
        assert!(told.starts_with(&format!("rank {rank} holds ")) && told.ends_with(" of the change in its 84 layers"), "{told}");
        let held = share(told.split("holds ").nth(1).unwrap());
        assert!(held > before && held <= 100.0, "{told}");
        before = held;
    }
}

#[test]
fn the_same_weights_are_said_to_be_so_only_where_they_are() {
    let refused = |changes: &[(&str, f32)]| extracted(changes, HOW).unwrap_err();
    assert!(refused(&[]).ends_with("have the same weights: there is nothing to extract"));
    let error = refused(&[("in_layers.2.weight", 0.01)]);
    let expected = "differ only outside the layers that are looked at: 100.0 % of the change is in convolutions and what belongs to them: use `conv_rank`";
    assert!(error.ends_with(expected), "{error}");
    let error = refused(&[("out_layers.0.bias", 0.01)]);
    assert!(error.ends_with("100.0 % is in biases and norms, which no LoRA holds"), "{error}");
    let error = refused(&[("time_embed.0.weight", 0.01)]);
    assert!(error.contains("100.0 % is in layers that no LoRA adapts"), "{error}");
    let error = refused(&[("first_stage_model.decoder.conv_in.weight", 0.01)]);
    assert!(error.ends_with("differ only in the VAE, which no LoRA holds"), "{error}");
    let how = Extraction { min_diff: 0.1, ..HOW };
    let error = extracted(&[("encoder.layers.0.self_attn.q_proj.weight", 0.001)], how).unwrap_err();
    assert!(error.contains("in the text encoder: `min_diff` is 1e-1, so nothing is left to extract"), "{error}");
}

#[test]
fn a_text_encoder_or_vae_that_is_left_out_is_said() {
    let how = Extraction { min_diff: 0.1, ..HOW };
    let changes =
        [("self_attn.q_proj.weight", 0.001), ("attn1.to_q.weight", 0.01), ("first_stage_model.decoder.conv_in.weight", 0.01)];
    let lora = extracted(&changes, how).unwrap();
    let said = lora.remarks.join("; ");
    assert!(
        said.contains("the text encoder is left out: it differs by at most ") && said.contains("`min_diff` is 1e-1"),
        "{said}"
    );
    assert!(said.ends_with("the VAEs differ too: no LoRA holds that"), "{said}");
}

#[test]
fn convolutions_come_back_as_they_were_tuned() {
    let folder = tempfile::tempdir().unwrap();
    let base = ModelFile::open(&tiny_sd()).unwrap();
    let name = "model.diffusion_model.middle_block.0.in_layers.2.weight";
    let tensor = |key: &String| {
        let tensor = base.read(key).unwrap();
        let mut values = tensor.to_f32().unwrap();
        if key == name {
            // Of rank one: a column times a row.
            let columns = values.len() / tensor.shape[0];
            let change = |place: usize| 0.01 * (place / columns % 7) as f32 * (place % columns % 5) as f32;
            values.iter_mut().enumerate().for_each(|(place, value)| *value += change(place));
        }
        (key.clone(), TensorData::from_f32(&tensor.shape, &values))
    };
    let path = folder.path().join("tuned.safetensors");
    safetensors::write(&path, &base.tensors().keys().map(tensor).collect(), &BTreeMap::new()).unwrap();
    let tuned = ModelFile::open(&path).unwrap();
    let loras = [(extract(&tuned, &base, Extraction { conv_rank: Some(1), ..HOW }, |_, _| Ok(())).unwrap(), 1.0)];
    assert!(
        loras[0].0.remarks[0].starts_with("rank 4, 1 in convolutions, holds 100.0 % of the change"),
        "{:?}",
        loras[0].0.remarks
    );
    let merge = Merge::new(&base, &loras, Some(Dtype::F32)).unwrap();
    let path = folder.path().join("again.safetensors");
    convert::write(&path, Target::Safetensors, &merge.tensors(), |name| merge.tensor(name)).unwrap();
    let again = ModelFile::open(&path).unwrap();
    assert_close(name, &again.read_f32(name).unwrap(), &tuned.read_f32(name).unwrap(), 1e-5, 0.0);
}
