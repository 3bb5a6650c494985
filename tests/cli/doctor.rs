//! `doctor` on whatever computer the tests run on: what it says is said in the same way everywhere.

use std::fs;

use super::{loramill, said};

#[test]
fn the_exit_code_is_the_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, stdout, stderr) = said(&loramill(folder.path(), &["doctor", "--json"]));
    assert_eq!(stderr, "");
    let found: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    let expected = match found["state"].as_str().expect("a state") {
        "ok" | "unverified" => 0,
        "degraded" => 1,
        _ => 2,
    };
    assert_eq!(code, expected, "{stdout}");
    let devices = found["devices"].as_array().expect("devices");
    assert_eq!(devices.last().expect("a processor is everywhere")["device"], "cpu");
    let (again, text, _) = said(&loramill(folder.path(), &["doctor"]));
    assert_eq!(again, code);
    assert!(text.lines().any(|line| line.starts_with("cpu ")) && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn all_shows_what_is_well_and_a_report_has_no_home_folder() {
    let home = tempfile::tempdir().expect("a folder");
    let cache = home.path().join("concepts/cache");
    let cache = cache.to_str().expect("UTF-8");
    let (_, all, _) = said(&loramill(home.path(), &["doctor", "--all", "--cache", cache]));
    assert!(all.contains(" processor: ") && all.contains(cache), "{all}");
    let (_, report, _) = said(&loramill(home.path(), &["doctor", "--report", "--cache", cache]));
    assert!(report.contains("`~/concepts/cache`") && report.contains("\nkernel: "), "{report}");
    assert!(!report.contains(home.path().to_str().expect("UTF-8")), "{report}");
}

#[test]
fn a_wrong_config_file_is_named_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("config/loramill")).expect("made");
    fs::write(folder.path().join("config/loramill/config.yaml"), "models: 7\n").expect("written");
    let (code, stdout, stderr) = said(&loramill(folder.path(), &["doctor"]));
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("config.yaml:1:9"), "{stderr}");
}

#[cfg(feature = "nn")]
#[test]
fn a_device_is_compared_with_the_embedded_backend() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, stdout, _) = said(&loramill(folder.path(), &["self-test", "cpu"]));
    assert_eq!((code, stdout.as_str()), (0, "14 operations and their gradients, at most 0e0 apart in f32\n"));
    let (code, stdout, stderr) = said(&loramill(folder.path(), &["self-test", "libtorch:7"]));
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("`libtorch:7`"), "{stderr}");
}
