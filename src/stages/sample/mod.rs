//! The kind `sample`: pictures drawn with a model and its LoRA checkpoints, and a sheet of all of them.
//!
//! ```text
//! prompt_use        one prompt of the list, with settings of its own
//! picture_settings  all settings of one picture, as they stand in its key
//! sheet             which picture stands where in the sheet
//! ```

pub mod picture_settings;
pub mod prompt_use;
pub mod sheet;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

use crate::engine::kind::input_use::{Companion, ImpliedInput};
use crate::engine::kind::item::{Fields, Item};
use crate::engine::kind::params::Params;
use crate::engine::kind::reference::Reference;
use crate::engine::kind::stage::{
    Content, Context, Draft, Effort, Files, Finding, Form, ItemStage, Progress, Resolved, Stage, StopRequest, Work, Worker,
};
use crate::engine::kind::stage_kind::{LoadScope, StageKind};
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::Node;
use crate::sd::checkpoint::drawable;
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::data::{decode, encode, grid, png_text};
use crate::sd::device;
use crate::sd::diffusion::sampler::Sampler;
use crate::sd::drawing::studio::{LoraFile, Studio};
use crate::sd::training::instance_prompt::FILEWORDS;
use crate::stages::sample::picture_settings::PictureSettings;
use crate::stages::sample::prompt_use::{PromptSettings, PromptUse, check_grammar};
use crate::stages::sample::sheet::{ROW, Sheet};
use crate::stages::shared::headers;
use crate::stages::shared::linked::linked;
use crate::stages::shared::lora_use::{self, LoraUse};
use crate::stages::shared::size::Size;

/// An item stage on the device, one piece of work per picture. The sheet is a further output, made of the pictures.
pub const KIND: StageKind = StageKind {
    name: "sample",
    version: 2,
    writes: &["image", "grid"],
    passes_fields_on: false,
    load,
    ..StageKind::of::<SampleParams>()
};

crate::params! {
    /// Draws pictures to choose a checkpoint by: one per checkpoint, prompt, seed and strength, and a sheet of all of them.
    ///
    /// The first column is the base without a LoRA. Each PNG carries its settings as stable-diffusion-webui writes them, and the same seed
    /// gives there the same picture (with RNG: CPU). Only what is new is drawn: another prompt leaves the pictures of the others alone.
    pub struct SampleParams {
        /// The model to draw with: an input or another stage's model.
        input base: Reference => One["model"],
        /// Decodes the pictures in place of the base's own VAE.
        input vae: Option<Reference> = None => One["model"],
        /// The LoRAs, each alone (`train`) or with a strength (`{ from: train, strength: 0.8 }`), used together. At most one of them may
        /// select several checkpoints: those are the columns.
        input lora: Vec<LoraUse> = Vec::new() => Many["lora"],
        /// Whose first caption, by name, stands for `[filewords]`; the pictures that the first LoRA was trained on unless given.
        input images: Option<Reference> = None => Many["caption"],
        /// What to draw: texts in webui's grammar, or `{ text, negative, size, seed, steps, guidance, strength }`.
        result prompts: Vec<PromptUse>,
        /// What no picture shall show.
        result negative: String = String::new(),
        /// How noise becomes a picture.
        result sampler: Sampler = Sampler::EulerAncestral,
        /// Sampling steps.
        result steps: u64 = 20,
        /// CFG scale: how far to go from the negative prompt towards the prompt. 1 draws without the negative prompt.
        result guidance: f64 = 7.5,
        /// Side in pixels, or `[width, height]`; best the size of training.
        result size: Size = Size { width: 512, height: 512 },
        /// One picture for each.
        result seeds: Vec<u64> = vec![420_420],
        /// One picture for each, of each LoRA; multiplies the strengths in `lora`.
        result strengths: Vec<f64> = vec![1.0],
        /// Which of the text encoder's layers is used, from the end. By default what the LoRA was trained with, else 1, the last.
        result clip_skip: Option<u64> = None,
    }
}

/// Prompts and numbers must be such as can be drawn.
fn load(node: &Node, _: &LoadScope<'_>, diagnostics: &mut Diagnostics) -> Option<Box<dyn Stage>> {
    let params = SampleParams::decode_params(node, diagnostics)?;
    params.check(node, diagnostics).then(|| Box::new(params) as Box<dyn Stage>)
}

