//! How much memory this process has needed. Knows nothing of what for.

use std::fs;

/// The most bytes of main memory that the process has held at once, as the kernel counts them (`VmHWM`); `None` where it does not say.
pub fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_grows_with_what_is_held() {
        let before = peak().unwrap();
        let held = vec![1u8; before as usize + (1 << 20)];
        assert!(peak().unwrap() > before, "{}", held.len());
    }
}
