//! What may happen to a pipeline: edits of its file, its photos and its texts, losses, and runs of every kind.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use loramill_engine::cache::digest::Digest;

use crate::folders::files_below;
use crate::oracle::case::Case;
use crate::oracle::chance::Chance;
use crate::oracle::model::Wanted;
use crate::oracle::spec::{Kind, two_values};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    ChangeParam,
    ChangeExecution,
    AddPhoto,
    RemovePhoto,
    RenamePhoto,
    MovePhoto,
    ReplacePhoto,
    SwapPhotos,
    OverwritePhoto,
    BreakPhoto,
    MendPhotos,
    ChangeSidecar,
    ChangeBase,
    FailTraining,
    EditText,
    EditTextAsMachine,
    DeleteText,
    RemoveTexts,
    SettleLostTexts,
    Skip,
    Reformat,
    RaiseVersion,
    TouchPhotos,
    RemoveFromOut,
    ScribbleInOut,
    RemoveOut,
    RemoveLock,
    LoseObject,
    GoBack,
    Run,
    RunKeepingGoing,
    RunTargets,
    RunOnly,
    RunFrom,
    RunForced,
    RunWithSettings,
    RunInterrupted,
}

use Deed::{
    AddPhoto, BreakPhoto, ChangeBase, ChangeExecution, ChangeParam, ChangeSidecar, DeleteText, EditText, EditTextAsMachine,
    FailTraining, GoBack, LoseObject, MendPhotos, MovePhoto, OverwritePhoto, RaiseVersion, Reformat, RemoveFromOut, RemoveLock,
    RemoveOut, RemovePhoto, RemoveTexts, RenamePhoto, ReplacePhoto, Run, RunForced, RunFrom, RunInterrupted, RunKeepingGoing,
    RunOnly, RunTargets, RunWithSettings, ScribbleInOut, SettleLostTexts, Skip, SwapPhotos, TouchPhotos,
};

/// How often each happens.
const DEEDS: &[(usize, Deed)] = &[
    (12, ChangeParam),
    (3, ChangeExecution),
    (5, AddPhoto),
    (4, RemovePhoto),
    (5, RenamePhoto),
    (3, MovePhoto),
    (6, ReplacePhoto),
    (6, SwapPhotos),
    (3, OverwritePhoto),
    (2, BreakPhoto),
    (2, MendPhotos),
    (3, ChangeSidecar),
    (2, ChangeBase),
    (2, FailTraining),
    (9, EditText),
    (2, EditTextAsMachine),
    (4, DeleteText),
    (2, RemoveTexts),
    (4, SettleLostTexts),
    (2, Skip),
    (2, Reformat),
    (2, RaiseVersion),
    (2, TouchPhotos),
    (2, RemoveFromOut),
    (2, ScribbleInOut),
    (1, RemoveOut),
    (2, RemoveLock),
    (6, LoseObject),
    (5, GoBack),
    (14, Run),
    (8, RunKeepingGoing),
    (6, RunTargets),
    (4, RunOnly),
    (4, RunFrom),
    (6, RunForced),
    (3, RunWithSettings),
    (5, RunInterrupted),
];

/// One thing that happens. What it hits is decided by its own numbers, so that it means the same when steps before it are left out.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub deed: Deed,
    pub seed: u64,
}

impl Step {
    pub fn random(chance: &mut Chance) -> Self {
        let mut place = chance.below(DEEDS.iter().map(|(weight, _)| weight).sum());
        let is_it = |(weight, _): &&(usize, Deed)| {
            let found = place < *weight;
            place = place.wrapping_sub(*weight);
            found
        };
        let deed = DEEDS.iter().find(is_it).expect("less than the sum").1;
        Self { deed, seed: chance.number() }
    }

