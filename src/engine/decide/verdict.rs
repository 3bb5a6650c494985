//! The verdict on one stage: up to date, or which of its work must run. Plain data; unaware of how it is reached.

use crate::cache::digest::Digest;
use crate::cache::records::Output;
use crate::decide::keys::StageIdentity;
use crate::decide::reason::Reason;
use crate::decide::taken::Taken;
use crate::kind::item::Fields;
use crate::kind::item_tree::ItemTree;
use crate::kind::stage::{ItemStage, WholeStage, Work};

/// What is known of a stage before it runs: its identity, its inputs, the verdict.
pub struct Decision<'a> {
    pub basis: Basis<'a>,
    pub verdict: Verdict<'a>,
}

/// What a stage is made of: all that its keys cover.
pub struct Basis<'a> {
    pub identity: StageIdentity,
    /// None while something that it reads is awaited.
    pub taken: Vec<Taken<'a>>,
}

/// Whether a stage must run, and how.
pub enum Verdict<'a> {
    /// All outputs are here. `recorded`: the lock has this row already.
    Fresh {
        key: Digest,
        tree: ItemTree,
        recorded: bool,
        ended: Option<String>,
    },
    Items(ItemPlan<'a>),
    Whole(WholePlan<'a>),
    /// It is left out of the run: these are its outputs of before, though there are reasons to run it.
    Kept {
        tree: ItemTree,
        reasons: Vec<Reason>,
    },
    /// Nothing can be said before something else is there.
    Waits(Vec<Reason>),
}

/// An item stage that is not known to be fresh as a whole.
pub struct ItemPlan<'a> {
    pub form: &'a dyn ItemStage,
    /// Of the row; `None` if not all inputs are there.
    pub key: Option<Digest>,
    pub works: Vec<KeyedWork>,
    /// Why any of them must run.
    pub reasons: Vec<Reason>,
}

impl<'a> ItemPlan<'a> {
    /// Nothing of it runs, and nobody is given anything, before a person has decided.
    pub(crate) fn withheld(form: &'a dyn ItemStage, mut works: Vec<KeyedWork>, reason: Reason) -> Self {
        works.iter_mut().for_each(|keyed| keyed.state = WorkState::Unknown);
        Self { form, key: None, works, reasons: vec![reason] }
    }

    /// Why a person has to decide before any of it runs.
    pub fn waits_for_decision(&self) -> Option<&Reason> {
        self.reasons.iter().find(|reason| matches!(reason, Reason::TextsLost { .. }))
    }
}

/// A piece of work of an item stage and what is known of its result.
pub struct KeyedWork {
    pub work: Work,
    pub key: Digest,
    pub state: WorkState,
}

/// Whether a piece of work must run. A fresh one has its outputs; an unknown one depends on an input that is not there yet, or on
/// a person's decision.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkState {
    Fresh(Vec<Output>),
    Dirty,
    Unknown,
    /// A person wrote the text; the machine is not asked. Holds the fields that people wrote.
    Edited(Fields),
    /// What a person wrote cannot be used: says why.
    Broken(String),
}

/// A whole stage that must run, or of which that is not known.
pub struct WholePlan<'a> {
    pub form: &'a dyn WholeStage,
    /// `None` if not all inputs are known.
    pub key: Option<Digest>,
    pub state_key: Option<Digest>,
    pub reasons: Vec<Reason>,
    /// By an interrupted run that this one goes on from.
    pub published: Vec<Output>,
    /// Some of what an interrupted run published is lost: nothing of it may be used.
    pub start_over: bool,
    /// How much of the work the interrupted run did, from 0 to 1.
    pub done: f64,
}

impl<'a> WholePlan<'a> {
    /// One that begins at its beginning.
    pub(crate) const fn from_the_start(
        form: &'a dyn WholeStage,
        key: Option<Digest>,
        state_key: Option<Digest>,
        reasons: Vec<Reason>,
    ) -> Self {
        Self { form, key, state_key, reasons, published: Vec::new(), start_over: false, done: 0.0 }
    }
}
