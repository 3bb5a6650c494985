//! The rules of ARCHITECTURE.md and CONTRIBUTING.md that a machine can check.

use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the program with its text: path below `src`, contents.
fn sources() -> Vec<(PathBuf, String)> {
    let src = root().join("src");
    WalkDir::new(&src)
        .sort_by_file_name()
        .into_iter()
        .map(|entry| entry.expect("src is readable").into_path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| {
            (path.strip_prefix(&src).expect("below src").to_path_buf(), fs::read_to_string(&path).expect("sources are UTF-8"))
        })
        .collect()
}

/// The program part of a file: without its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]").next().expect("split gives at least one part")
}

/// The first folder or file stem below `src`: `pipeline`, `device`.
fn module_of(path: &Path) -> String {
    path.components().next().expect("not empty").as_os_str().to_string_lossy().trim_end_matches(".rs").to_string()
}

/// What each module may import of ours. A module that is not here may not exist.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("worker", &["cli"]),
    ("build", &[]),
    ("lib", &[]),
    (
        "cli",
        &[
            "pipeline",
            "cache",
            "edits",
            "stages",
            "checkpoint",
            "lora",
            "device",
            "benchmark",
            "libtorch",
            "machine",
            "doctor",
            "self_test",
        ],
    ),
    ("libtorch", &[]),
    ("self_test", &["ops", "random", "device"]),
    ("pipeline", &["cache", "edits"]),
    ("edits", &["cache", "pipeline"]),
    ("cache", &[]),
    (
        "stages",
        &[
            "pipeline",
            "cache",
            "data",
            "models",
            "diffusion",
            "checkpoint",
            "lora",
            "prompt",
            "training",
            "stable_diffusion",
            "random",
            "device",
            "drawing",
            "machine",
        ],
    ),
    (
        "training",
        &["cache", "stable_diffusion", "models", "diffusion", "checkpoint", "lora", "prompt", "random", "data", "device"],
    ),
    ("stable_diffusion", &["models", "ops", "checkpoint", "diffusion", "lora", "prompt", "device", "random"]),
    ("benchmark", &["stable_diffusion", "training", "drawing", "models", "ops", "diffusion", "lora", "random"]),
    ("drawing", &["stable_diffusion", "models", "diffusion", "checkpoint", "lora", "prompt", "random"]),
    ("diffusion", &["random"]),
    ("models", &["ops"]),
    ("ops", &[]),
    ("lora", &["checkpoint", "models", "random"]),
    ("checkpoint", &["cache"]),
    ("prompt", &[]),
    ("data", &["pipeline"]),
    ("machine", &[]),
    ("doctor", &["machine", "cache"]),
    ("random", &[]),
    ("device", &[]),
];

