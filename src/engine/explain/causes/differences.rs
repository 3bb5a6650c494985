//! Why contents are others than before although the stage that gives them has run since: the difference of what the records say
//! of both, followed back to what somebody put there or took away. Unaware of stages that have yet to run.

use anyhow::Result;

use crate::cache::digest::Digest;
use crate::cache::manifest::{Component, Covered, Section};
use crate::decide::reason::{Reason, changed_items, changed_params};
use crate::decide::view::View;
use crate::explain::cause::{Cause, Who, shown};
use crate::explain::causes::Causes;
use crate::explain::ledger::{Hint, Making};
use crate::kind::item::Item;
use crate::kind::item_set;

/// A longer way back is described as far as this.
const DEEPEST: usize = 20;

/// One side of a difference.
#[derive(Clone, Debug, Default)]
pub(crate) struct Side {
    pub(crate) digest: Option<Digest>,
    pub(crate) hint: Hint,
}

impl Side {
    /// One field of an item. Without an item, or without that field, nothing was there.
    pub(crate) fn of(item: Option<&Item>, field: &str) -> Self {
        let Some(item) = item else { return Self::default() };
        let hint = Hint { item: Some(item.name.clone()), origin: item.origin.clone(), key: Some(item.key) };
        Self { digest: item.fields.get(field).map(|artifact| artifact.digest), hint }
    }

    /// Something that was read to make this: it has the name of the item, or of what that descends from.
    fn input(&self, digest: Digest, making: &Making) -> Self {
        let place = making.place.as_ref().map(Hint::of).unwrap_or_default();
        let own = if self.hint.item.is_some() { &self.hint } else { &place };
        Self {
            digest: Some(digest),
            hint: Hint { item: own.origin.clone().or_else(|| own.item.clone()), origin: None, key: None },
        }
    }
}

impl Causes<'_> {
    /// Why a stage that has run gives other contents than before: the difference of what the records say of both, followed back.
    pub(crate) fn between(&self, old: &Side, new: &Side, field: &str, view: &View<'_>, depth: usize) -> Result<Vec<Cause>> {
        if depth > DEEPEST || old.digest == new.digest {
            return Ok(Vec::new());
        }
        let ledger = self.ledger(view)?;
        let making = |side: &Side| match side.digest {
            Some(digest) => ledger.making(&digest, &side.hint, &|_| false),
            None => Ok(None),
        };
        let (before, now) = (making(old)?, making(new)?);
        let (before, now) = match (before, now) {
            (Some(before), Some(now)) => (before, now),
            (before, now) if before.is_none() && now.is_none() || old.digest.is_some() && new.digest.is_some() => {
                return Ok(vec![self.by_hand(old, new, field, view)?]);
            }
            // New or gone: the way of what there is leads to what was put there or taken away.
            (before, now) => {
                let made = before.or(now).expect("one is there");
                let mut inputs = made.components.section(Section::Input);
                let first = inputs.find_map(|input| match &input.covered {
                    Covered::Artifact(digest) => Some((*digest, input.name.clone())),
                    _ => None,
                });
                let Some((digest, name)) = first else { return Ok(Vec::new()) };
                let none = Side::default();
                return match old.digest {
                    Some(_) => self.between(&old.input(digest, &made), &none, &name, view, depth + 1),
                    None => self.between(&none, &new.input(digest, &made), &name, view, depth + 1),
                };
            }
        };
        let mut causes = self.other_params(&before, &now, depth);
        for Component { name, covered, .. } in now.components.section(Section::Input) {
            let Some(was) = before.components.get(Section::Input, name) else { continue };
            let (old, new, field) = match (was, covered) {
                (Covered::Artifact(was), Covered::Artifact(is)) if was != is => {
                    (old.input(*was, &before), new.input(*is, &now), name.clone())
                }
                (Covered::Set { tree: Some(was), .. }, Covered::Set { tree: Some(is), .. }) if was != is => {
                    match self.first_difference(was, is) {
                        Some(difference) => difference,
                        None => continue,
                    }
                }
                _ => continue,
            };
            causes.extend(self.between(&old, &new, &field, view, depth + 1)?);
        }
        Ok(causes)
    }

    /// What differs in kind and params of two makings. Of a stage further back it says which.
    fn other_params(&self, before: &Making, now: &Making, depth: usize) -> Vec<Cause> {
        if !before.are_params_known || !now.are_params_known {
            return Vec::new();
        }
        let name = now.place.as_ref().and_then(|place| place.stage.as_deref());
        let stage = name.and_then(|name| self.pipeline.stage(name));
        let cause = |reason: Reason| match (stage, &reason) {
            (Some(stage), _) => self.by_itself(stage, &reason),
            (None, Reason::VersionRaised { .. }) => Cause::of(Some(Who::Program), reason),
            (None, _) => Cause::of(Some(Who::You), reason),
        };
        let causes: Vec<Cause> = changed_params(&before.components, &now.components).into_iter().map(cause).collect();
        match name {
            Some(name) if depth > 0 && !causes.is_empty() => {
                let who = Some(Who::Upstream { stage: name.to_string() });
                let reason = Reason::InputChanged { input: name.to_string() };
                vec![Cause { because: causes, ..Cause::of(who, reason) }]
            }
            _ => causes,
        }
    }

    /// Contents that no stage made were put there or taken away by somebody.
    fn by_hand(&self, old: &Side, new: &Side, field: &str, view: &View<'_>) -> Result<Cause> {
        let ledger = self.ledger(view)?;
        let shown_side = if new.digest.is_some() { new } else { old };
        let place = shown_side.digest.and_then(|digest| ledger.places(&digest).first());
        let name = shown_side.hint.item.clone().or_else(|| place.map(|place| place.item.clone())).unwrap_or_default();
        let change = self.change(&name, field, old.digest, new.digest, view);
        let items = vec![name.clone()];
        let photos = matches!(field, "image" | "photo");
        let file = change.file.as_ref().map(|file| shown(file));
        let reason = match (old.digest, new.digest) {
            (None, _) => Reason::ItemsAdded { input: file.unwrap_or_default(), items, photos },
            (_, None) => Reason::ItemsRemoved { input: String::new(), items, photos },
            _ => Reason::InputChanged { input: file.unwrap_or(name) },
        };
        Ok(Cause { changes: vec![change], ..Cause::of(Some(Who::You), reason) })
    }

    /// The first item of two sets that differs, and its field.
    fn first_difference(&self, old: &Digest, new: &Digest) -> Option<(Side, Side, String)> {
        let read = |tree: &Digest| item_set::decode(&self.cache.read_list(tree).ok()?).ok();
        let (old, new) = (read(old)?, read(new)?);
        let fields: Vec<&str> = new.iter().chain(&old).next()?.fields.keys().map(|field| field.as_str()).collect();
        let reason = changed_items("", &fields, &old, &new).into_iter().next()?;
        let (name, field) = match reason {
            Reason::FieldChanged { field, items, .. } => (items.into_iter().next()?, field),
            Reason::ItemsAdded { items, .. } | Reason::ItemsRemoved { items, .. } => {
                (items.into_iter().next()?, fields[0].to_string())
            }
            _ => {
                let (a, b) = (old.first()?, new.first()?);
                (b.name.clone(), b.fields.iter().find(|(field, is)| a.fields.get(*field) != Some(*is))?.0.to_string())
            }
        };
        let find = |items: &[Item]| Side::of(items.iter().find(|item| item.name == name), &field);
        Some((find(&old), find(&new), field))
    }
}
