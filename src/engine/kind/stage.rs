//! What the engine asks of a stage, and what it gives to one. Unaware of any particular kind.
//!
//! A stage takes one of two forms. An *item stage* says which pieces of work there are, each with all that decides its result,
//! and does one at a time: pieces are cached one by one. A *whole stage* runs once over all its inputs and publishes items as it
//! goes.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::batch::Stored;
use crate::kind::endings::Endings;
use crate::kind::input_use::{Companion, ImpliedInput, InputUse};
use crate::kind::item::{Artifact, Fields, Item, ItemSet};
use crate::kind::params::Declared;
use crate::kind::stage_kind::StageKind;

/// A stage with its params.
pub trait Stage: Declared + Send + Sync {
    /// The `result` params, dotted names and canonical values, in the order of the names. Those of an item stage enter every
    /// item's key: what differs from item to item belongs into `Work::values` instead.
    fn components(&self) -> Vec<(String, serde_json::Value)> {
        self.results()
    }

    /// In the order of the params.
    fn inputs(&self) -> Vec<InputUse> {
        self.reads()
    }

    fn form(&self) -> Form<'_>;

    /// Runs a network: one such stage at a time.
    fn uses_device(&self) -> bool {
        false
    }

    /// What to change in its settings, from cheap to costly, where it needs more memory than there is; of what is chosen already,
    /// nothing. "`checkpointing: true`"
    fn memory_savers(&self) -> Vec<String> {
        Vec::new()
    }

    /// Told once, before anything is asked for: the kinds of the stages that read this one. What follows from it belongs among
    /// the components, or it is in no key.
    fn read_by(&mut self, _kinds: &BTreeSet<&'static str>) {}

    /// What it reads because a stage that it reads does so: the captions of the training whose LoRA it draws with. Not written in
    /// the file.
    fn implied_inputs(&self) -> Vec<ImpliedInput> {
        Vec::new()
    }

    /// What it cannot use among the files that inputs name, as far as their first bytes tell: found before anything runs. `files`
    /// are those that are here, by the param that reads them.
    fn examine(&self, _files: &BTreeMap<String, PathBuf>) -> Vec<Finding> {
        Vec::new()
    }

    /// The most bytes that a file may have which is read as `param`; `None` of files that are read in parts, as models are.
    fn most_bytes(&self, param: &str) -> Option<u64> {
        self.companions().into_iter().find(|companion| companion.param == param).map(|companion| companion.most_bytes)
    }

    /// Files that it reads where they lie beside a file that it reads.
    fn companions(&self) -> Vec<Companion> {
        Vec::new()
    }

    /// Stages that belong to this one and are not written in the file: `latents` of `train`. This stage refers to them by
    /// `<stage>/<sub-stage>`.
    fn sub_stages(&self) -> Vec<SubStage> {
        Vec::new()
    }

    /// How the names of the texts beside photos end that it reads as `sidecar`; `None` if it reads none.
    fn sidecar_endings(&self) -> Option<&Endings> {
        None
    }

    /// The text field that people may edit in a folder beside the pipeline.
    fn editable(&self) -> Option<Editable> {
        None
    }

    /// How large each of its items is, in the unit in which the kinds that work on them count: pixels.
    fn item_size(&self) -> ItemSize {
        ItemSize::AsTaken
    }

    /// Problems that do not stop a run: a caption with *left* that reaches a mirror.
    fn lint(&self, _inputs: &Resolved, _files: &dyn Files) -> Vec<String> {
        Vec::new()
    }
}

/// How large items are, as far as the settings of their stage say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ItemSize {
    /// As those that the stage takes.
    AsTaken,
    Fixed(f64),
    /// Nobody knows before they are made.
    Varying,
}

/// How much work something is. Time is taken to follow the amount, from one piece of work of a kind to another that is like it.
#[derive(Clone, Debug, PartialEq)]
pub struct Effort {
    /// In a unit of the kind's own: pixels of all pictures, as often as they are seen.
    pub amount: f64,
    /// What else decides how long it takes: the model. What was measured of another tells nothing.
    pub like: String,
}

impl Default for Effort {
    /// One piece of work like all others of its kind.
    fn default() -> Self {
        Self { amount: 1.0, like: String::new() }
    }
}

/// How far an interrupted run of a whole stage came, by the state that it left.
#[derive(Clone, Debug, PartialEq)]
pub enum Reached {
    /// The kind does not tell.
    Untold,
    /// Not beyond the beginning.
    Start,
    Part {
        /// Of all the work, from 0 to 1.
        share: f64,
        /// "after 290 of 720 images (epoch 13 of 30)"
        words: String,
    },
}

/// A stage that another one brings along. It is called `<owner>/<name>`.
pub struct SubStage {
    /// Without the owner's name: `latents`.
    pub name: &'static str,
    pub kind: &'static StageKind,
    pub stage: Box<dyn Stage>,
}

