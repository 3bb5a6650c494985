//! The stage kinds, driven as the engine drives them, with artifacts in memory.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use loramill::engine::cache::batch::Stored;
use loramill::engine::cache::digest::Digest;
use loramill::engine::kind::item::{Artifact, Item};
use loramill::engine::kind::stage::{Content, Context, Draft, Files, Form, Progress, Resolved, Stage, StopRequest, Work};
use loramill::engine::kind::stage_kind::{LoadScope, StageKind};
use loramill::engine::syntax::diagnostic::{Diagnostic, Diagnostics};
use loramill::engine::syntax::tree::Source;
use loramill::engine::syntax::yaml;

mod keys;
mod mirrors;
mod models;
mod pictures;
#[cfg(feature = "nn")]
mod sample;
#[cfg(feature = "nn")]
mod train;
#[cfg(feature = "nn")]
mod velocity;

/// Artifacts in memory, and what the stages said.
struct Shelf {
    objects: Mutex<HashMap<Digest, Vec<u8>>>,
    shared: Mutex<HashMap<String, Arc<dyn Any + Send + Sync>>>,
    said: Mutex<Vec<String>>,
    /// Scratch, and where artifacts lie once somebody wants their path.
    folder: tempfile::TempDir,
}

impl Default for Shelf {
    fn default() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { objects: Mutex::default(), shared: Mutex::default(), said: Mutex::default(), folder }
    }
}

impl Shelf {
    fn put(&self, bytes: Vec<u8>, extension: &str) -> Artifact {
        let artifact = Artifact { digest: Digest::of(&bytes), size: bytes.len() as u64, extension: extension.into() };
        self.objects.lock().unwrap().insert(artifact.digest, bytes);
        artifact
    }

    fn item<const N: usize>(&self, name: &str, fields: [(&str, Artifact); N]) -> Item {
        let fields = fields.into_iter().map(|(field, artifact)| (field.to_string(), artifact)).collect();
        Item { name: name.into(), origin: None, fields, attributes: BTreeMap::new(), key: Digest::of(name.as_bytes()) }
    }

    fn bytes(&self, artifact: &Artifact) -> Vec<u8> {
        self.read(artifact).unwrap()
    }

    /// As the engine does with a draft: artifacts for its contents, and the carried fields that it lacks.
    fn keep(&self, work: &Work, draft: Draft) -> Item {
        let artifact = |content| match content {
            Content::Bytes { bytes, extension } => self.put(bytes, extension),
            Content::File { path, extension, written } => {
                let bytes = std::fs::read(path).unwrap();
                let read = Stored { digest: Digest::of(&bytes), size: bytes.len() as u64 };
                assert!(written.is_none_or(|written| written == read), "{}: another digest than the file has", draft.name);
                self.put(bytes, extension)
            }
            Content::Same(artifact) => artifact,
        };
        let mut fields = work.carry.clone();
        fields.extend(draft.fields.into_iter().map(|(field, content)| (field, artifact(content))));
        Item { name: draft.name, origin: draft.origin, fields, attributes: draft.attributes, key: Digest::of(b"") }
    }
}

impl Files for Shelf {
    fn path(&self, artifact: &Artifact) -> anyhow::Result<PathBuf> {
        let path = self.folder.path().join(format!("{}.{}", artifact.digest, artifact.extension));
        std::fs::write(&path, self.read(artifact)?)?;
        Ok(path)
    }

    fn read(&self, artifact: &Artifact) -> anyhow::Result<Vec<u8>> {
        self.objects.lock().unwrap().get(&artifact.digest).cloned().context("no such artifact")
    }
}

impl Context for Shelf {
    fn scratch(&self) -> &Path {
        self.folder.path()
    }

    fn device(&self) -> &str {
        "cpu"
    }

    fn publish(&self, _draft: Draft) -> anyhow::Result<()> {
        anyhow::bail!("item stages do not publish")
    }

    fn state(&self) -> anyhow::Result<&Path> {
        anyhow::bail!("item stages keep no state")
    }

    fn shared(
        &self,
        key: &str,
        make: &mut dyn FnMut() -> anyhow::Result<Arc<dyn Any + Send + Sync>>,
    ) -> anyhow::Result<Arc<dyn Any + Send + Sync>> {
        let mut shared = self.shared.lock().unwrap();
        if let Some(thing) = shared.get(key) {
            return Ok(thing.clone());
        }
        let thing = make()?;
        shared.insert(key.to_string(), thing.clone());
        Ok(thing)
    }

    fn progress(&self, _progress: Progress) {}

    fn say(&self, message: &str) {
        self.said.lock().unwrap().push(message.into());
    }

    fn stop_request(&self) -> StopRequest {
        StopRequest::GoOn
    }
}

/// Loads a stage from the YAML of its params.
fn load(kind: &StageKind, yaml: &str) -> Result<Box<dyn Stage>, Vec<Diagnostic>> {
    #[cfg(feature = "nn")]
    loramill::stages::shared::linked::link(&loramill::stages::network_work::NETWORK_WORK);
    let source = Arc::new(Source { name: "pipeline.yaml".into(), text: yaml.into() });
    let mut diagnostics = Diagnostics::default();
    let node = yaml::parse(&source, 0, &mut diagnostics).expect("the test's YAML is valid");
    let scope = LoadScope { stage: kind.name, concept: "star", trigger: "star", seed: 42 };
    let stage = (kind.load)(&node, &scope, &mut diagnostics);
    match (stage, diagnostics.is_empty()) {
        (Some(stage), true) => Ok(stage),
        (stage, _) => {
            assert!(stage.is_none() || !diagnostics.is_empty(), "a stage that does not load says why");
            Err(diagnostics.into_sorted())
        }
    }
}

fn resolved(inputs: impl IntoIterator<Item = (impl Into<String>, Vec<Item>)>) -> Resolved {
    Resolved { inputs: inputs.into_iter().map(|(param, items)| (param.into(), items.into())).collect(), complete: true }
}

fn expand(stage: &dyn Stage, inputs: &Resolved, shelf: &Shelf) -> anyhow::Result<Vec<Work>> {
    match stage.form() {
        Form::Items(stage) => stage.expand(inputs, shelf),
        Form::Whole(_) => panic!("an item stage was expected"),
    }
}

/// All outputs of an item stage, in the order of its work.
fn run(stage: &dyn Stage, inputs: &Resolved, shelf: &Shelf) -> anyhow::Result<Vec<Item>> {
    let Form::Items(items) = stage.form() else { panic!("an item stage was expected") };
    let worker = items.open(shelf)?;
    let mut outputs = Vec::new();
    for work in items.expand(inputs, shelf)? {
        outputs.extend(worker.run(&work, shelf)?.into_iter().map(|draft| shelf.keep(&work, draft)));
    }
    Ok(outputs)
}
