//! A set of items as bytes: the tree object of a stage. Equal sets give equal bytes, so that the digest of a tree tells whether a
//! stage put out the same as before. Unaware of where trees are kept.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::cache::digest::Digest;
use crate::cache::encoding::{Reader, Writer};
use crate::cache::regular_file::{self, Links};
use crate::kind::item::{Artifact, Item, ItemSet};

const HEADER: &[u8; 16] = b"loramill-items1\n";

/// An item inside a tree; nothing is copied. For reading trees of many items in little memory.
#[derive(Debug)]
pub struct ItemView<'a, 'b> {
    pub name: &'a str,
    pub origin: Option<&'a str>,
    pub key: Digest,
    /// In the order of their names.
    pub fields: &'b [FieldView<'a>],
    /// Name and value, in the order of the names.
    pub attributes: &'b [(&'a str, &'a str)],
}

/// A field of an [`ItemView`] with its artifact. `size` is in bytes; `extension` has no dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldView<'a> {
    pub name: &'a str,
    pub digest: Digest,
    pub size: u64,
    pub extension: &'a str,
}

/// The bytes of a set, whatever order it is in.
pub fn encode(items: &[Item]) -> Vec<u8> {
    let mut ordered: Vec<&Item> = items.iter().collect();
    ordered.sort_by(|a, b| a.name.cmp(&b.name));

    let mut words = Words::default();
    let mut body = Writer::default();
    for item in &ordered {
        body.text(&item.name);
        body.optional_text(item.origin.as_deref());
        body.digest(&item.key);
        body.number(item.fields.len() as u64);
        for (name, artifact) in &item.fields {
            body.number(words.number_of(name));
            body.digest(&artifact.digest);
            body.number(artifact.size);
            body.number(words.number_of(&artifact.extension));
        }
        body.number(item.attributes.len() as u64);
        for (name, value) in &item.attributes {
            body.number(words.number_of(name));
            body.number(words.number_of(value));
        }
    }

    let mut tree = Writer::default();
    tree.bytes.extend_from_slice(HEADER);
    tree.number(words.list.len() as u64);
    for word in &words.list {
        tree.text(word);
    }
    tree.number(ordered.len() as u64);
    tree.bytes.extend_from_slice(&body.bytes);
    tree.bytes
}

/// The set, in the order of the names.
pub fn decode(tree: &[u8]) -> Result<ItemSet> {
    let mut items = ItemSet::new();
    visit(tree, |view| {
        items.push(Item {
            name: view.name.to_string(),
            origin: view.origin.map(str::to_string),
            fields: view.fields.iter().map(|field| (field.name.to_string(), field.artifact())).collect(),
            attributes: view.attributes.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            key: view.key,
        });
    })?;
    Ok(items)
}

/// Whether a tree lists items of these names and fields and no others; keys may differ. `items` are in the order of the names.
pub fn shows(tree: &[u8], items: &[Item]) -> Result<bool> {
    let mut items = items.iter();
    let mut same = true;
    visit(tree, |view| {
        same = same
            && items.next().is_some_and(|item| {
                let fields = view.fields.iter().map(|field| (field.name, field.digest, field.size, field.extension));
                let wanted = item.fields.iter().map(|(name, a)| (name.as_str(), a.digest, a.size, a.extension.as_str()));
                item.name == view.name && fields.eq(wanted)
            });
    })?;
    Ok(same && items.next().is_none())
}

/// Shows every item in the order of the names.
pub fn visit<'a>(tree: &'a [u8], mut see: impl FnMut(ItemView<'a, '_>)) -> Result<()> {
    read(tree, &mut see).context("reading the tree of a stage")
}

/// Whether a file begins as a tree does.
pub fn is_tree(path: &Path) -> bool {
    let mut start = [0; HEADER.len()];
    regular_file::open(path, Links::Refused).and_then(|mut file| file.read_exact(&mut start)).is_ok_and(|()| start == *HEADER)
}

/// An error if these are not the bytes of a tree.
pub fn check(tree: &[u8]) -> Result<()> {
    visit(tree, |_| ())
}

