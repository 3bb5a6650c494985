//! What a stage reads: of each reference the fields and how many items. Unaware of what lies there and of who makes it.

use crate::kind::param_value::ParamValue;
use crate::kind::reference::Reference;

/// A reference of a stage, with what is read of it.
#[derive(Clone, Debug)]
pub struct InputUse {
    /// Path of the param: `images`, `lora[0]`. Names the input in keys and in `Resolved`.
    pub param: String,
    pub reference: Reference,
    /// The fields that are read; of these, `reads[0]` must be there and the others may be missing.
    pub reads: &'static [&'static str],
    pub shape: InputShape,
}

/// How many items an input must have. Another number is an error when the items are known, which may be in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputShape {
    /// Exactly one item is expected: a model file, a file of boxes.
    One,
    /// Any number of items, at least one.
    Many,
    /// As `Many`, and the pipeline's `skip:` leaves out items of names that stages made. Photos it leaves out of every stage.
    Training,
}

impl InputUse {
    /// One for each reference in the value of the param `param`.
    pub fn of(param: &str, value: &impl ParamValue, shape: InputShape, reads: &'static [&'static str]) -> Vec<Self> {
        let mut references = Vec::new();
        value.references(param, &mut references);
        references.into_iter().map(|(param, reference)| Self { param, reference, reads, shape }).collect()
    }

    /// The field under which an input that is one file is given: `file` if that is read, else the field that must be there. So a
    /// plain file stands in for the `model` or `lora` of a stage.
    pub fn field_of_file(&self) -> &'static str {
        if self.reads.contains(&"file") { "file" } else { self.reads.first().copied().unwrap_or("file") }
    }
}

/// An input that a stage has in common with one that it reads.
#[derive(Clone, Debug)]
pub struct ImpliedInput {
    /// Names the input in keys and in `Resolved`, as `InputUse::param` does.
    pub param: String,
    /// The param that names the stage: `lora[0]`.
    pub through: String,
    /// The param of that stage whose items are taken: `images`.
    pub theirs: &'static str,
    pub reads: &'static [&'static str],
    /// Why it is needed, for a message: "`[filewords]` in a prompt". Said at the place of `through` if there is no such input.
    pub purpose: &'static str,
}

/// A file that belongs to another because it lies beside it. Not written in the pipeline; an input all the same.
#[derive(Clone, Debug)]
pub struct Companion {
    /// Names the input in keys and in `Resolved`, as `InputUse::param` does: `lora[0].adapter_config`.
    pub param: String,
    /// The param that names the file beside which it lies: `lora[0]`. What a stage makes has no companions.
    pub beside: String,
    /// What it is called: `adapter_config.json`.
    pub file: &'static str,
    /// The stem of files that never come without it: `adapter_model`.
    pub never_alone: &'static str,
    /// As `Stage::most_bytes`.
    pub most_bytes: u64,
    /// As `InputUse::reads`.
    pub reads: &'static [&'static str],
}
