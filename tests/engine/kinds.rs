//! Kinds that work on texts instead of pictures, and write down what they do.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use loramill_engine::kind::input_use::ImpliedInput;
use loramill_engine::kind::item::{Fields, Item, by_content};
use loramill_engine::kind::params::Declared;
use loramill_engine::kind::reference::Reference;
use loramill_engine::kind::stage::{
    Content, Context, Draft, Editable, Effort, Ended, Epochs, Files, Form, ItemSize, ItemStage, Reached, Resolved, Stage,
    StopRequest, WholeStage, Work, Worker,
};
use loramill_engine::kind::stage_kind::StageKind;
use loramill_engine::params;
use loramill_engine::run::retry::MayPass;
use serde_json::json;

pub const KINDS: &[&StageKind] = &[&ECHO, &CUT, &CAPTION, &LEARN, &DRAW, &GATHER];
/// As `KINDS`, and `echo` works in another way than before.
pub const LATER_KINDS: &[&StageKind] = &[&LATER_ECHO, &CUT, &CAPTION, &LEARN, &DRAW, &GATHER];

/// Appends a line to the file that the pipeline names, if any.
pub fn write_down(log: &str, line: &str) {
    if !log.is_empty() {
        let mut file = OpenOptions::new().create(true).append(true).open(log).expect("the log can be written");
        file.write_all(format!("{line}\n").as_bytes()).expect("the log can be written");
    }
}

/// Fails in a way that may pass, until `line` was written down `times` times.
fn busy(log: &str, line: &str, times: u64) -> anyhow::Result<()> {
    let before = fs::read_to_string(log).unwrap_or_default().lines().filter(|l| *l == line).count() as u64;
    if before < times {
        write_down(log, line);
        return Err(MayPass(anyhow::anyhow!("the device is busy")).into());
    }
    Ok(())
}

pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("test files are texts")
}

pub fn txt(text: String) -> Content {
    Content::Bytes { bytes: text.into_bytes(), extension: "txt" }
}

params! {
    /// Gives the text of each item back, with something after it.
    pub struct Echo {
        /// The texts.
        input images: Reference => Many["image"],
        /// What comes after the text.
        result suffix: String = String::new(),
        /// Changes nothing but the cost.
        execution speed: u64 = 0,
        /// How large its items are.
        execution size: u64 = 0,
        /// Comes after the text and the suffix, as if another device had done the work.
        execution accent: String = String::new(),
        /// Milliseconds for each item.
        execution delay: u64 = 0,
        /// So often an item fails in a way that passes, before it is done.
        execution busy: u64 = 0,
        /// Where to write down what was done.
        execution log: String = String::new(),
    }
}

pub const ECHO: StageKind = StageKind { name: "echo", version: 1, writes: &["image"], ..StageKind::of::<Echo>() };
pub const LATER_ECHO: StageKind = StageKind { version: 2, ..ECHO };

impl Stage for Echo {
    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }
    fn item_size(&self) -> ItemSize {
        if self.size > 0 { ItemSize::Fixed(self.size as f64) } else { ItemSize::AsTaken }
    }
}

impl ItemStage for Echo {
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> anyhow::Result<Vec<Work>> {
        Ok(inputs.items("images").iter().map(|item| Work::of_item(item, &["image"])).collect())
    }
    fn open<'a>(&'a self, _context: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(EchoWorker(self)))
    }
}

struct EchoWorker<'a>(&'a Echo);

impl Worker for EchoWorker<'_> {
    fn run(&self, work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>> {
        let said = text(context.read(&work.inputs["image"])?);
        anyhow::ensure!(!said.contains("broken"), "the text is broken");
        assert!(!said.contains("panic"), "the text makes it panic");
        thread::sleep(Duration::from_millis(self.0.delay));
        busy(&self.0.log, &format!("busy {}", work.name), self.0.busy)?;
        write_down(&self.0.log, &format!("echo {}", work.name));
        Ok(vec![Draft::new(&work.name).field("image", txt(format!("{said}{}{}", self.0.suffix, self.0.accent)))])
    }
}

