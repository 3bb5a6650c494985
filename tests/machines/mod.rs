//! Computers and what the doctor says of them. A tree such as `gfx1031/` holds the files that the doctor reads, in the form in which Linux and the
//! drivers write them (composed after their sources, not copied from computers); `cases/NAME.json` adds a build, an environment and the kernel's
//! answers. `cases/NAME.txt` and `cases/NAME.out.json` are what is said, as text and as JSON. `LORAMILL_BLESS=1` writes those anew.

mod recorded;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use loramill::cli::commands::doctor::{Detail, exit_code, text, to_json};
use loramill::computer::doctor::scrub::scrubbed;
use loramill::computer::doctor::{Build, Diagnosis, Patient, SelfTest, State, examine};
use loramill::computer::machine::Machine;
use loramill::computer::machine::host::Host;
use loramill::computer::machine::walls::Trial;
use loramill::computer::machine::worker_environment::environment_for;
use serde::Deserialize;

use recorded::Recorded;

const FOLDER: &str = "tests/machines";

/// What `cases/NAME.json` says.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    tree: String,
    exit: u8,
    /// Of `networks`, `libtorch`, `rocm`, `vulkan`.
    build: BTreeSet<String>,
    #[serde(default)]
    models: Vec<PathBuf>,
    #[serde(default)]
    self_tests: Vec<RecordedTest>,
    kernel: Recorded,
    environment: BTreeMap<String, String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedTest {
    device: String,
    passed: bool,
    report: String,
}

