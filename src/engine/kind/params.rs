//! Params structs: declared once by `params!`, from which come decoding with all errors at once, what enters a key, what is read
//! of inputs, and the reference page. Unaware of which kinds exist.
//!
//! Every field is marked with its role, and a field without one does not compile:
//! - `input`: names other stages or inputs; in the key by the digests of what is read of them. `=> Many["image", "caption"]` says
//!   what: a shape of `InputShape`, and the fields as in `InputUse::reads`;
//! - `result`: in the key by its canonical value;
//! - `execution`: changes cost only, in no key.

use serde_json::json;

use crate::kind::input_use::InputUse;
use crate::syntax::diagnostic::{Diagnostics, nearest};
use crate::syntax::tree::{Node, Value};

/// What a field of a params struct means for the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Input,
    Result,
    Execution,
}

/// One row of the reference page.
#[derive(Clone, Debug)]
pub struct ParamDoc {
    pub name: &'static str,
    /// The doc comment.
    pub doc: &'static str,
    pub role: Role,
    /// As written in YAML; `None` where the user must give it.
    pub default: Option<serde_json::Value>,
    /// JSON schema of the value.
    pub schema: serde_json::Value,
}

/// A params struct, as `params!` makes it.
pub trait Params: Declared + Sized {
    /// The doc comment of the struct.
    const DOC: &'static str;

    fn fields() -> Vec<ParamDoc>;

    /// Reads a mapping; unknown keys, wrong types and missing fields are all reported. The key `kind` is the engine's and
    /// skipped.
    fn decode_params(node: &Node, diagnostics: &mut Diagnostics) -> Option<Self>;
}

/// What follows from the values of a params struct by its declaration alone.
pub trait Declared {
    /// The `result` fields: dotted name and canonical value, in the order of the names.
    fn results(&self) -> Vec<(String, serde_json::Value)>;

    /// The references of the `input` fields that say what is read of them, in their order.
    fn reads(&self) -> Vec<InputUse>;
}