/// A text field of each item that lies as `<folder>/<item>.<extension>` beside the pipeline; a person's version wins.
pub struct Editable {
    pub field: &'static str,
    /// Of the stage named after its kind; another stage owns `<folder>-<stage>`.
    pub folder: &'static str,
    pub extension: &'static str,
    /// The machine's text costs next to nothing: it is made also where a text lies of which nobody knows who wrote it, to tell.
    pub is_quick: bool,
}

/// Why a file cannot be what a stage reads it as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// That reads the file.
    pub param: String,
    /// Lower case, backticks around names, no trailing full stop.
    pub problem: String,
}

/// The items of each input of a stage, after selection.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// By the path of the param.
    pub inputs: BTreeMap<String, Arc<ItemSet>>,
    /// False while a producer is still publishing: then more items will come.
    pub complete: bool,
}

impl Resolved {
    /// The items of `param`, in the order of their names; empty if there is no such input.
    pub fn items(&self, param: &str) -> &[Item] {
        self.inputs.get(param).map_or(&[], |items| items.as_slice())
    }

    /// The artifact of an input that is one item.
    pub fn one(&self, param: &str, field: &str) -> anyhow::Result<&Artifact> {
        match self.items(param) {
            [item] => item.fields.get(field).ok_or_else(|| anyhow::anyhow!("`{param}` has no `{field}`")),
            items => anyhow::bail!("`{param}` must be one file, found {}", items.len()),
        }
    }
}

/// How a stage is run and cached: piece by piece, or as a whole.
pub enum Form<'a> {
    Items(&'a dyn ItemStage),
    Whole(&'a dyn WholeStage),
}

/// One piece of work of an item stage. Kind, version, the stage's components, `values` and the digests of `inputs` are its key: a
/// worker sees nothing else, so that nothing can change a result without changing the key.
#[derive(Clone, Debug)]
pub struct Work {
    /// Names the outputs and the progress line. In no key.
    pub name: String,
    pub origin: Option<String>,
    /// Values of this piece alone: prompt, seed, box.
    pub values: BTreeMap<String, serde_json::Value>,
    /// What it reads, by a name that the key shows: `image`, `base`, `lora`.
    pub inputs: Fields,
    /// Fields and attributes that pass to the outputs unless these have them. In no key.
    pub carry: Fields,
    pub attributes: BTreeMap<String, String>,
}

impl Work {
    /// The work of a map kind on one item: reads some fields, and passes on all that it does not write anew.
    pub fn of_item(item: &Item, reads: &[&str]) -> Self {
        let read = |field: &str| reads.contains(&field);
        Self {
            name: item.name.clone(),
            origin: item.origin.clone(),
            values: BTreeMap::new(),
            inputs: item.fields.iter().filter(|(f, _)| read(f)).map(|(f, a)| (f.clone(), a.clone())).collect(),
            carry: item.fields.clone(),
            attributes: item.attributes.clone(),
        }
    }
}

/// A stage whose pieces of work are cached one by one.
pub trait ItemStage: Send + Sync {
    /// The pieces of work, in the order to do them. Called again when more inputs are there; must give the same pieces then, and
    /// more.
    fn expand(&self, inputs: &Resolved, files: &dyn Files) -> anyhow::Result<Vec<Work>>;

    /// The names of the outputs of one piece, as far as they are known before it runs: what `plan` counts with.
    fn outputs(&self, work: &Work) -> Vec<String> {
        vec![work.name.clone()]
    }

    /// How much work one piece is; `None` if that is not known. `item_size`: of what the stage takes, where settings say it.
    fn effort(&self, _work: &Work, _item_size: Option<f64>) -> Option<Effort> {
        Some(Effort::default())
    }

    /// Loads what all pieces need (a network); called only if some piece must run.
    fn open<'a>(&'a self, context: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>>;

    /// Raised by hand when `finish` gives other bytes for the same outputs.
    fn finish_version(&self) -> u32 {
        1
    }

    /// Items made of all outputs together, once they are complete: the grid. Keyed by the components and the digests of
    /// `outputs`.
    fn finish(&self, _outputs: &[Item], _files: &dyn Files) -> anyhow::Result<Vec<Draft>> {
        Ok(Vec::new())
    }
}

/// Does pieces of work. CPU stages call it from several threads at once.
pub trait Worker: Sync {
    /// The outputs of one piece; fields of `work.carry` are added to each by the engine unless the draft has them.
    fn run(&self, work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>>;
}

/// A stage that runs once over all its inputs.
pub trait WholeStage: Send + Sync {
    fn run(&self, inputs: &Resolved, context: &dyn Context) -> anyhow::Result<Ended>;

    /// What it will publish, by name and attributes, as far as that is known before it runs.
    fn forecast(&self, inputs: &Resolved) -> Vec<(String, BTreeMap<String, String>)>;

    /// How much work a run from the start is; `None` if that is not known yet. Of a kind that does not say so, as much as it
    /// publishes. `item_size`: of what the stage takes, where settings say it.
    fn effort(&self, inputs: &Resolved, _item_size: Option<f64>) -> Option<Effort> {
        Some(Effort { amount: self.forecast(inputs).len().max(1) as f64, ..Effort::default() })
    }

    /// How far the state in a folder goes, where `is_published` tells by their names which outputs are there. A state that a run
    /// would not resume from does not count.
    fn reached(&self, _inputs: &Resolved, _state: &Path, _is_published: &dyn Fn(&str) -> bool) -> Reached {
        Reached::Untold
    }

    /// After which epochs it publishes when nobody disturbs it; `None` if it knows no epochs.
    fn epochs(&self) -> Option<Epochs> {
        None
    }

    /// Names of components that do not change what an interrupted run has done so far: a run that differs only in these resumes
    /// from its state. `epochs` where the schedule does not depend on the horizon.
    fn horizon_components(&self) -> &'static [&'static str] {
        &[]
    }
}

/// Epochs after which a stage publishes: every so many, and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epochs {
    /// At least 1.
    pub every: u64,
    pub last: u64,
}

