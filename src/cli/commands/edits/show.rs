//! `edits list`, `show` and `diff`: whose each text is, and what the machine said and says.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cli::commands::edits::{ItemArguments, Texts};
use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::cli::terminal::output::{Paint, Painted, output_takes_colours, print, print_json, print_painted};
use crate::cli::terminal::wording::{counted, shown};
use crate::engine::cache::Cache;
use crate::engine::decide::lost_texts::{self, LostTexts};
use crate::engine::edits::merge::{Part, difference};
use crate::engine::edits::{Provenance, SurveyedText};
use crate::engine::explain::text_status::StageTexts;

/// Columns of a text in a table.
const WIDTH: usize = 72;

/// List the texts that people wrote, and count the machine's
#[derive(Args)]
pub struct ListArguments {
    /// The pipeline: a folder or its file [default: pipeline.yaml here]
    #[arg(value_name = "PIPELINE")]
    pipeline: Option<String>,
    /// List the machine's texts as well
    #[arg(short, long)]
    all: bool,
    /// Print JSON, with all texts
    #[arg(long)]
    json: bool,
}

/// Show a text: yours, what the machine said when you wrote, and what it says now
#[derive(Args)]
pub struct ShowArguments {
    #[command(flatten)]
    items: ItemArguments,
    /// Compute the machine's text of now, without saving it
    #[arg(long)]
    new: bool,
    /// Device that runs the networks: `auto`, `cpu`, `libtorch:0`
    #[arg(long, default_value = "auto")]
    device: String,
}

/// Show in words how texts of people differ from the machine's [default: all of them]
#[derive(Args)]
pub struct DiffArguments {
    #[command(flatten)]
    items: ItemArguments,
}

impl ListArguments {
    /// `None` is the `pipeline.yaml` here.
    pub fn pipeline(&self) -> Option<&Path> {
        self.pipeline.as_deref().map(Path::new)
    }
}

impl ShowArguments {
    /// The pipeline and the items as written, for `split_items`, and what `--device` names.
    pub fn names_and_device(&self) -> (&[String], &str) {
        (&self.items.names, &self.device)
    }
}

impl DiffArguments {
    /// The pipeline and the items as written, for `split_items`.
    pub fn names(&self) -> &[String] {
        &self.items.names
    }
}

