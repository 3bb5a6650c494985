//! The pipeline that stands in for a command line of `loramill do`, and the way back: problems in it are shown on the command
//! line, and its items are named after the files that the user named. Unaware of what the stage does.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use crate::cli::exit::WrongArguments;
use crate::engine::graph::parsed_file::entries;
use crate::engine::inputs::sources::home_expanded;
use crate::engine::kind::params::Role;
use crate::engine::kind::stage_kind::StageKind;
use crate::engine::syntax::diagnostic::{Diagnostic, Diagnostics};
use crate::engine::syntax::tree::{Node, Source, Span};
use crate::engine::syntax::yaml;

/// A pipeline of one stage, with absolute paths.
pub struct StandIn {
    /// JSON, which is YAML.
    pub text: String,
    /// The kind and its params as the user wrote them.
    command: Arc<Source>,
    kind: &'static str,
    params: Vec<Written>,
    inputs: Vec<NamedInput>,
}

/// A param of the command line.
struct Written {
    /// Its dotted name.
    name: String,
    /// The input that its path became.
    input: Option<String>,
    /// Where it stands in the command.
    place: Range<usize>,
}

/// An input of the pipeline, named as far as it may be after the file or folder.
struct NamedInput {
    name: String,
    /// What outputs are called after: the file's name without extension; nothing for a folder, whose files have names of their
    /// own.
    stem: Option<String>,
}

impl StandIn {
    /// # Errors
    /// `WrongArguments` where a param is not `key=value` or is given twice.
    pub fn new(kind: &StageKind, params: &[String]) -> anyhow::Result<Self> {
        let docs = (kind.params)();
        let mut stand_in = Self {
            text: String::new(),
            command: Arc::new(Source { name: String::new(), text: String::new() }),
            kind: kind.name,
            params: Vec::new(),
            inputs: Vec::new(),
        };
        let mut command = kind.name.to_string();
        let mut inputs = Map::new();
        let mut stage = Map::new();
        for param in params {
            let Some((name, value)) = param.split_once('=') else {
                return Err(WrongArguments(format!("`{param}` is not `key=value`")).into());
            };
            let first = name.split('.').next().unwrap_or(name);
            let is_input = docs.iter().any(|doc| doc.name == first && doc.role == Role::Input);
            let (value, input) = if is_input {
                let path = absolute(value)?;
                let input = stand_in.add_input(&path);
                inputs.insert(input.clone(), as_written(&path)?.into());
                (Value::from(input.clone()), Some(input))
            } else {
                (scalar(value), None)
            };
            insert(&mut stage, name, value)?;
            command.push(' ');
            let start = command.len();
            command.push_str(&as_one_word(param));
            stand_in.params.push(Written { name: name.to_string(), input, place: start..command.len() });
        }
        stage.insert("kind".to_string(), kind.name.into());
        let pipeline = json!({ "concept": kind.name, "inputs": inputs, "stages": { kind.name: stage } });
        stand_in.text = serde_json::to_string_pretty(&pipeline)?;
        stand_in.command = Arc::new(Source { name: "command line".into(), text: command });
        Ok(stand_in)
    }

    /// Names an input after its path: with what a name may hold, and once.
    fn add_input(&mut self, path: &Path) -> String {
        let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
        let stem = stem.map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let plain: String = stem.chars().map(|c| if c.is_alphanumeric() || c == '_' { c } else { '-' }).collect();
        let plain = match plain.trim_matches('-') {
            "" => "input",
            plain => plain,
        };
        let is_taken = |name: &str| {
            let folded = name.to_lowercase();
            folded == self.kind || self.inputs.iter().any(|input| input.name.to_lowercase() == folded)
        };
        let mut name = plain.to_string();
        for count in 2.. {
            if !is_taken(&name) {
                break;
            }
            name = format!("{plain}-{count}");
        }
        self.inputs.push(NamedInput { name: name.clone(), stem: (!path.is_dir()).then_some(stem) });
        name
    }

