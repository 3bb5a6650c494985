//! `loramill skip`: leaves photos out, by a line in the pipeline file. Everything else in the file stays as it is.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::cli::exit::WrongArguments;
use crate::cli::global::Global;
use crate::cli::target::pipeline::{PipelineArguments, folder_of, is_pipeline, open, split_names};
use crate::cli::terminal::wording::shown;
use crate::cli::walls::Reach;
use crate::engine::cache::regular_file::{self, Links};
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::inputs::input::Found;
use crate::engine::syntax::diagnostic::{Diagnostics, nearest};
use crate::engine::syntax::tree::{Node, Source, Value};
use crate::engine::syntax::yaml;

/// Exclude photos from all stages
#[derive(Args)]
pub struct Arguments {
    /// The pipeline (a folder or its file; default: pipeline.yaml here), then photos: each one's path in the folder of photos, without
    /// extension
    #[arg(value_name = "PIPELINE|ITEM", required = true)]
    names: Vec<String>,
}

impl Arguments {
    /// What the command may write.
    pub fn reach(&self, _: &Global) -> Reach {
        // It opens no cache, and makes none.
        folder_of(split_names(&self.names).0.as_deref()).map_or(Reach::NOTHING, |folder| Reach::Below(vec![folder]))
    }
}

/// Takes effect from the next run on. Photos that are skipped already are reported, and are no error.
///
/// # Errors
/// `WrongArguments` if there is no such photo. If `skip:` has a form that cannot be extended; the file is then unchanged.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let (pipeline, items) = split_names(&arguments.names);
    let what = PipelineArguments::new(pipeline, Vec::new());
    let pipeline = open(&what)?;
    if items.is_empty() {
        return Err(WrongArguments(format!("which photo of `{}`? name it after the pipeline", shown(&pipeline.file))).into());
    }
    let photos = known_photos(&pipeline);
    for item in items {
        refuse_unknown(item, &photos)?;
    }
    let (skipped, missing): (Vec<&String>, Vec<&String>) = items.iter().partition(|item| pipeline.skip.takes(item));
    for item in skipped {
        global.say(&format!("`{item}` is skipped already"));
    }
    if !missing.is_empty() {
        add(&pipeline.file, &missing, &what)?;
        let names: Vec<String> = missing.iter().map(|item| format!("`{item}`")).collect();
        let verb = if missing.len() == 1 { "is" } else { "are" };
        let file = shown(&pipeline.file);
        global.say(&format!("{} {verb} left out from the next run on; `skip:` in `{file}` says so", names.join(", ")));
    }
    Ok(ExitCode::SUCCESS)
}

fn known_photos(pipeline: &Pipeline) -> Vec<&str> {
    let mut names = Vec::new();
    for input in &pipeline.inputs {
        if let Found::Photos { files, skipped, .. } = &input.found {
            names.extend(files.iter().map(|file| file.name.as_str()).chain(skipped.iter().map(String::as_str)));
        }
    }
    names
}

fn refuse_unknown(item: &str, photos: &[&str]) -> Result<(), WrongArguments> {
    if photos.contains(&item) {
        return Ok(());
    }
    let hint = if is_pipeline(item) {
        ": the pipeline comes before the photos".to_string()
    } else {
        nearest(item, photos.iter().copied()).map(|near| format!(": did you mean `{near}`?")).unwrap_or_default()
    };
    Err(WrongArguments(format!("no photo is called `{item}`{hint}")))
}

