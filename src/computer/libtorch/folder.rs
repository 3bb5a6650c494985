//! What lies in a folder of libtorch: whether it is all there and as it was published. Unaware of servers.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::computer::libtorch::record::{self, Member};
use crate::computer::libtorch::sha256::Sha256;
use crate::computer::libtorch::wheel::{Release, Wheel};

/// Written last: a folder that has it is complete, or was.
pub const MANIFEST: &str = "loramill-libtorch.json";

/// What the manifest says. Of what is pinned the program believes its pins, not this.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Manifest {
    /// `cpu`, `cuda`, `rocm`
    pub flavour: String,
    /// The version of PyTorch.
    pub torch: String,
    pub wheels: Vec<Origin>,
}

/// Where a wheel came from.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Origin {
    pub file: String,
    pub from: String,
    /// Of the wheel's RECORD, which has that of each file.
    pub record_sha256: String,
    /// The program knew the hash beforehand.
    pub pinned: bool,
}

/// How closely a folder is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Names and sizes.
    Sizes,
    /// Every byte.
    Bytes,
}

/// What a folder is.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not there, or empty.
    Absent,
    Complete(Extent),
    /// It was made by this program and something is wrong with it: the first of what is.
    Damaged(String),
}

/// How much there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    pub files: usize,
    pub bytes: u64,
}

/// Below `DIR.partial`: whole wheels, until their members are taken out.
pub const WHEELS: &str = "wheels";

/// Where what is not complete yet is gathered: `DIR.partial`, beside the folder that it becomes.
pub fn partial_of(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    folder.with_file_name(name)
}

/// Whether a release is in a folder.
///
/// # Errors
/// The folder holds something else, or cannot be read.
pub fn standing(folder: &Path, release: &Release, depth: Depth) -> Result<Standing> {
    let manifest = match fs::read(folder.join(MANIFEST)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
                Ok(true) => Ok(Standing::Absent),
                Ok(false) => {
                    bail!("`{}` holds something else, which is left alone: name another folder with `--into`", folder.display())
                }
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(Standing::Absent),
                Err(error) => Err(error).with_context(|| format!("reading `{}`", folder.display())),
            };
        }
        Err(error) => return Err(error).with_context(|| format!("reading `{}`", folder.display())),
    };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest) else {
        return Ok(Standing::Damaged(format!("`{MANIFEST}` cannot be read")));
    };
    ensure!(
        manifest.flavour == release.flavour.word(),
        "`{}` holds the `{}` libraries: name another folder with `--into`",
        folder.display(),
        manifest.flavour
    );
    let mut extent = Extent::default();
    for wheel in &release.wheels {
        let origin = manifest.wheels.iter().find(|origin| origin.file == wheel.file);
        let known = wheel.pin.map(|pin| pin.record).or_else(|| Sha256::from_hex(&origin?.record_sha256));
        let members = match known.map(|known| members_of(folder, wheel, known)) {
            Some(Ok(members)) => members,
            Some(Err(error)) => return Ok(Standing::Damaged(format!("{error:#}"))),
            None => return Ok(Standing::Damaged(format!("it is not of `{}`", wheel.file))),
        };
        let wrong: Option<&Member> = members.par_iter().find_first(|member| !is_there(folder, member, depth));
        if let Some(member) = wrong {
            return Ok(Standing::Damaged(format!("`{}` is not as it was published", member.path)));
        }
        extent.files += members.len();
        extent.bytes += members.iter().map(|member| member.size).sum::<u64>();
    }
    for (path, text) in &release.written {
        if fs::read_to_string(folder.join(path)).ok().as_deref() != Some(*text) {
            return Ok(Standing::Damaged(format!("`{path}` is not as it was written")));
        }
        extent.files += 1;
    }
    Ok(Standing::Complete(extent))
}

/// What of a wheel a folder must have, by the RECORD that lies there.
fn members_of(folder: &Path, wheel: &Wheel, known: Sha256) -> Result<Vec<Member>> {
    let path = wheel.record_path();
    let file = fs::File::open(folder.join(&path)).with_context(|| format!("reading `{path}`"))?;
    let mut bytes = Vec::new();
    file.take(record::MAX_SIZE).read_to_end(&mut bytes).with_context(|| format!("reading `{path}`"))?;
    ensure!(Sha256::of(&bytes) == known, "`{path}` is not as it was published");
    wheel.wanted(record::parse(&String::from_utf8_lossy(&bytes))?)
}

/// Whether a member lies in a folder. What cannot be read is not there.
pub fn is_there(folder: &Path, member: &Member, depth: Depth) -> bool {
    let path = folder.join(&member.path);
    let has_size = fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && found.len() == member.size);
    has_size && (depth == Depth::Sizes || Sha256::of_file(&path).is_ok_and(|found| found == member.sha256))
}
