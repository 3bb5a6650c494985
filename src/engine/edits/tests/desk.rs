//! A pipeline with nothing but an editable stage, run without the engine.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::cache::Cache;
use crate::cache::artifact::Artifact;
use crate::cache::digest::Digest;
use crate::edits::{Action, Applied, Decision, EditableItem, Editing, Provenance, SettledText, SurveyedText};
use crate::lock_file::EditRows;

/// What a person writes.
pub(super) const MINE: &str = "a red star, by hand";

/// Photos, a captioner and a person around one folder of captions.
pub(super) struct Desk {
    temp: tempfile::TempDir,
    pub(super) cache: Cache,
    /// What each photo shows, by the name of the photo.
    pub(super) photos: BTreeMap<String, String>,
    /// 0 says the same of every photo.
    pub(super) captioner: u32,
    /// The machine's texts by key: its records.
    records: BTreeMap<Digest, Artifact>,
    /// How often the captioner was asked.
    pub(super) asked: usize,
    pub(super) lock: EditRows,
}

impl Desk {
    pub(super) fn new(photos: &[&str]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(&temp.path().join("cache")).unwrap();
        let photos = photos.iter().map(|name| (name.to_string(), format!("photo {name}"))).collect();
        Self { temp, cache, photos, captioner: 1, records: BTreeMap::new(), asked: 0, lock: EditRows::new() }
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.temp.path().join("captions")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.txt"))
    }

    pub(super) fn save(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    pub(super) fn says(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    pub(super) fn machine_says(&self, photo: &str) -> String {
        match self.captioner {
            0 => "a picture".to_string(),
            captioner => format!("captioner {captioner} sees {photo}"),
        }
    }

    pub(super) fn rename_photo(&mut self, from: &str, to: &str) {
        let photo = self.photos.remove(from).unwrap();
        self.photos.insert(to.to_string(), photo);
    }

    pub(super) fn items(&self) -> Vec<EditableItem> {
        let item = |(name, photo): (&String, &String)| {
            let key = Digest::of(self.machine_says(photo).as_bytes());
            let photo = Digest::of(photo.as_bytes());
            EditableItem { name: name.clone(), key: Some(key), photo, machine: self.records.get(&key).cloned() }
        };
        self.photos.iter().map(item).collect()
    }

    pub(super) fn read(&self) -> Editing<'_> {
        Editing::read(&self.cache, &self.folder(), "caption", "txt", &self.lock).unwrap()
    }

    /// What `plan` would find.
    pub(super) fn judge(&self, name: &str) -> (Provenance, Action) {
        let items = self.items();
        let index = items.iter().position(|item| item.name == name).unwrap();
        let judgement = self.read().judge(&items).swap_remove(index);
        (judgement.provenance, judgement.action)
    }

    pub(super) fn run(&mut self) -> Result<Applied> {
        Editing::recover(&self.cache, &self.folder(), "txt", &self.lock)?;
        let items = self.items();
        let judgements = self.read().judge(&items);
        let batch = self.cache.batch();
        for (item, judgement) in items.iter().zip(judgements) {
            if judgement.action == Action::Run {
                let text = self.machine_says(&self.photos[&item.name]);
                let stored = batch.put_bytes(text.as_bytes()).unwrap();
                self.records.insert(item.key.unwrap(), stored.artifact("txt"));
                self.asked += 1;
            }
        }
        batch.flush().unwrap();
        let editing = Editing::read(&self.cache, &self.folder(), "caption", "txt", &self.lock)?;
        let applied = editing.apply(&self.items(), &batch)?;
        batch.flush().unwrap();
        self.lock = applied.rows.clone();
        Ok(applied)
    }

    /// Asks the captioner about one photo, as `edits show --new` does.
    pub(super) fn ask(&mut self, name: &str) {
        let item = self.items().into_iter().find(|item| item.name == name).unwrap();
        let batch = self.cache.batch();
        let stored = batch.put_bytes(self.machine_says(&self.photos[name]).as_bytes()).unwrap();
        batch.flush().unwrap();
        self.records.insert(item.key.unwrap(), stored.artifact("txt"));
        self.asked += 1;
    }

    pub(super) fn settle(&mut self, name: &str, decision: Decision) -> SettledText {
        Editing::recover(&self.cache, &self.folder(), "txt", &self.lock).unwrap();
        let settled = self.read().settle(&self.items(), &[name.to_string()], decision).unwrap();
        self.lock = settled.rows;
        let [(told, outcome)] = settled.texts.try_into().unwrap();
        assert_eq!(told, name);
        outcome
    }

    pub(super) fn survey(&self, name: &str) -> SurveyedText {
        self.read().survey(&self.items()).into_iter().find(|text| text.name == name).unwrap()
    }

    pub(super) fn orphans(&self) -> Vec<String> {
        let survey = self.read().survey(&self.items());
        survey.into_iter().filter(|text| text.provenance == Provenance::Orphan).map(|text| text.name).collect()
    }

    /// Provenance and effective text of an item after a run.
    pub(super) fn outcome(&mut self, name: &str) -> (Provenance, String) {
        let applied = self.run().unwrap();
        let index = self.photos.keys().position(|known| known == name).unwrap();
        let item = &applied.items[index];
        assert_eq!(item.failure, None);
        let text = String::from_utf8(self.cache.read(&item.fields["caption"].digest).unwrap()).unwrap();
        (item.provenance, text)
    }

    /// Everything that was displaced.
    pub(super) fn displaced(&self) -> Vec<String> {
        let files = walkdir::WalkDir::new(self.cache.root().join("displaced")).into_iter().filter_map(std::result::Result::ok);
        let files = files.filter(|entry| entry.file_type().is_file());
        files.map(|entry| fs::read_to_string(entry.path()).unwrap()).collect()
    }

    pub(super) fn hidden_files(&self) -> usize {
        fs::read_dir(self.folder())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'))
            .count()
    }
}
