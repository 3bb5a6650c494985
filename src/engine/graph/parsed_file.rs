//! A pipeline file that was read: its tree, with settings and variables put into it. Unaware of what stages and inputs are.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::digest::Digest;
use crate::inputs::project_bounds;
use crate::inputs::sources::Surroundings;
use crate::syntax::diagnostic::{Diagnostic, Diagnostics};
use crate::syntax::settings;
use crate::syntax::tree::{Key, Node, Source, Span, Value};
use crate::syntax::vars;
use crate::syntax::yaml;

/// Entries under `vars`, `inputs` or `stages`: more than a person writes, few enough to compare each with each.
const MAX_NAMES: usize = 1000;

/// What a pipeline file says, by the settings and the environment that it was read with.
pub struct ParsedFile {
    pub(crate) file: PathBuf,
    pub(crate) folder: PathBuf,
    /// Given by `--set`.
    pub(crate) settings: Vec<String>,
    /// A mapping.
    pub(crate) root: Node,
    /// Stands for all that was read of a file and put into it.
    pub(crate) source: Digest,
    /// What is wrong with settings and variables.
    pub(crate) problems: Diagnostics,
    /// Places of the problems and of values that are not there because of them.
    wrong: HashSet<Place>,
}

/// The name of a source, and where a span of it starts and ends.
type Place = (String, usize, usize);

impl ParsedFile {
    /// Reads `file` and applies `settings`, then variables. What is wrong with either is told together with what loading finds.
    ///
    /// # Errors
    /// All that is wrong with it if it is no YAML, no mapping, too large, or leads out of the project.
    pub fn read(file: &Path, settings: &[String], surroundings: &Surroundings) -> Result<Self, Vec<Diagnostic>> {
        let mut diagnostics = Diagnostics::default();
        let folder = match file.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_path_buf(),
            None => PathBuf::from("."),
        };
        if let Err(error) = project_bounds::check(&folder) {
            let source = Source { name: file.display().to_string(), text: String::new() };
            diagnostics.report(&yaml::span(&Arc::new(source), 0, 0), format!("{error:#}"));
            return Err(diagnostics.into_sorted());
        }
        let Some(mut root) = yaml::read(file, &mut diagnostics) else { return Err(diagnostics.into_sorted()) };
        let Value::Map(_) = root.value else {
            diagnostics.report(
                &root.span,
                format!("expected a mapping with `concept`, `inputs` and `stages`, found {}", root.describe()),
            );
            return Err(diagnostics.into_sorted());
        };
        if !check_counts(&root, &mut diagnostics) {
            return Err(diagnostics.into_sorted());
        }
        for setting in settings {
            settings::set(&mut root, setting, &mut diagnostics);
        }
        let asked = RefCell::new(BTreeMap::new());
        let environment = |name: &str| {
            let value = surroundings.environment.as_ref()(name);
            asked.borrow_mut().insert(name.to_string(), value.clone());
            value
        };
        let broken = vars::expand(&mut root, &environment, &mut diagnostics);
        let source = source_of(&root, settings, &asked.into_inner());
        let wrong = broken.iter().map(place).chain(diagnostics.iter_mut().map(|problem| place(&problem.span))).collect();
        let (file, settings) = (file.to_path_buf(), settings.to_vec());
        Ok(Self { file, folder, settings, root, source, problems: diagnostics, wrong })
    }

    /// Whether a problem is known at just this place: what is wrong with a value once it is not there is only a consequence of
    /// why it is not.
    pub(crate) fn is_wrong_at(&self, span: &Span) -> bool {
        self.wrong.contains(&place(span))
    }
}

fn place(span: &Span) -> Place {
    (span.source.name.clone(), span.start, span.end)
}

/// Whether no section has more entries than fit; the first that has is reported.
fn check_counts(root: &Node, diagnostics: &mut Diagnostics) -> bool {
    for section in ["vars", "inputs", "stages"] {
        let Some(node) = root.get(section) else { continue };
        let count = entries(node).len();
        if count > MAX_NAMES {
            diagnostics.report(&node.span, format!("there are {count} entries under `{section}`: at most {MAX_NAMES} fit"));
            return false;
        }
    }
    true
}

/// Stands for all that was read of a file and put into it.
fn source_of(root: &Node, given: &[String], environment: &BTreeMap<String, Option<String>>) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("loramill 2026-11 pipeline source v1");
    let mut text = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    text(&root.span.source.text);
    given.iter().for_each(|setting| text(setting));
    for (name, value) in environment {
        text(name);
        text(value.as_deref().map_or("absent", |_| "present"));
        text(value.as_deref().unwrap_or_default());
    }
    hasher.finalize().into()
}

/// The entries of a mapping; of anything else none.
pub fn entries(node: &Node) -> &[(Key, Node)] {
    match &node.value {
        Value::Map(entries) => entries,
        _ => &[],
    }
}