#[test]
fn modules_import_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module_of(&path);
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: `{module}` is in no table", path.display()));
            continue;
        };
        // Unit tests may take what the program must not, at the foot of a file as in one of their own.
        let text = if path.ends_with("tests.rs") { "" } else { without_tests(&text) };
        for part in text.split("crate::").skip(1) {
            // Macros live at the crate's root: `params!`, `use crate::params`, `use crate::{choice, params}`.
            let names: Vec<String> = match part.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or(list).split(',').map(|name| name.trim().to_string()).collect(),
                None => vec![part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()],
            };
            for used in names {
                let is_macro = matches!(used.as_str(), "params" | "choice");
                if !is_macro && used != module && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{}: imports `{used}`", path.display()));
                }
            }
        }
        if matches!(module.as_str(), "pipeline" | "cache" | "edits") && text.contains("burn::") {
            wrong.push(format!("{}: the engine knows no Burn", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_device_and_ops_name_backends() {
    let names = [
        "burn_flex",
        "burn_tch",
        "Device::flex",
        "Device::libtorch",
        "Device::vulkan",
        "Device::rocm",
        "Device::cuda",
        "backend::Cube",
        "backend::Flex",
        "backend::LibTorch",
        "LibTorchDevice",
    ];
    for (path, text) in sources() {
        if !matches!(module_of(&path).as_str(), "device" | "ops") {
            for name in names {
                assert!(!without_tests(&text).contains(name), "{} names the backend `{name}`", path.display());
            }
        }
    }
}

#[test]
fn only_cli_prints_or_exits() {
    for (path, text) in sources() {
        if !matches!(module_of(&path).as_str(), "cli" | "main" | "build") {
            for call in ["println!", "eprintln!", "print!(", "eprint!(", "dbg!", "process::exit"] {
                assert!(!without_tests(&text).contains(call), "{} has `{call}`", path.display());
            }
        }
    }
}

#[test]
fn only_terminal_rs_writes_to_the_terminal() {
    for (path, text) in
        sources().into_iter().filter(|(path, _)| path != Path::new("cli/terminal.rs") && path != Path::new("build.rs"))
    {
        let text = without_tests(&text);
        for call in
            ["println!", "print!(", "stdout().lock", "stderr().lock", "stdout().write", "stderr().write", "u{1b}", "x1b", "033["]
        {
            assert!(
                !text.contains(call),
                "{} has `{call}`: what is written goes through `cli/terminal.rs`, which escapes it",
                path.display()
            );
        }
    }
}

#[test]
fn randomness_comes_from_random_rs_alone() {
    for (path, text) in sources() {
        for call in ["Tensor::random", "Distribution::", "thread_rng", "rand::"] {
            assert!(!text.contains(call), "{} draws with `{call}`", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in sources() {
        assert!(path == Path::new("main.rs") || text.starts_with("//! "), "{} does not open with what it is", path.display());
    }
}

#[test]
fn names_are_never_vague() {
    for (path, _) in sources() {
        for vague in ["util", "helper", "common", "manager", "handler"] {
            assert!(!path.to_string_lossy().contains(vague), "{}: `{vague}` says nothing", path.display());
        }
    }
}

#[test]
fn nothing_is_left_undone() {
    // Put together here, so that this file does not find itself.
    let marks = ["TO", "FIX", "XX"].map(|start| {
        format!(
            "{start}{}",
            if start == "XX" {
                "X"
            } else if start == "TO" {
                "DO"
            } else {
                "ME"
            }
        )
    });
    let folders = ["src", "tests", "examples", "pipelines", ".ci"];
    for folder in folders {
        for entry in WalkDir::new(root().join(folder)) {
            let path = entry.expect("readable").into_path();
            let text = path.extension().is_some_and(|e| ["rs", "py", "yaml", "md", "toml"].iter().any(|known| e == *known));
            if !text || path.ends_with("tidy.rs") {
                continue;
            }
            let contents = fs::read_to_string(&path).expect("UTF-8");
            for mark in &marks {
                assert!(!contents.contains(mark.as_str()), "{} has a {mark}", path.display());
            }
            for stub in ["todo!(", "unimplemented!(", "#[ignore"] {
                assert!(!contents.contains(stub), "{} has `{stub}`", path.display());
            }
        }
    }
}

#[test]
fn no_code_is_unsafe_but_what_sees_libtorchs_memory() {
    for (path, text) in sources().into_iter().filter(|(path, _)| path != Path::new("ops/libtorch/memory.rs")) {
        assert!(!text.contains("unsafe {") && !text.contains("unsafe fn"), "{} is unsafe", path.display());
    }
}

#[test]
fn the_cache_reaches_its_files_through_places_that_follow_no_links() {
    let by_path = [
        "fs::read(",
        "fs::read_to_string(",
        "fs::read_dir(",
        "fs::write(",
        "fs::copy(",
        "fs::rename(",
        "fs::hard_link(",
        "fs::remove_dir",
        "File::open(",
        "File::create",
        "OpenOptions",
        "WalkDir",
        "tempfile::",
    ];
    // A walk that adds up sizes follows none either.
    let may = |path: &Path, call: &str| match call {
        "WalkDir" => path == Path::new("cache/survey.rs"),
        _ => false,
    };
    for (path, text) in sources().into_iter().filter(|(path, _)| module_of(path) == "cache") {
        for call in by_path.into_iter().filter(|call| !may(&path, call)) {
            let text = without_tests(&text).replace("rustix::fs::", "");
            assert!(!text.contains(call), "{} has `{call}`: `place` follows no links", path.display());
        }
        let removes = without_tests(&text).matches("fs::remove_file(").count();
        assert!(removes == 0 || path == Path::new("cache/batch.rs"), "{} removes by path", path.display());
    }
}

#[test]
fn fixtures_stay_small() {
    let mut total = 0;
    for entry in WalkDir::new(root().join("tests")) {
        let entry = entry.expect("readable");
        let size = entry.metadata().expect("readable").len();
        if entry.file_type().is_file() && !entry.path().components().any(|c| c.as_os_str() == "target") {
            assert!(size <= 1 << 20, "{} has {size} bytes; a fixture has at most 1 MiB", entry.path().display());
            total += size;
        }
    }
    assert!(total <= 25 << 20, "tests/ has {total} bytes; it may have 25 MiB");
}

#[test]
fn the_top_level_is_what_the_user_chose() {
    let known = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "pipelines",
        "examples",
        "tests",
        "cache",
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        ".ci",
        ".git",
        ".gitignore",
        ".gitattributes",
        "target",
    ];
    for entry in fs::read_dir(root()).expect("readable") {
        let name = entry.expect("readable").file_name();
        assert!(known.iter().any(|k| name == *k), "{name:?} at the top level");
    }
}
