//! Every state of a text × what became of the machine's × every command that writes, each with a kill and with a full disk at
//! every write, fsync and rename: no human byte is lost, and the next run goes on.

use std::collections::BTreeMap;
use std::fs;

use crate::cache::faults::{Fault, arm, arm_pass, disarm, pass_failed, when};
use crate::edits::Decision;
use crate::edits::merge::Form;
use crate::edits::tests::project::Project;
use crate::run::run_record::RunRecord;

const MINE: &str = "\u{feff}a big photo two,  by hand \r\n";
const MIRRORED: &str = "as a mirror shows it";

/// What a person did to the text of a photo.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    Nothing,
    Edited,
    Deleted,
    /// A photo with a text that was there before the machine was asked, and a text for a mirror.
    Added,
    /// The photo has another name, and its text was edited.
    Renamed,
}

/// What became of what the machine says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Machine {
    Same,
    Changed,
    PhotoGone,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Command {
    Run,
    RunForced,
    Settle(Decision),
}

impl Command {
    /// An error also where the command ends well and a stage does not.
    fn give(self, project: &Project) -> Result<(), String> {
        match self {
            Command::Run => ended_well(project.run(false)),
            Command::RunForced => ended_well(project.run(true)),
            Command::Settle(decision) => project.settle(decision).map(|_| ()).map_err(|error| format!("{error:#}")),
        }
    }
}

fn ended_well(record: anyhow::Result<RunRecord>) -> Result<(), String> {
    let record = record.map_err(|error| format!("{error:#}"))?;
    let note = |record: &RunRecord| record.stages.iter().filter_map(|stage| stage.note.clone()).collect::<Vec<_>>().join("; ");
    if record.is_ok() { Ok(()) } else { Err(note(&record)) }
}

/// A project in which a person did something and the machine's text did something, and what the person wrote.
fn project(deed: Deed, machine: Machine) -> (Project, Vec<&'static str>) {
    let project = Project::new();
    ended_well(project.run(false)).unwrap();
    let (photo, wrote) = match deed {
        Deed::Nothing => ("two", vec![]),
        Deed::Edited => {
            project.write("captions/two.txt", MINE);
            ("two", vec![MINE])
        }
        Deed::Deleted => {
            fs::remove_file(project.at("captions/two.txt")).unwrap();
            ("two", vec![])
        }
        Deed::Added => {
            project.write("images/sub/four.png", "photo four");
            project.write("captions/sub/four.txt", MINE);
            project.write("captions/sub/four-flip.txt", MIRRORED);
            ended_well(project.run(false)).unwrap();
            ("sub/four", vec![MINE, MIRRORED])
        }
        Deed::Renamed => {
            project.write("captions/two.txt", MINE);
            fs::rename(project.at("images/two.png"), project.at("images/zwei.png")).unwrap();
            ("zwei", vec![MINE])
        }
    };
    match machine {
        Machine::Same => {}
        Machine::Changed => project.captioner("the "),
        Machine::PhotoGone => fs::remove_file(project.at(&format!("images/{photo}.png"))).unwrap(),
    }
    (project, wrote)
}

/// Everything that a person wrote is in the folder or among the displaced.
fn assert_nothing_is_lost(project: &Project, wrote: &[&str], what: &str) {
    let folders = [project.files("captions"), project.files("cache/displaced")];
    for text in wrote {
        let is_there = folders.iter().flat_map(BTreeMap::values).any(|bytes| bytes == text.as_bytes());
        assert!(is_there, "{what}: `{text}` is lost");
    }
}

/// The texts once the next run has gone on from where a project is.
fn after_the_next_run(project: &Project, what: &str) -> BTreeMap<String, Vec<u8>> {
    ended_well(project.run(false)).unwrap_or_else(|error| panic!("{what}: the next run: {error}"));
    let texts = project.files("captions");
    assert!(texts.keys().all(|name| !name.contains(".loramill-")), "{what}: left behind: {:?}", texts.keys());
    let again = project.run(false).unwrap();
    assert!(again.did_nothing(), "{what}: the run after the next has nothing to do");
    texts
}

