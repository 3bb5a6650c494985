//! Why something must run: reasons as data, worded in one place. They are the difference between what the last run recorded and
//! what is there now, never a guess. Unaware of how stages are run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::Serialize;

use crate::cache::digest::Digest;
use crate::cache::manifest::{ComponentList, Covered, Section};
use crate::kind::item::Item;

/// Whether a stage, or an item of one, may be reused.
#[derive(Clone, Debug, PartialEq)]
pub enum Freshness {
    Fresh,
    Dirty(Vec<Reason>),
    /// Until the stages named here have ended.
    Unknown(Vec<Reason>),
}

/// One reason to run a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    NeverRan,
    /// The lock names a result that was made with another cache.
    NotInThisCache,
    /// `--force`
    Forced,
    KindChanged {
        old: String,
        new: String,
    },
    VersionRaised {
        stage_kind: String,
        old: u64,
        new: u64,
    },
    ParamChanged {
        name: String,
        /// `None` if the param is new.
        old: Option<serde_json::Value>,
        /// `None` if the param is gone.
        new: Option<serde_json::Value>,
    },
    /// An input that is one file.
    InputChanged {
        input: String,
    },
    /// The field of some items of an input has other contents.
    FieldChanged {
        input: String,
        field: String,
        items: Vec<String>,
        total: usize,
    },
    ItemsAdded {
        input: String,
        items: Vec<String>,
        photos: bool,
    },
    ItemsRemoved {
        input: String,
        items: Vec<String>,
        photos: bool,
    },
    /// Pieces of work that never ended well.
    NoResult {
        items: Vec<String>,
        total: usize,
    },
    /// Outputs that a record names and the cache has no more.
    OutputsLost {
        items: Vec<String>,
        total: usize,
    },
    /// Its outputs were not kept, and a stage that reads them must run.
    MadeAgain {
        reader: String,
    },
    /// An interrupted run goes on.
    GoesOn {
        published: usize,
        /// How far it came, where the kind tells.
        reached: Option<String>,
    },
    /// Outputs of another stage must be known first.
    WaitsFor {
        stage: String,
    },
    /// The run leaves it out, and it has no result that could be taken.
    LeftOut {
        stage: String,
    },
    /// `@pick` is used and nothing is picked.
    NothingPicked {
        input: String,
    },
    /// A model that only a stage that runs would need.
    InputAbsent {
        input: String,
    },
    /// Texts that people wrote count no more, and nobody has said that the machine's may take their place.
    TextsLost {
        items: Vec<String>,
        /// Where they would count.
        folder: String,
        /// The stage that they belong to, if the file has it no more.
        former: Option<FormerStage>,
    },
}

