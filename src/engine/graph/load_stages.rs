//! From `stages:` of a pipeline file to stages: kind found, params typed, one stage for each variant. Unaware of inputs and of
//! the order to run in.

use std::collections::BTreeMap;

use crate::graph::parsed_file::entries;
use crate::graph::pipeline::LoadedStage;
use crate::graph::stage_keys::StageKeys;
use crate::graph::variants::{Sketch, Variants};
use crate::kind::input_use::InputUse;
use crate::kind::param_value::ParamValue;
use crate::kind::params::Role;
use crate::kind::stage::Stage;
use crate::kind::stage_kind::{LoadScope, StageKind};
use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::tree::{Key, Node, Span, Value};
use crate::syntax::yaml::MAX_DEPTH;

/// What the file says at its top that stages may use.
pub(crate) struct FileScope<'a> {
    pub(crate) concept: &'a str,
    pub(crate) trigger: &'a str,
    pub(crate) seed: u64,
}

/// The stages of a file and their variants. `names` are the names that are in order, by their places.
pub(crate) fn load_stages(
    root: &Node,
    names: &BTreeMap<String, Span>,
    scope: &FileScope<'_>,
    kinds: &[&'static StageKind],
    diagnostics: &mut Diagnostics,
) -> (Vec<LoadedStage>, Variants) {
    let mut drafts = Vec::new();
    if let Some(section) = root.get("stages") {
        if matches!(&section.value, Value::Map(entries) if entries.is_empty()) {
            diagnostics.report(&section.span, "there are no stages").hint("`loramill stages` lists the kinds");
        }
        let is_sound = |key: &Key| names.get(&key.name) == Some(&key.span);
        for (key, node) in entries(section).iter().filter(|(key, _)| is_sound(key)) {
            drafts.extend(Draft::read(key, node, kinds, scope, diagnostics));
        }
    }
    let sketches: Vec<Sketch<'_>> = drafts.iter().map(Draft::sketch).collect();
    let variants = Variants::of(&sketches, diagnostics);
    let mut stages = Vec::new();
    for draft in drafts {
        draft.make_variants(&variants, scope, diagnostics, &mut stages);
    }
    (stages, variants)
}

/// A stage of the file whose params can be read.
struct Draft<'a> {
    key: &'a Key,
    kind: &'static StageKind,
    /// What is for the kind, without the values of the axes.
    params: Node,
    keys: StageKeys,
    /// With each value of each axis once: what they read may differ. At least one.
    samples: Vec<Box<dyn Stage>>,
}

