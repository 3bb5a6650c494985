//! RECORD, the list in which a wheel names its own files, each with size and SHA-256. Unaware of which of them are wanted.
//!
//! The form is that of the PyPA's *Recording installed projects*: CSV rows `path,sha256=<urlsafe base64>,size`.

use anyhow::{Context as _, Result, ensure};

use crate::computer::libtorch::sha256::Sha256;

/// A RECORD has about 130 bytes for a file; that of torch 2.9.1, with its 11,612 files, has 1.2 MB.
pub const MAX_SIZE: u64 = 16 << 20;

/// A file of a wheel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Below the folder into which a wheel is unpacked, with `/`. Not checked yet: see `check_path`.
    pub path: String,
    pub sha256: Sha256,
    /// Unpacked, in bytes.
    pub size: u64,
}

/// The files of a RECORD that have a hash: all but the RECORD itself and its signatures.
///
/// # Errors
/// A row that is none: place and remedy are for the caller to say.
pub fn parse(text: &str) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for (number, row) in text.lines().enumerate().filter(|(_, row)| !row.is_empty()) {
        let of_row = || format!("row {} of RECORD, `{row}`, is not `path,sha256=…,size`", number + 1);
        let mut fields = row.rsplitn(3, ',');
        let (Some(size), Some(hash), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            anyhow::bail!(of_row());
        };
        if hash.is_empty() {
            continue;
        }
        let sha256 = hash.strip_prefix("sha256=").and_then(Sha256::from_record).with_context(of_row)?;
        let size = size.parse().ok().with_context(of_row)?;
        let path = match path.strip_prefix('"').and_then(|path| path.strip_suffix('"')) {
            Some(quoted) => quoted.replace("\"\"", "\""),
            None => path.to_string(),
        };
        members.push(Member { path, sha256, size });
    }
    Ok(members)
}

/// That a path leads below the folder into which the wheel is unpacked, and nowhere else.
///
/// # Errors
/// It does not, or may not.
pub fn check_path(path: &str) -> Result<()> {
    let is_plain = |name: &str| !name.is_empty() && name != "." && name != "..";
    let is_below = path.split('/').all(is_plain) && !path.contains(['\\', '\0']);
    ensure!(is_below, "the wheel names a file `{}`, which may lie outside of its folder", path.escape_default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: &str = "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";

    #[test]
    fn rows_with_a_hash_are_files() {
        let text = format!("torch/a.h,{NOTHING},0\r\n\"torch/b, \"\"c\"\".h\",{NOTHING},12\ntorch-2.9.1.dist-info/RECORD,,\n\n");
        let members = parse(&text).unwrap();
        let seen: Vec<_> = members.iter().map(|member| (member.path.as_str(), member.size)).collect();
        assert_eq!(seen, [("torch/a.h", 0), ("torch/b, \"c\".h", 12)]);
        assert_eq!(members[0].sha256, Sha256::of(b""));
    }

    #[test]
    fn a_row_that_is_none_is_named() {
        for row in ["torch/a.h", "torch/a.h,md5=x,0", "torch/a.h,sha256=x,0", &format!("torch/a.h,{NOTHING},-1")] {
            let error = parse(&format!("ok,{NOTHING},0\n{row}\n")).unwrap_err().to_string();
            assert!(error.contains("row 2") && error.contains(row), "{error}");
        }
    }

    #[test]
    fn paths_stay_below_their_folder() {
        for path in ["torch/lib/libc10.so", "torch.libs/a-1.so", "torch/..a"] {
            check_path(path).unwrap();
        }
        for path in ["", "/etc/passwd", "../a", "torch/../../a", "torch/./a", "torch//a", "torch/", "torch\\..\\a", "torch/\0"] {
            check_path(path).unwrap_err();
        }
    }
}
