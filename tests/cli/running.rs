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
fn what_is_not_read_of_a_folder_is_said_by_every_run_also_by_one_with_nothing_to_do() {
    let folder = with_a_broken_photo();
    let images = folder.path().join("images");
    fs::remove_file(images.join("star-02.jpg")).expect("removed");
    fs::write(images.join("star-03.heic"), b"\0\0\0\x18ftypheic").expect("written");
    let elsewhere = tempfile::tempdir().expect("a folder");
    fs::write(elsewhere.path().join("text"), "a text of somebody's").expect("written");
    std::os::unix::fs::symlink(elsewhere.path().join("text"), images.join("star-00.txt")).expect("linked");
    for _ in 0..3 {
        let (code, _, stderr) = said(&loramill(folder.path(), &["run"]));
        assert!(code == 0 && stderr.contains("1 picture is not read: 1 HEIC"), "{stderr}");
        assert!(stderr.contains("star-00.txt` leads to a file outside of the project, which is not read"), "{stderr}");
    }
    assert_eq!(fs::read_to_string(folder.path().join("captions/star-00.txt")).expect("written"), "");
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
