//! What a run must do, worked out by a small model: keys are plain texts of kind, version, params and contents read, and a memo holds all
//! that was ever made. No cache, no lock, no digest of anything but to put sets in the engine's order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use loramill_engine::cache::digest::Digest;

use crate::oracle::kinds::{JOINED, joined};
use crate::oracle::spec::{Chosen, Instance, Kind, Spec};
use crate::oracle::texts::{Asked, Texts};

/// An item, its contents in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    pub name: String,
    pub origin: Option<String>,
    pub fields: BTreeMap<String, String>,
    pub epoch: Option<u64>,
}

/// What lies on the disk beside the cache.
#[derive(Clone, Debug)]
pub struct World {
    pub spec: Spec,
    pub photos: BTreeMap<String, String>,
    pub sidecars: BTreeMap<String, String>,
    pub base: String,
    pub texts: Texts,
    /// The items of each stage as its last row in the lock has them.
    pub rows: BTreeMap<String, Vec<Thing>>,
}

/// All that was ever made, and what of it is still in the cache.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    made: HashMap<String, Vec<String>>,
    published: HashMap<String, BTreeMap<String, String>>,
    pub store: BTreeSet<String>,
}

/// What a run is asked for, by the names of instances.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// With all that these need; `None` for what is built by default.
    pub targets: Option<BTreeSet<String>>,
    pub only: Option<BTreeSet<String>>,
    /// And items whose names begin so.
    pub force: Option<(BTreeSet<String>, Option<String>)>,
    pub keep_going: bool,
    pub with_settings: bool,
}

/// One thing that can be run: an item of a stage, a checkpoint of one that runs as a whole.
#[derive(Clone, Debug)]
pub struct Unit {
    pub key: String,
    /// Of the stage that publishes it.
    pub whole: Option<String>,
    pub item: String,
    pub makes: Vec<String>,
}

#[derive(Clone, Debug)]
pub enum Given {
    Whole(Vec<Thing>),
    Part(Vec<Thing>),
    Nothing,
}

/// What the run will do.
#[derive(Debug)]
pub struct Foreseen {
    pub given: BTreeMap<String, Given>,
    /// Stages that are left out and give what they gave last.
    pub kept: BTreeSet<String>,
    /// Whatever may run, by stage and item.
    pub units: HashMap<(String, String), Unit>,
    /// How often each key runs because it is missing, and because that is forced.
    pub runs: BTreeMap<String, (usize, usize)>,
    /// Keys that may run or not: what they lack another stage makes as well, sooner or later.
    pub maybe: BTreeSet<String>,
    /// Keys that are forced for an item with the contents of one that runs anyway. Where another stage runs the key first, the item runs
    /// it once more.
    pub forced_copies: BTreeSet<String>,
    /// Something fails: then only a run that keeps going does all that is foreseen.
    pub fails: bool,
    /// Something is read that is lost: nothing is foretold then.
    pub is_lost: bool,
    /// Texts of people in whose place the machine writes nothing before somebody has said so.
    pub lost_texts: BTreeMap<String, String>,
    at_start: Memory,
    /// What runs or may run, by stage.
    makers: Vec<(String, Unit)>,
    pub memory: Memory,
    pub texts: Texts,
}

struct Piece {
    unit: Unit,
    reads: Vec<String>,
    outputs: Vec<Thing>,
    fails: bool,
}

impl Memory {
    fn has(&self, key: &str) -> bool {
        self.made.get(key).is_some_and(|contents| contents.iter().all(|content| self.store.contains(content)))
    }

    /// A unit has run.
    pub fn take(&mut self, unit: &Unit) {
        self.store.extend(unit.makes.iter().cloned());
        match &unit.whole {
            None => drop(self.made.insert(unit.key.clone(), unit.makes.clone())),
            Some(whole) => {
                drop(self.published.entry(whole.clone()).or_default().insert(unit.item.clone(), unit.makes[0].clone()));
            }
        }
    }

    /// A stage that runs as a whole has ended well.
    pub fn complete(&mut self, whole: &str, contents: Vec<String>) {
        self.made.insert(whole.to_string(), contents);
    }
}

impl World {
    pub fn needed(&self, instances: &[Instance], wanted: &Wanted) -> BTreeSet<String> {
        let is_target = |instance: &Instance| match &wanted.targets {
            Some(targets) => targets.contains(&instance.name),
            None => instance.stage.by_default,
        };
        let mut needed = BTreeSet::new();
        for instance in instances.iter().rev() {
            if is_target(instance) || needed.contains(&instance.name) {
                needed.insert(instance.name.clone());
                needed.extend(instance.producers.iter().map(|(name, _)| name.clone()));
            }
        }
        needed
    }

