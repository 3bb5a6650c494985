//! A stage kind as data: a constant in the kind's file, and what reads its params. Unaware of what a stage of it does.

use crate::kind::params::{ParamDoc, Params};
use crate::kind::stage::Stage;
use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::tree::Node;

/// A type of work.
///
/// A kind states its `name`, its `version` and what it `writes`, and whatever of the rest is not as [`StageKind::of`] has it.
#[derive(Clone, Copy)]
pub struct StageKind {
    /// As written in `kind:`.
    pub name: &'static str,
    /// From 1. Raised by hand when the same inputs and params give other bytes than before.
    pub version: u32,
    /// Fields that its items carry: `image`, `caption`, `lora`, `model`. A consumer that reads another is an error at load.
    pub writes: &'static [&'static str],
    /// The fields of the items it reads that it does not write pass on to its outputs, as `Work::of_item` carries them. Untrue of
    /// a kind whose outputs are other things than its inputs: `sample`, `merge`. A kind that runs as a whole passes nothing on.
    pub passes_fields_on: bool,
    /// Its outputs stay in the cache when all stages that read them have done so, unless a stage says `keep: false`. Untrue of a
    /// kind whose outputs are large and quickly made again: `merge`.
    pub keeps: bool,
    /// What its results are worth when a cache must shrink.
    pub worth: Worth,
    /// First line: what it does; the rest: the reference page.
    pub doc: &'static str,
    pub params: fn() -> Vec<ParamDoc>,
    pub load: Load,
}

/// Reads the params of a stage; problems go to the diagnostics.
pub type Load = fn(&Node, &LoadScope<'_>, &mut Diagnostics) -> Option<Box<dyn Stage>>;

/// What a stage may know of the file around it. What follows from it belongs among the components, or it is in no key.
pub struct LoadScope<'a> {
    /// The name of the stage itself: its sub-stages are called `<stage>/<sub-stage>`.
    pub stage: &'a str,
    pub concept: &'a str,
    pub trigger: &'a str,
    pub seed: u64,
}

/// What goes first when a cache must shrink. Among equals, what is large for the time it takes to make again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// Large, and put together again from what is kept.
    Bulky,
    Usual,
    /// Small, and what all the rest is made of.
    Precious,
}

impl StageKind {
    /// A kind whose params are `P` and that is otherwise as most are; it has no name yet, no version and no fields. Any params
    /// are a stage that their types allow: a kind with further rules has its own `load`.
    pub const fn of<P: Params + Stage + 'static>() -> Self {
        Self {
            name: "",
            version: 0,
            writes: &[],
            passes_fields_on: true,
            keeps: true,
            worth: Worth::Usual,
            doc: P::DOC,
            params: P::fields,
            load: load::<P>,
        }
    }

    /// Whether each has a name, a version and fields, for whoever lists kinds to ask when it compiles.
    pub const fn are_complete(kinds: &[&Self]) -> bool {
        let mut index = 0;
        while index < kinds.len() {
            let Self { name, version, writes, .. } = kinds[index];
            if name.is_empty() || *version == 0 || writes.is_empty() {
                return false;
            }
            index += 1;
        }
        true
    }
}

fn load<P: Params + Stage + 'static>(node: &Node, _: &LoadScope<'_>, diagnostics: &mut Diagnostics) -> Option<Box<dyn Stage>> {
    Some(Box::new(P::decode_params(node, diagnostics)?))
}
