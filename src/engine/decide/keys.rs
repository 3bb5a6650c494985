//! What each key covers. This table is the whole truth; nothing else is in a key.
//!
//! | key | covers |
//! | --- | --- |
//! | work | kind and version, the stage's components, the values of the work, the digests of its inputs by name |
//! | whole stage | kind and version, components, for each input the digests of the fields it reads, sorted by content |
//! | row of an item stage | kind and version, that of `finish`, components, other params as written, each input's tree with its names, edited texts |
//! | state | as the whole stage, without what only moves its end |
//! | finish | kind and version, that of `finish`, components, the digests of all outputs, sorted by content |
//!
//! Never in a key: paths, times, the names of stages, variants and inputs, the device, the number of threads, how the file is
//! laid out. Names of items are in the row of an item stage because its tree holds them; that row only saves looking up its
//! works, which renaming never makes run again.

use crate::cache::digest::Digest;
use crate::cache::manifest::{Covers, KeyHash, Purpose, Rendering, Section};
use crate::decide::taken::Taken;
use crate::graph::pipeline::LoadedStage;
use crate::kind::item::Item;
use crate::kind::stage::{Form, Work};

/// Kind, version and components of a stage: the start of each of its keys.
#[derive(Clone, Debug)]
pub struct StageIdentity {
    pub kind: &'static str,
    pub version: u32,
    /// Of what an item stage makes of all outputs together.
    pub finish_version: u32,
    /// In the order of the names.
    pub components: Vec<(String, serde_json::Value)>,
}

/// An input of a stage as its key sees it.
#[derive(Clone, Debug)]
pub struct KeyedInput<'a> {
    pub param: &'a str,
    pub members: Digest,
    pub count: usize,
    /// The object that lists the items with their names.
    pub tree: Digest,
}

impl StageIdentity {
    /// Takes it from the stage as it was loaded. A whole stage has no `finish`: its version is 1.
    pub fn of(stage: &LoadedStage) -> Self {
        let finish_version = match stage.stage.form() {
            Form::Items(form) => form.finish_version(),
            Form::Whole(_) => 1,
        };
        let (kind, version, components) = (stage.kind.name, stage.kind.version, stage.stage.components());
        Self { kind, version, finish_version, components }
    }

    /// Adds the kind with its version, then the components.
    pub fn render(&self, into: &mut impl Rendering) {
        self.render_without(&[], into);
    }

    /// Leaves out the components named in `without`.
    pub fn render_without(&self, without: &[&str], into: &mut impl Rendering) {
        into.entry(Section::Kind, self.kind, Covers::Value(&self.version.into()));
        for (name, value) in self.components.iter().filter(|(name, _)| !without.contains(&name.as_str())) {
            into.entry(Section::Param, name, Covers::Value(value));
        }
    }

    /// For keys of what is made of all outputs together, and of rows, which name it. The first version is in none.
    pub fn render_finish(&self, into: &mut impl Rendering) {
        if self.finish_version > 1 {
            into.entry(Section::Value, "finish version", Covers::Value(&self.finish_version.into()));
        }
    }

    /// The start of the keys of its works: hashed once, cloned for each.
    pub fn work_hash(&self) -> KeyHash {
        let mut hash = KeyHash::new(Purpose::Work);
        self.render(&mut hash);
        hash
    }
}

/// The part of a work's manifest that is its own.
pub fn render_work(work: &Work, into: &mut impl Rendering) {
    for (name, value) in &work.values {
        into.entry(Section::Value, name, Covers::Value(value));
    }
    for (name, artifact) in &work.inputs {
        into.entry(Section::Input, name, Covers::Artifact(artifact.digest));
    }
}