/// Writes `items` into the file's `skip:`.
///
/// # Errors
/// When `skip:` has a form that cannot be added to; the file is then as it was.
fn add(file: &Path, items: &[&String], what: &PipelineArguments) -> anyhow::Result<()> {
    // Where it is a link within the project, what it leads to is what its user edits.
    let file = &fs::canonicalize(file).with_context(|| format!("reading `{}`", file.display()))?;
    let before = regular_file::read_text(file, Links::Followed, yaml::MAX_BYTES);
    let before = before.with_context(|| format!("reading `{}`", file.display()))?;
    let by_hand = || {
        let list: Vec<String> = items.iter().map(|item| written(item)).collect();
        format!("write `skip: [{}]` into `{}` by hand", list.join(", "), file.display())
    };
    let mut after = before.clone();
    for item in items {
        let source = Arc::new(Source { name: file.display().to_string(), text: after });
        let Some(root) = yaml::parse(&source, 0, &mut Diagnostics::default()) else {
            bail!("the file could not be edited safely and is as it was: {}", by_hand())
        };
        let Some(text) = with_skip(&source.text, &root, item) else { bail!("`skip:` is not a plain list here: {}", by_hand()) };
        after = text;
    }
    crate::engine::cache::replace_file(file, after.as_bytes())?;
    // The edit was made on text: only loading it again proves it right.
    match open(what) {
        Ok(now) if items.iter().all(|item| now.skip.takes(item)) => Ok(()),
        _ => {
            crate::engine::cache::replace_file(file, before.as_bytes())?;
            bail!("the file could not be edited safely and is as it was: {}", by_hand());
        }
    }
}

/// The text with `item` among what is skipped; `None` if `skip:` has a form that cannot be added to.
fn with_skip(text: &str, root: &Node, item: &str) -> Option<String> {
    let item = written(item);
    let insert = |at: usize, what: &str| format!("{}{what}{}", &text[..at], &text[at..]);
    let Some(skip) = root.get("skip") else {
        // Before `inputs:`, where the short keys end; else at the top.
        let at = match &root.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.name == "inputs").map_or(0, |(key, _)| key.span.start),
            _ => return None,
        };
        let at_start_of_line = at == 0 || text[..at].ends_with('\n');
        return at_start_of_line.then(|| insert(at, &format!("skip: [{item}]\n")));
    };
    let Value::List(nodes) = &skip.value else { return None };
    let flow_end = skip.span.end.checked_sub(1).filter(|&end| text.as_bytes().get(end) == Some(&b']'));
    if let Some(end) = flow_end {
        return Some(insert(end, &if nodes.is_empty() { item } else { format!(", {item}") }));
    }
    let last = nodes.last()?;
    let line = text[..last.span.start].rfind('\n').map_or(0, |end| end + 1);
    let indent: String = text[line..].chars().take_while(|c| *c == ' ').collect();
    let end = text[last.span.start..].find('\n').map_or(text.len(), |end| last.span.start + end);
    text[line..].trim_start().starts_with("- ").then(|| insert(end, &format!("\n{indent}- {item}")))
}

/// As a glob that takes nothing else, and as YAML.
fn written(item: &str) -> String {
    let glob = globset::escape(item);
    let is_plain = glob.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && glob.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '.'))
        && !matches!(glob.to_lowercase().as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off");
    if is_plain { glob } else { serde_json::Value::from(glob).to_string() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn edited(text: &str) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pipeline.yaml");
        fs::write(&file, text).unwrap();
        let root = yaml::read(&file, &mut Diagnostics::default()).unwrap();
        with_skip(text, &root, "IMG_7")
    }

    #[test]
    fn an_item_is_added_where_the_list_is_and_all_else_stays() {
        let cases = [
            ("concept: a\ninputs: {}\n", "concept: a\nskip: [IMG_7]\ninputs: {}\n"),
            ("skip: []  # none\ninputs: {}\n", "skip: [IMG_7]  # none\ninputs: {}\n"),
            ("skip: [a, b]\n", "skip: [a, b, IMG_7]\n"),
            ("skip:\n  - a # blurred\n  - b\nseed: 1\n", "skip:\n  - a # blurred\n  - b\n  - IMG_7\nseed: 1\n"),
            ("skip:\n- a", "skip:\n- a\n- IMG_7"),
        ];
        for (before, after) in cases {
            assert_eq!(edited(before).as_deref(), Some(after), "{before}");
        }
        assert_eq!(edited("skip: a\n"), None);
    }

    #[test]
    fn names_with_letters_that_mean_something_are_quoted() {
        assert_eq!(written("beach/été"), "beach/été");
        assert_eq!(written("no"), "\"no\"");
        assert_eq!(written("12"), "\"12\"");
        assert_eq!(written("a [1]"), "\"a [[]1[]]\"");
    }
}
