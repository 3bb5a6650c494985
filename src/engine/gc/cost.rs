//! What it takes to make objects again, and which of them go first when a cache must shrink. Unaware of what is needed.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::cache::digest::Digest;
use crate::cache::survey::StoredObject;
use crate::decide::results::Results;
use crate::gc::collect::Amount;
use crate::kind::stage_kind::Worth;

/// Who made what.
pub(crate) struct Groups<'a> {
    groups: Vec<Group<'a>>,
    by_object: HashMap<Digest, usize>,
}

/// Objects that one record names: they are made together.
struct Group<'a> {
    kind: &'a str,
    seconds: f64,
    objects: &'a [Digest],
}

impl<'a> Groups<'a> {
    /// From complete records, and from what whole stages published: these share the seconds of their stage evenly.
    pub(crate) fn of(results: &'a Results) -> Self {
        let mut all = Self { groups: Vec::new(), by_object: HashMap::new() };
        let mut keys: Vec<&Digest> = results.by_key.keys().collect();
        keys.sort_unstable();
        for key in keys {
            for made in results.of(key).iter().filter(|made| made.is_complete) {
                all.push(Group { kind: &made.kind, seconds: made.seconds, objects: &made.own });
            }
            // A training publishes one by one, and its record says how long all of them took.
            let Some(ending) = results.ending_of(key) else { continue };
            let published: Vec<_> = results.of(key).iter().filter(|made| !made.is_complete).collect();
            let seconds = ending.seconds / published.len().max(1) as f64;
            for made in published {
                all.push(Group { kind: &ending.kind, seconds, objects: &made.own });
            }
        }
        all
    }

    fn push(&mut self, group: Group<'a>) {
        let place = self.groups.len();
        for object in group.objects {
            let known = self.by_object.entry(*object).or_insert(place);
            // What can be made in several ways is made in the quickest.
            if *known != place && self.groups[*known].seconds > group.seconds {
                *known = place;
            }
        }
        self.groups.push(group);
    }

    /// By kind; each group counts its time once.
    pub(crate) fn amounts(&self, objects: &[Digest], here: &HashMap<Digest, StoredObject>) -> BTreeMap<String, Amount> {
        let mut amounts: BTreeMap<String, Amount> = BTreeMap::new();
        let mut counted = HashSet::new();
        for object in objects {
            let place = self.by_object.get(object);
            let amount = amounts.entry(place.map_or("", |place| self.groups[*place].kind).to_string()).or_default();
            amount.add(here[object].size);
            if let Some(place) = place.filter(|place| counted.insert(**place)) {
                amount.seconds += self.groups[*place].seconds;
            }
        }
        amounts
    }

    /// Objects of at least `bytes` in all, those first that are worth least; fewer if not enough may be evicted.
    pub(crate) fn cheapest(
        &self,
        bytes: u64,
        here: &HashMap<Digest, StoredObject>,
        may_go: &dyn Fn(&Digest) -> bool,
        worth: &dyn Fn(&str) -> Worth,
    ) -> Vec<Digest> {
        let mut candidates = Vec::new();
        for (place, group) in self.groups.iter().enumerate() {
            let mut objects: Vec<Digest> = group.objects.to_vec();
            objects.sort_unstable();
            objects.dedup();
            objects.retain(|object| self.by_object[object] == place && may_go(object));
            let size: u64 = objects.iter().map(|object| here[object].size).sum();
            if size > 0 {
                // A clock tells no time below this.
                let rate = size as f64 / group.seconds.max(1e-3);
                candidates.push((worth(group.kind), rate, size, objects));
            }
        }
        candidates.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.3.cmp(&b.3)));
        let mut going = Vec::new();
        let mut gone = 0;
        for (_, _, size, objects) in candidates {
            if gone >= bytes {
                break;
            }
            gone += size;
            going.extend(objects);
        }
        going
    }
}
