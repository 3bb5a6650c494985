//! What an input names: a folder of photos, a file, `model://name` or `hf://org/repo/file@revision`. Looks at names and sizes and
//! fetches nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::inputs::input::{Found, Input, Skip};
use crate::inputs::listing::{Listing, Unusable, is_lfs_pointer, survey};
use crate::inputs::picture_files::{Kind, READ, repeats_of};
use crate::syntax::diagnostic::{Diagnostics, nearest};
use crate::syntax::tree::{Key, Node, Value};
use crate::syntax::vars::Environment;
use crate::syntax::yaml;

/// Model folders are a few levels deep: `models/Stable-diffusion/photo/x.ckpt`.
pub const MODEL_DEPTH: usize = 4;

/// Whether folders of photos are looked into, and what is left out of them.
#[derive(Clone, Copy, Debug)]
pub enum Photos<'a> {
    Listed(&'a Skip),
    Unlisted,
}

/// What loading may know of the machine.
pub struct Surroundings {
    /// Folders in which `model://name` is looked for.
    pub models: Vec<PathBuf>,
    /// The cache of Hugging Face's hub.
    pub hub: Option<PathBuf>,
    pub environment: Box<Environment<'static>>,
}

impl Surroundings {
    /// Those of this process: `LORAMILL_MODELS` (folders as in `PATH`), then `models:` of `loramill/config.yaml` in the user's
    /// configuration folder; the hub where its own programs keep it.
    pub fn of_process(diagnostics: &mut Diagnostics) -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let home_written = variable("HOME").and_then(|home| home.into_string().ok());
        let home = variable("HOME").map(PathBuf::from);
        let mut models: Vec<PathBuf> = variable("LORAMILL_MODELS")
            .map(|folders| {
                let named = std::env::split_paths(&folders).filter(|folder| !folder.as_os_str().is_empty());
                named
                    .map(|folder| folder.to_str().map(|text| home_expanded(text, home_written.as_deref())).unwrap_or(folder))
                    .collect()
            })
            .unwrap_or_default();
        let configuration =
            variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| home.as_ref().map(|home| home.join(".config")));
        if let Some(file) = configuration.map(|folder| folder.join("loramill").join("config.yaml")).filter(|file| file.exists()) {
            models.extend(configured_models(&file, home_written.as_deref(), diagnostics));
        }
        // The order of huggingface_hub's constants.py.
        let hub = variable("HF_HUB_CACHE")
            .map(PathBuf::from)
            .or_else(|| variable("HF_HOME").map(|folder| PathBuf::from(folder).join("hub")))
            .or_else(|| variable("XDG_CACHE_HOME").map(|folder| PathBuf::from(folder).join("huggingface").join("hub")))
            .or_else(|| home.map(|home| home.join(".cache").join("huggingface").join("hub")));
        Self { models, hub, environment: Box::new(|name| std::env::var(name).ok()) }
    }
}

/// `models:` of the user's config file: folders, relative to the file, `~/` for the home folder.
fn configured_models(file: &Path, home: Option<&str>, diagnostics: &mut Diagnostics) -> Vec<PathBuf> {
    let Some(root) = yaml::read(file, diagnostics) else { return Vec::new() };
    let Value::Map(entries) = &root.value else {
        diagnostics.report(&root.span, format!("expected a mapping, found {}", root.describe()));
        return Vec::new();
    };
    for (key, _) in entries.iter().filter(|(key, _)| key.name != "models") {
        diagnostics.report(&key.span, format!("unknown setting `{}`", key.name)).hint("known here: models");
    }
    let nodes = match root.get("models") {
        None => return Vec::new(),
        Some(Node { value: Value::List(nodes), .. }) => nodes.as_slice(),
        Some(node) => std::slice::from_ref(node),
    };
    let mut folders = Vec::new();
    for node in nodes {
        let Value::Text(written) = &node.value else {
            diagnostics.report(&node.span, format!("expected a folder, found {}", node.describe()));
            continue;
        };
        folders.push(file.parent().unwrap_or(Path::new("")).join(home_expanded(written, home)));
    }
    folders
}

