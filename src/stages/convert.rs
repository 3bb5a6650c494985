//! The kind `convert`: a model or a LoRA in another container, type or naming.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;

use crate::engine::cache::digest::Digest;
use crate::engine::kind::input_use::Companion;
use crate::engine::kind::params::Params;
use crate::engine::kind::reference::Reference;
use crate::engine::kind::stage::{Content, Context, Draft, Files, Finding, Form, ItemStage, Resolved, Stage, Work, Worker};
use crate::engine::kind::stage_kind::{LoadScope, StageKind};
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::Node;
use crate::sd::checkpoint::carry::refuse_unreadable;
use crate::sd::checkpoint::convert::Plan;
use crate::sd::checkpoint::family::{Predicts, V_PRED};
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::{ckpt, safetensors};
use crate::sd::lora::convert::{Converted, converted};
use crate::sd::lora::file::LoraNames;
use crate::stages::shared::headers;
use crate::stages::shared::lora_use;
use crate::stages::shared::model_output::{Container, FileDtype, draft_of};

/// An item stage on the CPU, one piece of work per model or LoRA. A piece writes either `model` or `lora`; in diffusers' layout a
/// model becomes one output per network.
pub const KIND: StageKind = StageKind {
    name: "convert",
    // 2: lists of positions are whole numbers from 0; the strength and metadata of LoRAs.
    // 3: models say that they predict velocity.
    version: 3,
    writes: &["model", "lora"],
    passes_fields_on: false,
    load,
    ..StageKind::of::<ConvertParams>()
};

crate::choice! {
    /// Whose names a converted file uses.
    pub enum Layout {
        /// As in the file that is read.
        Keep = "keep",
        /// One file, as CompVis' LDM and webui name tensors.
        Ldm = "ldm",
        /// The weights of a diffusers folder: one file per network. Of a LoRA: `unet.….lora_A.weight`.
        Diffusers = "diffusers",
        /// Of a LoRA: `lora_unet_….lora_down.weight`, read by webui, sd-scripts, ComfyUI and diffusers.
        Kohya = "kohya"
    }
}

crate::params! {
    /// Puts a model or a LoRA into another container, number type or naming.
    ///
    /// Give `from` for models and `lora` for LoRAs.
    pub struct ConvertParams {
        /// Models: a stage's or an input. A VAE alone will do.
        input from: Option<Reference> = None => Many["model"],
        /// LoRAs, with the names of kohya, diffusers or peft.
        input lora: Option<Reference> = None => Many["lora"],
        /// Wraps the result.
        result to: Container = Container::Safetensors,
        /// Type of the numbers; a value too large for it is an error. `auto` leaves them as they are.
        result dtype: FileDtype = FileDtype::Auto,
        /// Whose names the result uses: `ldm` or `diffusers` for models, `kohya` or `diffusers` for LoRAs. What belongs to no network
        /// (schedule buffers, EMA) is left out unless it is `keep`.
        result layout: Layout = Layout::Keep,
    }
}

/// What is converted is either models or LoRAs, and has the names of its own sort.
fn load(node: &Node, _: &LoadScope<'_>, diagnostics: &mut Diagnostics) -> Option<Box<dyn Stage>> {
    let params = ConvertParams::decode_params(node, diagnostics)?;
    if params.from.is_some() == params.lora.is_some() {
        diagnostics.report(&node.span, "give either `from` (models) or `lora` (LoRAs)");
        return None;
    }
    let wrong = match params.layout {
        Layout::Ldm => params.lora.is_some(),
        Layout::Kohya => params.from.is_some(),
        Layout::Keep | Layout::Diffusers => false,
    };
    if wrong {
        let span = &node.get("layout").unwrap_or(node).span;
        let hint =
            if params.lora.is_some() { "a LoRA's are `kohya` and `diffusers`" } else { "a model's are `ldm` and `diffusers`" };
        diagnostics.report(span, format!("`{}` is no layout for what is converted", params.layout.word())).hint(hint);
        return None;
    }
    Some(Box::new(params))
}

/// The param that names LoRAs, and the field that is read of them.
const LORA: &str = "lora";

