//! Stage kinds with the shapes of the real ones, to load pipelines with. They never run.

use loramill::engine::kind::item::Item;
use loramill::engine::kind::params::{ParamDoc, Params};
use loramill::engine::kind::reference::Reference;
use loramill::engine::kind::stage::{
    Context, Draft, Ended, Files, Form, InputShape, InputUse, ItemStage, LoadScope, Resolved, Stage, StageKind, SubStage,
    WholeStage, Work, Worker,
};
use loramill::engine::syntax::diagnostic::Diagnostics;
use loramill::engine::syntax::tree::Node;
use loramill::{choice, params};

pub const KINDS: &[&dyn StageKind] = &[
    &Kind::<Crop>::NEW,
    &Kind::<Resize>::NEW,
    &Kind::<Flip>::NEW,
    &Kind::<Train>::NEW,
    &Kind::<Sample>::NEW,
    &Kind::<Merge>::NEW,
];

params! {
    /// Cuts pictures.
    pub struct Crop {
        /// The pictures.
        input images: Reference,
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
        input images: Reference,
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
        input images: Reference,
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
        input base: Reference,
        /// The pictures.
        input images: Reference,
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
        input base: Reference,
        /// Checkpoints to try.
        input lora: Vec<Reference>,
        /// What to draw.
        result prompts: Vec<String>,
    }
}

params! {
    /// Adds a LoRA to a model.
    pub struct Merge {
        /// The model.
        input base: Reference,
        /// The LoRA.
        input lora: Reference,
    }
}

/// What differs from kind to kind.
trait Shape: Params + Clone + Send + Sync + 'static {
    const NAME: &'static str;
    const WRITES: &'static [&'static str];
    const PASSES: bool = true;
    const WHOLE: bool = false;

    fn read(param: &str) -> (&'static [&'static str], InputShape);
}

impl Shape for Crop {
    const NAME: &'static str = "crop";
    const WRITES: &'static [&'static str] = &["image"];

    fn read(_: &str) -> (&'static [&'static str], InputShape) {
        (&["image"], InputShape::Many)
    }
}

impl Shape for Resize {
    const NAME: &'static str = "resize";
    const WRITES: &'static [&'static str] = &["image"];

    fn read(_: &str) -> (&'static [&'static str], InputShape) {
        (&["image"], InputShape::Many)
    }
}

impl Shape for Flip {
    const NAME: &'static str = "flip";
    const WRITES: &'static [&'static str] = &["image"];

    fn read(_: &str) -> (&'static [&'static str], InputShape) {
        (&["image", "caption"], InputShape::Many)
    }
}

impl Shape for Train {
    const NAME: &'static str = "train";
    const WRITES: &'static [&'static str] = &["lora"];
    const WHOLE: bool = true;

    fn read(param: &str) -> (&'static [&'static str], InputShape) {
        match param {
            "base" => (&["model"], InputShape::One),
            _ => (&["image", "caption"], InputShape::Training),
        }
    }
}

impl Shape for Sample {
    const NAME: &'static str = "sample";
    const WRITES: &'static [&'static str] = &["image"];
    const PASSES: bool = false;

    fn read(param: &str) -> (&'static [&'static str], InputShape) {
        match param {
            "base" => (&["model"], InputShape::One),
            _ => (&["lora"], InputShape::Many),
        }
    }
}

impl Shape for Merge {
    const NAME: &'static str = "merge";
    const WRITES: &'static [&'static str] = &["model"];
    const PASSES: bool = false;

    fn read(param: &str) -> (&'static [&'static str], InputShape) {
        Sample::read(param)
    }
}

struct Kind<P>(std::marker::PhantomData<fn() -> P>);

impl<P> Kind<P> {
    const NEW: Self = Self(std::marker::PhantomData);
}

impl<P: Shape> StageKind for Kind<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn doc(&self) -> &'static str {
        P::DOC
    }

    fn params(&self) -> Vec<ParamDoc> {
        P::fields()
    }

    fn writes(&self) -> &'static [&'static str] {
        P::WRITES
    }

    fn passes_fields_on(&self) -> bool {
        P::PASSES
    }

    fn load(&self, node: &Node, scope: &LoadScope<'_>, diagnostics: &mut Diagnostics) -> Option<Box<dyn Stage>> {
        P::decode_params(node, diagnostics).map(|params| Box::new(Loaded(params, scope.stage.to_string())) as Box<dyn Stage>)
    }
}

/// The params and the name of the stage.
struct Loaded<P>(P, String);

impl<P: Shape> Stage for Loaded<P> {
    fn components(&self) -> Vec<(String, serde_json::Value)> {
        self.0.components()
    }

    fn inputs(&self) -> Vec<InputUse> {
        let used = |(param, reference): (String, Reference)| {
            let (reads, shape) = P::read(param.split('[').next().unwrap_or_default());
            InputUse { param, reference, reads, shape }
        };
        let mut references = self.0.input_references();
        // A training reads the latents of its pictures.
        let images = references.iter().find(|(param, _)| P::WHOLE && param == "images").map(|(_, images)| images.clone());
        if let Some(images) = images {
            references.push(("latents".into(), Reference::to(format!("{}/latents", self.1), &images.span)));
        }
        references.into_iter().map(used).collect()
    }

    fn form(&self) -> Form<'_> {
        if P::WHOLE { Form::Whole(self) } else { Form::Items(self) }
    }

    /// A training has the stage `latents`, which maps its pictures.
    fn sub_stages(&self) -> Vec<SubStage> {
        let images = self.0.input_references().into_iter().find(|(param, _)| P::WHOLE && param == "images");
        let stage = |(_, images): (String, Reference)| Box::new(Loaded(Crop { images }, String::new())) as Box<dyn Stage>;
        images.map(stage).into_iter().map(|stage| SubStage { name: "latents", kind: &Kind::<Crop>::NEW, stage }).collect()
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