impl SampleParams {
    /// Reports what no picture can be drawn with.
    fn check(&self, node: &Node, diagnostics: &mut Diagnostics) -> bool {
        let at = |key: &str| node.get(key).unwrap_or(node);
        let mut problems: Vec<(&str, String)> = Vec::new();
        let prompts = || self.prompts.iter().map(|prompt| &prompt.0);
        if self.prompts.is_empty() {
            problems.push(("prompts", "`prompts` is empty: there is nothing to draw".into()));
        }
        if self.lacks_captions() && self.lora.is_empty() {
            problems.push(("prompts", "`[filewords]` needs `images:` or a LoRA, whose first caption takes its place".into()));
        }
        let steps = [("steps", self.steps)].into_iter().chain(prompts().filter_map(|p| Some(("prompts", p.steps?))));
        for (key, steps) in steps {
            let refusal = self.sampler.refuses(usize::try_from(steps).unwrap_or(usize::MAX));
            problems.extend(refusal.map(|refusal| (key, format!("{steps} steps: {refusal}"))));
        }
        let sizes = [("size", self.size)].into_iter().chain(prompts().filter_map(|p| Some(("prompts", p.size?))));
        for (key, size) in sizes.filter(|(_, size)| size.width % 8 != 0 || size.height % 8 != 0) {
            problems.push((key, format!("{}x{} pixels: each side must be a multiple of 8", size.width, size.height)));
        }
        let seeds = prompts().flat_map(|p| p.seed.iter().flatten()).map(|seed| ("prompts", *seed));
        for (key, seed) in self.seeds.iter().map(|seed| ("seeds", *seed)).chain(seeds) {
            if u32::try_from(seed).is_err() {
                problems.push((key, format!("the seed {seed} is too large: at most {}", u32::MAX)));
            }
        }
        if self.seeds.is_empty() || prompts().any(|p| p.seed.as_ref().is_some_and(Vec::is_empty)) {
            problems.push(("seeds", "a list of seeds is empty: there is nothing to draw".into()));
        }
        if self.strengths.is_empty() || prompts().any(|p| p.strength.as_ref().is_some_and(Vec::is_empty)) {
            problems.push(("strengths", "a list of strengths is empty: there is nothing to draw".into()));
        }
        if self.clip_skip == Some(0) {
            problems.push(("clip_skip", "`clip_skip` is at least 1, the last layer".into()));
        }
        for (key, problem) in &problems {
            diagnostics.report(&at(key).span, problem);
        }
        check_grammar(&self.negative, at("negative"), diagnostics) && problems.is_empty()
    }

    /// Whether a caption is needed and none is named.
    fn lacks_captions(&self) -> bool {
        self.images.is_none() && self.prompts.iter().any(|prompt| prompt.0.text.contains(FILEWORDS))
    }

    /// The settings of the pictures of one prompt without a LoRA; strengths of LoRAs come to them.
    fn settings(&self, prompt: &PromptSettings, text: &str, seed: u64) -> PictureSettings {
        let size = prompt.size.unwrap_or(self.size);
        PictureSettings {
            prompt: text.to_string(),
            negative: prompt.negative.clone().unwrap_or_else(|| self.negative.clone()),
            sampler: self.sampler.word().to_string(),
            steps: prompt.steps.unwrap_or(self.steps),
            guidance: prompt.guidance.unwrap_or(self.guidance),
            size: [size.width, size.height],
            seed,
            clip_skip: self.clip_skip,
            strengths: Vec::new(),
        }
    }
}

impl Stage for SampleParams {
    /// None: what decides a picture stands in its own work, so that one prompt more draws only its own pictures.
    fn components(&self) -> Vec<(String, serde_json::Value)> {
        Vec::new()
    }

    fn implied_inputs(&self) -> Vec<ImpliedInput> {
        let captions = ImpliedInput {
            param: "images".into(),
            through: "lora[0]".into(),
            theirs: "images",
            reads: &["caption"],
            purpose: "`[filewords]` in a prompt",
        };
        if self.lacks_captions() { vec![captions] } else { Vec::new() }
    }

    fn companions(&self) -> Vec<Companion> {
        (0..self.lora.len()).map(|index| lora_use::companion(&format!("lora[{index}]"))).collect()
    }

    fn examine(&self, files: &BTreeMap<String, PathBuf>) -> Vec<Finding> {
        let mut findings = headers::of_base(files, "base", |base| {
            let vae = files.get("vae").map(|vae| ModelFile::open(vae)).transpose()?;
            drawable::check(base, vae.as_ref())
        });
        for index in 0..self.lora.len() {
            findings.extend(headers::of_lora(files, "base", &format!("lora[{index}]")));
        }
        findings
    }

    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }

    fn uses_device(&self) -> bool {
        true
    }

    fn memory_savers(&self) -> Vec<String> {
        vec!["a smaller `size`".to_string()]
    }
}

