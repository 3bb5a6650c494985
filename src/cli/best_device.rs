//! What `auto` stands for: the first card that computes what the processor computes, else the processor. Unaware of how that is compared.
//!
//! A test that a card passed is noted in `loramill/self-tests` of the user's folder for caches, which may be deleted at any time. A test that
//! it failed is not: what made it fail may have been mended.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::cache::digest::Digest;
use crate::cli::self_test;
use crate::doctor::SelfTest;
use crate::machine::Machine;
use crate::machine::host::Host;
use crate::machine::libtorch::Flavour;
use crate::machine::visibility::visible;
use crate::machine::worker_environment::environment_for;

/// The processor, by libtorch.
const PROCESSOR: &str = "libtorch:cpu";

/// What decides a driver's code: `srcversion` is of the module's source, wherever it was built.
const DRIVERS: [&str; 3] = ["/sys/module/amdgpu/srcversion", "/sys/module/amdgpu/version", "/proc/driver/nvidia/version"];
/// Of libtorch, its own code and that for a card.
const LIBRARIES: [&str; 3] = ["libtorch_cpu.so", "libtorch_cuda.so", "libtorch_hip.so"];
/// Beginnings of variables by which a user changes what a card's libraries do.
const VARIABLES: [&str; 7] = ["HSA_", "HIP_", "ROCR_", "CUDA_", "TORCH_", "PYTORCH_", "MIOPEN_"];

/// The best device of this computer for `program`. `say` is told of a test that takes a while, and of cards that do not pass.
pub fn choose(host: &Host, machine: &Machine, program: &Path, say: &dyn Fn(&str)) -> String {
    let notes = machine.cache_home.as_ref().map(|cache| cache.join("loramill/self-tests"));
    let cards = candidates(machine);
    if cards.is_empty() && has_card(machine) {
        say("`auto` does without your card, which this libtorch cannot use; `loramill doctor` says what to do");
    }
    chosen(&cards, notes.as_deref(), &|card| identity(card, host, machine, program), say, &mut |card| {
        self_test::of(card, machine)
    })
}

/// The cards to try. Windows hides its cards from whoever looks at files.
fn candidates(machine: &Machine) -> Vec<String> {
    let drives_cards = matches!(machine.torch_flavour(), Some(Flavour::Cuda | Flavour::Hip));
    match self_test::cards(machine) {
        cards if cards.is_empty() && machine.system.is_wsl && drives_cards => vec!["libtorch:0".to_string()],
        cards => cards,
    }
}

/// A card of its own, which a person means to use.
fn has_card(machine: &Machine) -> bool {
    machine.nvidia.as_ref().is_some_and(|nvidia| !nvidia.gpus.is_empty()) || machine.amd.iter().any(|gpu| !gpu.is_integrated())
}

fn chosen(
    cards: &[String],
    notes: Option<&Path>,
    identity: &dyn Fn(&str) -> String,
    say: &dyn Fn(&str),
    test: &mut dyn FnMut(&str) -> SelfTest,
) -> String {
    for card in cards {
        let identity = identity(card);
        let note = notes.map(|notes| notes.join(Digest::of(identity.as_bytes()).to_hex()));
        if note.as_ref().is_some_and(|note| note.is_file()) {
            return card.clone();
        }
        say(&format!("comparing `{card}` with the processor, once for this card, driver and libtorch"));
        let test = test(card);
        if test.passed {
            keep(note, &format!("{}\n{identity}", test.report));
            return card.clone();
        }
        say(&format!("`auto` does without `{card}`: {}; `loramill doctor` says what to do", test.report));
    }
    PROCESSOR.to_string()
}

/// Without a note the test is made again.
fn keep(note: Option<PathBuf>, text: &str) {
    if let Some((note, folder)) = note.as_ref().and_then(|note| Some((note, note.parent()?))) {
        let _ = fs::create_dir_all(folder).and_then(|()| fs::write(note, text));
    }
}

