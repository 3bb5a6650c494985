//! Two kinds more, for random pipelines: one that makes two items of one, and one that reads all that a photo has.

use std::collections::BTreeMap;

use loramill_engine::kind::reference::Reference;
use loramill_engine::kind::stage::{Content, Context, Draft, Files, Form, ItemStage, Resolved, Stage, Work, Worker};
use loramill_engine::kind::stage_kind::StageKind;
use loramill_engine::params;

use crate::kinds::{CAPTION, CUT, DRAW, ECHO, GATHER, LATER_ECHO, LEARN, text, txt, write_down};

pub const KINDS: &[&StageKind] = &[&ECHO, &CUT, &TWIN, &JOIN, &CAPTION, &LEARN, &DRAW, &GATHER];
/// As `KINDS`, and `echo` works in another way than before.
pub const LATER_KINDS: &[&StageKind] = &[&LATER_ECHO, &CUT, &TWIN, &JOIN, &CAPTION, &LEARN, &DRAW, &GATHER];

params! {
    /// Gives each text, and once more with a sign after it under a name of its own.
    pub struct Twin {
        /// The texts.
        input images: Reference => Many["image"],
        /// What comes after the text, and after the name.
        result sign: String,
        /// Where to write down what was done.
        execution log: String = String::new(),
    }
}

const TWIN: StageKind = StageKind { name: "twin", version: 1, writes: &["image"], ..StageKind::of::<Twin>() };

impl Stage for Twin {
    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }
}

impl ItemStage for Twin {
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> anyhow::Result<Vec<Work>> {
        Ok(inputs.items("images").iter().map(|item| Work::of_item(item, &["image"])).collect())
    }
    fn outputs(&self, work: &Work) -> Vec<String> {
        vec![work.name.clone(), format!("{}~{}", work.name, self.sign)]
    }
    fn open<'a>(&'a self, _context: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(TwinWorker(self)))
    }
}

struct TwinWorker<'a>(&'a Twin);

impl Worker for TwinWorker<'_> {
    fn run(&self, work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>> {
        let image = &work.inputs["image"];
        let said = text(context.read(image)?);
        write_down(&self.0.log, &format!("twin {}", work.name));
        let original = Draft { origin: work.origin.clone(), ..Draft::new(&work.name) };
        let origin = work.origin.clone().unwrap_or_else(|| work.name.clone());
        let second = Draft { origin: Some(origin), ..Draft::new(format!("{}~{}", work.name, self.0.sign)) };
        Ok(vec![original.field("image", Content::Same(image.clone())), second.field("image", txt(said + &self.0.sign))])
    }
}

/// What `join` reads; only the first must be there.
pub const JOINED: [&str; 3] = ["image", "caption", "sidecar"];

params! {
    /// Puts what an item has into one text.
    pub struct Join {
        /// The items.
        input images: Reference => Many JOINED,
        /// Where to write down what was done.
        execution log: String = String::new(),
    }
}

const JOIN: StageKind = StageKind { name: "join", version: 1, writes: &["image"], ..StageKind::of::<Join>() };

impl Stage for Join {
    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }
}

impl ItemStage for Join {
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> anyhow::Result<Vec<Work>> {
        Ok(inputs.items("images").iter().map(|item| Work::of_item(item, &JOINED)).collect())
    }
    fn open<'a>(&'a self, _context: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(JoinWorker(self)))
    }
}

struct JoinWorker<'a>(&'a Join);

impl Worker for JoinWorker<'_> {
    fn run(&self, work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>> {
        let inputs = work.inputs.iter();
        let fields = inputs.map(|(field, artifact)| Ok((field.to_string(), text(context.read(artifact)?))));
        let fields = fields.collect::<anyhow::Result<BTreeMap<String, String>>>()?;
        write_down(&self.0.log, &format!("join {}", work.name));
        Ok(vec![Draft::new(&work.name).field("image", txt(joined(&fields)))])
    }
}

/// What `join` makes of the fields it read.
pub fn joined(fields: &BTreeMap<String, String>) -> String {
    let parts: Vec<String> = fields.iter().map(|(field, said)| format!("{field}={said}")).collect();
    format!("<{}>", parts.join("|"))
}
