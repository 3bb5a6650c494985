//! Inputs that no line of a pipeline names: a file that belongs to another by lying beside it, as peft's `adapter_config.json`
//! does. It becomes an input as any other, so that it is in keys, in the lock and under `graph`. Unaware of what such files say.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::graph::pipeline::{Edge, LoadedStage, Producer};
use crate::inputs::input::{Found, Input};
use crate::kind::input_use::{Companion, InputShape, InputUse};
use crate::kind::reference::Reference;
use crate::syntax::tree::Span;

/// The companions of `inputs` that any of `stages` wants. `names` are those that the file uses already.
pub(crate) fn find(stages: &[LoadedStage], inputs: &[Input], names: &BTreeMap<String, Span>) -> Vec<Input> {
    let mut found: Vec<Input> = Vec::new();
    for stage in stages {
        let uses = stage.stage.inputs();
        for companion in stage.stage.companions() {
            let Some(reads) = uses.iter().find(|reads| reads.param == companion.beside) else { continue };
            let Some(input) = inputs.iter().find(|input| input.name == reads.reference.name) else { continue };
            let name = name_of(input, &companion, names);
            if found.iter().any(|known| known.name == name) {
                continue;
            }
            let place = match &input.found {
                // Whatever lies there is read, so that what cannot be is an error.
                Found::File(path) => Some(path.with_file_name(companion.file)).filter(|path| !is_absent(path)).map(Found::File),
                // Of a file that is not here nobody knows what lies beside it, but for those that never come alone.
                Found::Absent(places) if is_called(&input.written, companion.never_alone) => Some(Found::Absent(places.clone())),
                Found::Absent(_) | Found::Photos { .. } => None,
            };
            let written = beside(&input.written, companion.file);
            found.extend(place.map(|found| Input { name, written, span: input.span.clone(), found }));
        }
    }
    found
}

/// What a stage reads because it lies beside what it reads.
pub(crate) fn edges(stage: &LoadedStage, own: &[Edge], inputs: &[Input], names: &BTreeMap<String, Span>) -> Vec<Edge> {
    let mut edges = Vec::new();
    for companion in stage.stage.companions() {
        let Some(edge) = own.iter().find(|edge| edge.reads.param == companion.beside) else { continue };
        let Producer::Input(index) = edge.from else { continue };
        let name = name_of(&inputs[index], &companion, names);
        let Some(from) = inputs.iter().position(|input| input.name == name) else { continue };
        let reference = Reference::to(name, &edge.reads.reference.span);
        let reads = InputUse { param: companion.param, reference, reads: companion.reads, shape: InputShape::One };
        edges.push(Edge { reads, from: Producer::Input(from), collected: None });
    }
    edges
}

fn is_absent(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// `star-adapter_config`, with more `_` where somebody calls something so.
fn name_of(input: &Input, companion: &Companion, names: &BTreeMap<String, Span>) -> String {
    let stem = companion.file.split('.').next().unwrap_or(companion.file);
    let mut name = format!("{}-{stem}", input.name);
    while names.contains_key(&name) {
        name.push('_');
    }
    name
}

/// As the file beside would be written: `model://star/adapter_config.json`.
fn beside(written: &str, file: &str) -> String {
    let (address, revision) = match written.split_once('@') {
        Some((address, revision)) if written.starts_with("hf://") => (address, format!("@{revision}")),
        _ => (written, String::new()),
    };
    let folder = address.rfind('/').map_or("", |slash| &address[..=slash]);
    format!("{folder}{file}{revision}")
}

/// Whether what is written names a file of that stem.
fn is_called(written: &str, stem: &str) -> bool {
    let address = written.split('@').next().unwrap_or(written);
    let file = PathBuf::from(address.rsplit('/').next().unwrap_or(address));
    Path::new(&file).file_stem().is_some_and(|found| found == stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_beside_is_written_as_the_file_is() {
        let name = "adapter_config.json";
        assert_eq!(beside("loras/star/adapter_model.safetensors", name), "loras/star/adapter_config.json");
        assert_eq!(beside("adapter_model.safetensors", name), name);
        assert_eq!(beside("hf://me/star/adapter_model.safetensors@main", name), "hf://me/star/adapter_config.json@main");
        assert!(is_called("hf://me/star/adapter_model.safetensors@main", "adapter_model"));
        assert!(!is_called("model://star.safetensors", "adapter_model"));
    }
}