/// Prints the texts of people, stage by stage; with `--all` or as JSON also those of the machine. What to do about stale texts
/// and orphans goes to standard error.
pub fn list(arguments: &ListArguments, global: &Global) -> anyhow::Result<ExitCode> {
    let names: Vec<String> = arguments.pipeline.iter().cloned().collect();
    let (texts, _) = Texts::open(&names, global)?;
    if arguments.json {
        let stages: Vec<serde_json::Value> =
            texts.stages.iter().map(|stage| stage_json(stage, &texts.cache)).collect::<anyhow::Result<_>>()?;
        print_json(&json!({ "stages": stages }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = String::new();
    for stage in &texts.stages {
        table.push_str(&summary(stage));
        if let Some(lost) = &stage.lost {
            table.push_str(&lost_lines(lost, &texts.cache));
        }
        let is_lost = |name: &str| stage.lost.iter().flat_map(|lost| &lost.texts).any(|text| text.name == name);
        let is_listed = |text: &&SurveyedText| text.provenance != Provenance::Machine || (arguments.all && !is_lost(&text.name));
        let listed: Vec<&SurveyedText> = stage.texts.iter().filter(is_listed).collect();
        let width = listed.iter().map(|text| text.name.chars().count()).max().unwrap_or_default();
        for text in listed {
            let pad = " ".repeat(width - text.name.chars().count());
            let word = match text.unusable {
                Some(_) => "unusable",
                None if stage.is_uncompared(text) => "new",
                None => text.provenance.word(),
            };
            let _ = writeln!(table, "{word:>9} {}{pad}  {}", text.name, line_of(text)?);
        }
    }
    for sentence in lost_texts::unread_folders(&texts.pipeline)? {
        let _ = writeln!(table, "note: {sentence}");
    }
    print(&table)?;
    let any = |provenance| texts.stages.iter().any(|stage| stage.of(provenance).next().is_some());
    if any(Provenance::Stale) {
        global
            .say("stale: the machine's text would be another one now. `edits diff` shows how; then `accept`, `merge` or `drop`");
    }
    if any(Provenance::Orphan) {
        global.say("orphan: its photo is gone. `edits prune` removes it, and keeps a copy for 30 days");
    }
    Ok(ExitCode::SUCCESS)
}

/// Why texts count no more, and which.
fn lost_lines(lost: &LostTexts, cache: &Cache) -> String {
    let mut lines = format!("{:>9} {}\n", "gone", lost.reason());
    let width = lost.texts.iter().map(|text| text.name.chars().count()).max().unwrap_or_default();
    for text in &lost.texts {
        let pad = " ".repeat(width - text.name.chars().count());
        let said = text.text.and_then(|digest| cache.read(&digest).ok());
        let said = said.map_or_else(|| "(not in this cache)".to_string(), |bytes| in_one_line(&String::from_utf8_lossy(&bytes)));
        let _ = writeln!(lines, "{:>9} {}{pad}  {said}", "gone", text.name);
    }
    lines
}

/// `captions: 24 texts, 20 by the machine, 3 edited, 1 stale`
pub fn summary(stage: &StageTexts) -> String {
    let mut line = format!("{}: {}", shown(&stage.folder), counted(stage.texts.len(), "text"));
    let counts = [
        (stage.by_machine(), "by the machine"),
        (stage.uncompared().count(), "that the next run compares with the machine's"),
        (stage.edited().count(), "edited"),
        (stage.of(Provenance::Stale).count(), "stale"),
        (stage.of(Provenance::Orphan).count(), "without a photo"),
        (stage.unusable().count(), "that cannot be used"),
        (stage.lost.as_ref().map_or(0, |lost| lost.texts.len()), "of people that are gone"),
    ];
    for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
        let _ = write!(line, ", {count} {what}");
    }
    line.push('\n');
    line
}

/// The text in one line, or why there is none.
fn line_of(text: &SurveyedText) -> anyhow::Result<String> {
    if let Some(unusable) = &text.unusable {
        return Ok(unusable.clone());
    }
    let line = match text.read()? {
        Some(line) => in_one_line(&line),
        None => return Ok("(the next run writes it)".to_string()),
    };
    Ok(match &text.mirror_of {
        Some(item) => format!("{line}  (for the mirror of {item})"),
        None => line,
    })
}

fn in_one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut = line.char_indices().nth(WIDTH).map(|(end, _)| format!("{}\u{2026}", &line[..end]));
    cut.unwrap_or(line)
}

fn stage_json(stage: &StageTexts, cache: &Cache) -> anyhow::Result<serde_json::Value> {
    let mut texts = Vec::with_capacity(stage.texts.len());
    for text in &stage.texts {
        texts.push(json!({
            "name": text.name,
            "provenance": text.provenance.word(),
            "file": text.file.as_ref().map(|file| shown(file).to_string()),
            "text": text.read()?,
            "machine_before": text.machine_before(cache),
            "machine_now": text.machine_now(cache),
            "mirror_of": text.mirror_of,
            "problem": text.unusable,
        }));
    }
    let lost = stage.lost.iter().flat_map(|lost| &lost.texts).map(|text| text.name.as_str()).collect::<Vec<_>>();
    Ok(json!({ "stage": stage.stage, "folder": shown(&stage.folder).to_string(), "texts": texts, "lost": lost }))
}

/// With `--new` it runs the stage on items of which the machine's text is not known. Neither texts nor the lock file change.
///
/// # Errors
/// `WrongArguments` if no item is named, or there is no such text.
pub fn show(arguments: &ShowArguments, global: &Global) -> anyhow::Result<ExitCode> {
    let (texts, items) = Texts::open(&arguments.items.names, global)?;
    if items.is_empty() {
        return Err(WrongArguments("name an item: `loramill edits list` knows them".to_string()).into());
    }
    let mut said = String::new();
    for item in &items {
        let (place, text) = texts.find(item)?;
        let mut text = text.clone();
        if arguments.new && text.now.is_none() && text.mirror_of.is_none() && text.provenance != Provenance::Orphan {
            let now = texts.at_desk(&arguments.device, global, |desk| desk.ask_machine(texts.stage_id(place), &text.name))?;
            text.now = Some(now);
        }
        if !said.is_empty() {
            said.push('\n');
        }
        said.push_str(&card(&text, &texts.cache)?);
    }
    print(&said)?;
    Ok(ExitCode::SUCCESS)
}

/// A text and those of the machine one below the other.
fn card(text: &SurveyedText, cache: &Cache) -> anyhow::Result<String> {
    let mut card = heading(text);
    let mut row = |label: &str, said: &str| {
        let mut lines = said.lines();
        let _ = writeln!(card, "  {label:<18}{}", lines.next().unwrap_or("(empty)"));
        for line in lines {
            let _ = writeln!(card, "  {:<18}{line}", "");
        }
    };
    let own = match (&text.unusable, text.read()?) {
        (Some(problem), _) => problem.clone(),
        (None, Some(own)) => own,
        (None, None) => "(the next run writes it)".to_string(),
    };
    if text.provenance == Provenance::Machine {
        row("the machine's:", &own);
        return Ok(card);
    }
    row("yours:", &own);
    if let Some(item) = &text.mirror_of {
        row("for the mirror of:", item);
        return Ok(card);
    }
    let (before, now) = (text.machine_before(cache), text.machine_now(cache));
    if before != now || before.is_none() {
        let lost = if text.before.is_some() { "(no longer in the cache)" } else { "(nothing: yours was there first)" };
        row("the machine said:", before.as_deref().unwrap_or(lost));
    }
    if text.provenance != Provenance::Orphan {
        row("it says now:", now.as_deref().unwrap_or("(not asked: `edits show --new` asks it)"));
    }
    Ok(card)
}

fn heading(text: &SurveyedText) -> String {
    let file = text.file.as_ref().map(|file| format!(", `{}`", shown(file))).unwrap_or_default();
    format!("{}: {}{file}\n", text.name, text.provenance.word())
}

/// Without items it prints all texts that are edited or stale. Exit code 0 also when they differ.
pub fn diff(arguments: &DiffArguments, global: &Global) -> anyhow::Result<ExitCode> {
    let (texts, items) = Texts::open(&arguments.items.names, global)?;
    let mut asked = Vec::new();
    for item in &items {
        asked.push(texts.find(item)?.1);
    }
    if items.is_empty() {
        let by_people = |text: &&SurveyedText| matches!(text.provenance, Provenance::Edited | Provenance::Stale);
        asked.extend(texts.stages.iter().flat_map(|stage| stage.texts.iter().filter(by_people)));
    }
    let mut said = Painted::new(output_takes_colours());
    for text in asked {
        said.add(&heading(text));
        differences(&mut said, text, &texts.cache)?;
    }
    if said.is_empty() {
        global.say("every text is the machine's");
    }
    print_painted(&said)?;
    Ok(ExitCode::SUCCESS)
}

/// What you changed, and what the machine did since.
fn differences(said: &mut Painted, text: &SurveyedText, cache: &Cache) -> anyhow::Result<()> {
    let note = |said: &mut Painted, note: &str| {
        said.add(&format!("  {note}\n"));
        Ok(())
    };
    if let Some(problem) = &text.unusable {
        return note(said, problem);
    }
    let Some(own) = text.read()? else { return note(said, "(the next run writes it)") };
    if let Some(item) = &text.mirror_of {
        return note(said, &format!("for the mirror of {item}, where the machine writes nothing"));
    }
    if text.provenance == Provenance::Machine {
        return note(said, "the machine's text, as it is");
    }
    let (before, now) = (text.machine_before(cache), text.machine_now(cache));
    match before.as_ref().or(now.as_ref()) {
        Some(machine) => in_words(said, "you:", machine, &own),
        None => return note(said, "there is no text of the machine to compare with: `edits show --new` asks it"),
    }
    if text.provenance == Provenance::Stale {
        match (&before, &now) {
            (Some(before), Some(now)) if before == now => said.add(&indented("machine:", "(says the same as before)")),
            (Some(before), Some(now)) => in_words(said, "machine:", before, now),
            (None, Some(_)) => {}
            (_, None) => said.add(&indented("machine:", "(not asked what it says now: `edits show --new` asks it)")),
        }
    }
    Ok(())
}

fn indented(label: &str, text: &str) -> String {
    let mut said = String::new();
    for (number, line) in text.lines().enumerate() {
        let _ = writeln!(said, "  {:<9}{line}", if number == 0 { label } else { "" });
    }
    said
}

/// As `git diff --word-diff` writes it, below a label; on a terminal in colours.
fn in_words(said: &mut Painted, label: &str, old: &str, new: &str) {
    said.add(&format!("  {label:<9}"));
    for part in difference(old, new) {
        let (open, close, paint, text) = match &part {
            Part::Same(text) => {
                said.add(&text.replace('\n', NEXT_LINE));
                continue;
            }
            Part::Removed(text) => ("[-", "-]", Paint::Red, text),
            Part::Added(text) => ("{+", "+}", Paint::Green, text),
        };
        // The space before the words stays outside of the marks.
        let words = text.trim_start();
        said.add(&text[..text.len() - words.len()].replace('\n', NEXT_LINE));
        said.paint(paint, &format!("{open}{words}{close}").replace('\n', NEXT_LINE));
    }
    said.add("\n");
}

/// Between two lines of a text that stands beside its label.
const NEXT_LINE: &str = "\n           ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_marked_as_git_marks_words() {
        let said = |old: &str, new: &str, colours| {
            let mut said = Painted::new(colours);
            in_words(&mut said, "you:", old, new);
            said.to_string()
        };
        let marked = "  you:     a {+red+} star on [-white-] {+black+}\n";
        assert_eq!(said("a star on white", "a red star on black", false), marked);
        assert_eq!(said("", "x", false), "  you:     {+x+}\n");
        assert_eq!(said("a", "b", true), "  you:     \u{1b}[31m[-a-]\u{1b}[0m\u{1b}[32m{+b+}\u{1b}[0m\n");
        assert_eq!(said("a\nb", "a\nb c", false), "  you:     a\n           b {+c+}\n");
    }
}
