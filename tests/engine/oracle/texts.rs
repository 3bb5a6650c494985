//! The oracle's view of texts that people edit: whose each is, and where it goes when its photo gets another name. Plain maps, no digests.

use std::collections::{BTreeMap, BTreeSet};

/// What lies in the folder of texts, and what the lock says of it.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// As the files lie there, by item.
    pub files: BTreeMap<String, String>,
    pub rows: BTreeMap<String, Row>,
    /// The folder itself is not there.
    pub is_gone: bool,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub photo: String,
    /// What the machine wrote; `None` where a person was first.
    pub text: Option<String>,
    /// What a person wrote and a run used instead.
    pub person: Option<String>,
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
        let is_item = |name: &str| items.iter().any(|item| item.name == name);
        for circle in self.circles(&waiting, is_item) {
            let placed = self.places_in(&circle);
            for (name, file) in circle.iter().zip(placed) {
                next.files.insert(name.to_string(), file);
            }
            for (place, name) in circle.iter().enumerate() {
                next.rows.insert(name.to_string(), self.rows[circle[(place + circle.len() - 1) % circle.len()]].clone());
            }
        }
        let blocked = next.sources(items, skipped);
        (next, blocked)
    }

    /// Photos that changed places, each name before the one where its photo is now. The text of a photo that another replaced goes to the
    /// name that became free by that.
    fn circles<'w>(&'w self, waiting: &[(&'w String, &'w String)], is_item: impl Fn(&str) -> bool) -> Vec<Vec<&'w str>> {
        let mut left: BTreeMap<&str, &str> = waiting.iter().map(|(to, from)| (from.as_str(), to.as_str())).collect();
        let mut circles = Vec::new();
        while let Some(start) = left.keys().find(|name| !left.values().any(|to| to == *name)).or(left.keys().next()).copied() {
            let mut names = vec![start];
            while let Some(to) = left.remove(names[names.len() - 1]).filter(|to| *to != start) {
                names.push(to);
            }
            let end = names[names.len() - 1];
            let closes = waiting.iter().any(|(to, from)| *to == start && *from == end);
            let file = |name: &str| Some(normal(&self.files[name]));
            let knows = |name: &str| self.rows.get(name).is_some_and(|row| [&row.text, &row.person].contains(&&file(name)));
            let machine_said = |name: &&str| names.iter().any(|of| self.rows.get(*of).is_some_and(|row| row.text == file(name)));
            if (closes || (knows(end) && !is_item(start))) && !names.iter().all(machine_said) {
                circles.push(names);
            }
        }
        circles
    }

    /// The texts of a circle in the order of its names, each where it belongs: what a person brought along stays, what is known of a photo
    /// follows it, and the rest goes where the photo of its name went, or stays if others were brought along.
    fn places_in(&self, circle: &[&str]) -> Vec<String> {
        let count = circle.len();
        let text = |place: usize| normal(&self.files[circle[place]]);
        let knows = |of: usize, place: usize| {
            let row = &self.rows[circle[of]];
            row.text.as_ref() == Some(&text(place)) || row.person.as_ref() == Some(&text(place))
        };
        let mut at: Vec<Option<usize>> = vec![None; count];
        let mut put = |target: usize, place: usize| {
            if !at.contains(&Some(place)) && at[target].is_none() {
                at[target] = Some(place);
            }
        };
        let brought: Vec<usize> = (0..count).filter(|&p| knows((p + count - 1) % count, p) && !knows(p, p)).collect();
        brought.iter().for_each(|&place| put(place, place));
        for place in 0..count {
            (0..count)
                .map(|step| (place + step) % count)
                .filter(|of| knows(*of, place))
                .for_each(|of| put((of + 1) % count, place));
        }
        for place in 0..count {
            let first = place + usize::from(brought.is_empty());
            (0..count).for_each(|step| put((first + step) % count, place));
        }
        at.into_iter().map(|place| self.files[circle[place.expect("one for each")]].clone()).collect()
    }

    /// Texts of people that are gone with most of the others, or with their folder.
    pub fn lost(&self, items: &[Asked], skipped: &BTreeSet<String>) -> BTreeMap<String, String> {
        let (after, blocked) = self.follow(items, skipped);
        let row = |name: &String| after.rows.get(blocked.get(name).unwrap_or(name));
        let names = items.iter().map(|item| &item.name).chain(skipped);
        let known: Vec<&String> = names.filter(|name| row(name).is_some()).collect();
        let missing: Vec<&&String> = known.iter().filter(|name| !after.files.contains_key(**name)).collect();
        if !self.is_gone && (missing.len() <= 1 || missing.len() * 2 <= known.len()) {
            return BTreeMap::new();
        }
        missing.into_iter().filter_map(|name| Some((name.to_string(), row(name)?.person.clone()?))).collect()
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
            self.rows.insert(item.name.clone(), Row { photo: item.photo.clone(), text, person: human.clone() });
        }
        self.is_gone = false;
    }

    /// Files that no machine wrote, and those whose photo is gone.
    pub fn of_people(&self, items: &BTreeSet<String>) -> BTreeMap<String, String> {
        let is_machines = |name: &String, file: &String| {
            items.contains(name) && self.rows.get(name).is_some_and(|row| row.text.as_ref() == Some(&normal(file)))
        };
        self.files.iter().filter(|(name, file)| !is_machines(name, file)).map(|(n, f)| (n.clone(), f.clone())).collect()
    }
}