impl Case {
    fn named(name: &str) -> Self {
        let text = fs::read(Path::new(FOLDER).join("cases").join(format!("{name}.json"))).expect("a case");
        serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn host(&self) -> Host {
        let tree = Path::new(FOLDER).join(&self.tree);
        assert!(tree.is_dir(), "no tree `{}`", self.tree);
        Host::recorded(tree, self.environment.clone(), Box::new(self.kernel.clone()))
    }

    fn machine(&self) -> Machine {
        Machine::read(&self.host())
    }

    fn diagnosis(&self) -> Diagnosis {
        let has = |name: &str| self.build.contains(name);
        let self_tests: Vec<SelfTest> = self
            .self_tests
            .iter()
            .map(|test| SelfTest { device: test.device.clone(), passed: test.passed, report: test.report.clone() })
            .collect();
        let host = self.host();
        examine(&Patient {
            host: &host,
            machine: &Machine::read(&host),
            build: Build { networks: has("networks"), libtorch: has("libtorch"), rocm: has("rocm"), vulkan: has("vulkan") },
            models: &self.models,
            cache: Path::new("/home/alice/concepts/cache"),
            self_tests: &self_tests,
            walls: &Trial::Held,
        })
    }
}

#[test]
fn every_computer_gets_its_diagnosis() {
    let names = fs::read_dir(Path::new(FOLDER).join("cases")).expect("the folder").map(|entry| entry.expect("an entry").path());
    let is_case =
        |path: &PathBuf| path.extension().is_some_and(|e| e == "json") && !path.to_string_lossy().ends_with(".out.json");
    let mut cases: Vec<PathBuf> = names.filter(is_case).collect();
    cases.sort();
    assert!(cases.len() >= 20, "only {} cases", cases.len());
    let is_blessing = std::env::var_os("LORAMILL_BLESS").is_some();
    let mut differences = Vec::new();
    for path in &cases {
        let case = Case::named(&path.file_stem().expect("a name").to_string_lossy());
        let diagnosis = case.diagnosis();
        if exit_code(diagnosis.state()) != case.exit {
            differences.push(format!("{}: exit code {}, expected {}", path.display(), exit_code(diagnosis.state()), case.exit));
        }
        let json = serde_json::to_string_pretty(&to_json(&diagnosis)).expect("JSON") + "\n";
        for (extension, said) in [("txt", text(&diagnosis, Detail::Problems, false).to_string()), ("out.json", json)] {
            let beside = path.with_extension(extension);
            let expected = fs::read_to_string(&beside).unwrap_or_default();
            if said == expected {
                continue;
            }
            if is_blessing {
                fs::write(&beside, &said).expect("written");
            }
            differences.push(format!("{}\n--- expected\n{expected}--- said\n{said}", beside.display()));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

/// Whoever reads that something is wrong must read what to do, and how to see that it is done.
#[test]
fn whatever_is_wrong_has_a_fix_and_a_way_to_verify_it() {
    for path in fs::read_dir(Path::new(FOLDER).join("cases")).expect("the folder").map(|entry| entry.expect("an entry").path()) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".json").filter(|name| !name.ends_with(".out")) else { continue };
        for check in Case::named(name).diagnosis().checks {
            let is_wrong = check.state >= State::Degraded;
            assert!(!is_wrong || (check.fix.is_some() && check.verify.is_some()), "{name}: {check:?}");
        }
    }
}

/// `NAME=value`, or `-NAME` for one that is taken away.
fn variables(case: &Case, device: &str) -> Vec<String> {
    let variables = environment_for(device, &case.machine()).expect("a device").into_iter();
    variables
        .map(|variable| variable.value.map_or(format!("-{}", variable.name), |value| format!("{}={value}", variable.name)))
        .collect()
}

#[test]
fn a_worker_on_a_6700_xt_runs_the_code_of_a_6800() {
    let mut case = Case::named("gfx1031-ready");
    let miopen = [
        "MIOPEN_FIND_MODE=FAST",
        "MIOPEN_USER_DB_PATH=/home/alice/.cache/loramill/miopen/choices",
        "MIOPEN_CUSTOM_CACHE_DIR=/home/alice/.cache/loramill/miopen/kernels",
    ];
    let mut expected = vec!["HSA_OVERRIDE_GFX_VERSION=10.3.0", "TORCH_BLAS_PREFER_HIPBLASLT=0"];
    expected.extend(miopen);
    assert_eq!(variables(&case, "libtorch:0"), expected);
    for device in ["cpu", "rocm:0", "vulkan:0"] {
        assert_eq!(variables(&case, device), [""; 0], "{device}");
    }
    let [allocator, threads] = &variables(&case, "libtorch:cpu")[..] else { panic!("two variables") };
    assert!(allocator.starts_with("GLIBC_TUNABLES=") && threads.starts_with("GOMP_SPINCOUNT="), "{allocator} {threads}");
    // What the user set stays, also where it is wrong: `doctor` says so.
    for (name, value) in
        [("HSA_OVERRIDE_GFX_VERSION", "11.0.0"), ("TORCH_BLAS_PREFER_HIPBLASLT", "1"), ("MIOPEN_FIND_MODE", "NORMAL")]
    {
        case.environment.insert(name.into(), value.into());
    }
    assert_eq!(variables(&case, "libtorch:0"), miopen[1..]);
}

#[test]
fn a_worker_beside_a_processors_gpu_sees_only_the_card() {
    let case = Case::named("gfx1036-gfx1100");
    let found = variables(&case, "libtorch:0");
    assert_eq!(found[0], "ROCR_VISIBLE_DEVICES=GPU-2f1d6c8b90a4e375");
    // The other node has another generation; the card itself has code.
    assert!(found.iter().all(|variable| !variable.starts_with("HSA_") && !variable.starts_with("TORCH_")), "{found:?}");
    assert_eq!(variables(&case, "rocm:0"), ["ROCR_VISIBLE_DEVICES=GPU-2f1d6c8b90a4e375"]);
    let error = environment_for("libtorch:1", &case.machine()).expect_err("one is hidden");
    assert_eq!(error.to_string(), "there is no `libtorch:1`: this computer has `libtorch:0`");
}

#[test]
fn a_worker_on_a_card_of_nvidias_needs_nothing() {
    assert_eq!(variables(&Case::named("nvidia"), "libtorch:0"), [""; 0]);
}

#[test]
fn a_report_says_neither_whose_computer_it_is_nor_which_card() {
    let mut case = Case::named("gfx1036-gfx1100");
    case.environment.insert("LD_LIBRARY_PATH".into(), "/home/alice/lib:/media/alice/lib".into());
    let told = case.diagnosis();
    let before = text(&told, Detail::Report, false).to_string();
    assert!(
        before.contains("/home/alice/venv") && before.contains("GPU-2f1d6c8b90a4e375") && before.contains("/media/alice"),
        "{before}"
    );
    let scrubbed = scrubbed(told, &case.machine());
    for said in [text(&scrubbed, Detail::Report, false).to_string(), to_json(&scrubbed).to_string()] {
        assert!(!said.contains("alice") && !said.contains("2f1d6c8b90a4e375"), "{said}");
        assert!(said.contains("~/venv") && said.contains("/media/USER/lib"), "{said}");
    }
}

/// A libtorch for ROCm on the disk is of no use to a program that was linked without it.
#[test]
fn a_program_that_was_linked_without_the_gpus_library_is_told_so() {
    let temp = tempfile::tempdir().expect("a folder");
    for file in ["opt/libtorch/lib/libtorch_cpu.so", "opt/libtorch/lib/libtorch_hip.so", "proc/self/maps"] {
        let file = temp.path().join(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(file, "").expect("written");
    }
    let node = temp.path().join("sys/class/kfd/kfd/topology/nodes/1");
    fs::create_dir_all(&node).expect("made");
    fs::write(node.join("properties"), "simd_count 120\nsimd_per_cu 2\ngfx_target_version 100300\n").expect("written");
    let libtorch = |mapped: &[&str]| {
        let lines = mapped.iter().map(|library| format!("7f00-7f01 r-xp 0000 fd:01 42   /opt/libtorch/lib/{library}\n"));
        fs::write(temp.path().join("proc/self/maps"), lines.collect::<String>()).expect("written");
        let kernel = Case::named("gfx1030-ready").kernel;
        let host = Host::recorded(temp.path().to_path_buf(), BTreeMap::new(), Box::new(kernel));
        let machine = Machine::read(&host);
        let build = Build { networks: true, libtorch: true, ..Build::default() };
        let patient = Patient {
            host: &host,
            machine: &machine,
            build,
            models: &[],
            cache: Path::new("/cache"),
            self_tests: &[],
            walls: &Trial::Held,
        };
        let check = examine(&patient).checks.into_iter().find(|check| check.name == "libtorch").expect("it is looked at");
        (check.state, check.summary)
    };
    let (state, summary) = libtorch(&["libtorch_cpu.so"]);
    assert_eq!(state, State::Blocked);
    assert!(summary.contains("linked without `libtorch_hip.so`"), "{summary}");
    // With it, and in a program that leaves libtorch to its workers.
    for mapped in [&["libtorch_cpu.so", "libtorch_hip.so"][..], &[]] {
        let (state, summary) = libtorch(mapped);
        assert_eq!(state, State::Unverified, "{summary}");
        assert!(summary.contains("does not say its version"), "{summary}");
    }
}

#[test]
fn what_a_build_cannot_use_does_not_count() {
    let mut case = Case::named("gfx1100");
    let two_drivers = |diagnosis: &Diagnosis| {
        let check = diagnosis.checks.iter().find(|check| check.name == "vulkan").expect("it is looked at").clone();
        (check.state, check.is_relevant)
    };
    assert_eq!(two_drivers(&case.diagnosis()), (State::Degraded, false));
    case.build.insert("vulkan".into());
    assert_eq!(two_drivers(&case.diagnosis()), (State::Degraded, true));
}