/// Gives a command once for every place where something can go wrong, and compares what comes of it with the command that was
/// never given and with the one that nothing disturbed.
fn disturb(deed: Deed, machine: Machine, command: Command, beforehand: &dyn Fn()) -> usize {
    let (project, wrote) = project(deed, machine);
    let undone = after_the_next_run(&project.copy(), "undisturbed, not given");
    let done = {
        let project = project.copy();
        command.give(&project).unwrap_or_else(|error| panic!("{deed:?}, {machine:?}, {command:?}: {error}"));
        assert_nothing_is_lost(&project, &wrote, "undisturbed");
        after_the_next_run(&project, "undisturbed")
    };
    let mut places = 0;
    for fault in [Fault::Killed, Fault::DiskFull] {
        for after in 0.. {
            let what = format!("{deed:?}, {machine:?}, {command:?}: {fault:?} at {after}");
            let project = project.copy();
            beforehand();
            arm_pass(after, fault);
            let outcome = command.give(&project);
            let failed = pass_failed();
            disarm();
            if !failed {
                break;
            }
            places += 1;
            assert_nothing_is_lost(&project, &wrote, &what);
            if let (Err(error), Fault::DiskFull) = (&outcome, fault) {
                assert!(error.contains("free space"), "{what}: {error}");
            }
            beforehand();
            let texts = after_the_next_run(&project, &what);
            disarm();
            assert_nothing_is_lost(&project, &wrote, &what);
            for (name, text) in &texts {
                assert!(Some(text) == undone.get(name) || Some(text) == done.get(name), "{what}: {name} says something else");
            }
            for name in undone.keys().filter(|name| done.contains_key(*name)) {
                assert!(texts.contains_key(name), "{what}: {name} is missing");
            }
        }
    }
    places
}

const DEEDS: [Deed; 5] = [Deed::Nothing, Deed::Edited, Deed::Deleted, Deed::Added, Deed::Renamed];
const MACHINES: [Machine; 3] = [Machine::Same, Machine::Changed, Machine::PhotoGone];

fn disturb_all(command: Command, at_least: usize) {
    let states = DEEDS.into_iter().flat_map(|deed| MACHINES.map(|machine| (deed, machine)));
    let places: usize = states.map(|(deed, machine)| disturb(deed, machine, command, &|| {})).sum();
    assert!(places >= at_least, "only {places} places were disturbed");
}

#[test]
fn a_run_loses_nothing() {
    disturb_all(Command::Run, 700);
}

#[test]
fn a_forced_run_loses_nothing() {
    disturb_all(Command::RunForced, 750);
}

#[test]
fn accepting_loses_nothing() {
    disturb_all(Command::Settle(Decision::Accept), 110);
}

#[test]
fn dropping_loses_nothing() {
    disturb_all(Command::Settle(Decision::Drop), 200);
}

#[test]
fn merging_loses_nothing() {
    disturb_all(Command::Settle(Decision::Merge(Form::AsItLooks)), 200);
}

#[test]
fn pruning_loses_nothing() {
    disturb_all(Command::Settle(Decision::Prune), 170);
}

#[test]
fn file_systems_that_cannot_exchange_or_lie_apart_lose_nothing() {
    let commands = [Command::Run, Command::Settle(Decision::Drop), Command::Settle(Decision::Merge(Form::AsItLooks))];
    let answers = [
        ("rename.exchange", Fault::Unsupported),
        ("rename.noreplace", Fault::Unsupported),
        ("displace.rename", Fault::OtherFileSystem),
    ];
    let states = [(Deed::Edited, Machine::Changed), (Deed::Edited, Machine::Same), (Deed::Renamed, Machine::Changed)];
    let mut places = 0;
    for (command, (place, fault)) in commands.into_iter().flat_map(|command| answers.map(|answer| (command, answer))) {
        for (deed, machine) in states {
            places += disturb(deed, machine, command, &|| arm(place, 0, fault));
        }
    }
    assert!(places >= 300, "only {places} places were disturbed");
}

#[test]
fn a_text_saved_while_a_run_ends_is_seen_by_the_next() {
    // Between the texts and the lock, the last thing that a stage writes.
    for place in ["records.append", "atomic.write"] {
        let project = Project::new();
        let path = project.at("captions/two.txt");
        let mut saved = false;
        when(place, move || {
            if !saved && path.exists() {
                fs::write(&path, MINE).unwrap();
                saved = true;
            }
        });
        ended_well(project.run(false)).unwrap();
        disarm();
        assert_eq!(fs::read_to_string(project.at("captions/two.txt")).unwrap(), MINE, "{place}");
        let text = |project: &Project| fs::read_to_string(project.at("pipeline.lock")).unwrap();
        let before = text(&project);
        ended_well(project.run(false)).unwrap();
        assert_ne!(text(&project), before, "{place}: the row knows the text that was saved");
        assert!(project.run(false).unwrap().did_nothing());
    }
}
