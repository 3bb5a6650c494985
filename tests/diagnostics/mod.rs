//! Broken pipeline files beside what is said about them: `NAME.yaml` and `NAME.txt`. `LORAMILL_BLESS=1` writes the texts anew.

mod files;
pub mod kinds;
mod limits;
mod pipelines;

use std::fs;
use std::path::{Path, PathBuf};

use loramill::cli::terminal::render::problems;
use loramill::engine::graph::load::load;
use loramill::engine::graph::pipeline::Pipeline;
use loramill::engine::inputs::sources::Surroundings;

pub const FOLDER: &str = "tests/diagnostics";

fn surroundings() -> Surroundings {
    Surroundings {
        models: vec![Path::new(FOLDER).join("models")],
        hub: None,
        environment: Box::new(|name| match name {
            "SIZE" => Some("64".into()),
            "WORD" => Some("large".into()),
            _ => None,
        }),
    }
}

/// Loads a file; its first lines may be `# --set PATH=VALUE`.
fn load_file(file: &Path) -> Result<Pipeline, String> {
    let text = fs::read(file).expect("a file");
    let text = String::from_utf8_lossy(&text);
    let settings: Vec<String> = text.lines().map_while(|line| line.strip_prefix("# --set ")).map(str::to_string).collect();
    load(file, &settings, &surroundings(), kinds::KINDS).map_err(|found| problems(&found, false).to_string())
}

#[test]
fn every_broken_file_gets_its_message() {
    let mut files: Vec<PathBuf> =
        fs::read_dir(FOLDER).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.len() >= 40, "only {} files", files.len());
    let is_blessing = std::env::var_os("LORAMILL_BLESS").is_some();
    let mut differences = Vec::new();
    for file in &files {
        let Err(said) = load_file(file) else {
            differences.push(format!("{}: loads without a problem", file.display()));
            continue;
        };
        let beside = file.with_extension("txt");
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        if said != expected {
            if is_blessing {
                fs::write(&beside, &said).expect("written");
            }
            differences.push(format!("{}\n--- expected\n{expected}--- said\n{said}", file.display()));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}