/// A stage that the file does not have any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FormerStage {
    pub stage: String,
    /// Of its texts.
    pub folder: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NeverRan => f.write_str("never ran"),
            Reason::NotInThisCache => f.write_str("its last result is not in this cache"),
            Reason::Forced => f.write_str("forced"),
            Reason::KindChanged { old, new } => write!(f, "kind changed from `{old}` to `{new}`"),
            Reason::VersionRaised { stage_kind, old, new } => {
                write!(f, "`{stage_kind}` now works as version {new}, before as version {old}")
            }
            Reason::ParamChanged { name, old: Some(old), new: Some(new) } => {
                write!(f, "`{name}` changed from {} to {}", shown(old), shown(new))
            }
            Reason::ParamChanged { name, old: None, new: Some(new) } => write!(f, "`{name}` is new: {}", shown(new)),
            Reason::ParamChanged { name, old: Some(old), new: None } => write!(f, "`{name}` is gone, was {}", shown(old)),
            Reason::ParamChanged { name, old: None, new: None } => write!(f, "`{name}` changed"),
            Reason::InputChanged { input } => write!(f, "`{input}` changed"),
            Reason::FieldChanged { field, items, total, .. } => {
                let verb = if is_text(field) { "edited" } else { "changed" };
                write!(f, "{} of {total} {} {verb}: {}", items.len(), plural(field, *total), listed(items))
            }
            Reason::ItemsAdded { items, photos, .. } => match items.as_slice() {
                [item] => write!(f, "new {} {item}", noun(*photos, 1)),
                _ => write!(f, "{} new {}: {}", items.len(), noun(*photos, items.len()), listed(items)),
            },
            Reason::ItemsRemoved { items, photos, .. } => match items.as_slice() {
                [item] => write!(f, "{} {item} is gone", noun(*photos, 1)),
                _ => write!(f, "{} {} are gone: {}", items.len(), noun(*photos, items.len()), listed(items)),
            },
            Reason::NoResult { items, total } if items.len() == *total => {
                write!(f, "no result yet for {} {}", items.len(), noun(false, items.len()))
            }
            Reason::NoResult { items, total } => {
                write!(f, "no result yet for {} of {total} items: {}", items.len(), listed(items))
            }
            Reason::OutputsLost { items, total } => {
                write!(f, "{} of {total} outputs are no longer in the cache: {}", items.len(), listed(items))
            }
            Reason::MadeAgain { reader } => write!(f, "made again for `{reader}`: its outputs were not kept"),
            Reason::GoesOn { published, reached } => {
                f.write_str("goes on where it was interrupted")?;
                reached.iter().try_for_each(|reached| write!(f, ", {reached}"))?;
                if *published > 0 { write!(f, ", with {published} published") } else { Ok(()) }
            }
            Reason::WaitsFor { stage } => write!(f, "waits for `{stage}`"),
            Reason::LeftOut { stage } => {
                write!(f, "this run leaves `{stage}` out, and it has no result to take")
            }
            Reason::NothingPicked { input } => {
                write!(f, "`{input}` takes what is picked, and nothing is: write `pick: <epoch>` into the pipeline file")
            }
            Reason::InputAbsent { input } => write!(f, "`{input}` is not here yet"),
            Reason::TextsLost { items, folder, former } => {
                let texts = if items.len() == 1 { "1 text".to_string() } else { format!("{} texts", items.len()) };
                let is = if items.len() == 1 { "is" } else { "are" };
                match former {
                    None => write!(
                        f,
                        "{texts} that people wrote {is} gone from `{folder}/`: {}; put the folder back, or `loramill edits restore` writes \
                         what runs used",
                        listed(items)
                    )?,
                    Some(FormerStage { stage, folder: there }) => write!(
                        f,
                        "{texts} that people wrote in `{there}/` for a stage `{stage}`, which is not in the file any more: {}; call this \
                         stage `{stage}` again, or `loramill edits restore` brings them to `{folder}/`",
                        listed(items)
                    )?,
                }
                f.write_str("; `loramill edits drop --gone` lets the machine's take their place")
            }
        }
    }
}

impl Reason {
    /// As `plan --json` prints it: the fields, and `text`.
    pub fn to_json(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).expect("a reason holds strings and numbers only");
        value["text"] = self.to_string().into();
        value
    }
}

/// Reasons in one line.
pub fn worded(reasons: &[Reason]) -> String {
    match reasons {
        [] => "something it reads changed".to_string(),
        [first] => first.to_string(),
        [first, second] => format!("{first}; {second}"),
        [first, second, rest @ ..] => format!("{first}; {second}; and {} more", rest.len()),
    }
}

/// Whether a field is prose that people write.
pub(crate) fn is_text(field: &str) -> bool {
    matches!(field, "caption" | "sidecar")
}

fn plural(field: &str, count: usize) -> String {
    if count == 1 { field.to_string() } else { format!("{field}s") }
}

fn noun(photos: bool, count: usize) -> &'static str {
    match (photos, count) {
        (true, 1) => "photo",
        (true, _) => "photos",
        (false, 1) => "item",
        (false, _) => "items",
    }
}

