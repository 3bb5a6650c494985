//! Joins stages by their references: who reads whom, whether it can be read, and the order to run in. Unaware of YAML.

use std::collections::{BTreeMap, HashMap, VecDeque};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::DfsPostOrder;

use crate::graph::companions;
use crate::graph::pipeline::{Collected, Edge, LoadedStage, Producer};
use crate::graph::stage_id::{StageId, StageVec};
use crate::graph::variants::{Source, Variants};
use crate::inputs::input::{Found, Input};
use crate::inputs::listing;
use crate::kind::input_use::{ImpliedInput, InputShape, InputUse};
use crate::kind::reference::{Reference, Selector};
use crate::kind::stage::Form;
use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::tree::Span;

/// What in the file could not be loaded: what refers to it is not wrong for that.
#[derive(Clone, Copy)]
pub struct Failed<'a> {
    pub names: &'a [String],
    /// Further names may be among it.
    pub any: bool,
}

/// What there is beside the stages.
pub struct Scene<'a> {
    pub inputs: &'a [Input],
    pub failed: Failed<'a>,
    pub variants: &'a Variants,
    /// Every name that the file gives.
    pub names: &'a BTreeMap<String, Span>,
}

/// Fills the edges of `stages` and puts each stage after those it reads.
pub fn join(stages: Vec<LoadedStage>, scene: &Scene<'_>, diagnostics: &mut Diagnostics) -> StageVec<LoadedStage> {
    let Scene { inputs, failed, variants, names } = *scene;
    let mut stages: StageVec<LoadedStage> = stages.into_iter().collect();
    let edges: Vec<Vec<Edge>> = {
        let joining = Joining::new(&stages, inputs, failed, variants);
        stages.ids().map(|id| joining.edges(id, diagnostics)).collect()
    };
    for (stage, edges) in stages.values_mut().zip(edges) {
        stage.edges = edges;
    }
    for id in stages.ids() {
        let mut implied = implied_edges(id, &stages, diagnostics);
        implied.extend(companions::edges(&stages[id], &stages[id].edges, inputs, names));
        stages[id].edges.extend(implied);
    }
    let Some(order) = order(&stages, diagnostics) else { return stages };
    let mut stages = reorder(stages, &order);
    for id in stages.ids() {
        stages[id].carries = carried(&stages[id], &stages, inputs);
    }
    let mut publishes = stages.filled_with(false);
    for (id, stage) in stages.iter() {
        publishes[id] = has_checkpoints(stage, &publishes);
    }
    for stage in stages.values() {
        for edge in &stage.edges {
            let before = diagnostics.count();
            check_fields(stage, edge, &stages, inputs, diagnostics);
            // What has not what is read has no checkpoints of it either.
            if diagnostics.count() == before {
                check_selector(edge, &stages, inputs, &publishes, diagnostics);
            }
        }
    }
    stages
}

/// What references may name.
struct Joining<'a> {
    stages: &'a StageVec<LoadedStage>,
    inputs: &'a [Input],
    failed: Failed<'a>,
    variants: &'a Variants,
    by_name: HashMap<&'a str, StageId>,
}

impl<'a> Joining<'a> {
    fn new(stages: &'a StageVec<LoadedStage>, inputs: &'a [Input], failed: Failed<'a>, variants: &'a Variants) -> Self {
        let by_name = stages.iter().map(|(id, stage)| (stage.name.as_str(), id)).collect();
        Self { stages, inputs, failed, variants, by_name }
    }

    fn edges(&self, id: StageId, diagnostics: &mut Diagnostics) -> Vec<Edge> {
        let mut edges = Vec::new();
        for reads in self.stages[id].stage.inputs() {
            if let Some(input) = self.inputs.iter().position(|input| input.name == reads.reference.name) {
                edges.push(Edge { reads, from: Producer::Input(input), collected: None });
                continue;
            }
            for source in self.variants.sources(&self.stages[id].variant, &reads.reference) {
                match self.by_name.get(source.stage.as_str()) {
                    Some(&producer) => edges.push(edge(&reads, source, producer)),
                    None => self.report_unknown(id, &reads.reference, diagnostics),
                }
            }
        }
        edges
    }

    fn report_unknown(&self, id: StageId, reference: &Reference, diagnostics: &mut Diagnostics) {
        let name = &reference.name;
        let stage = &self.stages[id];
        // A variant that is missing was reported where it could not be made.
        if self.failed.any || self.failed.names.contains(name) || self.variants.has(name) {
            return;
        }
        let inputs = self.inputs.iter().map(|input| input.name.as_str());
        let written = self.stages.values().filter(|stage| stage.owner.is_none()).map(|stage| stage.base_name.as_str());
        let all = inputs.chain(written).chain(self.failed.names.iter().map(String::as_str));
        let mut known: Vec<&str> = Vec::new();
        for other in all.filter(|other| *other != stage.base_name) {
            // The variants of a stage stand side by side.
            if known.last() != Some(&other) {
                known.push(other);
            }
        }
        diagnostics
            .report(&reference.span, format!("there is no input or stage `{name}`"))
            .hint(if known.is_empty() { "name it under `inputs`".into() } else { format!("known: {}", known.join(", ")) })
            .did_you_mean(name, known);
    }
}

