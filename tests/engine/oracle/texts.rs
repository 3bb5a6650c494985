//! The oracle's view of texts that people edit: whose each is, and where it goes when its photo gets another name. Plain maps, no digests.

use std::collections::{BTreeMap, BTreeSet};

/// What lies in the folder of texts, and what the lock says of it.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// As the files lie there, by item.
    pub files: BTreeMap<String, String>,
    pub rows: BTreeMap<String, Row>,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub photo: String,
    /// What the machine wrote; `None` where a person was first.
    pub text: Option<String>,
}

/// An item of the captioner: its name, its photo, and what the machine says of it if it was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub name: String,
    pub photo: String,
    pub machine: Option<String>,
}

/// Without what editors put at ends.
pub fn normal(text: &str) -> String {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_end().to_string()
}

impl Texts {
    /// Texts follow their photos to names that are free; those of skipped photos stay. Also the old names of items whose text could not come.
    pub fn follow(&self, items: &[Asked], skipped: &BTreeSet<String>) -> (Self, BTreeMap<String, String>) {
        let mut next = self.clone();
        let sources = self.sources(items, skipped);
        let mut waiting: Vec<(&String, &String)> = sources.iter().filter(|(_, from)| self.files.contains_key(*from)).collect();
        let leaving: BTreeSet<&String> = waiting.iter().map(|(_, from)| *from).collect();
        let mut left: BTreeSet<&String> = BTreeSet::new();
        let mut moves = Vec::new();
        loop {
            let is_free = |to: &String, from: &String| match self.files.get(to) {
                _ if left.contains(to) => true,
                _ if leaving.contains(to) => false,
                None => true,
                Some(file) => {
                    let is_machines = self.rows.get(to).is_some_and(|row| row.text.as_ref() == Some(&normal(file)));
                    is_machines || normal(file) == normal(&self.files[from])
                }
            };
            let (ready, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(to, from)| is_free(to, from));
            waiting = rest;
            if ready.is_empty() {
                break;
            }
            left.extend(ready.iter().map(|(_, from)| *from));
            moves.extend(ready);
        }
        for (_, from) in &moves {
            next.files.remove(*from);
            next.rows.remove(*from);
        }
        for (to, from) in moves {
            // One that says the same stays as it lies there.
            let stays = self.files.get(to).is_some_and(|file| !leaving.contains(to) && normal(file) == normal(&self.files[from]));
            if !stays {
                next.files.insert(to.clone(), self.files[from].clone());
            }
            next.rows.insert(to.clone(), self.rows[from].clone());
        }
        let blocked = next.sources(items, skipped);
        (next, blocked)
    }

    /// The name that the photo of an item had when its row was written, where it is another.
    fn sources(&self, items: &[Asked], skipped: &BTreeSet<String>) -> BTreeMap<String, String> {
        let now: BTreeMap<&str, &str> = items.iter().map(|item| (item.name.as_str(), item.photo.as_str())).collect();
        let is_elsewhere =
            |(name, row): &(&String, &Row)| !skipped.contains(*name) && now.get(name.as_str()) != Some(&row.photo.as_str());
        let mut left: Vec<(&String, &Row)> = self.rows.iter().filter(is_elsewhere).collect();
        let mut sources = BTreeMap::new();
        for item in items.iter().filter(|item| self.rows.get(&item.name).is_none_or(|row| row.photo != item.photo)) {
            if let Some(place) = left.iter().position(|(_, row)| row.photo == item.photo) {
                sources.insert(item.name.clone(), left.remove(place).0.clone());
            }
        }
        sources
    }

    /// The text of a person, if that is what lies there. `was` is the name under which the rows know the photo.
    pub fn human(&self, item: &Asked, was: Option<&String>) -> Option<String> {
        let text = normal(self.files.get(&item.name)?);
        let rows = [Some(&item.name), was].into_iter().flatten().filter_map(|name| self.rows.get(name));
        let mut machines = rows.filter_map(|row| row.text.as_ref()).chain(item.machine.as_ref());
        (!machines.any(|machine| *machine == text)).then_some(text)
    }

    /// The machine's texts are written where no person has written, and the lock says so. `items` know what the machine says by now.
    pub fn settle(&mut self, items: &[Asked], humans: &[Option<String>], blocked: &BTreeMap<String, String>) {
        let names: BTreeSet<&String> = items.iter().map(|item| &item.name).collect();
        let old = std::mem::take(&mut self.rows);
        for (name, row) in old.iter().filter(|(name, _)| !names.contains(name) && self.files.contains_key(*name)) {
            self.rows.insert(name.clone(), row.clone());
        }
        for (item, human) in items.iter().zip(humans) {
            let known = old.get(blocked.get(&item.name).unwrap_or(&item.name));
            let text = match human {
                Some(_) => known.and_then(|row| row.text.clone()),
                None => {
                    let machine = item.machine.clone().expect("the machine was asked by now");
                    if self.files.get(&item.name).map(|file| normal(file)) != Some(machine.clone()) {
                        let end = if machine.is_empty() { "" } else { "\n" };
                        self.files.insert(item.name.clone(), format!("{machine}{end}"));
                    }
                    Some(machine)
                }
            };
            self.rows.insert(item.name.clone(), Row { photo: item.photo.clone(), text });
        }
    }

    /// Files that no machine wrote, and those whose photo is gone.
    pub fn of_people(&self, items: &BTreeSet<String>) -> BTreeMap<String, String> {
        let is_machines = |name: &String, file: &String| {
            items.contains(name) && self.rows.get(name).is_some_and(|row| row.text.as_ref() == Some(&normal(file)))
        };
        self.files.iter().filter(|(name, file)| !is_machines(name, file)).map(|(n, f)| (n.clone(), f.clone())).collect()
    }
}
