//! Which AMD GPUs a program gets to see, and their numbers: `libtorch:0` is the first of them. A processor's own GPU beside a card is hidden,
//! because programs that touch both crash.

use std::collections::BTreeMap;

use crate::computer::machine::kfd::AmdGpu;

/// Masks by which a user hides GPUs, in the order in which the runtimes apply them. HIP takes CUDA's name where its own is not set.
const RUNTIME_MASK: &str = "ROCR_VISIBLE_DEVICES";
const HIP_MASKS: [&str; 2] = ["HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"];

/// The GPUs by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visible<'m> {
    pub gpus: Vec<&'m AmdGpu>,
    pub mask: Mask,
}

/// Who hides GPUs from a worker: nobody, the user, or loramill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All are shown.
    None,
    /// The user chose.
    Users(Vec<&'static str>),
    /// A worker is started with this one.
    Ours(Variable),
}

/// The variable that sets glibc's allocator.
pub const ALLOCATOR: &str = "GLIBC_TUNABLES";
/// The variable for how often GNU's OpenMP threads look for work before they sleep.
pub const SPINS: &str = "GOMP_SPINCOUNT";

/// A variable for the environment of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    /// `None`: it is taken out of the environment.
    pub value: Option<String>,
    /// Why, as a person is told.
    pub reason: String,
}

impl Variable {
    /// Whether it decides which card computes, or how: a person wants to know that. The others only make a process faster.
    pub fn is_for_a_card(&self) -> bool {
        ![ALLOCATOR, SPINS].contains(&self.name.as_str())
    }

    /// A variable that is set, not taken out.
    pub fn new(name: &str, value: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { name: name.to_string(), value: Some(value.into()), reason: reason.into() }
    }
}

/// The GPUs that a worker gets to see in this environment.
pub fn visible<'m>(gpus: &'m [AmdGpu], environment: &BTreeMap<String, String>) -> Visible<'m> {
    let given = |name: &'static str| environment.get(name).filter(|value| !value.trim().is_empty()).map(|value| (name, value));
    let by_user: Vec<(&'static str, &String)> =
        given(RUNTIME_MASK).into_iter().chain(HIP_MASKS.into_iter().find_map(given)).collect();
    let all: Vec<&AmdGpu> = gpus.iter().collect();
    if !by_user.is_empty() {
        let gpus = by_user.iter().fold(all, |seen, (_, mask)| masked(&seen, mask));
        return Visible { gpus, mask: Mask::Users(by_user.into_iter().map(|(name, _)| name).collect()) };
    }
    let (integrated, discrete): (Vec<&AmdGpu>, Vec<&AmdGpu>) = all.iter().partition(|gpu| gpu.is_integrated());
    if integrated.is_empty() || discrete.is_empty() {
        return Visible { gpus: all, mask: Mask::None };
    }
    // By the card's own number where it has one: positions change when a card is added.
    let name = |gpu: &AmdGpu| {
        let position = gpus.iter().position(|other| other.node == gpu.node);
        gpu.uuid.clone().or_else(|| position.map(|at| at.to_string()))
    };
    let names: Vec<String> = discrete.iter().filter_map(|gpu| name(gpu)).collect();
    let hidden: Vec<String> = integrated.iter().map(|gpu| gpu.gfx.to_string()).collect();
    let reason = format!("hides {} of the processor, beside which programs crash", hidden.join(" and "));
    Visible { gpus: discrete, mask: Mask::Ours(Variable::new(RUNTIME_MASK, names.join(","), reason)) }
}

/// Masks that are set and say nothing: runtimes differ in what they make of them.
pub fn empty_masks(environment: &BTreeMap<String, String>) -> Vec<&'static str> {
    let names = std::iter::once(RUNTIME_MASK).chain(HIP_MASKS);
    names.filter(|name| environment.get(*name).is_some_and(|value| value.trim().is_empty())).collect()
}

/// The GPUs of a list of positions and card numbers. As in the runtimes, the first that names none ends the list.
fn masked<'m>(gpus: &[&'m AmdGpu], mask: &str) -> Vec<&'m AmdGpu> {
    let find = |token: &str| match token.parse::<usize>() {
        Ok(position) => gpus.get(position).copied(),
        Err(_) => gpus.iter().copied().find(|gpu| gpu.uuid.as_deref().is_some_and(|uuid| uuid.eq_ignore_ascii_case(token))),
    };
    mask.split(',').map(str::trim).map_while(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nodes that are shown of GPUs as nodes 1, 2 …; the first has a number of its own.
    fn shown(targets: &[&str], environment: &[(&str, &str)]) -> Vec<u32> {
        let gpu = |(at, name): (usize, &&str)| AmdGpu {
            uuid: (at == 0).then(|| "GPU-00aa".to_string()),
            ..AmdGpu::of_target(at, name)
        };
        let gpus: Vec<AmdGpu> = targets.iter().enumerate().map(gpu).collect();
        let environment = environment.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect();
        visible(&gpus, &environment).gpus.into_iter().map(|gpu| gpu.node).collect()
    }

    #[test]
    fn masks_number_the_cards() {
        let three = ["gfx1030", "gfx1100", "gfx1036"];
        assert_eq!(shown(&three, &[]), [1, 2]);
        assert_eq!(shown(&["gfx1035"], &[]), [1], "alone it is shown");
        assert_eq!(shown(&three, &[("HIP_VISIBLE_DEVICES", "1,0")]), [2, 1]);
        assert_eq!(shown(&three, &[("CUDA_VISIBLE_DEVICES", "2")]), [3]);
        assert_eq!(shown(&three, &[("HIP_VISIBLE_DEVICES", "0"), ("CUDA_VISIBLE_DEVICES", "2")]), [1]);
        let both = [("ROCR_VISIBLE_DEVICES", "2,gpu-00aa"), ("HIP_VISIBLE_DEVICES", "1")];
        assert_eq!(shown(&three, &both), [1], "one after the other");
        assert_eq!(shown(&three, &[("ROCR_VISIBLE_DEVICES", "1,7,0")]), [2], "the first wrong one ends the list");
        assert_eq!(shown(&three, &[("ROCR_VISIBLE_DEVICES", "")]), [1, 2]);
    }
}
