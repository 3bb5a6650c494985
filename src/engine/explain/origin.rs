//! The way that contents came: what made them, of what, and what made that, up to what was read from disk. Contents that were
//! made in one way are described together, so that the way of a thousand pictures is as long as that of one. Unaware of how it is
//! shown.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::manifest::{Component, Covered, Section};
use crate::decide::intake::Intake;
use crate::explain::ledger::{Hint, Ledger, Making, Place};
use crate::graph::pipeline::Pipeline;
use crate::inputs::input::Found;
use crate::kind::item::Item;
use crate::kind::item_set;

/// A longer way is no pipeline but a circle of conversions.
const LONGEST: usize = 100;

/// Contents that were made in one way.
#[derive(Clone, Debug)]
pub struct Origin {
    /// In the order of their names.
    pub members: Vec<Member>,
    pub maker: Maker,
}

/// One of the contents that an origin speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    pub name: Option<String>,
    pub digest: Digest,
    /// Where it was read from, if it still lies there.
    pub path: Option<PathBuf>,
}

/// Who made contents.
#[derive(Clone, Debug)]
pub enum Maker {
    Stage(Box<Made>),
    /// Read from disk: a photo, a model, a text beside a photo.
    Disk {
        /// Of the pipeline at hand.
        input: Option<String>,
    },
    /// A text that somebody wrote over the machine's.
    Person,
    /// No record here says.
    Unknown,
}

/// By a stage.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its name in the pipeline at hand, if that has it.
    pub stage: Option<String>,
    pub kind: String,
    pub version: Option<u64>,
    pub params: Vec<(String, Value)>,
    /// False where no record of the stage as a whole is here.
    pub are_params_known: bool,
    /// Values of a piece of work alone, if there is one piece.
    pub values: Vec<(String, Value)>,
    pub attributes: Vec<(String, String)>,
    /// Of all pieces together, as far as it is recorded.
    pub seconds: Option<f64>,
    pub ended: Option<String>,
    pub facts: Vec<(String, String)>,
    pub reads: Vec<Read>,
}

/// What was read under one name.
#[derive(Clone, Debug)]
pub struct Read {
    /// `image`, or of a stage that runs as a whole the param and the field: `images[0] caption`.
    pub name: String,
    pub count: u64,
    /// Empty if nobody knows.
    pub origins: Vec<Origin>,
}

/// The texts of editable stages.
#[derive(Debug, Default)]
pub struct KnownTexts {
    /// Where texts lie, by content.
    pub files: HashMap<Digest, PathBuf>,
    /// What the lock says the machine wrote.
    pub by_machine: HashSet<Digest>,
}

/// Follows contents back.
pub struct Tracer<'a> {
    pub cache: &'a Cache,
    pub ledger: &'a Ledger<'a>,
    /// The pipeline at hand with what lies in its inputs.
    pub known: Option<(&'a Pipeline, &'a Intake)>,
    pub texts: &'a KnownTexts,
}

/// Contents with the record that gave them, if there is one.
type Traced = (Member, Option<Making>);

struct Wanted {
    digest: Digest,
    hint: Hint,
    field: Option<String>,
}

