//! Which objects and keys of a cache something still needs: what is reached from the digests that locks and notes name. Unaware
//! of where those come from and of what becomes of the rest.

use std::collections::{HashMap, HashSet};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::survey::StoredObject;
use crate::decide::results::{Made, Results};
use crate::kind::item_set;

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
    /// Nothing is reached yet. `here`: the objects in the store.
    pub(crate) fn new(cache: &'a Cache, results: &'a Results, here: &'a HashMap<Digest, StoredObject>) -> Self {
        let (objects, keys, followed) = (HashSet::new(), HashSet::new(), HashSet::new());
        Self { cache, results, here, objects, keys, followed, waiting: Vec::new(), damaged: Vec::new() }
    }

    /// Reaches all that `digests` lead to, each an object, a key, or nothing that is here. Of the results of a key those count
    /// that are reached in another way too, or all if none is.
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