    /// What a run from here on does.
    pub fn foresee(&self, memory: &Memory, wanted: &Wanted) -> Foreseen {
        let instances = self.spec.instances();
        let needed = self.needed(&instances, wanted);
        let mut foreseen = Foreseen {
            given: BTreeMap::new(),
            kept: BTreeSet::new(),
            units: HashMap::new(),
            runs: BTreeMap::new(),
            maybe: BTreeSet::new(),
            forced_copies: BTreeSet::new(),
            makers: Vec::new(),
            fails: false,
            is_lost: false,
            lost_texts: BTreeMap::new(),
            at_start: memory.clone(),
            memory: memory.clone(),
            texts: self.texts.clone(),
        };
        for instance in instances.iter().filter(|instance| needed.contains(&instance.name)) {
            let stays = wanted.only.as_ref().is_some_and(|only| !only.contains(&instance.name));
            let given = match foreseen.inputs(self, instance) {
                Err(()) => {
                    foreseen.fails = true;
                    Some(Given::Nothing)
                }
                Ok(None) => None,
                Ok(Some((items, complete))) => foreseen.stage(self, instance, items, complete, wanted, stays),
            };
            let given = given.unwrap_or_else(|| match self.rows.get(&instance.name).filter(|_| stays) {
                Some(row) if instance.stage.kind != Kind::Caption && foreseen.is_here(row, instance) => {
                    foreseen.kept.insert(instance.name.clone());
                    Given::Whole(row.clone())
                }
                _ => Given::Nothing,
            });
            foreseen.given.insert(instance.name.clone(), given);
        }
        foreseen.find_doubtful();
        foreseen
    }

    fn things(&self) -> Vec<Thing> {
        let thing = |(name, content): (&String, &String)| {
            let mut fields = BTreeMap::from([("image".to_string(), content.clone()), ("photo".to_string(), content.clone())]);
            fields.extend(self.sidecars.get(name).map(|said| ("sidecar".to_string(), said.clone())));
            Thing { name: name.clone(), origin: None, fields, epoch: None }
        };
        self.photos.iter().filter(|(name, _)| !self.spec.skip.contains(*name)).map(thing).collect()
    }

    /// The photos that are here and left out.
    fn skipped(&self) -> BTreeSet<String> {
        self.photos.keys().filter(|name| self.spec.skip.contains(*name)).cloned().collect()
    }

    fn lies_here(&self, content: &String) -> bool {
        let is_read = |(name, known): (&String, &String)| known == content && !self.spec.skip.contains(name);
        self.base == *content || self.photos.iter().chain(&self.sidecars).any(is_read)
    }
}

impl Foreseen {
    fn is_here(&self, row: &[Thing], instance: &Instance) -> bool {
        row.iter().filter_map(|thing| thing.fields.get(instance.stage.kind.written())).all(|c| self.memory.store.contains(c))
    }

