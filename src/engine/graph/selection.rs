//! What a run is asked for: which stages, which of them again though they are fresh, and which it leaves out. Unaware of what is
//! fresh.

use std::collections::{BTreeMap, BTreeSet};

use globset::{GlobBuilder, GlobMatcher};

use crate::graph::pipeline::{Pipeline, Producer};
use crate::graph::stage_id::StageId;
use crate::kind::reference::parse_variant_name;

/// The stages that a run or a plan is about.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Built, with all they need.
    pub targets: Vec<StageId>,
    /// Run again even if they are fresh.
    pub force: BTreeMap<StageId, Force>,
    /// The only ones that run; what else is needed gives what it gave last. `None`: all may run.
    pub only: Option<BTreeSet<StageId>>,
}

/// How much of a stage is run again.
#[derive(Clone, Debug)]
pub enum Force {
    All,
    /// Items whose names match; of an item stage alone.
    Items(GlobMatcher),
}

/// What is asked of one stage.
#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// To do what is missing.
    Complete,
    /// To do this again, and what is missing.
    Again(&'a Force),
    /// To stay as it is.
    LeaveOut,
}

impl Force {
    /// Items whose names match a pattern in which `*` stops at no `/`.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn items(pattern: &str) -> Result<Self, String> {
        let glob =
            GlobBuilder::new(pattern).build().map_err(|error| format!("`{pattern}` is not a pattern: {}", error.kind()))?;
        Ok(Self::Items(glob.compile_matcher()))
    }
}

impl Ask<'_> {
    /// Whether anything of the stage is forced.
    pub const fn is_forced(self) -> bool {
        matches!(self, Self::Again(_))
    }

    /// Whether an item runs even if it is fresh.
    pub fn forces(self, item: &str) -> bool {
        match self {
            Self::Again(Force::All) => true,
            Self::Again(Force::Items(glob)) => glob.is_match(item),
            Self::Complete | Self::LeaveOut => false,
        }
    }

    /// What to say if a pattern matches none of the items there are.
    pub fn matches_none<'n>(self, mut items: impl Iterator<Item = &'n str>) -> Option<String> {
        let Self::Again(Force::Items(glob)) = self else { return None };
        let first = items.next();
        let is_any = first.into_iter().chain(items).any(|item| glob.is_match(item));
        let example = first.map(|first| format!(", such as `{first}`")).unwrap_or_default();
        (!is_any).then(|| format!("`{}` matches none of its items{example}", glob.glob()))
    }
}

impl Selection {
    /// These and all they need, as far as it is missing.
    pub fn of(targets: impl Into<Vec<StageId>>) -> Self {
        Self { targets: targets.into(), ..Self::default() }
    }

    /// Every stage that has to be looked at, in the order of the pipeline.
    pub fn needed(&self, pipeline: &Pipeline) -> Vec<StageId> {
        pipeline.needed(self.targets.iter().copied())
    }

    /// What is asked of a stage. One that `only` leaves out stays as it is even if it is forced.
    pub fn ask(&self, stage: StageId) -> Ask<'_> {
        match (self.force.get(&stage), &self.only) {
            (_, Some(only)) if !only.contains(&stage) => Ask::LeaveOut,
            (Some(force), _) => Ask::Again(force),
            (None, _) => Ask::Complete,
        }
    }

    /// Lets only `stages` run, with the stages that belong to them.
    pub fn leave_out_all_but(&mut self, pipeline: &Pipeline, stages: impl IntoIterator<Item = StageId>) {
        let mut only: BTreeSet<StageId> = stages.into_iter().collect();
        // The stages that belong to another come before it.
        for id in pipeline.stages.ids().rev() {
            let owner = pipeline.stages[id].owner.as_ref().and_then(|owner| pipeline.id_of(owner));
            if owner.is_some_and(|owner| only.contains(&owner)) {
                only.insert(id);
            }
        }
        self.only = Some(only);
    }
}

/// The stages that a person means by `train`, `train[rank=8]` or `train/latents`: one, or several variants of one.
pub fn named(pipeline: &Pipeline, text: &str) -> Vec<StageId> {
    if let Some(exact) = pipeline.id_of(text) {
        return vec![exact];
    }
    let Some((name, picks, "")) = parse_variant_name(text) else { return Vec::new() };
    let stages = pipeline.stages.iter();
    stages.filter(|(_, stage)| stage.base_name == name && stage.variant.is_among(&picks)).map(|(id, _)| id).collect()
}

/// The stages `starts` and all that read them, directly or through others.
pub fn with_readers(pipeline: &Pipeline, starts: &[StageId]) -> BTreeSet<StageId> {
    let mut found: BTreeSet<StageId> = starts.iter().copied().collect();
    // A stage comes after those it reads.
    for (id, stage) in pipeline.stages.iter() {
        if stage.edges.iter().any(|edge| matches!(edge.from, Producer::Stage(producer) if found.contains(&producer))) {
            found.insert(id);
        }
    }
    found
}
