//! What a process that computes on a GPU must have in its environment before the GPU's libraries are loaded. A pure function of the computer;
//! starts nothing.
//!
//! A variable that the user has set is never touched.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};

use crate::computer::machine::Machine;
use crate::computer::machine::gfx::{Gfx, Likeness, StandIn};
use crate::computer::machine::kfd::AmdGpu;
use crate::computer::machine::libtorch::Flavour;
use crate::computer::machine::visibility::{ALLOCATOR, Mask, SPINS, Variable, Visible, visible};

/// Makes AMD's runtime treat a card as another target: `10.3.0` stands for `gfx1030`.
pub const OVERRIDE: &str = "HSA_OVERRIDE_GFX_VERSION";

/// Where the code comes from that a card runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The libraries have code for it.
    Native,
    /// They do not, but for a target whose code it runs.
    StandIn(StandIn),
    /// They have neither.
    Nothing,
    /// It could not be seen what they have.
    Unknown,
}

/// What libraries that are compiled for `targets` give a card to run.
pub fn code_for(gfx: Gfx, targets: Option<&BTreeSet<Gfx>>) -> Code {
    let Some(targets) = targets else { return Code::Unknown };
    if targets.contains(&gfx) {
        return Code::Native;
    }
    match gfx.known().and_then(|known| known.stand_in) {
        Some(stand_in) if targets.contains(&stand_in.gfx) => Code::StandIn(stand_in),
        _ => Code::Nothing,
    }
}

/// The variables for a process on `device`, a name such as `libtorch:0`; none for devices that need none.
///
/// # Errors
/// If the computer has no AMD GPU of that number although it has some, or the number is none.
pub fn environment_for(device: &str, machine: &Machine) -> Result<Vec<Variable>> {
    let Some((backend @ ("libtorch" | "rocm"), number)) = device.split_once(':') else { return Ok(Vec::new()) };
    let is_for_amd = backend == "rocm" || machine.torch_flavour() != Some(Flavour::Cuda);
    if number != "cpu" && !is_for_amd {
        return Ok(cuda_order(machine).into_iter().collect());
    }
    if number == "cpu" {
        return Ok(allocator(machine).into_iter().chain(spins(machine)).collect());
    }
    if machine.amd.is_empty() {
        return Ok(Vec::new());
    }
    let shown = visible(&machine.amd, &machine.environment);
    let Some(gpu) = number.parse::<usize>().ok().and_then(|number| shown.gpus.get(number)) else {
        let known: Vec<String> = (0..shown.gpus.len()).map(|number| format!("`{backend}:{number}`")).collect();
        if known.is_empty() {
            bail!("there is no `{device}`: the masks in the environment hide every GPU");
        }
        bail!("there is no `{device}`: this computer has {}", known.join(", "));
    };
    let mut variables = Vec::new();
    if let Visible { mask: Mask::Ours(mask), .. } = &shown {
        variables.push(mask.clone());
    }
    // CubeCL compiles for the card that it finds and needs nothing of what follows.
    if backend == "libtorch" {
        variables.extend(hsa_override(gpu, machine));
        variables.extend(blas_choice(gpu, machine));
        variables.extend(miopen(machine));
    }
    Ok(variables)
}

/// The card of AMD's that a device's name means, as [`environment_for`] shows them to a process: `auto` means the first.
pub fn amd_card<'m>(device: &str, machine: &'m Machine) -> Option<&'m AmdGpu> {
    let number = if device == "auto" { "0" } else { device.split_once(':')?.1 };
    visible(&machine.amd, &machine.environment).gpus.get(number.parse::<usize>().ok()?).copied()
}