/// The edge to one of the stages that a reference leads to.
fn edge(reads: &InputUse, source: Source, producer: StageId) -> Edge {
    let Reference { selector, span, .. } = &reads.reference;
    let collected = source.collected.map(|label| {
        let written = Reference { selector: Selector::All, ..reads.reference.clone() };
        Collected { reference: written.to_string(), label }
    });
    let reference = Reference { selector: selector.clone(), ..Reference::to(source.stage, span) };
    Edge { reads: InputUse { reference, ..reads.clone() }, from: Producer::Stage(producer), collected }
}

/// What a stage reads because those that it reads do so.
fn implied_edges(id: StageId, stages: &StageVec<LoadedStage>, diagnostics: &mut Diagnostics) -> Vec<Edge> {
    let mut implied = Vec::new();
    for input in stages[id].stage.implied_inputs() {
        let Some(through) = stages[id].edges.iter().find(|edge| edge.reads.param == input.through) else { continue };
        let before = implied.len();
        if let Producer::Stage(producer) = through.from {
            for theirs in stages[producer].edges.iter().filter(|edge| edge.reads.param == input.theirs) {
                let mut reference = theirs.reads.reference.clone();
                reference.span = through.reads.reference.span.clone();
                let (param, shape) = (input.param.clone(), theirs.reads.shape);
                let reads = InputUse { param, reference, reads: input.reads, shape };
                implied.push(Edge { reads, from: theirs.from, collected: theirs.collected.clone() });
            }
        }
        if implied.len() == before {
            let Reference { name, span, .. } = &through.reads.reference;
            let ImpliedInput { purpose, param, theirs, .. } = &input;
            diagnostics
                .report(span, format!("{purpose} needs the `{theirs}` of a stage, and `{name}` has none"))
                .hint(format!("name them here: `{param}: <stage>`"));
        }
    }
    implied
}

/// The stages in an order in which each comes after those it reads, otherwise as they are; `None` after a cycle.
fn order(stages: &StageVec<LoadedStage>, diagnostics: &mut Diagnostics) -> Option<Vec<StageId>> {
    // From consumer to producer.
    let mut graph = DiGraph::<StageId, ()>::new();
    let nodes: StageVec<NodeIndex> = stages.ids().map(|id| graph.add_node(id)).collect();
    for (consumer, stage) in stages.iter() {
        for edge in &stage.edges {
            if let Producer::Stage(producer) = edge.from {
                graph.add_edge(nodes[consumer], nodes[producer], ());
            }
        }
    }
    let before = diagnostics.count();
    // Not Tarjan's: petgraph's goes as deep in calls as the longest chain of stages.
    for component in kosaraju_scc(&graph) {
        let members: Vec<StageId> = component.iter().map(|&node| graph[node]).collect();
        if let Some((path, place)) = cycle(&members, stages) {
            let path: Vec<String> = path.iter().map(|&id| format!("`{}`", stages[id].name)).collect();
            if let [only, _] = path.as_slice() {
                diagnostics.report(&place, format!("{only} reads itself"));
                continue;
            }
            diagnostics
                .report(&place, format!("these stages wait for each other: {}", path.join(" \u{2192} ")))
                .hint("an arrow goes from a stage to what it reads: one of them must read something else");
        }
    }
    if diagnostics.count() > before {
        return None;
    }
    let mut walk = DfsPostOrder::empty(&graph);
    let mut order = Vec::new();
    for &node in nodes.values() {
        walk.move_to(node);
        while let Some(next) = walk.next(&graph) {
            order.push(graph[next]);
        }
    }
    Some(order)
}

/// The shortest way from the first stage of a component back to itself, and the place of its first reference.
fn cycle(members: &[StageId], stages: &StageVec<LoadedStage>) -> Option<(Vec<StageId>, Span)> {
    let start = *members.iter().min()?;
    let mut from: StageVec<Option<StageId>> = stages.filled_with(None);
    let mut queue = VecDeque::from([start]);
    while let Some(consumer) = queue.pop_front() {
        for edge in &stages[consumer].edges {
            let Producer::Stage(producer) = edge.from else { continue };
            if producer == start {
                let mut path = vec![start];
                let mut at = consumer;
                while at != start {
                    path.push(at);
                    at = from[at]?;
                }
                path.push(start);
                path.reverse();
                let first = stages[start].edges.iter().find(|edge| edge.from == Producer::Stage(path[1]))?;
                return Some((path, first.reads.reference.span.clone()));
            }
            if members.contains(&producer) && from[producer].is_none() {
                from[producer] = Some(consumer);
                queue.push_back(producer);
            }
        }
    }
    None
}

