//! The kind `merge`: LoRAs added to a base model, as a model file of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::engine::cache::digest::Digest;
use crate::engine::kind::input_use::Companion;
use crate::engine::kind::param_value::ParamValue;
use crate::engine::kind::params::{Declared, Params};
use crate::engine::kind::reference::Reference;
use crate::engine::kind::stage::{Content, Context, Draft, Files, Finding, Form, ItemStage, Resolved, Stage, Work, Worker};
use crate::engine::kind::stage_kind::{LoadScope, StageKind, Worth};
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::Node;
use crate::sd::checkpoint::convert;
use crate::sd::checkpoint::layout::UnetLayout;
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::lora::file::Lora;
use crate::sd::lora::merge::Merge;
use crate::sd::lora::placing::Structure;
use crate::stages::shared::headers;
use crate::stages::shared::lora_use::{self, LoraUse};
use crate::stages::shared::model_output::{Container, FileDtype, draft_of};

/// An item stage on the CPU, one piece of work per selected checkpoint. Its outputs are evicted once every reader has run,
/// unless the stage says `keep: true`.
pub const KIND: StageKind = StageKind {
    name: "merge",
    // 2: lists of positions are whole numbers from 0; the strength and metadata of LoRAs.
    version: 2,
    writes: &["model"],
    passes_fields_on: false,
    keeps: false,
    worth: Worth::Bulky,
    load,
    ..StageKind::of::<MergeParams>()
};

crate::params! {
    /// Adds LoRAs to a base model: one model file per checkpoint that is selected, named after it.
    ///
    /// Every weight that a LoRA adapts becomes `W + strength · alpha / rank · up · down`, computed in fp32. The running averages (EMA)
    /// and optimiser state of the base are left out.
    pub struct MergeParams {
        /// The model to add to: an input or another stage's model. LDM's single file or one with diffusers' names.
        input base: Reference => One["model"],
        /// The LoRAs, each alone (`train@20`) or with a strength (`{ from: train@20, strength: 0.8 }`). At most one of them may select
        /// several checkpoints.
        input lora: Vec<LoraUse> => Many["lora"],
        /// Wraps the result.
        result to: Container = Container::Safetensors,
        /// Type of the numbers. `auto` is the base's, or fp32 if an `extract` reads the result: rounding to fp16 would add noise of 2⁻¹¹ to
        /// every difference.
        result dtype: FileDtype = FileDtype::Auto,
    }
}

/// There must be a LoRA to add.
fn load(node: &Node, _: &LoadScope<'_>, diagnostics: &mut Diagnostics) -> Option<Box<dyn Stage>> {
    let params = MergeParams::decode_params(node, diagnostics)?;
    if params.lora.is_empty() {
        diagnostics.report(&node.get("lora").unwrap_or(node).span, "`lora` is empty: there is nothing to merge");
        return None;
    }
    Some(Box::new(params))
}

/// The kind that looks at small differences between the result and its base.
const EXTRACT: &str = "extract";

impl Stage for MergeParams {
    fn components(&self) -> Vec<(String, serde_json::Value)> {
        let strength = |(index, lora): (usize, &LoraUse)| (format!("lora[{index}].strength"), lora.strength.canonical());
        let mut components = self.results();
        components.extend(self.lora.iter().enumerate().map(strength));
        components.sort_by(|a, b| a.0.cmp(&b.0));
        components
    }

    fn examine(&self, files: &BTreeMap<String, PathBuf>) -> Vec<Finding> {
        let mut findings = headers::of_base(files, "base", |base| UnetLayout::infer(base).map(drop));
        for index in 0..self.lora.len() {
            findings.extend(headers::of_lora(files, "base", &format!("lora[{index}]")));
        }
        findings
    }

    fn companions(&self) -> Vec<Companion> {
        (0..self.lora.len()).map(|index| lora_use::companion(&format!("lora[{index}]"))).collect()
    }

    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }

    fn read_by(&mut self, kinds: &BTreeSet<&'static str>) {
        if self.dtype == FileDtype::Auto && kinds.contains(EXTRACT) {
            self.dtype = FileDtype::Fp32;
        }
    }
}

impl ItemStage for MergeParams {
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> Result<Vec<Work>> {
        let base = inputs.one("base", "model")?;
        let params: Vec<String> = (0..self.lora.len()).map(|index| format!("lora[{index}]")).collect();
        let many: Vec<&String> = params.iter().filter(|param| inputs.items(param).len() > 1).collect();
        ensure!(many.len() <= 1, "`{}` and `{}` both select several checkpoints: choose one of each but one", many[0], many[1]);
        // The results are named after the LoRA that varies, else after the first.
        let varies = many.first().copied().unwrap_or(&params[0]);
        let mut works = Vec::new();
        for item in inputs.items(varies) {
            let mut work = Work::of_item(item, &["lora"]);
            work.carry.clear();
            work.inputs.clear();
            work.inputs.insert("base".into(), base.clone());
            for param in &params {
                let item = if param == varies { Some(item) } else { inputs.items(param).first() };
                let Some(item) = item else { return Ok(Vec::new()) };
                let lora = item.fields.get("lora").with_context(|| format!("`{}` of `{param}` has no `lora`", item.name))?;
                work.inputs.insert(param.as_str().into(), lora.clone());
                lora_use::add_config(param, inputs, &mut work.inputs);
            }
            works.push(work);
        }
        Ok(works)
    }

    fn open<'a>(&'a self, _context: &dyn Context) -> Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(Merger { params: self }))
    }
}

struct Merger<'a> {
    params: &'a MergeParams,
}

impl Worker for Merger<'_> {
    fn run(&self, work: &Work, context: &dyn Context) -> Result<Vec<Draft>> {
        let base = ModelFile::open(&context.path(&work.inputs["base"])?)?;
        let structure = Structure::of(&base);
        let mut loras = Vec::new();
        for (index, lora) in self.params.lora.iter().enumerate() {
            let param = format!("lora[{index}]");
            let config = lora_use::config(&param, &work.inputs, context)?;
            let file = ModelFile::open(&context.path(&work.inputs[&param])?)?;
            file.remark().iter().for_each(|remark| context.say(remark));
            let read = Lora::read_for(&file, config.as_ref(), Some(&structure))?;
            read.remarks.iter().for_each(|remark| context.say(&format!("the LoRA of `{}`: {remark}", work.name)));
            if read.metadata.get("ss_num_reg_images").is_some_and(|count| count == "0") {
                context.say(&format!(
                    "`{}` was trained without class images: merged, it leaks into prompts without the trigger",
                    work.name
                ));
            }
            loras.push((read, lora.strength));
        }
        let merge = Merge::new(&base, &loras, self.params.dtype.dtype())?;
        merge.remarks().iter().for_each(|remark| context.say(remark));
        let extension = self.params.to.word();
        let path = context.scratch().join(format!("{}.{extension}", Digest::of(work.name.as_bytes()).short()));
        let written = convert::write(&path, self.params.to.target(), &merge.tensors(), |name| merge.tensor(name))?;
        Ok(vec![draft_of(work).field("model", Content::File { path, extension, written })])
    }
}
