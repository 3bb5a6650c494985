//! Which objects and keys of a cache something still needs: what is reached from the digests that locks and notes name. Unaware of where
//! those come from and of what becomes of the rest.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::manifest::{ComponentList, Covered, Section};
use crate::cache::records::{Completeness, Record};
use crate::cache::survey::StoredObject;
use crate::pipeline::estimate::effort_of;
use crate::pipeline::item_set;
use crate::pipeline::recorded::{STAGE_FACT, TREE_FIELD};
use crate::pipeline::stage::Effort;

/// All records of a cache, as far as they tell what needs what and what it cost.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) by_key: HashMap<Digest, Vec<Made>>,
    /// Records that this version cannot read: nobody knows what they need.
    pub(crate) unreadable: usize,
}

/// What one record says.
pub(crate) struct Made {
    pub(crate) is_complete: bool,
    pub(crate) kind: Rc<str>,
    /// The outputs but for trees.
    pub(crate) artifacts: Vec<Digest>,
    /// Of these, what was not among the inputs: a picture beside its mirror image is nobody's work.
    pub(crate) own: Vec<Digest>,
    pub(crate) tree: Option<Digest>,
    /// The lists of what was read: they tell what has changed since.
    pub(crate) input_trees: Vec<Digest>,
    pub(crate) seconds: f64,
    pub(crate) effort: Option<Effort>,
    /// Of an output that was published before the end: the key of the stage that was running.
    pub(crate) stage: Option<Digest>,
}

impl Results {
    pub(crate) fn read(cache: &Cache) -> Result<Self> {
        let mut results = Self::default();
        let mut kinds: HashSet<Rc<str>> = HashSet::new();
        results.unreadable = cache.each_record(&mut |completeness, record| {
            let made = Made::of(completeness, &record, &mut kinds);
            results.by_key.entry(record.key).or_default().push(made);
        })?;
        Ok(results)
    }

    pub(crate) fn of(&self, key: &Digest) -> &[Made] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    /// The record of the stage that published under this state key, if the last run of it came to its end.
    pub(crate) fn ending_of(&self, state_key: &Digest) -> Option<&Made> {
        let last = self.of(state_key).iter().rfind(|made| !made.is_complete)?;
        self.of(&last.stage?).iter().find(|made| made.is_complete)
    }

    pub(crate) fn has_published(&self, key: &Digest) -> bool {
        self.of(key).iter().any(|made| !made.is_complete)
    }
}

impl Made {
    fn of(completeness: Completeness, record: &Record, kinds: &mut HashSet<Rc<str>>) -> Self {
        let components = ComponentList::from_record(&record.components);
        let name = components.section(Section::Kind).next().map_or("", |kind| kind.name.as_str());
        let kind = match kinds.get(name) {
            Some(kind) => Rc::clone(kind),
            None => {
                let kind: Rc<str> = name.into();
                kinds.insert(Rc::clone(&kind));
                kind
            }
        };
        let fields = record.outputs.iter().flat_map(|output| &output.fields);
        let (trees, others): (Vec<_>, Vec<_>) = fields.partition(|(field, _)| *field == TREE_FIELD);
        let tree_of = |covered: &Covered| match covered {
            Covered::Set { tree, .. } => *tree,
            Covered::Value(_) | Covered::Artifact(_) => None,
        };
        let reads = |digest: &Digest| {
            let mut inputs = components.section(Section::Input);
            inputs.any(|input| input.covered == Covered::Artifact(*digest))
        };
        let artifacts: Vec<Digest> = others.into_iter().map(|(_, artifact)| artifact.digest).collect();
        Self {
            is_complete: completeness == Completeness::Complete,
            kind,
            own: artifacts.iter().copied().filter(|digest| !reads(digest)).collect(),
            artifacts,
            tree: trees.first().map(|(_, artifact)| artifact.digest),
            input_trees: components.section(Section::Input).filter_map(|component| tree_of(&component.covered)).collect(),
            seconds: record.seconds.max(0.0),
            effort: effort_of(&record.facts),
            stage: record.facts.get(STAGE_FACT).and_then(|stage| stage.parse().ok()),
        }
    }
}

