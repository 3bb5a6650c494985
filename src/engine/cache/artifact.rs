//! An artifact: contents in the store, with what is needed to find and to name them; and artifacts by the name of their field.
//! Unaware of what they mean.

use std::ops::{Deref, DerefMut, Index};

use litemap::LiteMap;
use smol_str::SmolStr;

use crate::cache::digest::Digest;

/// One file by its contents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Artifact {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// Without the dot: `png`. Part of the friendly name only.
    pub extension: SmolStr,
}

/// Artifacts by the names of their fields, in the order of the names. There are a few in each of very many items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(LiteMap<SmolStr, Artifact>);

impl Fields {
    /// Begins without any field.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Deref for Fields {
    type Target = LiteMap<SmolStr, Artifact>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Fields {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Index<&str> for Fields {
    type Output = Artifact;

    fn index(&self, name: &str) -> &Artifact {
        self.0.get(name).unwrap_or_else(|| panic!("there is no field `{name}`"))
    }
}

impl<N: Into<SmolStr>> Extend<(N, Artifact)> for Fields {
    fn extend<I: IntoIterator<Item = (N, Artifact)>>(&mut self, artifacts: I) {
        for (name, artifact) in artifacts {
            self.0.insert(name.into(), artifact);
        }
    }
}

impl<N: Into<SmolStr>> FromIterator<(N, Artifact)> for Fields {
    fn from_iter<I: IntoIterator<Item = (N, Artifact)>>(artifacts: I) -> Self {
        Self(artifacts.into_iter().map(|(name, artifact)| (name.into(), artifact)).collect())
    }
}

impl<N: Into<SmolStr>, const COUNT: usize> From<[(N, Artifact); COUNT]> for Fields {
    fn from(artifacts: [(N, Artifact); COUNT]) -> Self {
        artifacts.into_iter().collect()
    }
}

impl IntoIterator for Fields {
    type Item = (SmolStr, Artifact);
    type IntoIter = std::vec::IntoIter<(SmolStr, Artifact)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = (&'a SmolStr, &'a Artifact);
    type IntoIter = <&'a LiteMap<SmolStr, Artifact> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}
