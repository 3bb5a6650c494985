//! A pipeline that is known to be sound: inputs, stages with their params, and who reads whom. Unaware of YAML and of what is
//! fresh.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::cache::digest::Digest;
use crate::graph::stage_id::{StageId, StageVec};
use crate::graph::variant::Variant;
use crate::inputs::input::{Found, Input, Skip};
use crate::kind::input_use::InputUse;
use crate::kind::stage::Stage;
use crate::kind::stage_kind::StageKind;
use crate::syntax::tree::Span;

/// A pipeline file after loading: `matrix:` expanded, sub-stages added, references joined into edges.
pub struct Pipeline {
    /// The pipeline file, as the user calls it.
    pub file: PathBuf,
    /// The folder of the file: `out/`, `captions/` and `pipeline.lock` lie here.
    pub folder: PathBuf,
    /// Stands for the text of the file and for what was put into it: settings and variables of the environment.
    pub source: Digest,
    pub concept: String,
    pub trigger: String,
    pub seed: u64,
    pub skip: Skip,
    /// The epoch that `@pick` takes.
    pub pick: Option<u64>,
    /// `--set` as given. If there are any, results do not belong to the file as it stands.
    pub settings: Vec<String>,
    /// In the order of the file.
    pub inputs: Vec<Input>,
    /// Each after those it reads, otherwise in the order of the file.
    pub stages: StageVec<LoadedStage>,
    /// What is worth a word and no error: a single photo, an input that nothing reads.
    pub remarks: Vec<String>,
    /// Which pictures are not read, which texts beside photos belong to none, and which photos have none: runs say it too.
    pub photo_remarks: Vec<String>,
}

/// One stage, or one variant of it, with its params decoded.
pub struct LoadedStage {
    /// `train`, `train[rank=8]` of a stage that has variants, or `train/latents` of a stage that belongs to another.
    pub name: String,
    /// The name without the variant.
    pub base_name: String,
    pub variant: Variant,
    pub kind: &'static StageKind,
    pub stage: Box<dyn Stage>,
    /// Of its name in the file; a sub-stage has that of its owner.
    pub span: Span,
    /// False after `default: false`: built only if it is asked for or needed.
    pub by_default: bool,
    /// Further attempts after a failure that may pass.
    pub retry: u32,
    /// False where its outputs leave the cache once all stages that read them have done so.
    pub keep: bool,
    /// The stage it belongs to, if it is not written in the file.
    pub owner: Option<String>,
    /// The `result` params as the file gives them, by name; a sub-stage has those of its owner. What an item stage does not list
    /// among its components enters the keys of its works, and so the row of the stage must cover it.
    pub written: Vec<(String, serde_json::Value)>,
    /// What it reads, in the order of `Stage::inputs`; what a reference collects has an edge for each variant, one after the
    /// other.
    pub edges: Vec<Edge>,
    /// The fields its items have.
    pub carries: Vec<&'static str>,
}

/// A stage reads something.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Its reference names the producer with its variant.
    pub reads: InputUse,
    pub from: Producer,
    /// Where the reference takes several variants of a stage together.
    pub collected: Option<Collected>,
}

/// One of several variants that a reference takes together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// As in the file: `train[*]`.
    pub reference: String,
    /// Put before the names of its items: `rank=8`.
    pub label: String,
}

/// What an edge reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Producer {
    /// Index into `Pipeline::inputs`.
    Input(usize),
    Stage(StageId),
}

impl Pipeline {
    /// Finds an input by its name in the file.
    pub fn input(&self, name: &str) -> Option<&Input> {
        self.inputs.iter().find(|input| input.name == name)
    }

    /// Which stage has this full name; sub-stages included.
    pub fn id_of(&self, name: &str) -> Option<StageId> {
        self.stages.iter().find(|(_, stage)| stage.name == name).map(|(id, _)| id)
    }

    /// Finds a stage by its full name, such as `train[rank=8]`; sub-stages included.
    pub fn stage(&self, name: &str) -> Option<&LoadedStage> {
        self.stages.values().find(|stage| stage.name == name)
    }

    /// The stages that the stages `wanted` need, and these themselves, in the order of `stages`.
    pub fn needed(&self, wanted: impl IntoIterator<Item = StageId>) -> Vec<StageId> {
        let mut needed = self.stages.filled_with(false);
        for id in wanted {
            needed[id] = true;
        }
        // A stage comes after those it reads, so a walk from the end meets every consumer before its producers.
        for consumer in self.stages.ids().rev() {
            if needed[consumer] {
                for producer in self.producers(consumer) {
                    needed[producer] = true;
                }
            }
        }
        self.stages.ids().filter(|&id| needed[id]).collect()
    }

    /// What a run without targets builds.
    pub fn by_default(&self) -> Vec<StageId> {
        self.needed(self.asked_by_default())
    }

    /// What a run without targets is asked for: without what is built only because these need it.
    pub fn asked_by_default(&self) -> Vec<StageId> {
        self.stages.ids().filter(|&id| self.stages[id].by_default).collect()
    }

    /// The stages that a stage reads.
    pub fn producers(&self, consumer: StageId) -> impl Iterator<Item = StageId> + '_ {
        self.stages[consumer].edges.iter().filter_map(|edge| match edge.from {
            Producer::Stage(producer) => Some(producer),
            Producer::Input(_) => None,
        })
    }

    /// The photos that `skip:` leaves out.
    pub fn skipped_photos(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        for input in &self.inputs {
            if let Found::Photos { skipped, .. } = &input.found {
                names.extend(skipped.iter().map(String::as_str));
            }
        }
        names
    }

    /// Where outputs of this file lie under friendly names, unless `--set` was given.
    pub fn out(&self) -> PathBuf {
        self.folder.join("out")
    }

    /// Where the lock lies, or will lie after the first run.
    pub fn lock_file(&self) -> PathBuf {
        self.folder.join("pipeline.lock")
    }
}

impl LoadedStage {
    /// Where its outputs lie below `out/`: `train`, `train/rank=8`.
    pub fn folder(&self) -> String {
        self.variant.folder_of(&self.base_name)
    }
}