    /// Does it, and says what is wrong after a run.
    pub fn apply(self, case: &mut Case) -> Result<(), String> {
        let chance = &mut Chance::new(self.seed);
        match self.deed {
            ChangeParam | ChangeExecution | FailTraining => change_params(self.deed, case, chance),
            AddPhoto | RemovePhoto | RenamePhoto | MovePhoto | ReplacePhoto | SwapPhotos | OverwritePhoto | BreakPhoto => {
                change_photo(self.deed, case, chance);
            }
            MendPhotos => mend(case, chance),
            ChangeSidecar => {
                let name = pick(case.world.photos.keys(), chance).expect("there is a photo");
                match chance.below(3) {
                    0 => drop(case.world.sidecars.remove(&name)),
                    _ => drop(case.world.sidecars.insert(name, format!("side{}", chance.below(3)))),
                }
            }
            ChangeBase => case.world.base = format!("base{}", chance.below(3)),
            EditText | EditTextAsMachine | DeleteText => change_text(self.deed, case, chance),
            RemoveTexts => {
                case.world.texts.files.clear();
                case.world.texts.is_gone = true;
            }
            SettleLostTexts => return case.settle_lost_texts(chance.percent(50)),
            Skip => {
                let name = pick(case.world.photos.keys(), chance).expect("there is a photo");
                let skip = &mut case.world.spec.skip;
                if !skip.remove(&name) && case.world.photos.keys().filter(|name| !skip.contains(*name)).count() > 1 {
                    skip.insert(name);
                }
            }
            Reformat => case.world.spec.comment = format!("# a word {}\n\n", chance.below(100)),
            RaiseVersion => case.world.spec.version = 3 - case.world.spec.version,
            TouchPhotos => {
                case.place.bring_to(&case.world);
                let offset = Duration::from_secs(chance.below(100_000) as u64);
                let time = if chance.percent(50) { SystemTime::now() + offset } else { SystemTime::now() - offset };
                for path in files_below(&case.place.at("images")).into_keys() {
                    let file = File::options().append(true).open(case.place.at("images").join(path)).expect("opened");
                    file.set_modified(time).expect("touched");
                }
            }
            RemoveFromOut | ScribbleInOut | RemoveOut | RemoveLock | LoseObject => lose(self.deed, case, chance),
            GoBack => go_back(case, chance),
            Run | RunKeepingGoing | RunTargets | RunOnly | RunFrom | RunForced | RunWithSettings | RunInterrupted => {
                return run(self.deed, case, chance);
            }
        }
        Ok(())
    }
}

fn pick<'a>(names: impl IntoIterator<Item = &'a String>, chance: &mut Chance) -> Option<String> {
    let names: Vec<&String> = names.into_iter().collect();
    if names.is_empty() { None } else { Some(chance.pick(&names).to_string()) }
}

fn change_params(deed: Deed, case: &mut Case, chance: &mut Chance) {
    let count = case.world.spec.stages.len();
    let stage = &mut case.world.spec.stages[chance.below(count)];
    match (deed, stage.kind) {
        (ChangeExecution, _) => stage.speed = chance.below(5) as u64,
        (FailTraining, Kind::Learn) if !case.was_interrupted => stage.fail_at = *chance.pick(&[0, 3]),
        (FailTraining, _) => {}
        (_, kind) if !stage.matrix.is_empty() => stage.matrix = two_values(kind, chance),
        (_, Kind::Echo | Kind::Caption) => stage.text = chance.pick(&["", "A", "B"]).to_string(),
        (_, Kind::Cut) => stage.number = *chance.pick(&[1, 2, 3, 9]),
        (_, Kind::Learn) => match chance.below(3) {
            0 => stage.number = *chance.pick(&[2, 4]),
            1 => stage.save_every = *chance.pick(&[1, 2]),
            _ => stage.rate = *chance.pick(&[1, 2]),
        },
        (_, Kind::Draw) => stage.prompts = chance.pick(&[vec!["a"], vec!["a", "b"], vec!["b", "c"]]).clone(),
        (_, Kind::Twin | Kind::Join | Kind::Gather) => {}
    }
}