/// Declares a params struct.
///
/// ```
/// loramill_engine::params! {
///     /// Scales pictures.
///     pub struct Resize {
///         /// The pictures.
///         input images: loramill_engine::kind::reference::Reference => Many["image"],
///         /// Side in pixels.
///         result size: u64 = 512,
///         /// Threads; 0 takes all.
///         execution workers: u64 = 0,
///     }
/// }
/// ```
#[macro_export]
macro_rules! params {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident {
            $( $(#[doc = $field_doc:literal])* $role:ident $field:ident : $type:ty $(= $default:expr)? $(=> $shape:ident $reads:expr)? ),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug)]
        pub struct $name { $( $(#[doc = $field_doc])* pub $field: $type ),* }

        impl $crate::kind::params::Params for $name {
            const DOC: &'static str = concat!($($doc, "\n"),*);

            fn fields() -> Vec<$crate::kind::params::ParamDoc> {
                vec![$( $crate::kind::params::ParamDoc {
                    name: stringify!($field),
                    doc: concat!($($field_doc, "\n"),*),
                    role: $crate::params!(@role $role),
                    default: $crate::params!(@default_json $type $(, $default)?),
                    schema: <$type as $crate::kind::param_value::ParamValue>::schema(),
                } ),*]
            }

            fn decode_params(
                node: &$crate::syntax::tree::Node,
                diagnostics: &mut $crate::syntax::diagnostic::Diagnostics,
            ) -> Option<Self> {
                const KNOWN: &[&str] = &[$(stringify!($field)),*];
                $crate::kind::params::check_mapping(node, KNOWN, diagnostics)?;
                $( let $field: Option<$type> = match node.get(stringify!($field)) {
                    Some(value) => <$type as $crate::kind::param_value::ParamValue>::decode(value, diagnostics),
                    None => $crate::params!(@default node, diagnostics, KNOWN, $field $(, $default)?),
                }; )*
                Some(Self { $( $field: $field? ),* })
            }
        }

        impl $crate::kind::params::Declared for $name {
            fn results(&self) -> Vec<(String, serde_json::Value)> {
                let mut results = Vec::new();
                $( $crate::params!(@result $role, results, self, $field); )*
                results.sort_by(|a: &(String, serde_json::Value), b| a.0.cmp(&b.0));
                results
            }

            fn reads(&self) -> Vec<$crate::kind::input_use::InputUse> {
                let mut reads = Vec::new();
                $( reads.extend($crate::params!(@reads self, $field $(, $shape, $reads)?)); )*
                reads
            }
        }

        impl $crate::kind::param_value::ParamValue for $name {
            fn decode(
                node: &$crate::syntax::tree::Node,
                diagnostics: &mut $crate::syntax::diagnostic::Diagnostics,
            ) -> Option<Self> {
                <Self as $crate::kind::params::Params>::decode_params(node, diagnostics)
            }

            fn canonical(&self) -> serde_json::Value {
                let results = <Self as $crate::kind::params::Declared>::results(self);
                serde_json::Value::Object(results.into_iter().collect())
            }

            fn schema() -> serde_json::Value {
                $crate::kind::params::struct_schema(&<Self as $crate::kind::params::Params>::fields())
            }

            fn references(&self, path: &str, found: &mut Vec<(String, $crate::kind::reference::Reference)>) {
                $( $crate::kind::param_value::ParamValue::references(
                    &self.$field,
                    &format!("{path}.{}", stringify!($field)),
                    found,
                ); )*
            }
        }
    };
    (@role input) => { $crate::kind::params::Role::Input };
    (@role result) => { $crate::kind::params::Role::Result };
    (@role execution) => { $crate::kind::params::Role::Execution };
    (@default_json $type:ty, $default:expr) => {
        Some(<$type as $crate::kind::param_value::ParamValue>::canonical(&$default))
    };
    (@default_json $type:ty) => { None };
    (@default $node:ident, $diagnostics:ident, $known:ident, $field:ident, $default:expr) => { Some($default) };
    (@default $node:ident, $diagnostics:ident, $known:ident, $field:ident) => {{
        $crate::kind::params::report_missing($node, stringify!($field), $known, $diagnostics);
        None
    }};
    (@result result, $results:ident, $self:ident, $field:ident) => {
        $crate::kind::params::flatten(
            stringify!($field),
            $crate::kind::param_value::ParamValue::canonical(&$self.$field),
            &mut $results,
        );
    };
    (@result $other:ident, $results:ident, $self:ident, $field:ident) => {};
    (@reads $self:ident, $field:ident, $shape:ident, $reads:expr) => {
        $crate::kind::input_use::InputUse::of(
            stringify!($field),
            &$self.$field,
            $crate::kind::input_use::InputShape::$shape,
            &$reads,
        )
    };
    (@reads $self:ident, $field:ident) => { None::<$crate::kind::input_use::InputUse> };
}

/// Reports a node that is no mapping and keys it should not have; `None` if it is no mapping.
pub fn check_mapping(node: &Node, known: &[&str], diagnostics: &mut Diagnostics) -> Option<()> {
    let Value::Map(entries) = &node.value else {
        diagnostics.report(&node.span, format!("expected a mapping, found {}", node.describe()));
        return None;
    };
    for (key, _) in entries {
        if key.name != "kind" && !known.contains(&key.name.as_str()) {
            let subject = diagnostics.for_subject();
            diagnostics
                .report(&key.span, format!("unknown parameter `{}`{subject}", key.name))
                .hint(format!("known here: {}", known.join(", ")))
                .did_you_mean(&key.name, known.iter().copied());
        }
    }
    Some(())
}

/// Reports a field that must be there and is not, unless an unknown key seems to be meant for it: that was reported.
pub fn report_missing(node: &Node, field: &str, known: &[&str], diagnostics: &mut Diagnostics) {
    let Value::Map(entries) = &node.value else { return };
    let is_mistyped = |name: &str| !known.contains(&name) && nearest(name, known.iter().copied()) == Some(field);
    if !entries.iter().any(|(key, _)| key.name != "kind" && is_mistyped(&key.name)) {
        diagnostics.report(&node.span, format!("`{field}` is missing"));
    }
}

/// Spreads objects into dotted names.
pub fn flatten(name: &str, value: serde_json::Value, into: &mut Vec<(String, serde_json::Value)>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (inner, value) in fields {
                flatten(&format!("{name}.{inner}"), value, into);
            }
        }
        value => into.push((name.to_string(), value)),
    }
}

/// The JSON schema of a mapping with these fields.
pub fn struct_schema(fields: &[ParamDoc]) -> serde_json::Value {
    let mut properties = serde_json::Map::new();
    for field in fields {
        let mut schema = field.schema.clone();
        if let serde_json::Value::Object(schema) = &mut schema {
            schema.insert("description".into(), field.doc.trim().into());
            if let Some(default) = &field.default {
                schema.insert("default".into(), default.clone());
            }
        }
        properties.insert(field.name.to_string(), schema);
    }
    let required: Vec<&str> = fields.iter().filter(|f| f.default.is_none()).map(|f| f.name).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}
