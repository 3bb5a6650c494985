//! What a stage is made of, and how that differs from what its row in the lock was made of. Unaware of what must run for it.

use anyhow::Result;

use crate::cache::manifest::{ComponentList, Covered, Section};
use crate::decide::keys::{KeyedInput, StageIdentity, members, render_inputs, render_row};
use crate::decide::reason::{Reason, changed_items, changed_params};
use crate::decide::taken::Taken;
use crate::decide::view::View;
use crate::graph::pipeline::LoadedStage;
use crate::kind::item_set;
use crate::kind::stage::Form;

/// The list that the record of the stage keeps.
pub fn components(view: &View<'_>, stage: &LoadedStage, identity: &StageIdentity, taken: &[Taken<'_>]) -> Result<ComponentList> {
    let mut list = ComponentList::default();
    match stage.stage.form() {
        Form::Items(_) => render_row(stage, identity, taken, &mut list),
        Form::Whole(_) => {
            identity.render(&mut list);
            render_inputs(&keyed(view, taken)?, &mut list);
        }
    }
    Ok(list)
}

/// The inputs as the key of a whole stage sees them.
pub(crate) fn keyed<'t>(view: &View<'_>, taken: &'t [Taken<'_>]) -> Result<Vec<KeyedInput<'t>>> {
    taken
        .iter()
        .map(|taken| {
            let members = members(taken.tree.items(view.cache)?, taken.edge.reads.reads);
            let param = taken.edge.reads.param.as_str();
            Ok(KeyedInput { param, members, count: taken.tree.count, tree: taken.tree.digest })
        })
        .collect()
}

/// What the lock's last row of a stage was made of, if that is recorded here.
pub fn last_components(view: &View<'_>, stage: &LoadedStage) -> Result<Option<ComponentList>> {
    let Some(row) = view.lock.stages.get(&stage.name).and_then(|rows| rows.last()) else { return Ok(None) };
    let record = view.cache.lookup(&row.key)?;
    Ok(record.map(|record| ComponentList::from_record(&record.components)))
}

/// The difference between what the lock's last row was made of and what is there now.
pub(crate) fn since_last_run(
    view: &View<'_>,
    stage: &LoadedStage,
    identity: &StageIdentity,
    taken: &[Taken<'_>],
) -> Result<Vec<Reason>> {
    if !view.lock.stages.contains_key(&stage.name) {
        return Ok(vec![Reason::NeverRan]);
    }
    let Some(old) = last_components(view, stage)? else {
        return Ok(vec![Reason::NotInThisCache]);
    };
    let new = components(view, stage, identity, taken)?;
    let mut reasons = changed_params(&old, &new);
    for taken in taken {
        let reads = &taken.edge.reads;
        let before = match old.get(Section::Input, &reads.param) {
            Some(Covered::Set { tree: Some(tree), .. }) if *tree == taken.tree.digest => continue,
            Some(Covered::Set { tree: Some(tree), .. }) => {
                view.cache.read_list(tree).ok().and_then(|t| item_set::decode(&t).ok())
            }
            _ => None,
        };
        match before {
            Some(before) => {
                let now = taken.tree.items(view.cache)?;
                reasons.extend(changed_items(taken.producer(), reads.reads, &before, now));
            }
            None => reasons.push(Reason::InputChanged { input: taken.producer().to_string() }),
        }
    }
    Ok(reasons)
}
