//! Merging and extracting against sd-scripts' formulas (`generate_lora.py`), and both against each other on the example's model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use loramill::sd::checkpoint::convert::{self, Target};
use loramill::sd::checkpoint::layout::Layout;
use loramill::sd::checkpoint::metadata;
use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::checkpoint::modules::lora_targets;
use loramill::sd::checkpoint::safetensors;
use loramill::sd::checkpoint::tensor::{Dtype, TensorData};
use loramill::sd::lora::convert::{Converted, converted};
use loramill::sd::lora::extract::{self, Extraction};
use loramill::sd::lora::file::{Lora, LoraNames};
use loramill::sd::lora::matrix::Matrix;
use loramill::sd::lora::merge::Merge;
use loramill::sd::lora::module::LoraModule;
use loramill::sd::lora::svd;

use crate::formats::keys::tiny_sd;
use crate::parity::{assert_close, draw};

fn reference() -> ModelFile {
    ModelFile::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/lora/fixture.safetensors")).unwrap()
}

/// `decaying` of the generator.
fn decaying(name: &str, rows: usize, columns: usize) -> Matrix {
    let scale: Vec<f32> = (1..=columns).map(|column| (column as f64).powf(-0.5) as f32).collect();
    let values = draw(name, &[rows, columns], 1.0);
    Matrix::new(rows, columns, values.iter().enumerate().map(|(index, value)| value * scale[index % columns]).collect())
}

#[test]
fn a_layers_change_is_the_one_sd_scripts_adds() {
    let reference = reference();
    for (kind, kernel, outputs, inputs) in
        [("linear", None, 6, 10), ("conv1x1", Some([1, 1]), 6, 10), ("conv3x3", Some([3usize, 3]), 6, 4)]
    {
        let area: usize = kernel.map_or(1, |[height, width]| height * width);
        let module = LoraModule {
            down: Matrix::new(3, inputs * area, draw(&format!("merge.{kind}.down"), &[3, inputs * area], 1.0)),
            up: Matrix::new(outputs, 3, draw(&format!("merge.{kind}.up"), &[outputs, 3], 1.0)),
            alpha: 2.0,
            kernel,
        };
        let weight = draw(&format!("merge.{kind}.weight"), &[outputs, inputs * area], 1.0);
        let merged: Vec<f32> = weight.iter().zip(&module.delta().values).map(|(weight, change)| weight + 0.7 * change).collect();
        // Sums of three products of about 1: a few units in the last place.
        assert_close(kind, &merged, &reference.read_f32(&format!("merge.{kind}")).unwrap(), 1e-6, 1e-6);
    }
}

#[test]
fn singular_values_are_those_of_numpy() {
    let reference = reference();
    for (name, rows, columns) in [("svd.square", 48, 48), ("svd.wide", 30, 200), ("svd.large", 300, 220)] {
        let expected = reference.read_f32(name).unwrap();
        let matrix = decaying(name, rows, columns);
        let full = svd::full(&matrix);
        // The fixture is rounded to f32.
        assert_close(name, &full.s, &expected, 0.0, 2e-7);
        assert_close(name, &product(&full).values, &matrix.values, 1e-5, 0.0);
    }
}

fn product(svd: &svd::Svd) -> Matrix {
    let mut scaled = svd.u.clone();
    for row in scaled.values.chunks_exact_mut(svd.s.len()) {
        row.iter_mut().zip(&svd.s).for_each(|(value, s)| *value *= s);
    }
    scaled.times(&svd.vt)
}

#[test]
fn the_randomised_decomposition_is_nearly_the_best_of_its_rank() {
    let matrix = decaying("svd.large", 300, 220);
    let rank = 8;
    let (full, random) = (svd::full(&matrix), svd::leading(&matrix, rank));
    assert_eq!((random.s.len(), random.u.columns, random.vt.rows), (rank, rank, rank));
    // The spectrum falls slowly, the hard case: neighbours differ by a few percent.
    assert_close("singular values", &random.s, &full.s[..rank], 0.0, 1e-3);
    let rest = |a: &Matrix, b: &Matrix| a.values.iter().zip(&b.values).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    let best = full.s[rank..].iter().map(|s| f64::from(*s).powi(2)).sum::<f64>().sqrt();
    let ours = rest(&matrix, &product(&random));
    assert!(ours <= best * 1.001, "left over {ours}, at best {best}");
    let repeated = svd::leading(&matrix, rank);
    assert!(repeated.u == random.u && repeated.s == random.s && repeated.vt == random.vt, "the same matrix gives the same bits");
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let matrix = decaying("svd.large", 300, 220);
    let with =
        |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| svd::leading(&matrix, 8));
    assert_eq!(with(1).vt, with(3).vt);
}

