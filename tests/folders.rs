//! What lies below a folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use walkdir::WalkDir;

/// Files by their path below a folder.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Every file below a folder; none if it is not there.
pub fn files_below(folder: &Path) -> Files {
    let files = WalkDir::new(folder).into_iter().filter_map(Result::ok).filter(|entry| entry.file_type().is_file());
    let named = files.map(|entry| {
        let path = entry.path().strip_prefix(folder).expect("below it").to_str().expect("UTF-8").to_string();
        (path, fs::read(entry.path()).expect("readable"))
    });
    named.collect()
}