/// How glibc shall give out the memory of a process that computes in it: every tensor of a layer is hundreds of kilobytes to many megabytes
/// and lives for a moment, which by default is a mapping of its own whose pages the kernel clears each time.
///
/// - huge pages where the kernel grants them on request, so that there are few to clear (glibc 2.35)
/// - no mappings of their own, and nothing given back until the end
/// - one arena, since others give back what is at their top whatever is set
fn allocator(machine: &Machine) -> Option<Variable> {
    const TUNABLES: &str = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776\
        :glibc.malloc.top_pad=268435456:glibc.malloc.arena_max=1";
    let is_set = machine.environment.contains_key(ALLOCATOR);
    (!is_set).then(|| Variable::new(ALLOCATOR, TUNABLES, "tensors come and go without the kernel"))
}

/// How long libtorch's threads look for work before they sleep: long enough for the next operation to reach them, and no longer. By default it is
/// milliseconds, in which they take the cores from the threads of our own attention, and from whatever else runs.
fn spins(machine: &Machine) -> Option<Variable> {
    const COUNT: &str = "10000";
    let is_set = [SPINS, "OMP_WAIT_POLICY"].iter().any(|name| machine.environment.contains_key(*name));
    (!is_set).then(|| Variable::new(SPINS, COUNT, "threads without work leave the cores to others"))
}

/// The variable by which a card runs a stand-in's code.
///
/// The runtime reads `HSA_OVERRIDE_GFX_VERSION_<node>` before the one for all nodes (ROCm 6.2 and later), and applies them to hidden GPUs too. So
/// the one for all nodes is used only where every other GPU may have it.
pub fn hsa_override(gpu: &AmdGpu, machine: &Machine) -> Option<Variable> {
    let of_node = format!("{OVERRIDE}_{}", gpu.node);
    let set = [of_node.as_str(), OVERRIDE].into_iter().filter_map(|name| Some((name, machine.environment.get(name)?))).next();
    let is_empty = match set {
        Some((_, value)) if !value.is_empty() => return None,
        Some(_) => true,
        None => false,
    };
    let Code::StandIn(stand_in) = code_for(gpu.gfx, machine.torch_targets()) else {
        let reason = "is empty, which old runtimes take for a version 0";
        return set.filter(|_| is_empty).map(|(name, _)| Variable { name: name.to_string(), value: None, reason: reason.into() });
    };
    let may_have_it = |other: &AmdGpu| {
        other.gfx == stand_in.gfx
            || matches!(code_for(other.gfx, machine.torch_targets()), Code::StandIn(its) if its.gfx == stand_in.gfx)
    };
    let is_for_all = machine.amd.iter().filter(|other| other.node != gpu.node).all(may_have_it);
    // An empty variable of the node would be read before the one for all.
    let name = if is_for_all && !machine.environment.contains_key(&of_node) { OVERRIDE } else { &of_node };
    let likeness = match stand_in.likeness {
        Likeness::Same => "whose instructions it shares",
        Likeness::Differs => "whose instructions differ from its own in part",
    };
    let reason = format!("the libraries have no code for {}: it runs that for {}, {likeness}", gpu.gfx, stand_in.gfx);
    Some(Variable::new(name, stand_in.gfx.as_override(), reason))
}

/// The target whose code a card runs, by the user's override or ours.
pub fn effective_target(gpu: &AmdGpu, machine: &Machine) -> Gfx {
    let by_user = override_of_user(gpu, machine).and_then(|(_, value)| Gfx::from_override(value));
    let ours = || hsa_override(gpu, machine).and_then(|variable| Gfx::from_override(&variable.value?));
    by_user.or_else(ours).unwrap_or(gpu.gfx)
}

/// The override that the user set for a card, with its name; an empty one is one too.
pub fn override_of_user<'m>(gpu: &AmdGpu, machine: &'m Machine) -> Option<(String, &'m str)> {
    let names = [format!("{OVERRIDE}_{}", gpu.node), OVERRIDE.to_string()];
    names.into_iter().find_map(|name| Some((machine.environment.get(&name)?, name))).map(|(value, name)| (name, value.as_str()))
}

