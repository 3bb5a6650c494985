//! `loramill fsck`: whether the cache is sound, and what to do where it is not.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cli::global::Global;
use crate::cli::target::cache_folder::CacheArguments;
use crate::cli::terminal::output::{print, print_json};
use crate::cli::terminal::wording::counted;
use crate::engine::cache::Cache;
use crate::engine::cache::bytes::size;
use crate::engine::cache::digest::Digest;
use crate::engine::cache::fsck::{Checkup, Damage, Depth, KnownForm};
use crate::engine::decide::recorded::TREE_FIELD;
use crate::engine::gc::derived::{Derived, derived_since, distrust_copies};
use crate::engine::kind::item_set;

/// More problems are counted, not listed.
const LISTED: usize = 20;

const FORMS: &[KnownForm] = &[(TREE_FIELD, item_set::check)];

/// Check the cache for damage; exit code 1 if any is left unrepaired
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub cache: CacheArguments,
    /// Read every byte; by default only sizes are compared, and lists and small files read
    #[arg(long)]
    full: bool,
    /// Remove what is damaged, so that the next run makes it again, and repair the record log and indices
    #[arg(long)]
    repair: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Exit code 1 if damage is left, or results may have been made from damaged bytes and `--repair` is not given. Without
/// `--repair` nothing is changed.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let cache = arguments.cache.open(global)?;
    let depth = if arguments.full { Depth::Full } else { Depth::Fast };
    let mut checkup = cache.check(depth, FORMS)?;
    let damaged = cache.damaged_objects(&checkup);
    let derived = derived_since(&cache, &damaged)?;
    if arguments.repair {
        distrust_copies(&cache, &damaged)?;
        cache.repair(&mut checkup)?;
    }
    if arguments.json {
        print_json(&to_json(&cache, &checkup, &derived, depth))?;
    } else {
        print(&(text(&cache, &checkup, &derived, depth) + &derived_text(&cache, &derived)))?;
    }
    let is_well = checkup.problems.iter().all(|problem| problem.repaired) && (derived.is_empty() || arguments.repair);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(cache: &Cache, checkup: &Checkup, derived: &[Derived], depth: Depth) -> String {
    let mut text = String::new();
    let below = |path: &Path| path.strip_prefix(cache.root()).unwrap_or(path).display().to_string();
    for problem in checkup.problems.iter().take(LISTED) {
        let repaired = match (&problem.damage, problem.repaired) {
            (_, false) => "",
            (Damage::NoFile | Damage::Notes(_), true) => ": moved to displaced/",
            (Damage::Missing, true) => ": its record is gone too",
            (Damage::Log(_) | Damage::Torn(_) | Damage::Index, true) => ": repaired",
            (
                Damage::Size { .. } | Damage::Contents { .. } | Damage::Unreadable(_) | Damage::Form(_) | Damage::Records(_),
                true,
            ) => ": removed",
        };
        let _ = writeln!(text, "{} {}{repaired}", below(&problem.path), problem.damage);
    }
    let more = checkup.problems.len().saturating_sub(LISTED);
    if more > 0 {
        let _ = writeln!(text, "and {}", counted(more, "further problem"));
    }
    for stray in checkup.strays.iter().take(LISTED) {
        let _ = writeln!(text, "{} was not made by loramill, and is harmless", below(stray));
    }
    let looked = match depth {
        Depth::Fast => "sizes and lists looked at; `--full` reads every byte",
        Depth::Full => "every byte read",
    };
    let what = format!(
        "{}: {} ({}), {}; {looked}",
        cache.root().display(),
        counted(checkup.objects, "object"),
        size(checkup.size),
        counted(checkup.records, "record")
    );
    let left = checkup.problems.iter().filter(|problem| !problem.repaired).count();
    let _ = match (checkup.problems.len(), left) {
        (0, _) if derived.is_empty() => writeln!(text, "{what}: all is well"),
        (0, _) => writeln!(text, "{what}: all is whole"),
        (all, 0) => {
            writeln!(text, "{what}: {} repaired; the next `loramill run` makes again what it needs", counted(all, "problem"))
        }
        (_, left) => {
            let unused = if derived.is_empty() { "nothing of it is used, and " } else { "" };
            writeln!(text, "{what}: {}; {unused}`loramill fsck --repair` repairs it", counted(left, "problem"))
        }
    };
    text
}

/// What may have been made from damaged bytes; it is not damaged itself and stays.
fn derived_text(cache: &Cache, derived: &[Derived]) -> String {
    let mut text = String::new();
    let below = |digest: &Digest| cache.path(digest).strip_prefix(cache.root()).map(|path| path.display().to_string());
    for result in derived.iter().take(LISTED) {
        let objects: Vec<String> = result.objects.iter().filter_map(|digest| below(digest).ok()).collect();
        let _ = writeln!(
            text,
            "a result of `{}` was made from damaged bytes, as far as times tell: {}",
            result.kind,
            objects.join(", ")
        );
    }
    let more = derived.len().saturating_sub(LISTED);
    if more > 0 {
        let _ = writeln!(text, "and {}", counted(more, "further result"));
    }
    if !derived.is_empty() {
        text.push_str(
            "`loramill run --force STAGE` makes the results of a stage again; `loramill fsck --repair` ends this notice\n",
        );
    }
    text
}

/// The contract of `fsck --json`.
fn to_json(cache: &Cache, checkup: &Checkup, derived: &[Derived], depth: Depth) -> serde_json::Value {
    let problems = checkup.problems.iter().map(|problem| {
        json!({
            "path": problem.path.display().to_string(),
            "kind": problem.damage.word(),
            "text": problem.damage.to_string(),
            "repaired": problem.repaired,
        })
    });
    let strays = checkup.strays.iter().map(|path| path.display().to_string());
    let derived = derived.iter().map(|result| {
        json!({
            "kind": result.kind,
            "key": result.key.to_hex(),
            "objects": result.objects.iter().map(|digest| cache.path(digest).display().to_string()).collect::<Vec<_>>(),
        })
    });
    json!({
        "cache": cache.root().display().to_string(),
        "full": depth == Depth::Full,
        "objects": checkup.objects,
        "bytes": checkup.size,
        "records": checkup.records,
        "problems": problems.collect::<serde_json::Value>(),
        "derived": derived.collect::<serde_json::Value>(),
        "strays": strays.collect::<serde_json::Value>(),
    })
}
