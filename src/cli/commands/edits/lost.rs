//! `edits restore` and `edits drop --gone`: what becomes of texts of people that no longer count although nobody decided so.

use std::process::ExitCode;

use clap::Args;

use crate::cli::commands::edits::{ItemArguments, Texts, decide};
use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::cli::terminal::output::complain;
use crate::cli::terminal::wording::counted;

/// Bring back edited texts that are gone because their folder was deleted or their stage renamed
///
/// What is gone is written again as the last run used it. The texts of a stage that was renamed move to the folder of the new name.
#[derive(Args)]
pub struct RestoreArguments {
    #[command(flatten)]
    items: ItemArguments,
}

impl RestoreArguments {
    /// The pipeline as written, for `split_items`. Items are refused later, with a message.
    pub fn names(&self) -> &[String] {
        &self.items.names
    }
}

/// Exit code 1 if a text could not be written; the others are. That no text is gone is no error.
pub fn restore(arguments: &RestoreArguments, global: &Global) -> anyhow::Result<ExitCode> {
    let texts = open(&arguments.items, global)?;
    let mut all_done = true;
    let mut count = 0;
    texts.at_desk("auto", global, |desk| {
        for place in places_with_lost(&texts) {
            for (name, outcome) in desk.restore(texts.stage_id(place))? {
                count += 1;
                match decide::message(&name, &outcome, "") {
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
    if count == 0 {
        global.say("no text is gone");
    }
    Ok(if all_done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// For `edits drop --gone`. Changes the lock file, and no text; the next run writes the machine's texts.
pub fn give_up(items: &ItemArguments, global: &Global) -> anyhow::Result<ExitCode> {
    let texts = open(items, global)?;
    let mut any = false;
    texts.at_desk("auto", global, |desk| {
        for place in places_with_lost(&texts) {
            let Some(lost) = desk.give_up(texts.stage_id(place))? else { continue };
            any = true;
            let names: Vec<&str> = lost.texts.iter().map(|text| text.name.as_str()).collect();
            let stage = &texts.stages[place].stage;
            global.say(&format!(
                "{stage}: the machine's texts take the place of {} of people: {}; the next run writes them",
                counted(names.len(), "text"),
                names.join(", ")
            ));
        }
        Ok(())
    })?;
    if !any {
        global.say("no text is gone");
    }
    Ok(ExitCode::SUCCESS)
}

/// The texts of the pipeline that is named; an error if items are named too.
fn open(items: &ItemArguments, global: &Global) -> anyhow::Result<Texts> {
    let (texts, items) = Texts::open(&items.names, global)?;
    if items.is_empty() {
        return Ok(texts);
    }
    Err(WrongArguments("this concerns all texts that are gone: name no items".to_string()).into())
}

fn places_with_lost(texts: &Texts) -> impl Iterator<Item = usize> {
    texts.stages.iter().enumerate().filter(|(_, stage)| stage.lost.is_some()).map(|(place, _)| place)
}
