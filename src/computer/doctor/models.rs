//! Whether the files that `model://` may name are whole enough to be read. Looks at names and sizes, and into files that are too small.

use std::path::PathBuf;

use walkdir::WalkDir;

use crate::computer::doctor::{Check, Concerns, Patient, State};

/// As deep as `model://` looks.
const DEPTH: usize = 4;
/// No model is as small; a pointer of git-lfs or a page of a failed download is.
const SMALL: u64 = 2048;
/// A folder that is no model folder is not read to its end.
const MOST: usize = 100_000;

/// The check `models`: degraded if a file is wrong or a named folder is none. Not relevant if no folder is named.
pub fn check(patient: &Patient<'_>) -> Option<Check> {
    let check = |state, summary: String| Check::new("models", Concerns::Computer, state, summary);
    if patient.models.is_empty() {
        let summary = "no folder of models is named, which only `model://` needs".into();
        return Some(check(State::Ok, summary).relevant(false));
    }
    let mut wrong = Vec::new();
    let mut evidence = Vec::new();
    let mut pickles = 0;
    for folder in patient.models {
        let place = patient.host.place(folder);
        if !place.is_dir() {
            wrong.push((folder.clone(), "is no folder"));
            continue;
        }
        let mut count = 0;
        let entries = WalkDir::new(&place).max_depth(DEPTH).follow_links(true).sort_by_file_name().into_iter().take(MOST);
        for entry in entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_file()) {
            let extension = entry.path().extension().and_then(|extension| extension.to_str()).unwrap_or("");
            if !["safetensors", "ckpt", "pt", "pth"].contains(&extension) {
                continue;
            }
            count += 1;
            pickles += usize::from(extension != "safetensors");
            let shown: PathBuf =
                entry.path().strip_prefix(&place).map_or_else(|_| entry.path().to_path_buf(), |below| folder.join(below));
            wrong.extend(what_is_wrong(&entry).map(|problem| (shown, problem)));
        }
        evidence.push(format!("{}: {count} model file{}", folder.display(), if count == 1 { "" } else { "s" }));
    }
    if pickles > 0 {
        evidence.push(format!(
            "{pickles} of them are pickles, which are read by an interpreter that builds tensors and nothing else"
        ));
    }
    let Some((path, problem)) = wrong.first() else {
        return Some(Check { evidence, ..check(State::Ok, "the folders of models can be read".into()) });
    };
    evidence.extend(wrong.iter().skip(1).take(9).map(|(path, problem)| format!("{} {problem}", path.display())));
    let summary = format!("`{}` {problem}", path.display());
    let fix = match *problem {
        POINTER => "git lfs pull",
        _ => "fetch it anew, or correct LORAMILL_MODELS and `models:` in loramill/config.yaml",
    };
    Some(Check { evidence, ..check(State::Degraded, summary) }.fix(fix, format!("ls -lL '{}'", path.display())))
}

const POINTER: &str = "is a git-lfs pointer, not the file";

fn what_is_wrong(entry: &walkdir::DirEntry) -> Option<&'static str> {
    let length = entry.metadata().ok()?.len();
    if length == 0 {
        return Some("is empty");
    }
    if length > SMALL {
        return None;
    }
    let start = std::fs::read(entry.path()).ok()?;
    if start.starts_with(b"version https://git-lfs") {
        return Some(POINTER);
    }
    start.trim_ascii_start().starts_with(b"<").then_some("is a page of a website, not the file")
}