impl ItemStage for SampleParams {
    fn expand(&self, inputs: &Resolved, files: &dyn Files) -> Result<Vec<Work>> {
        let filewords = first_caption(inputs.items("images"), files)?;
        let columns = self.columns(inputs)?;
        let mut works = Vec::new();
        for column in &columns {
            for (number, PromptUse(prompt)) in (1..).zip(&self.prompts) {
                let text = prompt.text.replace(FILEWORDS, &filewords);
                let strengths = prompt.strength.as_ref().unwrap_or(&self.strengths);
                for seed in prompt.seed.as_ref().unwrap_or(&self.seeds) {
                    let row = format!("p{number}-s{seed}");
                    let settings = self.settings(prompt, &text, *seed);
                    if column.loras.is_empty() {
                        works.push(column.work(&row, &row, &settings, None));
                        continue;
                    }
                    for strength in strengths {
                        let name = if strengths.len() > 1 { format!("{row}-w{strength}") } else { row.clone() };
                        let strengths = self.lora.iter().map(|lora| lora.strength * strength).collect();
                        let settings = PictureSettings { strengths, ..settings.clone() };
                        works.push(column.work(&name, &row, &settings, Some(*strength)));
                    }
                }
            }
        }
        Ok(works)
    }

    /// Pixels of all predictions.
    fn effort(&self, work: &Work, _item_size: Option<f64>) -> Option<Effort> {
        let settings = PictureSettings::of_values(&work.values).ok()?;
        let request = settings.request().ok()?;
        let predictions = request.sampler.predictions(request.steps) * if settings.guidance == 1.0 { 1 } else { 2 };
        let pixels = f64::from(settings.size[0]) * f64::from(settings.size[1]);
        Some(Effort { amount: predictions as f64 * pixels, like: work.inputs.get("base")?.digest.short() })
    }

    fn open<'a>(&'a self, _context: &dyn Context) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Painter))
    }

    fn finish_version(&self) -> u32 {
        2
    }

    fn finish(&self, outputs: &[Item], files: &dyn Files) -> Result<Vec<Draft>> {
        let sheet = Sheet::of(outputs);
        let mut cells = Vec::new();
        for cell in sheet.cells() {
            let picture = match cell.and_then(|item| item.fields.get("image")) {
                Some(image) => Some(decode::decode(&files.read(image)?)?.picture),
                None => None,
            };
            cells.push(picture);
        }
        let bytes = encode::png(&grid::draw(&sheet.row_labels(), &sheet.columns, &cells));
        Ok(vec![Draft::new("grid").field("grid", Content::Bytes { bytes, extension: "png" })])
    }
}

/// What `[filewords]` stands for. Training reads captions as plain text, so brackets in one are no emphasis.
fn first_caption(items: &[Item], files: &dyn Files) -> Result<String> {
    let Some(caption) = items.first().and_then(|item| item.fields.get("caption")) else { return Ok(String::new()) };
    let bytes = files.read(caption)?;
    let text = String::from_utf8(bytes).with_context(|| format!("the caption of `{}` is not UTF-8", items[0].name))?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let escape = |letter: char| if "()[]".contains(letter) { format!("\\{letter}") } else { letter.to_string() };
    Ok(words.join(" ").replace('\\', "").chars().map(escape).collect())
}

/// One checkpoint, or the base alone.
struct Column {
    /// First part of its pictures' names.
    name: String,
    inputs: Fields,
    /// The params that name its LoRAs.
    loras: Vec<String>,
    attributes: BTreeMap<String, String>,
}

impl SampleParams {
    /// The base, then each checkpoint in the order of its epoch, step and name.
    fn columns(&self, inputs: &Resolved) -> Result<Vec<Column>> {
        let mut models = Fields::from([("base", inputs.one("base", "model")?.clone())]);
        if self.vae.is_some() {
            models.insert("vae".into(), inputs.one("vae", "model")?.clone());
        }
        let mut columns =
            vec![Column { name: "base".into(), inputs: models.clone(), loras: Vec::new(), attributes: BTreeMap::new() }];
        let params: Vec<String> = (0..self.lora.len()).map(|index| format!("lora[{index}]")).collect();
        let many: Vec<&String> = params.iter().filter(|param| inputs.items(param).len() > 1).collect();
        ensure!(many.len() <= 1, "`{}` and `{}` both select several checkpoints: choose one of each but one", many[0], many[1]);
        let Some(varies) = many.first().copied().or(params.first()) else { return Ok(columns) };
        let mut checkpoints: Vec<&Item> = inputs.items(varies).iter().collect();
        let count = |item: &Item, key: &str| item.attributes.get(key).and_then(|value| value.parse::<u64>().ok());
        let variant = |item: &Item| item.name.rsplit_once('/').map(|(variant, _)| variant.to_string());
        checkpoints.sort_by_key(|item| (variant(item), count(item, "epoch"), count(item, "step"), item.name.clone()));
        for checkpoint in checkpoints {
            let mut column_inputs = models.clone();
            for param in &params {
                let item = if param == varies { Some(checkpoint) } else { inputs.items(param).first() };
                let Some(item) = item else { return Ok(columns) };
                let lora = item.fields.get("lora").with_context(|| format!("`{}` of `{param}` has no `lora`", item.name))?;
                column_inputs.insert(param.as_str().into(), lora.clone());
                lora_use::add_config(param, inputs, &mut column_inputs);
            }
            let attribute = |key: &str| Some((key.to_string(), checkpoint.attributes.get(key)?.clone()));
            // Checkpoints of several trainings together have the variant before their names: `rank=8/e020`.
            let (variant, own) = checkpoint.name.rsplit_once('/').unwrap_or(("", checkpoint.name.as_str()));
            let name = count(checkpoint, "epoch").map_or_else(|| own.to_string(), |epoch| format!("e{epoch:03}"));
            columns.push(Column {
                name: if variant.is_empty() { name } else { format!("{variant}/{name}") },
                inputs: column_inputs,
                loras: params.clone(),
                attributes: ["epoch", "step"].into_iter().filter_map(attribute).collect(),
            });
        }
        Ok(columns)
    }
}