impl Tracer<'_> {
    /// How one artifact was made.
    pub fn trace(&self, digest: Digest, hint: Hint, field: Option<&str>) -> Result<Origin> {
        let wanted = Wanted { digest, hint, field: field.map(str::to_string) };
        let mut origins = self.groups(vec![wanted], &mut Vec::new())?;
        Ok(origins.swap_remove(0))
    }

    /// `way`: the contents that lead here.
    fn groups(&self, wanted: Vec<Wanted>, way: &mut Vec<Digest>) -> Result<Vec<Origin>> {
        let mut groups: Vec<(String, Vec<Traced>)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for wanted in wanted {
            let goes_round = |making: &Making| reads_any(making, way);
            let making = match way.len() {
                0..LONGEST => self.ledger.making(&wanted.digest, &wanted.hint, &goes_round)?,
                _ => None,
            };
            let member = self.member(&wanted, making.as_ref());
            let alike = match &making {
                Some(making) => format!("{:?} {:?}", stage_of(making), shared_components(making).collect::<Vec<_>>()),
                None => format!("{:?}", self.unmade(&wanted, &member)),
            };
            let place = *places.entry(alike.clone()).or_insert_with(|| {
                groups.push((alike, Vec::new()));
                groups.len() - 1
            });
            if making.is_none() && groups[place].1.is_empty() {
                // The maker of what no stage made is described by its first member.
                groups[place].0 = wanted.field.clone().unwrap_or_default();
            }
            groups[place].1.push((member, making));
        }
        groups.into_iter().map(|(field, members)| self.origin(field, members, way)).collect()
    }

    fn origin(&self, field: String, members: Vec<Traced>, way: &mut Vec<Digest>) -> Result<Origin> {
        let (mut members, makings): (Vec<Member>, Vec<Option<Making>>) = members.into_iter().unzip();
        let makings: Vec<Making> = makings.into_iter().flatten().collect();
        let maker = match makings.first() {
            None => {
                let first = Wanted { digest: members[0].digest, hint: Hint::default(), field: Some(field) };
                self.unmade(&first, &members[0])
            }
            Some(first) => {
                let digests = members.iter().map(|member| member.digest).collect::<BTreeSet<_>>();
                let before = way.len();
                way.extend(digests);
                let reads = self.reads(&makings, way)?;
                way.truncate(before);
                let (kind, version) = first.kind().unwrap_or(("a stage of another version", None));
                let alone = makings.len() == 1;
                let mut counted = BTreeSet::new();
                let seconds: Vec<f64> = makings.iter().filter(|m| counted.insert(m.key)).filter_map(|m| m.seconds).collect();
                Maker::Stage(Box::new(Made {
                    stage: stage_of(first).map(str::to_string),
                    kind: kind.to_string(),
                    version,
                    params: values_of(first, Section::Param),
                    are_params_known: first.are_params_known,
                    values: if alone { values_of(first, Section::Value) } else { Vec::new() },
                    attributes: if alone { first.attributes.clone() } else { Vec::new() },
                    seconds: (!seconds.is_empty()).then(|| seconds.iter().sum()),
                    ended: first.ended.clone(),
                    facts: first.facts.clone(),
                    reads,
                }))
            }
        };
        members.sort();
        members.dedup();
        Ok(Origin { members, maker })
    }

    fn member(&self, wanted: &Wanted, making: Option<&Making>) -> Member {
        let place = making.and_then(|making| making.place.as_ref());
        let name = wanted.hint.item.clone().or_else(|| place.map(|place| place.item.clone()));
        let name = name.or_else(|| self.ledger.places(&wanted.digest).first().map(|place| place.item.clone()));
        let at = |(pipeline, intake): (&Pipeline, &Intake)| intake.place(pipeline, &wanted.digest, name.as_deref());
        let path = match making {
            Some(_) => None,
            None if self.is_persons(wanted) => self.texts.files.get(&wanted.digest).cloned(),
            None => self.known.and_then(at),
        };
        Member { name, digest: wanted.digest, path }
    }

    /// A text of an editable stage that no record gave: somebody wrote it.
    fn is_persons(&self, wanted: &Wanted) -> bool {
        let Some((pipeline, _)) = self.known else { return false };
        let field = wanted.field.as_deref().unwrap_or_default();
        let mut fields = pipeline.stages.values().filter_map(|stage| stage.stage.editable()).map(|editable| editable.field);
        // A text for the mirror of a picture is a field of its own: `caption-flip`.
        fields.any(|text| field.strip_prefix(text).is_some_and(|rest| matches!(rest, "" | "-flip")))
            && !self.texts.by_machine.contains(&wanted.digest)
    }

    /// What no stage made.
    fn unmade(&self, wanted: &Wanted, member: &Member) -> Maker {
        if self.is_persons(wanted) {
            return Maker::Person;
        }
        if let Some(path) = &member.path {
            return Maker::Disk { input: self.known.and_then(|(pipeline, _)| input_of(pipeline, path)) };
        }
        match self.ledger.places(&wanted.digest).iter().any(|place| place.row.is_none() || place.field == "photo") {
            true => Maker::Disk { input: None },
            false => Maker::Unknown,
        }
    }

    fn reads(&self, makings: &[Making], way: &mut Vec<Digest>) -> Result<Vec<Read>> {
        let mut wanted: BTreeMap<String, Vec<Wanted>> = BTreeMap::new();
        let mut unknown: BTreeMap<String, u64> = BTreeMap::new();
        let mut sets = BTreeSet::new();
        for making in makings {
            for Component { name, covered, .. } in making.components.section(Section::Input) {
                match covered {
                    Covered::Value(_) => {}
                    Covered::Artifact(digest) => {
                        let hint = self.hint_of_input(digest, making.place.as_ref());
                        let of_name = wanted.entry(name.clone()).or_default();
                        if !of_name.iter().any(|known| known.digest == *digest && known.hint == hint) {
                            of_name.push(Wanted { digest: *digest, hint, field: Some(name.clone()) });
                        }
                    }
                    Covered::Set { tree, count, .. } => {
                        if !sets.insert((name.clone(), *tree)) {
                            continue;
                        }
                        match tree.and_then(|tree| self.cache.read_list(&tree).ok()).and_then(|tree| item_set::decode(&tree).ok())
                        {
                            Some(items) => self.want_items(making, name, &items, &mut wanted),
                            None => *unknown.entry(name.clone()).or_default() += count,
                        }
                    }
                }
            }
        }
        let mut reads = Vec::new();
        for (name, wanted) in wanted {
            let count = wanted.len() as u64;
            reads.push(Read { name, count, origins: self.groups(wanted, way)? });
        }
        reads.extend(unknown.into_iter().map(|(name, count)| Read { name, count, origins: Vec::new() }));
        Ok(reads)
    }

    /// Where an input of a piece of work stands: as an item that has the name of the work, or of what that descends from.
    fn hint_of_input(&self, digest: &Digest, work: Option<&Place>) -> Hint {
        let Some(work) = work else { return Hint::default() };
        let fits = |place: &&Place| place.item == work.item || work.origin.as_ref() == Some(&place.item);
        self.ledger.current(digest).iter().find(fits).map(Hint::of).unwrap_or_default()
    }

    /// The contents that a stage as a whole read of a set.
    fn want_items(&self, making: &Making, param: &str, items: &[Item], wanted: &mut BTreeMap<String, Vec<Wanted>>) {
        let kind = making.kind().map_or("", |(kind, _)| kind);
        let stages = || self.known.map(|(pipeline, _)| pipeline.stages.values()).into_iter().flatten();
        let mut edges = stages().filter(|stage| stage.kind.name == kind).flat_map(|stage| &stage.edges);
        let reads: Option<Vec<&str>> = edges.find(|edge| edge.reads.param == param).map(|edge| edge.reads.reads.to_vec());
        for item in items {
            for (field, artifact) in &item.fields {
                let is_read = match &reads {
                    Some(reads) => reads.contains(&field.as_str()),
                    // Without the pipeline: what the stage before made, rather than what passed through it.
                    None => self.ledger.is_own(&item.key, &artifact.digest) || field == "caption" || item.fields.len() == 1,
                };
                if is_read {
                    let hint = Hint { item: Some(item.name.clone()), origin: item.origin.clone(), key: Some(item.key) };
                    let name = if item.fields.len() == 1 { param.to_string() } else { format!("{param} {field}") };
                    wanted.entry(name).or_default().push(Wanted {
                        digest: artifact.digest,
                        hint,
                        field: Some(field.to_string()),
                    });
                }
            }
        }
    }
}

