//! Looks into files that inputs name before anything runs: stages say of which they cannot be what they are read as. Unaware of
//! what is in them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use crate::graph::pipeline::{Pipeline, Producer};
use crate::graph::stage_id::StageId;
use crate::inputs::input::Found;
use crate::kind::stage::Finding;
use crate::syntax::diagnostic::{Diagnostic, Diagnostics};

/// What `stages` cannot use among the files that are here, each at its reference. Variants that read the same files
/// are asked once.
pub fn examine(pipeline: &Pipeline, stages: &[StageId]) -> Vec<Diagnostic> {
    let mut diagnostics = Diagnostics::default();
    let mut asked: HashMap<(&str, BTreeMap<String, PathBuf>), Vec<Finding>> = HashMap::new();
    for stage in stages.iter().map(|&id| &pipeline.stages[id]) {
        let mut files = BTreeMap::new();
        for edge in &stage.edges {
            if let Producer::Input(index) = edge.from
                && let Found::File(path) = &pipeline.inputs[index].found
            {
                files.insert(edge.reads.param.clone(), path.clone());
            }
        }
        if files.is_empty() {
            continue;
        }
        let found = asked.entry((stage.kind.name, files.clone())).or_insert_with(|| stage.stage.examine(&files));
        for Finding { param, problem } in found.iter() {
            let Some(edge) = stage.edges.iter().find(|edge| edge.reads.param == *param) else { continue };
            diagnostics
                .report(
                    &edge.reads.reference.span,
                    format!("`{}` cannot be the `{param}` of `{}`", edge.reads.reference.name, stage.base_name),
                )
                .hint(problem);
        }
    }
    diagnostics.into_sorted()
}