/// What has been reached so far.
pub(crate) struct Live<'a> {
    cache: &'a Cache,
    results: &'a Results,
    here: &'a HashMap<Digest, StoredObject>,
    pub(crate) objects: HashSet<Digest>,
    pub(crate) keys: HashSet<Digest>,
    followed: HashSet<Digest>,
    waiting: Vec<Digest>,
    /// Trees that are named and damaged: nobody knows what they need.
    pub(crate) damaged: Vec<Digest>,
}

impl<'a> Live<'a> {
    pub(crate) fn new(cache: &'a Cache, results: &'a Results, here: &'a HashMap<Digest, StoredObject>) -> Self {
        let (objects, keys, followed) = (HashSet::new(), HashSet::new(), HashSet::new());
        Self { cache, results, here, objects, keys, followed, waiting: Vec::new(), damaged: Vec::new() }
    }

    /// Reaches all that `digests` lead to, each an object, a key, or nothing that is here. Of the results of a key those count that are
    /// reached in another way too, or all if none is.
    pub(crate) fn reach(&mut self, digests: impl IntoIterator<Item = Digest>) {
        for digest in digests {
            self.object(digest);
            self.key(digest);
        }
        // Trees come before keys: they say which of several results is meant.
        while let Some(key) = self.waiting.pop() {
            let results = self.results;
            let complete = || results.of(&key).iter().filter(|made| made.is_complete);
            let is_meant = |made: &Made| made.artifacts.iter().chain(&made.tree).any(|digest| self.objects.contains(digest));
            let any_is_meant = complete().any(is_meant);
            let meant: Vec<&Made> = complete().filter(|made| !any_is_meant || is_meant(made)).collect();
            meant.into_iter().for_each(|made| self.made(made));
        }
    }

    /// Reaches all results of keys, and all that was published under them.
    pub(crate) fn reach_all_of(&mut self, keys: impl IntoIterator<Item = Digest>) {
        let results = self.results;
        for key in keys {
            results.of(&key).iter().for_each(|made| self.made(made));
            self.reach([key]);
        }
    }

    fn made(&mut self, made: &Made) {
        self.objects.extend(made.artifacts.iter().filter(|digest| self.here.contains_key(digest)));
        self.objects.extend(made.input_trees.iter().filter(|digest| self.here.contains_key(digest)));
        if let Some(tree) = made.tree {
            self.tree(tree);
        }
    }

    fn key(&mut self, key: Digest) {
        if self.results.by_key.contains_key(&key) && self.keys.insert(key) {
            self.waiting.push(key);
        }
    }

    /// A tree if it is one, else only itself.
    fn object(&mut self, digest: Digest) {
        if self.here.contains_key(&digest) && item_set::is_tree(&self.cache.path(&digest)) {
            self.tree(digest);
        } else if self.here.contains_key(&digest) {
            self.objects.insert(digest);
        }
    }

    fn tree(&mut self, digest: Digest) {
        // A tree that was met only as the list of an input has not been followed.
        if !self.here.contains_key(&digest) || !self.followed.insert(digest) {
            return;
        }
        self.objects.insert(digest);
        // To look must not remove what is damaged.
        let Some(bytes) = self.cache.peek(&digest) else {
            self.damaged.push(digest);
            return;
        };
        let mut keys = Vec::new();
        let seen = item_set::visit(&bytes, |item| {
            let fields = item.fields.iter().map(|field| field.digest);
            self.objects.extend(fields.filter(|digest| self.here.contains_key(digest)));
            keys.push(item.key);
        });
        if seen.is_err() {
            self.damaged.push(digest);
        }
        keys.into_iter().for_each(|key| self.key(key));
    }
}