    /// The name of an item, with that of the file it was made from in place of the input's.
    pub fn after_its_source(&self, item: &str) -> String {
        for NamedInput { name, stem } in &self.inputs {
            if let (Some(stem), Some(rest)) = (stem, item.strip_prefix(name.as_str()))
                && !rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '-'))
            {
                return format!("{stem}{rest}");
            }
        }
        item.to_string()
    }

    /// Problems found in `file`, which holds the text, as problems of the command line. Those of other files stay as they are.
    pub fn on_command_line(&self, file: &Path, problems: Vec<Diagnostic>) -> Vec<Diagnostic> {
        let name = file.display().to_string();
        let source = Arc::new(Source { name: name.clone(), text: self.text.clone() });
        let root = yaml::parse(&source, 0, &mut Diagnostics::default());
        let moved = |span: &mut Span| {
            if span.source.name == name {
                let place = root.as_ref().and_then(|root| self.place_of(span.start, root)).unwrap_or(0..self.kind.len());
                *span = yaml::span(&self.command, place.start, place.end);
            }
        };
        let mut problems = problems;
        for problem in &mut problems {
            moved(&mut problem.span);
            if let Some((span, _)) = &mut problem.also {
                moved(span);
            }
        }
        problems
    }

    /// The place in the command of what stands at a byte of the text; nothing for what belongs to no param.
    fn place_of(&self, at: usize, root: &Node) -> Option<Range<usize>> {
        let is_in = |parent: Option<&Node>, key: &str| {
            let entry = parent.map(entries).into_iter().flatten().find(|(known, _)| known.name == key);
            entry.is_some_and(|(key, value)| (key.span.start..value.span.end.max(key.span.end)).contains(&at))
        };
        let stage = root.get("stages").and_then(|stages| stages.get(self.kind));
        let within = |param: &&Written| {
            let mut parts = param.name.split('.').collect::<Vec<_>>();
            let last = parts.pop().unwrap_or_default();
            let parent = parts.iter().try_fold(stage?, |node, part| node.get(part));
            let is_input = param.input.as_deref().is_some_and(|input| is_in(root.get("inputs"), input));
            Some(is_input || is_in(parent, last))
        };
        // A mapping that several params fill is found by the first of them.
        let begins = |param: &&Written| is_in(stage, param.name.split('.').next().unwrap_or_default());
        let exact = self.params.iter().find(|param| within(param) == Some(true));
        exact.or_else(|| self.params.iter().find(begins)).map(|param| param.place.clone())
    }
}

/// The path of an input; a shell does not expand the `~` of `images=~/photos`.
fn absolute(written: &str) -> anyhow::Result<PathBuf> {
    let home = std::env::var("HOME").ok();
    let path = home_expanded(written, home.as_deref());
    std::path::absolute(&path).with_context(|| format!("looking for `{written}`"))
}

/// As a pipeline file names it.
fn as_written(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().with_context(|| format!("the path `{}` is not valid UTF-8", path.display()))?;
    Ok(if path.is_dir() { format!("{}/", text.trim_end_matches('/')) } else { text.to_string() })
}

/// Puts a value under a dotted name.
fn insert(stage: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), WrongArguments> {
    let mut place = stage;
    let (path, last) = name.rsplit_once('.').map_or((None, name), |(path, last)| (Some(path), last));
    for part in path.into_iter().flat_map(|path| path.split('.')) {
        let Value::Object(inner) = place.entry(part).or_insert_with(|| json!({})) else {
            return Err(WrongArguments(format!("`{name}` is below something that is a value already")));
        };
        place = inner;
    }
    match place.insert(last.to_string(), value) {
        None => Ok(()),
        Some(_) => Err(WrongArguments(format!("`{name}` is given twice"))),
    }
}

/// A number, true or false, a list or an object of JSON; else text.
fn scalar(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// Quoted where it would otherwise look like several words.
fn as_one_word(param: &str) -> String {
    if param.contains(char::is_whitespace) { Value::from(param).to_string() } else { param.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::convert;

    #[test]
    fn items_are_named_after_the_files_that_were_named() {
        let params = ["from=/models/v1.5 pruned.ckpt", "from=/other/v1.5_pruned.ckpt"].map(str::to_string);
        let stand_in = StandIn::new(&convert::KIND, &params[..1]).unwrap();
        assert_eq!(stand_in.inputs[0].name, "v1-5-pruned");
        assert_eq!(stand_in.after_its_source("v1-5-pruned"), "v1.5 pruned");
        assert_eq!(stand_in.after_its_source("v1-5-pruned/unet"), "v1.5 pruned/unet");
        assert_eq!(stand_in.after_its_source("v1-5-pruned-2"), "v1-5-pruned-2");
        assert!(StandIn::new(&convert::KIND, &params).is_err(), "`from` twice");
    }

    #[test]
    fn an_input_is_never_called_like_the_stage_or_another_input() {
        let mut stand_in = StandIn::new(&convert::KIND, &[]).unwrap();
        let names = ["/a/Convert.ckpt", "/a/x.ckpt", "/b/X.ckpt", "/b/....ckpt"].map(|path| stand_in.add_input(Path::new(path)));
        assert_eq!(names, ["Convert-2", "x", "X-2", "input"]);
    }
}
