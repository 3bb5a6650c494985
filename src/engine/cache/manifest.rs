//! What a key covers, as an ordered list. One walk over it has two renderings: the key, and the components that `explain`
//! compares. Unaware of what the components mean.
//!
//! Each entry enters the hash as section, name, a tag and its bytes, all length-prefixed: no two lists give the same stream.

use crate::cache::digest::Digest;

/// What a key is for. Keys of different purposes never meet; a new version of the encoding is a new context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// One piece of work of an item stage.
    Work,
    /// All outputs of a stage: what its row in the lock is found by.
    Stage,
    /// What an interrupted run is resumed by.
    State,
    /// Items made of all outputs of a stage together.
    Finish,
}

impl Purpose {
    fn context(self) -> &'static str {
        match self {
            Purpose::Work => "loramill 2026-11 work key v1",
            Purpose::Stage => "loramill 2026-11 stage key v1",
            Purpose::State => "loramill 2026-11 state key v1",
            Purpose::Finish => "loramill 2026-11 finish key v1",
        }
    }
}

/// The part of a manifest that an entry belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// `crop` at version 3.
    Kind,
    /// A `result` param of the stage.
    Param,
    /// An artifact or a set of items, by the param or the name under which it is read.
    Input,
    /// A value of one piece of work alone.
    Value,
}

impl Section {
    const ALL: [Self; 4] = [Self::Kind, Self::Param, Self::Input, Self::Value];

    /// As records and JSON write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Param => "param",
            Self::Input => "input",
            Self::Value => "value",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.word() == word)
    }
}

/// What one entry covers.
#[derive(Clone, Debug, PartialEq)]
pub enum Covers<'a> {
    /// A canonical value. Objects count by their sorted names.
    Value(&'a serde_json::Value),
    Artifact(Digest),
    /// Items in an order that their contents decide; `members` is the digest over what is read of them, `tree` the object that
    /// lists them with their names, and not in the key.
    Set {
        members: Digest,
        count: u64,
        tree: Option<Digest>,
    },
}

/// Takes the entries of a manifest in their order.
pub trait Rendering {
    fn entry(&mut self, section: Section, name: &str, covers: Covers<'_>);
}

/// Renders a manifest as its key.
#[derive(Clone)]
pub struct KeyHash(blake3::Hasher);

impl KeyHash {
    /// Begins with no entry. The purpose is the context of BLAKE3's key derivation: the same entries give another key for another
    /// purpose.
    pub fn new(purpose: Purpose) -> Self {
        Self(blake3::Hasher::new_derive_key(purpose.context()))
    }

    /// The key of the entries so far.
    pub fn key(&self) -> Digest {
        self.0.finalize().into()
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

impl Rendering for KeyHash {
    fn entry(&mut self, section: Section, name: &str, covers: Covers<'_>) {
        self.0.update(&[section as u8]);
        self.field(name.as_bytes());
        match covers {
            Covers::Value(value) => {
                let mut text = String::new();
                canonical_json(value, &mut text);
                self.0.update(&[0]);
                self.field(text.as_bytes());
            }
            Covers::Artifact(digest) => {
                self.0.update(&[1]);
                self.field(digest.as_bytes());
            }
            Covers::Set { members, count, tree: _ } => {
                self.0.update(&[2]);
                self.field(&count.to_le_bytes());
                self.field(members.as_bytes());
            }
        }
    }
}

/// Renders a manifest as the list that a record keeps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ComponentList(pub Vec<Component>);

/// One entry of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    pub section: Section,
    pub name: String,
    pub covered: Covered,
}

/// As `Covers`, owned.
#[derive(Clone, Debug, PartialEq)]
pub enum Covered {
    Value(serde_json::Value),
    Artifact(Digest),
    Set { members: Digest, count: u64, tree: Option<Digest> },
}

impl Rendering for ComponentList {
    fn entry(&mut self, section: Section, name: &str, covers: Covers<'_>) {
        let covered = match covers {
            Covers::Value(value) => Covered::Value(value.clone()),
            Covers::Artifact(digest) => Covered::Artifact(digest),
            Covers::Set { members, count, tree } => Covered::Set { members, count, tree },
        };
        self.0.push(Component { section, name: name.to_string(), covered });
    }
}

impl ComponentList {
    /// What the entry of this section and name covers; the first one, if there are several.
    pub fn get(&self, section: Section, name: &str) -> Option<&Covered> {
        self.0.iter().find(|c| c.section == section && c.name == name).map(|c| &c.covered)
    }

    /// The entries of one section, in the order of the manifest.
    pub fn section(&self, section: Section) -> impl Iterator<Item = &Component> {
        self.0.iter().filter(move |c| c.section == section)
    }

    /// As a record keeps it: `param network.rank` and `8`.
    pub fn to_record(&self) -> Vec<(String, String)> {
        self.0.iter().map(|c| (format!("{} {}", c.section.word(), c.name), c.covered.written())).collect()
    }

