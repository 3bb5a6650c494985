//! From the outputs of a key to items: names that follow the piece of work, fields that passed it by. Unaware of where they are
//! kept.

use std::collections::BTreeMap;

use crate::cache::digest::Digest;
use crate::cache::manifest::{Covers, KeyHash, Purpose, Rendering as _, Section};
use crate::cache::records::Output;
use crate::decide::keys::{KeyedInput, StageIdentity, members, render_inputs};
use crate::kind::item::{Fields, Item, ItemSet};
use crate::kind::stage::Work;

/// The items of outputs that are of no piece of work: those of a whole stage, or of `finish`.
pub fn items_of_stage(outputs: &[Output], key: Digest) -> ItemSet {
    let work = nameless();
    let mut items = items_of(&work, key, outputs);
    items.sort_by(|a, b| a.name.cmp(&b.name));
    items
}

fn nameless() -> Work {
    Work {
        name: String::new(),
        origin: None,
        values: BTreeMap::new(),
        inputs: Fields::new(),
        carry: Fields::new(),
        attributes: BTreeMap::new(),
    }
}

/// The items that a piece of work gave, with what it carries past the worker.
pub fn items_of(work: &Work, key: Digest, outputs: &[Output]) -> ItemSet {
    outputs
        .iter()
        .map(|output| {
            let mut fields = work.carry.clone();
            fields.extend(output.fields.iter().map(|(name, artifact)| (name.clone(), artifact.clone())));
            let mut attributes = work.attributes.clone();
            attributes.extend(output.attributes.iter().map(|(name, value)| (name.clone(), value.clone())));
            let name = output.name.resolve(&work.name);
            let origin = match output.origin.as_ref().map(|origin| origin.resolve(&work.name)) {
                // What descends from a copy descends from the original.
                Some(origin) if origin == work.name => Some(work.origin.clone().unwrap_or(origin)),
                Some(origin) => Some(origin),
                None => work.origin.clone(),
            };
            Item { origin: origin.filter(|origin| *origin != name), name, fields, attributes, key }
        })
        .collect()
}

/// The item of a piece of work that a person did.
pub fn edited_item(work: &Work, key: Digest, fields: &Fields) -> Item {
    let mut all = work.carry.clone();
    all.extend(fields.iter().map(|(name, artifact)| (name.clone(), artifact.clone())));
    Item { name: work.name.clone(), origin: work.origin.clone(), fields: all, attributes: work.attributes.clone(), key }
}

/// The key of what `finish` makes of all outputs.
pub fn finish_key(identity: &StageIdentity, outputs: &[Item], written: &[&str]) -> Digest {
    let mut hash = KeyHash::new(Purpose::Finish);
    identity.render(&mut hash);
    identity.render_finish(&mut hash);
    let members = members(outputs, written);
    let input = KeyedInput { param: "outputs", members, count: outputs.len(), tree: members };
    render_inputs(&[input], &mut hash);
    let mut attributes: Vec<String> = outputs.iter().map(|item| format!("{:?}", item.attributes)).collect();
    attributes.sort_unstable();
    let attributes = serde_json::Value::from(attributes);
    hash.entry(Section::Value, "attributes", Covers::Value(&attributes));
    hash.key()
}
