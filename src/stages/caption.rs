//! The kind `caption`: a text for each picture, in files that people edit.

use anyhow::Context as _;
use serde_json::json;

use crate::engine::kind::endings::Endings;
use crate::engine::kind::param_value::ParamValue;
use crate::engine::kind::params::Params;
use crate::engine::kind::reference::Reference;
use crate::engine::kind::stage::{Content, Context, Draft, Editable, Files, Form, ItemStage, Resolved, Stage, Work, Worker};
use crate::engine::kind::stage_kind::{LoadScope, StageKind, Worth};
use crate::engine::syntax::diagnostic::Diagnostics;
use crate::engine::syntax::tree::{Node, Value};
use crate::sd::data::captions::{self, NotATemplate, Place, Template};
use crate::{choice, params};

/// An item stage on the CPU, one piece of work per picture. Its key covers the sources of the text and not the pixels, so another
/// crop keeps the caption.
pub const KIND: StageKind = StageKind {
    name: "caption",
    version: 1,
    writes: &["caption"],
    worth: Worth::Precious,
    load,
    ..StageKind::of::<CaptionParams>()
};

params! {
    /// Gives each picture a text, and writes it to `captions/<name>.txt` beside the pipeline, in git and free to edit.
    ///
    /// What a person writes there stays, whatever the stage would say. A picture without any text has an empty caption, never its file's
    /// name. Captioning networks (`blip`, `deepbooru`, `wd14`) are not in this version.
    pub struct CaptionParams {
        /// The pictures.
        // A sidecar may be missing, so a picture is what must be there; the work of a picture does not read it.
        input images: Reference => Many["image", "sidecar"],
        /// Where the text comes from.
        result model: Model = Model::Sidecar,
        /// The text of `model: template`, the same for every picture but for its places: `{name}` is the picture's name without folders and
        /// ending, `_` and `-` read as spaces; `{folder}` the folder it lies in; `{sidecar}` the text beside the photo; `{{` a brace.
        result template: Option<Template> = None,
        /// How the names of the texts beside the photos end, one or several: `.caption`, `[.txt, .caption]`; `.png.txt` for
        /// `IMG_1.png.txt` beside `IMG_1.png`. Two texts for one photo are an error.
        input endings: Endings = Endings::usual(),
        /// Put before the text as written: end it with `, ` if it needs that.
        result prefix: String = String::new(),
        /// Put after the text as written.
        result suffix: String = String::new(),
    }
}

choice! {
    /// Who writes the text.
    pub enum Model {
        /// The text file beside the photo, `IMG_1.txt` beside `IMG_1.jpg`; empty if there is none.
        Sidecar = "sidecar",
        /// The param `template`.
        Template = "template",
        /// Nobody: the text is empty but for prefix and suffix.
        None = "none",
    }
}

/// Models that are networks, by the names they will have.
const NETWORKS: &[&str] = &["blip", "deepbooru", "wd14"];

impl ParamValue for Template {
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self> {
        match Self::parse(&String::decode(node, diagnostics)?) {
            Ok(template) => Some(template),
            Err(wrong) => {
                let problem = diagnostics.report(&node.span, wrong.to_string());
                problem.hint(format!("places are {{{}}}; write {{{{ and }}}} for braces", Place::WORDS.join("}, {")));
                if let NotATemplate::UnknownPlace(word) = &wrong {
                    problem.did_you_mean(word, Place::WORDS.iter().copied());
                }
                None
            }
        }
    }

    fn canonical(&self) -> serde_json::Value {
        json!(self.text())
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string" })
    }
}

/// `template` and `model: template` belong together.
fn load(node: &Node, _: &LoadScope<'_>, diagnostics: &mut Diagnostics) -> Option<Box<dyn Stage>> {
    if let Some(Node { value: Value::Text(model), span, .. }) = node.get("model")
        && NETWORKS.contains(&model.as_str())
    {
        diagnostics
            .report(span, format!("`model: {model}` comes with a captioning network, not in this version"))
            .hint(format!("known here: {}; put captions made elsewhere beside the photos", Model::WORDS.join(", ")));
        return None;
    }
    let params = CaptionParams::decode_params(node, diagnostics)?;
    match (params.model, &params.template) {
        (Model::Template, None) => {
            diagnostics.report(&node.span, "`template` is missing").hint("write `template: \"photo of {name}\"`");
            None
        }
        (Model::Sidecar | Model::None, Some(_)) => {
            let place = node.get("template").map_or(&node.span, |template| &template.span);
            diagnostics.report(place, "`template` is read with `model: template` only").hint("add `model: template`");
            None
        }
        _ => Some(Box::new(params)),
    }
}

impl Stage for CaptionParams {
    fn form(&self) -> Form<'_> {
        Form::Items(self)
    }

    fn sidecar_endings(&self) -> Option<&Endings> {
        self.asks_for(Place::Sidecar).then_some(&self.endings)
    }

    fn editable(&self) -> Option<Editable> {
        Some(Editable { field: "caption", folder: "captions", extension: "txt", is_quick: true })
    }
}

impl CaptionParams {
    fn asks_for(&self, place: Place) -> bool {
        match self.model {
            Model::Sidecar => place == Place::Sidecar,
            Model::Template => self.template.as_ref().is_some_and(|template| template.asks_for(place)),
            Model::None => false,
        }
    }
}

impl ItemStage for CaptionParams {
    fn expand(&self, inputs: &Resolved, _files: &dyn Files) -> anyhow::Result<Vec<Work>> {
        // Only what the text is made of is in an item's key: another crop of the photo leaves its caption alone.
        let reads: &[&str] = if self.asks_for(Place::Sidecar) { &["sidecar"] } else { &[] };
        let work = inputs.items("images").iter().map(|item| {
            let mut work = Work::of_item(item, reads);
            let texts =
                [(Place::Name, captions::name_in_words(&item.name)), (Place::Folder, captions::folder_in_words(&item.name))];
            let asked = texts.into_iter().filter(|(place, _)| self.asks_for(*place));
            work.values.extend(asked.map(|(place, text)| (place.word().to_string(), json!(text))));
            work
        });
        Ok(work.collect())
    }

    fn open<'a>(&'a self, _context: &dyn Context) -> anyhow::Result<Box<dyn Worker + 'a>> {
        Ok(Box::new(self.clone()))
    }
}

impl Worker for CaptionParams {
    fn run(&self, work: &Work, context: &dyn Context) -> anyhow::Result<Vec<Draft>> {
        let sidecar = match work.inputs.get("sidecar") {
            None => String::new(),
            Some(file) => {
                let reading = || format!("reading `{}.{}`", work.name, file.extension);
                captions::check_size(file.size).and_then(|()| captions::normalise(&context.read(file)?)).with_context(reading)?
            }
        };
        let value = |place: Place| work.values.get(place.word()).and_then(serde_json::Value::as_str).unwrap_or_default();
        let text = match (self.model, &self.template) {
            (Model::Template, Some(template)) => template.fill(|place| match place {
                Place::Name | Place::Folder => value(place),
                Place::Sidecar => &sidecar,
            }),
            (Model::Sidecar, _) => sidecar,
            (Model::None, _) | (Model::Template, None) => String::new(),
        };
        let caption = captions::normalise(captions::surround(&self.prefix, &text, &self.suffix).as_bytes())?;
        let draft = Draft { origin: work.origin.clone(), ..Draft::new(&work.name) };
        Ok(vec![draft.field("caption", Content::Bytes { bytes: caption.into_bytes(), extension: "txt" })])
    }
}