/// PyTorch multiplies with hipBLASLt where it may, and fails where that has no code for the card.
fn blas_choice(gpu: &AmdGpu, machine: &Machine) -> Option<Variable> {
    const NAME: &str = "TORCH_BLAS_PREFER_HIPBLASLT";
    let has = has_hipblaslt(gpu, machine);
    let reason = format!("hipBLASLt has no code for {}: rocBLAS multiplies", effective_target(gpu, machine));
    (has == Some(false) && !machine.environment.contains_key(NAME)).then(|| Variable::new(NAME, "0", reason))
}

/// Whether hipBLASLt has code for a card; `None` where it cannot be seen.
pub fn has_hipblaslt(gpu: &AmdGpu, machine: &Machine) -> Option<bool> {
    /// It is built for no card of RDNA 1 and 2.
    const WITHOUT: u8 = 10;
    let target = effective_target(gpu, machine);
    if target.major == WITHOUT {
        return Some(false);
    }
    let compiled =
        machine.libtorch.first().filter(|libtorch| libtorch.flavour == Flavour::Hip).map(|libtorch| &libtorch.compiled_for)?;
    match (&compiled.hipblaslt, &compiled.rocblas) {
        (Some(targets), _) => Some(targets.contains(&target)),
        // rocBLAS is here, and no hipBLASLt beside it.
        (None, Some(_)) => Some(false),
        (None, None) => None,
    }
}

/// CUDA numbers the fastest card first; `doctor` and NVIDIA's own tools go by the place on the PCI bus.
fn cuda_order(machine: &Machine) -> Option<Variable> {
    const NAME: &str = "CUDA_DEVICE_ORDER";
    let has_several = machine.nvidia.as_ref().is_some_and(|nvidia| nvidia.gpus.len() > 1);
    (has_several && !machine.environment.contains_key(NAME))
        .then(|| Variable::new(NAME, "PCI_BUS_ID", "numbers cards by their place on the PCI bus, as NVIDIA's tools do"))
}