#[test]
fn factors_and_clamping_are_those_of_sd_scripts() {
    let reference = reference();
    for (name, rows, columns, rank) in [("wide", 24, 40, 4), ("tall", 40, 24, 8), ("short", 5, 30, 8)] {
        let read = |part: &str| {
            let name = format!("extract.{name}.{part}");
            let shape = reference.info(&name).unwrap().shape.clone();
            Matrix::new(shape[0], shape[1], reference.read_f32(&name).unwrap())
        };
        let (up, down) = (read("up"), read("down"));
        // Signs of singular vectors are free: the product is not.
        let ours = extract::factors(&decaying(&format!("extract.{name}"), rows, columns), rank);
        assert_eq!((ours.0.columns, ours.1.rows), (rank.min(rows), rank.min(rows)));
        assert_close(name, &ours.0.times(&ours.1).values, &up.times(&down).values, 1e-5, 0.0);
        // The clamp on torch's own factors, sign and all; torch finds the place between two values in f32.
        let (mut clamped_up, mut clamped_down) = (up, down);
        let bound = extract::clamp(&mut clamped_up, &mut clamped_down, 0.99);
        assert_close(name, &[bound], &reference.read_f32(&format!("extract.{name}.high")).unwrap(), 0.0, 1e-6);
        assert_close(name, &clamped_up.values, &read("up_clamped").values, 0.0, 1e-6);
        assert_close(name, &clamped_down.values, &read("down_clamped").values, 0.0, 1e-6);
    }
}

#[test]
fn hashes_are_those_of_sd_scripts() {
    let le = |values: Vec<f32>| TensorData::from_f32(&[values.len()], &values);
    let ramp = |count: usize, modulus: usize| (0..count).map(|i| (i % modulus) as f32 / 8.0).collect::<Vec<f32>>();
    let tensors = BTreeMap::from([
        ("b.ramp".to_string(), le(ramp(300_000, usize::MAX))),
        ("a.half".to_string(), le(ramp(40_000, 512)).cast(Dtype::F16).unwrap()),
        ("c.alpha".to_string(), TensorData::from_f32(&[], &[8.0])),
        (
            "d.long".to_string(),
            TensorData { dtype: Dtype::I64, shape: vec![5], bytes: (0..5i64).flat_map(i64::to_le_bytes).collect() },
        ),
    ]);
    let notes = [("ss_network_dim", "8"), ("ss_tags", "{\"ä\": 1}"), ("modelspec.title", "not hashed")];
    let mut metadata: BTreeMap<String, String> = notes.map(|(key, value)| (key.to_string(), value.to_string())).into();
    metadata::add_hashes(&tensors, &mut metadata).unwrap();
    let expected: [String; 2] = serde_json::from_str(&reference().metadata()["hashes"]).unwrap();
    assert_eq!([&metadata["sshs_model_hash"], &metadata["sshs_legacy_hash"]], [&expected[0], &expected[1]]);
}

/// A LoRA over every target of the example's model; alpha is half the rank.
pub(crate) fn drawn_lora(rank: usize, scale: f32) -> Lora {
    let layout = Layout::infer(&ModelFile::open(&tiny_sd()).unwrap()).unwrap();
    let mut lora = Lora::default();
    for layer in lora_targets(&layout) {
        let name = layer.module.kohya();
        let columns: usize = layer.shape[1..].iter().product();
        let module = LoraModule {
            down: Matrix::new(rank, columns, draw(&format!("{name}.down"), &[rank, columns], scale)),
            up: Matrix::new(layer.shape[0], rank, draw(&format!("{name}.up"), &[layer.shape[0], rank], scale)),
            alpha: rank as f32 / 2.0,
            kernel: (layer.shape.len() == 4).then(|| [layer.shape[2], layer.shape[3]]),
        };
        lora.modules.insert(layer.module, module);
    }
    lora
}

fn saved(lora: &Lora, names: LoraNames, path: &Path) -> ModelFile {
    let tensors = lora.tensors(names, Dtype::F32).unwrap();
    safetensors::write(path, &tensors, &lora.kohya_metadata(&tensors, &BTreeMap::new()).unwrap()).unwrap();
    ModelFile::open(path).unwrap()
}

fn merged(base: &ModelFile, loras: &[(Lora, f64)], dtype: Option<Dtype>, path: &Path) -> ModelFile {
    let merge = Merge::new(base, loras, dtype).unwrap();
    let target = if path.extension().is_some_and(|e| e == "ckpt") { Target::Torch } else { Target::Safetensors };
    convert::write(path, target, &merge.tensors(), |name| merge.tensor(name)).unwrap();
    ModelFile::open(path).unwrap()
}