/// A path with a leading `~` as shells read it, the home folder. `~name`, another user's, stays as it is.
pub fn home_expanded(written: &str, home: Option<&str>) -> PathBuf {
    match (written.strip_prefix('~'), home) {
        (Some(""), Some(home)) => PathBuf::from(home),
        (Some(below), Some(home)) if below.starts_with('/') => Path::new(home).join(below.trim_start_matches('/')),
        _ => PathBuf::from(written),
    }
}

/// Finds what an input names. `folder` is that of the pipeline file.
pub fn find(
    key: &Key,
    node: &Node,
    folder: &Path,
    surroundings: &Surroundings,
    listed: Photos<'_>,
    remarks: &mut Vec<String>,
    diagnostics: &mut Diagnostics,
) -> Option<Input> {
    let Value::Text(written) = &node.value else {
        diagnostics
            .report(&node.span, format!("expected a folder or a file, found {}", node.describe()))
            .hint("an input is a path, `model://name` or `hf://org/repo/file@revision`");
        return None;
    };
    let found = if let Some(name) = written.strip_prefix("model://") {
        model(name, node, surroundings, diagnostics)
    } else if let Some(address) = written.strip_prefix("hf://") {
        hub_file(address, node, surroundings, diagnostics)
    } else if let Some((scheme, _)) = written.split_once("://") {
        let hint = match nearest(scheme, ["model", "hf"]) {
            Some(near) => format!("did you mean `{near}://`?"),
            None => "an input is a path, `model://name` or `hf://org/repo/file@revision`".into(),
        };
        diagnostics.report(&node.span, format!("`{scheme}://` is not known")).hint(hint);
        None
    } else {
        let home = surroundings.environment.as_ref()("HOME");
        let path = folder.join(home_expanded(written, home.as_deref()));
        local(&key.name, written, node, path, listed, remarks, diagnostics)
    }?;
    if let Found::File(path) = &found
        && is_lfs_pointer(path)
    {
        diagnostics.report(&node.span, format!("`{written}` is a git-lfs pointer, not the file")).hint("run `git lfs pull`");
    }
    Some(Input { name: key.name.clone(), written: written.clone(), span: node.span.clone(), found })
}

fn local(
    name: &str,
    written: &str,
    node: &Node,
    path: PathBuf,
    listed: Photos<'_>,
    remarks: &mut Vec<String>,
    diagnostics: &mut Diagnostics,
) -> Option<Found> {
    if written.is_empty() {
        diagnostics.report(&node.span, "expected a folder or a file, found an empty text");
        return None;
    }
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => match listed {
            Photos::Unlisted => Some(Found::Photos {
                folder: path,
                files: Vec::new(),
                skipped: BTreeSet::new(),
                beside: Vec::new(),
                notes: Vec::new(),
            }),
            Photos::Listed(skip) => photos(name, written, path, node, skip, remarks, diagnostics),
        },
        Ok(metadata) if metadata.is_file() => Some(Found::File(path)),
        Ok(_) => {
            diagnostics.report(&node.span, format!("`{written}` is neither a folder nor a file"));
            None
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let problem = diagnostics.report(&node.span, format!("there is no file or folder `{written}`"));
            problem.hint(format!("looked for `{}`", path.display()));
            if let Some(near) = near_path(written, &path) {
                problem.hint(format!("did you mean `{near}`?"));
            }
            None
        }
        Err(error) => {
            diagnostics.report(&node.span, format!("cannot read `{written}`: {error}"));
            None
        }
    }
}

/// `written` with its last part replaced by the name beside it that is nearest.
fn near_path(written: &str, path: &Path) -> Option<String> {
    let wrong = path.file_name()?.to_str()?;
    let beside: Vec<String> =
        path.parent()?.read_dir().ok()?.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    let near = nearest(wrong, beside.iter().map(String::as_str).filter(|name| !name.starts_with('.')))?;
    let at = written.rfind(wrong)?;
    Some(format!("{}{near}{}", &written[..at], &written[at + wrong.len()..]))
}

