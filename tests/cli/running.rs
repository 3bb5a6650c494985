//! What `loramill run` says.

use std::fs;
use std::path::Path;

use super::{PIPELINE, loramill, said};

/// A pipeline over two pictures of the example and one that is none.
fn with_a_broken_photo() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let images = folder.path().join("images");
    fs::create_dir(&images).expect("made");
    for name in ["star-00.jpg", "star-01.png"] {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images").join(name);
        fs::copy(example, images.join(name)).expect("copied");
    }
    fs::write(images.join("star-02.jpg"), "no picture").expect("written");
    fs::write(folder.path().join("pipeline.yaml"), PIPELINE).expect("written");
    folder
}

#[test]
fn an_error_is_told_once_and_stages_that_wait_for_it_in_one_line() {
    let folder = with_a_broken_photo();
    let (code, _, stderr) = said(&loramill(folder.path(), &["run"]));
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(stderr.matches("reading `star-02.jpg`").count(), 1, "{stderr}");
    assert!(stderr.contains("   Failed crop: 1 of 3 items failed\n"), "{stderr}");
    assert!(stderr.contains("  Blocked resize, caption, flip: not started, because another stage failed\n"), "{stderr}");
    assert_eq!(stderr.matches("Blocked").count(), 1, "{stderr}");
}
