//! What a computer is, in names and values: the part of a report that is no judgement.

use crate::computer::doctor::{Patient, memory_size};

/// Variables that change what GPUs do. Others are nobody's business.
const VARIABLES: &[&str] = &[
    "HSA_",
    "HIP_",
    "ROCR_",
    "ROCM_",
    "CUDA_",
    "GPU_",
    "MIOPEN_",
    "PYTORCH_",
    "TORCH_",
    "LIBTORCH",
    "AMD_",
    "VK_",
    "LD_LIBRARY_PATH",
    "OMP_",
    "RAYON_",
    "LORAMILL_",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
];

/// Names and values in the order of the report. They still hold what `scrub` takes out, such as the user's name.
pub fn of(patient: &Patient<'_>) -> Vec<(String, String)> {
    let machine = patient.machine;
    let mut facts = Vec::new();
    let mut add = |name: &str, value: String| facts.push((name.to_string(), value));
    add("version", env!("CARGO_PKG_VERSION").to_string());
    let build = patient.build;
    let parts = [("networks", build.networks), ("libtorch", build.libtorch), ("rocm", build.rocm), ("vulkan", build.vulkan)];
    let parts: Vec<&str> = parts.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect();
    add("build", if parts.is_empty() { "nothing that computes".into() } else { parts.join(", ") });
    add("system", machine.system.distribution.clone().unwrap_or_else(|| "unknown".into()));
    add("kernel", machine.system.kernel.clone());
    add("processor", machine.processor.name.clone());
    add("memory", memory_size(machine.memory.total));
    for gpu in &machine.amd {
        let value = format!(
            "{} {}, {} compute units, {}, PCI {}",
            gpu.gfx,
            gpu.name,
            gpu.compute_units,
            memory_size(gpu.memory),
            gpu.address
        );
        add(&format!("kfd node {}", gpu.node), value);
    }
    for card in &machine.controllers {
        let driver = card.driver.as_deref().unwrap_or("none");
        add(
            &format!("pci {}", card.address),
            format!("{:04x}:{:04x} rev {:02x}, driver {driver}", card.vendor, card.device, card.revision),
        );
    }
    for rocm in &machine.rocm {
        add("rocm", format!("{} {}", rocm.folder.display(), rocm.version.as_deref().unwrap_or("")).trim_end().to_string());
    }
    for (name, value) in &machine.environment {
        if VARIABLES.iter().any(|start| name.starts_with(start)) {
            add(&format!("env {name}"), value.clone());
        }
    }
    facts
}