fn change_photo(deed: Deed, case: &mut Case, chance: &mut Chance) {
    let name = pick(case.world.photos.keys(), chance).expect("there is a photo");
    match deed {
        AddPhoto if case.world.photos.len() < 6 => {
            let (name, content) = (case.fresh_name(), case.content(chance));
            case.world.photos.insert(name, content);
        }
        RemovePhoto if case.world.photos.len() > 1 && !case.world.spec.skip.contains(&name) => {
            // One that is left in must stay.
            let skip = &case.world.spec.skip;
            if case.world.photos.keys().filter(|other| !skip.contains(*other)).count() > 1 {
                case.world.photos.remove(&name);
                case.world.sidecars.remove(&name);
            }
        }
        RenamePhoto | MovePhoto => {
            let fresh = case.fresh_name();
            let new = if deed == MovePhoto { format!("d{}/{fresh}", chance.below(2)) } else { fresh };
            let content = case.world.photos.remove(&name).expect("it is there");
            case.world.photos.insert(new.clone(), content);
            if let Some(sidecar) = case.world.sidecars.remove(&name) {
                case.world.sidecars.insert(new, sidecar);
            }
        }
        ReplacePhoto => {
            let content = case.content(chance);
            case.world.photos.insert(name, content);
        }
        SwapPhotos => {
            // Two, or all of them in a ring.
            let mut names: Vec<String> = case.world.photos.keys().cloned().collect();
            if chance.percent(60) {
                names.retain(|other| *other >= name);
                names.truncate(2);
            }
            let contents: Vec<String> = names.iter().map(|name| case.world.photos[name].clone()).collect();
            for (place, name) in names.iter().enumerate() {
                case.world.photos.insert(name.clone(), contents[(place + 1) % contents.len()].clone());
            }
        }
        OverwritePhoto => {
            let skip = &case.world.spec.skip;
            let other = pick(case.world.photos.keys().filter(|other| **other != name && !skip.contains(*other)), chance);
            let Some(other) = other.filter(|_| !skip.contains(&name)) else { return };
            let content = case.world.photos.remove(&name).expect("it is there");
            case.world.photos.insert(other.clone(), content);
            if let Some(sidecar) = case.world.sidecars.remove(&name) {
                case.world.sidecars.insert(other, sidecar);
            }
        }
        BreakPhoto => {
            case.next += 1;
            case.world.photos.insert(name, format!("broken{}", case.next));
        }
        _ => {}
    }
}

pub fn mend(case: &mut Case, chance: &mut Chance) {
    let broken: Vec<String> =
        case.world.photos.iter().filter(|(_, content)| content.contains("broken")).map(|(name, _)| name.clone()).collect();
    for name in broken {
        let content = case.content(chance);
        case.world.photos.insert(name, content);
    }
    for stage in &mut case.world.spec.stages {
        stage.fail_at = 0;
    }
}

fn change_text(deed: Deed, case: &mut Case, chance: &mut Chance) {
    let items = case.world.rows.get("caption").into_iter().flatten();
    let texts: Vec<(String, String)> = items.map(|thing| (thing.name.clone(), thing.fields["caption"].clone())).collect();
    if texts.is_empty() {
        return;
    }
    let (name, said) = chance.pick(&texts).clone();
    if deed == DeleteText {
        case.world.texts.files.remove(&name);
        return;
    }
    let text = match deed {
        EditTextAsMachine => said,
        _ => format!("mine {}", chance.below(3)),
    };
    let form = *chance.pick(&["T", "T\n", "\u{feff}T\r\n", "T  \n\n"]);
    case.world.texts.files.insert(name, form.replace('T', &text));
    case.world.texts.is_gone = false;
}

fn lose(deed: Deed, case: &mut Case, chance: &mut Chance) {
    match deed {
        RemoveFromOut | ScribbleInOut => {
            let out = case.place.at("out");
            let shown = files_below(&out);
            let Some(path) = pick(shown.keys().filter(|path| !path.starts_with(['.', '@'])), chance) else { return };
            if deed == RemoveFromOut {
                fs::remove_file(out.join(path)).expect("removed");
            } else {
                fs::write(out.join(path), "by hand").expect("written");
            }
        }
        RemoveOut => {
            let _ = fs::remove_dir_all(case.place.at("out"));
        }
        RemoveLock => {
            let _ = fs::remove_file(case.place.at("pipeline.lock"));
            case.world.rows.clear();
            case.world.texts.rows.clear();
        }
        _ => {
            let Some(content) = pick(&case.memory.store, chance) else { return };
            let path = case.place.cache().path(&Digest::of(content.as_bytes()));
            fs::remove_file(&path).unwrap_or_else(|error| panic!("`{content}` is not in the cache: {error}"));
            case.memory.store.remove(&content);
        }
    }
}

