//! Joins stages by their references: who reads whom, whether it can be read, and the order to run in. Unaware of YAML.

use std::collections::VecDeque;

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::DfsPostOrder;

use crate::pipeline::diagnostic::Diagnostics;
use crate::pipeline::graph::{Edge, Found, Input, LoadedStage, Producer};
use crate::pipeline::inputs;
use crate::pipeline::params::Selector;
use crate::pipeline::stage::{Form, InputShape, InputUse};
use crate::pipeline::tree::Span;

/// Fills the edges of `stages` and puts each stage after those it reads. `failed` are names in the file that could not be loaded: what
/// refers to them is not wrong for that.
pub fn join(
    mut stages: Vec<LoadedStage>,
    inputs: &[Input],
    failed: &[String],
    diagnostics: &mut Diagnostics,
) -> Vec<LoadedStage> {
    for index in 0..stages.len() {
        let edges = resolve(index, &stages, inputs, failed, diagnostics);
        stages[index].edges = edges;
    }
    let Some(order) = order(&stages, diagnostics) else { return stages };
    let mut stages = reorder(stages, &order);
    for index in 0..stages.len() {
        stages[index].carries = carried(&stages[index], &stages, inputs);
    }
    let publishes: Vec<bool> = (0..stages.len()).fold(Vec::new(), |mut known, index| {
        known.push(has_checkpoints(&stages[index], &known));
        known
    });
    for stage in &stages {
        for edge in &stage.edges {
            check_fields(stage, edge, &stages, inputs, diagnostics);
            check_selector(edge, &stages, inputs, &publishes, diagnostics);
        }
    }
    stages
}

fn resolve(
    index: usize,
    stages: &[LoadedStage],
    inputs: &[Input],
    failed: &[String],
    diagnostics: &mut Diagnostics,
) -> Vec<Edge> {
    let mut edges = Vec::new();
    for reads in stages[index].stage.inputs() {
        let name = &reads.reference.name;
        let from = if let Some(input) = inputs.iter().position(|input| input.name == *name) {
            Producer::Input(input)
        } else if let Some(stage) = stages.iter().position(|stage| stage.name == *name) {
            Producer::Stage(stage)
        } else {
            if !failed.contains(name) {
                let inputs = inputs.iter().map(|input| input.name.as_str());
                let written = stages.iter().filter(|stage| stage.owner.is_none()).map(|stage| stage.name.as_str());
                let known: Vec<&str> =
                    inputs.chain(written).chain(failed.iter().map(String::as_str)).filter(|n| *n != stages[index].name).collect();
                diagnostics
                    .report(&reads.reference.span, format!("there is no input or stage `{name}`"))
                    .hint(if known.is_empty() { "name it under `inputs`".into() } else { format!("known: {}", known.join(", ")) })
                    .did_you_mean(name, known);
            }
            continue;
        };
        edges.push(Edge { reads, from });
    }
    edges
}

