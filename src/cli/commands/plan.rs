//! `loramill plan`: what a run would do, and why.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use crate::cli::global::Global;
use crate::cli::target::cache_folder::open_cache;
use crate::cli::target::pipeline::refuse_unusable;
use crate::cli::target::targets::TargetArguments;
use crate::cli::terminal::output::{print, print_json};
use crate::cli::terminal::progress_line::duration;
use crate::engine::decide::estimate::Estimate;
use crate::engine::decide::lost_texts;
use crate::engine::decide::plan::{Plan, PlannedStage, PlannedState, plan};
use crate::engine::decide::reason::{Reason, worded};
use crate::engine::graph::pipeline::Pipeline;

/// Something is not fresh, with `--exit-code`.
const DIRTY: u8 = 3;

/// Estimates below this many seconds are not printed.
const TOLD: f64 = 1.0;

/// Show what a run would do, and why
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub what: TargetArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Exit with code 3 if something would run
    #[arg(long)]
    exit_code: bool,
}

/// Prints the plan and runs nothing. Exit code 0 also when stages are stale; with `--exit-code` it is then 3.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let (pipeline, plan) = planned(&arguments.what, global)?;
    if arguments.json {
        print_json(&plan.to_json())?;
    } else {
        print_plan(&pipeline, &plan)?;
    }
    Ok(if arguments.exit_code && !plan.is_fresh() { ExitCode::from(DIRTY) } else { ExitCode::SUCCESS })
}

/// Prints what a run would do, for people; also for `run --dry-run`.
pub fn print_plan(pipeline: &Pipeline, plan: &Plan) -> anyhow::Result<()> {
    let unread: String =
        lost_texts::unread_folders(pipeline)?.iter().map(|sentence| format!("{:>9} {sentence}\n", "note")).collect();
    print(&format!("{}{}{unread}{}", table(plan), remarks(plan), in_all(plan)))
}

/// What a run would do, and of which pipeline.
///
/// # Errors
/// As `Target::load`, and if the cache or something that the pipeline reads cannot be used.
pub fn planned(what: &TargetArguments, global: &Global) -> anyhow::Result<(Pipeline, Plan)> {
    let (pipeline, selection) = what.read()?.load()?;
    let cache = open_cache(&pipeline, global)?;
    refuse_unusable(&pipeline, &selection.needed(&pipeline))?;
    let plan = plan(&pipeline, &cache, &selection)?;
    Ok((pipeline, plan))
}

/// One line for each stage.
pub fn table(plan: &Plan) -> String {
    let mut text = String::new();
    let width = plan.stages.iter().map(|stage| stage.name.chars().count()).max().unwrap_or_default();
    for stage in &plan.stages {
        let pad = " ".repeat(width - stage.name.chars().count());
        let stops = stage.reasons.iter().find(|reason| matches!(reason, Reason::TextsLost { .. }));
        let (verb, detail) = match stops {
            Some(reason) => ("must stop", reason.to_string()),
            None if stage.is_kept => ("as it is", detail(stage)),
            None => (verb(stage.state), detail(stage)),
        };
        let _ = writeln!(text, "{verb:>9} {}{pad}  {detail}", stage.name);
    }
    text
}

/// What stages remark on their inputs, a line each.
fn remarks(plan: &Plan) -> String {
    let mut text = String::new();
    for stage in &plan.stages {
        for line in stage.lints.messages() {
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
    let takes = match stage.estimate {
        Some(estimate) => takes(estimate).map(|takes| format!(", {takes}")).unwrap_or_default(),
        None => ", time unknown".to_string(),
    };
    format!("{share}{takes}: {}", worded(&stage.reasons))
}

/// `about 12m 00s`, `0.0s to 20m 10s`; nothing for what takes no time worth telling.
fn takes(estimate: Estimate) -> Option<String> {
    let Estimate { least, most } = estimate;
    if most < TOLD {
        return None;
    }
    // What would be written alike is no range.
    let (shortest, longest) = (duration(least), duration(most));
    Some(if shortest == longest || least > 0.9 * most { format!("about {longest}") } else { format!("{shortest} to {longest}") })
}

/// What all stages take together, and of which nothing is known.
fn in_all(plan: &Plan) -> String {
    let total = plan.estimate();
    let unknown: Vec<String> = total.unknown.iter().map(|name| format!("`{name}`")).collect();
    let said = match (takes(total.known), unknown.as_slice()) {
        (None, []) => return String::new(),
        (None, names) => format!("unknown: nothing like {} was measured here yet", names.join(", ")),
        (Some(takes), []) => format!("{takes}, by earlier runs"),
        (Some(takes), names) => {
            format!("{takes}, by earlier runs, and {}, of which nothing alike was measured yet", names.join(", "))
        }
    };
    format!("{:>9} {said}\n", "in all")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::decide::lints::Lints;
    use crate::engine::decide::plan::PlannedItems;

    fn stage(name: &str, dirty: usize, unknown: usize, estimate: Option<(f64, f64)>) -> PlannedStage {
        PlannedStage {
            name: name.to_string(),
            kind: "train",
            state: if dirty > 0 { PlannedState::Dirty } else { PlannedState::Unknown },
            items: PlannedItems { total: 4, fresh: 4 - dirty - unknown, dirty, unknown },
            reasons: vec![Reason::Forced],
            dirty: Vec::new(),
            is_kept: false,
            lints: Lints::default(),
            estimate: estimate.map(|(least, most)| Estimate { least, most }),
        }
    }

    #[test]
    fn a_stage_tells_its_time_and_the_last_line_that_of_all() {
        let stages = vec![
            stage("train", 4, 0, Some((700.0, 700.0))),
            stage("sample", 0, 4, Some((0.0, 130.0))),
            stage("score", 0, 4, None),
        ];
        let plan = Plan { stages };
        let expected = concat!(
            "would run train   4 items, about 11m 40s: forced\n",
            "  may run sample  up to 4 of 4 items, 0.0s to 2m 10s: forced\n",
            "  may run score   up to 4 of 4 items, time unknown: forced\n",
        );
        assert_eq!(table(&plan), expected);
        assert_eq!(
            in_all(&plan),
            "   in all 11m 40s to 13m 50s, by earlier runs, and `score`, of which nothing alike was measured yet\n"
        );
        let json = plan.to_json();
        assert_eq!(json["estimate"], serde_json::json!({ "seconds": [700.0, 830.0], "unknown": ["score"] }));
        assert_eq!(json["stages"][1]["estimate"]["seconds"][1], 130.0);
        assert!(json["stages"][2]["estimate"].is_null());
    }

    #[test]
    fn what_takes_no_time_is_not_told() {
        let plan = Plan { stages: vec![stage("crop", 1, 0, Some((0.2, 0.2)))] };
        assert!(!table(&plan).contains("0.2") && in_all(&plan).is_empty());
    }

    #[test]
    fn what_was_never_measured_is_called_unknown() {
        let plan = Plan { stages: vec![stage("crop", 1, 0, Some((0.2, 0.2))), stage("score", 1, 0, None)] };
        assert!(table(&plan).contains("would run score  1 of 4 items, time unknown: forced\n"), "{}", table(&plan));
        assert_eq!(in_all(&plan), "   in all unknown: nothing like `score` was measured here yet\n");
    }
}
