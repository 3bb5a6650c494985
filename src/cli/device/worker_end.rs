//! What is printed about a worker that did not end by itself: what ran, how much memory it had, what would need less.

use anyhow::{Error, Result, anyhow};
use signal_hook::consts::SIGKILL;

use crate::cli::device::request::Passing;
use crate::computer::machine::Machine;
use crate::engine::cache::bytes::size;
use crate::engine::run::events::{Counts, Event, Observer, StageState};

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// By a signal of that number.
    Signal(i32),
    /// It said itself where.
    Panicked,
}

/// A stage that ran when the worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interrupted {
    name: String,
    /// `12 of 100 steps`
    far: String,
    /// Settings with which it needs less memory.
    savers: Vec<String>,
}

/// Takes the note of a killed run away, so that it is not taken for one of the worker that starts.
///
/// # Errors
/// If it cannot be removed.
pub fn forget_others(run: &Passing<'_>) -> Result<()> {
    if run.cache.runner(&run.pipeline.folder)?.is_none() {
        run.cache.remove_run_status(&run.pipeline.folder)?;
    }
    Ok(())
}

/// The error that a worker's end is. Tells whoever reads JSON lines what became of the stages, too.
pub fn error_of(manner: &Manner, peak: Option<u64>, device: &str, machine: &Machine, run: Option<&Passing<'_>>) -> Error {
    let running = run.map(interrupted).unwrap_or_default();
    let text = worded(*manner, peak, machine.memory.total, device, &running);
    if let Some(run) = run.filter(|run| run.console.is_json()) {
        for stage in &running {
            let counts = Counts { total: 1, failed: 1, ..Counts::default() };
            run.console.event(Event::StageFinished {
                stage: stage.name.clone(),
                state: StageState::Failed,
                counts,
                seconds: 0.0,
                note: Some(text.clone()),
                came_out_the_same: false,
            });
        }
        run.console.event(Event::RunFinished { ok: false, seconds: 0.0 });
    }
    anyhow!(text)
}

/// What ran, by the note that a run keeps for `loramill status`.
fn interrupted(run: &Passing<'_>) -> Vec<Interrupted> {
    // Who holds the lock now waited for it while the worker ran, or the other way round.
    let is_ours = run.cache.runner(&run.pipeline.folder).is_ok_and(|runner| runner.is_none());
    let note = if is_ours { run.cache.run_status(&run.pipeline.folder).ok().flatten() } else { None };
    let stage = |line: &str| {
        let (name, far) = line.rsplit_once(": ")?;
        let savers = run.pipeline.stage(name).map(|stage| stage.stage.memory_savers()).unwrap_or_default();
        Some(Interrupted { name: name.to_string(), far: far.to_string(), savers })
    };
    note.unwrap_or_default().lines().filter_map(stage).collect()
}

fn worded(manner: Manner, peak: Option<u64>, memory: u64, device: &str, running: &[Interrupted]) -> String {
    let what = match running {
        [] => String::new(),
        stages => {
            let stages: Vec<String> = stages.iter().map(|stage| format!("`{}` ({})", stage.name, stage.far)).collect();
            format!("{}: ", stages.join(", "))
        }
    };
    let how = match manner {
        Manner::Signal(SIGKILL) => "was killed (SIGKILL)".to_string(),
        Manner::Signal(signal) => {
            let name = signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_string);
            format!("was ended by {name}")
        }
        Manner::Panicked => "crashed because of a bug".to_string(),
    };
    let had = peak.map(|peak| format!(" with {} of memory", size(peak))).unwrap_or_default();
    let of = if memory > 0 { format!(", of the {} that this computer has", size(memory)) } else { String::new() };
    let mut savers: Vec<&str> = Vec::new();
    for saver in running.iter().flat_map(|stage| &stage.savers) {
        if !savers.contains(&saver.as_str()) {
            savers.push(saver);
        }
    }
    let less = if savers.is_empty() { "close other programs".to_string() } else { format!("set {}", savers.join(", ")) };
    let remedy = match manner {
        Manner::Signal(SIGKILL) => format!("probably out of memory: {less}"),
        _ if device == "cpu" => format!("if memory ran out, {less}"),
        _ => format!(
            "`loramill doctor` compares a card with the processor, `--device libtorch:cpu` runs without one; if memory ran out, {less}"
        ),
    };
    format!("{what}the process that runs the networks {how}{had}{of}; {remedy}. The same command resumes from what is saved")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(savers: &[&str]) -> Interrupted {
        let savers = savers.iter().map(ToString::to_string).collect();
        Interrupted { name: "train".into(), far: "12 of 100 steps".into(), savers }
    }

    #[test]
    fn a_killed_worker_is_told_with_what_ran_and_what_needs_less() {
        let stage = train(&["`checkpointing: true`", "a smaller `batch_size`"]);
        let text = worded(Manner::Signal(SIGKILL), Some(5_150_000_000), 8_200_000_000, "libtorch:cpu", &[stage]);
        assert_eq!(
            text,
            "`train` (12 of 100 steps): the process that runs the networks was killed (SIGKILL) with 5.2 GB of memory, of the 8.2 GB that \
             this computer has; probably out of memory: set `checkpointing: true`, a smaller `batch_size`. The same \
             command resumes from what is saved"
        );
    }

    #[test]
    fn a_driver_that_breaks_down_leads_to_the_doctor() {
        let text = worded(Manner::Signal(11), None, 0, "libtorch:0", &[]);
        assert!(text.starts_with("the process that runs the networks was ended by SIGSEGV; `loramill doctor`"), "{text}");
        assert!(!worded(Manner::Panicked, None, 0, "cpu", &[]).contains("doctor"));
    }
}
