//! `loramill libtorch` as a person types it.

use std::fs;
use std::path::Path;

use loramill::computer::libtorch::sha256::Sha256;
use serde_json::Value;

use super::server::{Manner, Server};
use super::{files_below, packed, record, torch_members};
use crate::cli::{command, said};

/// Runs it in an environment that knows no index and no proxy.
fn libtorch(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = command(folder, &[&["libtorch"], arguments].concat());
    for name in
        ["PIP_INDEX_URL", "ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy", "XDG_DATA_HOME"]
    {
        command.env_remove(name);
    }
    said(&command.output().expect("the program starts"))
}

#[cfg(target_arch = "x86_64")]
#[test]
fn what_is_not_pinned_needs_a_word_of_the_user() {
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = libtorch(folder.path(), &["rocm"]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("torch-2.9.1+rocm6.4-") && stderr.contains("`--trust-index`"), "{stderr}");
    assert!(stderr.contains("https://download.pytorch.org/whl/rocm6.4"), "{stderr}");
    assert_eq!(files_below(folder.path()), Vec::<String>::new());
}

/// The ROCm wheel has no pin, so a small one can stand for it.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_session_with_the_wheel_of_an_index() {
    const FILE: &str = "torch-2.9.1+rocm6.4-cp313-cp313-manylinux_2_28_x86_64.whl";
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::start());
    let members = torch_members();
    let wheel = packed(FILE, &members, &record(&members));
    let link = FILE.replace('+', "%2B");
    let page = format!("<a href=\"/whl/{link}#sha256={}\">{FILE}</a>", Sha256::of(&wheel));
    server.put("/whl/rocm6.4/torch/", "text/html; charset=utf-8", page.as_bytes(), Manner::default());
    server.put(&format!("/whl/{link}"), "application/zip", &wheel, Manner::default());
    let index = server.url("/whl/rocm6.4/");
    let all = ["rocm", "--trust-index", "--from", &index];

    let (code, stdout, _) = libtorch(folder.path(), &[&all[..], &["--dry-run"]].concat());
    assert_eq!(code, 0);
    assert!(stdout.contains(FILE) && stdout.contains("5.1 MB to fetch"), "{stdout}");
    assert_eq!(files_below(folder.path()), Vec::<String>::new());

    let (code, stdout, stderr) = libtorch(folder.path(), &all);
    assert_eq!(code, 0, "{stderr}");
    let libtorch_dir = folder.path().join(".local/share/loramill/libtorch-2.9.1-rocm/torch");
    let next =
        format!("next: LIBTORCH={} cargo build --release --features libtorch\nthen: loramill doctor\n", libtorch_dir.display());
    assert_eq!(stdout, next);
    assert!(stderr.contains("42 files") && stderr.contains("as `--trust-index` asks"), "{stderr}");
    assert_eq!(fs::read(libtorch_dir.join("lib/libc10.so")).unwrap(), members[41].1);
    assert!(!libtorch_dir.join("lib/libtorch_python.so").exists());

    server.take_log();
    let (code, stdout, _) = libtorch(folder.path(), &[&all[..], &["--json", "--verify", "-q"]].concat());
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &told["state"], &told["flavour"]), (0, &"complete".into(), &"rocm".into()));
    assert_eq!(told["libtorch"], libtorch_dir.display().to_string());
    assert_eq!(server.take_log(), []);
}

#[test]
fn pip_s_index_is_asked_and_named_and_a_wheel_that_is_not_the_pinned_one_refused() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::start());
    let files: Vec<String> =
        ["x86_64", "aarch64"].map(|machine| format!("torch-2.9.1-cp311-cp311-manylinux_2_28_{machine}.whl")).into();
    let links = files.iter().map(|file| format!("<a href=\"{file}#sha256={}\">{file}</a>\n", Sha256::of(b"another")));
    server.put("/simple/torch/", "text/html", links.collect::<String>().as_bytes(), Manner::default());
    let mut command = command(folder.path(), &["libtorch", "cpu", "--into", "here"]);
    command.env("PIP_INDEX_URL", server.url("/simple/")).env("NO_PROXY", "127.0.0.1");
    let (code, _, stderr) = said(&command.output().unwrap());
    assert_eq!(code, 1);
    assert!(
        stderr.contains("is another file than the published one") && stderr.contains(&server.url("/simple/torch/")),
        "{stderr}"
    );
    assert_eq!(files_below(folder.path()), Vec::<String>::new());
}
