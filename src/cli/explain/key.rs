//! `loramill explain`: what a key covers, and how that differs from the last run.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use crate::cache::manifest::{Covered, Section};
use crate::cli::run::{TargetArguments, open_cache};
use crate::cli::selection::stage_named;
use crate::cli::{Global, WrongArguments, print};
use crate::pipeline::explain::{ExplainedRow, Explanation, explain};
use crate::pipeline::freshness::worded;
use crate::pipeline::plan::PlannedState;
use crate::pipeline::selection::named;

/// Say what decides a stage or an item, and what of it changed
#[derive(Args)]
pub struct Arguments {
    /// The pipeline (a folder or its file; default: pipeline.yaml here), then the stage or `STAGE/ITEM`
    #[arg(value_name = "PIPELINE|STAGE[/ITEM]", required = true)]
    names: Vec<String>,
    /// Another value for this time: `--set train.network.rank=16`
    #[arg(long = "set", value_name = "PATH=VALUE")]
    settings: Vec<String>,
}

pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let (name, pipeline) = arguments.names.split_last().expect("clap asks for one");
    let what = TargetArguments::new(pipeline.to_vec(), arguments.settings.clone());
    let (pipeline, others) = what.open()?;
    if !others.is_empty() {
        return Err(WrongArguments("one stage at a time".to_string()).into());
    }
    // A sub-stage has a `/` of its own: the longest name of a stage wins.
    let known = |stage: &str| match named(&pipeline, stage).as_slice() {
        [index] => Some((*index, stage.len())),
        _ => None,
    };
    let ends = name.match_indices('/').map(|(end, _)| end).chain([name.len()]);
    let Some((index, length)) = ends.filter_map(|end| known(&name[..end])).next_back() else {
        // It is none, or one of several variants.
        let stage = name.split('/').next().unwrap_or(name);
        return stage_named(&pipeline, stage).map(|_| ExitCode::FAILURE);
    };
    let item = name.get(length + 1..);
    let cache = open_cache(&pipeline, global)?;
    print(&shown(&explain(&pipeline, &cache, index, item)?))?;
    Ok(ExitCode::SUCCESS)
}

fn shown(explanation: &Explanation) -> String {
    let state = match explanation.state {
        PlannedState::Fresh => "is fresh".to_string(),
        PlannedState::Dirty if explanation.reasons.is_empty() => "would run".to_string(),
        PlannedState::Dirty => format!("would run: {}", worded(&explanation.reasons)),
        PlannedState::Unknown => format!("may run: {}", worded(&explanation.reasons)),
    };
    let mut text = format!("{} {state}\n", explanation.name);
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
        Covered::Set { members, count, .. } => format!("{} {}", crate::cli::counted(*count as usize, "item"), members.short()),
    }
}