fn photos(
    name: &str,
    written: &str,
    folder: PathBuf,
    node: &Node,
    skip: &Skip,
    remarks: &mut Vec<String>,
    diagnostics: &mut Diagnostics,
) -> Option<Found> {
    let (listing, problems) = survey(&folder, &|name| skip.takes(name));
    // A folder that was not fetched is one problem, however many files it has.
    let (pointers, others): (Vec<&Unusable>, Vec<&Unusable>) =
        problems.iter().partition(|problem| matches!(problem, Unusable::Pointer { .. }));
    for problem in others {
        diagnostics.report(&node.span, problem.to_string());
    }
    match pointers.as_slice() {
        [] => {}
        [only] => {
            diagnostics.report(&node.span, only.to_string());
        }
        several => {
            let message = format!("{} files of `{written}` are git-lfs pointers, not pictures", several.len());
            diagnostics.report(&node.span, message).hint("run `git lfs pull`");
        }
    }
    let notes = [unread(name, &listing), copies(name, &listing), outside(name, &listing), repeated(name, &folder, &listing)];
    let notes = notes.into_iter().flatten().collect();
    if problems.is_empty() && listing.files.is_empty() && listing.skipped.is_empty() {
        remarks.push(format!("`{name}` has no photos yet: {READ} are read; looked in `{}`", folder.display()));
    }
    if listing.files.len() == 1 {
        remarks.push(format!("`{name}` is a single photo: training will learn that picture rather than the concept"));
    }
    Some(Found::Photos { folder, files: listing.files, skipped: listing.skipped, beside: listing.beside, notes })
}

/// One word on all pictures of a folder that are not read: how many of what, and what to do.
fn unread(input: &str, listing: &Listing) -> Option<String> {
    let (first_kind, first) = listing.unread.first()?;
    let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
    for (kind, _) in &listing.unread {
        *counts.entry(*kind).or_default() += 1;
    }
    let counted: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {}", kind.name())).collect();
    let names: BTreeSet<&str> = listing.files.iter().filter_map(|file| file.name.rsplit('/').next()).collect();
    let is_beside = |path: &Path| path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| names.contains(stem));
    let beside = listing.unread.iter().filter(|(_, path)| is_beside(path)).count();
    let beside = match beside {
        0 => String::new(),
        count => format!(" ({count} of them beside a photo of the same name)"),
    };
    let shown = first.display();
    let converted = first.with_extension("jpg");
    let remedy = match first_kind {
        Kind::Raw => format!("develop raw photos to JPEG, as by `darktable-cli {shown} {}`", converted.display()),
        Kind::Heic => format!("convert them, as by `heif-convert -q 95 {shown} {}`", converted.display()),
        _ => format!("convert them, as by `magick {shown} -quality 95 {}`", converted.display()),
    };
    let count = listing.unread.len();
    let are = if count == 1 { "picture is" } else { "pictures are" };
    Some(format!("`{input}`: {count} {are} not read: {}{beside}; {READ} are. {remedy}", counted.join(", ")))
}

/// Files that are pictures by their contents and have the name of a photo.
fn copies(input: &str, listing: &Listing) -> Option<String> {
    let first = listing.copies.first()?;
    let rest = match listing.copies.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("`{input}`: `{}`{rest} left aside: a photo of the same name is read", first.display()))
}

/// Links that lead out of the project.
fn outside(input: &str, listing: &Listing) -> Option<String> {
    let told = |paths: &[PathBuf]| {
        let more = if paths.len() > 1 { format!(" and {} more", paths.len() - 1) } else { String::new() };
        paths.first().map(|first| format!("`{}`{more}", first.display()))
    };
    let folders = told(&listing.folders_outside)
        .map(|told| format!("{told} leads to a folder outside of the project: its photos are read"));
    let texts = told(&listing.texts_outside)
        .map(|told| format!("{told} leads to a file outside of the project, which is not read: put the text itself there"));
    let parts: Vec<String> = folders.into_iter().chain(texts).collect();
    (!parts.is_empty()).then(|| format!("`{input}`: {}", parts.join("; ")))
}

