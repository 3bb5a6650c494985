//! `loramill plan`: what a run would do, and why.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use crate::cache::Cache;
use crate::cli::run::{TargetArguments, open_cache, stage_index, targets_or_default};
use crate::cli::{Global, print};
use crate::pipeline::freshness::worded;
use crate::pipeline::graph::Pipeline;
use crate::pipeline::plan::{Plan, PlannedStage, PlannedState, plan};

/// Something is not fresh, with `--exit-code`.
const DIRTY: u8 = 3;

/// Say what a run would do, and why
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    what: TargetArguments,
    /// As if these stages were forced
    #[arg(long, value_name = "STAGE")]
    force: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// End with exit code 3 if something would run
    #[arg(long)]
    exit_code: bool,
}

pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let (pipeline, targets) = arguments.what.open()?;
    let force: BTreeSet<usize> =
        arguments.force.iter().map(|name| stage_index(&pipeline, name)).collect::<anyhow::Result<_>>()?;
    let mut targets = targets_or_default(&pipeline, targets);
    targets.extend(&force);
    let cache = open_cache(&pipeline, global)?;
    show(&pipeline, &cache, &targets, &force, arguments.json, arguments.exit_code)
}

pub fn show(
    pipeline: &Pipeline,
    cache: &Cache,
    targets: &[usize],
    force: &BTreeSet<usize>,
    json: bool,
    exit_code: bool,
) -> anyhow::Result<ExitCode> {
    let plan = plan(pipeline, cache, targets, force)?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&plan.to_json())?))?;
    } else {
        print(&format!("{}{}", table(&plan), remarks(&plan)))?;
    }
    Ok(if exit_code && !plan.is_fresh() { ExitCode::from(DIRTY) } else { ExitCode::SUCCESS })
}

/// One line for each stage.
pub fn table(plan: &Plan) -> String {
    let mut text = String::new();
    let width = plan.stages.iter().map(|stage| stage.name.chars().count()).max().unwrap_or_default();
    for stage in &plan.stages {
        let pad = " ".repeat(width - stage.name.chars().count());
        let _ = writeln!(text, "{:>9} {}{pad}  {}", verb(stage.state), stage.name, detail(stage));
    }
    text
}

/// What stages remark on their inputs, a line each.
fn remarks(plan: &Plan) -> String {
    let mut text = String::new();
    for stage in &plan.stages {
        for line in stage.lints.told() {
            let _ = writeln!(text, "{:>9} {}: {line}", "note", stage.name);
        }
    }
    text
}

const fn verb(state: PlannedState) -> &'static str {
    match state {
        PlannedState::Fresh => "fresh",
        PlannedState::Dirty => "would run",
        PlannedState::Unknown => "may run",
    }
}

fn detail(stage: &PlannedStage) -> String {
    let items = stage.items;
    let share = match stage.state {
        PlannedState::Fresh => return format!("{} items", items.total),
        PlannedState::Dirty if items.dirty == items.total => format!("{} items", items.total),
        PlannedState::Dirty if items.unknown > 0 => {
            format!("{} to {} of {} items", items.dirty, items.dirty + items.unknown, items.total)
        }
        PlannedState::Dirty => format!("{} of {} items", items.dirty, items.total),
        PlannedState::Unknown if items.total == 0 => return worded(&stage.reasons),
        PlannedState::Unknown => format!("up to {} of {} items", items.unknown, items.total),
    };
    format!("{share}: {}", worded(&stage.reasons))
}
