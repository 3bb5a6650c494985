//! `loramill status`: what is there, what is missing, what people wrote, and whether a run is going on.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cli::commands::edits::show::summary;
use crate::cli::global::Global;
use crate::cli::target::cache_folder::open_cache;
use crate::cli::target::pipeline::{PipelineArguments, open};
use crate::cli::terminal::output::{print, print_json};
use crate::cli::terminal::wording::shown;
use crate::engine::cache::locks::Holder;
use crate::engine::decide::lost_texts;
use crate::engine::decide::plan::plan;
use crate::engine::edits::Provenance;
use crate::engine::explain::text_status::{StageTexts, text_status};
use crate::engine::graph::selection::Selection;

/// Of more texts only the number is printed: `loramill edits list` names them.
const LISTED: usize = 10;

/// Show what is up to date, what is stale and which texts people edited
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub pipeline: PipelineArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the state of every stage, also of those that run on demand alone. Exit code 0 also when stages are stale.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let pipeline = open(&arguments.pipeline)?;
    let cache = open_cache(&pipeline, global)?;
    let texts = text_status(&pipeline, &cache)?;
    let plan = plan(&pipeline, &cache, &Selection::of(pipeline.stages.ids().collect::<Vec<_>>()))?;
    let runner = cache.runner(&pipeline.folder)?;
    let far = if runner.is_some() { cache.run_status(&pipeline.folder)? } else { None };
    if arguments.json {
        let mut value = plan.to_json();
        value["edits"] = texts.iter().map(text_json).collect();
        value["run"] = match &runner {
            Some(runner) => json!({ "process": runner.process, "host": runner.host, "status": far }),
            None => serde_json::Value::Null,
        };
        print_json(&value)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = crate::cli::commands::plan::table(&plan);
    for status in &texts {
        text.push_str(&text_lines(status));
    }
    for sentence in lost_texts::unread_folders(&pipeline)? {
        let _ = writeln!(text, "\nnote: {sentence}");
    }
    if let Some(runner) = &runner {
        text.push_str(&running(runner, far.as_deref()));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn text_json(status: &StageTexts) -> serde_json::Value {
    let names = |provenance| status.of(provenance).map(|text| text.name.as_str()).collect::<Vec<_>>();
    json!({
        "stage": status.stage,
        "folder": shown(&status.folder).to_string(),
        "machine": status.by_machine(),
        "edited": status.edited().map(|text| text.name.as_str()).collect::<Vec<_>>(),
        "uncompared": status.uncompared().map(|text| text.name.as_str()).collect::<Vec<_>>(),
        "stale": names(Provenance::Stale),
        "orphans": names(Provenance::Orphan),
        "lost": status.lost.as_ref().map(|lost| lost.texts.iter().map(|text| text.name.as_str()).collect::<Vec<_>>()),
        "unusable": status.unusable().filter_map(|text| text.unusable.as_deref()).collect::<Vec<_>>(),
    })
}

fn text_lines(status: &StageTexts) -> String {
    let mut text = format!("\n{}", summary(status));
    let names = |provenance| status.of(provenance).map(|text| text.name.as_str()).collect::<Vec<_>>();
    let edited = status.edited().map(|text| text.name.as_str()).collect::<Vec<_>>();
    let parts = [("edited", edited), ("stale", names(Provenance::Stale)), ("orphan", names(Provenance::Orphan))];
    for (word, names) in parts.iter().filter(|(_, names)| !names.is_empty()) {
        let _ = writeln!(text, "{word:>9} {}", some_of(names));
    }
    if let Some(lost) = &status.lost {
        let _ = writeln!(text, "{:>9} {}", "gone", lost.reason());
    }
    for problem in status.unusable().filter_map(|text| text.unusable.as_deref()).take(LISTED) {
        let _ = writeln!(text, "{:>9} {problem}", "unusable");
    }
    text
}

/// The first names, and how many there are more.
fn some_of(names: &[&str]) -> String {
    match names.split_at_checked(LISTED) {
        Some((first, rest)) if !rest.is_empty() => format!("{} and {} more", first.join(", "), rest.len()),
        _ => names.join(", "),
    }
}

fn running(runner: &Holder, far: Option<&str>) -> String {
    let mut text = format!("\nprocess {} on {} is running this pipeline\n", runner.process, runner.host);
    for line in far.unwrap_or_default().lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}