    /// `Err` if what is asked for does not exist, `None` if it is not there yet.
    fn inputs(&self, world: &World, instance: &Instance) -> Result<Option<(Vec<Thing>, bool)>, ()> {
        let mut items = Vec::new();
        let mut complete = true;
        if instance.producers.is_empty() {
            items = world.things();
        }
        for (producer, label) in &instance.producers {
            let (produced, whole) = match &self.given[producer] {
                Given::Nothing => return Ok(None),
                Given::Whole(items) => (items, true),
                Given::Part(items) => (items, false),
            };
            complete &= whole;
            let chosen: Vec<&Thing> = match instance.stage.chosen {
                Chosen::All => produced.iter().collect(),
                Chosen::Epoch(epoch) => produced.iter().filter(|thing| thing.epoch == Some(epoch)).collect(),
                Chosen::Last if !whole => Vec::new(),
                Chosen::Last => produced.iter().max_by_key(|thing| thing.epoch).into_iter().collect(),
            };
            match (chosen.is_empty(), whole) {
                (true, true) => return Err(()),
                (true, false) => return Ok(None),
                _ => {}
            }
            items.extend(chosen.into_iter().map(|thing| match label.as_str() {
                "" => thing.clone(),
                label => Thing {
                    name: format!("{label}/{}", thing.name),
                    origin: Some(thing.origin.clone().unwrap_or_else(|| thing.name.clone())),
                    ..thing.clone()
                },
            }));
        }
        if instance.stage.kind == Kind::Learn {
            let skip = &world.spec.skip;
            items.retain(|thing| !skip.contains(&thing.name) && thing.origin.as_ref().is_none_or(|o| !skip.contains(o)));
            if items.is_empty() && complete {
                return Err(());
            }
        }
        items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Some((items, complete)))
    }

    /// `None` if it is left out and lacks something.
    fn stage(
        &mut self,
        world: &World,
        instance: &Instance,
        items: Vec<Thing>,
        complete: bool,
        wanted: &Wanted,
        stays: bool,
    ) -> Option<Given> {
        let kind = instance.stage.kind;
        let forced = wanted.force.as_ref().filter(|(stages, _)| stages.contains(&instance.name));
        let forces = |item: &str| forced.is_some_and(|(_, prefix)| prefix.as_ref().is_none_or(|p| item.starts_with(p)));
        if kind.is_whole() {
            if !complete {
                return if stays { None } else { Some(Given::Nothing) };
            }
            return self.whole(world, instance, &items, forced.is_some(), stays);
        }
        let pieces = pieces(instance, world.spec.version, &items);
        for piece in &pieces {
            self.units.insert((instance.name.clone(), piece.unit.item.clone()), piece.unit.clone());
        }
        let (texts, blocked, humans) = match kind {
            Kind::Caption => {
                self.lost_texts = self.texts.lost(&asked(&pieces, &self.memory), &world.skipped());
                if !self.lost_texts.is_empty() {
                    self.fails = true;
                    return if stays { None } else { Some(Given::Nothing) };
                }
                let (texts, blocked) = self.texts.follow(&asked(&pieces, &self.memory), &world.skipped());
                let human = |asked: &Asked| texts.human(asked, blocked.get(&asked.name));
                let humans = asked(&pieces, &self.memory).iter().map(human).collect();
                (texts, blocked, humans)
            }
            _ => (Texts::default(), BTreeMap::new(), vec![None; pieces.len()]),
        };
        let lacks = |(piece, human): (&Piece, &Option<String>)| human.is_none() && !self.memory.has(&piece.unit.key);
        if stays && (!complete || pieces.iter().zip(&humans).any(lacks)) {
            return None;
        }
        if complete && forced.is_some() && !pieces.iter().any(|piece| forces(&piece.unit.item)) {
            self.fails = true;
            return Some(Given::Nothing);
        }
        let mut outputs = Vec::new();
        // What is missing is found out once, before the first of them runs.
        let before = self.memory.clone();
        let mut done = BTreeSet::new();
        let mut any_fails = false;
        for (piece, human) in pieces.iter().zip(&humans) {
            let mut made = piece.outputs.clone();
            match human {
                Some(text) => {
                    self.memory.store.insert(text.clone());
                    made[0].fields.insert("caption".to_string(), text.clone());
                }
                None if done.contains(&piece.unit.key) => {
                    if forces(&piece.unit.item) {
                        self.forced_copies.insert(piece.unit.key.clone());
                    }
                }
                None if forces(&piece.unit.item) || !before.has(&piece.unit.key) => {
                    if piece.fails {
                        any_fails = true;
                        continue;
                    }
                    self.is_lost |= piece.reads.iter().any(|c| !self.memory.store.contains(c) && !world.lies_here(c));
                    self.run(instance, &piece.unit, forces(&piece.unit.item));
                    done.insert(piece.unit.key.clone());
                }
                None => self.may_run_first(instance, &piece.unit, &piece.unit.key),
            }
            outputs.extend(made);
        }
        if kind == Kind::Caption {
            let mut texts = texts;
            texts.settle(&asked(&pieces, &self.memory), &humans, &blocked);
            self.texts = texts;
        }
        self.fails |= any_fails;
        if any_fails || !complete {
            return Some(if wanted.keep_going { Given::Part(outputs) } else { Given::Nothing });
        }
        if kind == Kind::Draw {
            let grid = self.grid(instance, &outputs, forced.is_some_and(|(_, prefix)| prefix.is_none()));
            outputs.push(grid);
        }
        outputs.sort_by(|a, b| a.name.cmp(&b.name));
        Some(Given::Whole(outputs))
    }

    fn run(&mut self, instance: &Instance, unit: &Unit, forced: bool) {
        self.makers.push((instance.name.clone(), unit.clone()));
        let count = self.runs.entry(unit.key.clone()).or_default();
        if forced {
            count.1 += 1;
        } else {
            count.0 = 1;
        }
        self.memory.take(unit);
    }

    /// It is there by now because another stage makes it, or the same contents, and may have its turn before that one.
    fn may_run_first(&mut self, instance: &Instance, unit: &Unit, key: &str) {
        if self.at_start.has(key) {
            return;
        }
        self.makers.push((instance.name.clone(), unit.clone()));
        match self.runs.get_mut(&unit.key) {
            Some(count) => count.0 = 1,
            None => drop(self.maybe.insert(unit.key.clone())),
        }
    }

    /// What was made before and is lost in part need not run if another stage makes that part first.
    fn find_doubtful(&mut self) {
        let mut makers: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        for (stage, unit) in &self.makers {
            for content in &unit.makes {
                makers.entry(content).or_default().insert(stage);
            }
        }
        for (stage, unit) in &self.makers {
            let before = match &unit.whole {
                None => self.at_start.made.get(&unit.key).cloned(),
                Some(whole) => self.at_start.made.get(whole).cloned().or_else(|| {
                    let published = self.at_start.published.get(whole)?;
                    Some(published.values().cloned().collect())
                }),
            };
            let is_made_elsewhere =
                |lost: &String| makers.get(lost.as_str()).is_some_and(|stages| stages.iter().any(|other| other != stage));
            let mut lost = before.iter().flatten().filter(|content| !self.at_start.store.contains(*content));
            if lost.any(is_made_elsewhere) {
                self.maybe.insert(unit.key.clone());
            }
        }
    }

    fn grid(&mut self, instance: &Instance, drawings: &[Thing], forced: bool) -> Thing {
        let mut seen: Vec<String> = drawings.iter().map(|d| format!("{:?} {}", d.epoch, d.fields["image"])).collect();
        seen.sort_unstable();
        let image = format!("{} drawings", drawings.len());
        let key = format!("grid of {seen:?}");
        let unit = Unit { key, whole: None, item: "grid".to_string(), makes: vec![image.clone()] };
        if forced || !self.memory.has(&unit.key) {
            self.run(instance, &unit, forced);
        } else {
            self.may_run_first(instance, &unit, &unit.key);
        }
        self.units.insert((instance.name.clone(), "grid".to_string()), unit);
        let fields = BTreeMap::from([("image".to_string(), image)]);
        Thing { name: "grid".to_string(), origin: None, fields, epoch: None }
    }

    fn whole(&mut self, world: &World, instance: &Instance, items: &[Thing], forced: bool, stays: bool) -> Option<Given> {
        let (key, outputs) = whole(instance, world, items);
        let field = instance.stage.kind.written();
        let content = |thing: &Thing| thing.fields[field].clone();
        let unit = |thing: &Thing| Unit {
            key: format!("{key} {}", thing.name),
            whole: Some(key.clone()),
            item: thing.name.clone(),
            makes: vec![content(thing)],
        };
        for thing in &outputs {
            self.units.insert((instance.name.clone(), thing.name.clone()), unit(thing));
        }
        if !forced && self.memory.has(&key) {
            outputs.iter().for_each(|thing| self.may_run_first(instance, &unit(thing), &key));
            return Some(Given::Whole(outputs));
        }
        if stays {
            return None;
        }
        let before = self.memory.published.get(&key).cloned().unwrap_or_default();
        // A stage that has ended, or has lost anything of what it published, starts over.
        let goes_on =
            !forced && !self.memory.made.contains_key(&key) && before.values().all(|content| self.memory.store.contains(content));
        let fail_at = instance.stage.fail_at;
        let fails = instance.stage.kind == Kind::Learn && (1..=instance.stage.number).contains(&fail_at);
        let mut published = Vec::new();
        for thing in &outputs {
            let is_there = goes_on && before.contains_key(&thing.name);
            if !is_there && fails && thing.epoch >= Some(fail_at) {
                continue;
            }
            if !is_there {
                self.run(instance, &unit(thing), forced);
            }
            published.push(thing.clone());
        }
        if fails {
            self.fails = true;
            return Some(Given::Part(published));
        }
        self.memory.complete(&key, outputs.iter().map(content).collect());
        Some(Given::Whole(outputs))
    }
}

