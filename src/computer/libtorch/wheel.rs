//! A wheel, and which of its members are taken. Unaware of where it is fetched from, and of its bytes.

use anyhow::{Context as _, Result, ensure};
use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::computer::libtorch::record::{Member, check_path};
use crate::computer::libtorch::sha256::Sha256;

/// For which processor libtorch computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Cpu,
    Cuda,
    Rocm,
}

impl Flavour {
    /// As the command line, the manifest of the folder and the JSON have it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
        }
    }
}

/// The wheels that together are libtorch.
#[derive(Clone, Debug)]
pub struct Release {
    pub flavour: Flavour,
    pub wheels: Vec<Wheel>,
    /// Files that are in no wheel: path below the folder, text.
    pub written: Vec<(&'static str, &'static str)>,
    /// The package index that has the wheels.
    pub index: &'static str,
}

/// A wheel and what is taken of it.
#[derive(Clone, Debug)]
pub struct Wheel {
    /// Its page in an index.
    pub project: String,
    /// `torch-2.9.1-cp311-….whl`
    pub file: String,
    /// What it must be; `None` where nobody knew it beforehand, and the index is believed if the user says so.
    pub pin: Option<Pin>,
    pub takes: Takes,
}

/// What is known of a wheel beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Pin {
    /// Of the whole file.
    pub sha256: Sha256,
    /// Of the whole file, in bytes.
    pub size: u64,
    /// Of its member RECORD, unpacked.
    pub record: Sha256,
}

/// Which members of a wheel are taken.
#[derive(Clone, Debug)]
pub struct Takes {
    /// Each of them matches something, or the wheel is not what it is taken for.
    taken: Vec<Glob>,
    left: GlobSet,
}

impl Takes {
    /// `*` stops at `/`, `**` does not.
    ///
    /// # Errors
    /// A pattern is none.
    pub fn new(taken: &[&str], left: &[&str]) -> Result<Self> {
        let glob = |pattern: &&str| GlobBuilder::new(pattern).literal_separator(true).build();
        let taken = taken.iter().map(glob).collect::<Result<_, _>>()?;
        let mut set = GlobSetBuilder::new();
        for pattern in left {
            set.add(glob(pattern)?);
        }
        Ok(Self { taken, left: set.build()? })
    }
}

impl Wheel {
    /// `torch-2.9.1.dist-info`, the folder in which a wheel describes itself.
    pub fn description(&self) -> String {
        let mut parts = self.file.split('-');
        let (name, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        format!("{name}-{version}.dist-info")
    }

    /// Where the wheel, and a folder that it is unpacked to, has its RECORD.
    pub fn record_path(&self) -> String {
        format!("{}/RECORD", self.description())
    }

    /// Those members that are taken, in the order of the RECORD.
    ///
    /// # Errors
    /// Something is missing that belongs to libtorch, two members are one file, or one leads out of the folder.
    pub fn wanted(&self, record: Vec<Member>) -> Result<Vec<Member>> {
        let mut sets = Vec::with_capacity(self.takes.taken.len());
        for glob in &self.takes.taken {
            let matcher = glob.compile_matcher();
            let some = record.iter().any(|member| matcher.is_match(&member.path));
            ensure!(some, "`{}` has no `{}`: it is not the wheel that this program knows", self.file, glob.glob());
            sets.push(matcher);
        }
        let is_wanted = |path: &str| sets.iter().any(|set| set.is_match(path)) && !self.takes.left.is_match(path);
        let wanted: Vec<Member> = record.into_iter().filter(|member| is_wanted(&member.path)).collect();
        let mut paths: Vec<&str> = wanted.iter().map(|member| member.path.as_str()).collect();
        paths.sort_unstable();
        for pair in paths.windows(2) {
            ensure!(pair[0] != pair[1], "`{}` names `{}` twice", self.file, pair[0]);
        }
        for path in paths {
            check_path(path).with_context(|| format!("in `{}`", self.file))?;
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(path: &str) -> Member {
        Member { path: path.to_string(), sha256: Sha256::of(b""), size: 0 }
    }

    fn wanted(takes: &[&str], left: &[&str], paths: &[&str]) -> Result<Vec<String>> {
        let (project, file) = ("torch".to_string(), "torch-2.9.1+rocm6.4-cp313-linux.whl".to_string());
        let wheel = Wheel { project, file, pin: None, takes: Takes::new(takes, left)? };
        assert_eq!(wheel.record_path(), "torch-2.9.1+rocm6.4.dist-info/RECORD");
        Ok(wheel.wanted(paths.iter().map(|path| member(path)).collect())?.into_iter().map(|member| member.path).collect())
    }

    #[test]
    fn what_is_taken_and_not_left_is_wanted() {
        let paths =
            ["torch/__init__.py", "torch/lib/libc10.so", "torch/lib/deep/a.so", "torch/lib/libshm.so", "torch/include/a/b.h"];
        let found = wanted(&["torch/include/**", "torch/lib/*.so"], &["torch/lib/libshm.so"], &paths).unwrap();
        assert_eq!(found, ["torch/lib/libc10.so", "torch/include/a/b.h"]);
    }

    #[test]
    fn a_wheel_without_a_library_is_refused() {
        let error = wanted(&["a/**", "torch/lib/libc10.so"], &[], &["a/b"]).unwrap_err().to_string();
        assert!(error.contains("`torch/lib/libc10.so`"), "{error}");
    }

    #[test]
    fn a_wheel_that_reaches_out_of_its_folder_or_names_a_file_twice_is_refused() {
        for (paths, told) in [(["torch/a", "torch/../../b"], "torch/../../b"), (["torch/a", "torch/a"], "twice")] {
            let error = format!("{:#}", wanted(&["torch/**"], &[], &paths).unwrap_err());
            assert!(error.contains(told), "{error}");
        }
    }
}
