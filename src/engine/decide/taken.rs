//! The inputs of a stage as it takes them: what its edges lead to, after selection, as far as it is there. Unaware of keys and of
//! what is fresh.

use anyhow::Result;

use crate::decide::reason::Reason;
use crate::decide::view::View;
use crate::graph::pipeline::{Collected, Edge, LoadedStage, Producer};
use crate::graph::resolve::{Waiting, take, takes_all};
use crate::inputs::input::Found;
use crate::kind::input_use::InputShape;
use crate::kind::item::{Artifact, Item, ItemSet};
use crate::kind::item_tree::{Given, ItemTree};
use crate::kind::stage::Resolved;

/// An input of a stage, after selection.
pub struct Taken<'a> {
    /// The first, where a reference collects several variants.
    pub edge: &'a Edge,
    pub tree: ItemTree,
}

/// The inputs of a stage, as far as they are there.
pub(crate) enum Inputs<'a> {
    There {
        taken: Vec<Taken<'a>>,
        /// Whether these are all items.
        complete: bool,
    },
    Awaited(Vec<Reason>),
}

/// What one edge gives.
enum Share {
    Items {
        tree: ItemTree,
        /// Whether these are all items.
        whole: bool,
    },
    Awaited(Reason),
}

impl Taken<'_> {
    /// What is read, as a person calls it: `crop`, `train[rank=8]`, `train[*]`.
    pub fn producer(&self) -> &str {
        match &self.edge.collected {
            Some(collected) => &collected.reference,
            None => &self.edge.reads.reference.name,
        }
    }
}

/// The inputs after selection, and whether they are all there.
pub(crate) fn take_all<'a>(view: &View<'_>, stage: &'a LoadedStage, given: &dyn Fn(Producer) -> Given) -> Result<Inputs<'a>> {
    let mut taken = Vec::with_capacity(stage.edges.len());
    let mut complete = true;
    let mut waits = Vec::new();
    // What a reference collects has several edges, one after the other.
    for edges in stage.edges.chunk_by(|a, b| a.reads.param == b.reads.param) {
        let mut trees = Vec::with_capacity(edges.len());
        for edge in edges {
            match share(view, edge, given(edge.from))? {
                Share::Items { tree, whole } => {
                    complete &= whole;
                    trees.push(tree);
                }
                Share::Awaited(reason) => waits.push(reason),
            }
        }
        let collected = edges.iter().map(|edge| edge.collected.as_ref()).collect::<Option<Vec<&Collected>>>();
        let tree = match (collected, trees.as_slice()) {
            (Some(collected), _) => Some(collect(view, &collected, &trees)?),
            (None, trees) => trees.first().cloned(),
        };
        taken.extend(tree.map(|tree| Taken { edge: &edges[0], tree }));
    }
    Ok(if waits.is_empty() { Inputs::There { taken, complete } } else { Inputs::Awaited(waits) })
}

fn share(view: &View<'_>, edge: &Edge, given: Given) -> Result<Share> {
    let producer = || edge.reads.reference.name.clone();
    let (items, whole) = match given {
        Given::Nothing => return Ok(Share::Awaited(Reason::WaitsFor { stage: producer() })),
        Given::Part(_) if matches!(edge.from, Producer::Input(_)) => {
            return Ok(Share::Awaited(Reason::InputAbsent { input: producer() }));
        }
        Given::Whole(tree) if gives_as_read(view, edge) && takes_all(&edge.reads, &view.pipeline.skip) => {
            return Ok(Share::Items { tree, whole: true });
        }
        Given::Whole(tree) => (tree.items(view.cache)?.to_vec(), true),
        Given::Part(items) => (items.as_ref().clone(), false),
    };
    Ok(match take(&edge.reads, &items, whole, &view.pipeline.skip, view.pipeline.pick)? {
        Ok(items) => Share::Items { tree: ItemTree::of(items), whole },
        Err(Waiting::ForAPick) => Share::Awaited(Reason::NothingPicked { input: producer() }),
        Err(Waiting::ForMore) => Share::Awaited(Reason::WaitsFor { stage: producer() }),
    })
}

/// Whether the items of the producer have the fields that are read, so that none is a file that stands for another field.
fn gives_as_read(view: &View<'_>, edge: &Edge) -> bool {
    match edge.from {
        Producer::Stage(_) => true,
        Producer::Input(index) => {
            let are_photos = matches!(view.pipeline.inputs[index].found, Found::Photos { .. });
            let first = edge.reads.reads.first();
            are_photos && edge.reads.shape != InputShape::One && first.is_none_or(|field| matches!(*field, "image" | "photo"))
        }
    }
}

/// The items of several variants as one set. Their names tell the variants apart; `skip:` knows an item by its origin.
fn collect(view: &View<'_>, collected: &[&Collected], trees: &[ItemTree]) -> Result<ItemTree> {
    let mut all = ItemSet::new();
    for (collected, tree) in collected.iter().zip(trees) {
        all.extend(tree.items(view.cache)?.iter().map(|item| Item {
            name: format!("{}/{}", collected.label, item.name),
            origin: Some(item.origin.clone().unwrap_or_else(|| item.name.clone())),
            ..item.clone()
        }));
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(ItemTree::of(all))
}

/// The inputs as the stage gets them.
pub fn resolve(view: &View<'_>, taken: &[Taken<'_>], complete: bool) -> Result<Resolved> {
    let mut resolved = Resolved { complete, ..Resolved::default() };
    for taken in taken {
        resolved.inputs.insert(taken.edge.reads.param.clone(), taken.tree.shared(view.cache)?);
    }
    Ok(resolved)
}

/// The stages and inputs whose contents are not known yet.
pub fn waits_of(view: &View<'_>, taken: &[Taken<'_>]) -> Vec<Reason> {
    let unknown = |taken: &&Taken<'_>| {
        taken.tree.items(view.cache).is_ok_and(|items| items.iter().any(|item| is_unknown(view, item, taken.edge)))
    };
    taken.iter().filter(unknown).map(|taken| Reason::WaitsFor { stage: taken.producer().to_string() }).collect()
}

/// Whether any of the contents that the stage reads are in `View::unknown`. An error if the list of an input cannot be read.
pub(crate) fn reads_unknown(view: &View<'_>, taken: &[Taken<'_>]) -> Result<bool> {
    if view.unknown.is_empty() {
        return Ok(false);
    }
    for taken in taken {
        if taken.tree.items(view.cache)?.iter().any(|item| is_unknown(view, item, taken.edge)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_unknown(view: &View<'_>, item: &Item, edge: &Edge) -> bool {
    let unknown = |artifact: &Artifact| view.unknown.contains(&artifact.digest);
    edge.reads.reads.iter().filter_map(|field| item.fields.get(*field)).any(unknown)
}