params! {
    /// Keeps the first letters of each text.
    pub struct Cut {
        /// The texts.
        input images: Reference => Many["image"],
        /// How many letters are kept.
        result letters: u64 = 3,
        /// Where to write down what was done.
        execution log: String = String::new(),
    }
}

pub const CUT: StageKind = StageKind { name: "cut", version: 1, writes: &["image"], ..StageKind::of::<Cut>() };

impl Stage for Cut {
    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }
}

impl ItemStage for Cut {
    fn effort(&self, _work: &Work, item_size: Option<f64>) -> Option<Effort> {
        Some(Effort { amount: item_size.unwrap_or(1.0), ..Effort::default() })
    }
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> anyhow::Result<Vec<Work>> {
        Ok(inputs.items("images").iter().map(|item| Work::of_item(item, &["image"])).collect())
    }
    fn open<'a>(&'a self, _context: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(CutWorker(self)))
    }
}

struct CutWorker<'a>(&'a Cut);

impl Worker for CutWorker<'_> {
    fn run(&self, work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>> {
        let said = text(context.read(&work.inputs["image"])?);
        write_down(&self.0.log, &format!("cut {}", work.name));
        let kept: String = said.chars().take(self.0.letters as usize).collect();
        Ok(vec![Draft::new(&work.name).field("image", txt(kept))])
    }
}

params! {
    /// Says something about each text, for people to correct.
    pub struct Caption {
        /// The texts.
        input images: Reference => Many["image"],
        /// What comes before the text.
        result prefix: String = "a ".to_string(),
        /// Is asked also where it is not known who wrote a text.
        execution quick: bool = false,
        /// Where to write down what was done.
        execution log: String = String::new(),
    }
}

pub const CAPTION: StageKind = StageKind { name: "caption", version: 1, writes: &["caption"], ..StageKind::of::<Caption>() };

impl Stage for Caption {
    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }
    fn editable(&self) -> Option<Editable> {
        Some(Editable { field: "caption", folder: "captions", extension: "txt", is_quick: self.quick })
    }
}

impl ItemStage for Caption {
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> anyhow::Result<Vec<Work>> {
        Ok(inputs.items("images").iter().map(|item| Work::of_item(item, &["image"])).collect())
    }
    fn open<'a>(&'a self, _context: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(CaptionWorker(self)))
    }
}

struct CaptionWorker<'a>(&'a Caption);

impl Worker for CaptionWorker<'_> {
    fn run(&self, work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>> {
        let said = text(context.read(&work.inputs["image"])?);
        write_down(&self.0.log, &format!("caption {}", work.name));
        Ok(vec![Draft::new(&work.name).field("caption", txt(format!("{}{said}", self.0.prefix)))])
    }
}

params! {
    /// Learns texts by heart, epoch by epoch, and saves now and then.
    pub struct Learn {
        /// The texts.
        input images: Reference => Training["image", "caption"],
        /// A file to start from.
        input base: Option<Reference> = None => One["model"],
        /// How often all texts are seen.
        result epochs: u64 = 4,
        /// Epochs between two checkpoints.
        result save_every: u64 = 2,
        /// Decides what is learned.
        result rate: f64 = 1.0,
        /// Milliseconds for each epoch.
        execution delay: u64 = 0,
        /// Fails at this epoch.
        execution fail_at: u64 = 0,
        /// Fails at this epoch in a way that passes, once.
        execution busy_at: u64 = 0,
        /// Sends itself the request to stop at this epoch: waits until it comes.
        execution wait_at: u64 = 0,
        /// Where to write down what was done.
        execution log: String = String::new(),
    }
}

pub const LEARN: StageKind =
    StageKind { name: "learn", version: 1, writes: &["lora"], passes_fields_on: false, ..StageKind::of::<Learn>() };

impl Stage for Learn {
    fn form(&self) -> Form<'_> {
        Form::Whole(self)
    }
    fn uses_device(&self) -> bool {
        true
    }
}