/// MIOpen tries every way to convolve at each new size, for minutes, unless it is told to take the first good one.
fn miopen(machine: &Machine) -> Vec<Variable> {
    let mut variables =
        vec![Variable::new("MIOPEN_FIND_MODE", "FAST", "a new size of picture then costs seconds rather than minutes")];
    if let Some(cache) = &machine.cache_home {
        let below = |name: &str| Path::new(cache).join("loramill/miopen").join(name).display().to_string();
        variables.push(Variable::new(
            "MIOPEN_USER_DB_PATH",
            below("choices"),
            "which way to convolve was found best, kept for the next run",
        ));
        variables.push(Variable::new("MIOPEN_CUSTOM_CACHE_DIR", below("kernels"), "what MIOpen compiled, kept for the next run"));
    }
    variables.retain(|variable| !machine.environment.contains_key(&variable.name));
    variables
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::computer::machine::gfx::TARGETS;
    use crate::computer::machine::libtorch::{FETCHED_FOR, FoundBy, Libtorch};
    use crate::computer::machine::nvidia::{Nvidia, NvidiaGpu};
    use crate::computer::machine::pci::PciAddress;
    use crate::computer::machine::processor::{Memory, Processor};
    use crate::computer::machine::rocm::CompiledFor;
    use crate::computer::machine::system::{System, User};
    use crate::computer::machine::vulkan::Vulkan;

    /// What PyTorch's wheels for ROCm 6.4 are built for, and those for ROCm 5.2.
    const ROCM_6_4: &str = "gfx900 gfx906 gfx908 gfx90a gfx942 gfx1030 gfx1100 gfx1101 gfx1102 gfx1200 gfx1201";
    const ROCM_5_2: &str = "gfx900 gfx906 gfx908 gfx90a gfx1030";

    fn targets(names: &str) -> BTreeSet<Gfx> {
        names.split(' ').map(|name| Gfx::named(name).unwrap()).collect()
    }

    fn libtorch(flavour: Flavour, rocblas: Option<&str>, hipblaslt: Option<&str>) -> Libtorch {
        Libtorch {
            libraries: PathBuf::from("/opt/libtorch/lib"),
            found_by: FoundBy::System,
            version: Some("2.9.1".into()),
            flavour,
            compiled_for: CompiledFor { rocblas: rocblas.map(targets), hipblaslt: hipblaslt.map(targets) },
            brings_runtime: true,
        }
    }

    /// A computer with GPUs as nodes 1, 2 …
    fn machine(gpus: &[&str], libtorch: Vec<Libtorch>, environment: &[(&str, &str)]) -> Machine {
        let gpu = |(at, name): (usize, &&str)| AmdGpu::of_target(at, name);
        let user = User { id: 1000, name: None, groups: Vec::new() };
        Machine {
            system: System {
                kernel: String::new(),
                distribution: None,
                command_line: String::new(),
                is_wsl: false,
                container: None,
                user,
                groups: Vec::new(),
            },
            processor: Processor::default(),
            memory: Memory::default(),
            controllers: Vec::new(),
            amd: gpus.iter().enumerate().map(gpu).collect(),
            nvidia: None,
            rocm: Vec::new(),
            libtorch,
            vulkan: Vulkan::default(),
            environment: environment.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect(),
            cache_home: None,
        }
    }

    #[test]
    fn what_is_fetched_is_for_the_targets_of_rocm_6_4() {
        assert_eq!(FETCHED_FOR.iter().copied().collect::<BTreeSet<Gfx>>(), targets(ROCM_6_4));
    }

    fn hip(rocblas: &str) -> Vec<Libtorch> {
        vec![libtorch(Flavour::Hip, Some(rocblas), None)]
    }

    /// All variables but MIOpen's, as a map; what is taken away is empty.
    fn environment(machine: &Machine, device: &str) -> BTreeMap<String, String> {
        let variables = environment_for(device, machine).unwrap().into_iter();
        let others = variables.filter(|variable| !variable.name.starts_with("MIOPEN_"));
        others.map(|variable| (variable.name, variable.value.unwrap_or_default())).collect()
    }

    fn of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
    }

    #[test]
    fn every_target_gets_its_override_where_the_libraries_lack_its_code() {
        // By target: with the libraries of ROCm 6.4, and with those of ROCm 5.2.
        let expected = |name: &str| match name {
            "gfx90c" => ("9.0.0", "9.0.0"),
            "gfx1010" | "gfx1011" | "gfx1012" | "gfx1031" | "gfx1032" | "gfx1033" | "gfx1034" | "gfx1035" | "gfx1036" => {
                ("10.3.0", "10.3.0")
            }
            "gfx1103" => ("11.0.0", ""),
            _ => ("", ""),
        };
        for target in TARGETS {
            let name = target.gfx.to_string();
            let found = |libraries: &str| {
                let machine = machine(&[&name], hip(libraries), &[]);
                environment(&machine, "libtorch:0").remove(OVERRIDE).unwrap_or_default()
            };
            assert_eq!((found(ROCM_6_4).as_str(), found(ROCM_5_2).as_str()), expected(&name), "{name}");
        }
        // Libraries with code for the first of RDNA 3 alone.
        for name in ["gfx1101", "gfx1102"] {
            assert_eq!(environment(&machine(&[name], hip("gfx1100"), &[]), "libtorch:0")[OVERRIDE], "11.0.0", "{name}");
        }
    }

    #[test]
    fn nothing_is_overridden_where_it_would_not_help_or_cannot_be_seen() {
        for libraries in ["gfx1031 gfx1030", "gfx900 gfx1100"] {
            assert!(
                !environment(&machine(&["gfx1031"], hip(libraries), &[]), "libtorch:0").contains_key(OVERRIDE),
                "{libraries}"
            );
        }
        let unseen = machine(&["gfx1031"], vec![libtorch(Flavour::Hip, None, None)], &[]);
        assert!(!environment(&unseen, "libtorch:0").contains_key(OVERRIDE));
        let none = machine(&["gfx1031"], Vec::new(), &[]);
        assert!(!environment(&none, "libtorch:0").contains_key(OVERRIDE));
        // CubeCL compiles for the card itself.
        assert_eq!(environment(&machine(&["gfx1031"], hip(ROCM_6_4), &[]), "rocm:0"), of(&[]));
    }

    #[test]
    fn the_override_of_one_card_does_not_reach_a_card_of_another_generation() {
        let mixed = machine(&["gfx1031", "gfx1100"], hip(ROCM_6_4), &[]);
        assert_eq!(environment(&mixed, "libtorch:0")["HSA_OVERRIDE_GFX_VERSION_1"], "10.3.0");
        assert!(!environment(&mixed, "libtorch:0").contains_key(OVERRIDE));
        assert!(environment(&mixed, "libtorch:1").keys().all(|name| !name.starts_with(OVERRIDE)));
        let alike = machine(&["gfx1031", "gfx1032", "gfx1030"], hip(ROCM_6_4), &[]);
        assert_eq!(environment(&alike, "libtorch:1")[OVERRIDE], "10.3.0");
        // A hidden GPU is overridden too: gfx1103 must not be told that it is RDNA 2.
        let hidden = machine(&["gfx1031", "gfx1103"], hip(ROCM_6_4), &[]);
        assert_eq!(environment(&hidden, "libtorch:0")["HSA_OVERRIDE_GFX_VERSION_1"], "10.3.0");
    }

    #[test]
    fn what_the_user_set_stays() {
        for name in [OVERRIDE, "HSA_OVERRIDE_GFX_VERSION_1"] {
            let machine = machine(&["gfx1031"], hip(ROCM_6_4), &[(name, "10.3.1"), ("TORCH_BLAS_PREFER_HIPBLASLT", "1")]);
            assert_eq!(environment(&machine, "libtorch:0"), of(&[]), "{name}");
        }
        // One for another card is none for this.
        let other = machine(&["gfx1031"], hip(ROCM_6_4), &[("HSA_OVERRIDE_GFX_VERSION_2", "11.0.0")]);
        assert_eq!(environment(&other, "libtorch:0")[OVERRIDE], "10.3.0");
        let mut chosen = machine(&["gfx1031"], hip(ROCM_6_4), &[("MIOPEN_USER_DB_PATH", "/x")]);
        chosen.cache_home = Some("/home/alice/.cache".into());
        let names: Vec<String> = miopen(&chosen).into_iter().map(|variable| variable.name).collect();
        assert_eq!(names, ["MIOPEN_FIND_MODE", "MIOPEN_CUSTOM_CACHE_DIR"]);
    }

    #[test]
    fn an_empty_override_is_replaced_or_taken_away() {
        let needed = machine(&["gfx1031"], hip(ROCM_6_4), &[(OVERRIDE, "")]);
        assert_eq!(environment(&needed, "libtorch:0")[OVERRIDE], "10.3.0");
        let of_node = machine(&["gfx1031"], hip(ROCM_6_4), &[("HSA_OVERRIDE_GFX_VERSION_1", "")]);
        assert_eq!(environment(&of_node, "libtorch:0")["HSA_OVERRIDE_GFX_VERSION_1"], "10.3.0");
        let not_needed = machine(&["gfx1030"], hip(ROCM_6_4), &[(OVERRIDE, "")]);
        let variables = environment_for("libtorch:0", &not_needed).unwrap();
        assert!(variables.iter().any(|variable| variable.name == OVERRIDE && variable.value.is_none()));
    }

    #[test]
    fn rocblas_multiplies_where_hipblaslt_has_no_code() {
        const NAME: &str = "TORCH_BLAS_PREFER_HIPBLASLT";
        let with = |gpu: &str, hipblaslt: Option<&str>| {
            let found = machine(&[gpu], vec![libtorch(Flavour::Hip, Some(ROCM_6_4), hipblaslt)], &[]);
            environment(&found, "libtorch:0").remove(NAME)
        };
        assert_eq!(with("gfx1100", Some("gfx90a gfx1100")), None);
        // By the target whose code it runs.
        assert_eq!(with("gfx1103", Some("gfx90a gfx1100")), None);
        for (gpu, hipblaslt) in [("gfx1100", Some("gfx90a")), ("gfx1100", None), ("gfx1031", Some("gfx1030")), ("gfx1010", None)]
        {
            assert_eq!(with(gpu, hipblaslt).as_deref(), Some("0"), "{gpu}, {hipblaslt:?}");
        }
        let unseen = machine(&["gfx1100"], vec![libtorch(Flavour::Hip, None, None)], &[]);
        assert!(!environment(&unseen, "libtorch:0").contains_key(NAME), "it cannot be seen");
    }

    #[test]
    fn a_number_that_no_gpu_has_is_an_error_that_lists_those_there_are() {
        let two = machine(&["gfx1030", "gfx1100"], hip(ROCM_6_4), &[]);
        for device in ["libtorch:2", "libtorch:x", "libtorch:"] {
            let error = environment_for(device, &two).unwrap_err().to_string();
            assert_eq!(error, format!("there is no `{device}`: this computer has `libtorch:0`, `libtorch:1`"));
        }
        let hidden = machine(&["gfx1030"], hip(ROCM_6_4), &[("ROCR_VISIBLE_DEVICES", "5")]);
        assert!(environment_for("rocm:0", &hidden).unwrap_err().to_string().contains("hide every GPU"));
        for device in ["cpu", "vulkan:0", "cuda:0", "auto"] {
            assert!(environment_for(device, &two).unwrap().is_empty(), "{device}");
        }
        let cuda = machine(&["gfx1036"], vec![libtorch(Flavour::Cuda, None, None)], &[]);
        assert!(environment_for("libtorch:0", &cuda).unwrap().is_empty(), "it computes on another vendor's card");
    }

    #[test]
    fn a_process_that_computes_in_main_memory_keeps_it_unless_the_user_has_set_otherwise() {
        let plain = environment_for("libtorch:cpu", &machine(&["gfx1030"], hip(ROCM_6_4), &[])).unwrap();
        let [Variable { name, value: Some(value), .. }, spins] = &plain[..] else { panic!("{plain:?}") };
        assert!(name == ALLOCATOR && value.split(':').all(|setting| setting.starts_with("glibc.malloc.")), "{value}");
        assert_eq!(spins.name, SPINS);
        assert!(!plain.iter().any(Variable::is_for_a_card));
        for waiting in [(SPINS, "7"), ("OMP_WAIT_POLICY", "passive")] {
            let set = machine(&[], Vec::new(), &[(ALLOCATOR, "glibc.malloc.check=3"), waiting]);
            assert!(environment_for("libtorch:cpu", &set).unwrap().is_empty(), "{waiting:?}");
        }
    }

    #[test]
    fn several_cards_of_nvidias_are_numbered_by_their_place() {
        let gpu = |bus: u8| NvidiaGpu {
            name: String::new(),
            address: PciAddress(format!("0000:0{bus}:00.0")),
            device_file: None,
            uuid: None,
        };
        let mut found = machine(&[], vec![libtorch(Flavour::Cuda, None, None)], &[]);
        found.nvidia = Some(Nvidia { version: "570.1".into(), gpus: vec![gpu(1)] });
        assert_eq!(environment(&found, "libtorch:0"), of(&[]));
        found.nvidia = Some(Nvidia { version: "570.1".into(), gpus: vec![gpu(1), gpu(2)] });
        assert_eq!(environment(&found, "libtorch:1"), of(&[("CUDA_DEVICE_ORDER", "PCI_BUS_ID")]));
        found.environment.insert("CUDA_DEVICE_ORDER".into(), "FASTEST_FIRST".into());
        assert_eq!(environment(&found, "libtorch:1"), of(&[]));
    }

    #[test]
    fn a_mask_names_cards_by_position_where_they_have_no_number() {
        let behind = machine(&["gfx1036", "gfx1100"], Vec::new(), &[]);
        assert_eq!(environment(&behind, "libtorch:0")["ROCR_VISIBLE_DEVICES"], "1");
    }
}
