//! `loramill watch`: runs, waits until something that the pipeline reads has changed and is written to its end, and runs again.

mod changes;
mod glances;
mod listener;
mod places;

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::commands::run::arguments::RunArguments;
use crate::cli::commands::run::perform::{Performed, Turn};
use crate::cli::commands::watch::changes::{Changes, Next};
use crate::cli::commands::watch::listener::{Limit, Listener, Message};
use crate::cli::commands::watch::places::{Places, absolute};
use crate::cli::device::check::check_device;
use crate::cli::device::signals::listen_to_signals;
use crate::cli::exit::{INTERRUPTED, WRONG, WrongArguments, report};
use crate::cli::global::Global;
use crate::cli::target::cache_folder::open_cache;
use crate::cli::terminal::console::{Console, Verb};
use crate::cli::terminal::output::print_json_line;
use crate::cli::terminal::wording::{counted, shown};
use crate::engine::cache::Cache;
use crate::engine::decide::texts::TakenTexts;
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::graph::selection::Selection;
use crate::engine::run::control::StopRequests;

/// Of more files only the number is printed.
const LISTED: usize = 5;

/// Build, then rebuild whenever something changes, until Ctrl-C
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub run: RunArguments,
    /// Poll once a second instead of using inotify: for network folders
    #[arg(long)]
    poll: bool,
}

/// Returns when the user interrupts: exit code 0 if it was waiting for a change, 130 if a run was going on. A failed stage does
/// not end the watch.
///
/// # Errors
/// If the first run has wrong arguments, or a folder cannot be listened to.
pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    check_device(&arguments.run.device, global)?;
    let (file, targets) = arguments.run.what.split()?;
    let requests = StopRequests::default();
    listen_to_signals(&requests).context("listening to Ctrl-C")?;
    let (sender, messages) = channel();
    tell_of_signals(&sender).context("listening to Ctrl-C")?;
    let (listener, limit) = Listener::start(&sender, arguments.poll)?;
    let console = arguments.run.console(global.is_quiet());
    let changes = Changes::new(listener.is_polling());
    let places = Places::of_file(&file);
    let mut watch = Watch { console: &console, listener, messages, changes, places };
    watch.tell_limit(limit);

    let mut how = arguments.run.clone();
    let mut is_first = true;
    loop {
        let opened = watch.open(|| {
            let (pipeline, selection) = how.what.read_again(&file, targets)?.load()?;
            let cache = open_cache(&pipeline, global)?;
            Ok((pipeline, selection, cache))
        })?;
        let ran = opened.and_then(|(pipeline, selection, cache)| {
            let written = one_run(&how, global);
            let turn = Turn { pipeline: &pipeline, cache: &cache, selection, how: &how, written, snapshot: None };
            let code = match turn.perform(&console, &requests, global)? {
                Performed::Here(_) => None,
                Performed::ByWorker(code) => Some(code),
            };
            Ok((pipeline, code))
        });
        let pipeline = match ran {
            Ok((_, Some(code))) if is_first && code == ExitCode::from(WRONG) => return Ok(code),
            Ok((pipeline, _)) => Some(pipeline),
            // Nothing that is saved later would make these arguments right.
            Err(error) if is_first && error.is::<WrongArguments>() => return Err(error),
            Err(error) => {
                watch.tell_problem(&error)?;
                None
            }
        };
        if requests.interrupted() {
            return Ok(ExitCode::from(INTERRUPTED));
        }
        how = how.without_force();
        is_first = false;
        watch.listen_to_what_the_run_made()?;
        watch.tell_rest(&file, pipeline.as_ref())?;
        if watch.wait(pipeline.as_ref(), global)? == Heard::Interrupt {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// The command line of `loramill run` for one run.
fn one_run(arguments: &RunArguments, global: &Global) -> Vec<OsString> {
    [vec!["run".into()], global.written(), arguments.written()].concat()
}

/// What a wait ended with.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Change,
    Interrupt,
}

struct Watch<'a> {
    console: &'a Console,
    listener: Listener,
    messages: Receiver<Message>,
    changes: Changes,
    places: Places,
}

