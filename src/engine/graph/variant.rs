//! One variant of a stage: a value for each axis, and how it is called. Unaware of which variants there are. None of it is in a
//! key.

use crate::cache::digest::Digest;
use crate::graph::matrix::Axis;
use crate::kind::reference::Pick;

/// Bytes of the name of a variant's folder, of the 255 that file systems take.
const FOLDER_NAME: usize = 120;

/// One variant of a stage: a value for each axis. Empty for a stage that has no axes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variant(pub(crate) Vec<Coordinate>);

/// A value of an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Coordinate {
    /// Stage and path: `train.network.rank`.
    pub(crate) full_name: String,
    /// The shortest tail that no other axis has: `rank`.
    pub(crate) name: String,
    /// Index into the values of the axis.
    pub(crate) index: usize,
    /// In its one spelling.
    pub(crate) value: String,
}

impl Variant {
    /// `rank=8,schedule=cosine`; empty without axes.
    pub fn label(&self) -> String {
        self.0.iter().map(|c| format!("{}={}", c.name, c.value)).collect::<Vec<_>>().join(",")
    }

    /// The name of the stage in this variant.
    pub fn name_of(&self, stage: &str) -> String {
        if self.0.is_empty() { stage.to_string() } else { format!("{stage}[{}]", self.label()) }
    }

    /// The label as the name of one folder.
    pub fn folder(&self) -> String {
        folder_name(&self.label())
    }

    /// Where the outputs of the stage lie below `out/`: `train/rank=8`.
    pub fn folder_of(&self, stage: &str) -> String {
        if self.0.is_empty() { stage.to_string() } else { format!("{stage}/{}", self.folder()) }
    }

    /// Whether the variant is among those that a person picks.
    pub fn is_among(&self, picks: &[Pick]) -> bool {
        picks.iter().all(|pick| match pick {
            Pick::Every => true,
            Pick::EveryValue { axis } => self.0.iter().any(|c| is_called(&c.full_name, axis)),
            Pick::Value { axis, value } => self.0.iter().any(|c| is_called(&c.full_name, axis) && c.value == *value),
        })
    }

    /// The index of the value of an axis of `stage`'s own matrix.
    pub fn index_of(&self, axis: &Axis) -> Option<usize> {
        self.0.iter().find(|c| c.full_name == axis.full_name).map(|c| c.index)
    }
}

/// Where the outputs of a stage or variant of that name lie below `out/`: `train[rank=8]` in `train/rank=8`. For names in a lock,
/// whose pipeline may be another by now; `None` if it can be the name of no variant.
pub fn folder_of_name(name: &str) -> Option<String> {
    let Some((stage, label)) = name.split_once('[') else { return Some(name.to_string()) };
    let label = label.strip_suffix(']').filter(|label| label.contains('='))?;
    Some(format!("{stage}/{}", folder_name(label)))
}

/// Whether `name` is the full name of an axis or a tail of it: `rank` of `train.network.rank`.
pub(crate) fn is_called(full_name: &str, name: &str) -> bool {
    full_name.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// A label as the name of one folder or file: nothing that a path or an item's name gives a meaning to, and not too long.
fn folder_name(label: &str) -> String {
    let mut name = String::with_capacity(label.len());
    for letter in label.chars() {
        if letter.is_control() || matches!(letter, '/' | '\\' | '"' | '%' | ':' | '*' | '?' | '<' | '>' | '|') {
            let mut bytes = [0; 4];
            name.extend(letter.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02x}")));
        } else {
            name.push(letter);
        }
    }
    if name.len() <= FOLDER_NAME {
        return name;
    }
    let cut = (0..FOLDER_NAME - 16).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
    format!("{}\u{2026}{}", &name[..cut], Digest::of(label.as_bytes()).short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::reference::parse_variant_name;

    fn variant(values: &[(&str, &str, &str)]) -> Variant {
        let coordinate = |(full_name, name, value): &(&str, &str, &str)| Coordinate {
            full_name: full_name.to_string(),
            name: name.to_string(),
            index: 0,
            value: value.to_string(),
        };
        Variant(values.iter().map(coordinate).collect())
    }

    #[test]
    fn the_folder_of_a_name_is_the_folder_of_its_variant() {
        for values in [&[][..], &[("train.rank", "rank", "8")], &[("a.b", "b", "../x: y"), ("c.d", "d", "[1, 2]")]] {
            let variant = variant(values);
            assert_eq!(folder_of_name(&variant.name_of("train")), Some(variant.folder_of("train")));
        }
        for name in ["train[", "train[]", "train[..]", "train[rank=8", "train[rank=8]x"] {
            assert_eq!(folder_of_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_variant_is_picked_by_any_tail_of_its_axes() {
        let variant = variant(&[("train.network.rank", "rank", "8"), ("train.seed", "seed", "1")]);
        assert_eq!(variant.name_of("sample"), "sample[rank=8,seed=1]");
        for (picked, is_among) in [
            ("t[rank=8]", true),
            ("t[network.rank=8.0, seed=1]", true),
            ("t[train.network.rank=8]", true),
            ("t[*]", true),
            ("t[seed=*]", true),
            ("t", true),
            ("t[rank=4]", false),
            ("t[ank=8]", false),
            ("t[rank=8, size=1]", false),
            ("t[size=*]", false),
        ] {
            let (_, picks, _) = parse_variant_name(picked).expect("sound");
            assert_eq!(variant.is_among(&picks), is_among, "{picked}");
        }
    }

    #[test]
    fn folders_are_names_that_any_file_system_takes() {
        let of = |value: &str| variant(&[("train.base", "base", value)]).folder_of("train");
        assert_eq!(of("sd15"), "train/base=sd15");
        assert_eq!(of("\"a/b: c\""), "train/base=%22a%2fb%3a c%22");
        let (one, other) = (of(&format!("{}\u{e4}1", "\u{e4}".repeat(200))), of(&format!("{}\u{e4}2", "\u{e4}".repeat(200))));
        assert!(one != other && one.len() <= "train/".len() + FOLDER_NAME, "{one}");
        assert_eq!(Variant::default().folder_of("train"), "train");
    }
}
