//! The pieces of work of an item stage with their keys, and which of them have a result in the cache. Unaware of why any of them
//! must run.

use std::collections::HashSet;

use anyhow::{Result, bail};
use rayon::prelude::*;

use crate::cache::digest::Digest;
use crate::cache::uses::Lease;
use crate::decide::intake::unknown_digest;
use crate::decide::keys::{StageIdentity, render_work};
use crate::decide::recorded::{choose, preferred};
use crate::decide::verdict::{KeyedWork, WorkState};
use crate::decide::view::View;
use crate::graph::pipeline::LoadedStage;
use crate::kind::stage::Work;

/// Keys of pieces of work, and which of them have a result here.
pub fn look_up(
    view: &View<'_>,
    stage: &LoadedStage,
    identity: &StageIdentity,
    works: Vec<Work>,
    forced: bool,
) -> Result<Vec<KeyedWork>> {
    let mut names = HashSet::with_capacity(works.len());
    if let Some(twice) = works.iter().find(|work| !names.insert(work.name.as_str())) {
        bail!("`{}` would make `{}` twice", stage.name, twice.name);
    }
    let start = identity.work_hash();
    let preferred = preferred(view, stage);
    let look_up = |lease: &Lease| {
        let mut keyed: Vec<KeyedWork> = works
            .into_par_iter()
            .with_min_len(16)
            .map(|work| {
                if work.inputs.values().any(|artifact| view.unknown.contains(&artifact.digest)) {
                    let key = unknown_key(&work);
                    return KeyedWork { work, key, state: WorkState::Unknown };
                }
                let mut hash = start.clone();
                render_work(&work, &mut hash);
                KeyedWork { key: hash.key(), work, state: WorkState::Dirty }
            })
            .collect();
        if forced {
            return Ok(keyed);
        }
        let known = keyed.iter().map(|keyed| keyed.key).collect::<Vec<_>>();
        let results = view.cache.outputs_of(&known)?;
        keyed.par_iter_mut().zip(results).with_min_len(16).for_each(|(keyed, results)| {
            if let (WorkState::Dirty, Some(outputs)) = (&keyed.state, choose(view, &keyed.key, results, &preferred, lease)) {
                keyed.state = WorkState::Fresh(outputs);
            }
        });
        Ok(keyed)
    };
    view.cache.with_lease(look_up)
}

/// Tells works apart whose key is not known.
fn unknown_key(work: &Work) -> Digest {
    unknown_digest("work", &work.name, "key")
}
