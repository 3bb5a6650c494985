//! What README shows is what the program takes.

use std::fs;
use std::path::Path;

use super::{command, said};

/// The blocks of README that are whole pipeline files.
fn pipelines() -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).expect("README is UTF-8");
    let blocks = readme.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or(rest).to_string());
    blocks.filter(|block| block.starts_with("concept:")).collect()
}

#[test]
fn the_pipelines_of_the_readme_check_out() {
    let pipelines = pipelines();
    assert!(pipelines.len() >= 2, "{}", pipelines.len());
    for pipeline in pipelines {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        fs::write(folder.join("pipeline.yaml"), &pipeline).expect("written");
        let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images/star-01.png");
        for photos in ["images", "Pictures/shrug"] {
            fs::create_dir_all(folder.join(photos)).expect("made");
            for name in ["a.png", "b.png"] {
                fs::copy(&photo, folder.join(photos).join(name)).expect("copied");
            }
        }
        fs::write(folder.join("crops.yaml"), "a: [0, 0, 8, 8]\n").expect("written");
        let output = command(folder, &["check"]).env("HOME", folder).output().expect("the program starts");
        let (code, stdout, stderr) = said(&output);
        assert_eq!(code, 0, "{pipeline}{stderr}");
        assert!(stdout.ends_with("fine\n"), "{stdout}");
    }
}