/// Adds each input by its param, in the given order, which counts. The tree is for records, and changes no key.
pub fn render_inputs(inputs: &[KeyedInput<'_>], into: &mut impl Rendering) {
    for input in inputs {
        let covers = Covers::Set { members: input.members, count: input.count as u64, tree: Some(input.tree) };
        into.entry(Section::Input, input.param, covers);
    }
}

/// The key of the row of an item stage. Names are in it, because the tree holds them, and what people wrote, because it takes the
/// place of what the machine did.
pub fn row_key(stage: &LoadedStage, identity: &StageIdentity, taken: &[Taken<'_>], texts: Option<Digest>) -> Digest {
    let mut hash = KeyHash::new(Purpose::Stage);
    render_row(stage, identity, taken, &mut hash);
    if let Some(texts) = texts {
        hash.entry(Section::Input, "texts of people", Covers::Artifact(texts));
    }
    hash.key()
}

/// What the row of an item stage covers, but for what people wrote.
pub fn render_row(stage: &LoadedStage, identity: &StageIdentity, taken: &[Taken<'_>], into: &mut impl Rendering) {
    identity.render(into);
    identity.render_finish(into);
    let is_component = |name: &str| {
        identity
            .components
            .iter()
            .any(|(known, _)| known.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    };
    for (name, value) in stage.written.iter().filter(|(name, _)| !is_component(name)) {
        into.entry(Section::Value, name, Covers::Value(value));
    }
    render_inputs(&by_tree(taken), into);
}

/// The inputs as the row of an item stage sees them.
fn by_tree<'t>(taken: &'t [Taken<'_>]) -> Vec<KeyedInput<'t>> {
    taken
        .iter()
        .map(|taken| {
            let param = taken.edge.reads.param.as_str();
            KeyedInput { param, members: taken.tree.digest, count: taken.tree.count, tree: taken.tree.digest }
        })
        .collect()
}

/// The digest over what `reads` names of each item, in an order that only the contents decide.
pub fn members(items: &[Item], reads: &[&str]) -> Digest {
    let width = reads.len();
    let mut digests: Vec<Option<Digest>> = Vec::with_capacity(items.len() * width);
    for item in items {
        digests.extend(reads.iter().map(|field| item.fields.get(*field).map(|artifact| artifact.digest)));
    }
    let mut rows: Vec<&[Option<Digest>]> = if width == 0 { Vec::new() } else { digests.chunks(width).collect() };
    rows.sort_unstable();

    let mut hasher = blake3::Hasher::new_derive_key("loramill 2026-11 members v1");
    hasher.update(&(items.len() as u64).to_le_bytes());
    for row in rows {
        let present = row.iter().flatten().count() as u64;
        hasher.update(&present.to_le_bytes());
        for (field, digest) in reads.iter().zip(row) {
            if let Some(digest) = digest {
                hasher.update(&(field.len() as u64).to_le_bytes());
                hasher.update(field.as_bytes());
                hasher.update(digest.as_bytes());
            }
        }
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::kind::item::Artifact;

    fn artifact(text: &str) -> Artifact {
        Artifact { digest: Digest::of(text.as_bytes()), size: text.len() as u64, extension: "txt".into() }
    }

    fn item(name: &str, fields: &[(&str, &str)]) -> Item {
        Item {
            name: name.into(),
            origin: None,
            fields: fields.iter().map(|(field, text)| (field.to_string(), artifact(text))).collect(),
            attributes: BTreeMap::new(),
            key: Digest::of(name.as_bytes()),
        }
    }

    fn key_of(work: &Work) -> Digest {
        let identity =
            StageIdentity { kind: "resize", version: 1, finish_version: 1, components: vec![("size".into(), json!(512))] };
        let mut hash = identity.work_hash();
        render_work(work, &mut hash);
        hash.key()
    }

    #[test]
    fn names_order_and_unread_fields_are_not_among_the_members() {
        let a = [item("a", &[("image", "1"), ("photo", "x")]), item("b", &[("image", "2")])];
        let b = [item("x", &[("image", "2"), ("photo", "y")]), item("y", &[("image", "1")])];
        assert_eq!(members(&a, &["image"]), members(&b, &["image"]));
        assert_ne!(members(&a, &["image", "photo"]), members(&b, &["image", "photo"]));
    }

    #[test]
    fn a_missing_field_is_not_an_empty_one_and_counts_stay_apart() {
        let without = [item("a", &[("image", "1")])];
        let with = [item("a", &[("image", "1"), ("caption", "")])];
        assert_ne!(members(&without, &["image", "caption"]), members(&with, &["image", "caption"]));
        let twice = [without[0].clone(), without[0].clone()];
        assert_ne!(members(&without, &["image"]), members(&twice, &["image"]));
    }

    #[test]
    fn the_param_that_reads_an_input_counts() {
        let key = |params: [&str; 2], contents: [&str; 2]| {
            let digests = contents.map(|text| Digest::of(text.as_bytes()));
            let input = |at: usize| KeyedInput { param: params[at], members: digests[at], count: 1, tree: digests[at] };
            let mut hash = KeyHash::new(Purpose::Stage);
            render_inputs(&[input(0), input(1)], &mut hash);
            hash.key()
        };
        assert_ne!(key(["base", "vae"], ["1", "2"]), key(["base", "vae"], ["2", "1"]));
        assert_ne!(key(["base", "vae"], ["1", "2"]), key(["base", "lora"], ["1", "2"]));
        assert_eq!(key(["base", "vae"], ["1", "2"]), key(["base", "vae"], ["1", "2"]));
    }

    #[test]
    fn a_works_key_holds_its_inputs_and_values_and_neither_name_nor_what_it_carries() {
        let work = Work::of_item(&item("a", &[("image", "1"), ("caption", "c")]), &["image"]);
        let renamed = Work::of_item(&item("b", &[("image", "1"), ("caption", "other")]), &["image"]);
        assert_eq!(key_of(&work), key_of(&renamed));
        let other_image = Work::of_item(&item("a", &[("image", "2")]), &["image"]);
        assert_ne!(key_of(&work), key_of(&other_image));
        let with_value = Work { values: BTreeMap::from([("seed".into(), json!(1))]), ..work.clone() };
        assert_ne!(key_of(&work), key_of(&with_value));
    }
}
