//! Brings texts to the names that their photos have now, on the disk and in the rows. Unaware of what the machine says.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::edits::circles::Circle;
use crate::edits::folder::{Contents, Folder, Found};
use crate::edits::moves::Moves;
use crate::edits::replace::{self, TakenAway};
use crate::edits::{EditableItem, Editing};

impl Editing<'_> {
    /// Gives texts the names that their photos have now. Returns the names that photos had, and says what moved. A text that somebody
    /// changes meanwhile stays where it lies.
    pub(crate) fn move_texts<'i>(&mut self, items: &'i [EditableItem]) -> Result<(Moves<'i>, Vec<String>)> {
        let moves = Moves::find(self, items);
        let mut notes = Vec::new();
        let mut followed: Vec<(&str, &str)> = moves.steps().iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
        if followed.is_empty() && moves.circles().is_empty() {
            return Ok((moves.carried_out(), notes));
        }
        for (from, to) in moves.steps() {
            notes.extend(self.move_to_free_name(from, to, &moves)?);
        }
        for circle in moves.circles() {
            if self.turn(circle, &moves)? {
                for turn in circle.turns() {
                    let (from, to) = (self.shown(turn.from)?, self.shown(turn.to)?);
                    notes.push(match (turn.is_orphan, turn.is_known) {
                        (true, _) => format!("moved `{from}` to `{to}`: its photo is gone, and another one has its name"),
                        (false, true) => format!("moved `{from}` to `{to}`: its photo has that name now"),
                        (false, false) => format!(
                            "moved `{from}` to `{to}`: its photo has that name now; the text was changed since the last run, so see \
                             whether it is about that photo"
                        ),
                    });
                }
                followed.extend(circle.edges());
            }
        }
        let names = followed.iter().flat_map(|(from, to)| [*from, *to]);
        let files: Vec<PathBuf> = names.map(|name| self.path_of(name)).collect::<Result<_>>()?;
        replace::sync_folders(files.iter().map(PathBuf::as_path))?;
        let taken: Vec<_> = followed.iter().map(|(from, _)| self.rows.get(*from).cloned().unwrap_or_default()).collect();
        self.found = Folder::scan(self.cache, &self.folder, &self.extension)?;
        let rows = self.rows.to_mut();
        let arrived: Vec<_> = followed.iter().zip(taken).filter(|((_, to), _)| self.found.texts.contains_key(*to)).collect();
        arrived.iter().for_each(|((from, _), _)| drop(rows.remove(*from)));
        rows.extend(arrived.into_iter().map(|((_, to), taken)| (to.to_string(), taken)));
        Ok((Moves::find(self, items).carried_out(), notes))
    }

    /// What there is to say of it, if it moved.
    fn move_to_free_name(&self, from: &str, to: &str, moves: &Moves<'_>) -> Result<Option<String>> {
        let Some(source) = self.found.texts.get(from).map(|found| found.path.clone()) else { return Ok(None) };
        let target = self.path_for(to)?;
        // What lies there is the machine's text about another photo, or has moved away.
        let in_the_way = self.found.texts.get(to).filter(|found| found.path.exists() && !self.found.is_copy(from, to));
        if let Some(Found { path, contents: Contents::Text(digest, _) }) = in_the_way
            && replace::take_away(self.cache, path, digest)? == TakenAway::Theirs
        {
            return Ok(None);
        }
        if !self.move_text(from, to)? {
            return Ok(None);
        }
        for suffix in Self::companion_suffixes() {
            let (from, to) = (format!("{from}{suffix}"), format!("{to}{suffix}"));
            if !moves.is_item(&from) && !moves.is_item(&to) {
                self.move_text(&from, &to)?;
            }
        }
        Ok(Some(format!("moved `{}` to `{}`: its photo has that name now", source.display(), target.display())))
    }

    /// Moves a text to a name that is free or has the same text already; false if it is neither.
    fn move_text(&self, from: &str, to: &str) -> Result<bool> {
        match self.found.texts.get(from) {
            None => Ok(false),
            Some(Found { path, contents: Contents::Text(digest, _) }) if self.found.is_copy(from, to) => {
                Ok(replace::take_away(self.cache, path, digest)? != TakenAway::Theirs)
            }
            Some(found) => replace::move_text(&found.path, &self.path_for(to)?),
        }
    }

    /// Brings the texts of a circle to their places; false if one of them was not there any more.
    fn turn(&self, circle: &Circle, moves: &Moves<'_>) -> Result<bool> {
        for (one, other) in circle.exchanges() {
            if !replace::exchange_texts(self.cache, &self.path_of(one)?, &self.path_of(other)?)? {
                return Ok(false);
            }
            for suffix in Self::companion_suffixes() {
                let (one, other) = (format!("{one}{suffix}"), format!("{other}{suffix}"));
                if moves.is_item(&one) || moves.is_item(&other) {
                    continue;
                }
                let (one, other) = (self.path_of(&one)?, self.path_of(&other)?);
                match (one.exists(), other.exists()) {
                    (true, true) => drop(replace::exchange_texts(self.cache, &one, &other)?),
                    (true, false) => drop(replace::move_text(&one, &other)?),
                    (false, true) => drop(replace::move_text(&other, &one)?),
                    (false, false) => {}
                }
            }
        }
        Ok(true)
    }

    /// Where a text lies, or would.
    fn path_of(&self, name: &str) -> Result<PathBuf> {
        match self.found.texts.get(name) {
            Some(found) => Ok(found.path.clone()),
            None => self.path_for(name),
        }
    }

    fn shown(&self, name: &str) -> Result<String> {
        Ok(self.path_of(name)?.display().to_string())
    }

    /// Texts of photos that have another name now, where another text lies under that name.
    pub(crate) fn blocked_moves(&self, items: &[EditableItem], moves: &Moves<'_>) -> Vec<String> {
        if moves.is_settled() {
            return Vec::new();
        }
        let by_name = |name: &str| items.iter().find(|item| item.name == name);
        let blocked = items.iter().filter_map(|item| {
            let source = moves.source_of(&item.name)?;
            let (mine, theirs) = (self.found.texts.get(&item.name)?, self.found.texts.get(source)?);
            if self.says_machine(source, theirs) || by_name(source).is_some_and(|there| self.is_about(theirs, there, moves)) {
                return None;
            }
            let shown = |path: &Path| path.display().to_string();
            Some(format!(
                "`{}` is the text of a photo that is called `{}` now, where `{}` lies already and counts: see which of the two is \
                 about it, and remove the other",
                shown(&theirs.path),
                item.name,
                shown(&mine.path)
            ))
        });
        blocked.collect()
    }

    /// Whether a file holds a text that the lock knows of the photo of `item`.
    fn is_about(&self, found: &Found, item: &EditableItem, moves: &Moves<'_>) -> bool {
        let Contents::Text(digest, _) = found.contents else { return false };
        let is_machines = item.machine.as_ref().is_some_and(|machine| machine.digest == digest);
        is_machines || self.rows_of(item, moves).iter().any(|row| [row.text, row.person].contains(&Some(digest)))
    }

    /// Whether a file holds what the rows of its name say the machine wrote there.
    fn says_machine(&self, name: &str, found: &Found) -> bool {
        let Contents::Text(digest, _) = found.contents else { return false };
        self.rows.get(name).into_iter().flatten().any(|row| row.text == Some(digest))
    }
}