#[test]
fn what_was_merged_is_extracted_again() {
    let folder = tempfile::tempdir().unwrap();
    let base = ModelFile::open(&tiny_sd()).unwrap();
    let lora = drawn_lora(4, 0.3);
    let tuned = merged(&base, &[(lora.clone(), 0.8)], Some(Dtype::F32), &folder.path().join("tuned.ckpt"));
    let how = Extraction { rank: 4, conv_rank: None, clamp_quantile: 1.0, min_diff: 1e-6 };
    let found = extract::extract(&tuned, &base, how, |_, _| Ok(())).unwrap();
    assert_eq!(found.modules.keys().collect::<Vec<_>>(), lora.modules.keys().collect::<Vec<_>>());
    for (name, module) in &found.modules {
        assert_eq!((module.rank(), module.alpha), (4, 4.0));
        let expected: Vec<f32> = lora.modules[name].delta().values.iter().map(|change| 0.8 * change).collect();
        // Weights of about 1 in f32, sums of 512 products.
        assert_close(&name.kohya(), &module.delta().values, &expected, 1e-5, 0.0);
    }
}

#[test]
fn an_untouched_text_encoder_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let base = ModelFile::open(&tiny_sd()).unwrap();
    let mut lora = drawn_lora(2, 0.3);
    lora.modules.retain(|module, _| module.kohya().starts_with("lora_unet_"));
    let tuned = merged(&base, &[(lora, 1.0)], Some(Dtype::F32), &folder.path().join("tuned.safetensors"));
    let how = Extraction { rank: 2, conv_rank: None, clamp_quantile: 0.99, min_diff: 1e-6 };
    let found = extract::extract(&tuned, &base, how, |_, _| Ok(())).unwrap();
    assert_eq!(found.modules.len(), 84);
    assert!(found.modules.keys().all(|module| module.kohya().starts_with("lora_unet_")));
    let error = extract::extract(&base, &base, how, |_, _| Ok(())).unwrap_err();
    assert!(format!("{error:#}").ends_with("have the same weights: there is nothing to extract"), "{error:#}");
}

#[test]
fn several_loras_add_up_and_the_rest_of_the_model_stays() {
    let folder = tempfile::tempdir().unwrap();
    let base = ModelFile::open(&tiny_sd()).unwrap();
    let (one, other) = (drawn_lora(2, 0.3), drawn_lora(3, 0.2));
    let loras = [(one.clone(), 0.5), (other.clone(), -1.0)];
    let merged = merged(&base, &loras, None, &folder.path().join("merged.safetensors"));
    assert_eq!(merged.tensors(), base.tensors(), "names, types and shapes are the base's");
    let layout = Layout::infer(&base).unwrap();
    let targets: BTreeMap<String, _> = lora_targets(&layout).into_iter().map(|layer| (layer.tensor, layer.module)).collect();
    for name in base.tensors().keys() {
        let Some(module) = targets.get(name) else {
            assert!(merged.read(name).unwrap() == base.read(name).unwrap(), "{name} changed");
            continue;
        };
        let (a, b) = (one.modules[module].delta(), other.modules[module].delta());
        let weight = base.read_f32(name).unwrap();
        let expected: Vec<f32> = (0..weight.len()).map(|i| weight[i] + 0.5 * a.values[i] - b.values[i]).collect();
        // Stored in fp16: half a unit of 2^-10.
        assert_close(name, &merged.read_f32(name).unwrap(), &expected, 1e-6, 5e-4);
    }
}

#[test]
fn a_lora_of_another_model_is_refused() {
    let base = ModelFile::open(&tiny_sd()).unwrap();
    let mut lora = drawn_lora(2, 0.3);
    let (name, mut module) = lora.modules.pop_first().unwrap();
    let mut stranger = name.clone();
    stranger.path = stranger.path.replace("layers.0", "layers.7");
    lora.modules.insert(stranger, module.clone());
    let error = Merge::new(&base, &[(lora.clone(), 1.0)], None).err().unwrap();
    assert!(
        format!("{error:#}").starts_with("the LoRA changes `lora_te_text_model_encoder_layers_7_mlp_fc1`, which `"),
        "{error:#}"
    );
    lora.modules.retain(|module, _| !module.path.contains("layers.7"));
    module.down = Matrix::zeros(2, 99);
    lora.modules.insert(name, module);
    let error = Merge::new(&base, &[(lora, 1.0)], None).err().unwrap();
    assert!(format!("{error:#}").contains("is for a weight of shape [256, 99]"), "{error:#}");
}