/// The input whose file this is, or in whose folder it lies.
fn input_of(pipeline: &Pipeline, path: &Path) -> Option<String> {
    let holds = |found: &Found| match found {
        Found::Photos { folder, .. } => path.starts_with(folder),
        Found::File(file) => path == file,
        Found::Absent(_) => false,
    };
    pipeline.inputs.iter().find(|input| holds(&input.found)).map(|input| input.name.clone())
}

fn stage_of(making: &Making) -> Option<&str> {
    making.place.as_ref()?.stage.as_deref()
}

/// Kind and params: what pieces of work of one stage have in common.
fn shared_components(making: &Making) -> impl Iterator<Item = &Component> {
    making.components.0.iter().filter(|c| matches!(c.section, Section::Kind | Section::Param))
}

fn values_of(making: &Making, section: Section) -> Vec<(String, Value)> {
    let value = |component: &Component| match &component.covered {
        Covered::Value(value) => Some((component.name.clone(), value.clone())),
        _ => None,
    };
    making.components.section(section).filter_map(value).collect()
}

fn reads_any(making: &Making, digests: &[Digest]) -> bool {
    let is_on_the_way = |covered: &Covered| matches!(covered, Covered::Artifact(digest) if digests.contains(digest));
    making.components.section(Section::Input).any(|input| is_on_the_way(&input.covered))
}

impl Origin {
    /// As `explain --json` prints it.
    pub fn to_json(&self) -> Value {
        let members: Vec<Value> = self
            .members
            .iter()
            .map(|member| json!({ "name": member.name, "digest": member.digest.to_hex(), "path": member.path }))
            .collect();
        let mut value = json!({ "contents": members });
        match &self.maker {
            Maker::Stage(made) => {
                value["by"] = "stage".into();
                value["stage"] = json!(made.stage);
                value["kind"] = json!(made.kind);
                value["version"] = json!(made.version);
                value["params"] = if made.are_params_known { object(&made.params) } else { Value::Null };
                value["values"] = object(&made.values);
                value["attributes"] = made.attributes.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
                value["seconds"] = json!(made.seconds);
                value["ended"] = json!(made.ended);
                value["facts"] = made.facts.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
                let read = |read: &Read| {
                    let origins: Vec<Value> = read.origins.iter().map(Origin::to_json).collect();
                    json!({ "name": read.name, "count": read.count, "from": origins })
                };
                value["reads"] = made.reads.iter().map(read).collect();
            }
            Maker::Disk { input } => {
                value["by"] = "disk".into();
                value["input"] = json!(input);
            }
            Maker::Person => value["by"] = "person".into(),
            Maker::Unknown => value["by"] = Value::Null,
        }
        value
    }
}

fn object(values: &[(String, Value)]) -> Value {
    Value::Object(values.iter().cloned().collect())
}