impl Learn {
    fn texts(&self, inputs: &Resolved, context: &dyn Context) -> anyhow::Result<String> {
        let mut all = match &self.base {
            Some(_) => text(fs::read(context.path(inputs.one("base", "model")?)?)?),
            None => String::new(),
        };
        for item in by_content(inputs.items("images"), &["image", "caption"]) {
            for artifact in item.fields.values() {
                all.push_str(&text(context.read(artifact)?));
            }
        }
        Ok(all)
    }
}

impl WholeStage for Learn {
    fn run(&self, inputs: &Resolved, context: &dyn Context) -> anyhow::Result<Ended> {
        let texts = self.texts(inputs, context)?;
        let state = context.state()?.join("epoch");
        let first = match fs::read_to_string(&state) {
            Ok(done) => done.trim().parse::<u64>()? + 1,
            Err(_) => 1,
        };
        for epoch in first..=self.epochs {
            thread::sleep(Duration::from_millis(self.delay));
            anyhow::ensure!(epoch != self.fail_at, "nothing is learned at epoch {epoch}");
            busy(&self.log, &format!("busy {epoch}"), u64::from(epoch == self.busy_at))?;
            while epoch == self.wait_at && context.stop_request() == StopRequest::GoOn {
                thread::sleep(Duration::from_millis(1));
            }
            match context.stop_request() {
                StopRequest::Interrupt => return Ok(Ended::Interrupted),
                StopRequest::Stop => {
                    self.save(epoch, &texts, context)?;
                    return Ok(Ended::Stopped(format!("stopped at epoch {epoch} of {}", self.epochs)));
                }
                StopRequest::SaveNow | StopRequest::GoOn => {}
            }
            write_down(&self.log, &format!("learn {epoch}"));
            if epoch % self.save_every == 0 || epoch == self.epochs {
                self.save(epoch, &texts, context)?;
            }
            // After the checkpoint, as training does: what the state counts as done is published.
            let next = context.scratch().join("epoch");
            fs::write(&next, epoch.to_string())?;
            fs::rename(&next, &state)?;
        }
        Ok(Ended::Done)
    }

    fn effort(&self, inputs: &Resolved, item_size: Option<f64>) -> Option<Effort> {
        let base = self.base.as_ref().and_then(|_| inputs.one("base", "model").ok());
        let amount = item_size.unwrap_or(1.0) * (self.epochs * inputs.items("images").len() as u64) as f64;
        Some(Effort { amount, like: base.map(|base| base.digest.short()).unwrap_or_default() })
    }

    fn reached(&self, _inputs: &Resolved, state: &Path, _is_published: &dyn Fn(&str) -> bool) -> Reached {
        let done = fs::read_to_string(state.join("epoch")).ok().and_then(|done| done.trim().parse::<u64>().ok());
        match done {
            None => Reached::Start,
            Some(done) => {
                Reached::Part { share: done as f64 / self.epochs as f64, words: format!("after epoch {done} of {}", self.epochs) }
            }
        }
    }

    fn epochs(&self) -> Option<Epochs> {
        Some(Epochs { every: self.save_every, last: self.epochs })
    }

    fn forecast(&self, _inputs: &Resolved) -> Vec<(String, BTreeMap<String, String>)> {
        (1..=self.epochs)
            .filter(|epoch| epoch % self.save_every == 0 || *epoch == self.epochs)
            .map(|epoch| (format!("e{epoch:03}"), BTreeMap::from([("epoch".to_string(), epoch.to_string())])))
            .collect()
    }
}

impl Learn {
    fn save(&self, epoch: u64, texts: &str, context: &dyn Context) -> anyhow::Result<()> {
        write_down(&self.log, &format!("save {epoch}"));
        let learned = format!("{texts} x{epoch} at {}", self.rate);
        context.publish(Draft::new(format!("e{epoch:03}")).field("lora", txt(learned)).attribute("epoch", epoch))
    }
}

params! {
    /// Draws what each checkpoint learned.
    pub struct Draw {
        /// The checkpoints.
        input lora: Reference => Many["lora"],
        /// What to draw.
        result prompts: Vec<String>,
        /// Milliseconds for each drawing.
        execution delay: u64 = 0,
        /// Where to write down what was done.
        execution log: String = String::new(),
    }
}

