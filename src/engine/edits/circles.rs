//! Photos that changed places: which text goes to which name where none of the names is free. Reads nothing and writes nothing.
//!
//! A text follows the contents of its photo. Who swaps two photos may have swapped their texts as well: a text that lies under
//! the new name already is known by what the lock says of its photo, and stays. What was changed since the last run is known by
//! nothing, and goes where its photo went. What the machine says today is known as well: a run that was killed may have written it
//! before the lock said so.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::cache::digest::Digest;
use crate::edits::folder::Contents;
use crate::edits::{EditableItem, Editing};

/// Items by their names.
type Items<'i> = HashMap<&'i str, &'i EditableItem>;

/// Names of which each has the photo now that the one before it had, the first that of the last. A text lies under each.
#[derive(Debug)]
pub(crate) struct Circle {
    names: Vec<String>,
    /// By the place of a text among the names: the place where it belongs.
    goes_to: Vec<usize>,
    /// By place: the text is one that the lock knows.
    is_known: Vec<bool>,
    /// The photo of the text that goes to the first name is gone: nobody has that name.
    ends_in_orphan: bool,
}

/// A text that gets another name.
pub(crate) struct Turn<'c> {
    pub(crate) from: &'c str,
    pub(crate) to: &'c str,
    /// It is as the last run found it.
    pub(crate) is_known: bool,
    /// No photo has that name.
    pub(crate) is_orphan: bool,
}

impl Circle {
    /// Those among moves whose targets are not free, as `from` and `to`: no name is twice on one side.
    pub(crate) fn find(editing: &Editing<'_>, waiting: &[(&str, &str)], items: &Items<'_>) -> Vec<Self> {
        let next: BTreeMap<&str, &str> = waiting.iter().copied().collect();
        let targets: BTreeSet<&str> = next.values().copied().collect();
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        // 1. where the last photo took the name of one that is gone: the text of that one goes to the name that became free
        for start in next.keys().copied().filter(|name| !targets.contains(name)) {
            let names = way_from(start, &next);
            seen.extend(names.iter().copied());
            let end = names[names.len() - 1];
            if !items.contains_key(start) && recorded(editing, end).contains(&text_at(editing, end)) {
                circles.extend(Self::of(editing, &names, items, true));
            }
        }
        // 2. those that are closed
        for start in next.keys().copied() {
            if !seen.contains(start) {
                let names = way_from(start, &next);
                seen.extend(names.iter().copied());
                circles.extend(Self::of(editing, &names, items, false));
            }
        }
        circles
    }

    /// `None` if a machine wrote all of its texts: it says them anew.
    fn of(editing: &Editing<'_>, names: &[&str], items: &Items<'_>, ends_in_orphan: bool) -> Option<Self> {
        let count = names.len();
        let texts: Vec<Option<Digest>> = names.iter().map(|name| text_at(editing, name)).collect();
        // What the machine says today of the photo that had the name at a place.
        let said_today = |place: usize| items.get(names[(place + 1) % count])?.machine.as_ref().map(|text| text.digest);
        let rows = names.iter().flat_map(|name| editing.rows.get(*name).into_iter().flatten());
        let machines: BTreeSet<Option<Digest>> = rows.map(|row| row.text).chain((0..count).map(said_today)).collect();
        if texts.iter().all(|text| text.is_some() && machines.contains(text)) {
            return None;
        }
        let known: Vec<BTreeSet<Option<Digest>>> = (0..count)
            .map(|place| {
                let mut known = recorded(editing, names[place]);
                known.extend(said_today(place).map(Some));
                known
            })
            .collect();
        let mut goes_to: Vec<Option<usize>> = vec![None; count];
        let mut is_taken = vec![false; count];
        let mut assign = |place: usize, goes_to: &mut Vec<Option<usize>>, target: usize| {
            if goes_to[place].is_none() && !is_taken[target] {
                is_taken[target] = true;
                goes_to[place] = Some(target);
            }
        };
        // What lies right already stays, then what is known goes after its photo, then the rest.
        for (place, text) in texts.iter().enumerate() {
            if known[(place + count - 1) % count].contains(text) && !known[place].contains(text) {
                assign(place, &mut goes_to, place);
            }
        }
        let is_right: Vec<bool> = goes_to.iter().map(Option::is_some).collect();
        for (place, text) in texts.iter().enumerate() {
            for about in (0..count).map(|step| (place + step) % count).filter(|&about| known[about].contains(text)) {
                assign(place, &mut goes_to, (about + 1) % count);
            }
        }
        let is_known: Vec<bool> = goes_to.iter().map(Option::is_some).collect();
        // Whoever brought one text along brought the others too.
        let by_hand = is_right.contains(&true);
        for place in 0..count {
            let first = if by_hand { place } else { (place + 1) % count };
            for step in 0..count {
                assign(place, &mut goes_to, (first + step) % count);
            }
        }
        let goes_to = goes_to.into_iter().map(|target| target.expect("there is a name for each text")).collect();
        Some(Self { names: names.iter().map(ToString::to_string).collect(), goes_to, is_known, ends_in_orphan })
    }

    /// From and to: the photos that got other names, and the text whose photo is gone.
    pub(crate) fn edges(&self) -> impl Iterator<Item = (&str, &str)> {
        (0..self.names.len()).map(|place| (self.names[place].as_str(), self.names[(place + 1) % self.names.len()].as_str()))
    }

    /// The texts that do not lie where they belong.
    pub(crate) fn turns(&self) -> impl Iterator<Item = Turn<'_>> {
        self.goes_to.iter().enumerate().filter(|(place, target)| place != *target).map(|(place, &target)| Turn {
            from: &self.names[place],
            to: &self.names[target],
            is_known: self.is_known[place],
            is_orphan: self.ends_in_orphan && target == 0,
        })
    }

    /// The exchanges of two texts that bring each to its place, in their order.
    pub(crate) fn exchanges(&self) -> Vec<(&str, &str)> {
        let mut goes_to = self.goes_to.clone();
        let mut exchanges = Vec::new();
        for place in 0..goes_to.len() {
            while goes_to[place] != place {
                let target = goes_to[place];
                exchanges.push((self.names[place].as_str(), self.names[target].as_str()));
                goes_to.swap(place, target);
            }
        }
        exchanges
    }
}

/// The names from `start` on, each once.
fn way_from<'n>(start: &'n str, next: &BTreeMap<&'n str, &'n str>) -> Vec<&'n str> {
    let mut names = vec![start];
    while let Some(&to) = next.get(names[names.len() - 1])
        && to != start
    {
        names.push(to);
    }
    names
}

fn text_at(editing: &Editing<'_>, name: &str) -> Option<Digest> {
    match editing.found.texts.get(name).map(|found| &found.contents) {
        Some(Contents::Text(digest, _)) => Some(*digest),
        _ => None,
    }
}

/// The texts that the lock knows of the photo that had this name: the machine's, and that of a person.
fn recorded(editing: &Editing<'_>, name: &str) -> BTreeSet<Option<Digest>> {
    let rows = editing.rows.get(name).into_iter().flatten();
    rows.flat_map(|row| [row.text, row.person]).filter(Option::is_some).collect()
}
