//! `loramill stages`: the reference of the stage kinds, made of the doc comments of their params.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::cli::terminal::output::print;
use crate::engine::graph::schema;
use crate::engine::graph::stage_keys;
use crate::engine::kind::params::{ParamDoc, Role};
use crate::engine::kind::stage_kind::StageKind;
use crate::engine::syntax::diagnostic::nearest;
use crate::stages::KINDS;

/// Explain the stage kinds and their params
#[derive(Args)]
pub struct Arguments {
    /// One kind: its whole page
    kind: Option<String>,
    /// Print the JSON schema of pipeline.yaml, for editors
    #[arg(long, conflicts_with = "kind")]
    schema: bool,
}

/// Prints the list of kinds, the page of one, or the JSON schema. Reads no pipeline.
///
/// # Errors
/// `WrongArguments` if there is no such kind.
pub fn run(arguments: &Arguments, _global: &Global) -> anyhow::Result<ExitCode> {
    let text = match &arguments.kind {
        _ if arguments.schema => schema::text(KINDS),
        None => overview(KINDS),
        Some(name) => match KINDS.iter().find(|kind| kind.name == name) {
            Some(kind) => page(kind),
            None => return Err(unknown(name).into()),
        },
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn unknown(name: &str) -> WrongArguments {
    let known: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known: {}", known.join(", ")),
    };
    WrongArguments(format!("there is no stage kind `{name}`: {hint}"))
}

fn overview(kinds: &[&StageKind]) -> String {
    let width = kinds.iter().map(|kind| kind.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for kind in kinds {
        let summary = kind.doc.lines().next().unwrap_or_default().trim();
        let _ = writeln!(text, "{:width$}  {summary}", kind.name);
    }
    text.push_str("\n`loramill stages KIND` explains one with its params.\n");
    text
}

/// Name, what it does, then each param with its default.
fn page(kind: &StageKind) -> String {
    let mut text = format!("{}\n\n{}", kind.name, paragraphs(kind.doc, 2));
    let mut params = Vec::new();
    for param in (kind.params)() {
        rows(&param, &mut params);
    }
    if !params.is_empty() {
        text.push_str("\nParams:\n");
    }
    for row in params {
        let _ = write!(text, "\n  {}  ({})\n{}", row.head, row.form, paragraphs(&row.doc, 6));
    }
    text.push_str("\nEvery stage also takes:\n");
    for key in stage_keys::docs(kind.keeps) {
        let (head, form) = (head(key.name, key.default.as_ref()), form(key.role, &key.schema, key.default.as_ref(), false));
        let _ = write!(text, "\n  {head}  ({form})\n{}", paragraphs(key.doc, 6));
    }
    let _ = writeln!(text, "\nIts items carry: {}.", kind.writes.join(", "));
    text
}

struct Row {
    /// Name and default.
    head: String,
    /// What may be written.
    form: String,
    doc: String,
}

fn rows(param: &ParamDoc, into: &mut Vec<Row>) {
    let is_required = param.default.is_none();
    let mut doc = param.doc.trim().to_string();
    if param.role == Role::Execution {
        doc.push_str(" Changes what a run costs, never its result.");
    }
    let form = form(param.role, &param.schema, param.default.as_ref(), is_required);
    into.push(Row { head: head(param.name, param.default.as_ref()), form, doc });
    let start = into.len();
    nested(param.name, &param.schema, into);
    // A list of mappings and a single one have the same fields.
    let mut named = BTreeSet::new();
    let nested = into.split_off(start);
    into.extend(nested.into_iter().filter(|row| named.insert(row.head.clone())));
}

/// The fields of a param that is itself a mapping, by dotted names.
fn nested(path: &str, schema: &Value, into: &mut Vec<Row>) {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let default = field.get("default");
        let form = form(Role::Result, field, default, required.contains(&name.as_str()));
        let doc = field["description"].as_str().unwrap_or_default().to_string();
        into.push(Row { head: head(&path, default), form, doc });
        nested(&path, field, into);
    }
    for form in schema["anyOf"].as_array().into_iter().flatten() {
        nested(path, form, into);
    }
    if let Some(items) = schema.get("items") {
        nested(path, items, into);
    }
}

fn head(name: &str, default: Option<&Value>) -> String {
    match default {
        // A mapping shows its defaults field by field.
        None | Some(Value::Null | Value::Object(_)) => name.to_string(),
        Some(Value::String(text)) if !text.is_empty() && !text.contains([':', '#', '[', ',']) => format!("{name}: {text}"),
        Some(default) => format!("{name}: {default}"),
    }
}

fn form(role: Role, schema: &Value, default: Option<&Value>, is_required: bool) -> String {
    let words = type_words(role, schema);
    match default {
        None if is_required => format!("{words}; required"),
        None | Some(Value::Null) => format!("{words}; optional"),
        Some(_) => words,
    }
}

/// What may be written, in words: `one of fp32, fp16`.
fn type_words(role: Role, schema: &Value) -> String {
    if role == Role::Input && schema["properties"].is_null() {
        let is_list = schema["anyOf"].as_array().is_some_and(|forms| forms.iter().any(|form| form["type"] == "array"));
        return if is_list { "inputs or stages" } else { "an input or a stage" }.to_string();
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        return format!("one of {}", words.join(", "));
    }
    if let Some(forms) = schema["anyOf"].as_array() {
        let mut words: Vec<String> = forms.iter().map(|form| type_words(Role::Result, form)).collect();
        words.dedup();
        return words.join(" or ");
    }
    match schema["type"].as_str() {
        Some("boolean") => "true or false".into(),
        Some("integer") => "a whole number".into(),
        Some("number") => "a number".into(),
        Some("string") => "text".into(),
        Some("array") => "a list".into(),
        Some("object") => "a mapping".into(),
        _ => "any value".into(),
    }
}

/// Doc comments as lines of at most 90 columns; an empty line separates paragraphs, an indented one stays as it is.
fn paragraphs(doc: &str, indent: usize) -> String {
    let margin = " ".repeat(indent);
    let mut text = String::new();
    let mut line = String::new();
    let flush = |line: &mut String, text: &mut String| {
        if !line.is_empty() {
            let _ = writeln!(text, "{margin}{line}");
            line.clear();
        }
    };
    for written in doc.lines() {
        let is_fixed = written.starts_with("   ") || written.trim_start().starts_with(['-', '|', '*']);
        if written.trim().is_empty() || is_fixed {
            flush(&mut line, &mut text);
            let _ = writeln!(text, "{}", format!("{margin}{}", written.trim_end()).trim_end());
            continue;
        }
        for word in written.split_whitespace() {
            if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > 90 {
                flush(&mut line, &mut text);
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    flush(&mut line, &mut text);
    text
}