pub const DRAW: StageKind =
    StageKind { name: "draw", version: 1, writes: &["image"], passes_fields_on: false, ..StageKind::of::<Draw>() };

impl Stage for Draw {
    fn components(&self) -> Vec<(String, serde_json::Value)> {
        // Prompts are values of the works: a further one redraws nothing.
        self.results().into_iter().filter(|(name, _)| !name.starts_with("prompts")).collect()
    }
    fn implied_inputs(&self) -> Vec<ImpliedInput> {
        let (param, through) = ("images".to_string(), "lora".to_string());
        let captions = ImpliedInput { param, through, theirs: "images", reads: &["image"], purpose: "`[filewords]`" };
        if self.prompts.iter().any(|prompt| prompt.contains("[filewords]")) { vec![captions] } else { Vec::new() }
    }
    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }
    fn uses_device(&self) -> bool {
        true
    }
}

impl ItemStage for Draw {
    fn expand(&self, inputs: &Resolved, files: &dyn Files) -> anyhow::Result<Vec<Work>> {
        let filewords = match inputs.items("images").first() {
            Some(item) => text(files.read(&item.fields["image"])?),
            None => String::new(),
        };
        let work = |item: &Item, place: usize, prompt: &String| Work {
            name: format!("{}-{place}", item.name),
            origin: None,
            values: BTreeMap::from([("prompt".to_string(), json!(prompt.replace("[filewords]", &filewords)))]),
            inputs: Fields::from([("lora", item.fields["lora"].clone())]),
            carry: Fields::new(),
            attributes: item.attributes.clone(),
        };
        let items = inputs.items("lora");
        Ok(items.iter().flat_map(|item| self.prompts.iter().enumerate().map(|(n, p)| work(item, n, p))).collect())
    }
    fn open<'a>(&'a self, _context: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(DrawWorker(self)))
    }
    fn finish(&self, outputs: &[Item], _files: &dyn Files) -> anyhow::Result<Vec<Draft>> {
        write_down(&self.log, &format!("grid of {}", outputs.len()));
        Ok(vec![Draft::new("grid").field("image", txt(format!("{} drawings", outputs.len())))])
    }
}

struct DrawWorker<'a>(&'a Draw);

impl Worker for DrawWorker<'_> {
    fn run(&self, work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>> {
        let learned = text(context.read(&work.inputs["lora"])?);
        let prompt = work.values["prompt"].as_str().expect("a text");
        anyhow::ensure!(prompt != "impossible", "that cannot be drawn");
        thread::sleep(Duration::from_millis(self.0.delay));
        write_down(&self.0.log, &format!("draw {}", work.name));
        Ok(vec![Draft::new(&work.name).field("image", txt(format!("{prompt}: {learned}")))])
    }
}

params! {
    /// Puts all texts into one.
    pub struct Gather {
        /// The texts.
        input images: Reference => Many["image"],
        /// Where to write down what was done.
        execution log: String = String::new(),
    }
}

pub const GATHER: StageKind =
    StageKind { name: "gather", version: 1, writes: &["image"], passes_fields_on: false, ..StageKind::of::<Gather>() };

impl Stage for Gather {
    fn form(&self) -> Form<'_> {
        Form::Whole(self)
    }
}

impl WholeStage for Gather {
    fn run(&self, inputs: &Resolved, context: &dyn Context) -> anyhow::Result<Ended> {
        let mut all = String::new();
        for item in by_content(inputs.items("images"), &["image"]) {
            all.push_str(&text(context.read(&item.fields["image"])?));
        }
        write_down(&self.log, "gather");
        context.publish(Draft::new("all").field("image", txt(all)))?;
        Ok(Ended::Done)
    }
    fn forecast(&self, _inputs: &Resolved) -> Vec<(String, BTreeMap<String, String>)> {
        vec![("all".to_string(), BTreeMap::new())]
    }
}