/// At most five names.
fn listed(items: &[String]) -> String {
    match items {
        [a, b, c, d, e, rest @ ..] if !rest.is_empty() => format!("{a}, {b}, {c}, {d}, {e} and {} more", rest.len()),
        few => few.join(", "),
    }
}

/// A value at a length that fits a line.
fn shown(value: &serde_json::Value) -> String {
    const LONGEST: usize = 60;
    let text = match value {
        serde_json::Value::Null => "nothing".to_string(),
        value => value.to_string(),
    };
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What changed in kind and params between two lists.
pub fn changed_params(old: &ComponentList, new: &ComponentList) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if let (Some(before), Some(now)) = (kind_of(old), kind_of(new)) {
        if before.0 != now.0 {
            // Params of another kind would all differ.
            return vec![Reason::KindChanged { old: before.0, new: now.0 }];
        }
        if before.1 != now.1 {
            reasons.push(Reason::VersionRaised { stage_kind: now.0, old: before.1, new: now.1 });
        }
    }
    for section in [Section::Param, Section::Value] {
        reasons.extend(changed_values(old, new, section));
    }
    reasons
}

fn changed_values(old: &ComponentList, new: &ComponentList, section: Section) -> Vec<Reason> {
    let before = values(old, section);
    let now = values(new, section);
    let names: BTreeSet<&str> = before.keys().chain(now.keys()).copied().collect();
    names
        .into_iter()
        .filter(|name| before.get(name) != now.get(name))
        .map(|name| Reason::ParamChanged {
            name: name.to_string(),
            old: before.get(name).map(|&v| v.clone()),
            new: now.get(name).map(|&v| v.clone()),
        })
        .collect()
}

fn values(list: &ComponentList, section: Section) -> BTreeMap<&str, &serde_json::Value> {
    list.section(section)
        .filter_map(|c| match &c.covered {
            Covered::Value(value) => Some((c.name.as_str(), value)),
            _ => None,
        })
        .collect()
}

fn kind_of(list: &ComponentList) -> Option<(String, u64)> {
    list.section(Section::Kind).next().and_then(|c| match &c.covered {
        Covered::Value(version) => Some((c.name.clone(), version.as_u64()?)),
        _ => None,
    })
}

/// What changed between the items that a stage took and those that it would take now, in the fields it reads. Items that only
/// have other names are no difference.
pub fn changed_items(input: &str, reads: &[&str], old: &[Item], new: &[Item]) -> Vec<Reason> {
    let before: HashMap<&str, &Item> = old.iter().map(|item| (item.name.as_str(), item)).collect();
    let now: HashMap<&str, &Item> = new.iter().map(|item| (item.name.as_str(), item)).collect();

    // Renamed: the same contents under a name that was not there, in place of one that is gone.
    let mut gone_contents: HashMap<Vec<Digest>, Vec<&str>> = HashMap::new();
    for item in old.iter().filter(|item| !now.contains_key(item.name.as_str())) {
        gone_contents.entry(contents(item, reads)).or_default().push(&item.name);
    }
    let mut added: Vec<&Item> = Vec::new();
    for item in new.iter().filter(|item| !before.contains_key(item.name.as_str())) {
        match gone_contents.get_mut(&contents(item, reads)).and_then(Vec::pop) {
            Some(_renamed) => {}
            None => added.push(item),
        }
    }
    let mut removed: Vec<&str> = gone_contents.into_values().flatten().collect();
    removed.sort_unstable();

    let mut reasons = Vec::new();
    for field in reads {
        let items: Vec<String> = new
            .iter()
            .filter(|item| {
                before
                    .get(item.name.as_str())
                    .is_some_and(|b| b.fields.get(*field).map(|a| a.digest) != item.fields.get(*field).map(|a| a.digest))
            })
            .map(|item| item.name.clone())
            .collect();
        if items.is_empty() {
            continue;
        }
        reasons.push(if new.len() == 1 && old.len() == 1 && !is_text(field) {
            Reason::InputChanged { input: input.to_string() }
        } else {
            Reason::FieldChanged { input: input.to_string(), field: field.to_string(), items, total: new.len() }
        });
    }
    if !added.is_empty() {
        let photos = added.iter().all(|item| item.fields.contains_key("photo"));
        let items = added.iter().map(|item| item.name.clone()).collect();
        reasons.push(Reason::ItemsAdded { input: input.to_string(), items, photos });
    }
    if !removed.is_empty() {
        let photos = removed.iter().all(|name| before[name].fields.contains_key("photo"));
        let items = removed.into_iter().map(str::to_string).collect();
        reasons.push(Reason::ItemsRemoved { input: input.to_string(), items, photos });
    }
    reasons
}

