//! What of a cache may be deleted, and its deletion. Unaware of how that is printed.
//!
//! Kept is what any lock file names that can still be reached (`roots`), what runs that go on or were interrupted need (`sweep`),
//! what unfinished trainings have published, and their states. The state of a training that has ended is kept while a lock in a
//! work tree names its result: more epochs would go on from there.
//!
//! With a size to come down to, what is named is evicted too, if it can be made again: by `Worth`, and among equals by bytes for
//! each second that it takes. Never what a pipeline needs whose run goes on, and never what no record says how to make.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::survey::{StateFolder, StoredObject, size_of};
use crate::cache::sweep::{ExclusiveLock, Noted, age_of};
use crate::decide::results::Results;
use crate::gc::cost::Groups;
use crate::gc::live::Live;
use crate::gc::roots::{RootProblem, RootRepository, Roots, known_roots};
use crate::kind::stage_kind::Worth;

/// New repositories that register while this goes on make it begin again, this often.
const ROUNDS: usize = 5;

/// What the user asks for.
#[derive(Clone, Copy, Debug)]
pub struct CollectOptions<'a> {
    /// Really delete.
    pub delete: bool,
    /// Keep what only earlier commits, reflogs or stashes name.
    pub history: bool,
    /// Delete what interrupted runs made if nobody has gone on with them for this long.
    pub unfinished: Option<Duration>,
    /// Bytes that the cache may have in the end.
    pub max_size: Option<u64>,
    /// Roots of the cache whose results are no longer kept; they stay roots until `Cache::forget_root`.
    pub forgotten: &'a [PathBuf],
}

/// A number of things.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Amount {
    pub count: usize,
    pub bytes: u64,
    /// That it takes to make them again.
    pub seconds: f64,
}

impl Amount {
    /// Counts one more thing. Leaves `seconds` alone: what was made together takes its time once.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What is deleted, or would be.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// Bytes of the whole cache beforehand.
    pub total: u64,
    pub repositories: Vec<RootRepository>,
    /// Why nothing may be deleted.
    pub problems: Vec<RootProblem>,
    /// What lock files name.
    pub named: Amount,
    /// What is kept beyond that, for runs that go on or were interrupted.
    pub unfinished: Amount,
    /// States that are kept.
    pub states: Amount,
    /// Since anybody went on with the oldest of what is unfinished.
    pub oldest_unfinished: Option<Duration>,
    /// What nothing needs, by the kind of stage that made it; `""` for lists and for texts of people.
    pub garbage: BTreeMap<String, Amount>,
    /// What is needed and evicted for the sake of the size, by kind.
    pub evicted: BTreeMap<String, Amount>,
    /// States of trainings that have ended, or that nobody goes on with.
    pub old_states: Amount,
    /// Files that were displaced more than 30 days ago.
    pub old_displaced: Amount,
    /// Bytes of what is deleted that have a second name in an `out/` folder: they are free when that is deleted too.
    pub linked: u64,
    /// Whether it has been deleted.
    pub deleted: bool,
}

impl Collected {
    /// Of all that is deleted.
    pub fn freed(&self) -> Amount {
        let groups = self.garbage.values().chain(self.evicted.values());
        groups.chain([&self.old_states, &self.old_displaced]).fold(Amount::default(), |sum, part| Amount {
            count: sum.count + part.count,
            bytes: sum.bytes + part.bytes,
            seconds: sum.seconds + part.seconds,
        })
    }
}

/// Finds out what may be deleted, and deletes it if that is asked for. `here`: a folder whose repository counts even if the cache
/// does not know it. With problems nothing is deleted.
pub fn collect(cache: &Cache, here: &Path, options: &CollectOptions<'_>, worth: &dyn Fn(&str) -> Worth) -> Result<Collected> {
    if !options.delete {
        let roots = Roots::read(cache, here, options.history, options.forgotten)?;
        let plan = Plan::new(cache, &roots, options, worth)?;
        return Ok(plan.report(roots));
    }
    let collector = cache.begin_collecting()?;
    for _ in 0..ROUNDS {
        let known = known_roots(cache, here, options.forgotten)?;
        let mut roots = Roots::read(cache, here, options.history, options.forgotten)?;
        let exclusive = collector.exclusive()?;
        if known_roots(cache, here, options.forgotten)? != known {
            continue;
        }
        // Rows that locks have got since; the rest is in the notes.
        roots.read_work_trees_again();
        let plan = Plan::new(cache, &roots, options, worth)?;
        if roots.problems.is_empty() && plan.problems.is_empty() {
            plan.carry_out(cache, &exclusive)?;
            return Ok(Collected { deleted: true, ..plan.report(roots) });
        }
        return Ok(plan.report(roots));
    }
    bail!("repositories begin to use the cache all the time: collect again when that is over")
}

