//! The rules of ARCHITECTURE.md and CONTRIBUTING.md that a machine can check.

use std::collections::BTreeMap;
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

/// The wing and room of a file below `src`: `cli`, `engine/graph`, `sd/ops`.
fn room_of(path: &Path) -> String {
    let parts: Vec<String> =
        path.components().map(|part| part.as_os_str().to_string_lossy().trim_end_matches(".rs").to_string()).collect();
    match parts.as_slice() {
        [wing, room, ..] if WINGS_WITH_ROOMS.contains(&wing.as_str()) && !["mod", "lib", "Cargo"].contains(&room.as_str()) => {
            format!("{wing}/{room}")
        }
        [first, ..] => first.clone(),
        [] => String::new(),
    }
}

const WINGS_WITH_ROOMS: &[&str] = &["engine", "sd", "computer", "cli"];

/// What each room may import of ours. A room that is not here may not exist. Within a wing a room imports only rooms above its own line.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("build", &[]),
    ("lib", &[]),
    // The engine.
    ("engine", &[]),
    ("engine/cache", &[]),
    ("engine/syntax", &["engine/cache"]),
    ("engine/inputs", &["engine/syntax", "engine/cache"]),
    ("engine/kind", &["engine/inputs", "engine/syntax", "engine/cache"]),
    ("engine/lock_file", &["engine/kind", "engine/cache"]),
    ("engine/edits", &["engine/lock_file", "engine/cache"]),
    ("engine/graph", &["engine/kind", "engine/inputs", "engine/syntax", "engine/cache"]),
    ("engine/out", &["engine/graph", "engine/lock_file", "engine/kind", "engine/cache"]),
    (
        "engine/decide",
        &["engine/out", "engine/graph", "engine/edits", "engine/lock_file", "engine/kind", "engine/inputs", "engine/cache"],
    ),
    ("engine/gc", &["engine/decide", "engine/out", "engine/lock_file", "engine/kind", "engine/cache"]),
    (
        "engine/run",
        &[
            "engine/gc",
            "engine/decide",
            "engine/out",
            "engine/graph",
            "engine/edits",
            "engine/lock_file",
            "engine/kind",
            "engine/inputs",
            "engine/cache",
        ],
    ),
    (
        "engine/explain",
        &[
            "engine/decide",
            "engine/out",
            "engine/graph",
            "engine/edits",
            "engine/lock_file",
            "engine/kind",
            "engine/inputs",
            "engine/syntax",
            "engine/cache",
        ],
    ),
    // Stable Diffusion.
    ("sd", &[]),
    ("sd/random", &[]),
    ("sd/prompt", &[]),
    ("sd/data", &["engine/inputs"]),
    ("sd/ops", &[]),
    ("sd/device", &[]),
    ("sd/self_test", &["sd/ops", "sd/random", "sd/device"]),
    ("sd/models", &["sd/ops"]),
    ("sd/diffusion", &["sd/random"]),
    ("sd/checkpoint", &["engine/cache"]),
    ("sd/lora", &["sd/checkpoint", "sd/models", "sd/random"]),
    (
        "sd/stable_diffusion",
        &["sd/models", "sd/ops", "sd/checkpoint", "sd/diffusion", "sd/lora", "sd/prompt", "sd/device", "sd/random"],
    ),
    ("sd/drawing", &["sd/stable_diffusion", "sd/models", "sd/diffusion", "sd/checkpoint", "sd/lora", "sd/prompt", "sd/random"]),
    (
        "sd/training",
        &[
            "engine/cache",
            "sd/stable_diffusion",
            "sd/models",
            "sd/diffusion",
            "sd/checkpoint",
            "sd/lora",
            "sd/prompt",
            "sd/random",
            "sd/data",
            "sd/device",
        ],
    ),
    (
        "sd/benchmark",
        &["sd/stable_diffusion", "sd/training", "sd/drawing", "sd/models", "sd/ops", "sd/diffusion", "sd/lora", "sd/random"],
    ),
    // The computer.
    ("computer", &[]),
    ("computer/machine", &[]),
    ("computer/doctor", &["computer/machine", "engine/cache"]),
    ("computer/libtorch", &[]),
    // Where they meet.
    ("stages", &["engine/*", "sd/*", "computer/machine"]),
    // The commands.
    ("cli/terminal", &["engine/*"]),
    ("cli/exit", &["cli/terminal", "engine/syntax"]),
    ("cli/networks", &["stages", "sd/*"]),
    ("cli/global", &["cli/networks", "cli/terminal", "engine/inputs"]),
    ("cli/target", &["cli/global", "cli/exit", "cli/terminal", "engine/*", "stages"]),
    ("cli/device", &["cli/global", "cli/exit", "cli/terminal", "engine/*", "sd/device", "computer/*"]),
    ("cli/walls", &["cli/device", "cli/target", "cli/global", "engine/gc", "engine/inputs", "computer/machine"]),
    (
        "cli/commands",
        &[
            "cli/walls",
            "cli/device",
            "cli/target",
            "cli/global",
            "cli/networks",
            "cli/exit",
            "cli/terminal",
            "engine/*",
            "stages",
            "sd/*",
            "computer/*",
        ],
    ),
    (
        "cli",
        &[
            "cli/commands",
            "cli/walls",
            "cli/device",
            "cli/global",
            "cli/networks",
            "cli/exit",
            "cli/terminal",
            "computer/machine",
        ],
    ),
    ("main", &["cli"]),
    ("worker", &["cli"]),
];

