//! `loramill graph`: the stages of a pipeline and what each reads.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use unicode_width::UnicodeWidthStr;

use crate::cli::global::Global;
use crate::cli::target::pipeline::{PipelineArguments, open};
use crate::cli::terminal::output::print;
use crate::cli::terminal::wording::counted;
use crate::engine::graph::pipeline::{LoadedStage, Pipeline, Producer};
use crate::engine::inputs::input::{Found, Input};

/// Show the stages and what each reads
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pipeline: PipelineArguments,
    /// Print Graphviz DOT: `loramill graph --dot | dot -Tsvg > graph.svg`
    #[arg(long)]
    dot: bool,
}

/// Prints a table, or DOT for Graphviz. Opens no cache, so it does not say what is stale.
pub fn run(arguments: &Arguments, _global: &Global) -> anyhow::Result<ExitCode> {
    let pipeline = open(&arguments.pipeline)?;
    print(&if arguments.dot { dot(&pipeline) } else { tree(&pipeline) })?;
    Ok(ExitCode::SUCCESS)
}

fn tree(pipeline: &Pipeline) -> String {
    let inputs: Vec<[String; 3]> =
        pipeline.inputs.iter().map(|input| [input.name.clone(), input.written.clone(), found(input)]).collect();
    let written = pipeline.stages.values().filter(|stage| stage.owner.is_none());
    let mut stages: Vec<[String; 3]> = Vec::new();
    for stage in written {
        let kind = if stage.kind.name == stage.base_name { String::new() } else { stage.kind.name.to_string() };
        let on_demand = if stage.by_default { "" } else { "on demand" };
        let remark = [kind.as_str(), on_demand].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
        stages.push([stage.name.clone(), format!("\u{2190} {}", reads(stage)), remark]);
        for sub in pipeline.stages.values().filter(|sub| sub.owner.as_ref() == Some(&stage.name)) {
            let name = sub.name.rsplit('/').next().unwrap_or(&sub.name);
            stages.push([format!("  {name}"), format!("\u{2190} {}", reads(sub)), "part of it".into()]);
        }
    }
    format!("{}\n\ninputs\n{}\nstages\n{}", pipeline.file.display(), table(&inputs), table(&stages))
}

/// Columns of equal width; nothing trails.
fn table(rows: &[[String; 3]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
    let widths = [width(0), width(1)];
    let mut text = String::new();
    for row in rows {
        let pad = |column: usize| " ".repeat(widths[column] - row[column].width());
        let line = format!("  {}{}  {}{}  {}", row[0], pad(0), row[1], pad(1), row[2]);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn found(input: &Input) -> String {
    match &input.found {
        Found::Photos { files, .. } => counted(files.len(), "photo"),
        Found::File(path) if input.written.contains("://") => path.display().to_string(),
        Found::File(_) => "file".into(),
        Found::Absent(_) => "not here yet".into(),
    }
}

fn reads(stage: &LoadedStage) -> String {
    let mut names: Vec<String> = Vec::new();
    for edge in &stage.edges {
        let name = edge.reads.reference.to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

fn dot(pipeline: &Pipeline) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = String::from("digraph pipeline {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n");
    for input in &pipeline.inputs {
        let _ = writeln!(text, "  {} [shape=folder];", quoted(&input.name));
    }
    for stage in pipeline.stages.values() {
        let style = if stage.by_default || stage.owner.is_some() { "rounded" } else { "\"rounded,dashed\"" };
        let _ = writeln!(text, "  {} [style={style}];", quoted(&stage.name));
        for edge in &stage.edges {
            let from = match edge.from {
                Producer::Input(input) => &pipeline.inputs[input].name,
                Producer::Stage(producer) => &pipeline.stages[producer].name,
            };
            let label = edge.reads.reference.selector.to_string();
            let label = if label.is_empty() { label } else { format!(" [label={}]", quoted(&label)) };
            let _ = writeln!(text, "  {} -> {}{label};", quoted(from), quoted(&stage.name));
        }
    }
    text.push_str("}\n");
    text
}