impl Epochs {
    /// Whether the stage publishes after this epoch; the first epoch is 1.
    pub fn contain(self, epoch: u64) -> bool {
        (1..=self.last).contains(&epoch) && (epoch.is_multiple_of(self.every) || epoch == self.last)
    }
}

/// How a whole stage came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Done,
    /// At the user's request, and that is a result: "stopped at epoch 43 of 100".
    Stopped(String),
    /// To go on later: nothing is recorded.
    Interrupted,
}

/// An output before it has a digest.
#[derive(Clone, Debug)]
pub struct Draft {
    pub name: String,
    pub origin: Option<String>,
    pub fields: BTreeMap<String, Content>,
    pub attributes: BTreeMap<String, String>,
}

/// What a field of a draft holds. An `extension` has no dot.
#[derive(Clone, Debug)]
pub enum Content {
    Bytes {
        bytes: Vec<u8>,
        extension: &'static str,
    },
    /// A file below `Context::scratch`, taken over by the engine.
    File {
        path: PathBuf,
        extension: &'static str,
        /// What is in it, if whoever wrote it took the digest on the way.
        written: Option<Stored>,
    },
    /// Something that is already an artifact.
    Same(Artifact),
}

impl Draft {
    /// Starts without origin, fields and attributes.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), origin: None, fields: BTreeMap::new(), attributes: BTreeMap::new() }
    }

    /// Adds a field, or replaces the one of this name.
    pub fn field(mut self, name: &str, content: Content) -> Self {
        self.fields.insert(name.to_string(), content);
        self
    }

    /// Adds an attribute, or replaces the one of this name. The value is kept as text.
    pub fn attribute(mut self, name: &str, value: impl ToString) -> Self {
        self.attributes.insert(name.to_string(), value.to_string());
        self
    }
}

/// Where artifacts lie.
pub trait Files: Sync {
    /// A file to read. Never write to it.
    fn path(&self, artifact: &Artifact) -> anyhow::Result<PathBuf>;

    /// The bytes, checked against the digest.
    fn read(&self, artifact: &Artifact) -> anyhow::Result<Vec<u8>>;

    /// Whether a photo of this name is here and `skip:` leaves it out. For remarks alone: nothing that is made may depend on it.
    fn is_left_out(&self, _photo: &str) -> bool {
        false
    }
}

/// What a running stage may use.
pub trait Context: Files {
    /// An empty folder that is removed afterwards.
    fn scratch(&self) -> &Path;

    /// `cpu`, `libtorch:0`.
    fn device(&self) -> &str;

    /// Makes an output durable and visible to consumers, and runs those that wait for it before it returns.
    fn publish(&self, draft: Draft) -> anyhow::Result<()>;

    /// Where a whole stage keeps what it needs to go on after a kill. The same folder for the same state key; the stage replaces
    /// files in it atomically. Removed when the stage is done.
    fn state(&self) -> anyhow::Result<&Path>;

    /// Things kept in memory from stage to stage while a run lasts: loaded networks. Made by `make` if `key` is not there.
    fn shared(
        &self,
        key: &str,
        make: &mut dyn FnMut() -> anyhow::Result<Arc<dyn Any + Send + Sync>>,
    ) -> anyhow::Result<Arc<dyn Any + Send + Sync>>;

    fn progress(&self, progress: Progress);

    /// A line for the user: "fp16 weights, f32 arithmetic: this CPU has no fp16".
    fn say(&self, message: &str);

    /// Asked between two steps.
    fn stop_request(&self) -> StopRequest;
}

/// What the user wants of a running stage. `sd/training/run` has the same four words of its own, because training knows no
/// pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopRequest {
    GoOn,
    /// Save and sample now, then go on.
    SaveNow,
    /// End with a result (`q`, `loramill stop`).
    Stop,
    /// End to go on later (Ctrl-C).
    Interrupt,
}

/// How far a stage is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
    /// What is counted: `images`, `steps`.
    pub unit: &'static str,
    /// Shown beside the count: `loss`, `rate`.
    pub values: Vec<(&'static str, f64)>,
}