#[test]
fn every_naming_of_a_lora_reads_as_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let lora = drawn_lora(4, 0.3);
    let kohya = Lora::read(&saved(&lora, LoraNames::Kohya, &folder.path().join("kohya.safetensors"))).unwrap();
    assert_eq!(kohya.modules, lora.modules);
    let diffusers = Lora::read(&saved(&lora, LoraNames::Diffusers, &folder.path().join("diffusers.safetensors"))).unwrap();
    assert_eq!(diffusers.modules.keys().collect::<Vec<_>>(), lora.modules.keys().collect::<Vec<_>>());
    for (name, module) in &diffusers.modules {
        assert_eq!(module.scale(), 1.0);
        // The scale moved into a factor: one more rounding.
        assert_close(&name.kohya(), &module.delta().values, &lora.modules[name].delta().values, 1e-6, 1e-6);
    }

    // The names of peft, of diffusers before peft, and of its first attention processors.
    let plain = saved(&lora, LoraNames::Diffusers, &folder.path().join("plain.safetensors"));
    let renamed = |rename: &dyn Fn(&str) -> String| {
        let tensors = plain.tensors().keys().map(|name| (rename(name), plain.read(name).unwrap())).collect();
        let path = folder.path().join("renamed.safetensors");
        safetensors::write(&path, &tensors, &BTreeMap::new()).unwrap();
        Lora::read(&ModelFile::open(&path).unwrap()).unwrap().modules
    };
    let peft = |name: &str| format!("base_model.model.{}", name.trim_start_matches("unet.").trim_start_matches("text_encoder."));
    assert_eq!(renamed(&peft), diffusers.modules);
    let older = |name: &str| name.replace("lora_A.weight", "lora.down.weight").replace("lora_B.weight", "lora.up.weight");
    assert_eq!(renamed(&older), diffusers.modules);
    let linear = |name: &str| name.replace("lora_A", "lora_linear_layer.down").replace("lora_B", "lora_linear_layer.up");
    assert_eq!(renamed(&linear), diffusers.modules);
    let processors = |name: &str| {
        let mut name = older(name);
        for (layer, word) in [("to_q", "to_q_lora"), ("to_k", "to_k_lora"), ("to_v", "to_v_lora"), ("to_out.0", "to_out_lora")] {
            name = name.replace(&format!(".{layer}.lora."), &format!(".processor.{word}."));
        }
        name
    };
    assert_eq!(renamed(&processors), diffusers.modules);
    let te1 = saved(&lora, LoraNames::Kohya, &folder.path().join("kohya.safetensors"));
    let tensors = te1.tensors().keys().map(|name| (name.replace("lora_te_", "lora_te1_"), te1.read(name).unwrap())).collect();
    safetensors::write(&folder.path().join("te1.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    assert_eq!(Lora::read(&ModelFile::open(&folder.path().join("te1.safetensors")).unwrap()).unwrap().modules, lora.modules);
}

#[test]
fn alpha_is_the_rank_where_it_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let lora = drawn_lora(4, 0.3);
    let mut tensors = lora.tensors(LoraNames::Kohya, Dtype::F32).unwrap();
    tensors.retain(|name, _| !name.ends_with(".alpha"));
    // What diffusers notes beside its own names holds there only.
    let path = folder.path().join("missing.safetensors");
    safetensors::write(&path, &tensors, &BTreeMap::new()).unwrap();
    assert!(Lora::read(&ModelFile::open(&path).unwrap()).unwrap().modules.values().all(|module| module.alpha == 4.0));
    let note = r#"{"unet.lora_alpha": 2, "unet.alpha_pattern": {"attn1.to_q": 8}, "text_encoder.lora_alpha": 1}"#;
    let mut lora = drawn_lora(4, 0.3);
    lora.modules.values_mut().for_each(|module| module.alpha = 4.0);
    let tensors = lora.tensors(LoraNames::Diffusers, Dtype::F32).unwrap();
    safetensors::write(&path, &tensors, &BTreeMap::from([("lora_adapter_metadata".to_string(), note.to_string())])).unwrap();
    for (name, module) in Lora::read(&ModelFile::open(&path).unwrap()).unwrap().modules {
        let expected = if name.path.ends_with("attn1.to_q") {
            8.0
        } else if name.kohya().starts_with("lora_te") {
            1.0
        } else {
            2.0
        };
        assert_eq!(module.alpha, expected, "{name}");
    }
}

