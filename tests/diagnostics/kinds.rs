//! Stage kinds with the shapes of the real ones, to load pipelines with. They never run.

use loramill::engine::kind::input_use::InputUse;
use loramill::engine::kind::item::Item;
use loramill::engine::kind::params::{Declared, Params};
use loramill::engine::kind::reference::Reference;
use loramill::engine::kind::stage::{
    Context, Draft, Ended, Files, Form, ItemStage, Resolved, Stage, SubStage, WholeStage, Work, Worker,
};
use loramill::engine::kind::stage_kind::{LoadScope, StageKind, Worth};
use loramill::engine::syntax::diagnostic::Diagnostics;
use loramill::engine::syntax::tree::Node;
use loramill::{choice, params};

pub const KINDS: &[&StageKind] = &[&CROP, &RESIZE, &FLIP, &TRAIN, &SAMPLE, &MERGE];

const CROP: StageKind = StageKind { name: "crop", writes: &["image"], ..kind::<Crop>() };
const RESIZE: StageKind = StageKind { name: "resize", writes: &["image"], ..kind::<Resize>() };
const FLIP: StageKind = StageKind { name: "flip", writes: &["image"], ..kind::<Flip>() };
const TRAIN: StageKind = StageKind { name: "train", writes: &["lora"], ..kind::<Train>() };
const SAMPLE: StageKind = StageKind { name: "sample", writes: &["image"], passes_fields_on: false, ..kind::<Sample>() };
const MERGE: StageKind = StageKind { name: "merge", writes: &["model"], passes_fields_on: false, ..kind::<Merge>() };

params! {
    /// Cuts pictures.
    pub struct Crop {
        /// The pictures.
        input images: Reference => Many["image"],
    }
}

choice! {
    /// What happens to pictures of another shape.
    pub enum Mode { Crop = "crop", Pad = "pad", Stretch = "stretch" }
}

params! {
    /// Scales pictures.
    pub struct Resize {
        /// The pictures.
        input images: Reference => Many["image"],
        /// Side in pixels.
        result size: u64 = 512,
        /// What happens to pictures of another shape.
        result mode: Mode = Mode::Crop,
    }
}

params! {
    /// Adds mirrored pictures.
    pub struct Flip {
        /// The pictures.
        input images: Reference => Many["image", "caption"],
    }
}

params! {
    /// The size of the network.
    pub struct Network {
        /// Inner dimension.
        result rank: u64 = 8,
        /// Its scale; the rank unless given.
        result alpha: Option<f64> = None,
    }
}

params! {
    /// Trains a LoRA.
    pub struct Train {
        /// The model to start from.
        input base: Reference => One["model"],
        /// The pictures.
        input images: Reference => Training["image", "caption"],
        /// The text of each picture.
        result instance_prompt: String = "[filewords]".to_string(),
        /// Passes over all pictures.
        result epochs: u64 = 100,
        /// Epochs between two checkpoints.
        result save_every: u64 = 10,
        /// Of all parts.
        result learning_rate: f64 = 1e-4,
        /// The size of the network.
        result network: Network = Network { rank: 8, alpha: None },
        /// Memory for time.
        execution checkpointing: bool = false,
    }
}

params! {
    /// Draws pictures.
    pub struct Sample {
        /// The model to draw with.
        input base: Reference => One["model"],
        /// Checkpoints to try.
        input lora: Vec<Reference> => Many["lora"],
        /// What to draw.
        result prompts: Vec<String>,
    }
}

params! {
    /// Adds a LoRA to a model.
    pub struct Merge {
        /// The model.
        input base: Reference => One["model"],
        /// The LoRA.
        input lora: Reference => Many["lora"],
    }
}

/// What differs from kind to kind.
trait Shape: Params + Clone + Send + Sync + 'static {
    const WHOLE: bool = false;
}

impl Shape for Crop {}
impl Shape for Resize {}
impl Shape for Flip {}
impl Shape for Sample {}
impl Shape for Merge {}

impl Shape for Train {
    const WHOLE: bool = true;
}

const fn kind<P: Shape>() -> StageKind {
    let (name, version, writes): (_, _, &[_]) = ("", 1, &[]);
    let (passes_fields_on, keeps, worth) = (true, true, Worth::Usual);
    StageKind { name, version, writes, passes_fields_on, keeps, worth, doc: P::DOC, params: P::fields, load: load::<P> }
}

fn load<P: Shape>(node: &Node, scope: &LoadScope<'_>, diagnostics: &mut Diagnostics) -> Option<Box<dyn Stage>> {
    P::decode_params(node, diagnostics).map(|params| Box::new(Loaded(params, scope.stage.to_string())) as Box<dyn Stage>)
}

/// The params and the name of the stage.
struct Loaded<P>(P, String);

impl<P: Shape> Loaded<P> {
    /// Those of a training.
    fn pictures(&self) -> Option<InputUse> {
        self.0.reads().into_iter().find(|reads| P::WHOLE && reads.param == "images")
    }
}

impl<P: Shape> Declared for Loaded<P> {
    fn results(&self) -> Vec<(String, serde_json::Value)> {
        self.0.results()
    }

    /// A training reads the latents of its pictures too.
    fn reads(&self) -> Vec<InputUse> {
        let latents = self.pictures().map(|images| {
            let reference = Reference::to(format!("{}/latents", self.1), &images.reference.span);
            InputUse { param: "latents".into(), reference, ..images }
        });
        self.0.reads().into_iter().chain(latents).collect()
    }
}

impl<P: Shape> Stage for Loaded<P> {
    fn form(&self) -> Form<'_> {
        if P::WHOLE { Form::Whole(self) } else { Form::Items(self) }
    }

    /// A training has the stage `latents`, which maps its pictures.
    fn sub_stages(&self) -> Vec<SubStage> {
        let stage = |images: InputUse| Box::new(Loaded(Crop { images: images.reference }, String::new())) as Box<dyn Stage>;
        self.pictures().map(stage).into_iter().map(|stage| SubStage { name: "latents", kind: &CROP, stage }).collect()
    }
}

impl<P: Shape> ItemStage for Loaded<P> {
    fn expand(&self, _: &Resolved, _: &dyn Files) -> anyhow::Result<Vec<Work>> {
        anyhow::bail!("a kind for loading only")
    }

    fn open<'a>(&'a self, _: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>> {
        anyhow::bail!("a kind for loading only")
    }

    fn finish(&self, _: &[Item], _: &dyn Files) -> anyhow::Result<Vec<Draft>> {
        anyhow::bail!("a kind for loading only")
    }
}

impl<P: Shape> WholeStage for Loaded<P> {
    fn run(&self, _: &Resolved, _: &dyn Context) -> anyhow::Result<Ended> {
        anyhow::bail!("a kind for loading only")
    }

    fn forecast(&self, _: &Resolved) -> Vec<(String, std::collections::BTreeMap<String, String>)> {
        Vec::new()
    }
}
