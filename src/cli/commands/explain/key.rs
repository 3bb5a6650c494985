//! What the key of a stage or an item covers, how that differs from the last run, and who changed it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use crate::cli::global::Global;
use crate::cli::target::cache_folder::open_cache;
use crate::cli::terminal::output::{print, print_json};
use crate::cli::terminal::wording::{counted, shown};
use crate::engine::cache::manifest::{Covered, Section};
use crate::engine::decide::plan::PlannedState;
use crate::engine::decide::reason::{Reason, worded};
use crate::engine::explain::causes::{Cause, Change, Contents, Who};
use crate::engine::explain::stage_account::{ExplainedRow, Explanation, explain};
use crate::engine::graph::pipeline::Pipeline;

/// Characters of a text that are quoted.
const QUOTED: usize = 100;

pub(super) fn explain_key(
    pipeline: &Pipeline,
    index: usize,
    item: Option<&str>,
    json: bool,
    global: &Global,
) -> anyhow::Result<ExitCode> {
    let cache = open_cache(pipeline, global)?;
    let explanation = explain(pipeline, &cache, index, item)?;
    if json {
        print_json(&explanation.to_json())?;
    } else {
        print(&told(&explanation))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn told(explanation: &Explanation) -> String {
    let yours = explanation.yours.as_deref().map(|file| format!("is yours: `{}`, and the machine is not asked", shown(file)));
    let state = match explanation.state {
        _ if yours.is_some() => yours.unwrap_or_default(),
        PlannedState::Fresh => "is fresh".to_string(),
        PlannedState::Dirty if explanation.reasons.is_empty() => "would run".to_string(),
        PlannedState::Dirty => format!("would run: {}", worded(&explanation.reasons)),
        PlannedState::Unknown => format!("may run: {}", worded(&explanation.reasons)),
    };
    let mut text = format!("{} {state}\n", explanation.name);
    text.push_str(&causes_told(&explanation.causes, 2));
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

/// Whose doing each thing is, what changed in which file, and what stands behind it.
pub(super) fn causes_told(causes: &[Cause], indent: usize) -> String {
    let mut text = String::new();
    let margin = " ".repeat(indent);
    for cause in causes {
        let who = match &cause.who {
            Some(Who::You) => "you: ",
            Some(Who::Upstream { .. }) => "upstream: ",
            Some(Who::Program) => "the program: ",
            Some(Who::Cache) => "the cache: ",
            None => "",
        };
        let place = cause.place.as_ref().map(|place| format!(" (`{place}`)")).unwrap_or_default();
        if let (Some(Who::You), Reason::InputChanged { .. } | Reason::ItemsAdded { .. }, [change]) =
            (&cause.who, &cause.reason, cause.changes.as_slice())
        {
            // One line says it all.
            let new = if matches!(cause.reason, Reason::ItemsAdded { .. }) { "new, " } else { "" };
            let _ = writeln!(text, "{margin}{who}{new}{}{place}", change_told(change));
            continue;
        }
        let _ = writeln!(text, "{margin}{who}{}{place}", wording(cause));
        // What an upstream stage gives is told by what stands behind it.
        let is_told_below = !cause.because.is_empty() && matches!(cause.who, Some(Who::Upstream { .. }));
        if !is_told_below {
            for change in &cause.changes {
                let _ = writeln!(text, "{margin}  {}", change_told(change));
            }
        }
        text.push_str(&causes_told(&cause.because, indent + 2));
    }
    text
}

fn wording(cause: &Cause) -> String {
    match (&cause.who, &cause.reason) {
        (Some(Who::Upstream { stage }), Reason::InputChanged { .. }) => format!("`{stage}` gives something else"),
        (Some(Who::Upstream { stage }), Reason::WaitsFor { .. }) => format!("`{stage}` has to run first"),
        (Some(Who::Upstream { stage }), reason) => format!("`{stage}`: {reason}"),
        (_, reason) => reason.to_string(),
    }
}

fn change_told(change: &Change) -> String {
    let name = match &change.file {
        Some(file) => format!("`{}`", shown(Path::new(file))),
        None => format!("{} ({})", change.item, change.field),
    };
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => format!("{name}: {} -> {}", contents(old), contents(new)),
        (Some(old), None) => format!("{name}: was {}", contents(old)),
        (None, Some(new)) => format!("{name}: {}", contents(new)),
        (None, None) => name,
    }
}

/// A text in quotation marks, anything else by its digest.
fn contents(contents: &Contents) -> String {
    let Some(text) = &contents.text else { return contents.digest.short() };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("\"{}\u{2026}\"", &line[..end]),
        None => format!("\"{line}\""),
    }
}