/// The number of items.
pub fn count(tree: &[u8]) -> Result<usize> {
    let mut reader = Reader::new(tree);
    read_words(&mut reader).context("reading the tree of a stage")?;
    reader.count()
}

fn read<'a>(tree: &'a [u8], see: &mut dyn FnMut(ItemView<'a, '_>)) -> Result<()> {
    let mut reader = Reader::new(tree);
    let words = read_words(&mut reader)?;
    let word = |number: u64| words.get(number as usize).copied().context("a word is missing");
    let count = reader.count()?;
    let mut fields = Vec::new();
    let mut attributes = Vec::new();
    for _ in 0..count {
        let name = reader.text()?;
        let origin = reader.optional_text()?;
        let key = reader.digest()?;
        fields.clear();
        for _ in 0..reader.count()? {
            let name = word(reader.number()?)?;
            let digest = reader.digest()?;
            let size = reader.number()?;
            fields.push(FieldView { name, digest, size, extension: word(reader.number()?)? });
        }
        attributes.clear();
        for _ in 0..reader.count()? {
            let name = word(reader.number()?)?;
            attributes.push((name, word(reader.number()?)?));
        }
        see(ItemView { name, origin, key, fields: &fields, attributes: &attributes });
    }
    reader.finish()
}

fn read_words<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a str>> {
    ensure!(reader.bytes(HEADER.len())? == HEADER, "it is not a tree of this version of loramill");
    let count = reader.count()?;
    (0..count).map(|_| reader.text()).collect()
}

impl FieldView<'_> {
    /// The same, independent of the tree: copies the extension.
    pub fn artifact(&self) -> Artifact {
        Artifact { digest: self.digest, size: self.size, extension: self.extension.into() }
    }
}

/// Names and values that many items share, numbered as they come.
#[derive(Default)]
struct Words<'a> {
    list: Vec<&'a str>,
    numbers: HashMap<&'a str, u64>,
}

impl<'a> Words<'a> {
    fn number_of(&mut self, word: &'a str) -> u64 {
        *self.numbers.entry(word).or_insert_with(|| {
            self.list.push(word);
            self.list.len() as u64 - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kind::item::Fields;

    fn sample() -> ItemSet {
        let artifact = |text: &str, extension: &str| Artifact {
            digest: Digest::of(text.as_bytes()),
            size: text.len() as u64,
            extension: extension.into(),
        };
        let item = |name: &str, origin: Option<&str>| Item {
            name: name.to_string(),
            origin: origin.map(str::to_string),
            fields: Fields::from([("image", artifact(name, "png")), ("caption", artifact("a star", "txt"))]),
            attributes: BTreeMap::from([("prompt".to_string(), "a photo\nof a star".to_string())]),
            key: Digest::of(name.as_bytes()),
        };
        vec![item("IMG_1", None), item("IMG_1-flip", Some("IMG_1")), item("strand/ö 2", None)]
    }

    #[test]
    fn a_set_comes_back_and_its_bytes_do_not_depend_on_its_order() {
        let items = sample();
        let tree = encode(&items);
        assert_eq!(decode(&tree).unwrap(), items);
        assert_eq!(count(&tree).unwrap(), 3);
        let mut turned = sample();
        turned.reverse();
        assert_eq!(encode(&turned), tree);
        assert_eq!(decode(&encode(&[])).unwrap(), Vec::<Item>::new());
    }

    #[test]
    fn everything_in_an_item_changes_the_bytes() {
        let tree = encode(&sample());
        let changes: [fn(&mut Item); 6] = [
            |item| item.name.push('x'),
            |item| item.origin = Some("x".into()),
            |item| item.key = Digest::of(b"x"),
            |item| item.fields.get_mut("image").unwrap().size += 1,
            |item| item.fields.get_mut("image").unwrap().extension = "pngx".into(),
            |item| item.attributes.get_mut("prompt").unwrap().push('x'),
        ];
        for change in changes {
            let mut items = sample();
            change(&mut items[0]);
            assert_ne!(encode(&items), tree);
        }
    }

    #[test]
    fn a_tree_cut_anywhere_is_an_error() {
        let tree = encode(&sample());
        for length in 0..tree.len() {
            assert!(decode(&tree[..length]).is_err(), "cut at {length}");
        }
    }
}