/// All that a test's outcome rests on, line by line.
fn identity(card: &str, host: &Host, machine: &Machine, program: &Path) -> String {
    let mut text = format!("{card}\nkernel {}\n", machine.system.kernel);
    for gpu in visible(&machine.amd, &machine.environment).gpus {
        let _ = writeln!(text, "{} {} {:?} {:?}", gpu.name, gpu.gfx, gpu.address, gpu.uuid);
    }
    for gpu in machine.nvidia.iter().flat_map(|nvidia| &nvidia.gpus) {
        let _ = writeln!(text, "{} {:?} {:?}", gpu.name, gpu.address, gpu.uuid);
    }
    for driver in DRIVERS {
        let _ = writeln!(text, "{driver} {:?}", host.text(driver));
    }
    let libraries = machine.libtorch.first().map(|libtorch| &libtorch.libraries);
    let libraries = libraries.into_iter().flat_map(|folder| LIBRARIES.map(|name| host.place(folder.join(name))));
    for file in libraries.chain([program.to_path_buf()]) {
        let stat = fs::metadata(&file).ok();
        let changed = stat.as_ref().and_then(|stat| stat.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        let _ = writeln!(text, "{} {:?} {changed:?}", file.display(), stat.map(|stat| stat.len()));
    }
    for variable in environment_for(card, machine).unwrap_or_default() {
        let _ = writeln!(text, "{}={:?}", variable.name, variable.value);
    }
    for (name, value) in machine.environment.iter().filter(|(name, _)| VARIABLES.iter().any(|start| name.starts_with(start))) {
        let _ = writeln!(text, "{name}={value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::machine::host::RunningKernel;

    /// A computer with two cards, of which those in `broken` fail.
    struct Bench {
        notes: tempfile::TempDir,
        driver: &'static str,
        broken: &'static [&'static str],
        said: RefCell<Vec<String>>,
        tested: Vec<String>,
    }

    impl Bench {
        fn new(broken: &'static [&'static str]) -> Self {
            let notes = tempfile::tempdir().unwrap();
            Self { notes, driver: "1", broken, said: RefCell::default(), tested: Vec::new() }
        }

        fn choose(&mut self) -> String {
            let cards = ["libtorch:0".to_string(), "libtorch:1".to_string()];
            let Self { notes, driver, broken, said, tested } = self;
            let identity = |card: &str| format!("{card} driver {driver}");
            let say = |line: &str| said.borrow_mut().push(line.to_string());
            chosen(&cards, Some(&notes.path().join("self-tests")), &identity, &say, &mut |card| {
                tested.push(card.to_string());
                let passed = !broken.contains(&card);
                SelfTest { device: card.into(), passed, report: if passed { "alike" } else { "GEGLU is off" }.into() }
            })
        }
    }

    #[test]
    fn a_card_is_taken_when_it_passes_and_is_tested_once() {
        let mut bench = Bench::new(&[]);
        assert_eq!([bench.choose(), bench.choose()], ["libtorch:0", "libtorch:0"]);
        assert_eq!(bench.tested, ["libtorch:0"]);
        bench.driver = "2";
        assert_eq!(bench.choose(), "libtorch:0");
        assert_eq!(bench.tested.len(), 2, "another driver is another test");
        fs::remove_dir_all(bench.notes.path().join("self-tests")).unwrap();
        assert_eq!(bench.choose(), "libtorch:0");
        assert_eq!(bench.tested.len(), 3, "notes may be deleted");
    }

    #[test]
    fn a_card_that_fails_is_told_and_the_next_is_taken() {
        let mut bench = Bench::new(&["libtorch:0"]);
        assert_eq!(bench.choose(), "libtorch:1");
        let told = "`auto` does without `libtorch:0`: GEGLU is off; `loramill doctor` says what to do";
        assert!(bench.said.borrow().iter().any(|line| line == told), "{:?}", bench.said);
        bench.choose();
        assert_eq!(bench.tested, ["libtorch:0", "libtorch:1", "libtorch:0"], "only a passed test is remembered");
    }

    /// A recorded computer, and what `tests/machines` says of its environment.
    fn recorded(case: &str) -> (Host, Machine) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machines");
        let text = fs::read(folder.join("cases").join(format!("{case}.json"))).unwrap();
        let said: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let environment = serde_json::from_value(said["environment"].clone()).unwrap();
        let host = Host::recorded(folder.join(said["tree"].as_str().unwrap()), environment, Box::new(RunningKernel));
        let machine = Machine::read(&host);
        (host, machine)
    }

    #[test]
    fn the_cards_that_a_libtorch_drives_are_tried() {
        for case in ["gfx1031-ready", "gfx1036-gfx1100", "nvidia"] {
            let (_, machine) = recorded(case);
            assert!(candidates(&machine) == ["libtorch:0"] && has_card(&machine), "{case}");
        }
        let (_, none) = recorded("none");
        assert!(candidates(&none).is_empty() && !has_card(&none));
    }

    #[test]
    fn another_driver_library_or_override_is_another_test() {
        let (host, machine) = recorded("gfx1031-ready");
        let of = |machine: &Machine, program: &str| identity("libtorch:0", &host, machine, Path::new(program));
        let usual = of(&machine, "/a");
        assert!(usual.contains("gfx1031") && usual.contains("HSA_OVERRIDE_GFX_VERSION=Some(\"10.3.0\")"), "{usual}");
        assert_eq!(usual, of(&machine, "/a"));
        assert_ne!(usual, of(&machine, "/b"));
        let mut newer = machine.clone();
        newer.system.kernel = "7.0".into();
        assert_ne!(usual, of(&newer, "/a"));
        let mut set = machine.clone();
        set.environment.insert("HSA_ENABLE_SDMA".into(), "0".into());
        assert_ne!(usual, of(&set, "/a"));
        let mut other = machine;
        other.libtorch[0].libraries = "/elsewhere".into();
        assert_ne!(usual, of(&other, "/a"));
    }

    #[test]
    fn without_a_card_that_passes_it_is_the_processor() {
        assert_eq!(Bench::new(&["libtorch:0", "libtorch:1"]).choose(), "libtorch:cpu");
        let untested = &mut |_: &str| -> SelfTest { unreachable!("there is no card") };
        assert_eq!(chosen(&[], None, &|_| String::new(), &|line| panic!("{line}"), untested), "libtorch:cpu");
    }
}
