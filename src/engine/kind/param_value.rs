//! What a type must offer to stand in a params struct. Unaware of which types do.

use crate::kind::reference::Reference;
use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::tree::Node;

/// A value that a params struct may hold.
pub trait ParamValue: Sized {
    /// Reads the value, or reports why it cannot and returns `None`.
    fn decode(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self>;

    /// The one spelling that enters keys: `1e-4` and `0.0001` give the same. Objects are flattened to dotted names.
    fn canonical(&self) -> serde_json::Value;

    fn schema() -> serde_json::Value;

    /// The references inside, each with its path below `path`: `lora[0]`.
    fn references(&self, _path: &str, _found: &mut Vec<(String, Reference)>) {}
}
