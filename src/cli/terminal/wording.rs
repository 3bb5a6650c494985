//! How paths and counts are written in sentences.

use std::path::Path;

/// A path as the user would write it: without the `./` of a pipeline that lies here.
pub fn shown(path: &Path) -> std::path::Display<'_> {
    path.strip_prefix(".").unwrap_or(path).display()
}

/// `1 photo`, `24 photos`.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
