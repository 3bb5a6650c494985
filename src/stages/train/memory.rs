//! Says before a training how much memory it will need, beside what there is, and what would need less. Not a kind.

use crate::computer::machine::Machine;
use crate::computer::machine::host::Host;
use crate::computer::machine::process::memory;
use crate::computer::machine::worker_environment::amd_card;
use crate::engine::cache::bytes::size;
use crate::sd::device;
use crate::sd::lora::network::LoraNetwork;
use crate::sd::stable_diffusion::Denoiser;
use crate::sd::training::memory_plan::{Load, MemoryPlan, smaller};

/// The line for the user. `name` is that of the device that `model` lies on.
pub fn message(name: &str, model: &Denoiser, network: &LoraNetwork, load: &Load) -> String {
    let plan = MemoryPlan::of(model, network, load);
    let on_card = device::is_card(model.device());
    let free = free(on_card.then_some(name), &plan, &Machine::read(&Host::this()));
    line(&plan, &smaller(model, network, load), free)
}

/// What a card of that name, or the processor, can give to this process, with what it has already; `None` where nobody tells.
fn free(card: Option<&str>, plan: &MemoryPlan, machine: &Machine) -> Option<u64> {
    let Some(card) = card else { return Some(machine.memory.available + memory()?) };
    let card = amd_card(card, machine)?;
    // The networks are on it already.
    Some((card.memory + plan.weights).saturating_sub(card.memory_used?))
}

fn line(plan: &MemoryPlan, smaller: &[(String, MemoryPlan)], free: Option<u64>) -> String {
    let MemoryPlan { weights, activations, .. } = plan;
    let needs = format!(
        "needs about {} of memory, {} of them weights and {} activations",
        size(plan.total()),
        size(*weights),
        size(*activations)
    );
    let Some(free) = free else { return needs };
    if plan.total() <= free {
        return format!("{needs}; {} are free", size(free));
    }
    let fits = smaller.iter().find(|(_, plan)| plan.total() <= free).or(smaller.last());
    let remedy = fits.map(|(change, plan)| format!(": {change} needs about {}", size(plan.total()))).unwrap_or_default();
    format!("{needs}, and {} are free: that may not be enough{remedy}", size(free))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(gigabytes: u64) -> MemoryPlan {
        MemoryPlan { weights: 3_400_000_000, activations: (gigabytes - 4) * 1_000_000_000, others: 600_000_000 }
    }

    #[test]
    fn what_fits_is_said_with_what_is_free() {
        let expected = "needs about 6.0 GB of memory, 3.4 GB of them weights and 2.0 GB activations";
        assert_eq!(line(&plan(6), &[], None), expected);
        assert_eq!(line(&plan(6), &[("less".into(), plan(5))], Some(8_000_000_000)), format!("{expected}; 8.0 GB are free"));
    }

    #[test]
    fn what_may_not_fit_names_the_least_change_that_does() {
        let changes =
            [("one".to_string(), plan(8)), ("one and two".to_string(), plan(6)), ("one, two and three".to_string(), plan(5))];
        let said = |free: u64| line(&plan(9), &changes, Some(free * 1_000_000_000));
        assert!(
            said(7).ends_with(", and 7.0 GB are free: that may not be enough: one and two needs about 6.0 GB"),
            "{}",
            said(7)
        );
        assert!(said(3).ends_with(": one, two and three needs about 5.0 GB"), "{}", said(3));
    }
}
