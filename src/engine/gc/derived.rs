//! What was made from objects that turned out to be damaged, since they were: it may be made from wrong bytes though its own are
//! as they were written. Unaware of how the damage was found and of what becomes of it.
//!
//! Since every byte is looked at before it is used nothing can be made from a damaged object; earlier versions did, and somebody
//! may read a disk that gives other bytes at times.

use std::collections::{HashMap, HashSet};

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::manifest::{ComponentList, Covered, Section};
use crate::cache::records::{Completeness, Record};
use crate::cache::stat_index::FileStat;
use crate::decide::recorded::TREE_FIELD;
use crate::kind::item_set;
use crate::out::manifest;

/// A result that may be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derived {
    /// The kind of the stage.
    pub kind: String,
    pub key: Digest,
    /// Its outputs that are here.
    pub objects: Vec<Digest>,
}

/// What a record took and gave: by that it is derived or not.
struct RecordLinks {
    derived: Derived,
    inputs: Vec<Digest>,
    /// Lists of items that it took.
    trees: Vec<Digest>,
    /// The list of items that it gave, of a stage as a whole.
    gave: Option<Digest>,
}

/// Results that took one of `damaged`, or one that runs met and took away since the last repair, or a result that did, and are
/// younger than the damage; the oldest first. An object is damaged at the latest since its file was written: one that rotted
/// without a writing may have been so from the first day.
pub fn derived_since(cache: &Cache, damaged: &[Digest]) -> Result<Vec<Derived>> {
    let here = damaged.iter().filter_map(|digest| Some((*digest, written_at(cache, digest)?)));
    let mut since: HashMap<Digest, i64> = HashMap::new();
    for (digest, at) in here.chain(cache.met_damage()) {
        since.entry(digest).and_modify(|earlier| *earlier = at.min(*earlier)).or_insert(at);
    }
    if since.is_empty() {
        return Ok(Vec::new());
    }
    let mut results = Vec::new();
    cache.each_record(&mut |completeness, record| {
        // What was published before the end does not say what it took.
        if completeness == Completeness::Complete {
            results.push(links_of(&record));
        }
    })?;
    list_outputs(cache, &mut results);
    let mut lists: HashMap<Digest, Vec<Digest>> = HashMap::new();
    let mut found: Vec<Option<Derived>> = results.iter().map(|_| None).collect();
    loop {
        let mut more = false;
        for (result, found) in results.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
            let listed = result.trees.iter().flat_map(|tree| lists.entry(*tree).or_insert_with(|| listed(cache, tree)).clone());
            let taken: Vec<Digest> = result.inputs.iter().copied().chain(listed).collect();
            let Some(earliest) = taken.iter().filter_map(|digest| since.get(digest)).min().copied() else { continue };
            let made = result.derived.objects.iter().filter_map(|digest| Some((*digest, written_at(cache, digest)?)));
            let younger: Vec<(Digest, i64)> = made.filter(|(_, at)| *at > earliest).collect();
            if younger.is_empty() {
                continue;
            }
            let objects = younger.iter().map(|(digest, _)| *digest).collect();
            *found = Some(Derived { objects, ..result.derived.clone() });
            for (digest, at) in younger {
                since.entry(digest).or_insert(at);
            }
            more = true;
        }
        if !more {
            break;
        }
    }
    let mut seen = HashSet::new();
    Ok(found.into_iter().flatten().filter(|derived| seen.insert(derived.key)).collect())
}

/// Files in `out/` folders that are copies of these objects, or of those that runs met damaged since the last repair, are no
/// longer believed to be what they were written as: the next run writes them anew.
pub fn distrust_copies(cache: &Cache, damaged: &[Digest]) -> Result<()> {
    let met = cache.met_damage().into_iter().map(|(digest, _)| digest);
    manifest::distrust(cache, &damaged.iter().copied().chain(met).collect())
}

fn links_of(record: &Record) -> RecordLinks {
    let components = ComponentList::from_record(&record.components);
    let kind = components.section(Section::Kind).next().map(|kind| kind.name.clone()).unwrap_or_default();
    let (mut inputs, mut trees) = (Vec::new(), Vec::new());
    for component in &components.0 {
        match &component.covered {
            Covered::Artifact(digest) => inputs.push(*digest),
            Covered::Set { tree, .. } => trees.extend(*tree),
            Covered::Value(_) => {}
        }
    }
    let outputs = record.outputs.iter().flat_map(|output| output.fields.iter());
    let objects = outputs.filter(|(field, _)| *field != TREE_FIELD).map(|(_, artifact)| artifact.digest).collect();
    let lists = record.outputs.iter().flat_map(|output| output.fields.get(TREE_FIELD));
    let gave = lists.map(|list| list.digest).next();
    RecordLinks { derived: Derived { kind, key: record.key, objects }, inputs, trees, gave }
}

/// What a stage gave as a whole has no record but the list; pieces of work have records of their own, which tell better what each
/// took.
fn list_outputs(cache: &Cache, results: &mut [RecordLinks]) {
    let alone: HashSet<Digest> = results.iter().flat_map(|links| &links.derived.objects).copied().collect();
    for links in results {
        if let Some(tree) = &links.gave {
            links.derived.objects.extend(listed(cache, tree).into_iter().filter(|digest| !alone.contains(digest)));
        }
    }
}

fn listed(cache: &Cache, tree: &Digest) -> Vec<Digest> {
    let mut digests = Vec::new();
    if let Some(bytes) = cache.peek(tree) {
        // One that cannot be read to its end lists what it lists before.
        let _ = item_set::visit(&bytes, |item| digests.extend(item.fields.iter().map(|field| field.digest)));
    }
    digests
}

/// When the file of an object was written, in nanoseconds since 1970.
fn written_at(cache: &Cache, digest: &Digest) -> Option<i64> {
    cache.place_of(digest).stat().ok().map(|stat| FileStat::from(&stat).modified)
}
