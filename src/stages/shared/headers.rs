//! What the headers of model files say before a stage runs, for `Stage::examine`. Not a kind.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use crate::engine::kind::stage::Finding;
use crate::sd::checkpoint::model_file::ModelFile;
use crate::sd::lora::file::Lora;
use crate::sd::lora::fit;
use crate::sd::lora::placing::Structure;

fn finding(param: &str, error: &anyhow::Error) -> Finding {
    Finding { param: param.to_string(), problem: format!("{error:#}") }
}

/// Whether `fits` takes the file that `param` reads, if it is here.
pub fn of_base(files: &BTreeMap<String, PathBuf>, param: &str, fits: impl FnOnce(&ModelFile) -> Result<()>) -> Vec<Finding> {
    let Some(path) = files.get(param) else { return Vec::new() };
    let examined = ModelFile::open(path).and_then(|file| fits(&file));
    examined.err().map(|error| finding(param, &error)).into_iter().collect()
}

/// Whether the file that `param` reads is a LoRA, and one for the model that `base` reads, if that is here too and holds
/// networks.
pub fn of_lora(files: &BTreeMap<String, PathBuf>, base: &str, param: &str) -> Vec<Finding> {
    let Some(path) = files.get(param) else { return Vec::new() };
    let structure = files.get(base).and_then(|base| ModelFile::open(base).ok()).map(|base| Structure::of(&base));
    let examined = || -> Result<()> {
        let lora = Lora::sketch(&ModelFile::open(path)?, structure.as_ref())?;
        match (&structure, files.get(base)) {
            // What is wrong with the base is said of the base.
            (Some(structure), Some(base)) if structure.is_whole_for(&lora.modules) => {
                fit::check(&lora, &structure.layers(), &base.display().to_string())
            }
            _ => Ok(()),
        }
    };
    examined().err().map(|error| finding(param, &error)).into_iter().collect()
}
