//! The kind `extract`: the LoRA that lies between two models.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::engine::kind::params::{Declared, Params};
use crate::engine::kind::reference::Reference;
use crate::engine::kind::stage::{
    Content, Context, Draft, Files, Finding, Form, ItemStage, Progress, Resolved, Stage, StopRequest, Work, Worker,
};
use crate::engine::kind::stage_kind::{LoadScope, StageKind, Worth};
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::Node;
use crate::sd::checkpoint::layout::{TextLayout, UnetLayout};
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::checkpoint::safetensors;
use crate::sd::checkpoint::tensor::Dtype;
use crate::sd::lora::extract::{Extraction, extract};
use crate::sd::lora::file::LoraNames;
use crate::stages::shared::headers;
use crate::stages::shared::model_output::{FileDtype, draft_of};

/// An item stage on the CPU, one piece of work per tuned model.
pub const KIND: StageKind = StageKind {
    name: "extract",
    version: 2,
    writes: &["lora"],
    passes_fields_on: false,
    worth: Worth::Precious,
    load,
    ..StageKind::of::<ExtractParams>()
};

crate::params! {
    /// Extracts a LoRA: the best approximation of rank `rank` of the difference between a tuned model and its base.
    ///
    /// By a singular value decomposition of every layer that kohya's sd-scripts adapt (264 in SD 1.x), and by its conventions: the singular
    /// values go into `up`, alpha is the rank. Says how much of the change that holds, and what lies outside these layers. Both models
    /// should have numbers of one type: fp16 against fp32 shows up as noise.
    pub struct ExtractParams {
        /// The tuned models; each gives one LoRA, named after it.
        input tuned: Reference => Many["model"],
        /// The model they were tuned from.
        input base: Reference => One["model"],
        /// Inner width of the factors. Layers with a shorter side get that.
        result rank: u64 = 8,
        /// Takes the UNet's ResNets and samplers in (86 more layers in SD 1.x): the inner width of their 3×3 convolutions. Such a LoRA can
        /// be merged; without, these layers are left out.
        result conv_rank: Option<u64> = None,
        /// Quantile of the factors' values, 0 to 1, at which they are cut off; 1 cuts nothing. sd-scripts' 0.99 costs several percent of the
        /// change.
        result clamp_quantile: f64 = 1.0,
        /// The text encoder is left out if no weight of it differs by more than this. sd-scripts' 0.01 drops that of many LoRAs.
        result min_diff: f64 = 1e-6,
        /// Type of the numbers; `auto` is fp16, as LoRAs are shared.
        result dtype: FileDtype = FileDtype::Auto,
    }
}

/// Ranks and the quantile must lie in their ranges.
fn load(node: &Node, _: &LoadScope<'_>, diagnostics: &mut Diagnostics) -> Option<Box<dyn Stage>> {
    let params = ExtractParams::decode_params(node, diagnostics)?;
    let span = |name: &str| &node.get(name).unwrap_or(node).span;
    for (name, rank) in [("rank", Some(params.rank)), ("conv_rank", params.conv_rank)] {
        if rank == Some(0) {
            diagnostics.report(span(name), format!("`{name}` must be at least 1"));
            return None;
        }
    }
    if !(0.0..=1.0).contains(&params.clamp_quantile) {
        diagnostics.report(span("clamp_quantile"), "`clamp_quantile` must lie between 0 and 1");
        return None;
    }
    Some(Box::new(params))
}

impl Stage for ExtractParams {
    fn components(&self) -> Vec<(String, serde_json::Value)> {
        let mut components = self.results();
        // Added later: what was not asked for is in no key.
        components.retain(|(name, _)| name != "conv_rank" || self.conv_rank.is_some());
        components
    }

    fn examine(&self, files: &BTreeMap<String, PathBuf>) -> Vec<Finding> {
        let layouts = |file: &ModelFile| -> Result<()> {
            UnetLayout::infer(file)?;
            TextLayout::infer(file)?;
            Ok(())
        };
        let tuned = headers::of_base(files, "tuned", layouts);
        tuned.into_iter().chain(headers::of_base(files, "base", layouts)).collect()
    }

    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }
}

impl ItemStage for ExtractParams {
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> Result<Vec<Work>> {
        let base = inputs.one("base", "model")?;
        let work = |item| {
            let mut work = Work::of_item(item, &["model"]);
            work.carry.clear();
            if let Some(tuned) = work.inputs.remove("model") {
                work.inputs.insert("tuned".into(), tuned);
            }
            work.inputs.insert("base".into(), base.clone());
            work
        };
        Ok(inputs.items("tuned").iter().map(work).collect())
    }

    fn open<'a>(&'a self, _context: &dyn Context) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Extractor { params: self }))
    }
}

struct Extractor<'a> {
    params: &'a ExtractParams,
}

impl Worker for Extractor<'_> {
    fn run(&self, work: &Work, context: &dyn Context) -> Result<Vec<Draft>> {
        let tuned = ModelFile::open(&context.path(&work.inputs["tuned"])?)?;
        let base = ModelFile::open(&context.path(&work.inputs["base"])?)?;
        [&tuned, &base].iter().filter_map(|file| file.remark()).for_each(|remark| context.say(&remark));
        let how = Extraction {
            rank: usize::try_from(self.params.rank)?,
            conv_rank: self.params.conv_rank.map(usize::try_from).transpose()?,
            clamp_quantile: self.params.clamp_quantile,
            min_diff: self.params.min_diff as f32,
        };
        let lora = extract(&tuned, &base, how, |done, total| {
            context.progress(Progress { done: done as u64, total: total as u64, unit: "modules", values: Vec::new() });
            ensure!(
                matches!(context.stop_request(), StopRequest::GoOn | StopRequest::SaveNow),
                "stopped before the LoRA was complete"
            );
            Ok(())
        })?;
        lora.remarks.iter().for_each(|remark| context.say(&format!("`{}`: {remark}", work.name)));
        let dtype = self.params.dtype.dtype().unwrap_or(Dtype::F16);
        let tensors = lora.tensors(LoraNames::Kohya, dtype)?;
        let bytes = safetensors::to_bytes(&tensors, &lora.kohya_metadata(&tensors, &BTreeMap::new())?)?;
        Ok(vec![draft_of(work).field("lora", Content::Bytes { bytes, extension: "safetensors" })])
    }
}
