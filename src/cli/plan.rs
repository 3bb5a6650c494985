//! `loramill plan`: what a run would do, and why.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use crate::cache::Cache;
use crate::cli::run::{TargetArguments, open_cache};
use crate::cli::selection::SelectionArguments;
use crate::cli::{Global, print};
use crate::pipeline::freshness::worded;
use crate::pipeline::graph::Pipeline;
use crate::pipeline::plan::{Plan, PlannedStage, PlannedState, plan};
use crate::pipeline::selection::Selection;

/// Something is not fresh, with `--exit-code`.
const DIRTY: u8 = 3;

/// Say what a run would do, and why
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    what: TargetArguments,
    #[command(flatten)]
    which: SelectionArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// End with exit code 3 if something would run
    #[arg(long)]
    exit_code: bool,
}

pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let (pipeline, targets) = arguments.what.open()?;
    let selection = arguments.which.of(&pipeline, targets)?;
    let cache = open_cache(&pipeline, global)?;
    show(&pipeline, &cache, &selection, arguments.json, arguments.exit_code)
}

pub fn show(pipeline: &Pipeline, cache: &Cache, selection: &Selection, json: bool, exit_code: bool) -> anyhow::Result<ExitCode> {
    let plan = plan(pipeline, cache, selection)?;
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
        let verb = if stage.is_kept { "as it is" } else { verb(stage.state) };
        let _ = writeln!(text, "{verb:>9} {}{pad}  {}", stage.name, detail(stage));
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
        PlannedState::Fresh if stage.is_kept => return format!("{} items, left out; {}", items.total, worded(&stage.reasons)),
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
