//! A set of items with the digest of the tree that lists them. The items are read from the cache when they are first asked for,
//! so that a stage whose inputs did not change reads none. Unaware of stages.

use std::sync::{Arc, OnceLock};

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::kind::item::{Item, ItemSet};
use crate::kind::item_set;

/// `digest` is that of the encoded tree, `count` the number of items. Clones share the items: they are read from the cache once.
#[derive(Clone, Debug)]
pub struct ItemTree {
    pub digest: Digest,
    pub count: usize,
    items: Arc<OnceLock<Arc<ItemSet>>>,
}

impl ItemTree {
    /// Of items at hand. Nothing is written.
    pub fn of(mut items: ItemSet) -> Self {
        items.sort_by(|a, b| a.name.cmp(&b.name));
        let digest = Digest::of(&item_set::encode(&items));
        let count = items.len();
        Self { digest, count, items: Arc::new(OnceLock::from(Arc::new(items))) }
    }

    /// Of a tree in the cache, not read yet.
    pub fn in_cache(digest: Digest, count: usize) -> Self {
        Self { digest, count, items: Arc::default() }
    }

    /// What is in memory: all items of a set that was made of them, none of one that was not read yet.
    pub fn items_at_hand(&self) -> &[Item] {
        self.items.get().map_or(&[], |items| items.as_slice())
    }

    /// In the order of their names.
    pub fn items(&self, cache: &Cache) -> Result<&[Item]> {
        Ok(self.filled(cache)?)
    }

    /// As `items`, to be kept.
    pub fn shared(&self, cache: &Cache) -> Result<Arc<ItemSet>> {
        self.filled(cache).cloned()
    }

    fn filled(&self, cache: &Cache) -> Result<&Arc<ItemSet>> {
        if self.items.get().is_none() {
            let read = item_set::decode(&cache.read_list(&self.digest)?)?;
            // Of two threads one finds the items in place.
            let _ = self.items.set(Arc::new(read));
        }
        Ok(self.items.get().expect("just filled"))
    }
}

/// What a stage or an input gives to those that read it.
#[derive(Clone, Debug)]
pub enum Given {
    /// All its items.
    Whole(ItemTree),
    /// Some of its items: it is still publishing, or some failed, or (in a plan) some are not known yet.
    Part(Arc<ItemSet>),
    /// Nothing, because it did not end well.
    Nothing,
}
