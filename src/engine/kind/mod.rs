//! What does the engine ask of a stage kind, and what does a kind get?
//!
//! ```text
//! StageKind  a type of work, as data: name, version, what it writes, its params
//! params!    a kind's settings, declared once: decoding, key, what is read of inputs, reference page
//! Stage      one stage with its params: an item stage (pieces of work, one by one) or a whole stage (publishes as it goes)
//! InputUse   a reference of a stage, with the fields that are read
//! Item       what flows from stage to stage: a name, fields with artifacts, attributes
//! ```
//!
//! A stage sees its `Work` or its resolved inputs, and no path of the project. The kinds themselves are in `src/stages`. Imports
//! `syntax`, `inputs` and `cache`.

pub(crate) mod names;

pub mod input_use;
pub mod param_value;
pub mod param_values;
pub mod params;
pub mod reference;

pub mod endings;

pub mod item;
pub mod item_set;
pub mod item_tree;

pub mod stage;
pub mod stage_kind;