impl<'a> Draft<'a> {
    fn read(
        key: &'a Key,
        node: &Node,
        kinds: &[&'static StageKind],
        scope: &FileScope<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let mut params = node.clone();
        // A stage is shown by its name: what is missing in it has no other place.
        match &mut params.value {
            Value::Map(_) => params.span = key.span.clone(),
            Value::Null => params.value = Value::Map(Vec::new()),
            _ => {}
        }
        let keys = StageKeys::take(key, &mut params, diagnostics);
        let kind = find_kind(key, node, kinds, diagnostics)?;
        let mut draft = Self { key, kind, params, keys, samples: Vec::new() };
        let first = vec![0; draft.keys.axes.len()];
        let mut combinations = vec![first.clone()];
        for (place, axis) in draft.keys.axes.iter().enumerate() {
            combinations.extend((1..axis.values.len()).map(|index| {
                let mut combination = first.clone();
                combination[place] = index;
                combination
            }));
        }
        for combination in combinations {
            let sample = draft.load(&key.name, &combination, scope, diagnostics);
            draft.samples.extend(sample.map(|(stage, _)| stage));
        }
        if let Some((false, span)) = &draft.keys.keep
            && draft.samples.iter().any(|stage| stage.editable().is_some())
        {
            let problem = diagnostics.report(span, format!("`{}` keeps its outputs: people edit them", key.name));
            problem.hint("what the machine wrote tells which texts are a person's; leave `keep` out");
        }
        (!draft.samples.is_empty()).then_some(draft)
    }

    /// The stage with the values at `indices` of its own axes, and the params it was made of.
    fn load(
        &self,
        name: &str,
        indices: &[usize],
        scope: &FileScope<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<(Box<dyn Stage>, Node)> {
        // What is wrong in every variant is said once.
        let mut found = Diagnostics::default();
        found.set_subject(Some(self.kind.name));
        let mut params = self.params.clone();
        for (axis, &index) in self.keys.axes.iter().zip(indices) {
            axis.apply(index, &mut params, &mut found);
        }
        let FileScope { concept, trigger, seed } = *scope;
        let stage = (self.kind.load)(&params, &LoadScope { stage: name, concept, trigger, seed }, &mut found);
        diagnostics.absorb_new(found);
        stage.map(|stage| (stage, params))
    }

    fn sketch(&self) -> Sketch<'_> {
        Sketch {
            name: &self.key.name,
            span: &self.key.span,
            axes: &self.keys.axes,
            limit: self.keys.limit,
            reads: self.samples.iter().flat_map(|stage| reads(stage.as_ref(), 0)).collect(),
            is_editable: self.samples.iter().any(|stage| stage.editable().is_some()),
        }
    }

    fn make_variants(
        mut self,
        variants: &Variants,
        scope: &FileScope<'_>,
        diagnostics: &mut Diagnostics,
        into: &mut Vec<LoadedStage>,
    ) {
        for variant in variants.of_stage(&self.key.name) {
            let name = variant.name_of(&self.key.name);
            let indices: Vec<usize> = self.keys.axes.iter().map(|axis| variant.index_of(axis).unwrap_or(0)).collect();
            let loaded = if self.keys.axes.is_empty() && name == self.key.name && !self.samples.is_empty() {
                Some((self.samples.remove(0), self.params.clone()))
            } else {
                self.load(&name, &indices, scope, diagnostics)
            };
            let Some((stage, params)) = loaded else { continue };
            let stage = LoadedStage {
                name,
                base_name: self.key.name.clone(),
                variant,
                kind: self.kind,
                stage,
                span: self.key.span.clone(),
                by_default: self.keys.by_default,
                retry: self.keys.retry,
                keep: self.keys.keep.as_ref().map_or(self.kind.keeps, |(keep, _)| *keep),
                owner: None,
                written: written(&params, self.kind),
                edges: Vec::new(),
                carries: Vec::new(),
            };
            push_with_sub_stages(stage, 0, into);
        }
    }
}

fn find_kind(key: &Key, node: &Node, kinds: &[&'static StageKind], diagnostics: &mut Diagnostics) -> Option<&'static StageKind> {
    let (name, span) = match node.get("kind") {
        None => (key.name.clone(), &key.span),
        Some(node) => (String::decode(node, diagnostics)?, &node.span),
    };
    let found = kinds.iter().find(|kind| kind.name == name).copied();
    if found.is_none() {
        let known: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
        let problem = diagnostics.report(span, format!("there is no stage kind `{name}`"));
        if node.get("kind").is_none() {
            problem.hint("a stage that is not named after its kind says `kind:`");
        } else {
            problem.hint(format!("known: {}", known.join(", ")));
        }
        problem.did_you_mean(&name, known);
    }
    found
}

/// What a stage and those that belong to it read.
fn reads(stage: &dyn Stage, depth: usize) -> Vec<InputUse> {
    let mut all = stage.inputs();
    if depth < MAX_DEPTH {
        all.extend(stage.sub_stages().iter().flat_map(|sub| reads(sub.stage.as_ref(), depth + 1)));
    }
    all
}

/// The `result` params that the file gives a stage.
fn written(params: &Node, kind: &StageKind) -> Vec<(String, serde_json::Value)> {
    let docs = (kind.params)();
    let is_result = |name: &str| docs.iter().any(|doc| doc.name == name && doc.role == Role::Result);
    let mut written: Vec<_> = entries(params)
        .iter()
        .filter(|(key, _)| is_result(&key.name))
        .map(|(key, node)| (key.name.clone(), node.to_json()))
        .collect();
    written.sort_by(|a, b| a.0.cmp(&b.0));
    written
}

/// A stage after the stages that belong to it.
fn push_with_sub_stages(stage: LoadedStage, depth: usize, into: &mut Vec<LoadedStage>) {
    assert!(depth < MAX_DEPTH, "the sub-stages of `{}` have no end", stage.name);
    for sub in stage.stage.sub_stages() {
        let sub = LoadedStage {
            name: format!("{}/{}", stage.name, sub.name),
            base_name: format!("{}/{}", stage.base_name, sub.name),
            variant: stage.variant.clone(),
            kind: sub.kind,
            stage: sub.stage,
            span: stage.span.clone(),
            by_default: false,
            retry: stage.retry,
            keep: sub.kind.keeps,
            owner: Some(stage.name.clone()),
            written: stage.written.clone(),
            edges: Vec::new(),
            carries: Vec::new(),
        };
        push_with_sub_stages(sub, depth + 1, into);
    }
    into.push(stage);
}
