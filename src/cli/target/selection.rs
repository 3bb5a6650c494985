//! Which stages of a pipeline a command is about, by the names that the user gives.

use clap::Args;

use crate::cli::exit::WrongArguments;
use crate::engine::graph::pipeline::Pipeline;
use crate::engine::graph::selection::{Force, Selection, named, with_readers};
use crate::engine::graph::stage_id::StageId;
use crate::engine::kind::reference::places;
use crate::engine::kind::stage::Form;
use crate::engine::syntax::diagnostic::nearest;

/// What of a pipeline is run.
#[derive(Args, Clone, Debug, Default)]
pub struct SelectionArguments {
    /// Run these stages even if they are fresh; `--force resize=IMG_1*` runs the items that match
    #[arg(long, value_name = "STAGE[=ITEMS]")]
    force: Vec<String>,
    /// Run only these stages, on inputs as the last run left them
    #[arg(long, value_name = "STAGE", conflicts_with_all = ["from", "to"])]
    only: Vec<String>,
    /// Run these stages and all that depend on them, on inputs as the last run left them
    #[arg(long, value_name = "STAGE")]
    from: Vec<String>,
    /// Run these stages and what they depend on, and nothing after them
    #[arg(long, value_name = "STAGE")]
    to: Vec<String>,
}

impl SelectionArguments {
    /// The same without what is forced.
    pub fn without_force(&self) -> Self {
        Self { force: Vec::new(), ..self.clone() }
    }

    /// As on a command line.
    pub fn written(&self) -> Vec<String> {
        let options = [("force", &self.force), ("only", &self.only), ("from", &self.from), ("to", &self.to)];
        let written =
            |(name, values): (&str, &Vec<String>)| values.iter().map(|value| format!("--{name}={value}")).collect::<Vec<_>>();
        options.into_iter().flat_map(written).collect()
    }

    /// What is to be done with the stages `targets`, or with those of a bare run if there are none.
    ///
    /// # Errors
    /// `WrongArguments` for a name that is no stage, and for options that leave nothing to do.
    pub fn of(&self, pipeline: &Pipeline, targets: Vec<StageId>) -> anyhow::Result<Selection> {
        let only = stages_named(pipeline, &self.only)?;
        let from = stages_named(pipeline, &self.from)?;
        let to = stages_named(pipeline, &self.to)?;
        if !only.is_empty() && !targets.is_empty() {
            return wrong("`--only` names the stages to run: name no others".to_string());
        }
        let named = [targets, to].concat();
        let mut selection = Selection::of(match (only.is_empty(), named.is_empty()) {
            (false, _) => only.clone(),
            (true, true) => pipeline.asked_by_default(),
            (true, false) => named.clone(),
        });
        if !only.is_empty() {
            selection.leave_out_all_but(pipeline, only);
        } else if !from.is_empty() {
            let after = with_readers(pipeline, &from);
            selection.targets.retain(|target| after.contains(target));
            if named.is_empty() {
                // Also where a bare run would not build it.
                selection.targets.extend(&from);
            }
            if selection.targets.is_empty() {
                let listed = |stages: &[StageId]| {
                    stages.iter().map(|&stage| format!("`{}`", pipeline.stages[stage].name)).collect::<Vec<_>>().join(", ")
                };
                return wrong(format!("{} does not read {}: there is nothing from here to there", listed(&named), listed(&from)));
            }
            selection.leave_out_all_but(pipeline, after);
        }
        for option in &self.force {
            for (stage, force) in forced(pipeline, option)? {
                if selection.only.as_ref().is_some_and(|only| !only.contains(&stage)) {
                    let name = &pipeline.stages[stage].name;
                    return wrong(format!("`{name}` is forced, and `--only` or `--from` leaves it out: choose one"));
                }
                selection.targets.push(stage);
                selection.force.insert(stage, force);
            }
        }
        Ok(selection)
    }
}

/// `resize`, or `resize=IMG_1*`; a `=` between `[ ]` belongs to the name.
fn forced(pipeline: &Pipeline, option: &str) -> anyhow::Result<Vec<(StageId, Force)>> {
    let (name, pattern) = match places(option, '=').first() {
        Some(&equals) => (&option[..equals], Some(&option[equals + 1..])),
        None => (option, None),
    };
    let force = match pattern {
        Some(pattern) => Force::items(pattern).map_err(WrongArguments)?,
        None => Force::All,
    };
    let stages = stages_named(pipeline, &[name.to_string()])?;
    if let (Some(_), Some(&whole)) =
        (pattern, stages.iter().find(|&&stage| matches!(pipeline.stages[stage].stage.form(), Form::Whole(_))))
    {
        let name = &pipeline.stages[whole].name;
        return wrong(format!("`{name}` runs as a whole, not item by item: write `--force {name}`"));
    }
    Ok(stages.into_iter().map(|stage| (stage, force.clone())).collect())
}

/// The stages called so: `train` means all its variants, `train[rank=8]` those that it picks.
pub fn stages_named(pipeline: &Pipeline, names: &[String]) -> anyhow::Result<Vec<StageId>> {
    let mut stages = Vec::new();
    for name in names {
        let found = named(pipeline, name);
        if found.is_empty() {
            return Err(unknown(pipeline, name).into());
        }
        stages.extend(found.into_iter().filter(|stage| !stages.contains(stage)).collect::<Vec<_>>());
    }
    Ok(stages)
}

/// The one stage called `name`.
pub fn stage_named(pipeline: &Pipeline, name: &str) -> anyhow::Result<StageId> {
    match named(pipeline, name).as_slice() {
        [] => Err(unknown(pipeline, name).into()),
        [only] => Ok(*only),
        several => {
            let first = &pipeline.stages[several[0]].name;
            wrong(format!("`{name}` has {} variants: name one, such as `{first}`", several.len()))
        }
    }
}

fn unknown(pipeline: &Pipeline, name: &str) -> WrongArguments {
    let known = || pipeline.stages.values().map(|stage| stage.name.as_str());
    let bases = || pipeline.stages.values().map(|stage| stage.base_name.as_str());
    let hint = match nearest(name, known().chain(bases())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let (count, listed) = (known().count(), known().take(20).collect::<Vec<_>>().join(", "));
            let more = if count > 20 { format!(" and {} more", count - 20) } else { String::new() };
            format!("there are {listed}{more}")
        }
    };
    WrongArguments(format!("there is no stage `{name}`: {hint}"))
}

fn wrong<T>(message: String) -> anyhow::Result<T> {
    Err(WrongArguments(message).into())
}