/// The stages in `order`, which names each once. Their ids change with it.
fn reorder(stages: StageVec<LoadedStage>, order: &[StageId]) -> StageVec<LoadedStage> {
    let mut new_ids: StageVec<StageId> = stages.ids().collect();
    for (new, &old) in stages.ids().zip(order) {
        new_ids[old] = new;
    }
    let mut slots: StageVec<Option<LoadedStage>> = stages.into_values().map(Some).collect();
    let mut ordered: StageVec<LoadedStage> = order.iter().filter_map(|&old| slots[old].take()).collect();
    for edge in ordered.values_mut().flat_map(|stage| &mut stage.edges) {
        if let Producer::Stage(producer) = &mut edge.from {
            *producer = new_ids[*producer];
        }
    }
    ordered
}

/// What a kind writes and, where it maps items, what their other fields are. Producers come before their consumers in `stages`.
fn carried(stage: &LoadedStage, stages: &StageVec<LoadedStage>, inputs: &[Input]) -> Vec<&'static str> {
    let mut fields = stage.kind.writes.to_vec();
    if matches!(stage.stage.form(), Form::Items(_)) && stage.kind.passes_fields_on {
        for edge in stage.edges.iter().filter(|edge| edge.reads.shape != InputShape::One) {
            match edge.from {
                Producer::Stage(producer) => fields.extend(&stages[producer].carries),
                Producer::Input(index) => fields.extend(inputs[index].carries().unwrap_or_default()),
            }
        }
    }
    let mut once = Vec::new();
    for field in fields {
        if !once.contains(&field) {
            once.push(field);
        }
    }
    once
}

/// Whether `@20` can be asked of a stage: it publishes as it goes, or maps items of one that does.
fn has_checkpoints(stage: &LoadedStage, known: &StageVec<bool>) -> bool {
    match stage.stage.form() {
        Form::Whole(_) => true,
        Form::Items(_) => stage.edges.iter().any(|edge| match edge.from {
            Producer::Stage(producer) => known[producer],
            Producer::Input(_) => false,
        }),
    }
}

fn check_fields(
    consumer: &LoadedStage,
    edge: &Edge,
    stages: &StageVec<LoadedStage>,
    inputs: &[Input],
    diagnostics: &mut Diagnostics,
) {
    let InputUse { param, reference, reads, shape } = &edge.reads;
    let Some(&needed) = reads.first() else { return };
    let with_field = || -> Vec<&str> {
        let photos = inputs.iter().filter(|input| input.carries().is_some_and(|fields| fields.contains(&needed)));
        let written = stages
            .values()
            .filter(|stage| stage.owner.is_none() && stage.base_name != consumer.base_name && stage.carries.contains(&needed));
        let mut names: Vec<&str> =
            photos.map(|input| input.name.as_str()).chain(written.map(|stage| stage.base_name.as_str())).collect();
        names.dedup();
        names
    };
    let message = match edge.from {
        Producer::Stage(producer) if !stages[producer].carries.contains(&needed) => {
            let has = stages[producer].carries.join(", ");
            format!("`{param}` reads `{needed}`, but `{}` has only: {has}", stages[producer].base_name)
        }
        Producer::Input(index) => match (&inputs[index].found, inputs[index].carries()) {
            (_, Some(fields)) if !fields.contains(&needed) => {
                format!("`{param}` reads `{needed}`, but `{}` is a folder of photos", reference.name)
            }
            (Found::File(_) | Found::Absent(_), _) if *shape != InputShape::One && listing::FIELDS.contains(&needed) => {
                format!("`{param}` reads the photos of a folder, but `{}` is one file", reference.name)
            }
            _ => return,
        },
        Producer::Stage(_) => return,
    };
    let problem = diagnostics.report(&reference.span, message);
    match with_field().as_slice() {
        [] => {}
        [only] => {
            problem.hint(format!("did you mean `{only}`?"));
        }
        several => {
            problem.hint(format!("these have `{needed}`: {}", several.join(", ")));
        }
    }
}

fn check_selector(
    edge: &Edge,
    stages: &StageVec<LoadedStage>,
    inputs: &[Input],
    publishes: &StageVec<bool>,
    diagnostics: &mut Diagnostics,
) {
    let reference = &edge.reads.reference;
    if let (Producer::Input(index), false) = (edge.from, reference.picks.is_empty()) {
        let name = &inputs[index].name;
        diagnostics
            .report(&reference.span, format!("`{name}` is an input and has no variants to pick from"))
            .hint(format!("write `{name}`"));
        return;
    }
    if reference.selector == Selector::All {
        return;
    }
    let (name, what) = match edge.from {
        Producer::Input(index) => (&inputs[index].name, "is an input and has"),
        Producer::Stage(producer) if !publishes[producer] => (&stages[producer].base_name, "has"),
        Producer::Stage(_) => return,
    };
    diagnostics.report(&reference.span, format!("`{name}` {what} no checkpoints to select from")).hint(format!("write `{name}`"));
}