/// What is to go.
struct Plan {
    collected: Collected,
    problems: Vec<RootProblem>,
    garbage: Vec<Digest>,
    evicted: Vec<Digest>,
    states: Vec<Digest>,
    notes: Vec<Noted>,
    /// Keys that something still leads to.
    keys: HashSet<Digest>,
}

impl Plan {
    fn new(cache: &Cache, roots: &Roots, options: &CollectOptions<'_>, worth: &dyn Fn(&str) -> Worth) -> Result<Self> {
        let results = Results::read(cache)?;
        let stored = cache.stored_objects()?;
        let here: HashMap<Digest, StoredObject> = stored.objects.iter().map(|object| (object.digest, *object)).collect();
        let states = cache.stored_states()?;
        let (notes, old_notes) = noted(cache, options)?;
        let is_noted: HashSet<Digest> = notes.iter().flat_map(|noted| noted.digests.iter().copied()).collect();
        let unfinished = Unfinished::find(cache, &results, &states, &is_noted, options);

        let mut live = Live::new(cache, &results, &here);
        live.reach(roots.pipelines.values().flatten().copied());
        let in_work_trees = live.keys.clone();
        live.reach(roots.history.iter().copied());
        let mut collected = Collected { total: cache.total_size(), ..Collected::default() };
        live.objects.iter().for_each(|object| collected.named.add(here[object].size));
        let is_kept_state = |key: &Digest| in_work_trees.contains(key) || is_noted.contains(key) || unfinished.keys.contains(key);
        let with_state = states.iter().map(|state| state.key).filter(is_kept_state);
        live.reach_all_of(with_state.chain(unfinished.keys.iter().copied()).chain(is_noted.iter().copied()));
        live.reach(is_noted.iter().copied());
        let kept: u64 = live.objects.iter().map(|object| here[object].size).sum();
        collected.unfinished =
            Amount { count: live.objects.len() - collected.named.count, bytes: kept - collected.named.bytes, seconds: 0.0 };
        let ages = notes.iter().map(|noted| noted.age).chain(unfinished.ages.iter().copied());
        collected.oldest_unfinished = ages.max();

        let problems = problems_of(cache, roots, !here.is_empty(), &live.damaged, results.unreadable);

        let groups = Groups::of(&results);
        let garbage: Vec<Digest> = stored.objects.iter().map(|o| o.digest).filter(|o| !live.objects.contains(o)).collect();
        collected.garbage = groups.amounts(&garbage, &here);
        let mut old_states = Vec::new();
        for state in states {
            if is_kept_state(&state.key) {
                collected.states.add(state.size);
            } else {
                collected.old_states.add(state.size);
                old_states.push(state.key);
            }
        }
        cache.old_displaced()?.iter().for_each(|path| collected.old_displaced.add(size_of(path)));

        let mut evicted = Vec::new();
        if let Some(max_size) = options.max_size {
            let left = collected.total - collected.freed().bytes.min(collected.total);
            let pinned = pinned(cache, roots, &results, &here, &notes, &unfinished)?;
            let may_go = |object: &Digest| live.objects.contains(object) && !pinned.contains(object);
            evicted = groups.cheapest(left.saturating_sub(max_size), &here, &may_go, worth);
            collected.evicted = groups.amounts(&evicted, &here);
        }
        let going = garbage.iter().chain(&evicted).map(|object| here[object]);
        collected.linked = going.filter(|object| object.links > 1).map(|object| object.size).sum();
        let keys = live.keys;
        Ok(Self { collected, problems, garbage, evicted, states: old_states, notes: old_notes, keys })
    }

    fn report(self, roots: Roots) -> Collected {
        let problems = roots.problems.into_iter().chain(self.problems).collect();
        Collected { repositories: roots.repositories, problems, ..self.collected }
    }

    /// Objects first: a record whose objects are gone is a miss, whatever becomes of us in between.
    fn carry_out(&self, cache: &Cache, exclusive: &ExclusiveLock<'_>) -> Result<()> {
        let mut evict = cache.evicted()?;
        let going: HashSet<Digest> = self.garbage.iter().chain(&self.evicted).copied().collect();
        if !going.is_empty() {
            exclusive.write_evicted(&evict.union(&going).copied().collect())?;
        }
        for object in &going {
            exclusive.remove_object(object)?;
        }
        for state in &self.states {
            exclusive.remove_state(state)?;
        }
        for noted in &self.notes {
            exclusive.forget(noted)?;
        }
        cache.forget_old_displaced()?;
        exclusive.remove_dead_scratch()?;

        // A record stays while its outputs are here, or were evicted though something still leads to it.
        evict.extend(&self.evicted);
        let here: HashSet<Digest> = cache.stored_objects()?.objects.iter().map(|object| object.digest).collect();
        let mut missing = HashSet::new();
        exclusive.retain_records(&mut |_, record| {
            let is_led_to = self.keys.contains(&record.key);
            let stays = record
                .artifacts()
                .all(|artifact| here.contains(&artifact.digest) || (is_led_to && evict.contains(&artifact.digest)));
            if stays {
                missing.extend(record.artifacts().map(|artifact| artifact.digest).filter(|digest| !here.contains(digest)));
            }
            stays
        })?;
        exclusive.write_evicted(&missing)
    }
}

