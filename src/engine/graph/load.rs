//! From a pipeline file to a pipeline: kinds found, params typed, inputs looked up, edges checked. All problems come at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use globset::{GlobBuilder, GlobSetBuilder};

use crate::cache::digest::Digest;
use crate::graph::checkpoints;
use crate::graph::companions;
use crate::graph::edges;
use crate::graph::load_stages::{FileScope, load_stages};
use crate::graph::parsed_file::{ParsedFile, entries};
use crate::graph::pipeline::{LoadedStage, Pipeline, Producer};
use crate::graph::sidecars;
use crate::graph::stage_id::StageVec;
use crate::inputs::input::{Found, Input, Skip};
use crate::inputs::sources::{self, Photos, Surroundings};
use crate::kind::names::is_name;
use crate::kind::param_value::ParamValue;
use crate::kind::stage_kind::StageKind;
use crate::syntax::diagnostic::{Diagnostic, Diagnostics, nearest};
use crate::syntax::settings::TOP_LEVEL;
use crate::syntax::tree::{Node, Span, Value};
use crate::syntax::vars;

/// The seed of a file that names none.
const DEFAULT_SEED: u64 = 42;

/// Reads `file`, applies the settings that were given by `--set` and checks everything that can be checked without running a
/// stage.
pub fn load(
    file: &Path,
    given: &[String],
    surroundings: &Surroundings,
    kinds: &[&'static StageKind],
) -> Result<Pipeline, Vec<Diagnostic>> {
    load_parsed(&ParsedFile::read(file, given, surroundings)?, surroundings, kinds, Looks::IntoFolders)
}

/// As `load`, of a file that was read already.
pub fn load_parsed(
    parsed: &ParsedFile,
    surroundings: &Surroundings,
    kinds: &[&'static StageKind],
    looks: Looks,
) -> Result<Pipeline, Vec<Diagnostic>> {
    let mut later = Diagnostics::default();
    let mut loader = Loader {
        root: &parsed.root,
        mistyped: BTreeMap::new(),
        folder: &parsed.folder,
        surroundings,
        kinds,
        looks,
        diagnostics: &mut later,
        remarks: Vec::new(),
    };
    let pipeline = loader.pipeline(&parsed.file, &parsed.settings, parsed.source);
    vars::show_origins(&parsed.root, &mut later);
    let mut diagnostics = parsed.problems.clone();
    diagnostics.absorb(later, |problem| !parsed.is_wrong_at(&problem.span));
    if diagnostics.is_empty() { Ok(pipeline) } else { Err(diagnostics.into_sorted()) }
}

/// Whether the photos of folders are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    IntoFolders,
    /// Lists of photos are empty, and what is wrong with them is not found.
    Elsewhere,
}

struct Loader<'a> {
    root: &'a Node,
    /// What stands under an unknown key, by the known one that it seems to be meant for and that is missing.
    mistyped: BTreeMap<&'static str, &'a Node>,
    folder: &'a Path,
    surroundings: &'a Surroundings,
    kinds: &'a [&'static StageKind],
    looks: Looks,
    diagnostics: &'a mut Diagnostics,
    remarks: Vec<String>,
}