fn may_import(allowed: &[&str], used: &str) -> bool {
    allowed.iter().any(|room| *room == used || room.strip_suffix('*').is_some_and(|wing| used.starts_with(wing)))
}

/// The rooms that a file imports: `engine/cache` of `crate::engine::cache::digest`, the crates' own macros left out. The engine is a
/// crate of its own, and says `crate::cache::digest`.
fn imported(path: &Path, text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    let text = if path.starts_with("engine") { text.replace("crate::", "crate::engine::") } else { text.to_string() };
    for part in text.split("crate::").skip(1) {
        let list = part.strip_prefix('{').map(|list| list.split('}').next().unwrap_or(list));
        let paths: Vec<&str> = list.map_or_else(|| vec![part], |list| list.split(',').map(str::trim).collect());
        for path in paths {
            let names: Vec<&str> = path
                .split("::")
                .map(|name| name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(""))
                .collect();
            match names.as_slice() {
                ["params" | "choice", ..] | ["engine", "params" | "choice", ..] | [] => {}
                [wing, room, ..] if WINGS_WITH_ROOMS.contains(wing) => rooms.push(format!("{wing}/{room}")),
                [first, ..] => rooms.push(first.to_string()),
            }
        }
    }
    rooms
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let room = room_of(&path);
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: `{room}` is in no table", path.display()));
            continue;
        };
        // Unit tests may take what the program must not, at the foot of a file as in one of their own.
        let is_test = path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
        let text = if is_test { "" } else { without_tests(&text) };
        for used in imported(&path, text) {
            if used != room && !may_import(allowed, &used) {
                wrong.push(format!("{}: imports `{used}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_engine_knows_no_networks_and_no_program() {
    let manifest = fs::read_to_string(root().join("src/engine/Cargo.toml")).expect("readable");
    for unknown in ["burn", "tch", "image", "safetensors", "clap", "indicatif", "../.."] {
        let named = manifest.lines().filter(|line| line.contains(" = ") && !line.starts_with("path = \"../../tests"));
        assert!(!named.clone().any(|line| line.contains(unknown)), "the engine depends on `{unknown}`");
    }
    for (path, text) in sources().into_iter().filter(|(path, _)| !path.starts_with("engine") && path != Path::new("lib.rs")) {
        assert!(!text.contains("loramill_engine"), "{}: the engine is `crate::engine`", path.display());
    }
}

/// The path of a file as a module: `engine/run/items`, and `engine/run` of `engine/run/mod.rs`.
fn module_of(path: &Path) -> PathBuf {
    let path = path.with_extension("");
    if path.ends_with("mod") || path.ends_with("lib") {
        path.parent().expect("a file is in a folder").to_path_buf()
    } else {
        path
    }
}

#[test]
fn the_methods_of_a_type_are_in_its_own_file_or_in_child_modules() {
    let sources = sources();
    let mut homes: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let name_after = |line: &str, words: &[&str]| {
        let line = line.trim_start();
        // `pub`, `pub(super)`, `pub(in crate::stages)`
        let line = match line.strip_prefix("pub") {
            Some(rest) if rest.starts_with('(') => rest.split_once(") ").map_or(rest, |(_, rest)| rest),
            Some(rest) => rest.trim_start(),
            None => line,
        };
        let rest = words.iter().find_map(|word| line.strip_prefix(word))?;
        Some(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>())
    };
    for (path, text) in &sources {
        for line in without_tests(text).lines() {
            if let Some(name) = name_after(line, &["struct ", "enum ", "union "]) {
                homes.entry(name).or_default().push(module_of(path));
            }
        }
    }
    let mut wrong = Vec::new();
    for (path, text) in &sources {
        for line in without_tests(text).lines().filter(|line| line.starts_with("impl") && !line.contains(" for ")) {
            let rest = line.trim_start_matches("impl");
            // `impl<'a, T: Read> Name<'a, T> {`
            let depth = |so_far: &mut i32, c: char| {
                *so_far += i32::from(c == '<') - i32::from(c == '>');
                Some((*so_far, c))
            };
            let end = if rest.starts_with('<') {
                rest.chars().scan(0, depth).position(|(open, c)| open == 0 && c == '>').expect("the list ends") + 1
            } else {
                0
            };
            let name = name_after(&rest[end..], &[""]).expect("a type");
            let own = module_of(path);
            if let Some(homes) = homes.get(&name)
                && !homes.iter().any(|home| own.starts_with(home))
            {
                wrong.push(format!("{}: methods of `{name}`, which is in {}", path.display(), homes[0].display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_arrow_of_the_table_leads_back() {
    for (place, (room, allowed)) in MAY_IMPORT.iter().enumerate() {
        for used in allowed.iter().filter(|used| !used.ends_with('*')) {
            let before = MAY_IMPORT[..place].iter().any(|(name, _)| name == used);
            assert!(before, "`{room}` may import `{used}`, which comes after it");
        }
    }
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
        if !matches!(room_of(&path).as_str(), "sd/device" | "sd/ops") {
            for name in names {
                assert!(!without_tests(&text).contains(name), "{} names the backend `{name}`", path.display());
            }
        }
    }
}

#[test]
fn only_cli_prints_or_exits() {
    for (path, text) in sources() {
        if !(path.starts_with("cli") || matches!(room_of(&path).as_str(), "main" | "build")) {
            for call in ["println!", "eprintln!", "print!(", "eprint!(", "dbg!", "process::exit"] {
                assert!(!without_tests(&text).contains(call), "{} has `{call}`", path.display());
            }
        }
    }
}

#[test]
fn only_terminal_rs_writes_to_the_terminal() {
    for (path, text) in
        sources().into_iter().filter(|(path, _)| path != Path::new("cli/terminal/output.rs") && path != Path::new("build.rs"))
    {
        let text = without_tests(&text);
        for call in
            ["println!", "print!(", "stdout().lock", "stderr().lock", "stdout().write", "stderr().write", "u{1b}", "x1b", "033["]
        {
            assert!(
                !text.contains(call),
                "{} has `{call}`: what is written goes through `cli/terminal/output.rs`, which escapes it",
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
fn architecture_names_every_room_and_fits_a_page() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("readable");
    for (number, line) in page.lines().enumerate() {
        assert!(line.chars().count() <= 140, "ARCHITECTURE.md:{} has more than 140 columns", number + 1);
        if line.trim_start().starts_with('|') {
            assert!(
                line.split('|').all(|cell| cell.chars().count() <= 200),
                "ARCHITECTURE.md:{} has a cell of more than 200",
                number + 1
            );
        }
    }
    for (room, _) in MAY_IMPORT.iter().filter(|(room, _)| room.contains('/')) {
        let name = room.split('/').next_back().expect("there is a slash");
        assert!(page.contains(&format!("`{name}")) || page.contains(&format!("{name}/")), "ARCHITECTURE.md does not name {room}");
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
    for (path, text) in sources().into_iter().filter(|(path, _)| path != Path::new("sd/ops/libtorch/memory.rs")) {
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
        "WalkDir" => path == Path::new("engine/cache/survey.rs"),
        _ => false,
    };
    for (path, text) in sources().into_iter().filter(|(path, _)| room_of(path) == "engine/cache") {
        for call in by_path.into_iter().filter(|call| !may(&path, call)) {
            let text = without_tests(&text).replace("rustix::fs::", "");
            assert!(!text.contains(call), "{} has `{call}`: `place` follows no links", path.display());
        }
        let removes = without_tests(&text).matches("fs::remove_file(").count();
        assert!(removes == 0 || path == Path::new("engine/cache/batch.rs"), "{} removes by path", path.display());
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