fn asked(pieces: &[Piece], memory: &Memory) -> Vec<Asked> {
    let asked = |piece: &Piece| {
        let fields = &piece.outputs[0].fields;
        let machine = memory.has(&piece.unit.key).then(|| piece.unit.makes[0].clone());
        Asked { name: piece.unit.item.clone(), photo: fields["photo"].clone(), machine }
    };
    pieces.iter().map(asked).collect()
}

/// What an item stage does, item by item.
fn pieces(instance: &Instance, version: u32, items: &[Thing]) -> Vec<Piece> {
    let stage = &instance.stage;
    let mut pieces = Vec::new();
    for item in items {
        let image = || item.fields["image"].clone();
        let with = |field: &str, content: String| {
            let mut thing = item.clone();
            thing.fields.insert(field.to_string(), content);
            thing
        };
        let (key, reads, outputs) = match stage.kind {
            Kind::Echo => {
                let key = format!("echo {version} {:?} {:?}", stage.text, image());
                (key, vec![image()], vec![with("image", image() + &stage.text)])
            }
            Kind::Cut => {
                let kept = image().chars().take(stage.number as usize).collect();
                (format!("cut {} {:?}", stage.number, image()), vec![image()], vec![with("image", kept)])
            }
            Kind::Twin => {
                let mut second = with("image", image() + &stage.text);
                second.origin = Some(item.origin.clone().unwrap_or_else(|| item.name.clone()));
                second.name = format!("{}~{}", item.name, stage.text);
                (format!("twin {:?} {:?}", stage.text, image()), vec![image()], vec![item.clone(), second])
            }
            Kind::Join => {
                let read = item.fields.iter().filter(|(field, _)| JOINED.contains(&field.as_str()));
                let read: BTreeMap<String, String> = read.map(|(field, said)| (field.clone(), said.clone())).collect();
                (format!("join {read:?}"), read.values().cloned().collect(), vec![with("image", joined(&read))])
            }
            Kind::Caption => {
                let said = format!("{}{}", stage.text, image());
                (format!("caption {:?} {:?}", stage.text, image()), vec![image()], vec![with("caption", said)])
            }
            Kind::Draw => {
                let lora = &item.fields["lora"];
                for (place, prompt) in stage.prompts.iter().enumerate() {
                    let image = format!("{prompt}: {lora}");
                    let name = format!("{}-{place}", item.name);
                    let fields = BTreeMap::from([("image".to_string(), image.clone())]);
                    let outputs = vec![Thing { name: name.clone(), origin: None, fields, epoch: item.epoch }];
                    let unit = Unit { key: format!("draw {prompt:?} {lora:?}"), whole: None, item: name, makes: vec![image] };
                    pieces.push(Piece { unit, reads: vec![lora.clone()], outputs, fails: false });
                }
                continue;
            }
            Kind::Gather | Kind::Learn => unreachable!("they run as a whole"),
        };
        let field = stage.kind.written();
        let makes = outputs.iter().map(|thing| thing.fields[field].clone()).collect();
        let fails = stage.kind == Kind::Echo && image().contains("broken");
        pieces.push(Piece { unit: Unit { key, whole: None, item: item.name.clone(), makes }, reads, outputs, fails });
    }
    pieces
}

