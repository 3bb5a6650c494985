//! The processor and the memory beside it. Does not know what a training needs of them.

use std::collections::BTreeSet;

use crate::computer::machine::host::Host;

/// What is known of the processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processor {
    /// `AMD Ryzen 7 5800X 8-Core Processor`
    pub name: String,
    pub threads: usize,
    /// Threads of one core share its arithmetic.
    pub cores: usize,
    pub features: BTreeSet<String>,
}

/// Bytes of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What this process may have: of the computer or of its container, whichever is less.
    pub total: u64,
    pub available: u64,
    pub swap: u64,
}

impl Processor {
    /// From `/proc/cpuinfo`, name and features of the first processor in it. If it does not tell cores apart, each thread counts as one.
    pub fn read(host: &Host) -> Self {
        let text = host.text("/proc/cpuinfo").unwrap_or_default();
        let mut cores = BTreeSet::new();
        let (mut threads, mut socket) = (0, "0");
        let mut processor = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.trim(), value.trim())) {
            match key {
                "processor" => threads += 1,
                "physical id" => socket = value,
                "core id" => {
                    cores.insert((socket, value));
                }
                "model name" if processor.name.is_empty() => processor.name = value.to_string(),
                // `Features` is what ARM says.
                "flags" | "Features" if processor.features.is_empty() => {
                    processor.features = value.split_whitespace().map(str::to_string).collect();
                }
                _ => {}
            }
        }
        processor.threads = threads;
        processor.cores = if cores.is_empty() { threads } else { cores.len() };
        processor
    }

    fn has(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }

    /// The widest arithmetic: `AVX-512`, `AVX2`, `NEON`.
    pub fn vectors(&self) -> Option<&'static str> {
        if self.has("avx512f") {
            Some("AVX-512")
        } else if self.has("avx2") && self.has("fma") {
            Some("AVX2")
        } else if self.has("asimd") {
            Some("NEON")
        } else {
            None
        }
    }

    /// Whether it multiplies in half precision itself; without it fp16 is a way to store numbers.
    pub fn computes_fp16(&self) -> bool {
        self.has("avx512_fp16") || self.has("amx_fp16") || self.has("asimdhp")
    }

    /// Whether it multiplies in bf16 itself; without it bf16 is a way to store numbers.
    pub fn computes_bf16(&self) -> bool {
        self.has("avx512_bf16") || self.has("amx_bf16") || self.has("bf16")
    }
}

impl Memory {
    /// From `/proc/meminfo` and the container's limit (cgroup 2). What these do not say is 0.
    pub fn read(host: &Host) -> Self {
        let text = host.text("/proc/meminfo").unwrap_or_default();
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        // `max` where the container has no limit.
        let limit = host.number("/sys/fs/cgroup/memory.max").unwrap_or(u64::MAX);
        let total = field("MemTotal").min(limit);
        Self { total, available: field("MemAvailable").min(total), swap: field("SwapTotal") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(features: &str) -> Processor {
        Processor { features: features.split(' ').map(str::to_string).collect(), ..Processor::default() }
    }

    #[test]
    fn fp16_arithmetic_is_not_its_conversion() {
        let zen4 = with("avx2 fma f16c avx512f avx512_bf16");
        assert_eq!((zen4.vectors(), zen4.computes_fp16(), zen4.computes_bf16()), (Some("AVX-512"), false, true));
        let zen3 = with("avx avx2 fma f16c");
        assert_eq!((zen3.vectors(), zen3.computes_fp16(), zen3.computes_bf16()), (Some("AVX2"), false, false));
        let arm = with("fp asimd asimdhp bf16");
        assert_eq!((arm.vectors(), arm.computes_fp16(), arm.computes_bf16()), (Some("NEON"), true, true));
        assert_eq!(with("sse2").vectors(), None);
    }
}
