//! `edits accept`, `merge`, `drop` and `prune`: what a person decides about texts.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::cli::commands::edits::{ItemArguments, Texts, lost};
use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::cli::terminal::output::complain;
use crate::cli::terminal::wording::shown;
use crate::engine::edits::merge::Form;
use crate::engine::edits::{Decision, Provenance, SettledText};

/// Keep your text: it is no longer stale
#[derive(Args)]
pub struct AcceptArguments {
    #[command(flatten)]
    items: ItemArguments,
    /// All stale texts
    #[arg(long)]
    all: bool,
}

/// Merge what changed in the machine's text into yours
///
/// Tags between commas merge as sets, prose word by word. Where both changed the same words, nothing is written. The machine's
/// text is computed first if it is not known yet.
#[derive(Args)]
pub struct MergeArguments {
    #[command(flatten)]
    items: ItemArguments,
    /// All stale texts
    #[arg(long)]
    all: bool,
    /// As tags between commas, however they look
    #[arg(long, conflicts_with = "prose")]
    tags: bool,
    /// Word by word, however they look
    #[arg(long)]
    prose: bool,
    /// Device that runs the networks: `auto`, `cpu`, `libtorch:0`
    #[arg(long, default_value = "auto")]
    device: String,
}

/// Replace your text by the machine's; yours is kept in the cache for 30 days
#[derive(Args)]
pub struct DropArguments {
    #[command(flatten)]
    items: ItemArguments,
    /// All texts that are gone with their folder or with the name of their stage: no file is touched
    #[arg(long)]
    gone: bool,
}

/// Remove texts whose photo is gone; they are kept in the cache for 30 days [default: all of them]
#[derive(Args)]
pub struct PruneArguments {
    #[command(flatten)]
    items: ItemArguments,
}

impl AcceptArguments {
    /// The pipeline and the items as written, for `split_items`.
    pub fn names(&self) -> &[String] {
        &self.items.names
    }
}

impl MergeArguments {
    /// The pipeline and the items as written, for `split_items`, and what `--device` names.
    pub fn names_and_device(&self) -> (&[String], &str) {
        (&self.items.names, &self.device)
    }
}

impl DropArguments {
    /// The pipeline and the items as written, for `split_items`.
    pub fn names(&self) -> &[String] {
        &self.items.names
    }
}

impl PruneArguments {
    /// The pipeline and the items as written, for `split_items`.
    pub fn names(&self) -> &[String] {
        &self.items.names
    }
}

/// Records in the lock file that the texts are up to date. The texts stay as they are. Exit code 1 if one was refused.
pub fn accept(arguments: &AcceptArguments, global: &Global) -> anyhow::Result<ExitCode> {
    let all = arguments.all.then_some(Provenance::Stale);
    decide(&arguments.items, all, Decision::Accept, "auto", global)
}

/// Runs the stage on items of which the machine's text is not known. Exit code 1 if a text could not be merged; it then stays as
/// it is.
pub fn merge(arguments: &MergeArguments, global: &Global) -> anyhow::Result<ExitCode> {
    let form = match (arguments.tags, arguments.prose) {
        (true, _) => Form::Tags,
        (_, true) => Form::Prose,
        (false, false) => Form::AsItLooks,
    };
    let all = arguments.all.then_some(Provenance::Stale);
    decide(&arguments.items, all, Decision::Merge(form), &arguments.device, global)
}

/// Moves texts of people to `displaced/` in the cache, and writes the machine's where it is known; else the next run does. Exit
/// code 1 if one was refused. With `--gone` only the lock file changes.
pub fn drop(arguments: &DropArguments, global: &Global) -> anyhow::Result<ExitCode> {
    if arguments.gone {
        return lost::give_up(&arguments.items, global);
    }
    decide(&arguments.items, None, Decision::Drop, "auto", global)
}

/// Moves texts without a photo to `displaced/` in the cache. Exit code 1 if a text that is named has its photo.
pub fn prune(arguments: &PruneArguments, global: &Global) -> anyhow::Result<ExitCode> {
    decide(&arguments.items, Some(Provenance::Orphan), Decision::Prune, "auto", global)
}

/// Decides about the texts that are named; if none is, about `all` of that provenance.
fn decide(
    arguments: &ItemArguments,
    all: Option<Provenance>,
    decision: Decision,
    device: &str,
    global: &Global,
) -> anyhow::Result<ExitCode> {
    let (texts, items) = Texts::open(&arguments.names, global)?;
    let mut asked: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for item in &items {
        let (place, text) = texts.find(item)?;
        asked.entry(place).or_default().push(text.name.clone());
    }
    match (items.is_empty(), all) {
        (true, Some(provenance)) => {
            for (place, stage) in texts.stages.iter().enumerate() {
                // Also those that cannot be used: an orphan with conflict markers is one.
                let names = stage.texts.iter().filter(|text| text.provenance == provenance).map(|text| text.name.clone());
                asked.insert(place, names.collect());
            }
        }
        (true, None) => {
            return Err(WrongArguments("name the items: `loramill edits list` knows them".to_string()).into());
        }
        (false, _) => {}
    }
    asked.retain(|_, names| !names.is_empty());
    if asked.is_empty() {
        let what = if all == Some(Provenance::Orphan) { "every text has its photo" } else { "no text is stale" };
        global.say(what);
        return Ok(ExitCode::SUCCESS);
    }
    let mut all_done = true;
    texts.at_desk(device, global, |desk| {
        for (&place, names) in &asked {
            for (name, outcome) in desk.settle(texts.stage_id(place), names, decision)?.texts {
                let is_for_mirror = texts.stages[place].texts.iter().any(|text| text.name == name && text.mirror_of.is_some());
                let next = match decision {
                    Decision::Drop if is_for_mirror => "; the mirror shares the text of its picture again",
                    Decision::Drop => "; the next run writes the machine's",
                    Decision::Accept | Decision::Merge(_) | Decision::Prune => "",
                };
                match message(&name, &outcome, next) {
                    Ok(line) => global.say(&line),
                    Err(problem) => {
                        all_done = false;
                        complain(&problem);
                    }
                }
            }
        }
        Ok(())
    })?;
    Ok(if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What became of a text; an error if nothing did. `next`: what comes of it when there is no file any more.
pub fn message(name: &str, outcome: &SettledText, next: &str) -> Result<String, String> {
    Ok(match outcome {
        SettledText::Accepted => format!("{name}: your text stays, and is up to date"),
        SettledText::Replaced { kept: Some(path) } => {
            format!("{name}: the machine's text is in its place; yours is {}", kept(path))
        }
        SettledText::Replaced { kept: None } => format!("{name}: the machine's text is in its place"),
        SettledText::TakenAway { kept: path } => format!("{name}: taken away and {}{next}", kept(path)),
        SettledText::Merged { text, kept: Some(path) } => format!("{name}: {text}\n  yours is {}", kept(path)),
        SettledText::Merged { text, kept: None } => format!("{name}: {text}"),
        SettledText::Restored { file } => format!("{name}: it lies in `{}` again", shown(file)),
        SettledText::Nothing(how) => format!("{name} {how}"),
        SettledText::Refused(why) => return Err(format!("{name}: {why}")),
    })
}

/// Where a displaced text is, seen from here.
fn kept(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let path = here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path);
    format!("kept for 30 days as `{}`", path.display())
}
