//! One random pipeline with what happens to it, step by step, and what must hold after each run.

use std::collections::{BTreeMap, BTreeSet};

use loramill_engine::cache::digest::Digest;
use loramill_engine::run::events::StageState;

use crate::folders::{Files, files_below};
use crate::oracle::chance::Chance;
use crate::oracle::model::{Foreseen, Given, Memory, Thing, Wanted, World};
use crate::oracle::place::{Listed, Place, Ran, shown_field};
use crate::oracle::spec::{Kind, Spec};
use crate::oracle::texts::{Texts, normal};

pub struct Case {
    pub world: World,
    pub memory: Memory,
    pub place: Place,
    /// The world after each run, with the lock as it was.
    pub earlier: Vec<(World, Option<Vec<u8>>)>,
    /// Numbers names and contents.
    pub next: usize,
    /// Some run was interrupted, and a training may have state beyond what it published.
    pub was_interrupted: bool,
}

impl Case {
    pub fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let spec = Spec::random(&mut chance);
        let world = World {
            spec,
            photos: BTreeMap::new(),
            sidecars: BTreeMap::new(),
            base: "base0".to_string(),
            texts: Texts::default(),
            rows: BTreeMap::new(),
        };
        let (memory, place) = (Memory::default(), Place::new());
        let mut case = Self { world, memory, place, earlier: Vec::new(), next: 0, was_interrupted: false };
        for _ in 0..1 + chance.below(4) {
            let (name, content) = (case.fresh_name(), case.content(&mut chance));
            case.world.photos.insert(name, content);
        }
        case
    }

    pub fn fresh_name(&mut self) -> String {
        self.next += 1;
        format!("p{}", self.next)
    }

    /// Of a photo. Where people write about photos each is another, else nobody could say whose a text is.
    pub fn content(&mut self, chance: &mut Chance) -> String {
        self.next += 1;
        if self.world.spec.has_captions() {
            return format!("k{}.{}", self.next % 3, self.next);
        }
        chance.pick(&["ab.1", "ab.2", "abc1", "q"]).to_string()
    }

    /// Runs, and says what is not as it must be.
    pub fn run(&mut self, wanted: &Wanted, settings: &[String], interrupt_after: Option<usize>) -> Result<(), String> {
        self.place.bring_to(&self.world);
        let foreseen = self.world.foresee(&self.memory, wanted);
        let is_exact = interrupt_after.is_none() && !foreseen.is_lost && (wanted.keep_going || !foreseen.fails);
        if !foreseen.fails && !foreseen.is_lost {
            self.check_plan(&foreseen, wanted, settings)?;
        }
        let ran = self.place.run(&self.world, wanted, settings, interrupt_after);
        self.check_work(&foreseen, &ran, is_exact).map_err(|error| format!("{error}\nran {ran:?}"))?;
        self.learn(&foreseen, &ran, wanted, is_exact);
        if is_exact {
            self.check_states(&foreseen, &ran)?;
            if !wanted.with_settings {
                self.check_results(&foreseen, &ran)?;
            }
        }
        if !wanted.with_settings {
            let lock = std::fs::read(self.place.at("pipeline.lock")).ok();
            self.earlier.push((self.world.clone(), lock));
        }
        Ok(())
    }

    /// What a person decides about texts that are gone: they are written again, or given up.
    pub fn settle_lost_texts(&mut self, restores: bool) -> Result<(), String> {
        self.place.bring_to(&self.world);
        let wanted = Wanted { keep_going: true, ..Wanted::default() };
        let lost = self.world.foresee(&self.memory, &wanted).lost_texts;
        // Of photos that break on the way a run knows, and nobody before it.
        if lost.is_empty() || self.world.photos.values().any(|photo| photo.contains("broken")) {
            return Ok(());
        }
        let Some(told) = self.place.settle_lost_texts(&self.world, restores) else { return Ok(()) };
        if told != lost.keys().cloned().collect() {
            return Err(format!("{told:?} are told to be lost, not {lost:?}"));
        }
        if restores {
            for (name, text) in lost.into_iter().filter(|(_, text)| self.memory.store.contains(text)) {
                self.world.texts.files.insert(name, if text.is_empty() { text } else { text + "\n" });
                self.world.texts.is_gone = false;
            }
        } else {
            let given_up: BTreeSet<&String> = lost.values().collect();
            for row in self.world.texts.rows.values_mut() {
                row.person = row.person.take().filter(|text| !given_up.contains(text));
            }
        }
        Ok(())
    }

    /// What a plan calls dirty must run.
    fn check_plan(&self, foreseen: &Foreseen, wanted: &Wanted, settings: &[String]) -> Result<(), String> {
        let plan = self.place.plan(&self.world, wanted, settings);
        for planned in &plan.stages {
            for item in planned.dirty.iter().filter(|_| !matches!(planned.kind, "gather" | "learn")) {
                let unit = foreseen.units.get(&(planned.name.clone(), item.clone()));
                let is_foreseen = |key: &str| foreseen.runs.contains_key(key) || foreseen.maybe.contains(key);
                if !unit.is_some_and(|unit| is_foreseen(&unit.key)) {
                    return Err(format!("the plan calls {item} of {} dirty: {:?}", planned.name, planned.reasons));
                }
            }
        }
        let must_run = |key: &&String| !key.starts_with("grid of ") && !foreseen.maybe.contains(*key);
        let works = foreseen.runs.keys().filter(must_run).count();
        if plan.is_fresh() && works > 0 {
            return Err(format!("the plan calls all fresh, but these must run: {:?}", foreseen.runs.keys()));
        }
        Ok(())
    }

    /// Exactly what was missing has run, each key once.
    fn check_work(&self, foreseen: &Foreseen, ran: &Ran, is_exact: bool) -> Result<(), String> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for did in &ran.did {
            let Some(unit) = foreseen.units.get(did) else { return Err(format!("{did:?} ran, and there is no such item")) };
            *counts.entry(&unit.key).or_default() += 1;
        }
        let makers = |key: &str| {
            let stages = foreseen.units.iter().filter(|(_, unit)| unit.key == key).map(|((stage, _), _)| stage);
            stages.collect::<BTreeSet<_>>().len()
        };
        // How often a key runs at least and at most.
        let bounds = |key: &str| {
            let (missing, forced) = foreseen.runs.get(key).copied().unwrap_or_default();
            let is_doubtful = foreseen.maybe.contains(key);
            let least = if is_exact && !is_doubtful { forced.max(1) } else { 0 };
            let repeats = foreseen.forced_copies.contains(key) && makers(key) > 1;
            (least, missing + forced + usize::from(is_doubtful && missing == 0) + usize::from(repeats))
        };
        for (key, count) in &counts {
            if *count > bounds(key).1 {
                return Err(format!("{key} ran {count} times, not {}", bounds(key).1));
            }
        }
        let is_grid = |key: &&String| key.starts_with("grid of ");
        for key in foreseen.runs.keys().filter(|key| !is_grid(key)) {
            if counts.get(key.as_str()).copied().unwrap_or_default() < bounds(key).0 {
                return Err(format!("{key} did not run, and must"));
            }
        }
        // Grids are told by no event: what is written down beyond the drawings.
        let drawings: BTreeSet<&str> =
            self.world.spec.stages.iter().filter(|s| s.kind == Kind::Draw).map(|s| s.name.as_str()).collect();
        let mut grids = 0;
        for (stage, lines) in &ran.lines {
            let told = ran.did.iter().filter(|(name, _)| name.split('[').next() == Some(stage)).count();
            if drawings.contains(stage.as_str()) {
                grids += lines.checked_sub(told).ok_or_else(|| format!("{stage} drew {lines} times and told {told}"))?;
            } else if *lines != told {
                return Err(format!("{stage} worked {lines} times and told {told}"));
            }
        }
        let expected: BTreeSet<&String> = foreseen.runs.keys().chain(&foreseen.maybe).filter(is_grid).collect();
        let most: usize = expected.iter().map(|key| bounds(key).1).sum();
        // Each draws one at each checkpoint too, and one with its first new drawing, which may be the one that it needs at its end.
        let instances = self.world.spec.instances();
        let is_checkpoint = |(name, _): &&(String, String)| {
            instances.iter().any(|instance| instance.name == *name && instance.stage.kind == Kind::Learn)
        };
        let checkpoints = ran.did.iter().filter(is_checkpoint).count();
        let draws = instances.iter().filter(|instance| instance.stage.kind == Kind::Draw).count();
        if grids > most + (checkpoints + 1) * draws {
            return Err(format!("{grids} grids were made, not {most} and those of {draws} stages at {checkpoints} checkpoints"));
        }
        Ok(())
    }

    /// Remembers what the run has made.
    fn learn(&mut self, foreseen: &Foreseen, ran: &Ran, wanted: &Wanted, is_exact: bool) {
        let ended = |stage: &str| matches!(ran.states.get(stage), Some(StageState::Ran | StageState::Cached));
        if is_exact {
            self.memory = foreseen.memory.clone();
        } else {
            for did in &ran.did {
                self.memory.take(&foreseen.units[did]);
            }
        }
        let instances = self.world.spec.instances();
        for instance in instances.iter().filter(|instance| ended(&instance.name)) {
            let Some(Given::Whole(things)) = foreseen.given.get(&instance.name) else { continue };
            if foreseen.kept.contains(&instance.name) {
                continue;
            }
            if !is_exact {
                let field = instance.stage.kind.written();
                let contents: Vec<String> = things.iter().map(|thing| thing.fields[field].clone()).collect();
                if instance.stage.kind == Kind::Caption {
                    self.memory.store.extend(contents.iter().cloned());
                }
                let unit = |thing: &str| foreseen.units.get(&(instance.name.clone(), thing.to_string()));
                if let Some(whole) = unit(&things[0].name).and_then(|unit| unit.whole.clone()) {
                    self.memory.complete(&whole, contents);
                }
                if let Some(grid) = unit("grid").filter(|grid| foreseen.runs.contains_key(&grid.key)) {
                    self.memory.take(grid);
                }
            }
            if !wanted.with_settings {
                self.world.rows.insert(instance.name.clone(), things.clone());
            }
        }
        if is_exact || ended("caption") {
            self.world.texts = foreseen.texts.clone();
        }
        let all_ended = foreseen.given.keys().all(|stage| ended(stage));
        if all_ended && !wanted.with_settings {
            let names: BTreeSet<&String> = instances.iter().map(|instance| &instance.name).collect();
            self.world.rows.retain(|name, _| names.contains(name));
        }
    }

    fn check_states(&self, foreseen: &Foreseen, ran: &Ran) -> Result<(), String> {
        for (stage, given) in &foreseen.given {
            let state = ran.states.get(stage);
            let is_well = matches!(state, Some(StageState::Ran | StageState::Cached));
            if is_well != matches!(given, Given::Whole(_)) {
                return Err(format!("{stage} ended {state:?}, and should give {given:?}: {:?}", ran.notes));
            }
        }
        Ok(())
    }

    /// The lock, `out/` and the folder of texts hold what the model says.
    fn check_results(&self, foreseen: &Foreseen, ran: &Ran) -> Result<(), String> {
        for instance in self.world.spec.instances() {
            let Some(Given::Whole(things)) = foreseen.given.get(&instance.name) else { continue };
            if foreseen.kept.contains(&instance.name) {
                continue;
            }
            let expected: Vec<Listed> = things
                .iter()
                .map(|thing| {
                    let fields = thing.fields.iter().map(|(field, said)| (field.clone(), Digest::of(said.as_bytes())));
                    (thing.name.clone(), thing.origin.clone(), fields.collect())
                })
                .collect();
            if self.place.items(&instance.name).as_ref() != Some(&expected) {
                return Err(format!(
                    "the lock's items of {} are {:?}, not {things:?}; ran {ran:?}",
                    instance.name,
                    self.place.items(&instance.name)
                ));
            }
            if let Some(field) = shown_field(instance.stage.kind) {
                let file = |thing: &Thing| (format!("{}.txt", thing.name), thing.fields[field].clone().into_bytes());
                let expected: Files = things.iter().map(file).collect();
                // What `twin` gives back as it is has the extension that it came with.
                let as_text = |(path, bytes): (String, Vec<u8>)| (path.replace(".png", ".txt"), bytes);
                let found: Files = files_below(&self.place.at("out").join(&instance.folder)).into_iter().map(as_text).collect();
                if found != expected {
                    return Err(format!("out/{} shows {found:?}, not {expected:?}", instance.folder));
                }
            }
        }
        let texts: Files = self.world.texts.files.iter().map(|(n, t)| (format!("{n}.txt"), t.clone().into_bytes())).collect();
        let found = files_below(&self.place.at("captions"));
        if found != texts {
            return Err(format!("captions/ holds {found:?}, not {texts:?}"));
        }
        Ok(())
    }

    /// The last run with an empty cache, in another folder, gives the same.
    pub fn check_clean(&self) -> Result<(), String> {
        let mut world = self.world.clone();
        let items: BTreeSet<String> = world.rows.get("caption").into_iter().flatten().map(|thing| thing.name.clone()).collect();
        world.texts = Texts { files: world.texts.of_people(&items), rows: BTreeMap::new(), is_gone: false };
        let clean = Place::new();
        clean.bring_to(&world);
        let ran = clean.run(&world, &Wanted::default(), &[], None);
        if !ran.is_ok {
            return Err(format!("the clean run fails: {ran:?}"));
        }
        let (lock, clean_lock) = (self.place.lock(), clean.lock());
        for (stage, rows) in &clean_lock.stages {
            if lock.stages.get(stage) != Some(rows) {
                return Err(format!("{stage}: the lock says {:?}, after a clean run {rows:?}", lock.stages.get(stage)));
            }
        }
        if clean_lock.inputs.iter().any(|(input, rows)| lock.inputs.get(input) != Some(rows)) {
            return Err(format!("inputs: the lock says {:?}, after a clean run {:?}", lock.inputs, clean_lock.inputs));
        }
        let shown = self.place.shown();
        for (path, bytes) in clean.shown() {
            // Of the same text somebody may have another form.
            let is_text = path.starts_with("captions/");
            let form = |bytes: &Vec<u8>| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                if is_text { normal(&text) } else { text }
            };
            if shown.get(&path).map(form) != Some(form(&bytes)) {
                let text = |bytes: Option<&Vec<u8>>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
                return Err(format!("{path} says {:?}, after a clean run {:?}", text(shown.get(&path)), text(Some(&bytes))));
            }
        }
        Ok(())
    }
}
