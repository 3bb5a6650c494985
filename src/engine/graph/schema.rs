//! The JSON schema of pipeline.yaml, for completion and checks in editors. Made of the params of the kinds, knows none of them.

use serde_json::{Map, Value, json};

use crate::graph::stage_keys;
use crate::kind::params::struct_schema;
use crate::kind::stage_kind::StageKind;

/// As it lies in `pipelines/schema.json`.
pub fn text(kinds: &[&StageKind]) -> String {
    format!("{:#}\n", schema(kinds))
}

fn schema(kinds: &[&StageKind]) -> Value {
    let mut definitions = Map::new();
    let mut by_name = Map::new();
    let mut by_kind = Vec::new();
    for kind in kinds {
        let name = kind.name;
        definitions.insert(name.into(), stage(kind));
        by_name.insert(name.into(), json!({ "$ref": format!("#/definitions/{name}") }));
        by_kind.push(json!({
            "if": { "properties": { "kind": { "const": name } } },
            "then": { "$ref": format!("#/definitions/{name}") },
        }));
    }
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
    json!({
        // Draft 7 is what yaml-language-server understands best.
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "pipeline.yaml of loramill",
        "type": "object",
        "required": ["concept", "stages"],
        "additionalProperties": false,
        "properties": {
            "concept": { "type": "string", "description": "What is taught: the name of the results." },
            "trigger": { "type": "string", "description": "The word that calls the concept in a prompt; the concept's name unless given." },
            "seed": or_variable(json!({ "type": "integer", "minimum": 0, "default": 42, "description": "Training draws from it." })),
            "skip": {
                "description": "Photos that are left out from the first stage on, and other items that training leaves out, as globs of their names.",
                "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            },
            "pick": or_variable(json!({ "type": "integer", "minimum": 0, "description": "The epoch that `@pick` takes." })),
            "env": {
                "description": "Environment variables that `${env.NAME}` may read.",
                "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            },
            "vars": { "type": "object", "description": "Values to put in elsewhere by `${name}`." },
            "inputs": {
                "type": "object",
                "description": "Everything that is read from disk: a folder of photos, a file, `model://name` or `hf://org/repo/file@revision`.",
                "additionalProperties": { "type": "string" },
            },
            "stages": {
                "type": "object",
                "description": "The stages by name; the kind of a stage is its name unless it says `kind`.",
                "properties": by_name,
                "additionalProperties": {
                    "type": "object",
                    "required": ["kind"],
                    "properties": { "kind": { "enum": names } },
                    "allOf": by_kind,
                },
            },
        },
        "definitions": definitions,
    })
}

fn stage(kind: &StageKind) -> Value {
    let mut schema = struct_schema(&(kind.params)());
    accept_variables(&mut schema);
    schema["description"] = kind.doc.trim().into();
    schema["properties"]["kind"] = json!({ "const": kind.name });
    let mut keys = struct_schema(&stage_keys::docs(kind.keeps))["properties"].take();
    for (key, value) in keys.as_object_mut().into_iter().flatten() {
        schema["properties"][key] = or_variable(value.take());
    }
    schema
}

/// Lets `${name}` stand wherever a number, a choice, a list or a mapping may.
fn accept_variables(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    for (_, field) in fields.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        accept_variables(field);
        *field = or_variable(field.take());
    }
    for form in fields.get_mut("anyOf").and_then(Value::as_array_mut).into_iter().flatten() {
        accept_variables(form);
    }
    if let Some(items) = fields.get_mut("items") {
        accept_variables(items);
        *items = or_variable(items.take());
    }
}

fn or_variable(mut schema: Value) -> Value {
    let variable = json!({ "type": "string", "pattern": r"^\$\{[^}]+\}$" });
    if schema["type"] == "string" || schema == json!({}) {
        return schema;
    }
    if let Some(forms) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        if !forms.iter().any(|form| form["type"] == "string") {
            forms.push(variable);
        }
        return schema;
    }
    let Value::Object(fields) = &mut schema else { return schema };
    let mut around = Map::new();
    for outer in ["description", "default"] {
        if let Some(value) = fields.remove(outer) {
            around.insert(outer.into(), value);
        }
    }
    around.insert("anyOf".into(), json!([schema, variable]));
    Value::Object(around)
}