/// The key of a stage that runs as a whole, and what it publishes.
fn whole(instance: &Instance, world: &World, items: &[Thing]) -> (String, Vec<Thing>) {
    let stage = &instance.stage;
    let reads: &[&str] = if stage.kind == Kind::Learn { &["image", "caption"] } else { &["image"] };
    let read = |thing: &Thing| -> Vec<(String, String)> {
        reads.iter().filter_map(|field| Some((field.to_string(), thing.fields.get(*field)?.clone()))).collect()
    };
    let mut members: Vec<Vec<(String, String)>> = items.iter().map(read).collect();
    // Sets are taken in the order of the digests of their contents.
    members.sort_by_cached_key(|fields| -> Vec<(String, Digest)> {
        fields.iter().map(|(field, content)| (field.clone(), Digest::of(content.as_bytes()))).collect()
    });
    let thing = |name: String, field: &str, content: String, epoch: Option<u64>| Thing {
        name,
        origin: None,
        fields: BTreeMap::from([(field.to_string(), content)]),
        epoch,
    };
    if stage.kind == Kind::Gather {
        let all = members.iter().flatten().map(|(_, content)| content.as_str()).collect();
        return (format!("gather {members:?}"), vec![thing("all".to_string(), "image", all, None)]);
    }
    let mut texts = if stage.with_base { world.base.clone() } else { String::new() };
    for fields in &members {
        let sorted: BTreeMap<&String, &String> = fields.iter().map(|(field, content)| (field, content)).collect();
        texts.extend(sorted.into_values().map(String::as_str));
    }
    let base = stage.with_base.then_some(&world.base);
    let key = format!("learn {} {} {} {base:?} {members:?}", stage.number, stage.save_every, stage.rate);
    let saved = (1..=stage.number).filter(|epoch| epoch % stage.save_every == 0 || *epoch == stage.number);
    let outputs = saved.map(|epoch| {
        let learned = format!("{texts} x{epoch} at {}", stage.rate);
        thing(format!("e{epoch:03}"), "lora", learned, Some(epoch))
    });
    (key, outputs.collect())
}
