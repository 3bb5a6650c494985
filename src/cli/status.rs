//! `loramill status`: what is there, what is missing, what people wrote, and whether a run is going on.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cache::locks::Holder;
use crate::cli::run::open_cache;
use crate::cli::{Global, PipelineArguments, counted, open, print, shown};
use crate::pipeline::plan::plan;
use crate::pipeline::selection::Selection;
use crate::pipeline::text_status::{TextStatus, text_status};

/// Show what is there, what is missing and what people wrote
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let pipeline = open(&arguments.pipeline)?;
    let cache = open_cache(&pipeline, global)?;
    let texts = text_status(&pipeline, &cache)?;
    let plan = plan(&pipeline, &cache, &Selection::of((0..pipeline.stages.len()).collect::<Vec<_>>()))?;
    let runner = cache.runner(&pipeline.folder)?;
    let far = if runner.is_some() { cache.run_status(&pipeline.folder)? } else { None };
    if arguments.json {
        let mut value = plan.to_json();
        value["edits"] = texts.iter().map(text_json).collect();
        value["run"] = match &runner {
            Some(runner) => json!({ "process": runner.process, "host": runner.host, "status": far }),
            None => serde_json::Value::Null,
        };
        print(&format!("{}\n", serde_json::to_string_pretty(&value)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = crate::cli::plan::table(&plan);
    for status in &texts {
        text.push_str(&text_lines(status));
    }
    if let Some(runner) = &runner {
        text.push_str(&running(runner, far.as_deref()));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn text_json(status: &TextStatus) -> serde_json::Value {
    json!({
        "stage": status.stage, "folder": status.folder.display().to_string(), "machine": status.machine,
        "edited": status.edited, "stale": status.stale, "orphans": status.orphans, "unusable": status.unusable,
    })
}

fn text_lines(status: &TextStatus) -> String {
    let mut text = format!("\n{}: {} by the machine", shown(&status.folder), counted(status.machine, "text"));
    let parts = [
        ("edited", &status.edited),
        ("edited before the machine's text changed", &status.stale),
        ("without a photo", &status.orphans),
        ("that cannot be used", &status.unusable),
    ];
    for (what, names) in parts.iter().filter(|(_, names)| !names.is_empty()) {
        let _ = write!(text, "\n  {} {what}: {}", names.len(), names.join(", "));
    }
    text.push('\n');
    text
}

fn running(runner: &Holder, far: Option<&str>) -> String {
    let mut text = format!("\nprocess {} on {} is running this pipeline\n", runner.process, runner.host);
    for line in far.unwrap_or_default().lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}