#[test]
fn a_broken_lora_is_named_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.safetensors");
    let refused = |tensors: &[(&str, &[usize], f32)]| {
        let tensor = |(name, shape, value): &(&str, &[usize], f32)| {
            (name.to_string(), TensorData::from_f32(shape, &vec![*value; shape.iter().product()]))
        };
        safetensors::write(&path, &tensors.iter().map(tensor).collect(), &BTreeMap::new()).unwrap();
        format!("{:#}", Lora::read(&ModelFile::open(&path).unwrap()).unwrap_err())
            .split_once("broken.safetensors`: ")
            .unwrap()
            .1
            .to_string()
    };
    let (down, up) =
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight");
    let module = "module `lora_unet_mid_block_attentions_0_proj_in`";
    assert_eq!(refused(&[(down, &[2, 4], 0.0)]), format!("{module}: it has no up factor (`lora_up.weight`)"));
    let error = refused(&[(down, &[2, 4], 0.0), (up, &[4, 3], 0.0)]);
    assert_eq!(error, format!("{module}: its factors do not fit: down [2, 4], up [4, 3]"));
    let error = refused(&[(down, &[2, 4], 0.0), (up, &[4, 2], f32::NAN)]);
    assert_eq!(error, format!("{module}: it holds a value that is not finite: the training that made it broke"));
    let error = refused(&[("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", &[2, 4], 0.0)]);
    assert!(error.ends_with("belongs to a LoHa, which is no LoRA: LoRA and LoCon are read"), "{error}");
    let error = refused(&[("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", &[2, 4], 0.0)]);
    assert!(error.contains("SDXL (its second text encoder)"), "{error}");
    let error = refused(&[("0", &[4, 2], 0.0), ("1", &[2, 4], 0.0)]);
    assert!(error.starts_with("it names layers by LDM's blocks or by numbers, and fits neither"), "{error}");
}

#[test]
fn a_converted_lora_is_the_same_lora() {
    let folder = tempfile::tempdir().unwrap();
    let lora = drawn_lora(4, 0.3);
    let source = saved(&lora, LoraNames::Diffusers, &folder.path().join("source.safetensors"));
    let Converted { tensors, metadata, .. } = converted(&source, None, Some(LoraNames::Kohya), Some(Dtype::F16)).unwrap();
    assert_eq!(metadata["ss_network_dim"], "4");
    assert!(tensors.values().all(|tensor| tensor.dtype == Dtype::F16));
    let path = folder.path().join("kohya.safetensors");
    safetensors::write(&path, &tensors, &metadata).unwrap();
    for (name, module) in Lora::read(&ModelFile::open(&path).unwrap()).unwrap().modules {
        // Both factors rounded to fp16: relative 2^-11 each, on sums of four products of up to 1.
        assert_close(&name.kohya(), &module.delta().values, &lora.modules[&name].delta().values, 5e-4, 1e-3);
    }
    let error = converted(&ModelFile::open(&tiny_sd()).unwrap(), None, None, None).unwrap_err();
    assert!(format!("{error:#}").contains("is a model and no LoRA"), "{error:#}");
}

#[test]
fn a_model_goes_to_diffusers_names_and_back_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let base = ModelFile::open(&tiny_sd()).unwrap();
    let mut back = BTreeMap::new();
    for plan in convert::Plan::to_diffusers(&base, Some(Dtype::F32)).unwrap() {
        let path: PathBuf = folder.path().join(plan.place.unwrap().replace('/', "-"));
        plan.write(&path, Target::Safetensors).unwrap();
        let part = ModelFile::open(&path).unwrap();
        let plan = convert::Plan::to_ldm(&part, Some(Dtype::F16)).unwrap();
        for name in plan.tensors().keys() {
            let whole = if base.tensors().contains_key(name) { name.clone() } else { format!("first_stage_model.{name}") };
            back.insert(whole, plan.tensor(name).unwrap());
        }
    }
    assert_eq!(back.len(), base.tensors().len());
    for (name, tensor) in back {
        assert!(tensor == base.read(&name).unwrap(), "{name}");
    }
}

/// Files for `check_written.py`, which gives them to torch and diffusers.
#[test]
fn files_for_the_original_programs_are_written() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("formats");
    std::fs::create_dir_all(&folder).unwrap();
    let base = ModelFile::open(&tiny_sd()).unwrap();
    let lora = drawn_lora(4, 0.3);
    saved(&lora, LoraNames::Kohya, &folder.join("kohya.safetensors"));
    saved(&lora, LoraNames::Diffusers, &folder.join("diffusers.safetensors"));
    let merged = merged(&base, &[(lora, 0.8)], None, &folder.join("merged.ckpt"));
    assert_eq!(merged.tensors(), base.tensors());
}