impl Watch<'_> {
    /// Opens the pipeline while all that it reads is listened to already: what changes from here on is noticed.
    ///
    /// # Errors
    /// Within: what is wrong with the pipeline. Of its own: a folder cannot be listened to.
    fn open(
        &mut self,
        open: impl Fn() -> anyhow::Result<(Pipeline, Selection, Cache)>,
    ) -> anyhow::Result<anyhow::Result<(Pipeline, Selection, Cache)>> {
        // What is known of before is listened to even if the file cannot be read now.
        self.listen()?;
        let opened = open();
        let Ok((pipeline, _, cache)) = &opened else { return Ok(opened) };
        let places = Places::of(pipeline, cache.root());
        if places == self.places {
            return Ok(opened);
        }
        self.places = places;
        self.listen()?;
        // Something may have changed before it was listened to.
        Ok(open())
    }

    fn listen(&mut self) -> anyhow::Result<()> {
        let limit = self.listener.listen_to(&self.places.folders())?;
        self.tell_limit(limit);
        Ok(())
    }

    /// A folder of texts that the run has made is listened to from here on; what somebody wrote into it before is looked for.
    fn listen_to_what_the_run_made(&mut self) -> anyhow::Result<()> {
        let folders = self.places.folders();
        let new = self.listener.new_among(&folders);
        if !new.is_empty() {
            self.listen()?;
            new.into_iter().for_each(|folder| self.changes.suspect(folder, Instant::now()));
        }
        Ok(())
    }

    /// Waits until something has changed that the last run did not see, or until Ctrl-C.
    fn wait(&mut self, pipeline: Option<&Pipeline>, global: &Global) -> anyhow::Result<Heard> {
        loop {
            let message = match self.changes.next(Instant::now()) {
                Next::Rest => Some(self.messages.recv().context("the listener for changes has ended")?),
                Next::Wait(time) => match self.messages.recv_timeout(time) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the listener for changes has ended"),
                },
                Next::Tell(path) => {
                    self.console.line(Verb::Waiting, &format!("`{}` is still open for writing", shown_from_here(&path)));
                    None
                }
                Next::Ready => {
                    // All that has come meanwhile counts before a run begins.
                    while let Ok(message) = self.messages.try_recv() {
                        if self.take(message)? == Some(Heard::Interrupt) {
                            return Ok(Heard::Interrupt);
                        }
                    }
                    if self.changes.next(Instant::now()) == Next::Ready && self.is_news(pipeline, global)? {
                        return Ok(Heard::Change);
                    }
                    None
                }
            };
            if let Some(message) = message
                && self.take(message)? == Some(Heard::Interrupt)
            {
                return Ok(Heard::Interrupt);
            }
        }
    }

    fn take(&mut self, message: Message) -> anyhow::Result<Option<Heard>> {
        match message {
            Message::Interrupt => return Ok(Some(Heard::Interrupt)),
            Message::Event(event, at) => self.changes.hear(&event, at, &|path| self.places.matter(path)),
            Message::Trouble(error) => match Limit::of(&error) {
                Some(limit) if !self.listener.is_polling() => {
                    self.listener.look(&self.places.folders());
                    self.tell_limit(Some(limit));
                }
                // A folder that went while it was looked at comes as a change of the folder above.
                _ => {}
            },
        }
        Ok(None)
    }

    /// Takes what has changed and says so, unless it is only what the last run wrote.
    fn is_news(&mut self, pipeline: Option<&Pipeline>, global: &Global) -> anyhow::Result<bool> {
        let (mut paths, lost) = self.changes.take();
        if let Some(pipeline) = pipeline {
            let taken = TakenTexts::read(pipeline, &open_cache(pipeline, global)?)?;
            paths.retain(|path| taken.is_as_taken(path, &absolute) != Some(true));
        }
        if paths.is_empty() && !lost {
            return Ok(false);
        }
        let names: Vec<String> = paths.iter().map(|path| shown_from_here(path)).collect();
        if self.console.is_json() {
            print_json_line(&json!({ "event": "changed", "files": names }))?;
        }
        self.console.line(Verb::Changed, &listed(&names));
        Ok(true)
    }

    /// That it waits, and for what.
    fn tell_rest(&self, file: &Path, pipeline: Option<&Pipeline>) -> anyhow::Result<()> {
        let folders = self.places.count();
        if self.console.is_json() {
            print_json_line(&json!({ "event": "watching", "folders": folders, "polling": self.listener.is_polling() }))?;
        }
        let whose = pipeline.map_or_else(|| shown(file).to_string(), |pipeline| pipeline.concept.clone());
        self.console.line(Verb::Watching, &format!("{} of `{whose}`; Ctrl-C ends", counted(folders, "folder")));
        Ok(())
    }

    /// What is wrong, without ending the watch.
    fn tell_problem(&self, error: &anyhow::Error) -> anyhow::Result<()> {
        if self.console.is_json() {
            print_json_line(&json!({ "event": "problem", "text": format!("{error:#}") }))?;
        }
        let _ = report(error);
        Ok(())
    }

    fn tell_limit(&mut self, limit: Option<Limit>) {
        if let Some(limit) = limit {
            self.changes.poll();
            self.console.line(Verb::Note, &limit.message());
        }
    }
}

/// Wakes who waits for changes when the user wants to end.
fn tell_of_signals(sender: &Sender<Message>) -> std::io::Result<()> {
    let (mut heard, tells) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, tells.try_clone()?)?;
    }
    let sender = sender.clone();
    thread::spawn(move || {
        let mut byte = [0];
        while heard.read_exact(&mut byte).is_ok() && sender.send(Message::Interrupt).is_ok() {}
    });
    Ok(())
}

/// A path as the user would write it here.
fn shown_from_here(path: &Path) -> String {
    let here = std::env::current_dir().map(|here| absolute(&here)).unwrap_or_default();
    path.strip_prefix(here).map_or(path.to_path_buf(), PathBuf::from).display().to_string()
}

/// `captions/a.txt`, or the first of many and how many there are more.
fn listed(names: &[String]) -> String {
    match names {
        [] => "something; events were lost".to_string(),
        names if names.len() > LISTED => format!("{} and {} more", names[..LISTED].join(", "), names.len() - LISTED),
        names => names.join(", "),
    }
}