impl Loader<'_> {
    fn pipeline(&mut self, file: &Path, settings: &[String], source: Digest) -> Pipeline {
        self.check_keys();
        let concept = self.name_of("concept");
        if concept.is_none() && self.root.get("concept").is_none() && !self.mistyped.contains_key("concept") {
            let start = Span { end: self.root.span.start, ..self.root.span.clone() };
            self.diagnostics.report(&start, "`concept` is missing").hint("add `concept: NAME` at the top: what is taught");
        }
        let concept = concept.unwrap_or_default();
        let trigger = self.decode::<String>("trigger").unwrap_or_else(|| concept.clone());
        let seed = self.decode::<u64>("seed").unwrap_or(DEFAULT_SEED);
        let pick = self.decode::<u64>("pick");
        let skip = self.skip();
        let names = self.names();
        let mut inputs = self.inputs(&names, &skip);
        let mut failed: Vec<String> =
            names.keys().filter(|name| !inputs.iter().any(|input| input.name == **name)).cloned().collect();
        let scope = FileScope { concept: &concept, trigger: &trigger, seed };
        if self.root.get("stages").is_none() && !self.mistyped.contains_key("stages") {
            let start = Span { end: self.root.span.start, ..self.root.span.clone() };
            self.diagnostics.report(&start, "`stages` is missing").hint("`loramill init NAME` writes a pipeline to begin with");
        }
        let (stages, variants) = load_stages(self.root, &names, &scope, self.kinds, self.diagnostics);
        failed.extend(self.names_under_mistyped_keys());
        failed.retain(|name| !stages.iter().any(|stage| stage.base_name == *name));
        inputs.extend(companions::find(&stages, &inputs, &names));
        let inputs_are_readable =
            matches!(self.root.get("inputs").map(|node| &node.value), None | Some(Value::Map(_) | Value::Null));
        let failed = edges::Failed { names: &failed, any: !inputs_are_readable };
        let scene = edges::Scene { inputs: &inputs, failed, variants: &variants, names: &names };
        let mut stages = edges::join(stages, &scene, self.diagnostics);
        let picked = pick.and_then(|epoch| Some((epoch, &self.root.get("pick")?.span)));
        checkpoints::check(&stages, picked, self.diagnostics);
        tell_readers(&mut stages);
        self.remark_on(&inputs, &stages, &skip);
        let mut photo_remarks = Vec::new();
        sidecars::pair_all(&mut inputs, &stages, &mut photo_remarks, self.diagnostics);
        Pipeline {
            file: file.to_path_buf(),
            folder: self.folder.to_path_buf(),
            source,
            concept,
            trigger,
            seed,
            skip,
            pick,
            settings: settings.to_vec(),
            inputs,
            stages,
            remarks: std::mem::take(&mut self.remarks),
            photo_remarks,
        }
    }

    fn check_keys(&mut self) {
        for (key, node) in entries(self.root) {
            if !TOP_LEVEL.contains(&key.name.as_str()) {
                let is_kind = self.kinds.iter().any(|kind| kind.name == key.name);
                let meant = nearest(&key.name, TOP_LEVEL.iter().copied());
                let problem = self.diagnostics.report(&key.span, format!("unknown key `{}`", key.name));
                problem.hint(match meant {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("known here: {}", TOP_LEVEL.join(", ")),
                });
                if let Some(meant) = meant.filter(|meant| self.root.get(meant).is_none()) {
                    self.mistyped.entry(meant).or_insert(node);
                }
                if is_kind {
                    problem.hint("stages belong under `stages:`");
                }
            }
        }
    }

    /// Names that references may mean once a key is spelled right.
    fn names_under_mistyped_keys(&self) -> Vec<String> {
        let sections = ["inputs", "stages"].into_iter().filter_map(|section| self.mistyped.get(section));
        sections.flat_map(|section| entries(section)).map(|(key, _)| key.name.clone()).collect()
    }

    fn decode<T: ParamValue>(&mut self, key: &str) -> Option<T> {
        let node = self.root.get(key)?;
        T::decode(node, self.diagnostics)
    }

    /// A text that names files.
    fn name_of(&mut self, key: &str) -> Option<String> {
        let text = self.decode::<String>(key)?;
        let is_usable =
            !text.trim().is_empty() && !text.starts_with('.') && !text.contains(['/', '\\']) && !text.contains(char::is_control);
        if !is_usable {
            let node = self.root.get(key)?;
            self.diagnostics
                .report(&node.span, format!("`{key}` names files: it cannot be {text:?}"))
                .hint("no slashes, no line breaks, and no dot in front");
        }
        is_usable.then_some(text)
    }

    fn skip(&mut self) -> Skip {
        let mut patterns = Vec::new();
        let mut globs = GlobSetBuilder::new();
        let nodes = match self.root.get("skip") {
            None | Some(Node { value: Value::Null, .. }) => &[],
            Some(Node { value: Value::List(nodes), .. }) => nodes.as_slice(),
            Some(node) => std::slice::from_ref(node),
        };
        for node in nodes {
            let Some(pattern) = String::decode(node, self.diagnostics) else { continue };
            match GlobBuilder::new(&pattern).literal_separator(true).build() {
                Ok(glob) => {
                    globs.add(glob);
                    patterns.push(pattern);
                }
                Err(error) => {
                    self.diagnostics.report(&node.span, format!("`{pattern}` is not a pattern: {}", error.kind()));
                }
            }
        }
        match globs.build() {
            Ok(globs) => Skip { patterns, globs },
            Err(error) => {
                let span = self.root.get("skip").map_or(&self.root.span, |node| &node.span);
                self.diagnostics.report(span, format!("these patterns are too many together: {error}"));
                Skip::default()
            }
        }
    }

    /// Every name under `inputs` and `stages` with its place; one namespace.
    fn names(&mut self) -> BTreeMap<String, Span> {
        let mut names: BTreeMap<String, Span> = BTreeMap::new();
        let mut folded: BTreeMap<String, Span> = BTreeMap::new();
        for section in ["inputs", "stages"] {
            match self.root.get(section) {
                None | Some(Node { value: Value::Map(_), .. }) => {}
                Some(Node { value: Value::Null, .. }) if section == "inputs" => {}
                Some(node) => {
                    self.diagnostics.report(&node.span, format!("`{section}` must be a mapping, found {}", node.describe()));
                }
            }
            for (key, _) in self.root.get(section).map(entries).into_iter().flatten() {
                let is_usable = is_name(&key.name);
                if !is_usable {
                    self.diagnostics
                        .report(&key.span, format!("`{}` cannot name a stage or an input", key.name))
                        .hint("letters, digits, `_` and `-`");
                }
                if let Some(first) = names.get(&key.name) {
                    self.diagnostics
                        .report(&key.span, format!("`{}` is the name of an input and of a stage", key.name))
                        .also(first, "the input is here")
                        .hint("a reference could mean either: rename one");
                } else if let Some(first) = folded.get(&key.name.to_lowercase()) {
                    self.diagnostics
                        .report(&key.span, format!("`{}` differs from another name in case only", key.name))
                        .also(first, "the other is here")
                        .hint("their folders would be one where file names ignore case");
                }
                folded.entry(key.name.to_lowercase()).or_insert_with(|| key.span.clone());
                names.entry(key.name.clone()).or_insert_with(|| key.span.clone());
            }
        }
        names
    }

    fn inputs(&mut self, names: &BTreeMap<String, Span>, skip: &Skip) -> Vec<Input> {
        let photos = match self.looks {
            Looks::IntoFolders => Photos::Listed(skip),
            Looks::Elsewhere => Photos::Unlisted,
        };
        let mut inputs = Vec::new();
        for (key, node) in self.root.get("inputs").map(entries).into_iter().flatten() {
            if names.get(&key.name) == Some(&key.span) {
                let found = sources::find(key, node, self.folder, self.surroundings, photos, &mut self.remarks, self.diagnostics);
                inputs.extend(found);
            }
        }
        inputs
    }

    fn remark_on(&mut self, inputs: &[Input], stages: &StageVec<LoadedStage>, skip: &Skip) {
        for (index, input) in inputs.iter().enumerate() {
            let is_read = stages.values().flat_map(|stage| &stage.edges).any(|edge| edge.from == Producer::Input(index));
            if !is_read {
                self.remarks.push(format!("no stage reads the input `{}`", input.name));
            }
        }
        let names: Vec<&str> = inputs
            .iter()
            .filter_map(|input| match &input.found {
                Found::Photos { files, skipped, .. } => {
                    Some(files.iter().map(|file| file.name.as_str()).chain(skipped.iter().map(String::as_str)))
                }
                Found::File(_) | Found::Absent(_) => None,
            })
            .flatten()
            .collect();
        for (index, pattern) in skip.patterns.iter().enumerate() {
            // An item may be made by a stage (`IMG_1-flip`): it then begins with the name of a photo.
            let matched = names.iter().any(|name| skip.matching(name).contains(&index) || pattern.starts_with(name));
            if !matched && !names.is_empty() {
                self.remarks.push(format!("`skip: {pattern}` matches no photo"));
            }
        }
    }
}

/// Tells each stage which kinds read it.
fn tell_readers(stages: &mut StageVec<LoadedStage>) {
    let mut readers: StageVec<BTreeSet<&'static str>> = stages.filled_with(BTreeSet::new());
    for stage in stages.values() {
        for edge in &stage.edges {
            if let Producer::Stage(producer) = edge.from {
                readers[producer].insert(stage.kind.name);
            }
        }
    }
    for (stage, kinds) in stages.values_mut().zip(readers.values()) {
        stage.stage.read_by(kinds);
    }
}
