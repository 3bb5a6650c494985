//! What `auto` stands for: the first card that computes what the processor computes, else the processor. Unaware of how that is
//! compared, and of how it is remembered.

use std::path::Path;

use crate::cli::device::compared::Compared;
use crate::cli::device::probe;
use crate::computer::doctor::SelfTest;
use crate::computer::machine::Machine;
use crate::computer::machine::host::Host;
use crate::computer::machine::libtorch::Flavour;

/// The processor, by libtorch.
const PROCESSOR: &str = "libtorch:cpu";

/// The best device of this computer for `program`. `say` gets a line about a test that takes a while, and about each card that
/// does not pass.
pub fn choose(host: &Host, machine: &Machine, program: &Path, say: &dyn Fn(&str)) -> String {
    let cards = candidates(machine);
    if cards.is_empty() && has_card(machine) {
        say("`auto`: not using the GPU: this libtorch build does not support it; `loramill doctor` says what to do");
    }
    chosen(&cards, &|card| Compared::of(card, host, machine, program), say, &mut |card| probe::of(card, machine))
}

/// The cards to try. Windows hides its cards from whoever looks at files.
fn candidates(machine: &Machine) -> Vec<String> {
    let drives_cards = matches!(machine.torch_flavour(), Some(Flavour::Cuda | Flavour::Hip));
    match probe::cards(machine) {
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
    compared: &dyn Fn(&str) -> Compared,
    say: &dyn Fn(&str),
    test: &mut dyn FnMut(&str) -> SelfTest,
) -> String {
    for card in cards {
        let compared = compared(card);
        if compared.is_passed() {
            return card.clone();
        }
        say(&format!("comparing `{card}` with the processor, once for this card, driver and libtorch"));
        let test = test(card);
        if test.passed {
            compared.pass(&test.report);
            return card.clone();
        }
        say(&format!("`auto`: not using `{card}`: {}; `loramill doctor` says what to do", test.report));
    }
    PROCESSOR.to_string()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;

    use super::*;
    use crate::computer::machine::host::RunningKernel;

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
            let folder = notes.path().join("self-tests");
            let compared = |card: &str| Compared::new(Some(&folder), format!("{card} driver {driver}"));
            let say = |line: &str| said.borrow_mut().push(line.to_string());
            chosen(&cards, &compared, &say, &mut |card| {
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
        let told = "`auto`: not using `libtorch:0`: GEGLU is off; `loramill doctor` says what to do";
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
    fn without_a_card_that_passes_it_is_the_processor() {
        assert_eq!(Bench::new(&["libtorch:0", "libtorch:1"]).choose(), "libtorch:cpu");
        let untested = &mut |_: &str| -> SelfTest { unreachable!("there is no card") };
        assert_eq!(chosen(&[], &|_| Compared::new(None, String::new()), &|line| panic!("{line}"), untested), "libtorch:cpu");
    }
}