/// Notes that count, and those that nobody goes on with.
fn noted(cache: &Cache, options: &CollectOptions<'_>) -> Result<(Vec<Noted>, Vec<Noted>)> {
    let mut counting = Vec::new();
    let mut old = Vec::new();
    for noted in cache.noted()? {
        let is_old = options.unfinished.is_some_and(|limit| noted.age >= limit);
        // Put aside by a collector that is running, or was killed: a look that deletes nothing can do without.
        let is_over = noted.put_aside && !options.delete;
        if is_over {
            continue;
        }
        let is_gone = !noted.folder.is_dir();
        if (is_old || is_gone) && !is_running(cache, &noted.folder)? {
            old.push(noted);
        } else {
            counting.push(noted);
        }
    }
    Ok((counting, old))
}

fn is_running(cache: &Cache, folder: &Path) -> Result<bool> {
    Ok(folder.is_dir() && cache.runner(folder)?.is_some())
}

/// What interrupted trainings would go on from.
#[derive(Default)]
struct Unfinished {
    keys: HashSet<Digest>,
    ages: Vec<Duration>,
}

impl Unfinished {
    fn find(
        cache: &Cache,
        results: &Results,
        states: &[StateFolder],
        is_noted: &HashSet<Digest>,
        options: &CollectOptions<'_>,
    ) -> Self {
        let by_key: HashMap<Digest, &StateFolder> = states.iter().map(|state| (state.key, state)).collect();
        let published = results.by_key.keys().filter(|key| results.has_published(key));
        let keys: BTreeSet<Digest> = published.chain(by_key.keys()).copied().collect();
        let mut unfinished = Self::default();
        for key in keys {
            let age = match by_key.get(&key).and_then(|state| state.age) {
                Some(age) => age,
                None if results.has_published(&key) => {
                    let artifacts = results.of(&key).iter().flat_map(|made| &made.artifacts);
                    let paths = artifacts.map(|digest| cache.place_of(digest)).filter(|place| place.is_there());
                    let Some(age) = paths.map(|place| age_of(&place)).min() else { continue };
                    age
                }
                // An empty folder: it was left before the first step.
                None => continue,
            };
            let is_old = options.unfinished.is_some_and(|limit| age >= limit) && !is_noted.contains(&key);
            if results.ending_of(&key).is_none() && !is_old {
                unfinished.keys.insert(key);
                unfinished.ages.push(age);
            }
        }
        unfinished
    }
}

/// What a run that goes on, or the next that resumes an interrupted one, needs.
fn pinned(
    cache: &Cache,
    roots: &Roots,
    results: &Results,
    here: &HashMap<Digest, StoredObject>,
    notes: &[Noted],
    unfinished: &Unfinished,
) -> Result<HashSet<Digest>> {
    let mut live = Live::new(cache, results, here);
    for (folder, digests) in &roots.pipelines {
        if is_running(cache, folder)? {
            live.reach(digests.iter().copied());
        }
    }
    let noted = notes.iter().flat_map(|noted| noted.digests.iter().copied());
    live.reach_all_of(noted.clone().chain(unfinished.keys.iter().copied()));
    live.reach(noted);
    Ok(live.objects)
}

/// What stops a collection: nobody can tell what is needed.
fn problems_of(
    cache: &Cache,
    roots: &Roots,
    has_objects: bool,
    damaged: &[Digest],
    unreadable_records: usize,
) -> Vec<RootProblem> {
    let mut problems = Vec::new();
    if roots.repositories.is_empty() && roots.problems.is_empty() && has_objects {
        let text = "no repository is known to use this cache: `loramill run` in each that does makes it known".to_string();
        problems.push(RootProblem { path: cache.root().to_path_buf(), text });
    }
    if !damaged.is_empty() {
        let text = format!(
            "{} lists of results are damaged, so that nobody knows what they name: `loramill fsck --repair`, then `loramill run`",
            damaged.len()
        );
        problems.push(RootProblem { path: cache.path(&damaged[0]), text });
    }
    if unreadable_records > 0 {
        let text = format!(
            "{} records were written by another version of loramill: collect with that one, or `loramill fsck --repair`",
            unreadable_records
        );
        problems.push(RootProblem { path: cache.root().join("records"), text });
    }
    problems
}