/// The stages in an order in which each comes after those it reads, otherwise as they are; `None` after a cycle.
fn order(stages: &[LoadedStage], diagnostics: &mut Diagnostics) -> Option<Vec<usize>> {
    // From consumer to producer.
    let mut graph = DiGraph::<(), ()>::new();
    let nodes: Vec<NodeIndex> = stages.iter().map(|_| graph.add_node(())).collect();
    for (consumer, stage) in stages.iter().enumerate() {
        for edge in &stage.edges {
            if let Producer::Stage(producer) = edge.from {
                graph.add_edge(nodes[consumer], nodes[producer], ());
            }
        }
    }
    let before = diagnostics.count();
    // Not Tarjan's: petgraph's goes as deep in calls as the longest chain of stages.
    for component in kosaraju_scc(&graph) {
        let members: Vec<usize> = component.iter().map(|node| node.index()).collect();
        if let Some((path, place)) = cycle(&members, stages) {
            let path: Vec<String> = path.iter().map(|&index| format!("`{}`", stages[index].name)).collect();
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
    for node in nodes {
        walk.move_to(node);
        while let Some(next) = walk.next(&graph) {
            order.push(next.index());
        }
    }
    Some(order)
}

/// The shortest way from the first stage of a component back to itself, and the place of its first reference.
fn cycle(members: &[usize], stages: &[LoadedStage]) -> Option<(Vec<usize>, Span)> {
    let start = *members.iter().min()?;
    let mut from: Vec<Option<usize>> = vec![None; stages.len()];
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

fn reorder(stages: Vec<LoadedStage>, order: &[usize]) -> Vec<LoadedStage> {
    let mut position = vec![0; order.len()];
    for (new, &old) in order.iter().enumerate() {
        position[old] = new;
    }
    let mut slots: Vec<Option<LoadedStage>> = stages.into_iter().map(Some).collect();
    let mut ordered: Vec<LoadedStage> = order.iter().filter_map(|&old| slots[old].take()).collect();
    for edge in ordered.iter_mut().flat_map(|stage| &mut stage.edges) {
        if let Producer::Stage(index) = &mut edge.from {
            *index = position[*index];
        }
    }
    ordered
}

/// What a kind writes and, where it maps items, what their other fields are. Producers come before their consumers in `stages`.
fn carried(stage: &LoadedStage, stages: &[LoadedStage], inputs: &[Input]) -> Vec<&'static str> {
    let mut fields = stage.kind.writes().to_vec();
    if matches!(stage.stage.form(), Form::Items(_)) && stage.kind.passes_fields_on() {
        for edge in stage.edges.iter().filter(|edge| edge.reads.shape != InputShape::One) {
            match edge.from {
                Producer::Stage(index) => fields.extend(&stages[index].carries),
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
fn has_checkpoints(stage: &LoadedStage, known: &[bool]) -> bool {
    match stage.stage.form() {
        Form::Whole(_) => true,
        Form::Items(_) => stage.edges.iter().any(|edge| match edge.from {
            Producer::Stage(index) => known[index],
            Producer::Input(_) => false,
        }),
    }
}

fn check_fields(consumer: &LoadedStage, edge: &Edge, stages: &[LoadedStage], inputs: &[Input], diagnostics: &mut Diagnostics) {
    let InputUse { param, reference, reads, shape } = &edge.reads;
    let Some(&needed) = reads.first() else { return };
    let with_field = || -> Vec<&str> {
        let photos = inputs.iter().filter(|input| input.carries().is_some_and(|fields| fields.contains(&needed)));
        let written =
            stages.iter().filter(|stage| stage.owner.is_none() && stage.name != consumer.name && stage.carries.contains(&needed));
        photos.map(|input| input.name.as_str()).chain(written.map(|stage| stage.name.as_str())).collect()
    };
    let message = match edge.from {
        Producer::Stage(index) if !stages[index].carries.contains(&needed) => {
            let has = stages[index].carries.join(", ");
            format!("`{param}` reads `{needed}`, but `{}` has only: {has}", reference.name)
        }
        Producer::Input(index) => match (&inputs[index].found, inputs[index].carries()) {
            (_, Some(fields)) if !fields.contains(&needed) => {
                format!("`{param}` reads `{needed}`, but `{}` is a folder of photos", reference.name)
            }
            (Found::File(_) | Found::Absent(_), _) if *shape != InputShape::One && inputs::FIELDS.contains(&needed) => {
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

fn check_selector(edge: &Edge, stages: &[LoadedStage], inputs: &[Input], publishes: &[bool], diagnostics: &mut Diagnostics) {
    let reference = &edge.reads.reference;
    if reference.selector == Selector::All {
        return;
    }
    let problem = match edge.from {
        Producer::Input(index) => format!("`{}` is an input and has no checkpoints to select from", inputs[index].name),
        Producer::Stage(index) if !publishes[index] => {
            format!("`{}` has no checkpoints to select from", stages[index].name)
        }
        Producer::Stage(_) => return,
    };
    diagnostics.report(&reference.span, problem).hint(format!("write `{}`", reference.name));
}