impl ConvertParams {
    /// The param in use and the field it reads.
    fn source(&self) -> (&'static str, &Option<Reference>, &'static [&'static str]) {
        if self.from.is_some() { ("from", &self.from, &["model"]) } else { (LORA, &self.lora, &[LORA]) }
    }
}

impl Stage for ConvertParams {
    fn examine(&self, files: &BTreeMap<String, PathBuf>) -> Vec<Finding> {
        let whole = |file: &ModelFile| match self.layout {
            Layout::Keep => refuse_unreadable(file, |_| true),
            // What belongs to no network is left out.
            Layout::Ldm | Layout::Diffusers | Layout::Kohya => Ok(()),
        };
        let findings = headers::of_base(files, "from", whole);
        // Whatever is kept under its names may be any kind of adapter.
        let lora = (self.layout != Layout::Keep).then(|| headers::of_lora(files, "from", LORA));
        findings.into_iter().chain(lora.unwrap_or_else(|| headers::of_base(files, LORA, whole))).collect()
    }

    fn companions(&self) -> Vec<Companion> {
        self.lora.iter().map(|_| lora_use::companion(LORA)).collect()
    }

    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }
}

impl ItemStage for ConvertParams {
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> Result<Vec<Work>> {
        let (param, _, reads) = self.source();
        let work = |item| {
            let mut work = Work::of_item(item, reads);
            work.carry.clear();
            if param == LORA {
                lora_use::add_config(LORA, inputs, &mut work.inputs);
            }
            work
        };
        Ok(inputs.items(param).iter().map(work).collect())
    }

    fn open<'a>(&'a self, _context: &dyn Context) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Converter { params: self }))
    }
}

struct Converter<'a> {
    params: &'a ConvertParams,
}

impl Worker for Converter<'_> {
    fn run(&self, work: &Work, context: &dyn Context) -> Result<Vec<Draft>> {
        let (_, _, reads) = self.params.source();
        let file = ModelFile::open(&context.path(&work.inputs[reads[0]])?)?;
        let (extension, dtype) = (self.params.to.word(), self.params.dtype.dtype());
        let scratch = |name: &str| context.scratch().join(format!("{}.{extension}", Digest::of(name.as_bytes()).short()));
        if self.params.lora.is_some() {
            let names = match self.params.layout {
                Layout::Kohya => Some(LoraNames::Kohya),
                Layout::Diffusers => Some(LoraNames::Diffusers),
                Layout::Keep | Layout::Ldm => None,
            };
            file.remark().iter().for_each(|remark| context.say(remark));
            let config = lora_use::config(LORA, &work.inputs, context)?;
            let Converted { tensors, metadata, remarks } = converted(&file, config.as_ref(), names, dtype)?;
            remarks.iter().for_each(|remark| context.say(&format!("`{}`: {remark}", work.name)));
            let path = scratch(&work.name);
            match self.params.to {
                Container::Safetensors => safetensors::write(&path, &tensors, &metadata)?,
                Container::Ckpt | Container::Pt => ckpt::write_flat(&path, &tensors)?,
            }
            return Ok(vec![draft_of(work).field("lora", Content::File { path, extension, written: None })]);
        }
        let plans = match self.params.layout {
            Layout::Ldm => vec![Plan::to_ldm(&file, dtype)?],
            Layout::Diffusers => Plan::to_diffusers(&file, dtype)?,
            Layout::Keep | Layout::Kohya => vec![Plan::same_names(&file, dtype)?],
        };
        let remarks: BTreeSet<String> = plans.iter().flat_map(Plan::remarks).collect();
        remarks.iter().for_each(|remark| context.say(remark));
        let says_v = !Predicts::marks_of(&file).is_empty();
        if says_v && !plans.iter().any(|plan| plan.tensors().contains_key(V_PRED)) {
            context.say(&format!("`{}` says that it predicts velocity, and the result has no place for that", work.name));
        }
        let mut drafts = Vec::new();
        for plan in plans {
            let mut draft = draft_of(work);
            if let Some(place) = plan.place {
                draft.origin = Some(work.name.clone());
                draft.name = format!("{}/{place}", work.name);
            }
            let path = scratch(&draft.name);
            let written = plan.write(&path, self.params.to.target())?;
            drafts.push(draft.field("model", Content::File { path, extension, written }));
        }
        Ok(drafts)
    }
}
