//! Whether the checkpoints that references and `pick` choose will be there: a stage that publishes as it goes says after which
//! epochs, before it has seen its inputs. Unaware of what a checkpoint is.

use crate::graph::pipeline::{LoadedStage, Producer};
use crate::graph::stage_id::{StageId, StageVec};
use crate::kind::reference::Selector;
use crate::kind::stage::{Epochs, Form};
use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::tree::Span;

/// Reports every choice of an epoch after which nothing is saved. `pick` is the epoch that the file picks, with its place. Each
/// stage comes after those it reads.
pub(crate) fn check(stages: &StageVec<LoadedStage>, pick: Option<(u64, &Span)>, diagnostics: &mut Diagnostics) {
    let sources = sources(stages);
    for edge in stages.values().flat_map(|stage| &stage.edges) {
        let Producer::Stage(producer) = edge.from else { continue };
        let reference = &edge.reads.reference;
        let chosen: Vec<(u64, &Span)> = match &reference.selector {
            Selector::Epochs(epochs) => epochs.iter().map(|epoch| (*epoch, &reference.span)).collect(),
            Selector::Pick => pick.into_iter().collect(),
            Selector::All | Selector::Step(_) | Selector::Last => continue,
        };
        let Some((whole, saved)) = sources[producer] else { continue };
        let Epochs { every, last } = saved;
        for (epoch, span) in chosen.into_iter().filter(|(epoch, _)| !saved.contain(*epoch)) {
            let often =
                if every == 1 { "after each epoch up to".to_string() } else { format!("every {every} epochs, and after") };
            diagnostics
                .report(span, format!("`{}` saves nothing after epoch {epoch}", stages[whole].base_name))
                .hint(format!("it saves {often} the last, {last}; one saved by hand is chosen by its step: `@step:N`"));
        }
    }
}

/// For each stage the one whose checkpoints its items are, and after which epochs that saves; `None` where nobody can tell.
fn sources(stages: &StageVec<LoadedStage>) -> StageVec<Option<(StageId, Epochs)>> {
    let mut sources = stages.filled_with(None);
    for (id, stage) in stages.iter() {
        sources[id] = match stage.stage.form() {
            Form::Whole(whole) => whole.epochs().map(|epochs| (id, epochs)),
            // It maps the checkpoints of one that it reads; of several nobody can tell whose.
            Form::Items(_) => {
                let mut through = stage.edges.iter().filter_map(|edge| match edge.from {
                    Producer::Stage(read) if edge.reads.reference.selector == Selector::All => sources[read],
                    Producer::Stage(_) | Producer::Input(_) => None,
                });
                let first = through.next();
                if through.next().is_none() { first } else { None }
            }
        };
    }
    sources
}