/// Folders that kohya's scripts would take several times.
fn repeated(input: &str, folder: &Path, listing: &Listing) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for file in &listing.files {
        // Of the folder itself the name may say so too.
        let own = folder.file_name().and_then(|name| name.to_str());
        let parent = file.name.rsplit('/').nth(1).or(own);
        if let Some(parent) = parent.filter(|parent| repeats_of(parent).is_some()) {
            *counts.entry(parent).or_default() += 1;
        }
    }
    if counts.is_empty() {
        return None;
    }
    let shown = |(folder, count): (&&str, &usize)| {
        let (repeats, _) = repeats_of(folder).expect("it was asked before");
        format!("`{folder}` ({count} photos, {repeats} times)")
    };
    let shown: Vec<String> = counts.iter().map(shown).collect();
    let what = "numbers of repeats in names of folders count for nothing yet, each photo is taken once";
    Some(format!("`{input}`: {}: {what}", shown.join(", ")))
}

/// By its path below a model folder; else, if it is only a name, anywhere in one.
fn model(name: &str, node: &Node, surroundings: &Surroundings, diagnostics: &mut Diagnostics) -> Option<Found> {
    if name.is_empty() || Path::new(name).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        diagnostics
            .report(&node.span, "expected the name of a model file after `model://`")
            .hint("write `model://sd-v1-5-pruned.ckpt`");
        return None;
    }
    for folder in &surroundings.models {
        let direct = folder.join(name);
        if direct.is_file() {
            return Some(Found::File(direct));
        }
        let mut deeper: Vec<PathBuf> = WalkDir::new(folder)
            .max_depth(MODEL_DEPTH)
            .follow_links(true)
            .into_iter()
            .flatten()
            .filter(|entry| entry.file_type().is_file() && entry.path().ends_with(name))
            .map(walkdir::DirEntry::into_path)
            .collect();
        deeper.sort();
        match deeper.as_slice() {
            [] => {}
            [only] => return Some(Found::File(only.clone())),
            [first, second, ..] => {
                diagnostics
                    .report(&node.span, format!("`{name}` could be `{}` or `{}`", first.display(), second.display()))
                    .hint("write more of the path after `model://`");
                return None;
            }
        }
    }
    Some(Found::Absent(surroundings.models.clone()))
}

/// In the hub's cache, laid out as `models--org--repo/{refs/main,snapshots/<commit>/file}`.
fn hub_file(address: &str, node: &Node, surroundings: &Surroundings, diagnostics: &mut Diagnostics) -> Option<Found> {
    let parts = || {
        let (path, revision) = address.rsplit_once('@')?;
        let (organisation, rest) = path.split_once('/')?;
        let (repository, file) = rest.split_once('/')?;
        let is_plain = |text: &str| !text.is_empty() && text.split('/').all(|part| !matches!(part, "" | "." | ".."));
        [organisation, repository, file, revision].into_iter().all(is_plain).then_some((organisation, repository, file, revision))
    };
    let Some((organisation, repository, file, revision)) = parts() else {
        diagnostics
            .report(&node.span, "expected `hf://org/repo/file@revision`")
            .hint("a revision is a commit, or a branch such as `@main`");
        return None;
    };
    let Some(hub) = &surroundings.hub else { return Some(Found::Absent(Vec::new())) };
    let cached = hub.join(format!("models--{organisation}--{repository}"));
    let commit = std::fs::read_to_string(cached.join("refs").join(revision)).unwrap_or_else(|_| revision.to_string());
    let path = cached.join("snapshots").join(commit.trim()).join(file);
    Some(if path.is_file() { Found::File(path) } else { Found::Absent(vec![cached]) })
}