fn contents(item: &Item, reads: &[&str]) -> Vec<Digest> {
    reads.iter().filter_map(|field| item.fields.get(*field).map(|a| a.digest)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cache::manifest::{Covers, Rendering};
    use crate::kind::item::{Artifact, Fields};

    fn item(name: &str, image: &str, caption: &str) -> Item {
        let artifact = |text: &str| Artifact { digest: Digest::of(text.as_bytes()), size: 1, extension: "txt".into() };
        Item {
            name: name.into(),
            origin: None,
            fields: Fields::from([("image", artifact(image)), ("caption", artifact(caption)), ("photo", artifact(image))]),
            attributes: BTreeMap::new(),
            key: Digest::of(name.as_bytes()),
        }
    }

    fn texts(reasons: &[Reason]) -> Vec<String> {
        reasons.iter().map(Reason::to_string).collect()
    }

    const READS: &[&str] = &["image", "caption"];

    #[test]
    fn edited_captions_are_counted_and_named() {
        let old = [item("IMG_1", "1", "a"), item("IMG_2", "2", "b"), item("IMG_3", "3", "c")];
        let new = [item("IMG_1", "1", "a"), item("IMG_2", "2", "B"), item("IMG_3", "3", "C")];
        assert_eq!(texts(&changed_items("images", READS, &old, &new)), ["2 of 3 captions edited: IMG_2, IMG_3"]);
    }

    #[test]
    fn a_new_photo_is_named_and_a_renamed_one_is_no_difference() {
        let old = [item("IMG_1", "1", "a"), item("IMG_2", "2", "b")];
        let new = [item("IMG_1", "1", "a"), item("IMG_3", "3", "c"), item("beach", "2", "b")];
        assert_eq!(texts(&changed_items("images", READS, &old, &new)), ["new photo IMG_3"]);
        assert_eq!(texts(&changed_items("images", READS, &new, &old)), ["photo IMG_3 is gone"]);
    }

    #[test]
    fn a_photo_whose_caption_nobody_reads_does_not_count_its_edit() {
        let old = [item("IMG_1", "1", "a")];
        let new = [item("IMG_1", "1", "b")];
        assert_eq!(changed_items("images", &["image"], &old, &new), []);
    }

    #[test]
    fn params_say_from_what_to_what() {
        let list = |rank: i64, version: u32| {
            let mut list = ComponentList::default();
            list.entry(Section::Kind, "train", Covers::Value(&json!(version)));
            list.entry(Section::Param, "network.rank", Covers::Value(&json!(rank)));
            list
        };
        assert_eq!(texts(&changed_params(&list(8, 1), &list(16, 1))), ["`network.rank` changed from 8 to 16"]);
        assert_eq!(texts(&changed_params(&list(8, 1), &list(8, 2))), ["`train` now works as version 2, before as version 1"]);
        assert_eq!(changed_params(&list(8, 1), &list(8, 1)), []);
    }

    #[test]
    fn the_json_of_a_reason_has_its_kind_and_its_text() {
        let reason = Reason::ParamChanged { name: "rank".into(), old: Some(json!(8)), new: Some(json!(16)) };
        assert_eq!(
            reason.to_json(),
            json!({ "kind": "param_changed", "name": "rank", "old": 8, "new": 16, "text": "`rank` changed from 8 to 16" })
        );
    }
}
