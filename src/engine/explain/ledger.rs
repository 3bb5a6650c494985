//! Who made which contents, by the records of a cache: from a digest to the record that gave it, to all that its key covers, and
//! to the names under which it was known. Reads the whole record log when it is first asked. Unaware of what a pipeline would
//! make now.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::manifest::{ComponentList, Covered, Section};
use crate::cache::records::{Output, Record};
use crate::decide::recorded::{STAGE_FACT, TREE_FIELD};
use crate::decide::results::Results;
use crate::kind::item_set;
use crate::lock_file::LockFile;

/// What the records of a cache say.
pub struct Ledger<'a> {
    cache: &'a Cache,
    results: Results,
    /// The keys under which contents were made.
    makers: HashMap<Digest, Vec<Digest>>,
    /// What the lock at hand names.
    current: Places,
    /// What any recorded stage gave or took.
    older: OnceCell<Places>,
}

/// Where contents stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The stage that gave them, where the lock at hand names it.
    pub stage: Option<Rc<str>>,
    /// The key of that stage as a whole; `None` of what a stage took.
    pub row: Option<Digest>,
    pub item: String,
    pub origin: Option<String>,
    pub field: String,
    /// Of the item.
    pub key: Digest,
}

/// A name that contents have where they were met: the same contents may be the work of several items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    pub item: Option<String>,
    pub origin: Option<String>,
    pub key: Option<Digest>,
}

/// How contents were made.
#[derive(Clone, Debug)]
pub struct Making {
    /// What the key covers; params are missing where `are_params_known` is false.
    pub components: ComponentList,
    /// The key of an item or of a stage as a whole.
    pub key: Digest,
    /// False if no record of the stage as a whole is here: the record of one item does not repeat its params.
    pub are_params_known: bool,
    pub place: Option<Place>,
    pub attributes: Vec<(String, String)>,
    /// Of the piece of work, or of the whole stage; `None` of what was published by a run that never ended.
    pub seconds: Option<f64>,
    /// How the stage was stopped, if it was.
    pub ended: Option<String>,
    /// Device and the like.
    pub facts: Vec<(String, String)>,
}

type Places = HashMap<Digest, Vec<Place>>;

impl Hint {
    /// Takes the names that contents have at a place in the records.
    pub fn of(place: &Place) -> Self {
        Self { item: Some(place.item.clone()), origin: place.origin.clone(), key: Some(place.key) }
    }

    fn fits(&self, place: &Place) -> bool {
        let names = [self.item.as_deref(), self.origin.as_deref()];
        names.contains(&Some(place.item.as_str())) || place.origin.as_deref().is_some_and(|origin| names.contains(&Some(origin)))
    }
}

impl Making {
    /// Kind and version.
    pub fn kind(&self) -> Option<(&str, Option<u64>)> {
        let kind = self.components.section(Section::Kind).next()?;
        let version = match &kind.covered {
            Covered::Value(version) => version.as_u64(),
            _ => None,
        };
        Some((kind.name.as_str(), version))
    }
}

impl<'a> Ledger<'a> {
    /// `stages`: the names of the stages of the pipeline at hand, each after those that it reads.
    pub fn read(cache: &'a Cache, lock: &LockFile, stages: &[&str]) -> Result<Self> {
        let results = Results::read(cache)?;
        let mut makers: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for (key, made) in &results.by_key {
            for digest in made.iter().filter(|made| made.tree.is_none()).flat_map(|made| &made.own) {
                let keys = makers.entry(*digest).or_default();
                if !keys.contains(key) {
                    keys.push(*key);
                }
            }
        }
        for keys in makers.values_mut() {
            keys.sort_unstable();
        }
        let mut current = Places::new();
        let gone = lock.stages.keys().map(String::as_str).filter(|name| !stages.contains(name));
        for name in stages.iter().copied().chain(gone) {
            let shared: Rc<str> = name.into();
            for row in lock.stages.get(name).into_iter().flatten() {
                add_tree(cache, &row.out, Some(&shared), Some(row.key), &mut current);
            }
        }
        Ok(Self { cache, results, makers, current, older: OnceCell::new() })
    }

    /// Whether any record gave these contents.
    pub fn is_made(&self, digest: &Digest) -> bool {
        self.makers.contains_key(digest)
    }

    /// Whether the record of `key` says that it made the contents, not only that it passed them on.
    pub fn is_own(&self, key: &Digest, digest: &Digest) -> bool {
        self.makers.get(digest).is_some_and(|keys| keys.contains(key))
    }

    /// Where contents stand by the lock at hand.
    pub fn current(&self, digest: &Digest) -> &[Place] {
        self.current.get(digest).map_or(&[], Vec::as_slice)
    }

    /// Where contents stood, by the lock at hand or else by any record.
    pub fn places(&self, digest: &Digest) -> &[Place] {
        match self.current(digest) {
            [] => self.older().get(digest).map_or(&[], Vec::as_slice),
            places => places,
        }
    }

    /// The keys of all recorded stages that gave contents.
    pub fn rows_of(&self, digest: &Digest) -> impl Iterator<Item = Digest> {
        self.older().get(digest).into_iter().flatten().filter_map(|place| place.row)
    }

