//! Items: the named things that flow between stages. Unaware of where their bytes lie.

use std::collections::BTreeMap;

pub use crate::cache::artifact::{Artifact, Fields};
use crate::cache::digest::Digest;

/// A named thing with fields: a photo with its picture and caption, or a checkpoint with its LoRA.
///
/// The usual fields: `image` (a picture file), `caption` and `sidecar` (UTF-8 text), `mask`, `photo` (the file a picture descends
/// from), `latent` (a safetensors file), `lora` and `model` (model files), `file` (an input that is one file).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Path below the input without extension, NFC, `/` kept. In no key.
    pub name: String,
    /// The name of the item this one descends from, where it has another name than that: `IMG_1-flip` descends from `IMG_1`. In
    /// no key.
    pub origin: Option<String>,
    pub fields: Fields,
    /// Facts about the item that selectors and labels use: `epoch`, `step`, `strength`, `prompt`. They follow from the key.
    pub attributes: BTreeMap<String, String>,
    /// The key that made it; of an input item the digest over its fields.
    pub key: Digest,
}

/// Items in the order of their names.
pub type ItemSet = Vec<Item>;

impl Item {
    /// The digests of the fields a consumer reads: what decides its place in a set. Fields it lacks are skipped.
    pub fn reading(&self, reads: &[&str]) -> Vec<(String, Digest)> {
        reads.iter().filter_map(|field| self.fields.get(*field).map(|a| (field.to_string(), a.digest))).collect()
    }
}

/// `items` in the order in which a consumer that reads `reads` takes them: by content, never by name.
pub fn by_content<'a>(items: &'a [Item], reads: &[&str]) -> Vec<&'a Item> {
    let mut ordered: Vec<&Item> = items.iter().collect();
    ordered.sort_by_cached_key(|item| item.reading(reads));
    ordered
}