impl Column {
    fn work(&self, name: &str, row: &str, settings: &PictureSettings, strength: Option<f64>) -> Work {
        let mut attributes = self.attributes.clone();
        attributes.insert(ROW.into(), row.to_string());
        attributes.insert("prompt".into(), settings.prompt.clone());
        attributes.insert("seed".into(), settings.seed.to_string());
        attributes.extend(strength.map(|strength| ("strength".to_string(), strength.to_string())));
        Work {
            name: format!("{}/{name}", self.name),
            origin: None,
            values: settings.values(),
            inputs: self.inputs.clone(),
            carry: Fields::new(),
            attributes,
        }
    }
}

/// Draws one picture after the other.
pub struct Painter;

impl Worker for Painter {
    fn run(&self, work: &Work, context: &dyn Context) -> Result<Vec<Draft>> {
        (linked()?.draw)(work, context)
    }
}

impl Painter {
    /// One picture.
    pub fn draw(work: &Work, context: &dyn Context) -> Result<Vec<Draft>> {
        let settings = PictureSettings::of_values(&work.values)?;
        let request = settings.request()?;
        let mut loras = Vec::new();
        for (index, strength) in settings.strengths.iter().enumerate() {
            let param = format!("lora[{index}]");
            let lora = work.inputs.get(param.as_str()).context("a strength without a LoRA")?;
            let config = lora_use::config(&param, &work.inputs, context)?;
            loras.push(LoraFile { path: context.path(lora)?, config, strength: *strength });
        }
        let clip_skip = settings.clip_skip.map(usize::try_from).transpose()?;
        let studio = studio(work, context)?;
        // A panic while another picture was drawn leaves nothing behind: the studio knows when its adapters are unfinished.
        let mut studio = studio.lock().unwrap_or_else(PoisonError::into_inner);
        let total = request.sampler.predictions(request.steps) as u64;
        let drawn = studio.draw(&request, &loras, clip_skip, &mut |done| {
            ensure!(context.stop_request() != StopRequest::Interrupt, "interrupted");
            context.progress(Progress { done: done as u64, total, unit: "steps", values: Vec::new() });
            Ok(())
        })?;
        for remark in &drawn.remarks {
            // Once in a run: each picture of a LoRA finds the same.
            context.shared(&format!("remark {remark}"), &mut || {
                context.say(remark);
                Ok(Arc::new(()))
            })?;
        }
        let bytes = png_text::png_with_text(&drawn.picture, png_text::PARAMETERS, &drawn.infotext.to_string());
        let draft = Draft { attributes: work.attributes.clone(), ..Draft::new(&work.name) };
        Ok(vec![draft.field("image", Content::Bytes { bytes, extension: "png" })])
    }
}

/// The model of this piece, loaded once for a whole run, whichever stage draws with it.
fn studio(work: &Work, context: &dyn Context) -> Result<Arc<Mutex<Studio>>> {
    let artifact = |name: &str| work.inputs.get(name);
    let digest = |name: &str| artifact(name).map_or("-".to_string(), |artifact| artifact.digest.to_hex());
    let key = format!("studio {} {} {}", digest("base"), digest("vae"), context.device());
    let shared = context.shared(&key, &mut || {
        let base = context.path(artifact("base").context("a picture without a base")?)?;
        let vae = artifact("vae").map(|vae| context.path(vae)).transpose()?;
        let studio = Studio::open(&base, vae.as_deref(), &device::named(context.device())?)?;
        studio.remarks().iter().for_each(|remark| context.say(remark));
        Ok(Arc::new(Mutex::new(studio)))
    })?;
    shared.downcast().ok().context("what is shared under this key is no studio")
}