/// As a checkout of an earlier commit does: the file, the photos, the texts and the lock.
fn go_back(case: &mut Case, chance: &mut Chance) {
    if case.earlier.is_empty() {
        return;
    }
    let (world, lock) = chance.pick(&case.earlier).clone();
    if chance.percent(30) {
        // Only the file.
        case.world.spec = world.spec;
        case.world.spec.skip.retain(|name| case.world.photos.contains_key(name));
        if case.world.spec.skip.len() == case.world.photos.len() {
            case.world.spec.skip.clear();
        }
    } else {
        let lock = lock.map(|lock| ("pipeline.lock".to_string(), lock));
        let path = case.place.at("pipeline.lock");
        match lock {
            Some((_, bytes)) => fs::write(path, bytes).expect("written"),
            None => drop(fs::remove_file(path)),
        }
        case.world = world;
    }
    if case.was_interrupted {
        for stage in &mut case.world.spec.stages {
            stage.fail_at = 0;
        }
    }
}

fn run(deed: Deed, case: &mut Case, chance: &mut Chance) -> Result<(), String> {
    let instances = case.world.spec.instances();
    let stages = &case.world.spec.stages;
    let stage = stages[chance.below(stages.len())].clone();
    let of_stage: BTreeSet<String> = instances.iter().filter(|i| i.stage.name == stage.name).map(|i| i.name.clone()).collect();
    let mut wanted = Wanted { keep_going: deed == RunKeepingGoing || chance.percent(30), ..Wanted::default() };
    let mut settings = Vec::new();
    let mut interrupt_after = None;
    match deed {
        RunTargets => wanted.targets = Some(of_stage),
        RunOnly => {
            wanted.targets = Some(of_stage.clone());
            wanted.only = Some(of_stage);
        }
        RunFrom => {
            let mut after = of_stage.clone();
            for instance in &instances {
                if instance.producers.iter().any(|(producer, _)| after.contains(producer)) {
                    after.insert(instance.name.clone());
                }
            }
            let mut targets = case.world.needed(&instances, &Wanted::default());
            targets.retain(|name| after.contains(name));
            targets.extend(of_stage);
            wanted.targets = Some(targets);
            wanted.only = Some(after);
        }
        RunForced => {
            let is_item_stage = !stage.kind.is_whole();
            let prefix = (is_item_stage && chance.percent(40)).then(|| pick(case.world.photos.keys(), chance)).flatten();
            let mut targets = case.world.needed(&instances, &Wanted::default());
            targets.extend(of_stage.clone());
            wanted.targets = Some(targets);
            wanted.force = Some((of_stage, prefix));
        }
        RunWithSettings => {
            let can_be_set = matches!(stage.kind, Kind::Echo | Kind::Cut) && stage.matrix.is_empty();
            // With settings texts of people are not written, and that is an error of its own.
            if !can_be_set || case.world.spec.has_captions() {
                return Ok(());
            }
            let before = case.world.spec.clone();
            let changed = case.world.spec.stages.iter_mut().find(|other| other.name == stage.name).expect("it is there");
            settings.push(if stage.kind == Kind::Echo {
                changed.text = "Z".to_string();
                format!("{}.suffix=Z", stage.name)
            } else {
                changed.number = 4;
                format!("{}.letters=4", stage.name)
            });
            wanted.with_settings = true;
            let set = case.world.spec.clone();
            case.world.spec = before.clone();
            case.place.bring_to(&case.world);
            case.world.spec = set;
            let outcome = case.run(&wanted, &settings, None);
            case.world.spec = before;
            return outcome;
        }
        RunInterrupted => {
            if case.world.spec.stages.iter().any(|stage| stage.fail_at > 0) {
                return Ok(());
            }
            wanted.keep_going = false;
            interrupt_after = Some(chance.below(8));
            case.was_interrupted = true;
        }
        _ => {}
    }
    case.run(&wanted, &settings, interrupt_after)
}