    fn older(&self) -> &Places {
        self.older.get_or_init(|| {
            let mut places = Places::new();
            let mut seen = HashSet::new();
            let rows = || {
                let made = self.results.by_key.iter().flat_map(|(key, made)| made.iter().map(move |made| (key, made)));
                made.filter_map(|(key, made)| Some((key, made, made.tree?)))
            };
            for (key, _, tree) in rows() {
                seen.insert(tree);
                add_tree(self.cache, &tree, None, Some(*key), &mut places);
            }
            // What was taken whole from another stage is that stage's tree; the rest are photos, files and selections.
            for tree in rows().flat_map(|(_, made, _)| &made.input_trees) {
                if seen.insert(*tree) {
                    add_tree(self.cache, tree, None, None, &mut places);
                }
            }
            places
        })
    }

    /// How contents were made, by the likeliest of the records that say so; `None` if no record does. `is_passed` leaves out
    /// records: those that read what is being explained.
    pub fn making(&self, digest: &Digest, hint: &Hint, is_passed: &dyn Fn(&Making) -> bool) -> Result<Option<Making>> {
        let Some(keys) = self.makers.get(digest) else { return Ok(None) };
        let by_hint = hint.key.filter(|key| keys.contains(key));
        let made_at = |place: &&Place| keys.contains(&place.key) && place.row.is_some();
        let here = self.current(digest).iter().filter(made_at);
        let named = here.clone().find(|place| hint.fits(place)).or_else(|| here.clone().next()).map(|place| place.key);
        let mut ordered: Vec<Digest> = by_hint.into_iter().chain(named).collect();
        ordered.extend(keys.iter().filter(|key| !ordered.contains(key)).collect::<Vec<_>>());
        for key in ordered {
            if let Some(making) = self.made_by(&key, digest, hint)?.filter(|making| !is_passed(making)) {
                return Ok(Some(making));
            }
        }
        Ok(None)
    }

    /// How the contents were made under `key`.
    fn made_by(&self, key: &Digest, digest: &Digest, hint: &Hint) -> Result<Option<Making>> {
        let of_key = |place: &&Place| place.key == *key && place.row.is_some();
        let places = || self.current(digest).iter().chain(self.places(digest)).filter(of_key);
        let place = places().find(|place| hint.fits(place)).or_else(|| places().next()).cloned();
        let gives = |record: &&Record| output_of(record, digest).is_some();
        if let Some(record) = self.cache.results(key)?.iter().find(gives) {
            return self.of_item(record, digest, place).map(Some);
        }
        let published = self.cache.published(key)?;
        let Some(record) = published.iter().rfind(gives) else { return Ok(None) };
        let mut making = Making {
            components: ComponentList::default(),
            key: *key,
            are_params_known: false,
            place,
            attributes: attributes_of(record, digest),
            seconds: None,
            ended: None,
            facts: told_facts(record),
        };
        let stage = record.facts.get(STAGE_FACT).and_then(|key| key.parse().ok());
        if let Some(stage) = stage
            && let Some(whole) = self.cache.lookup(&stage)?
        {
            making.key = stage;
            making.components = ComponentList::from_record(&whole.components);
            making.are_params_known = true;
            making.seconds = Some(whole.seconds);
            making.ended = whole.ended;
        }
        Ok(Some(making))
    }

    /// One piece of work. Its record holds what is its own; kind and params stand in that of its stage.
    fn of_item(&self, record: &Record, digest: &Digest, place: Option<Place>) -> Result<Making> {
        let own = ComponentList::from_record(&record.components);
        let holds_params = own.section(Section::Param).next().is_some();
        let row = match place.as_ref().and_then(|place| place.row) {
            Some(row) if !holds_params => self.cache.lookup(&row)?,
            _ => None,
        };
        let mut components = ComponentList::default();
        if let Some(row) = &row {
            let list = ComponentList::from_record(&row.components);
            components.0.extend(list.0.into_iter().filter(|c| matches!(c.section, Section::Kind | Section::Param)));
        }
        let is_there = |section| components.section(section).next().is_some();
        let has_kind = is_there(Section::Kind);
        components.0.extend(own.0.into_iter().filter(|c| !(has_kind && c.section == Section::Kind)));
        Ok(Making {
            components,
            key: record.key,
            are_params_known: holds_params || row.is_some(),
            place,
            attributes: attributes_of(record, digest),
            seconds: Some(record.seconds),
            ended: record.ended.clone(),
            facts: told_facts(record),
        })
    }
}

fn output_of<'r>(record: &'r Record, digest: &Digest) -> Option<&'r Output> {
    record.outputs.iter().find(|output| output.fields.iter().any(|(field, a)| field != TREE_FIELD && a.digest == *digest))
}

fn attributes_of(record: &Record, digest: &Digest) -> Vec<(String, String)> {
    let attributes = output_of(record, digest).map(|output| &output.attributes);
    attributes.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn told_facts(record: &Record) -> Vec<(String, String)> {
    record.facts.iter().filter(|(name, _)| *name != STAGE_FACT).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A tree that is not here any more names nothing. To look must not remove what is damaged.
fn add_tree(cache: &Cache, tree: &Digest, stage: Option<&Rc<str>>, row: Option<Digest>, into: &mut Places) {
    let Some(bytes) = cache.peek(tree) else { return };
    // A tree that cannot be read to its end names what it names before.
    let _ = item_set::visit(&bytes, |item| {
        for field in item.fields {
            into.entry(field.digest).or_default().push(Place {
                stage: stage.cloned(),
                row,
                item: item.name.to_string(),
                origin: item.origin.map(str::to_string),
                field: field.name.to_string(),
                key: item.key,
            });
        }
    });
}
