//! Which names may become part of a path: those in a pipeline file are checked when it is read, and those that come from a lock,
//! a list in the cache or a record pass the same check before anything is written under them. Unaware of what is named.

/// Whether a stage or an input may be called so: a letter, a digit or `_`, then these and `-`.
pub(crate) fn is_name(name: &str) -> bool {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '-';
    name.starts_with(|first: char| first.is_alphanumeric() || first == '_') && name.chars().all(is_part)
}

/// Whether a lock may name a stage so: as in a pipeline file, with the values of its variant (`train[rank=8]`) or the stage that
/// it belongs to (`train/latents`).
pub(crate) fn is_stage_of_a_lock(name: &str) -> bool {
    let base = name.split(['[', '/']).next().unwrap_or_default();
    is_name(base) && is_plain_path(name)
}

/// Whether a path stays below the folder that it is put into: it is relative, and no part of it is empty or made of dots alone.
pub(crate) fn is_plain_path(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_none() {
        for name in ["train", "train[rank=8]", "train/latents", "_x", "caption-anime", "train[network.rank=4, seed=1]", "été"] {
            assert!(is_stage_of_a_lock(name), "{name}");
        }
        let wrong = [
            "",
            ".",
            "..",
            "/tmp/x",
            "../x",
            "../../x",
            "x/../../y",
            "x/..",
            "x//y",
            "x/",
            ".x",
            "-x",
            "x y",
            "x[a=../../b]",
            "x[a=/b]/.",
        ];
        for name in wrong {
            assert!(!is_stage_of_a_lock(name), "{name}");
        }
    }
}