    /// What a record of another version may hold beyond this is left out.
    pub fn from_record(components: &[(String, String)]) -> Self {
        let read = |(name, value): &(String, String)| {
            let (section, name) = name.split_once(' ')?;
            Some(Component { section: Section::from_word(section)?, name: name.to_string(), covered: Covered::read(value)? })
        };
        Self(components.iter().filter_map(read).collect())
    }
}

impl Covered {
    /// JSON, `artifact <digest>`, or `set <count> <members> <tree>`.
    fn written(&self) -> String {
        match self {
            Self::Value(value) => {
                let mut text = String::new();
                canonical_json(value, &mut text);
                text
            }
            Self::Artifact(digest) => format!("artifact {digest}"),
            Self::Set { members, count, tree: None } => format!("set {count} {members}"),
            Self::Set { members, count, tree: Some(tree) } => format!("set {count} {members} {tree}"),
        }
    }

    fn read(text: &str) -> Option<Self> {
        // No JSON begins with these words.
        if let Some(digest) = text.strip_prefix("artifact ") {
            return digest.parse().ok().map(Self::Artifact);
        }
        let Some(set) = text.strip_prefix("set ") else {
            return serde_json::from_str(text).ok().map(Self::Value);
        };
        let mut words = set.split(' ');
        let count = words.next()?.parse().ok()?;
        let members = words.next()?.parse().ok()?;
        let tree = match words.next() {
            Some(tree) => Some(tree.parse().ok()?),
            None => None,
        };
        Some(Self::Set { members, count, tree })
    }
}

/// JSON with the names of objects sorted, whatever the map type of `serde_json` keeps.
fn canonical_json(value: &serde_json::Value, into: &mut String) {
    match value {
        serde_json::Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            into.push('{');
            for (index, name) in names.into_iter().enumerate() {
                if index > 0 {
                    into.push(',');
                }
                into.push_str(&serde_json::Value::from(name.as_str()).to_string());
                into.push(':');
                canonical_json(&fields[name], into);
            }
            into.push('}');
        }
        serde_json::Value::Array(values) => {
            into.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    into.push(',');
                }
                canonical_json(value, into);
            }
            into.push(']');
        }
        scalar => into.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key_of(entries: &[(Section, &str, serde_json::Value)]) -> Digest {
        let mut hash = KeyHash::new(Purpose::Work);
        for (section, name, value) in entries {
            hash.entry(*section, name, Covers::Value(value));
        }
        hash.key()
    }

    #[test]
    fn the_border_between_name_and_value_counts() {
        let left = key_of(&[(Section::Param, "a", json!("bc"))]);
        let right = key_of(&[(Section::Param, "ab", json!("c"))]);
        assert_ne!(left, right);
    }

    #[test]
    fn section_and_type_and_purpose_count() {
        let one = key_of(&[(Section::Param, "a", json!(1))]);
        assert_ne!(one, key_of(&[(Section::Value, "a", json!(1))]));
        assert_ne!(one, key_of(&[(Section::Param, "a", json!("1"))]));
        let mut hash = KeyHash::new(Purpose::Stage);
        hash.entry(Section::Param, "a", Covers::Value(&json!(1)));
        assert_ne!(one, hash.key());
    }

    #[test]
    fn the_key_is_the_one_that_caches_in_the_world_hold() {
        let mut hash = KeyHash::new(Purpose::Work);
        hash.entry(Section::Kind, "resize", Covers::Value(&json!(1)));
        hash.entry(Section::Param, "size", Covers::Value(&json!([512, 512])));
        hash.entry(Section::Input, "image", Covers::Artifact(Digest::of(b"picture")));
        hash.entry(Section::Input, "images", Covers::Set { members: Digest::of(b"members"), count: 2, tree: None });
        assert_eq!(hash.key().to_hex(), "739768544a59e725c223f7752584e493659d3fb0f404d9a0eccba866554448fb");
    }

    #[test]
    fn the_tree_of_a_set_is_listed_but_not_in_the_key() {
        let mut plain = KeyHash::new(Purpose::Stage);
        let mut named = plain.clone();
        let members = Digest::of(b"members");
        plain.entry(Section::Input, "images", Covers::Set { members, count: 3, tree: None });
        named.entry(Section::Input, "images", Covers::Set { members, count: 3, tree: Some(Digest::of(b"tree")) });
        assert_eq!(plain.key(), named.key());
    }

    #[test]
    fn a_component_list_survives_writing_and_reading() {
        let mut list = ComponentList::default();
        list.entry(Section::Kind, "resize", Covers::Value(&json!(1)));
        list.entry(Section::Input, "image", Covers::Artifact(Digest::of(b"picture")));
        let set = Covers::Set { members: Digest::of(b"m"), count: 1, tree: Some(Digest::of(b"t")) };
        list.entry(Section::Input, "images", set);
        list.entry(Section::Input, "base", Covers::Set { members: Digest::of(b"m"), count: 1, tree: None });
        assert_eq!(ComponentList::from_record(&list.to_record()), list);
    }

    #[test]
    fn the_order_of_an_objects_names_does_not_count() {
        let mut text = String::new();
        canonical_json(&json!({ "b": 1, "a": [true, { "d": null, "c": "x" }] }), &mut text);
        assert_eq!(text, r#"{"a":[true,{"c":"x","d":null}],"b":1}"#);
    }
}
