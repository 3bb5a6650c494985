//! What the key of a stage or an item covers, how that differs from the last run, and who changed it.

use std::fmt::Write as _;
use std::process::ExitCode;

use crate::cli::global::Global;
use crate::cli::target::cache_folder::open_cache;
use crate::cli::terminal::output::{print, print_json};
use crate::cli::terminal::wording::{counted, shown};
use crate::engine::cache::manifest::{Covered, Section};
use crate::engine::decide::plan::PlannedState;
use crate::engine::decide::reason::worded;
use crate::engine::explain::cause::describe;
use crate::engine::explain::stage_account::{ExplainedRow, Explanation, explain};
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::graph::stage_id::StageId;

pub(super) fn explain_key(
    pipeline: &Pipeline,
    id: StageId,
    item: Option<&str>,
    json: bool,
    global: &Global,
) -> anyhow::Result<ExitCode> {
    let cache = open_cache(pipeline, global)?;
    let explanation = explain(pipeline, &cache, id, item)?;
    if json {
        print_json(&explanation.to_json())?;
    } else {
        print(&text(&explanation))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(explanation: &Explanation) -> String {
    let yours = explanation.yours.as_deref().map(|file| format!("is yours: `{}`, and the machine is not asked", shown(file)));
    let state = match explanation.state {
        _ if yours.is_some() => yours.unwrap_or_default(),
        PlannedState::Fresh => "is fresh".to_string(),
        PlannedState::Dirty if explanation.reasons.is_empty() => "would run".to_string(),
        PlannedState::Dirty => format!("would run: {}", worded(&explanation.reasons)),
        PlannedState::Unknown => format!("may run: {}", worded(&explanation.reasons)),
    };
    let mut text = format!("{} {state}\n", explanation.name);
    text.push_str(&describe(&explanation.causes, 2));
    if !explanation.rows.is_empty() {
        text.push_str("its key covers\n");
    }
    let names: Vec<String> = explanation.rows.iter().map(name).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    for (row, name) in explanation.rows.iter().zip(&names) {
        let mark = if row.is_changed() { '*' } else { ' ' };
        let pad = " ".repeat(width - name.chars().count());
        let _ = writeln!(text, "  {mark} {name}{pad}  {}", value(row));
    }
    text
}

fn name(row: &ExplainedRow) -> String {
    match row.section {
        Section::Kind => format!("{} (version)", row.name),
        Section::Param | Section::Value | Section::Input => row.name.clone(),
    }
}

fn value(row: &ExplainedRow) -> String {
    match (&row.old, &row.new) {
        (Some(old), Some(new)) if row.is_changed() => format!("{} -> {}", covered(old), covered(new)),
        (_, Some(new)) if row.is_changed() => format!("{} (new)", covered(new)),
        (Some(old), None) => format!("{} (gone)", covered(old)),
        (_, Some(new)) => covered(new),
        (None, None) => String::new(),
    }
}

fn covered(covered: &Covered) -> String {
    match covered {
        Covered::Value(value) => value.to_string(),
        Covered::Artifact(digest) => digest.short(),
        Covered::Set { members, count, .. } => format!("{} {}", counted(*count as usize, "item"), members.short()),
    }
}
