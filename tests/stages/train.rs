//! `train` and its sub-stage `latents`, on the example's model and photos.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use loramill::engine::cache::digest::Digest;
use loramill::engine::kind::item::{Artifact, Item};
use loramill::engine::kind::stage::{Content, Context, Draft, Ended, Files, Form, Progress, Stage, StopRequest};
use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::data::{decode, encode, resize};
use loramill::sd::lora::account::account;
use loramill::sd::lora::file::Lora;
use loramill::stages::train;

use crate::stages::velocity::marked;
use crate::stages::{Shelf, load, resolved};

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny").join(path)
}

/// Attributes and file of a checkpoint.
type Published = (BTreeMap<String, String>, Vec<u8>);

/// A shelf with the example's model, a state folder and what was published.
struct Workshop {
    shelf: Shelf,
    base: Artifact,
    base_file: PathBuf,
    state: tempfile::TempDir,
    shared: Mutex<HashMap<String, Arc<dyn Any + Send + Sync>>>,
    published: Mutex<BTreeMap<String, Published>>,
    /// What the user wants, by how often the stage has asked.
    requests: Mutex<BTreeMap<u64, StopRequest>>,
    asked: Mutex<u64>,
}

impl Workshop {
    fn new() -> Self {
        Self::with(example("models/tiny-sd.safetensors"))
    }

    fn with(base_file: PathBuf) -> Self {
        let base = Artifact { digest: Digest::of(b"tiny-sd"), size: 1, extension: "safetensors".into() };
        Self {
            shelf: Shelf::default(),
            base,
            base_file,
            state: tempfile::tempdir().unwrap(),
            shared: Mutex::default(),
            published: Mutex::default(),
            requests: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    /// The example's first photos with their captions.
    fn photos(&self, count: usize) -> Vec<Item> {
        let mut paths: Vec<PathBuf> = fs::read_dir(example("images")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().unwrap() != "txt");
        paths.sort();
        let item = |path: &PathBuf| {
            let picture = decode::decode(&fs::read(path).unwrap()).unwrap().picture;
            let picture = encode::png(&resize::crop(&picture, 64, 64));
            let caption = fs::read(path.with_extension("txt")).unwrap();
            let fields = [("image", self.shelf.put(picture, "png")), ("caption", self.shelf.put(caption, "txt"))];
            self.shelf.item(path.file_stem().unwrap().to_str().unwrap(), fields)
        };
        paths.iter().take(count).map(item).collect()
    }

    /// The latents that the sub-stage makes of pictures.
    fn latents(&self, stage: &dyn Stage, pictures: Vec<Item>) -> Vec<Item> {
        let sub = stage.sub_stages().pop().expect("training encodes its pictures");
        assert_eq!(sub.name, "latents");
        let Form::Items(items) = sub.stage.form() else { panic!("latents are items") };
        let worker = items.open(self).unwrap();
        let works = items.expand(&resolved([("images", pictures), ("base", vec![self.base_item()])]), self).unwrap();
        works
            .iter()
            .flat_map(|work| worker.run(work, self).unwrap().into_iter().map(|draft| self.shelf.keep(work, draft)))
            .collect()
    }

    fn base_item(&self) -> Item {
        self.shelf.item("base", [("model", self.base.clone())])
    }

    fn train(&self, stage: &dyn Stage, latents: &[Item]) -> anyhow::Result<Ended> {
        *self.asked.lock().unwrap() = 0;
        let Form::Whole(form) = stage.form() else { panic!("a whole stage was expected") };
        form.run(&resolved([("images", latents.to_vec()), ("base", vec![self.base_item()])]), self)
    }

    fn ask_after(&self, after: u64, request: StopRequest) {
        self.requests.lock().unwrap().insert(after, request);
    }

    fn names(&self) -> Vec<String> {
        self.published.lock().unwrap().keys().cloned().collect()
    }
}

impl Files for Workshop {
    fn path(&self, artifact: &Artifact) -> anyhow::Result<PathBuf> {
        if *artifact == self.base { Ok(self.base_file.clone()) } else { self.shelf.path(artifact) }
    }

    fn read(&self, artifact: &Artifact) -> anyhow::Result<Vec<u8>> {
        self.shelf.read(artifact)
    }
}

impl Context for Workshop {
    fn scratch(&self) -> &Path {
        self.shelf.scratch()
    }

    fn device(&self) -> &str {
        "cpu"
    }

    fn publish(&self, draft: Draft) -> anyhow::Result<()> {
        let bytes = match draft.fields["lora"].clone() {
            Content::Bytes { bytes, extension } => {
                self.shelf.put(bytes.clone(), extension);
                bytes
            }
            Content::Same(artifact) => self.shelf.bytes(&artifact),
            Content::File { .. } => panic!("a LoRA comes as bytes"),
        };
        self.published.lock().unwrap().insert(draft.name, (draft.attributes, bytes));
        Ok(())
    }

    fn state(&self) -> anyhow::Result<&Path> {
        Ok(self.state.path())
    }

    fn shared(
        &self,
        key: &str,
        make: &mut dyn FnMut() -> anyhow::Result<Arc<dyn Any + Send + Sync>>,
    ) -> anyhow::Result<Arc<dyn Any + Send + Sync>> {
        let mut shared = self.shared.lock().unwrap();
        if !shared.contains_key(key) {
            shared.insert(key.to_string(), make()?);
        }
        Ok(shared[key].clone())
    }

    fn progress(&self, _progress: Progress) {}

    fn say(&self, message: &str) {
        self.shelf.say(message);
    }

    fn stop_request(&self) -> StopRequest {
        let mut asked = self.asked.lock().unwrap();
        *asked += 1;
        self.requests.lock().unwrap().remove(&asked).unwrap_or(StopRequest::GoOn)
    }
}

const SMALL: &str = "{ base: base, images: flip, instance_prompt: 'star, [filewords]', epochs: 2, save_every: 1, batch_size: 2, \
                     network: { rank: 2 }, learning_rate: { unet: 1e-3, text_encoder: 1e-3 }, precision: fp16 }";

#[test]
fn every_wrong_number_is_told_at_once() {
    let wrong = "{ base: base, images: flip, epochs: 0, save_every: 0, batch_size: 0, network: { rank: 0, alpha: 0 }, \
                 learning_rate: { unet: 0, text_encoder: 0 }, max_token_length: 76 }";
    let problems = load(&train::KIND, wrong).err().expect("the numbers are wrong");
    let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "`epochs` must be at least 1",
            "`save_every` must be at least 1",
            "`batch_size` must be at least 1",
            "`rank` must be at least 1",
            "`alpha` must be above 0",
            "`unet` and `text_encoder` are both 0: nothing would learn",
            "`max_token_length` must be 75, 150 or 225",
        ]
    );
}

