//! What a process that computes on a GPU must have in its environment before the GPU's libraries are loaded. A pure function of the computer;
//! starts nothing.
//!
//! A variable that the user has set is never touched.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};

use crate::machine::Machine;
use crate::machine::gfx::{Gfx, Likeness, StandIn};
use crate::machine::kfd::AmdGpu;
use crate::machine::libtorch::Flavour;
use crate::machine::visibility::{Mask, Variable, Visible, visible};

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
    if number == "cpu" || !is_for_amd || machine.amd.is_empty() {
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
