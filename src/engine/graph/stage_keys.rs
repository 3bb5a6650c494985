//! Keys that every stage may have, whatever its kind: they are for the engine and in no key of a result. Unaware of the kinds.

use serde_json::json;

use crate::graph::matrix::{self, Axis};
use crate::kind::param_value::ParamValue;
use crate::kind::params::{ParamDoc, Role};
use crate::syntax::diagnostic::Diagnostics;
use crate::syntax::tree::{Key, Node, Span, Value};

/// Variants of a stage that need no `limit`.
pub const VARIANTS: u64 = 64;

/// More variants than any `limit` may allow: a slip, not an experiment.
pub const MOST_VARIANTS: u64 = 10_000;

/// More attempts would hide a fault that does not pass.
const MOST_RETRIES: u64 = 100;

/// What a stage says of itself to the engine.
#[derive(Debug)]
pub struct StageKeys {
    /// Built by a run that names no targets.
    pub by_default: bool,
    /// What its variants vary.
    pub axes: Vec<Axis>,
    /// The most variants it may have, if it says so.
    pub limit: Option<u64>,
    /// Further attempts after a failure that may pass.
    pub retry: u32,
    /// Whether its outputs stay in the cache when they have been read, and the place where it says so. `None`: as its kind has
    /// it.
    pub keep: Option<(bool, Span)>,
}

/// The keys with their documentation; `kind` stands before them. `keeps`: what the kind does by default.
pub fn docs(keeps: bool) -> Vec<ParamDoc> {
    let doc = |name, doc, default, schema| ParamDoc { name, doc, role: Role::Execution, default: Some(default), schema };
    vec![
        doc(
            "default",
            "Built by a run that names no targets; `false` leaves it out unless something needs it.",
            json!(true),
            json!({ "type": "boolean" }),
        ),
        doc(
            "matrix",
            "Params with several values, each combination a variant of the stage: `{ network.rank: [4, 8, 16] }` gives `train[rank=4]`, \
             `train[rank=8]` and `train[rank=16]`. A stage that reads `train` has the same variants; one that reads `train[rank=8]` takes \
             that one, and one that reads `train[*]` takes all of them together.",
            serde_json::Value::Null,
            json!({
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {
                    "anyOf": [
                        { "type": ["number", "string", "boolean", "null"] },
                        { "type": "array", "minItems": 1, "items": { "type": ["number", "string", "boolean", "null"] } },
                    ],
                },
            }),
        ),
        doc(
            "limit",
            "The most variants that the stage may have; without it 64.",
            serde_json::Value::Null,
            json!({ "type": "integer", "minimum": 1, "maximum": MOST_VARIANTS }),
        ),
        doc(
            "retry",
            "Further attempts after a failure that may pass: a disk that is full, a device that is out of memory, a connection that broke.",
            json!(0),
            json!({ "type": "integer", "minimum": 0, "maximum": MOST_RETRIES }),
        ),
        doc(
            "keep",
            "`false` lets the outputs go from the cache once every stage that reads them has done so. The files in `out/` stay; what is \
             needed again is taken from there, or made again.",
            json!(keeps),
            json!({ "type": "boolean" }),
        ),
    ]
}

impl StageKeys {
    /// Takes them out of `params`, which then hold what is for the kind.
    pub fn take(stage: &Key, params: &mut Node, diagnostics: &mut Diagnostics) -> Self {
        let names: Vec<&str> = docs(true).iter().map(|doc| doc.name).collect();
        let mut taken = params.clone();
        if let (Value::Map(ours), Value::Map(theirs)) = (&mut taken.value, &mut params.value) {
            ours.retain(|(key, _)| names.contains(&key.name.as_str()));
            theirs.retain(|(key, _)| !names.contains(&key.name.as_str()));
        }
        let reserved: Vec<&str> = names.iter().copied().chain(["kind"]).collect();
        Self {
            by_default: taken.get("default").and_then(|node| bool::decode(node, diagnostics)).unwrap_or(true),
            axes: taken
                .get("matrix")
                .map(|node| matrix::read(&stage.name, node, params, &reserved, diagnostics))
                .unwrap_or_default(),
            limit: taken.get("limit").and_then(|node| number("limit", node, 1, MOST_VARIANTS, diagnostics)),
            retry: taken.get("retry").and_then(|node| number("retry", node, 0, MOST_RETRIES, diagnostics)).unwrap_or(0) as u32,
            keep: taken.get("keep").and_then(|node| Some((bool::decode(node, diagnostics)?, node.span.clone()))),
        }
    }
}

fn number(name: &str, node: &Node, least: u64, most: u64, diagnostics: &mut Diagnostics) -> Option<u64> {
    let number = u64::decode(node, diagnostics)?;
    if (least..=most).contains(&number) {
        return Some(number);
    }
    diagnostics.report(&node.span, format!("`{name}` must lie between {least} and {most}"));
    None
}
