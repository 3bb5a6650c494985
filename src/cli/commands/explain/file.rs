//! What made a file, and whether that would give the same now. What no record knows may say of itself what it is.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::global::Global;
use crate::cli::target::cache_folder;
use crate::cli::target::pipeline::{PipelineArguments, open};
use crate::cli::terminal::output::{print, print_json};
use crate::cli::terminal::progress_line::duration;
use crate::cli::terminal::render::printable;
use crate::cli::terminal::wording::{counted, shown};
use crate::engine::cache::Cache;
use crate::engine::cache::digest::Digest;
use crate::engine::cache::locate::is_ours;
use crate::engine::explain::cause::describe;
use crate::engine::explain::file_account::{FileAccount, Standing, file_account};
use crate::engine::explain::origin::{Made, Maker, Origin, Read};
use crate::engine::graph::pipeline::Pipeline;
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::lora::account::{Account, ModelKind, account};

/// Columns of what is printed in one line.
const WIDTH: usize = 110;
/// Of more names or words only the number is printed.
const LISTED: usize = 6;
const TAGS: usize = 20;

/// `given`: the pipeline that the user names; without it the one around the file, or here.
pub(super) fn explain_file(file: &Path, given: Option<Pipeline>, json: bool, global: &Global) -> anyhow::Result<ExitCode> {
    let pipeline = match given {
        Some(pipeline) => Some(pipeline),
        None => pipeline_around(file, global),
    };
    let account = match cache_for(file, pipeline.as_ref(), global)? {
        Some(cache) => {
            refuse_damaged_object(&cache, file)?;
            file_account(&cache, pipeline.as_ref(), file).with_context(|| format!("explaining `{}`", shown(file)))?
        }
        None => None,
    };
    let is_made = account.as_ref().is_some_and(|known| {
        known.output.is_some() || known.origin.as_ref().is_some_and(|origin| matches!(origin.maker, Maker::Stage(_)))
    });
    // A file with a record is believed to be what that says; of another the metadata is all there is.
    let says = if is_made { None } else { metadata_of(file)? };
    if account.is_none() && says.is_none() {
        anyhow::bail!(
            "nothing is known of `{}`: no record of this cache names its contents, and it is no model file that says what made it; \
             name the pipeline it belongs to, or its cache with `--cache DIR`",
            shown(file)
        );
    }
    if json {
        let mut value = account.as_ref().map_or_else(|| json!({}), FileAccount::to_json);
        value["file"] = json!(file);
        value["says"] = says.as_ref().map_or(Value::Null, Account::to_json);
        print_json(&value)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!("{}\n", shown(file));
    if let Some(account) = &account {
        text.push_str(&account_text(account));
    }
    if let Some(says) = &says {
        if account.is_none() {
            text.push_str("  no record of it is here; this is what it says of itself\n");
        }
        text.push_str(&said(says));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The pipeline whose folder holds the file, else the one here. One that cannot be read is left out, and that is said.
fn pipeline_around(file: &Path, global: &Global) -> Option<Pipeline> {
    let full = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let here = std::env::current_dir().unwrap_or_default();
    let around = full.ancestors().skip(1).map(|folder| folder.join("pipeline.yaml")).find(|file| file.is_file());
    // As the user would write it.
    let relative = around.map(|file| file.strip_prefix(&here).map_or(file.clone(), Path::to_path_buf));
    let pipeline = relative.or_else(|| Some(PathBuf::from("pipeline.yaml")).filter(|file| file.is_file()))?;
    match open(&PipelineArguments::new(Some(pipeline.clone()), Vec::new())) {
        Ok(pipeline) => Some(pipeline),
        Err(_) => {
            let path = shown(&pipeline);
            global
                .say(&format!("note: `{path}` cannot be read, so nothing is compared with it: `loramill check {path}` says why"));
            None
        }
    }
}

/// The caches that a file may lie in.
pub fn caches_around(file: &Path) -> Vec<PathBuf> {
    let full = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let around = full.ancestors().skip(1).filter(|folder| is_ours(folder) && folder.join("objects").is_dir());
    around.map(Path::to_path_buf).collect()
}

/// The cache that the file lies in, or that of the pipeline or of this place; `None` if there is none.
fn cache_for(file: &Path, pipeline: Option<&Pipeline>, global: &Global) -> anyhow::Result<Option<Cache>> {
    let full = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let explicit = global.cache();
    let root = match &explicit {
        Some(explicit) => explicit.clone(),
        None => {
            let around = full.ancestors().skip(1).find(|folder| is_ours(folder) && folder.join("objects").is_dir());
            let folder = pipeline.map_or(Path::new("."), |pipeline| pipeline.folder.as_path());
            around.map_or_else(|| Cache::locate(folder, None), Path::to_path_buf)
        }
    };
    if !is_ours(&root) {
        // To look must not make one.
        return Ok(None);
    }
    Ok(Some(cache_folder::open_at(&root, global)?))
}

/// An object whose contents are not those of its name would be explained as something else.
fn refuse_damaged_object(cache: &Cache, file: &Path) -> anyhow::Result<()> {
    let full = std::fs::canonicalize(file).with_context(|| format!("reading `{}`", shown(file)))?;
    let objects = std::fs::canonicalize(cache.root().join("objects")).unwrap_or_default();
    let Ok(below) = full.strip_prefix(objects) else { return Ok(()) };
    let named: Option<Digest> = below.to_string_lossy().replace('/', "").parse().ok();
    let (digest, _) = cache.digest_file(&full)?;
    if named.is_some_and(|named| named != digest) {
        anyhow::bail!("the object `{}` is damaged: `loramill fsck --full --repair` takes it away", shown(file));
    }
    Ok(())
}

/// What a model file says of itself; `None` if it is no model file.
fn metadata_of(file: &Path) -> anyhow::Result<Option<Account>> {
    let is_named_so =
        ["safetensors", "ckpt", "pt", "pth", "bin"].iter().any(|known| file.extension().is_some_and(|e| e == *known));
    match ModelFile::open(file) {
        Ok(model) => Ok(Some(account(&model)?)),
        // A file that is called a model should be one.
        Err(error) if is_named_so => Err(error),
        Err(_) => Ok(None),
    }
}

fn account_text(account: &FileAccount) -> String {
    let mut text = String::new();
    if let Some(output) = &account.output {
        let _ = writeln!(text, "  {} of `{}`, item {}; {}", output.field, output.stage, output.item, account.digest.short());
    } else if account.origin.as_ref().is_some_and(|origin| matches!(origin.maker, Maker::Stage(_))) {
        let _ = writeln!(text, "  {}", account.digest.short());
    }
    let stage = account.output.as_ref().map_or("", |output| output.stage.as_str());
    let mut is_of_before = false;
    match &account.standing {
        None => {}
        Some(Standing::Current) => drop(writeln!(text, "  current: `{stage}` gives the same now")),
        Some(Standing::Stale(causes)) => {
            let _ = writeln!(text, "  stale: `{stage}` would make it again");
            text.push_str(&describe(causes, 4));
        }
        Some(Standing::Undecided(causes)) => {
            let _ = writeln!(text, "  not known whether `{stage}` gives the same now");
            text.push_str(&describe(causes, 4));
        }
        Some(Standing::Replaced) => drop(writeln!(text, "  old: `{stage}` gives something else under this name now")),
        Some(Standing::Gone) => drop(writeln!(text, "  old: `{stage}` has no such item any more")),
        Some(Standing::Otherwise { stage, differences }) if differences.is_empty() => {
            let _ = writeln!(text, "  not among what `{stage}` gave last, though made in the same way");
        }
        Some(Standing::Otherwise { stage, differences }) => {
            let _ = writeln!(text, "  not what `{stage}` gives now; since then");
            for difference in differences {
                let _ = writeln!(text, "    {difference}");
            }
        }
        Some(Standing::Changed) => {
            is_of_before = true;
            let _ =
                writeln!(text, "  edited by hand: the next run moves your version to `out/.yours` and puts back what lay there");
        }
        Some(Standing::Yours { is_stale, machine }) => {
            is_of_before = true;
            let stale = if *is_stale { ", and the machine would say something else now than when you wrote" } else { "" };
            let _ = writeln!(text, "  yours: edited by hand, and it counts{stale}");
            if let Some(machine) = machine {
                let _ = writeln!(text, "  the machine says: {machine}");
            }
        }
        Some(Standing::Orphan) => {
            is_of_before = true;
            let _ = writeln!(text, "  without a photo: it is of no use, and stays until `loramill edits prune`");
        }
        Some(Standing::Unusable(problem)) => drop(writeln!(text, "  cannot be used: {problem}")),
    }
    if let Some(origin) = &account.origin {
        if is_of_before {
            let _ = writeln!(text, "  what was there before you came was");
        }
        text.push_str(&root_text(origin, account.stored));
    }
    text
}

/// What made the file, with all that its key covers.
fn root_text(origin: &Origin, stored: Option<SystemTime>) -> String {
    let Maker::Stage(made) = &origin.maker else { return format!("  {}\n", maker_text(origin)) };
    let mut text = format!("  made by {}{}{}\n", stage_text(made), took(made), ago(stored));
    if let Some(ended) = &made.ended {
        let _ = writeln!(text, "    {ended}");
    }
    for (name, value) in made.facts.iter().chain(&made.attributes) {
        let _ = writeln!(text, "    {name} {value}");
    }
    let rows: Vec<&(String, Value)> = made.params.iter().chain(&made.values).collect();
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    for (name, value) in rows {
        let _ = writeln!(text, "    {name}{}  {value}", " ".repeat(width - name.chars().count()));
    }
    if !made.are_params_known {
        text.push_str("    its params are not known: the record of the whole stage is not in this cache\n");
    }
    reads_text(&made.reads, 4, &mut text);
    text
}

fn reads_text(reads: &[Read], indent: usize, text: &mut String) {
    let margin = " ".repeat(indent);
    for read in reads {
        if read.origins.is_empty() {
            let _ = writeln!(
                text,
                "{margin}from {}: {}, not in this cache any more",
                read.name,
                counted(read.count as usize, "item")
            );
        }
        for origin in &read.origins {
            let _ = writeln!(text, "{margin}from {}: {}", read.name, maker_text(origin));
            if let Maker::Stage(made) = &origin.maker {
                if !made.params.is_empty() {
                    let _ = writeln!(text, "{margin}  {}", in_one_line(&made.params, WIDTH.saturating_sub(indent)));
                }
                reads_text(&made.reads, indent + 2, text);
            }
        }
    }
}

/// `star-00, made by `crop` (version 1)`, `images/star-00.jpg (`photos`)`
fn maker_text(origin: &Origin) -> String {
    let members = members_text(origin);
    match &origin.maker {
        Maker::Stage(made) => format!("{members}, made by {}", stage_text(made)),
        Maker::Disk { input: Some(input) } => format!("{members}, read from disk as `{input}`"),
        Maker::Disk { input: None } => format!("{members}, read from disk, where it is no more"),
        Maker::Person => format!("{members}, written by hand"),
        Maker::Unknown => format!("{members}, and no record here says what made it"),
    }
}

fn stage_text(made: &Made) -> String {
    let version = made.version.map(|version| format!(" version {version}")).unwrap_or_default();
    match &made.stage {
        Some(stage) if *stage == made.kind => format!("`{stage}`{}", version.replacen(' ', ", ", 1)),
        Some(stage) => format!("`{stage}`, {}{version}", made.kind),
        None => format!("a `{}` stage{}", made.kind, version.replacen(' ', ", ", 1)),
    }
}

fn members_text(origin: &Origin) -> String {
    let name = |member: &crate::engine::explain::origin::Member| match (&member.path, &member.name) {
        (Some(path), _) => format!("{} ({})", shown(path), member.digest.short()),
        (None, Some(name)) => format!("{name} ({})", member.digest.short()),
        (None, None) => member.digest.short(),
    };
    match origin.members.as_slice() {
        [one] => name(one),
        several => {
            let plain = |member: &crate::engine::explain::origin::Member| match (&member.path, &member.name) {
                (Some(path), _) => shown(path).to_string(),
                (None, name) => name.clone().unwrap_or_else(|| member.digest.short()),
            };
            let mut names: Vec<String> = several.iter().map(plain).collect();
            names.dedup();
            let more = names.len().saturating_sub(LISTED);
            names.truncate(LISTED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{} of them, {}{more}", several.len(), names.join(", "))
        }
    }
}

fn took(made: &Made) -> String {
    match made.seconds {
        Some(seconds) if made.reads.iter().any(|read| read.name.contains('[')) || seconds >= 0.05 => {
            format!(" in {}", duration(seconds))
        }
        _ => String::new(),
    }
}

/// When it came into the cache.
fn ago(stored: Option<SystemTime>) -> String {
    let Some(age) = stored.and_then(|stored| stored.elapsed().ok()) else { return String::new() };
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    match age.as_secs() {
        0..60 => ", just now".to_string(),
        seconds if age < 2 * DAY => format!(", {} ago", duration(seconds as f64)),
        seconds => format!(", {} days ago", seconds / DAY.as_secs()),
    }
}

/// `mode: "crop", size: 64`, cut to `width`.
fn in_one_line(params: &[(String, Value)], width: usize) -> String {
    let line = params.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join(", ");
    match line.char_indices().nth(width) {
        Some((end, _)) => format!("{}\u{2026}", &line[..end]),
        None => line,
    }
}

/// What a model file says of itself.
fn said(account: &Account) -> String {
    let mut text = String::new();
    match &account.kind {
        ModelKind::Lora(outline) => {
            let parts = [(outline.unet_modules, "the UNet"), (outline.text_encoder_modules, "the text encoder")];
            let parts: Vec<String> = parts
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, of)| format!("{} of {of}", counted(*count, "module")))
                .collect();
            let _ = writeln!(text, "  a LoRA for {}", parts.join(" and "));
        }
        ModelKind::Model => text.push_str("  a whole model\n"),
        ModelKind::Other => text.push_str("  tensors of no kind that is known here\n"),
    }
    let width = account.facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    for (name, value) in &account.facts {
        let _ = writeln!(text, "  {name}{}  {}", " ".repeat(width - name.chars().count()), printable(value));
    }
    for (name, images, repeats) in &account.folders {
        let _ = writeln!(text, "  folder {}: {}, {repeats} times each", printable(name), counted(*images as usize, "picture"));
    }
    if !account.tags.is_empty() {
        let tags: Vec<String> =
            account.tags.iter().take(TAGS).map(|(tag, count)| format!("{} {count}", printable(tag))).collect();
        let more = account.tags.len().saturating_sub(TAGS);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = writeln!(text, "  tags: {}{more}", tags.join(", "));
    }
    if account.facts.is_empty() && !matches!(account.kind, ModelKind::Lora(_)) {
        text.push_str("  it does not say what made it\n");
    }
    if !account.not_said.is_empty() {
        let _ = writeln!(text, "  not said: {}", account.not_said.join(", "));
    }
    text
}
