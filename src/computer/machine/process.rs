//! How much memory a process needs. Knows nothing of what for.

use std::fs;

/// The most bytes of main memory that the process has held at once, as the kernel counts them (`VmHWM`); `None` where it does not say.
pub fn peak_memory() -> Option<u64> {
    field("self", "VmHWM:")
}

/// The same of another process.
pub fn peak_memory_of(process: u32) -> Option<u64> {
    field(&process.to_string(), "VmHWM:")
}

/// The bytes of main memory that it holds now (`VmRSS`); `None` where the kernel does not say.
pub fn memory() -> Option<u64> {
    field("self", "VmRSS:")
}

fn field(process: &str, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_grows_with_what_is_held_and_stays() {
        let before = peak_memory().unwrap();
        let held = vec![1u8; before as usize + (1 << 20)];
        assert!(peak_memory().unwrap() > before, "{}", held.len());
        assert!(memory().unwrap() > before, "{}", held.len());
        drop(held);
        assert!(peak_memory().unwrap() > before);
        assert_eq!(peak_memory_of(std::process::id()), peak_memory());
        assert_eq!(peak_memory_of(u32::MAX), None);
    }
}
