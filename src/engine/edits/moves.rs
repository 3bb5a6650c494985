//! Which texts belong to photos that have another name now. Reads nothing and writes nothing.
//!
//! A text follows its photo, but only to a name that is free: where no text lies, or the machine's text about another photo, or
//! one that itself moves away, or the same text: a move that was interrupted may leave it under both names. Where photos changed
//! places, with a text under each name, `circles` says which text goes where.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::cache::digest::Digest;
use crate::edits::circles::Circle;
use crate::edits::folder::{Contents, Found};
use crate::edits::{EditableItem, Editing};

/// What became of the names of photos since the rows of the lock were written.
#[derive(Debug, Default)]
pub(crate) struct Moves<'i> {
    /// By their names.
    items: HashMap<&'i str, &'i EditableItem>,
    /// By the name of an item: the name that its photo had, where that is another one.
    sources: BTreeMap<String, String>,
    /// From and to, in an order in which every target is free when its turn comes.
    steps: Vec<(String, String)>,
    /// The same, from by to.
    moved: BTreeMap<String, String>,
    leaving: BTreeSet<String>,
    circles: Vec<Circle>,
}

/// From which name each text comes whose photo lies under another name now.
fn sources(editing: &Editing<'_>, items: &[EditableItem], by_name: &HashMap<&str, &EditableItem>) -> BTreeMap<String, String> {
    // Names whose photo lies elsewhere now, by that photo.
    let mut left: BTreeMap<Digest, Vec<&str>> = BTreeMap::new();
    for (name, rows) in editing.rows.iter().filter(|(name, _)| !editing.set_aside.contains(*name)) {
        let photo = by_name.get(name.as_str()).map(|item| item.photo);
        for row in rows.iter().filter(|row| photo != Some(row.photo)) {
            left.entry(row.photo).or_default().push(name);
        }
    }
    let (mut sources, mut taken) = (BTreeMap::new(), BTreeSet::new());
    for item in items {
        let rows = editing.rows.get(&item.name).map_or(&[][..], Vec::as_slice);
        if rows.iter().any(|row| row.photo == item.photo) {
            continue;
        }
        let source = left.get(&item.photo).into_iter().flatten().find(|name| !taken.contains(*name));
        if let Some(source) = source {
            taken.insert(*source);
            sources.insert(item.name.clone(), source.to_string());
        }
    }
    sources
}

impl<'i> Moves<'i> {
    /// Compares the photos of `items` with those that the lock has for each name.
    pub(crate) fn find(editing: &Editing<'_>, items: &'i [EditableItem]) -> Self {
        let by_name = items.iter().map(|item| (item.name.as_str(), item)).collect();
        let mut moves = Self { items: by_name, ..Self::default() };

        // 1. where the photos of texts are now
        moves.sources = sources(editing, items, &moves.items);
        if moves.sources.is_empty() {
            return moves;
        }

        // 2. the moves to names that are free, then those to names that became free by them
        let has_file = |name: &str| editing.found.texts.contains_key(name);
        let mut steps = Vec::new();
        let mut waiting: Vec<(&String, &String)> =
            moves.sources.iter().map(|(to, from)| (from, to)).filter(|(from, _)| has_file(from)).collect();
        let leaving: BTreeSet<&str> = waiting.iter().map(|(from, _)| from.as_str()).collect();
        let is_free = |from: &str, to: &str| {
            !leaving.contains(to) && (!has_file(to) || is_machines_of_another(editing, to) || editing.found.is_copy(from, to))
        };
        let mut free: BTreeSet<&str> = waiting.iter().filter(|(from, to)| is_free(from, to)).map(|(_, to)| to.as_str()).collect();
        loop {
            let (ready, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, to)| free.contains(to.as_str()));
            waiting = rest;
            if ready.is_empty() {
                break;
            }
            for (from, to) in ready {
                free.insert(from);
                free.remove(to.as_str());
                steps.push((from.clone(), to.clone()));
            }
        }
        moves.moved = steps.iter().map(|(from, to)| (to.clone(), from.clone())).collect();
        moves.leaving = steps.iter().map(|(from, _)| from.clone()).collect();
        moves.steps = steps;

        // 3. photos that changed places
        let waiting: Vec<(&str, &str)> = waiting.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
        let circles = Circle::find(editing, &waiting, &moves.items);
        for turn in circles.iter().flat_map(Circle::turns) {
            moves.moved.insert(turn.to.to_string(), turn.from.to_string());
            moves.leaving.insert(turn.from.to_string());
        }
        moves.circles = circles;
        moves
    }

    /// What there is to know once the texts are moved: which names photos had. Each text belongs to the name under which it lies.
    pub(crate) fn carried_out(self) -> Self {
        Self { items: self.items, sources: self.sources, ..Self::default() }
    }

    /// Whether every photo that a row knows has the name it had: then what lies in the folder changes nothing here.
    pub(crate) fn is_settled(&self) -> bool {
        self.sources.is_empty()
    }

    /// From and to, by name: carried out one after the other, none meets a file that has to stay. Circles are not among them.
    pub(crate) fn steps(&self) -> &[(String, String)] {
        &self.steps
    }

    /// Photos that changed places.
    pub(crate) fn circles(&self) -> &[Circle] {
        &self.circles
    }

    /// Whether an item has this name now.
    pub(crate) fn is_item(&self, name: &str) -> bool {
        self.items.contains_key(name)
    }

    /// The name that the photo of item `name` had, if it had another.
    pub(crate) fn source_of(&self, name: &str) -> Option<&String> {
        self.sources.get(name)
    }

    /// The name from which the text of item `name` comes, if it moves.
    pub(crate) fn moved_from(&self, name: &str) -> Option<&str> {
        self.moved.get(name).map(String::as_str)
    }

    /// Whether the text `name` moves to another name.
    pub(crate) fn leaves(&self, name: &str) -> bool {
        self.leaving.contains(name)
    }

    /// The file that is the text of item `name` once all moves are done.
    pub(crate) fn file_of<'e>(&self, editing: &'e Editing<'_>, name: &str) -> Option<&'e Found> {
        let name = match self.moved_from(name) {
            Some(source) => source,
            None if self.leaves(name) => return None,
            None => name,
        };
        editing.found.texts.get(name)
    }
}

/// Whether the file `name` holds what its rows say the machine wrote there.
fn is_machines_of_another(editing: &Editing<'_>, name: &str) -> bool {
    let rows = editing.rows.get(name).map_or(&[][..], Vec::as_slice);
    match editing.found.texts.get(name).map(|found| &found.contents) {
        Some(Contents::Text(digest, _)) => rows.iter().any(|row| row.text == Some(*digest)),
        _ => false,
    }
}
