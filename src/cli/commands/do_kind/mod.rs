//! `loramill do`: one stage without a pipeline file. Runs a pipeline of that stage that nobody sees and copies its outputs.

mod stand_in;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::cli::commands::do_kind::stand_in::StandIn;
use crate::cli::device::check::check_device;
use crate::cli::device::launch::{Ready, prepare};
use crate::cli::device::request::{Passing, Request, Work};
use crate::cli::device::signals::listen_to_signals;
use crate::cli::exit::{INTERRUPTED, WrongArguments, WrongFile};
use crate::cli::global::Global;
use crate::cli::target::cache_folder;
use crate::cli::target::pipeline::{PipelineArguments, open, refuse_unusable};
use crate::cli::terminal::console::{Console, Format};
use crate::cli::terminal::device_line::DeviceLine;
use crate::cli::terminal::wording::counted;
use crate::cli::walls::{Reach, made, programs};
use crate::engine::cache::Cache;
use crate::engine::graph::selection::Selection;
use crate::engine::kind::item::Item;
use crate::engine::kind::item_set;
use crate::engine::lock_file::LockFile;
use crate::engine::run::control::StopRequests;
use crate::engine::run::run_context::RunOptions;
use crate::engine::run::schedule;
use crate::engine::syntax::diagnostic::nearest;
use crate::stages::KINDS;

/// Run one stage without a pipeline file
#[derive(Args)]
pub struct Arguments {
    /// The kind of stage; `loramill stages` lists them
    kind: String,
    /// Its params; inputs take paths: `images=photos/ size=512`
    #[arg(value_name = "KEY=VALUE")]
    params: Vec<String>,
    /// Folder for the outputs
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Device that runs the networks: `auto`, `cpu`, `libtorch:0`
    #[arg(long, default_value = "auto")]
    device: String,
    /// How to show progress [default: bars on a terminal, else plain lines]
    #[arg(long, value_name = "FORMAT")]
    progress: Option<Format>,
}

/// Raises its own walls once it has made the folder of `--output`. Results stay in the cache until `gc`, so the same command runs
/// nothing again. Exit code 1 if the stage failed, 130 if the user interrupted it.
///
/// # Errors
/// `WrongArguments` or `WrongFile` if the kind or its params are wrong. If a file of an output's name has other contents.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let names = || KINDS.iter().map(|kind| kind.name);
    let Some(kind) = KINDS.iter().find(|kind| kind.name == arguments.kind) else {
        let hint = nearest(&arguments.kind, names()).map(|near| format!(": did you mean `{near}`?"));
        let hint = hint.unwrap_or_else(|| format!("; there are {}", names().collect::<Vec<_>>().join(", ")));
        return Err(WrongArguments(format!("there is no kind `{}`{hint}", arguments.kind)).into());
    };
    let stand_in = StandIn::new(kind, &arguments.params)?;
    // Below the output, where this command, or the worker in its place, may write and clear away.
    let output = made(arguments.output.clone());
    let folder = tempfile::Builder::new().prefix(".loramill-do-").tempdir_in(&output);
    let folder = folder.with_context(|| format!("making a folder in `{}`", output.display()))?;
    let here = std::env::current_dir().context("looking for the current folder")?;
    let cache = made(cache_folder::locate(&here, global));
    let writable = vec![cache, output];
    Reach::Below(writable).unless_on_card(&arguments.device).raise(&programs());
    let file = folder.path().join("pipeline.yaml");
    // JSON is YAML.
    fs::write(&file, &stand_in.text).with_context(|| format!("writing `{}`", file.display()))?;
    let pipeline = open(&PipelineArguments::new(Some(file.clone()), Vec::new())).and_then(|pipeline| {
        refuse_unusable(&pipeline, &pipeline.by_default())?;
        Ok(pipeline)
    });
    let pipeline = pipeline.map_err(|error| match error.downcast() {
        Ok(WrongFile(problems)) => WrongFile(stand_in.on_command_line(&file, problems)).into(),
        Err(error) => error,
    })?;
    check_device(&arguments.device, global)?;
    let cache = cache_folder::open_for(&here, global)?;
    let cache = cache.for_a_passing_pipeline();

    let requests = StopRequests::default();
    listen_to_signals(&requests)?;
    let console = Console::new(arguments.progress, global.is_quiet());
    let selection = Selection::of(pipeline.by_default());
    let passing = Passing { pipeline: &pipeline, cache: &cache, selection: &selection, console: &console, requests: &requests };
    let device = match prepare(&arguments.device, &Request::of_this_process(Work::Run(passing)), global)? {
        Ready::Here(device) => device,
        Ready::Done(code) => return Ok(code),
    };
    let options = RunOptions { selection, keep_going: false, jobs: 0, device };
    let by = global.describe_device(&options.device);
    let observer = DeviceLine::new(&pipeline, &options.device, by.as_deref(), &console);
    let record = schedule::run(&pipeline, &cache, &options, &observer, &requests);
    console.close();
    let record = record?;
    if record.interrupted {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if !record.is_ok() {
        return Ok(ExitCode::FAILURE);
    }
    let lock = LockFile::read(&pipeline.lock_file())?;
    let row = lock.stages.get(kind.name).and_then(|rows| rows.last()).context("the stage left no result")?;
    let items = item_set::decode(&cache.read_list(&row.out)?)?;
    let written = place(&cache, &items, kind.writes, &stand_in, &arguments.output)?;
    global.say(&format!("{} in `{}`", counted(written, "file"), arguments.output.display()));
    Ok(ExitCode::SUCCESS)
}

/// Copies outputs under their friendly names; a file with other contents is an error, and then nothing is written.
fn place(cache: &Cache, items: &[Item], fields: &[&str], stand_in: &StandIn, folder: &Path) -> anyhow::Result<usize> {
    let mut files = Vec::new();
    for item in items {
        let name = stand_in.after_its_source(&item.name);
        for artifact in fields.iter().filter_map(|field| item.fields.get(*field)) {
            let name = if artifact.extension.is_empty() { name.clone() } else { format!("{name}.{}", artifact.extension) };
            let path = folder.join(name);
            if path.exists() && cache.digest_file(&path)?.0 != artifact.digest {
                bail!(
                    "`{}` is there already, with other contents: name another folder with `-o`, or move it away",
                    path.display()
                );
            }
            files.push((path, artifact));
        }
    }
    for (path, artifact) in &files {
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("making the folder `{}`", parent.display()))?;
        if !path.exists() {
            // The mode a plain `create` asks for; the umask takes its share.
            let mut target = tempfile::Builder::new()
                .permissions(fs::Permissions::from_mode(0o666))
                .tempfile_in(parent)
                .with_context(|| format!("writing in `{}`", parent.display()))?;
            cache.copy_object(&artifact.digest, &mut target).with_context(|| format!("writing `{}`", path.display()))?;
            target.persist_noclobber(path).with_context(|| format!("writing `{}`", path.display()))?;
        }
    }
    Ok(files.len())
}