#[test]
fn what_is_left_out_counts_as_what_it_stands_for() {
    let components = |yaml: &str| load(&train::KIND, yaml).expect("the params are sound").components();
    let short = components("{ base: base, images: flip }");
    let long = "{ base: base, images: flip, instance_prompt: '[filewords]', instance_token: star, seed: 42, epochs: 100, \
                network: { rank: 8, alpha: 8 }, learning_rate: { unet: 0.0001, text_encoder: 5e-5 } }";
    assert_eq!(short, components(long));
    assert_ne!(short, components("{ base: base, images: flip, seed: 43 }"));
}

#[test]
fn the_forecast_names_every_checkpoint() {
    let stage = load(&train::KIND, "{ base: base, images: flip, epochs: 25, stop_at: 22, save_every: 10 }").expect("sound");
    let Form::Whole(form) = stage.form() else { panic!("a whole stage was expected") };
    let shelf = Shelf::default();
    let items = (0..3).map(|i| shelf.item(&format!("{i}"), [])).collect();
    let mut inputs = resolved([("images", items)]);
    let known = form.forecast(&inputs);
    inputs.complete = false;
    let guessed = form.forecast(&inputs);
    let texts = |forecast: Vec<(String, BTreeMap<String, String>)>| -> Vec<String> {
        forecast.into_iter().map(|(name, attributes)| format!("{name} {attributes:?}")).collect()
    };
    let expected = [
        r#"e010 {"epoch": "10", "step": "30"}"#,
        r#"e020 {"epoch": "20", "step": "60"}"#,
        r#"e022 {"epoch": "22", "step": "66"}"#,
    ];
    assert_eq!(texts(known), expected);
    assert_eq!(texts(guessed), [r#"e010 {"epoch": "10"}"#, r#"e020 {"epoch": "20"}"#, r#"e022 {"epoch": "22"}"#]);
}

#[test]
fn an_interrupted_training_publishes_the_same_bytes() {
    let stage = load(&train::KIND, SMALL).expect("sound");
    let whole = Workshop::new();
    let latents = whole.latents(&*stage, whole.photos(6));
    assert_eq!(whole.train(&*stage, &latents).unwrap(), Ended::Done);
    let expected = whole.published.lock().unwrap().clone();
    assert_eq!(whole.names(), ["e001", "e002"]);
    assert_eq!(expected["e002"].0, BTreeMap::from([("epoch", "2"), ("step", "12")].map(|(n, v)| (n.to_string(), v.to_string()))));

    let broken = Workshop::new();
    let latents = broken.latents(&*stage, broken.photos(6));
    for _ in 0..2 {
        broken.ask_after(3, StopRequest::Interrupt);
        assert_eq!(broken.train(&*stage, &latents).unwrap(), Ended::Interrupted);
    }
    assert_eq!(broken.train(&*stage, &latents).unwrap(), Ended::Done);
    assert!(*broken.published.lock().unwrap() == expected);
}

#[test]
fn stopping_publishes_what_there_is() {
    let stage = load(&train::KIND, SMALL).expect("sound");
    let workshop = Workshop::new();
    let latents = workshop.latents(&*stage, workshop.photos(6));
    workshop.ask_after(5, StopRequest::Stop);
    assert_eq!(workshop.train(&*stage, &latents).unwrap(), Ended::Stopped("stopped at epoch 1 of 2".into()));
    assert_eq!(workshop.names(), ["e001", "s00000008"]);
}

#[test]
fn a_checkpoint_is_a_kohya_file() {
    let stage = load(&train::KIND, SMALL).expect("sound");
    let workshop = Workshop::new();
    let latents = workshop.latents(&*stage, workshop.photos(2));
    workshop.train(&*stage, &latents).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    fs::write(&path, &workshop.published.lock().unwrap()["e002"].1).unwrap();
    let file = ModelFile::open(&path).unwrap();
    assert_eq!(file.metadata()["ss_epoch"], "2");
    // Four images seen, two a step.
    assert_eq!(file.metadata()["ss_steps"], "2");
    assert_eq!(file.metadata()["modelspec.trigger_phrase"], "star");
    assert_eq!(file.metadata()["modelspec.prediction_type"], "epsilon");
    assert_eq!(file.metadata()["ss_num_train_images"], "2");
    let told = account(&file).unwrap();
    assert_eq!(told.not_said, Vec::<&str>::new());
    assert_eq!(told.folders, [("1_star".to_string(), 2, 1)]);
    assert!(!told.tags.is_empty());
    assert_eq!(file.metadata()["ss_network_dim"], "2");
    let up = "lora_te_text_model_encoder_layers_1_mlp_fc2.lora_up.weight";
    assert!(file.read_f32(up).unwrap().iter().any(|value| *value != 0.0));
    // Seven transformers of twelve layers in the UNet, two layers of six in the text encoder.
    assert_eq!(Lora::read(&file).unwrap().modules.len(), 7 * 12 + 2 * 6);
}

#[test]
fn a_training_on_a_model_that_predicts_velocity_learns_another_lora_and_says_so() {
    let stage = load(&train::KIND, SMALL).expect("sound");
    let folder = tempfile::tempdir().unwrap();
    let trained = |base: PathBuf| {
        let workshop = Workshop::with(base);
        let latents = workshop.latents(&*stage, workshop.photos(2));
        workshop.train(&*stage, &latents).unwrap();
        let path = folder.path().join("lora.safetensors");
        fs::write(&path, &workshop.published.lock().unwrap()["e002"].1).unwrap();
        let file = ModelFile::open(&path).unwrap();
        let values: Vec<Vec<f32>> = file.tensors().keys().map(|name| file.read_f32(name).unwrap()).collect();
        let said = workshop.shelf.said.lock().unwrap().iter().any(|line| line.contains("velocity"));
        (values, file.metadata()["modelspec.prediction_type"].clone(), said)
    };
    let (of_noise, type_of_noise, said_of_noise) = trained(example("models/tiny-sd.safetensors"));
    // Without a mark it is the same model.
    let (unmarked, _, _) = trained(marked(folder.path(), &[], &[]));
    let (of_velocity, type_of_velocity, said_of_velocity) = trained(marked(folder.path(), &["v_pred"], &[]));
    assert!(of_noise == unmarked && of_noise != of_velocity);
    assert_eq!((type_of_noise.as_str(), said_of_noise), ("epsilon", false));
    assert_eq!((type_of_velocity.as_str(), said_of_velocity), ("v", true));
}

#[test]
fn pictures_of_two_sizes_are_learnt_from() {
    let stage = load(&train::KIND, SMALL).expect("sound");
    let workshop = Workshop::new();
    let latents = workshop.latents(&*stage, with_one_of(&workshop, 32, 64));
    workshop.train(&*stage, &latents).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    fs::write(&path, &workshop.published.lock().unwrap()["e002"].1).unwrap();
    let file = ModelFile::open(&path).unwrap();
    assert_eq!(file.metadata()["ss_enable_bucket"], "True");
    let buckets: serde_json::Value = serde_json::from_str(&file.metadata()["ss_bucket_info"]).unwrap();
    let bucket = |width: u32, height: u32, count: u32| serde_json::json!({ "resolution": [width, height], "count": count });
    // The example's VAE scales down by 4 where Stable Diffusion's do by 8.
    assert_eq!(buckets["buckets"], serde_json::json!({ "0": bucket(64, 128, 1), "1": bucket(128, 128, 2) }));
}

#[test]
fn a_picture_that_the_network_cannot_halve_is_refused() {
    let stage = load(&train::KIND, SMALL).expect("sound");
    let workshop = Workshop::new();
    let latents = workshop.latents(&*stage, with_one_of(&workshop, 36, 64));
    let error = workshop.train(&*stage, &latents).unwrap_err().to_string();
    assert!(
        error.starts_with("the latent of `narrow` is 9 by 16, and this model learns from sides in multiples of 4"),
        "{error}"
    );
}

fn with_one_of(workshop: &Workshop, width: u32, height: u32) -> Vec<Item> {
    let mut photos = workshop.photos(2);
    let narrow = encode::png(&image::RgbImage::new(width, height));
    photos.push(workshop.shelf.item("narrow", [("image", workshop.shelf.put(narrow, "png"))]));
    photos
}

#[test]
fn one_picture_and_a_long_caption_are_remarked_on() {
    let stage = load(&train::KIND, "{ base: base, images: flip }").expect("sound");
    let shelf = Shelf::default();
    let item = shelf.item("alone", [("caption", shelf.put("word ".repeat(80).into_bytes(), "txt"))]);
    let lines = stage.lint(&resolved([("images", vec![item])]), &shelf);
    assert_eq!(
        lines,
        [
            "`alone` is the only picture: a LoRA learns it by heart",
            // The trigger and a comma come first.
            "the text of `alone` is 7 tokens longer than the 75 that are read: what it says last is not learned",
        ]
    );
}

#[test]
fn before_a_training_without_any_caption_that_is_said_once() {
    let stage = load(&train::KIND, "{ base: base, images: flip }").expect("sound");
    let shelf = Shelf::default();
    let empty = |name: &str| shelf.item(name, [("caption", shelf.put(Vec::new(), "txt"))]);
    let told = |items: Vec<_>| stage.lint(&resolved([("images", items)]), &shelf);
    let lines = told(vec![empty("a"), empty("b")]);
    assert_eq!(lines.iter().filter(|line| line.starts_with("all 2 captions are empty")).count(), 1, "{lines:?}");
    let worded = shelf.item("b", [("caption", shelf.put(b"a star".to_vec(), "txt"))]);
    assert!(told(vec![empty("a"), worded]).iter().all(|line| !line.contains("captions are empty")));
}
